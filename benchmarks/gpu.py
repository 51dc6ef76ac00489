"""Run every check and measurement that needs a GPU, and write one JSON.

    make gpu            # or, with any Python that has the packages to check:
    PYTHONPATH=. python benchmarks/gpu.py [--minutes 8] [--only NVDEC] [--out FILE.json]

It runs from a bare checkout, without a network. Checks whose package is missing are reported as not
run, not as passed; a failed check makes the exit code 1, and with SRGAN_EDGE_REQUIRE_GPU=1 so does
a check that is not run. Latencies are p50, p90 and p99 in milliseconds, of the paper's generator
and of `edge`: on the GPU's clock alone, with copies of the bytes, and end to end in host memory.
"""

import argparse
import gc
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gpu_engines
import gpu_kernels
import gpu_targets
from gpu_engines import NotRun, gpu_here, on_gpus_clock, percentiles, repeated, torch_with_gpu

from srgan_edge.errors import ExtraMissing, ResourcesExhausted
from srgan_edge.kernels import source
from srgan_edge.kernels.cuda import open_cuda
from srgan_edge.machine import Gpu, installed_version
from srgan_edge.model.library import find_model

SIZES = [(480, 270), (640, 360), (1280, 720), (1920, 1080)]
"""(width, height) of the input; the sides of the result are four times longer."""
MODELS = ["srgan-x4", "edge-x4"]
PACKAGES = ["torch", "triton", "onnx", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx"]
PACKAGES += ["cuda-core", "cuda-bindings", "pycuda", "numpy", "nvidia-cudnn-cu12"]


class NotThere(Exception):
    """The GPU lacks this hardware (as data-center cards lack NVENC), so nothing is untested."""


class Record:
    """The JSON under construction."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}

    def check(self, name: str, run: Callable[[], Any]) -> None:
        """Run one check and record the detail that it returns."""
        begun = time.monotonic()
        try:
            status, detail = "passed", run()
        except (NotRun, ExtraMissing, ModuleNotFoundError) as reason:
            status, detail = "not run", str(reason)
        except NotThere as reason:
            status, detail = "not there", str(reason)
        except Exception as error:  # any error is a finding
            status, detail = "failed", f"{type(error).__name__}: {error}"
            traceback.print_exc()
        seconds = round(time.monotonic() - begun, 2)
        entry = {"name": name, "status": status, "seconds": seconds, "detail": detail}
        self.checks.append(entry)
        print(f"{status:8} {name}  {json.dumps(detail)[:160]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="start no check after this time")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), help="pattern of names")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<gpu>-<date>.json")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    gpu = Gpu.find()
    record = Record()
    for name, run in checks(record):
        if not arguments.only.search(name):
            continue
        late = time.monotonic() > deadline
        record.check(name, _no_gpu if gpu is None else _too_late if late else run)
    targets = gpu_targets.targets(record.figures)
    print(f"\n{gpu_targets.table(targets)}\n", flush=True)
    stamp = datetime.now(UTC)
    result = {
        "gpu": gpu and vars(gpu),
        "time": stamp.isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "packages": {name: installed_version(name) for name in PACKAGES},
        "nvidia_smi": nvidia_smi(),
        "targets": [vars(target) | {"verdict": target.verdict} for target in targets],
        "checks": record.checks,
        "figures": record.figures,
    }
    name = "".join(c if c.isalnum() else "-" for c in gpu.name.lower()) if gpu else "no-gpu"
    folder = Path(__file__).parent / "results"
    path = arguments.out or folder / f"{name}-{stamp:%Y-%m-%d}.json"
    if arguments.out or gpu:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"wrote {path}")
    bad = {"failed", "not run"} if os.environ.get("SRGAN_EDGE_REQUIRE_GPU") == "1" else {"failed"}
    sys.exit(any(check["status"] in bad for check in record.checks))


def checks(record: Record) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield all checks, the quick and informative ones first."""
    yield "launcher", launcher_replays
    yield "kernels equal their references", kernels_equal_references
    yield "speed of kernels", lambda: kernel_speeds(record)
    yield "ceilings of matmul and copies", lambda: ceilings(record)
    for model in MODELS:
        yield f"fused kernels against cuDNN, {model}", lambda model=model: fused(record, model)
    for engine in gpu_engines.NAMES:
        for model in MODELS:
            yield (
                f"{engine} against torch fp32 on the CPU, {model}",
                lambda engine=engine, model=model: gpu_engines.parity(engine, model),
            )
    for engine in ("torch fp16", "onnxruntime cuda fp16"):
        yield f"replays of {engine}", lambda engine=engine: gpu_engines.replays(engine, "edge-x4")
    for model in MODELS:
        for size in SIZES:
            yield (
                f"latency of {model}, {size[0]}x{size[1]}",
                lambda model=model, size=size: latencies(record, model, *size),
            )
    yield "10,000 frames through three slots", lambda: soak(record)
    for engine in gpu_engines.NAMES:
        for model in MODELS:
            for size in SIZES:
                yield (
                    f"latency of {engine}, {model}, {size[0]}x{size[1]}",
                    lambda row=(engine, model, size): engine_latency(record, *row),
                )
    yield "NVDEC against software", nvdec_against_software
    for codec in ("h264_nvenc", "hevc_nvenc", "av1_nvenc"):
        yield f"{codec} keeps frames and times", lambda codec=codec: nvenc_figures(record, codec)
    for engine, codec in (("torch fp16", "libx264"), ("tensorrt_rtx fp16", "h264_nvenc")):
        yield (
            f"a video that stays on the GPU, {engine}, {codec}",
            lambda engine=engine, codec=codec: video_on_the_gpu(record, engine, codec),
        )
    for model in MODELS:
        yield (
            f"a video by the command, {model}",
            lambda model=model: video_by_command(record, model),
        )


def launcher_replays() -> str:
    """Check copies and 100 launches of one graph; returns the name of the binding."""
    cuda = open_cuda()
    with cuda.current():
        stream, memory = cuda.stream(), cuda.memory(1 << 20)
        there, back = cuda.pinned_memory(1 << 20), cuda.pinned_memory(1 << 20)
        with cuda.recording(stream) as graph:
            cuda.upload(there.array, memory.address, stream)
            cuda.download(memory.address, back.array, stream)
        for value in range(100):
            there.array[:] = value
            graph.launch(stream)
            stream.synchronize()
            assert (back.array == value).all(), f"launch {value} returned different bytes"
    return cuda.binding


def kernels_equal_references() -> dict[str, int]:
    """Compare kernels bit for bit at awkward sizes, on poisoned outputs; returns their counts."""
    cuda = open_cuda()
    done: dict[str, int] = {}
    with cuda.current():
        for seed, (width, height) in enumerate(
            [(1, 1), (17, 9), (64, 48), (333, 121), (1920, 1080)]
        ):
            for case in gpu_kernels.cases(width, height, seed):
                gpu_kernels.run(cuda, image(case.kernel), case)
                done[case.kernel] = done.get(case.kernel, 0) + 1
    assert done.keys() == source.KERNELS.keys()
    return done


def kernel_speeds(record: Record) -> dict[str, Any]:
    """Measure GB/s on 3840x2160, each twice; bytes that must be moved are counted once.

    `of_copy` is the share of the driver's rate for a copy of as many bytes, `of_frame_copy` that
    of a copy of one frame; a copy reads its bytes and writes them, so it moves them twice.
    """
    cuda, frame_bytes = open_cuda(), 3 * 3840 * 2160
    rates: dict[str, Any] = {}
    with cuda.current():
        frame_copy = _gb_s(2 * frame_bytes, gpu_kernels.copy_ms(cuda, frame_bytes))
        for case in gpu_kernels.cases(3840, 2160, 0):
            if case.is_small:
                continue
            moved = case.moved_bytes
            times = gpu_kernels.run(cuda, image(case.kernel), case, gpu_kernels.ROTATED_BYTES)
            rate = _gb_s(moved, times)
            copy = _gb_s(moved, gpu_kernels.copy_ms(cuda, moved // 2))
            rates[case.kernel] = {
                "gb_s": rate,
                "copy_gb_s": copy,
                "of_copy": round(sum(rate) / sum(copy), 3),
                "of_frame_copy": round(sum(rate) / sum(frame_copy), 3),
            }
    record.figures["kernels"] = {"frame_copy_gb_s": frame_copy, "at_3840x2160": rates}
    return {kernel: rate["of_copy"] for kernel, rate in rates.items()}


def _gb_s(moved_bytes: int, times_ms: list[float]) -> list[float]:
    return [round(moved_bytes / ms / 1e6, 1) for ms in times_ms]


@cache
def image(kernel: str) -> bytes:
    """Compile the source file of a kernel by NVRTC for this machine's GPU."""
    return source.compile_with_nvrtc(source.source_of(kernel), gpu_here().compute_capability)


def fused(record: Record, model: str) -> dict[str, Any]:
    """Measure each layer on 480x270: its difference from cuDNN, and TFLOP/s."""
    torch_with_gpu()
    import gpu_fused

    generator, _ = gpu_engines.generator_of(model)
    try:
        found = gpu_fused.against_cudnn(generator, gpu_here())
    except gpu_fused.NoKernel:
        raise NotThere("fused kernels are for compute capability 9.0") from None
    record.figures[f"fused kernels of {model}, 480x270"] = found.pop("layers")
    return found


def latencies(record: Record, model: str, width: int, height: int) -> dict[str, Any]:
    """Measure PyTorch on the GPU's clock: plain, and with our optimizations.

    The plain network in FP32 and FP16; the rewritten one, alone, in a CUDA graph, with copies, and
    with the kernels that cuDNN finds fastest by trial; the same with fused kernels.
    """
    torch = torch_with_gpu()
    gc.collect()  # frees the memory of the previous size
    torch.cuda.empty_cache()
    from srgan_edge.engines.fused import FusedDeployment, NoKernel
    from srgan_edge.model.half import HalfDeployment
    from srgan_edge.model.network import Deployment

    generator, _ = gpu_engines.generator_of(model)
    pinned = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8).pin_memory()
    back = torch.empty((1, 4 * height, 4 * width, 3), dtype=torch.uint8).pin_memory()
    pixels = pinned.cuda()
    half = HalfDeployment(generator).cuda()
    full = Deployment(generator).cuda()
    plain = gpu_engines.plain_half(generator)
    found: dict[str, Any] = {}

    def time_graph(name: str, network: Callable[[Any], Any], *, copies: bool) -> None:
        network(pixels)  # the first call loads, allocates and tries, which must not be recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result, _ = network(pixels)
        expected, _ = network(pixels)
        graph.replay()
        assert torch.equal(result, expected), "the replayed graph returned different bytes"
        found[name] = _timed(torch, graph.replay)
        if copies:

            def there_and_back() -> None:
                pixels.copy_(pinned, non_blocking=True)
                graph.replay()
                back.copy_(result, non_blocking=True)

            found[name] |= _rate(record, model, width, height, found[name]["p50_ms"])
            found[f"{name} with copies"] = _timed(torch, there_and_back)

    flags = torch.backends.cudnn.flags
    with torch.inference_mode():
        with flags(enabled=True, benchmark=False, allow_tf32=False):
            found["eager fp32"] = _timed(torch, lambda: full(pixels))
            found["plain eager fp16"] = _timed(torch, lambda: plain(pixels))
            found["rewritten eager fp16"] = _timed(torch, lambda: half(pixels))
            time_graph("fp16 graph", half, copies=True)
        with flags(enabled=True, benchmark=True, allow_tf32=False):
            time_graph("fp16 graph, kernels by trial", half, copies=False)
        with suppress(NoKernel, ExtraMissing):
            fused = FusedDeployment(half, gpu_here())
            time_graph("fused fp16 graph", fused, copies=True)
    found["ratios"] = {
        way: gpu_targets.ratios(found, way) for way in gpu_targets.GRAPHS if way in found
    }
    record.figures.setdefault(model, {})[f"{width}x{height}"] = found
    return found


def engine_latency(
    record: Record, engine: str, model: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Measure an engine end to end, and TensorRT also on the GPU's clock."""
    found: dict[str, Any] = {"end to end": gpu_engines.end_to_end(engine, model, size)}
    if engine.startswith("tensorrt"):
        found |= gpu_engines.tensorrt_on_gpu(engine, model, size)
        found["alone"] |= _rate(record, model, *size, found["alone"]["p50_ms"])
    sizes = record.figures.setdefault(model, {}).setdefault(f"{size[0]}x{size[1]}", {})
    sizes[engine] = found
    return found


def soak(record: Record) -> dict[str, Any]:
    """Run many small frames, whose bytes must all be equal, in constant memory."""
    size = (160, 90)
    with gpu_engines.open_engine("torch fp16", "edge-x4", size, slots=3) as engine:
        found = gpu_engines.soak(engine, size, 10_000)
    record.figures["soak of torch fp16, edge-x4, 160x90"] = found
    return found


def ceilings(record: Record) -> dict[str, float]:
    """Measure TFLOP/s of a large matmul in FP16, and GB/s of a copy on the GPU, by PyTorch."""
    torch = torch_with_gpu()
    n = 8192
    a = torch.randn(n, n, device="cuda", dtype=torch.half)
    matmul = _timed(torch, lambda: a @ a)["p50_ms"]
    content = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    copy = _timed(torch, content.clone)["p50_ms"]
    found = {
        "matmul_tflop_s": round(2 * n**3 / matmul / 1e9, 1),
        "copy_gb_s": round(2 * content.numel() / copy / 1e6, 1),
    }
    record.figures["ceilings"] = found
    return found


def nvdec_against_software() -> dict[str, str]:
    with TemporaryDirectory() as folder:
        return _video().nvdec_equals_software(Path(folder))


def nvenc_figures(record: Record, codec: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder, _with_nvenc():
        found = _video().nvenc_keeps_frames(Path(folder), codec)
    record.figures.setdefault("nvenc", {})[codec] = found
    return found


def video_by_command(record: Record, model: str) -> dict[str, Any]:
    """Measure the whole `upscale` command to 1920x1080 by libx264, decoded by CPU and NVDEC."""
    torch_with_gpu()
    with TemporaryDirectory() as folder:
        found = _video().video_by_command(Path(folder), model, (480, 270))
    record.figures.setdefault("videos by the command, 480x270", {})[model] = found
    return found


def video_on_the_gpu(record: Record, engine: str, codec: str) -> dict[str, Any]:
    """Measure a video of SD size, the usual source of upscaling to FHD and beyond."""
    size = (960, 540)
    with (
        TemporaryDirectory() as folder,
        _with_nvenc(),
        gpu_engines.open_engine(engine, "edge-x4", size) as opened,
    ):
        found = _video().video_stays_on_the_gpu(Path(folder), opened, size, codec)
    record.figures[f"video on the GPU, {engine}, edge-x4, {codec}"] = found
    return found


@contextmanager
def _with_nvenc() -> Iterator[None]:
    try:
        yield
    except ResourcesExhausted as error:
        if type(error) is not ResourcesExhausted:  # a subclass comes from the engine
            raise
        is_absent = type(error.__cause__).__name__ == "ExternalError"
        raise (NotThere if is_absent else NotRun)(str(error)) from None


def _video() -> Any:  # noqa: ANN401 - a module that needs PyAV
    if importlib.util.find_spec("av") is None:
        raise NotRun("av is not installed")
    return importlib.import_module("gpu_video")


def _rate(record: Record, model: str, width: int, height: int, ms: float) -> dict[str, float]:
    """Return TFLOP/s of the network as published, and their share of a large matmul's."""
    from srgan_edge.export.graph import cost_of
    from srgan_edge.export.onnx import unfolded_graph
    from srgan_edge.model.checkpoint import load_checkpoint

    published = unfolded_graph(*load_checkpoint(find_model(model).file(".safetensors")))
    macs = cost_of(published).macs_per_pixel
    rate = 2 * macs * width * height / ms / 1e9
    ceiling = record.figures.get("ceilings", {}).get("matmul_tflop_s")
    share = {} if ceiling is None else {"of_matmul": round(rate / ceiling, 3)}
    return {"tflop_s": round(rate, 2), **share}


def _timed(torch: Any, run: Callable[[], Any]) -> dict[str, float]:  # noqa: ANN401
    """Return percentiles in milliseconds on the GPU's clock."""
    return percentiles(repeated(on_gpus_clock(torch, run)))


def _no_gpu() -> None:
    raise NotRun("no GPU: there is no CUDA driver, or no device")


def _too_late() -> None:
    raise NotRun("out of time; type --minutes")


def nvidia_smi() -> dict[str, str] | None:
    """Return the present driver, clocks, power and temperature."""
    if shutil.which("nvidia-smi") is None:
        return None
    fields = ["driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw"]
    fields += ["power.limit", "temperature.gpu", "pstate", "clocks_throttle_reasons.active"]
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    values = answer.stdout.splitlines()[0].split(", ") if answer.stdout else []
    return dict(zip(fields, values, strict=False))


if __name__ == "__main__":
    main()
