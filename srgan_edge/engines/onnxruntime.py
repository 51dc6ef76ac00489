"""ONNX Runtime: runs almost anywhere, on exactly one execution provider.

By default, ONNX Runtime computes nodes that a provider rejects on the CPU, and continues without a
provider that does not start. Both are forbidden here, and the provider of every node is checked.
"""

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from srgan_edge.engines.base import (
    Closing,
    EngineInfo,
    Idle,
    finite,
    graph_failures_refused,
    in_window,
)
from srgan_edge.engines.cache import EngineCache
from srgan_edge.errors import (
    EngineLost,
    ExtraMissing,
    ModelRefused,
    OutOfMemory,
    SrganEdgeError,
    UsageError,
)
from srgan_edge.model.onnx_file import TOTALS, read_onnx, refuse_half
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels


@dataclass(frozen=True)
class Provider:
    """An execution provider, as `--device` names it."""

    name: str
    precision: str
    extra: str
    """The package to `pip install` for it."""
    options: dict[str, str] = field(default_factory=dict)


PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", "fp32", "srgan-edge[onnx]"),
    "cuda": Provider("CUDAExecutionProvider", "fp32", "srgan-edge[cuda]", {"use_tf32": "0"}),
    # TF32 cannot be turned off in either of these.
    "tensorrt": Provider("TensorrtExecutionProvider", "tf32", "srgan-edge[cuda]"),
    "rtx": Provider("NvTensorRTRTXExecutionProvider", "tf32", "onnxruntime-ep-nv-tensorrt-rtx"),
}
RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"

_MEMORY = re.compile("out of memory|failed to allocate|ALLOC_FAILED", re.IGNORECASE)


class OnnxRuntimeEngine(Closing):
    """The deployment ONNX in the precision of its graph; but TensorRT computes FP32 as TF32.

    A file in FP16 (`srgan-edge export --onnx --fp16`) is for a GPU: on a CPU, ONNX Runtime would
    silently compute it in FP32.
    """

    def __init__(
        self, path: Path, device: str = "cpu", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.onnx` file onto a provider and device: `cpu`, `cuda`, `tensorrt:1`, `rtx`.

        Raises:
            ModelRefused: the file is not our ONNX, or the provider cannot load all of it.
            UsageError: this build of ONNX Runtime lacks the provider, or `fp32` is impossible.
            ExtraMissing: the provider is a separate package that is not installed.
        """
        file = read_onnx(path)
        family, _, gpu = device.partition(":")
        if not (gpu or "0").isdecimal():
            raise UsageError(f"--device {device}: no GPU {gpu!r}; possible: {family}:0 and so on")
        provider, number = PROVIDERS[family], int(gpu or 0)
        precision = provider.precision if file.precision == "fp32" else file.precision
        if family == "cpu":
            refuse_half(path, file)
        if fp32 and precision != "fp32":
            raise UsageError(
                f"{path.name} on {device} runs in {precision}; --fp32 works with --device cuda "
                "and files in FP32"
            )
        self._session = _open_session(path, file.content, family, number, slots)
        self._compute: Callable[[Pixels], Sequence[Any]] = self._with_copies
        if family in ("cuda", "tensorrt"):
            place = ("cuda", number)
            made = [_Slot(self._session, place, file.spec) for _ in range(slots)]
            self._compute = partial(_in_a_slot, Idle(made))
        name = f"onnxruntime {onnxruntime.__version__}"
        if family in ("tensorrt", "rtx"):
            name += f" with {provider.name.removesuffix('ExecutionProvider')}"
        where = "cpu" if family == "cpu" else f"cuda:{number}"
        self.info = EngineInfo(name, where, precision, file.spec, slots)

    def upscale(self, batch: Pixels) -> Pixels:
        spec = self.info.spec
        if spec.foreign is not None and (window_px := spec.foreign.window_px):
            return in_window(batch, window_px, spec.scale, self._run)
        return self._run(batch)

    def _run(self, batch: Pixels) -> Pixels:
        on_cpu = self.info.device == "cpu"
        with graph_failures_refused(self.info.spec, "ONNX Runtime") if on_cpu else _translated():
            result, *totals = self._compute(batch)
        for sums in totals:
            finite(result, sums)
        return result

    def close(self) -> None:
        del self._compute, self._session

    def _with_copies(self, batch: Pixels) -> Sequence[Any]:
        """Run the graph on host arrays and return all of its outputs."""
        (name,) = (given.name for given in self._session.get_inputs())
        outputs: Sequence[Any] = self._session.run(None, {name: batch})
        return outputs


def refuse_other_nodes(session: onnxruntime.InferenceSession, provider: str, path: Path) -> None:
    """Check that the provider computes every node of the graph.

    Raises:
        ModelRefused: another provider computes some node.
    """
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != provider:
            nodes = ", ".join(node.op_type for node in part.get_nodes())
            raise ModelRefused(
                f"{path}: onnxruntime assigned {nodes} to {part.ep_name}, not to {provider}"
            )


def _in_a_slot(idle: "Idle[_Slot]", batch: Pixels) -> Sequence[Any]:
    with idle.one() as slot:
        return slot.run(batch)


class _Slot:
    """Device memory that inputs and outputs are bound to, for a few shapes.

    With one slot, each of the first two shapes that repeat, as those of a video do, gets a CUDA
    graph. With more slots there are no graphs: while ONNX Runtime records one, the whole process
    must not allocate, and the other slots hide the time that a graph would save.
    """

    SHAPES_KEPT = 2

    def __init__(
        self, session: onnxruntime.InferenceSession, place: tuple[str, int], spec: ModelSpec
    ) -> None:
        self._session, self._place, self._scale = session, place, spec.scale
        self._bound: dict[tuple[int, ...], _Bound] = {}
        self._graphs = count(1)

    def run(self, batch: Pixels) -> Sequence[Any]:
        """Run the graph on uint8 [N, H, W, 3]; on a CPU, outputs are valid until the next call."""
        bound = self._bound.get(batch.shape)
        if bound is None:
            while len(self._bound) >= self.SHAPES_KEPT:
                del self._bound[next(iter(self._bound))]
            bound = _Bound(self._session, batch.shape, self._place, self._scale)
        elif bound.graph is None:
            bound.graph = next(self._graphs)
        result = bound.run(self._session, np.ascontiguousarray(batch))
        self._bound[batch.shape] = bound  # only after it has worked
        return result


class _Bound:
    """The device tensors for one shape."""

    GRAPHS_RECORDED = 2
    """Limit on graphs: ONNX Runtime keeps each of them as long as its session."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        shape: tuple[int, ...],
        place: tuple[str, int],
        scale: int,
    ) -> None:
        frames, height, width, channels = shape
        larger = (frames, scale * height, scale * width, channels)
        create = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._source, self._binding = create(shape, np.uint8, *place), session.io_binding()
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._source)
        self._targets = []
        for output in session.get_outputs():
            sizes, kind = ((frames,), np.float32) if output.name == TOTALS else (larger, np.uint8)
            self._targets.append(create(sizes, kind, *place))
            self._binding.bind_ortvalue_output(output.name, self._targets[-1])
        self.graph: int | None = None
        """Number of the CUDA graph for this shape; None: the shape came only once so far."""

    def run(self, session: onnxruntime.InferenceSession, batch: Pixels) -> Sequence[Any]:
        options = onnxruntime.RunOptions()
        recorded = self.graph is not None and self.graph <= self.GRAPHS_RECORDED
        options.add_run_config_entry("gpu_graph_id", str(self.graph) if recorded else "-1")
        self._source.update_inplace(batch)
        session.run_with_iobinding(self._binding, options)
        return [target.numpy() for target in self._targets]


def _open_session(
    path: Path, content: bytes, family: str, number: int, slots: int
) -> onnxruntime.InferenceSession:
    """Load the checked content of a file; `path` is for error messages."""
    provider, options = PROVIDERS[family], _session_options(slots, on_cpu=family == "cpu")
    if family != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings = provider.options | ({} if family == "cpu" else {"device_id": str(number)})
    if family == "cuda" and slots == 1:
        settings["enable_cuda_graph"] = "1"
    if family == "tensorrt":
        settings |= _caches()
    try:
        if family == "rtx":
            options.add_provider_for_devices([_rtx_device(number)], {})
            named = None
        else:
            _refuse_unknown(provider, family)
            named = [(provider.name, settings)]
        session = onnxruntime.InferenceSession(content, options, providers=named, enable_fallback=0)
    except SrganEdgeError:
        raise
    except Exception as error:  # its exceptions have no base class in common
        raise ModelRefused(
            f"{path}: onnxruntime cannot load all of it on {provider.name}: {error}"
        ) from None
    refuse_other_nodes(session, provider.name, path)
    return session


def _refuse_unknown(provider: Provider, family: str) -> None:
    available = onnxruntime.get_available_providers()
    if provider.name not in available:
        raise UsageError(
            f"onnxruntime here has no {provider.name} (it has {', '.join(available)}); "
            f"type --device cpu, or: pip install '{provider.extra}'"
        )


def _rtx_device(number: int) -> Any:  # noqa: ANN401 - an object of ONNX Runtime's
    """Return a GPU of NVIDIA's plugin, which has to be registered first."""
    if importlib.util.find_spec(RTX_PLUGIN) is None:
        raise ExtraMissing(RTX_PLUGIN, PROVIDERS["rtx"].extra, "--device rtx")
    plugin, name = importlib.import_module(RTX_PLUGIN), PROVIDERS["rtx"].name
    if not any(device.ep_name == name for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if number >= len(found):
        raise UsageError(f"--device rtx:{number}, but {name} finds {len(found)} GPUs")
    return found[number]


def _session_options(slots: int, *, on_cpu: bool) -> onnxruntime.SessionOptions:
    # For messages outside of sessions: a GPU without a plugin causes a warning every time.
    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    if slots > 1:
        options.intra_op_num_threads = max(1, (os.cpu_count() or 1) // slots)
    # Errors only; fallbacks, which cause warnings, are forbidden. On a CPU not even those: they are
    # raised too, and the line in the log has names from the file as they are.
    options.log_severity_level = 4 if on_cpu else 3
    # Idle threads that spin would take CPU time from decoding and encoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _caches() -> dict[str, str]:
    """Return options that cache what TensorRT takes minutes to build, in our engine folder."""
    folder = str(EngineCache().folder)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


@contextmanager
def _translated() -> Iterator[None]:
    """Translate ONNX Runtime's errors while a GPU computes, all of a few types, into ours."""
    try:
        yield
    except (state.Fail, state.RuntimeException, state.EPFail, state.EngineError) as error:
        what = next(line for line in str(error).splitlines() if line.strip())
        if _MEMORY.search(str(error)):
            raise OutOfMemory from error
        raise EngineLost(f"the GPU failed: {what}") from error
