"""Check engines on the GPU against PyTorch on the CPU, their memory, and their latency."""

import copy
import importlib
import importlib.util
import json
import os
import struct
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from PIL import Image

from srgan_edge.engines.base import Engine
from srgan_edge.errors import UsageError
from srgan_edge.evaluation.parity import compare, gate_of
from srgan_edge.machine import Gpu
from srgan_edge.model.library import find_model, read_safetensors_spec
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels

NAMES = [
    *("torch fp32", "torch fp16"),
    *("onnxruntime cuda", "onnxruntime cuda fp16", "onnxruntime tensorrt", "onnxruntime rtx"),
    *("tensorrt fp16", "tensorrt_rtx fp16"),
]
"""Names of the engines in the JSON."""
PHOTO = Path(__file__).parent.parent / "srgan_edge" / "demo" / "photo.png"
MAX_RSS_SLOPE = 1024
"""Growth of this process's memory per frame that is acceptable, in bytes."""


class NotRun(Exception):
    """Something that a check needs is missing on this machine."""


def open_engine(name: str, model: str, size: tuple[int, int], slots: int = 1) -> Engine:
    """Open one of `NAMES` for frames of (width, height); a TensorRT engine is built or cached.

    Raises:
        NotRun: its runtime or its GPU is missing.
    """
    runtime, _, variant = name.partition(" ")
    if runtime == "torch":
        torch_with_gpu()
        from srgan_edge.engines.torch import TorchEngine

        generator, spec = generator_of(model)
        return TorchEngine.on_gpu(generator, spec, fp32=variant == "fp32", slots=slots)
    if importlib.util.find_spec(runtime) is None:
        raise NotRun(f"{runtime} is not installed")
    if variant == "tensorrt" and importlib.util.find_spec("tensorrt_libs") is None:
        raise NotRun("TensorRT's libraries, which come with tensorrt, are not installed")
    try:
        if runtime == "onnxruntime":
            from srgan_edge.engines.onnxruntime import OnnxRuntimeEngine

            device, _, form = variant.partition(" ")
            path = find_model(model).file(".onnx") if not form else _half_onnx(model)
            return OnnxRuntimeEngine(path, device, slots=slots)
        from srgan_edge.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(_built(runtime, model, size), slots=slots)
    except UsageError as error:  # no such provider, or no such GPU for TensorRT-RTX
        raise NotRun(str(error)) from None


def generator_of(model: str) -> tuple[Any, ModelSpec]:
    """Return a bundled generator and its spec, read without the package `safetensors`."""
    from srgan_edge.model.network import generator_from_spec

    path = find_model(model).file(".safetensors")
    content, spec = path.read_bytes(), read_safetensors_spec(path)
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    torch = importlib.import_module("torch")
    state = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            values = np.frombuffer(content[start:stop], np.float32).reshape(entry["shape"])
            state[name] = torch.from_numpy(values.copy())
    generator = generator_from_spec(spec)
    generator.load_state_dict(state)
    return generator.eval().requires_grad_(False), spec


def plain_half(generator: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - of torch
    """Return `Deployment` without optimizations, all in FP16 and channels last.

    uint8 (N, H, W, 3) -> uint8 (N, 4H, 4W, 3), on the device of the generator, which is copied.
    """
    torch = importlib.import_module("torch")
    network = copy.deepcopy(generator).half().to(memory_format=torch.channels_last)

    def run(pixels: Any) -> Any:  # noqa: ANN401
        lr = pixels.permute(0, 3, 1, 2).half() / 255  # channels last in memory
        levels = (network(lr).clamp(0, 1) * 255).round()
        return levels.permute(0, 2, 3, 1).to(torch.uint8)

    return run


def parity(name: str, model: str) -> str:
    """Compare an engine with PyTorch in FP32 on the CPU, on a photograph.

    Each shape is run three times: directly, recorded, and replayed.

    Raises:
        AssertionError: the engine misses its gate.
    """
    from srgan_edge.engines.torch import TorchEngine

    photo = np.asarray(Image.open(PHOTO).convert("RGB"))[None]
    with (
        open_engine(name, model, (96, 80)) as engine,
        TorchEngine.from_generator(*generator_of(model)) as reference,
    ):
        crops = [photo[:, 40:120, 60:156]]
        if engine.info.fixed_shape is None:
            crops += [photo[:, :31, :17], np.concatenate([photo[:, :9, :8], photo[:, -9:, -8:]])]
        expected = {crop.tobytes(): reference.upscale(crop) for crop in crops}
        found = compare(lambda it: expected[it.tobytes()], engine.upscale, crops * 3)
        gate = gate_of(engine.info.spec, engine.info.precision)
        assert not gate.refusals(found), f"{engine.info.arithmetic}: {found}"
        return f"{engine.info.name}, {engine.info.arithmetic}: {found}"


def replays(name: str, model: str) -> str:
    """Check that direct, recorded and replayed calls return the same bytes in every slot."""
    frames = _frames(4, 96, 80)
    with open_engine(name, model, (96, 80), slots=3) as engine:
        first = [engine.upscale(frame) for frame in frames]
        with ThreadPoolExecutor(engine.info.slots) as executor:
            later = list(executor.map(engine.upscale, frames * 25))
        for number, result in enumerate(later):
            assert np.array_equal(result, first[number % 4]), f"call {number}: different bytes"
        return f"{engine.info.name}: {len(later)} calls in {engine.info.slots} slots"


def soak(engine: Engine, size: tuple[int, int], frames: int) -> dict[str, Any]:
    """Run `frames` frames through the slots like a video; returns speed and memory growth.

    Raises:
        AssertionError: a byte differs from the first result, or memory grew over the second half.
    """
    given = _frames(8, *size)
    expected = [engine.upscale(frame) for frame in given]
    samples = []
    waiting: deque[tuple[int, Future[Pixels]]] = deque()
    begun = time.perf_counter()
    with ThreadPoolExecutor(engine.info.slots) as executor:
        for number in range(frames):
            waiting.append((number, executor.submit(engine.upscale, given[number % 8])))
            if len(waiting) > engine.info.slots:
                index, result = waiting.popleft()
                same = np.array_equal(result.result(), expected[index % 8])
                assert same, f"frame {index} differs from its first result"
            if number % max(1, frames // 100) == 0:
                samples.append((number, _resident_bytes(), _gpu_bytes()))
    fps = frames / (time.perf_counter() - begun)
    late = np.array(samples[len(samples) // 2 :], float)
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    grown = int(late[-1, 2] - late[0, 2])
    assert slope < MAX_RSS_SLOPE, f"the process grew by {slope:.0f} bytes a frame"
    assert grown <= 0, f"{grown} bytes more of the GPU are in use than half-way"
    return {"frames": frames, "fps": round(fps, 1), "rss_bytes_a_frame": round(slope, 1)}


def end_to_end(name: str, model: str, size: tuple[int, int]) -> dict[str, float]:
    """Measure milliseconds from pixels to pixels in host memory, one call after the other."""
    with open_engine(name, model, size) as engine:
        (frame,) = _frames(1, *size)
        return percentiles(_walls(lambda: engine.upscale(frame)))


def tensorrt_on_gpu(name: str, model: str, size: tuple[int, int]) -> dict[str, Any]:
    """Measure an engine's slot on the GPU's clock: its kernels alone, and with copies."""
    with open_engine(name, model, size) as engine:
        cuda, (slot,) = engine.cuda, engine._slots
        with cuda.current():
            stream = slot.stream

            def timed(work: Callable[[], Any]) -> float:
                start, end = cuda.event(), cuda.event()
                start.record(stream)
                work()
                end.record(stream)
                end.synchronize()
                return end.milliseconds_since(start)

            run = {"alone": lambda: slot._context.execute_async_v3(stream.handle)}
            if slot._graph is not None:
                run["graph with copies"] = lambda: slot._graph.launch(stream)
            return {what: percentiles(repeated(lambda w=w: timed(w))) for what, w in run.items()}


def on_gpus_clock(torch: Any, run: Callable[[], Any]) -> Callable[[], float]:  # noqa: ANN401
    """Return a function for `repeated` that runs `run` and returns its milliseconds on the GPU."""

    def timed() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    return timed


def repeated(timed: Callable[[], float], seconds: float = 1) -> list[float]:
    """Call `timed` 5 to 200 times within `seconds`, after a warm-up of 3 calls, or 10 quick ones.

    `timed` waits for the work that it times.
    """
    begun = time.monotonic()
    for number in range(10):
        if number < 3 or time.monotonic() - begun < seconds / 10:
            timed()
    times: list[float] = []
    begun = time.monotonic()
    while len(times) < 5 or (len(times) < 200 and time.monotonic() - begun < seconds):
        times.append(timed())
    return times


def percentiles(times: list[float]) -> dict[str, float]:
    """Return p50, p90 and p99 of milliseconds."""
    at = {share: float(np.percentile(times, share)) for share in (50, 90, 99)}
    return {f"p{share}_ms": round(value, 4) for share, value in at.items()} | {"calls": len(times)}


def gpu_here() -> Gpu:
    gpu = Gpu.find()
    assert gpu is not None, "no check runs without a GPU"
    return gpu


def torch_with_gpu() -> Any:  # noqa: ANN401 - a module that may be absent
    """Return the module `torch`.

    Raises:
        NotRun: it is not installed, or finds no GPU.
    """
    if importlib.util.find_spec("torch") is None:
        raise NotRun("torch is not installed")
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise NotRun("this torch finds no GPU")
    return torch


@cache
def _half_onnx(model: str) -> Path:
    from srgan_edge.export.half_onnx import half_onnx_from_checkpoint

    path = Path(mkdtemp()) / f"{model}-fp16.onnx"
    half_onnx_from_checkpoint(find_model(model).file(".safetensors"), path, print)
    return path


@cache
def _built(runtime: str, model: str, size: tuple[int, int]) -> Path:
    from srgan_edge.engines.cache import EngineCache
    from srgan_edge.export.engine import Target, export_engine
    from srgan_edge.export.tensorrt import Search
    from srgan_edge.model.passport import Profile

    gpu = gpu_here()
    is_rtx = runtime == "tensorrt_rtx"
    target = Target.rtx((gpu.compute_capability,)) if is_rtx else Target.tensorrt(Search())
    width, height = size
    profile = Profile.static(1, height, width)
    return export_engine(model, "fp16", profile, target, EngineCache(), print)


def _frames(number: int, width: int, height: int) -> list[Pixels]:
    """Return frames uint8 [1, H, W, 3] of squares of 12 px, each of one color."""
    rows, columns = -(-height // 12), -(-width // 12)
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (number, 1, rows, columns, 3), np.uint8)
    return [it.repeat(12, 1).repeat(12, 2)[:, :height, :width].copy() for it in colors]


def _walls(run: Callable[[], Any]) -> list[float]:
    def timed() -> float:
        begun = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - begun)

    return repeated(timed)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _gpu_bytes() -> int:
    """Return the memory in use on the GPU by all processes; 0 if unknown."""
    try:
        free, total = torch_with_gpu().cuda.mem_get_info()
    except NotRun:
        return 0
    return int(total - free)
