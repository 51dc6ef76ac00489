"""`srgan-edge plan`: how long a video or images would take here, measured on parts of them.

Frames from three places of a video go through the steps of `upscale`, each model in turn: upscaling
in all slots while the encoder works, then decoding the result once more. Where a whole frame takes
too long, a part of it is upscaled, and its time is multiplied by the pixels that are computed. What
steadying takes is then measured on parts of two frames of each place.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, chain, pairwise
from math import ceil, sqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from srgan_edge.engines import video_slots
from srgan_edge.errors import InputRefused, SrganEdgeError
from srgan_edge.files import scratch_folder
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import write_image
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.size import Source
from srgan_edge.model.spec import activation_bytes_per_px
from srgan_edge.pipeline import upscale_video, upscaled_frame
from srgan_edge.pixels import Pixels
from srgan_edge.run import open_upscaler
from srgan_edge.steady import PX_BYTES, Link, Steadier, next_steadied
from srgan_edge.transcode.segments import SEGMENT_FRAMES, segment_frames
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.frame import Frame, VideoInfo
from srgan_edge.video.trial import TrialEncoding

SAMPLES = 3
"""Places of a video that frames are taken from, as by `--sample`."""

SAMPLE_FRAMES = SEGMENT_FRAMES
"""Frames from each place: those of a segment, as sizes depend on where in a segment a frame is."""

UPSCALED_FRAMES = 10
"""Frames from each place that are upscaled at most."""

FRAMES_BYTES = 256 << 20
"""Most memory for the frames of all samples."""

FEWEST_FRAMES = 6
"""Whole frames that are upscaled at least; where they would take too long, parts are."""

FRAMES_FOR_ONE = 2
"""Frames that are upscaled where one is measured: the first warms up."""

CODED_FRAMES = 10
"""Frames of one place that are resized and encoded where fewer or no whole ones are upscaled."""

LEAST_CPU_SECONDS = 1.0
"""CPU time that is spent on each model, however busy the machine is."""

PROBE_PX = 48
"""Side of the part by which is predicted how long a whole frame takes."""

STEADIED_PX = 320 * 180
"""Most pixels of a part that is steadied."""

Counts: TypeAlias = tuple[int, ...]
"""Number of frames from each place."""

START_SECONDS = 0.6
"""Time to load Python and the libraries, as docs/speed.md has it."""


@dataclass(frozen=True)
class Samples:
    """Frames from a video, with what it took to decode them."""

    path: Path
    info: VideoInfo
    parts: list[list[Frame]]
    """Consecutive frames from each place."""
    decode_seconds: float
    """Time to decode one frame while nothing else happens."""
    open_seconds: float
    unknown: tuple[str, ...] = ()
    """One line for each thing that cannot be known about the video."""

    @property
    def frames(self) -> int | None:
        """Number of frames of the whole video; None if it does not state its length."""
        return self.info.frames_expected


@dataclass
class Forecast:
    """Time, memory and size of the result of one model for the whole input."""

    model: str
    size: tuple[int, int] | None = None
    """Width and height of a result in pixels."""
    arithmetic: str = ""
    device: str = "cpu"
    unit_seconds: float | None = None
    """Time for one frame of a video, or for one megapixel of images, in seconds."""
    cpu_seconds: float | None = None
    """CPU time for the same in all threads and processes."""
    cores: float = 0.0
    """CPU time that this process got in a second of measuring."""
    start_seconds: float = 0.0
    """Time before the first frame."""
    memory_bytes: int | None = None
    result_bytes: float | None = None
    """Size of the result of the whole input; None if that cannot be known."""
    seconds: float | None = None
    """Time for the whole input; None if that cannot be known."""
    measured: str = ""
    """Description of the frames or parts that were upscaled for it."""
    failed: str = ""
    """Why the model cannot be used; empty if it can."""
    wall: float = field(default=0.0, repr=False)
    cpu: float = field(default=0.0, repr=False)
    """Time and CPU time of the measurement in seconds."""

    @property
    def fps(self) -> float | None:
        """Frames, or megapixels, a second from the file to the finished file."""
        return None if not self.unit_seconds else 1 / self.unit_seconds


def samples_of(path: Path, options: Options) -> Samples:
    """Decode frames from three places of a video, or from its start if its length is not known.

    Raises:
        InputRefused, InputDamaged: as `IsolatedReader`.
    """
    started = time.perf_counter()
    with IsolatedReader(path, **options.reading) as reader:
        info = reader.info
    unknown = []
    if info.frames_expected is None:
        unknown.append(f"{path.name} does not state its length: time and size for all of it")
    elif info.frames_stated is None:
        unknown.append(f"{path.name} does not count its frames: about {info.frames_expected}")
    frame_bytes = 3 * info.width * info.height
    count = max(2, min(SAMPLE_FRAMES, FRAMES_BYTES // frame_bytes // SAMPLES))
    seconds = count / float(info.average_rate or 25)
    is_long = (info.duration_seconds or 0.0) > SAMPLES * seconds
    with _opened(path, options, seconds, spread=is_long) as reader:
        open_seconds = (time.perf_counter() - started) / 2
        parts, decode_seconds = _decoded(reader, seconds, count)
    if reader.notes.damage:
        unknown.append(f"{path.name} is damaged ({reader.notes.damage}): what of it can be saved")
    return Samples(path, info, parts, decode_seconds, open_seconds, tuple(unknown))


def _opened(path: Path, options: Options, seconds: float, *, spread: bool) -> IsolatedReader:
    """Open samples of a length, spread over the video or, as where it was cut off, at its start."""
    reading: dict[str, Any] = {**options.reading}
    if spread:
        with suppress(InputRefused):
            return IsolatedReader(path, excerpt=Excerpt(0.0, seconds, SAMPLES), **reading)
    return IsolatedReader(path, excerpt=Excerpt(0.0, SAMPLES * seconds), **reading)


def _decoded(reader: IsolatedReader, seconds: float, count: int) -> tuple[list[list[Frame]], float]:
    """Return the frames of each place, and the time that decoding one took."""
    parts: list[list[Frame]] = []
    times: list[float] = []
    before = time.perf_counter()
    tick = float(reader.info.time_base)
    last = -1
    with suppress(SrganEdgeError):  # what was decoded before is enough, if there is any
        for frame in reader:
            place = int(frame.pts * tick / seconds + 1e-6)
            now = time.perf_counter()
            if place != last or len(parts[-1]) >= count:
                parts.append([])
                last = place
            else:
                times.append(now - before)
            deep = None if frame.deep is None else frame.deep.copy()
            parts[-1].append(replace(frame, pixels=frame.pixels.copy(), deep=deep))
            before = time.perf_counter()
    return parts, statistics.median(times) if times else 0.0


def forecast_video(
    samples: Samples,
    models: Sequence[str],
    options: Options,
    seconds: float,
    tell: Callable[[str, float], None] = lambda doing, share: None,
) -> list[Forecast]:
    """Measure every model on the frames of a video, each for its share of the time.

    A model that fails is a forecast that says why.
    """
    found: list[Forecast] = []
    encodings = _Encodings(samples, options)
    began = time.perf_counter()
    for number, model in enumerate(models):
        tell(f"measuring {model}", number / len(models))
        left = max(0.2, seconds - (time.perf_counter() - began)) / (len(models) - number)
        try:
            found.append(_VideoMeasurement(encodings, model, options, left).forecast())
        except SrganEdgeError as error:
            found.append(Forecast(model, failed=str(error)))
    _set_times(found, samples.frames, samples.decode_seconds)
    return found


def _set_times(found: Sequence[Forecast], units: float | None, decode_seconds: float = 0.0) -> None:
    """Set the time for one unit and for all, from CPU time and the share of the cores that we got.

    That share is taken over all models on CPUs together: it is that of the machine, and each of
    them runs for so short that its own would be chance.

    Args:
        decode_seconds: time for a frame of the decoder, whose CPU time only its process knows.
    """
    all_cores = len(os.sched_getaffinity(0))
    wall = sum(one.wall for one in found if one.device == "cpu")
    cpu = sum(one.cpu for one in found if one.device == "cpu")
    for one in found:
        if one.failed or not one.cpu:
            continue
        wall_for_cpu = wall / cpu if one.device == "cpu" else one.wall / one.cpu
        one.cores = 1 / wall_for_cpu
        share = min(1.0, one.cores / all_cores) if one.device == "cpu" else 1.0
        one.cpu_seconds = (one.cpu_seconds or 0.0) + share * decode_seconds
        one.unit_seconds = one.cpu_seconds * wall_for_cpu
        one.seconds = None if units is None else one.start_seconds + units * one.unit_seconds


class _VideoMeasurement:
    """One model on the frames of one video."""

    def __init__(
        self, encodings: "_Encodings", model: str, options: Options, seconds: float
    ) -> None:
        self._encodings, self._samples = encodings, encodings.samples
        self._options = replace(options, model=model)
        self._ends = time.perf_counter() + seconds
        self._model = model

    def forecast(self) -> Forecast:
        info, started = self._samples.info, time.perf_counter()
        _reset_peak()
        with open_upscaler(self._options, lambda line: None, video_slots()) as opened:
            upscaler, self._steady = opened.upscaler, opened.steady
            self.size = self._options.video_size(info, upscaler.scale)
            found = Forecast(self._model, self.size, upscaler.info.arithmetic)
            found.device = upscaler.info.device
            sharp_bytes = resized_bytes = 0.0
            for samples in self._samples.parts:
                probe = part_of(samples[0].pixels, PROBE_PX**2)
                result = upscaler.upscale(probe)
                resized = _resized(probe, (result.shape[1], result.shape[0]))
                sharp_bytes += self._coded_alone(probe, result)
                resized_bytes += self._coded_alone(probe, resized)
            self._sharper = sharp_bytes / resized_bytes
            wall, cpu = _throughput(upscaler, [probe] * upscaler.slots)
            probe_px = probe.shape[0] * probe.shape[1]
            plan, _ = upscaler.plan(info.width, info.height)
            computed_px = info.width * info.height * plan.overhead
            left = self._ends - time.perf_counter()
            # On a busy machine the time is soon over; a little is measured nevertheless.
            fitting_px = probe_px * max(left / wall, LEAST_CPU_SECONDS / cpu)
            frames = int(fitting_px / computed_px) - upscaler.slots  # these warm up
            if frames >= FEWEST_FRAMES:
                self._measure_frames(found, upscaler, frames)
            else:
                self._measure_part(found, upscaler, computed_px, fitting_px)
            # Opening the engine and its first frame, and the processes that decode and join.
            found.start_seconds = START_SECONDS + 2 * self._samples.open_seconds
            found.start_seconds += min(2.0, self._opened - started)
        return found

    def _measure_frames(self, found: Forecast, upscaler: FrameUpscaler, most: int) -> None:
        """Upscale and encode whole frames, and decode the result."""
        samples, info = self._samples, self._samples.info
        _warm_up(upscaler, samples.parts[0][0].pixels, upscaler.slots)
        self._opened = time.perf_counter()
        each = min(UPSCALED_FRAMES, max(2, most // len(samples.parts)))
        chosen = [part[:each] for part in samples.parts]
        frames = [frame for part in chosen for frame in part]
        encoder = VideoEncoder(info, self.size, self._options.encoding)
        with TrialEncoding(encoder, _starts(chosen)) as sink:
            found.wall, found.cpu = _timed(partial(self._upscale, upscaler, frames, sink))
            check_cpu = sink.decode()
            cpu = found.cpu - sink.start_cpu_seconds
        found.cpu_seconds = cpu / len(frames) + check_cpu
        found.memory_bytes = _peak_bytes() - _bytes_of(samples)
        found.measured = f"{len(frames)} frames"
        length = segment_frames(upscaler.info, info.width, info.height)
        other_bytes = sink.other_bytes * self._encodings.growth_of_middle(self.size, each)
        counts = tuple(min(CODED_FRAMES, len(part)) for part in samples.parts)
        found.result_bytes = self._result_bytes(counts, length, sink.key_bytes, other_bytes)

    def _measure_part(
        self, found: Forecast, upscaler: FrameUpscaler, computed_px: float, fitting_px: float
    ) -> None:
        """Upscale one whole frame, or where that takes too long a part of it in all slots.

        Note: a part that stays in the caches takes less time for each pixel, 0.8 of it for 224x130.
        """
        slots, info = upscaler.slots, self._samples.info
        part, calls = self._samples.parts[0][0].pixels, 1
        if fitting_px < FRAMES_FOR_ONE * computed_px:
            part, calls = part_of(part, max(PROBE_PX**2, fitting_px / (2 * slots))), slots
        _warm_up(upscaler, part, calls)
        self._opened = time.perf_counter()
        wall, cpu = _throughput(upscaler, [part] * calls)
        found.wall, found.cpu = wall * calls, cpu * calls
        part_px = part.shape[0] * part.shape[1]
        length = segment_frames(upscaler.info, info.width, info.height)
        counts = self._encodings.counts_of_middle()
        resized = self._encodings.costs(self.size, counts)
        found.cpu_seconds = cpu / part_px * computed_px
        found.cpu_seconds += resized.cpu_seconds + self._steadying_cpu_seconds(upscaler.scale)
        found.result_bytes = self._result_bytes(
            counts, length, resized.key_bytes * self._sharper, resized.other_bytes * self._sharper
        )
        width, height = upscaler.plan(info.width, info.height)[0].window_size
        more_px = max(0, width * height - part_px)
        more_bytes = slots * more_px * activation_bytes_per_px(upscaler.info.spec)
        if self._steady:
            more_bytes += PX_BYTES * info.width * info.height * upscaler.scale**2
        found.memory_bytes = _peak_bytes() - _bytes_of(self._samples) + more_bytes
        parts = f"{calls} parts of {part.shape[1]}x{part.shape[0]}"
        found.measured = parts if calls > 1 else "1 frame"

    def _upscale(
        self, upscaler: FrameUpscaler, frames: Sequence[Frame], sink: TrialEncoding
    ) -> None:
        """Upscale and encode frames as `upscale` does."""
        coded, slots = sink.encoder.coded, upscaler.slots
        if not self._steady:
            upscale_video(
                iter(frames),
                lambda frame: coded(upscaled_frame(frame, upscaler.upscale)),
                sink,
                slots=slots,
            )
            return
        steadier = Steadier[Frame](self._steady)

        def steadied(link: Link[Frame], pixels: Pixels) -> Pixels:
            return steadier.steadied(link, pixels, lambda: upscaler.upscale(pixels))

        upscale_video(
            iter(frames),
            lambda link: coded(upscaled_frame(link.item, partial(steadied, link))),
            sink,
            slots=slots,
            taken=steadier.link,
        )

    def _steadying_cpu_seconds(self, scale: int) -> float:
        """Return the CPU time to steady a frame by the one before it, measured on parts."""
        if not self._steady:
            return 0.0
        cpu, px = 0.0, 0
        for before, now in chain.from_iterable(pairwise(it[:2]) for it in self._samples.parts):
            sources = [part_of(it.pixels, STEADIED_PX) for it in (before, now)]
            height, width = sources[0].shape[:2]
            first, second = (_resized(it, (scale * width, scale * height)) for it in sources)
            last = next_steadied(sources[0], first, None, self._steady)
            cpu += _timed(partial(next_steadied, sources[1], second, last, self._steady))[1]
            px += width * height
        return cpu / px * self._samples.info.width * self._samples.info.height if px else 0.0

    def _result_bytes(
        self, counts: Counts, length: int, key_bytes: float, other_bytes: float
    ) -> float | None:
        """Return the bytes of a result in segments of `length`; None for an unknown length.

        Args:
            counts: the frames that were measured.
            key_bytes, other_bytes: what keyframes and other frames of these take on average.
        """
        frames = self._samples.frames
        if frames is None:
            return None
        keys = ceil(frames / length)
        key_growth, other_growth = self._encodings.growth(counts, length)
        own_bytes = keys * key_bytes * key_growth + (frames - keys) * other_bytes * other_growth
        return own_bytes + _other_bytes(self._samples)

    def _coded_alone(self, part: Pixels, result: Pixels) -> float:
        """Return the bytes of one result, coded alone."""
        height, width = (side // 2 * 2 for side in result.shape[:2])
        info = replace(self._samples.info, width=part.shape[1], height=part.shape[0])
        encoder = VideoEncoder(info, (width, height), self._options.encoding)
        frame = Frame(np.ascontiguousarray(result[:height, :width]), 0, 1)
        with TrialEncoding(encoder, {0}) as sink:
            sink.write(frame)
            sink.finish()
            return sink.sizes[0][0]


@dataclass(frozen=True)
class _Costs:
    """Costs of a result whose frames are those of the source, resized by bicubic interpolation."""

    cpu_seconds: float
    """CPU time to encode a frame, and to decode it again for the check."""
    key_bytes: float
    other_bytes: float
    """Mean bytes of the keyframes, and of all other frames."""


class _Encodings:
    """The samples, resized and encoded, which takes a fraction of upscaling them.

    The first frames of a segment are smaller than the others: the encoder finds its rate in the
    keyframe, and a short sample ends before its pattern of frames does. By how much depends little
    on the size of the frames, so it is measured at that of the source.
    """

    def __init__(self, samples: Samples, options: Options) -> None:
        self.samples, self._options = samples, options
        self._known: dict[tuple[tuple[int, int], Counts], _Costs] = {}

    def counts_of_middle(self, frames: int = CODED_FRAMES) -> Counts:
        """Frames that are encoded in the size of the result, which may take long."""
        middle = (len(self.samples.parts) - 1) // 2
        places = range(len(self.samples.parts))
        return tuple(frames if place == middle else 0 for place in places)

    def growth_of_middle(self, size: tuple[int, int], frames: int) -> float:
        """Return the mean bytes of `CODED_FRAMES` relative to those of fewer, keyframes left out.

        Note: the first few frames behind a keyframe say little, and this depends on the size: from
        2 to 48 frames, their mean grew to 2.3 times in 640x360, and not at all in 2560x1440.
        """
        if frames >= CODED_FRAMES:
            return 1.0
        few, more = (self.costs(size, self.counts_of_middle(n)) for n in (frames, CODED_FRAMES))
        return more.other_bytes / few.other_bytes if few.other_bytes else 1.0

    def growth(self, counts: Counts, length: int) -> tuple[float, float]:
        """Return the mean bytes in segments of all places relative to those of some frames.

        The first is for keyframes, the second for all others.
        """
        sides = self.samples.info.width, self.samples.info.height
        width, height = (max(2, side // 2 * 2) for side in sides)
        whole = self.costs((width, height), tuple(max(length, count) for count in counts))
        begun = self.costs((width, height), counts)
        return whole.key_bytes / begun.key_bytes, whole.other_bytes / begun.other_bytes

    def costs(self, size: tuple[int, int], counts: Counts) -> _Costs:
        """Return the costs of frames of a width and height in pixels, the first of each place."""
        if (size, counts) not in self._known:
            self._known[size, counts] = self._encoded(size, counts)
        return self._known[size, counts]

    def _encoded(self, size: tuple[int, int], counts: Counts) -> _Costs:
        parts = [
            part[:count] for part, count in zip(self.samples.parts, counts, strict=True) if count
        ]
        info = replace(self.samples.info, pixel_format="yuv420p")
        encoder = VideoEncoder(info, size, self._options.encoding)
        with TrialEncoding(encoder, _starts(parts)) as sink:
            began, resizing = time.process_time(), 0.0
            for frame in chain.from_iterable(parts):
                resizing_began = time.thread_time()
                resized = replace(frame, pixels=_resized(frame.pixels, size), deep=None)
                resizing += time.thread_time() - resizing_began
                sink.write(resized)
            sink.finish()
            cpu = time.process_time() - began - resizing - sink.start_cpu_seconds
            coded = sum(len(part) for part in parts)
            return _Costs(cpu / coded + sink.decode(), sink.key_bytes, sink.other_bytes)


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _starts(parts: Sequence[Sequence[Frame]]) -> set[int]:
    """Return the numbers of the first frames of parts that follow each other."""
    return set(accumulate((len(part) for part in parts[:-1]), initial=0))


def part_of(pixels: Pixels, px: float) -> Pixels:
    """Return the middle of an image, uint8 [H, W, 3], in its shape and of about so many pixels.

    Note: the width of a part is a multiple of 16 px. OpenVINO took 2.4 times as long for each pixel
    of 395 columns as for one of 400; of the usual widths of videos, it is slow with 404 (1.45).
    """
    height, width = pixels.shape[:2]
    share = min(1.0, sqrt(px / (width * height)))
    part_height, part_width = (max(16, int(side * share)) for side in (height, width))
    if part_width < width:
        part_width -= part_width % 16
    part_height, part_width = min(part_height, height), min(part_width, width)
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return np.ascontiguousarray(pixels[top : top + part_height, left : left + part_width])


def _warm_up(upscaler: FrameUpscaler, image: Pixels, calls: int) -> None:
    """Compile for the shape of an image, and let as many slots make their buffers."""
    upscaler.upscale(image)
    if calls > 1:
        _throughput(upscaler, [image] * calls)


def _throughput(upscaler: FrameUpscaler, images: Sequence[Pixels]) -> tuple[float, float]:
    """Upscale images in all slots; return time and CPU time for one, in seconds."""
    with ThreadPoolExecutor(upscaler.slots) as executor:
        wall, cpu = _timed(lambda: list(executor.map(upscaler.upscale, images)))
    return wall / len(images), cpu / len(images)


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the time and the CPU time of this process that some work takes, in seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu


def _other_bytes(samples: Samples) -> float:
    """Return the bytes of all that is copied: audio, subtitles, attached files."""
    info = samples.info
    if not info.bit_rate or info.duration_seconds is None:
        return 0.0
    return max(0.0, samples.path.stat().st_size - info.bit_rate * info.duration_seconds / 8)


def _bytes_of(samples: Samples) -> int:
    return sum(
        frame.pixels.nbytes + (0 if frame.deep is None else frame.deep.nbytes)
        for part in samples.parts
        for frame in part
    )


def _reset_peak() -> None:
    with suppress(OSError):  # a kernel without it: the peak is then that of all models
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(peak) * 1024


def forecast_images(
    example: StillImage,
    suffix: str,
    megapixels: float,
    models: Sequence[str],
    options: Options,
    seconds: float,
) -> list[Forecast]:
    """Measure every model on a part of an image, and writing its result.

    Args:
        example: an image, of which a part is upscaled.
        suffix: of the file that is written.
        megapixels: of all images together.
    """
    found = []
    for model in models:
        share = seconds / len(models)
        try:
            found.append(_forecast_images(example, suffix, megapixels, model, options, share))
        except SrganEdgeError as error:
            found.append(Forecast(model, failed=str(error)))
    _set_times(found, megapixels)
    return found


def _forecast_images(
    example: StillImage,
    suffix: str,
    megapixels: float,
    model: str,
    options: Options,
    seconds: float,
) -> Forecast:
    pixels = example.pixels if not example.is_deep else (example.pixels >> 8).astype(np.uint8)
    _reset_peak()
    with open_upscaler(replace(options, model=model), lambda line: None, 1) as opened:
        upscaler = opened.upscaler
        probe = part_of(pixels, PROBE_PX**2)
        upscaler.upscale(probe)
        px_seconds = _throughput(upscaler, [probe] * 2)[0] / (probe.shape[0] * probe.shape[1])
        part = part_of(pixels, max(PROBE_PX**2, seconds / 4 / px_seconds))
        result = upscaler.upscale(part)
        wall, cpu = _timed(lambda: upscaler.upscale(part))
        size = options.final_size(Source(part.shape[1], part.shape[0]), upscaler.scale)
        with scratch_folder() as folder:
            file = folder / f"a{suffix}"
            write_wall, write_cpu = _timed(lambda: write_image(file, StillImage(result)))
            written = file.stat().st_size * size[0] * size[1] / (result.shape[0] * result.shape[1])
        part_mp = part.shape[0] * part.shape[1] / 1e6
        return Forecast(
            model,
            arithmetic=upscaler.info.arithmetic,
            device=upscaler.info.device,
            cpu_seconds=(cpu + write_cpu) / part_mp,
            wall=wall + write_wall,
            cpu=cpu + write_cpu,
            start_seconds=START_SECONDS,
            memory_bytes=_peak_bytes(),
            result_bytes=written / part_mp * megapixels,
            measured=f"a part of {part.shape[1]}x{part.shape[0]}",
        )
