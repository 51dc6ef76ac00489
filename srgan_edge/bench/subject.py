"""The stopwatch: latency, throughput and end-to-end speed of one upscaler, in this process.

It knows neither processes nor tables: `worker` runs it in a process of its own, `measure` takes
turns between several of them.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from srgan_edge import bicubic
from srgan_edge.errors import ResourcesExhausted
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import TerminalReporter
from srgan_edge.pixels import Pixels
from srgan_edge.run import Opened, do_job, open_upscaler
from srgan_edge.video.reader import VideoReader

DEMO_CLIP = Path(__file__).parent.parent / "demo" / "clip.mp4"

FRAMES = 16
"""Different frames that are upscaled in turn: more than any engine works on at once."""

CLIP_FRAMES = (6, 150)
"""Fewest and most frames of the clip for the end-to-end speed."""

CLIP_FPS = 25


def demo_frames(width: int, height: int) -> list[Pixels]:
    """Return frames of the bundled clip, each resized to uint8 [height, width, 3]."""
    frames: list[Pixels] = []
    with VideoReader(DEMO_CLIP) as reader:
        for item in reader:
            pixels = getattr(item, "pixels", None)
            if pixels is None:
                continue
            if pixels.shape[:2] != (height, width):
                pixels = bicubic.resize(pixels, height, width)
            frames.append(np.ascontiguousarray(pixels))
            if len(frames) == FRAMES:
                return frames
    return frames


@contextmanager
def opened_as_asked(options: Options, slots: int) -> Iterator[Opened]:
    """Open a model, and fail where another engine or smaller tiles would take over.

    What its licence forbids is said by the command, once.

    Raises:
        ResourcesExhausted: what was asked for does not run.
        SrganEdgeError: no such model or engine.
    """

    def refuse(line: str) -> None:
        raise ResourcesExhausted(line)

    with open_upscaler(options, refuse, slots, on_licence=lambda line: None) as opened:
        yield opened


@dataclass(frozen=True)
class Subject:
    """A pair of upscalers to measure: one that gets single frames, and one that gets many."""

    one: Callable[[Pixels], Pixels]
    """Upscales a frame while no other one is in work."""
    many: Callable[[Pixels], Pixels]
    """Upscales a frame; called in `slots` threads at once."""
    slots: int
    frames: Sequence[Pixels]

    def latency(self, seconds: float) -> list[float]:
        """Upscale one frame after the other for about `seconds`; return the time of each."""
        times: list[float] = []
        for frame in itertools.cycle(self.frames):
            started = time.perf_counter()
            self.one(frame)
            times.append(time.perf_counter() - started)
            if sum(times) + times[-1] / 2 > seconds:
                break
        return times

    def throughput(self, seconds: float, expected_fps: float) -> tuple[float, float]:
        """Upscale frames in all slots for about `seconds`.

        The number of frames is fixed in advance and a multiple of the slots, so that no slot idles
        while another one finishes.

        Returns:
            Frames per second, and the CPU time of this process for one frame in seconds.
        """
        turns = max(1, round(seconds * expected_fps / self.slots))
        coming = itertools.islice(itertools.cycle(self.frames), turns * self.slots)
        with ThreadPoolExecutor(self.slots) as executor:
            started, cpu_started = time.perf_counter(), time.process_time()
            done = sum(1 for _ in executor.map(self.many, coming))
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        return done / seconds, cpu_seconds / done


class EndToEnd:
    """Upscales a clip from its file to the finished file with an engine that is already open."""

    def __init__(self, opened: Opened, options: Options, folder: Path) -> None:
        self._opened, self._options, self._folder = opened, options, folder

    def prepare(self, frames: Sequence[Pixels], number: int) -> int:
        """Write a clip of about `number` frames; return how many it has."""
        fewest, most = CLIP_FRAMES
        number = max(fewest, min(number, most))
        write_clip(self._folder / "in.mp4", itertools.islice(itertools.cycle(frames), number))
        return number

    def run(self) -> float:
        """Upscale the clip; return frames per second, from opening it to its final name.

        Raises:
            SrganEdgeError: the clip cannot be upscaled.
        """
        job = Job(self._folder / "in.mp4", self._folder / "out.mp4", "video")
        with ImageProcess(self._options.max_pixels) as images:
            outcome = do_job(
                job,
                self._opened,
                images,
                replace(self._options, restart=True, existing="replace"),
                TerminalReporter(quiet=True),
                exits_on_signal=False,
            )
        if outcome.error is not None:
            raise outcome.error
        return outcome.frames_per_second


def write_clip(path: Path, frames: Iterable[Pixels]) -> None:
    """Encode frames, uint8 [H, W, 3], as H.264 without audio."""
    import av

    with av.open(str(path), "w") as container:
        stream = None
        for number, pixels in enumerate(frames):
            height, width = (side // 2 * 2 for side in pixels.shape[:2])
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(pixels[:height, :width]), format="rgb24"
            )
            if stream is None:
                stream = container.add_stream("libx264", rate=CLIP_FPS)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.options = {"crf": "12", "preset": "ultrafast"}
            frame.pts, frame.time_base = number, Fraction(1, CLIP_FPS)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
