"""What only a GPU can show: every check and every figure, in one JSON.

    make gpu            # or, with any Python that has what is to be checked:
    PYTHONPATH=. python benchmarks/gpu.py [--minutes 8] [--out FILE.json]

It runs from a bare checkout, without a network. What is not installed is reported as not run, not
as passed; any check that fails makes the exit code 1, and with SRGAN_EDGE_REQUIRE_GPU=1 any that
is not run too. Latencies are those of CUDA events, in
milliseconds, p50, p90 and p99, of the paper's generator and of `edge`.
"""

import argparse
import copy
import gc
import importlib
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import gpu_kernels
import numpy as np

from srgan_edge.errors import ExtraMissing
from srgan_edge.gpu import Gpu
from srgan_edge.kernels import source
from srgan_edge.kernels.cuda import open_cuda
from srgan_edge.models import find_model
from srgan_edge.parity import GATES, compare
from srgan_edge.pixels import Pixels
from srgan_edge.version import installed_version

SIZES = [(480, 270), (640, 360), (1280, 720), (1920, 1080)]
"""(width, height) of the input; the result is four times as large."""
PACKAGES = ["torch", "triton", "onnx", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx"]
PACKAGES += ["cuda-core", "cuda-bindings", "pycuda", "numpy", "nvidia-cudnn-cu12"]


class NotRun(Exception):
    """Something that a check needs is not here."""


class Record:
    """The JSON, as it grows."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}

    def check(self, name: str, run: Callable[[], Any]) -> None:
        """Run one check; what it returns is its detail."""
        begun = time.monotonic()
        try:
            status, detail = "passed", run()
        except (NotRun, ExtraMissing) as reason:
            status, detail = "not run", str(reason)
        except Exception as error:  # whatever happens there is the finding
            status, detail = "failed", f"{type(error).__name__}: {error}"
            traceback.print_exc()
        seconds = round(time.monotonic() - begun, 2)
        entry = {"name": name, "status": status, "seconds": seconds, "detail": detail}
        self.checks.append(entry)
        print(f"{status:8} {name}  {json.dumps(detail)[:160]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="no new check begins after that")
    parser.add_argument("--out", type=Path, help="else benchmarks/results/<gpu>-<date>.json")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    gpu = Gpu.find()
    if gpu is None:
        sys.exit("no GPU: srgan_edge.gpu finds no CUDA driver or no device")
    record = Record()
    for name, run in checks(record):
        late = time.monotonic() > deadline
        record.check(name, _too_late if late else run)
    stamp = datetime.now(UTC)
    result = {
        "gpu": vars(gpu),
        "time": stamp.isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "packages": {name: installed_version(name) for name in PACKAGES},
        "nvidia_smi": nvidia_smi(),
        "checks": record.checks,
        "figures": record.figures,
    }
    name = "".join(c if c.isalnum() else "-" for c in gpu.name.lower())
    folder = Path(__file__).parent / "results"
    path = arguments.out or folder / f"{name}-{stamp:%Y-%m-%d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")
    bad = {"failed", "not run"} if os.environ.get("SRGAN_EDGE_REQUIRE_GPU") == "1" else {"failed"}
    sys.exit(any(check["status"] in bad for check in record.checks))


def checks(record: Record) -> Iterator[tuple[str, Callable[[], Any]]]:
    """All of them, the quick and telling ones first."""
    yield "launcher", launcher_replays
    yield "kernels equal their references", kernels_equal_references
    yield "speed of kernels", lambda: kernel_speeds(record)
    yield "torch on the GPU against the CPU, FP32", torch_parity
    yield "TensorRT-RTX on this GPU", tensorrt_rtx_runs
    yield "ceilings of matmul and copies", lambda: ceilings(record)
    for model in ("srgan-x4", "edge-x4"):
        for width, height in SIZES:
            yield (
                f"latency of {model}, {width}x{height}",
                lambda model=model, size=(width, height): latencies(record, model, *size),
            )
    yield "onnxruntime on the GPU", onnxruntime_parity


def launcher_replays() -> str:
    """Copies, a graph launched 100 times, and memory that stays as it was."""
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
            assert (back.array == value).all(), f"launch {value} gave back other bytes"
    return cuda.binding


def kernels_equal_references() -> dict[str, int]:
    """Bit for bit, at awkward sizes, outputs poisoned before."""
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
    """GB/s on 3840x2160, what must be moved counted once, and its share of a plain copy's."""
    cuda = open_cuda()
    with cuda.current():
        ceiling = gpu_kernels.copy_ceiling_gb_s(cuda, image("tile_gather"), 3 * 3840 * 2160)
        rates = {}
        for case in gpu_kernels.cases(3840, 2160, 0):
            times = gpu_kernels.run(cuda, image(case.kernel), case, repeats=50)
            rate = case.moved_bytes / statistics.median(times) / 1e6
            rates[case.kernel] = {"gb_s": round(rate, 1), "of_copy": round(rate / ceiling, 3)}
    record.figures["kernels"] = {"copy_gb_s": round(ceiling, 1), "at_3840x2160": rates}
    return rates


@cache
def image(kernel: str) -> bytes:
    """The machine code of a kernel and of those beside it, compiled by NVRTC for the GPU here."""
    gpu = Gpu.find()
    assert gpu is not None
    return source.compile_with_nvrtc(source.source_of(kernel), gpu.compute_capability)


def torch_parity() -> str:
    from srgan_edge.engines.torch import TorchEngine

    torch = _torch()
    checkpoint = find_model("edge-x4").file(".safetensors")
    with TorchEngine(checkpoint) as cpu, TorchEngine(checkpoint, "cuda") as cuda:
        squares = _squares(2, 9)
        batches = [squares, squares[:, :31, :17]]
        return f"torch {torch.__version__}: {_within('fp32', cpu.upscale, cuda.upscale, batches)}"


def latencies(record: Record, model: str, width: int, height: int) -> dict[str, Any]:
    """Eager FP32 and FP16, and FP16 in a CUDA graph: alone, and with bytes there and back."""
    torch = _torch()
    gc.collect()  # what the size before left
    torch.cuda.empty_cache()
    from srgan_edge.checkpoint import load_checkpoint
    from srgan_edge.model import Deployment

    generator, _ = load_checkpoint(find_model(model).file(".safetensors"))
    pinned = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8).pin_memory()
    back = torch.empty((1, 4 * height, 4 * width, 3), dtype=torch.uint8).pin_memory()
    pixels = pinned.cuda()
    found: dict[str, Any] = {}
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
    ):
        half = half_deployment(generator)  # a copy
        full = Deployment(generator).eval().cuda()
        found["eager fp32"] = _timed(torch, lambda: full(pixels))
        found["eager fp16 channels_last"] = _timed(torch, lambda: half(pixels))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = half(pixels)
        expected = half(pixels)
        graph.replay()
        assert torch.equal(result, expected), "the replayed graph gave other bytes"
        found["fp16 graph"] = _timed(torch, graph.replay)

        def there_and_back() -> None:
            pixels.copy_(pinned, non_blocking=True)
            graph.replay()
            back.copy_(result, non_blocking=True)

        found["fp16 graph with copies"] = _timed(torch, there_and_back)
        before = torch.cuda.memory_allocated()
        for _ in range(500):
            there_and_back()
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() == before, "memory grew over 500 frames"
    record.figures.setdefault(model, {})[f"{width}x{height}"] = found
    return found


def half_deployment(generator: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - of torch
    """`Deployment` with a copy of the generator in FP16, channels last; bytes at both ends."""
    torch = _torch()
    network = copy.deepcopy(generator).half().cuda().to(memory_format=torch.channels_last)

    def run(pixels: Any) -> Any:  # noqa: ANN401
        lr = (pixels.permute(0, 3, 1, 2).half() / 255).contiguous(memory_format=torch.channels_last)
        sr = network(lr).float().clamp(0, 1) * 255 + 0.5
        return sr.permute(0, 2, 3, 1).to(torch.uint8)

    return run


def ceilings(record: Record) -> dict[str, float]:
    """TFLOP/s of a large matmul in FP16, and GB/s of a copy on the GPU, by PyTorch."""
    torch = _torch()
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


def tensorrt_rtx_runs() -> str:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise NotRun("tensorrt-rtx is not installed")
    from srgan_edge.engine_cache import EngineCache
    from srgan_edge.engines.openvino import OpenVinoEngine
    from srgan_edge.engines.tensorrt import TensorRtEngine
    from srgan_edge.export.engine import Target, export_engine
    from srgan_edge.passport import Profile

    gpu = Gpu.find()
    assert gpu is not None
    target, profile = Target.rtx((gpu.compute_capability,)), Profile.static(1, 96, 96)
    path = export_engine("edge-x4", "fp16", profile, target, EngineCache(), print)
    with (
        TensorRtEngine(path) as engine,
        OpenVinoEngine(find_model("edge-x4").file(".onnx"), fp32=True) as reference,
    ):
        return _within("fp16", reference.upscale, engine.upscale, [_squares(1, 8)])


def onnxruntime_parity() -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        raise NotRun("onnxruntime-gpu is not installed")
    onnxruntime = importlib.import_module("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NotRun("this onnxruntime has no CUDAExecutionProvider")
    from srgan_edge.engines.onnxruntime import OnnxRuntimeEngine

    path = find_model("edge-x4").file(".onnx")
    with OnnxRuntimeEngine(path) as cpu, OnnxRuntimeEngine(path, "cuda") as cuda:
        # TF32 may be in it
        return _within("fp16", cpu.upscale, cuda.upscale, [_squares(1, 8)])


def _within(
    gate: str,
    reference: Callable[[Pixels], Pixels],
    candidate: Callable[[Pixels], Pixels],
    batches: list[Pixels],
) -> str:
    """How far two engines are apart; an AssertionError beyond the gate."""
    parity = compare(reference, candidate, batches)
    assert not GATES[gate].refusals(parity), str(parity)
    return str(parity)


def _squares(frames: int, side: int) -> Pixels:
    """uint8 [N, 12 * side, 12 * side, 3]: squares of 12 px, each of one colour."""
    colours = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), np.uint8)
    return colours.repeat(12, 1).repeat(12, 2)


def _timed(torch: Any, run: Callable[[], Any]) -> dict[str, float]:  # noqa: ANN401
    """Milliseconds on the GPU's clock, after ten calls that are not counted."""
    for _ in range(10):
        run()
    pairs = []
    begun = time.monotonic()
    while len(pairs) < 20 or (len(pairs) < 200 and time.monotonic() - begun < 2):
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        run()
        pair[1].record()
        pair[1].synchronize()
        pairs.append(pair)
    times = sorted(start.elapsed_time(end) for start, end in pairs)
    at = lambda share: round(times[min(len(times) - 1, int(share * len(times)))], 4)  # noqa: E731
    return {"p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "calls": len(times)}


def _torch() -> Any:  # noqa: ANN401 - a module that may be absent
    if importlib.util.find_spec("torch") is None:
        raise NotRun("torch is not installed")
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise NotRun("this torch finds no GPU")
    return torch


def _too_late() -> None:
    raise NotRun("out of time; type --minutes")


def nvidia_smi() -> dict[str, str] | None:
    """Driver, clocks, power and heat, now."""
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
