"""Upscale one clip with one generator through several programs, in turns, and compare the times.

    python benchmarks/compare.py [-n MODEL] [--size WxH] [--frames N] [--rounds N] [--out FILE.json]

(a) PyTorch eager in FP32, frame by frame; (b) the usual tiled loop: tiles of 128 px padded by 10,
FP32, one after the other; (c) ncnn; (d) ONNX Runtime, frame by frame; (e) `srgan-edge` as its
command runs. (a) to (d) decode and encode in the same loop, with the encoder's settings of (e).
All are opened and warmed up before; every round runs all of them. It prints frames a second, the
CPU time of a frame, and how many times as fast as (b) each is: medians of the rounds with extremes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import harness
import numpy as np

from srgan_edge.bench.results import Spread
from srgan_edge.bench.subject import EndToEnd, demo_frames
from srgan_edge.engines import Choice, choose_engine, open_engine, video_slots
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.export.float_onnx import float_onnx_from_checkpoint
from srgan_edge.jobs.plan import Options
from srgan_edge.model.library import ModelFiles, find_model
from srgan_edge.pixels import Pixels
from srgan_edge.run import open_upscaler
from srgan_edge.tiling import Tiling
from srgan_edge.video.frame import Encoding

TILE_PX, PAD_PX = 128, 10
TILED_LOOP = "tiled loop"

Upscale = Callable[[Pixels], Pixels]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("-n", "--model", default="srgan-x4")
    parser.add_argument("--size", default="320x180", help="width and height of the clip")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    record = measure(arguments.model, (width, height), arguments.frames, arguments.rounds)
    print_table(record)
    harness.publish(record, arguments.out)


def measure(model: str, size: tuple[int, int], number: int, rounds: int) -> dict[str, Any]:
    files, frames = find_model(model), demo_frames(*size)
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory()))
        options = Options(model, Encoding(), Tiling(joined=True))
        opened = life.enter_context(open_upscaler(options, print, video_slots()))
        ours = EndToEnd(opened, options, folder)
        ours.prepare(frames, number)
        engine = opened.upscaler.info
        loops = loops_of(files, size, folder, cores, life)
        for upscale in (*loops.values(), opened.upscaler.upscale):
            upscale(frames[0])  # warm-up

        runs: dict[str, Callable[[], object]] = {
            name: lambda upscale=upscale: run_loop(folder, upscale)
            for name, upscale in loops.items()
        }
        runs["srgan-edge"] = ours.run
        turns = harness.in_turns(runs, rounds)
    seconds = {name: [turn.seconds / number for turn in it] for name, it in turns.items()}
    return {
        "model": model,
        "size": "{}x{}".format(*size),
        "engine": f"{engine.name}, {engine.arithmetic}",
        "seconds_a_frame": seconds,
        "cpu_seconds_a_frame": {
            name: [turn.cpu_seconds / number for turn in it] for name, it in turns.items()
        },
        "times_the_tiled_loop": {
            name: asdict(Spread.of([a / b for a, b in zip(seconds[TILED_LOOP], it, strict=True)]))
            for name, it in seconds.items()
        },
    }


def loops_of(
    files: ModelFiles, size: tuple[int, int], folder: Path, cores: int, life: ExitStack
) -> dict[str, Upscale]:
    """Return the programs of others by name, each as a function of one frame."""
    import torch

    torch.set_num_threads(cores)
    checkpoint = files.file(".safetensors")
    eager = life.enter_context(TorchEngine(checkpoint))
    loops: dict[str, Upscale] = {
        "PyTorch eager": lambda frame: eager.upscale(frame[None])[0],
        TILED_LOOP: lambda frame: tiled(lambda tile: eager.upscale(tile[None])[0], frame),
    }
    if (ncnn := ncnn_of(checkpoint, size, folder, cores)) is not None:
        loops["ncnn"] = ncnn
    choice: Choice = choose_engine(files, "onnxruntime", "cpu")
    if choice.kind.installed:
        session = life.enter_context(open_engine(choice))
        loops["ONNX Runtime"] = lambda frame: session.upscale(frame[None])[0]
    return loops


def tiled(upscale: Upscale, frame: Pixels) -> Pixels:
    """Upscale tile by tile, each with a margin that is cut off except at the frame's edge."""
    height, width = frame.shape[:2]
    result = np.empty((4 * height, 4 * width, 3), np.uint8)
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            bottom, right = min(y + TILE_PX, height), min(x + TILE_PX, width)
            top, left = max(y - PAD_PX, 0), max(x - PAD_PX, 0)
            window = frame[top : min(bottom + PAD_PX, height), left : min(right + PAD_PX, width)]
            pixels = upscale(np.ascontiguousarray(window))
            result[4 * y : 4 * bottom, 4 * x : 4 * right] = pixels[
                4 * (y - top) : 4 * (bottom - top), 4 * (x - left) : 4 * (right - left)
            ]
    return result


def ncnn_of(checkpoint: Path, size: tuple[int, int], folder: Path, cores: int) -> Upscale | None:
    """Convert a checkpoint with pnnx and open it in ncnn; None if either is not installed."""
    try:
        import ncnn
    except ImportError:
        return None
    pnnx = Path(sys.executable).with_name("pnnx")
    if not pnnx.exists():
        return None
    float_onnx_from_checkpoint(checkpoint, folder / "model.onnx")
    command = [pnnx, "model.onnx", "fp16=0", f"inputshape=[1,3,{size[1]},{size[0]}]f32"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    net = ncnn.Net()
    net.opt.num_threads = cores
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))

    def upscale(frame: Pixels) -> Pixels:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32) / 255
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(planes))
            _, result = extractor.extract("out0")
            levels = np.array(result) * 255 + 0.5
        return np.ascontiguousarray(levels.transpose(1, 2, 0)).astype(np.uint8)

    return upscale


def run_loop(folder: Path, upscale: Upscale) -> None:
    """Decode, upscale and encode one frame after the other."""
    with av.open(str(folder / "in.mp4")) as source, av.open(str(folder / "loop.mp4"), "w") as out:
        video = source.streams.video[0]
        stream = out.add_stream("libx264", rate=video.average_rate)
        stream.width, stream.height = 4 * video.width, 4 * video.height
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "superfast", "rc-lookahead": "0"}
        for frame in source.decode(video=0):
            pixels = upscale(frame.to_ndarray(format="rgb24"))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))


def print_table(record: dict[str, Any]) -> None:
    print(f"{record['model']}, {record['size']}, {record['engine']}")
    rounds = len(record["seconds_a_frame"]["srgan-edge"])
    print(f"medians of {rounds} turns  frames/s  CPU s a frame   times the tiled loop")
    for name, times in record["seconds_a_frame"].items():
        ratio = record["times_the_tiled_loop"][name]
        fps = 1 / statistics.median(times)
        cpu = statistics.median(record["cpu_seconds_a_frame"][name])
        spread = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
        print(f"  {name:18} {fps:10.3f} {cpu:14.3f} {ratio['median']:12.2f}  ({spread})")


if __name__ == "__main__":
    main()
