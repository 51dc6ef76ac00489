"""Measure the share of the engine's speed that reaches the finished video, and the memory used.

    python benchmarks/pipeline.py [-n MODEL] [--clip FILE] [--engine NAME] [--out FILE.json]

It measures frames per second of the engine alone on decoded frames; of the whole command (open,
decode, upscale, encode, mux) on the clip repeated four times, as the command reports it; their
ratio; and the peak memory of the process for the clip and for the fourfold clip. Engine and command
alternate, and the median counts, because a machine's speed drifts. It prints a table, then one line
of JSON.

On cores that all parts share, no command can be faster than the cores divided by the CPU time of a
frame. So it also measures the CPU time of each part, alone and in this process (the budget), and
that of the command, whose start-up is left out by the difference of both clips. CPU time is what
other work on the same cores changes least.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import av
import harness

from srgan_edge.engines import Choice, choose_engine, open_engine, video_slots
from srgan_edge.model.library import find_model
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import Tiling
from srgan_edge.transcode.proof import refuse_undecodable
from srgan_edge.transcode.segments import SEGMENT_FRAMES
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CodedFrame, Encoding, Frame
from srgan_edge.video.reader import VideoReader

DEMO_CLIP = Path(__file__).parent.parent / "srgan_edge" / "demo" / "clip.mp4"


@dataclass(frozen=True)
class Result:
    """The result that is printed and stored."""

    clip: str
    frames: int
    model: str
    engine: str
    rounds: int
    engine_fps: float
    end_to_end_fps: float
    ratio: float
    parts_cpu_ms: dict[str, float]
    """CPU time of one frame in each part, in milliseconds."""
    command_cpu_ms: float
    """CPU time of one frame in all processes of the command, without its start-up."""
    start_cpu_s: float
    """CPU time of the command's start-up and end."""
    peak_mb: float
    peak_mb_4x: float
    memory_growth: float
    """Peak memory of the 4x longer clip relative to that of the clip."""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("-n", "--model", default="edge-x4")
    parser.add_argument("--clip", type=Path, default=DEMO_CLIP)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = measure(
        arguments.model, arguments.clip, arguments.engine, arguments.tile, arguments.rounds
    )
    print_table(result)
    harness.publish(asdict(result), arguments.out)


def measure(model: str, clip: Path, engine_name: str, tile_px: int, rounds: int) -> Result:
    with VideoReader(clip) as reader:
        frames = [item.pixels for item in reader if isinstance(item, Frame)]
        size = f"{reader.info.width}x{reader.info.height}"
    choice = choose_engine(find_model(model), engine_name)
    end_to_end: list[Run] = []
    with (
        open_engine(choice, slots=video_slots()) as engine,
        ThreadPoolExecutor(engine.info.slots) as executor,
        tempfile.TemporaryDirectory() as folder,
    ):
        upscaler = FrameUpscaler(engine, Tiling(tile=tile_px))
        upscaler.upscale(frames[0])  # compile
        fourfold = repeated(clip, 4, Path(folder) / "fourfold.mp4")
        short = run_command(clip, choice, tile_px, Path(folder))
        parts = parts_cpu_ms(fourfold, upscaler, frames, Path(folder))
        turns = harness.in_turns(
            {
                "engine": lambda: deque(executor.map(upscaler.upscale, 2 * frames), maxlen=0),
                "command": lambda: end_to_end.append(
                    run_command(fourfold, choice, tile_px, Path(folder))
                ),
            },
            rounds,
        )
        info = engine.info
    fps = statistics.median(run.fps for run in end_to_end)
    peak_mb_4x = statistics.median(run.peak_mb for run in end_to_end)
    long_cpu_seconds = statistics.median(run.cpu_seconds for run in end_to_end)
    frame_cpu_seconds = (long_cpu_seconds - short.cpu_seconds) / (3 * len(frames))
    engine_alone = statistics.median(2 * len(frames) / turn.seconds for turn in turns["engine"])
    return Result(
        clip=f"{clip.name} {size}",
        frames=len(frames),
        model=info.spec.name,
        engine=f"{info.name}, {info.device}, {info.arithmetic}, {info.slots} slots, tile {tile_px}",
        rounds=rounds,
        engine_fps=round(engine_alone, 2),
        end_to_end_fps=round(fps, 2),
        ratio=round(fps / engine_alone, 3),
        parts_cpu_ms={name: round(ms, 2) for name, ms in parts.items()},
        command_cpu_ms=round(1000 * frame_cpu_seconds, 2),
        start_cpu_s=round(short.cpu_seconds - len(frames) * frame_cpu_seconds, 2),
        peak_mb=round(short.peak_mb, 1),
        peak_mb_4x=round(peak_mb_4x, 1),
        memory_growth=round(peak_mb_4x / short.peak_mb, 3),
    )


def parts_cpu_ms(
    clip: Path, upscaler: FrameUpscaler, frames: list[Pixels], folder: Path
) -> dict[str, float]:
    """Return the CPU time of one frame in each part of the pipeline, in milliseconds."""
    found: dict[str, float] = {}

    def measured(part: str, work: Callable[[], int]) -> None:
        begun = time.process_time()
        count = work()
        found[part] = 1000 * (time.process_time() - begun) / count

    def decode() -> int:
        with VideoReader(clip) as reader:
            return sum(isinstance(item, Frame) for item in reader)

    def engine() -> int:
        with ThreadPoolExecutor(upscaler.slots) as executor:
            return sum(1 for _ in executor.map(upscaler.upscale, frames))

    with VideoReader(clip) as reader:
        info = reader.info
    large = [upscaler.upscale(pixels) for pixels in frames[:SEGMENT_FRAMES]]
    encoder = VideoEncoder(info, (large[0].shape[1], large[0].shape[0]), Encoding())
    coded: list[CodedFrame] = []

    def convert() -> int:
        step = round(1 / (info.time_base * (info.average_rate or 25)))
        coded.extend(
            encoder.coded(Frame(pixels, number * step, step)) for number, pixels in enumerate(large)
        )
        return len(coded)

    segment = folder / "segment.nut"

    def encode() -> int:
        with av.open(str(segment), "w", format="nut") as container:
            encoder.add_to(container)
            for frame in coded:
                container.mux(list(encoder.encode(frame)))
            container.mux(list(encoder.finish()))
        return len(coded)

    def check() -> int:
        refuse_undecodable(segment, len(coded))
        return len(coded)

    measured("decode", decode)
    measured("engine", engine)
    measured("convert", convert)
    measured("encode", encode)
    measured("check", check)
    return found


class Run(NamedTuple):
    """One run of the command."""

    fps: float
    peak_mb: float
    cpu_seconds: float
    """CPU time of all its processes."""


def run_command(clip: Path, choice: Choice, tile_px: int, folder: Path, *options: str) -> Run:
    """Upscale `clip` in a child process."""
    command = [sys.executable, "-m", "srgan_edge", "upscale", str(clip), "--json-events"]
    command += ["-n", str(choice.path), "--engine", choice.kind.name]
    command += ["--tile", str(tile_px), "--overwrite"]
    command += ["-o", str(folder / "out.mp4"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    ended = next(event for event in events if event["event"] == "ended")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Run(ended["frames"] / ended["seconds"], usage.ru_maxrss / 1024, cpu_seconds)


def repeated(clip: Path, times: int, path: Path) -> Path:
    """Write the video packets of `clip`, repeated `times` times."""
    with av.open(str(path), "w") as output:
        stream = None
        for turn in range(times):
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video)
                assert video.duration is not None
                for packet in source.demux(video):
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        packet.pts += turn * video.duration
                        packet.dts += turn * video.duration
                        packet.stream = stream
                        output.mux(packet)
    return path


def budget_fps(result: Result) -> float:
    """Return the speed at which the parts keep all cores busy."""
    return 1000 * len(os.sched_getaffinity(0)) / sum(result.parts_cpu_ms.values())


def print_table(result: Result) -> None:
    print(f"{result.model} on {result.engine}; {result.clip}, {result.frames} frames")
    print(f"median of {result.rounds} rounds")
    print(f"  engine alone   {result.engine_fps:8.2f} fps")
    print(f"  end to end     {result.end_to_end_fps:8.2f} fps   ratio {result.ratio:.3f}")
    print(f"  budget         {budget_fps(result):8.2f} fps   CPU time of a frame by part:")
    for part, cpu_ms in result.parts_cpu_ms.items():
        print(f"    {part:<12} {cpu_ms:8.2f} ms")
    print(
        f"    command      {result.command_cpu_ms:8.2f} ms    {result.start_cpu_s:.2f} s to start"
    )
    print(f"  peak memory    {result.peak_mb:8.1f} MB")
    print(f"  4x the length  {result.peak_mb_4x:8.1f} MB    {result.memory_growth:.3f} of it")


if __name__ == "__main__":
    main()
