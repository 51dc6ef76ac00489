"""OpenVINO: the default engine where there is no GPU."""

import os
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13

from srgan_edge.engines import openvino_bf16
from srgan_edge.engines.base import (
    AFTER_FORK,
    Closing,
    EngineInfo,
    finite,
    graph_failures_refused,
    in_window,
)
from srgan_edge.errors import (
    ModelRefused,
    OutOfMemory,
    ResourcesExhausted,
    UsageError,
    lacks_memory,
)
from srgan_edge.model.onnx_file import read_onnx, refuse_half
from srgan_edge.pixels import Pixels

# The model is compiled per input shape: on a CPU that is a quarter to a third faster than a model
# for dynamic shapes. A video has one shape, or two with a shorter last batch.
_SHAPES_KEPT = 2


def shared_core() -> openvino.Core:
    """Return the one OpenVINO of this process, which stays until its end.

    Note: a core gives its thread another stack for signal handlers (for AMX), and at its end puts
    back the one it found. Where cores overlap, that is the stack of a core which is gone: Ctrl-C
    would then be a segmentation fault.

    Raises:
        UsageError: the process was forked from one that used OpenVINO, whose threads it lacks.
    """
    core, process = _core_and_process()
    if process != os.getpid():
        raise UsageError(AFTER_FORK)
    return core


@cache
def _core_and_process() -> tuple[openvino.Core, int]:
    return openvino.Core(), os.getpid()


class OpenVinoEngine(Closing):
    """The deployment ONNX on the CPU, in BF16 where that is faster, else in FP32."""

    def __init__(
        self, path: Path, device: str = "cpu", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.onnx` file; `fp32` forbids BF16 and checks that every image is finite.

        With one slot, all cores work on one call. With more, each slot has its share of the cores
        and never waits for another. That is faster for many frames, above all while decoding and
        encoding share the same cores.

        Raises:
            ModelRefused: the file is not our ONNX or is in half precision, or OpenVINO cannot read
                it.
            ResourcesExhausted: there is no memory for OpenVINO itself.
        """
        file = read_onnx(path)
        refuse_half(path, file)
        try:
            core = shared_core()
            precision = "bf16" if not fp32 and openvino_bf16.pays(core) else "fp32"
        except RuntimeError as error:
            raise ResourcesExhausted(
                f"OpenVINO cannot be loaded ({_last_line(error)}); raise the limit (ulimit -v)"
            ) from None
        # Set in either case: the runtime would otherwise choose by CPU, without reporting it.
        hint = {"bf16": "bf16", "fp32": "f32"}[precision]
        self._config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if slots > 1:
            self._config |= {"NUM_STREAMS": str(slots), "ENABLE_CPU_PINNING": "NO"}
            del self._config["PERFORMANCE_HINT"]  # it would override the number of streams
        try:
            self._model = core.read_model(file.content)
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            raise ModelRefused(f"{path}: OpenVINO cannot read it: {_last_line(error)}") from None
        if fp32:
            _add_totals(self._model)
        if precision == "bf16" and file.spec.architecture == "srresnet":
            openvino_bf16.keep_image_in_fp32(core, self._model)
        self._compiled: dict[tuple[int, ...], _Compiled] = {}
        self._lock = threading.Lock()
        version = openvino.__version__.split("-")[0]
        # One call more than there are streams waits in the runtime and starts when another ends.
        queued = 1 if slots > 1 else 0
        self.info = EngineInfo(f"openvino {version}", device, precision, file.spec, slots + queued)

    def upscale(self, batch: Pixels) -> Pixels:
        spec = self.info.spec
        if spec.foreign is not None and (window_px := spec.foreign.window_px):
            return in_window(batch, window_px, spec.scale, self._run)
        return self._run(batch)

    def _run(self, batch: Pixels) -> Pixels:
        with self._lock:
            compiled = self._compiled.get(batch.shape) or self._compile(batch.shape)
            request = compiled.idle.pop() if compiled.idle else _Request(compiled.model)
        with graph_failures_refused(self.info.spec, "OpenVINO"):
            result = request.run(batch)
        compiled.idle.append(request)
        return result

    def close(self) -> None:
        self._compiled.clear()
        del self._model

    def _compile(self, shape: tuple[int, ...]) -> "_Compiled":
        while len(self._compiled) >= _SHAPES_KEPT:
            del self._compiled[next(iter(self._compiled))]
        model = self._model.clone()
        with graph_failures_refused(self.info.spec, "OpenVINO"):
            model.reshape(list(shape))
        try:
            compiled = _Compiled(shared_core().compile_model(model, "CPU", self._config))
        except RuntimeError as error:
            raise OutOfMemory(
                f"OpenVINO cannot compile the model for {shape[2]}x{shape[1]}, for want of memory "
                f"or threads ({_last_line(error)}); raise the limit (ulimit -v), or type --tile 64"
            ) from None
        self._compiled[shape] = compiled
        return compiled


class _Request:
    """One inference at a time, on tensors that the request owns.

    Note: `infer` shares its arrays with the runtime, which releases them under its own lock and
    needs Python's lock for that, while another thread may hold Python's lock and wait for the
    runtime's: a deadlock. So the runtime only sees tensors that it allocated once.
    """

    def __init__(self, model: openvino.CompiledModel) -> None:
        self._request = model.create_infer_request()
        self._input = self._request.get_input_tensor().data
        self._output, *self._totals = (tensor.data for tensor in self._request.output_tensors)

    def run(self, batch: Pixels) -> Pixels:
        np.copyto(self._input, batch)
        self._request.start_async()
        self._request.wait()
        result: Pixels = self._output.copy()
        for totals in self._totals:
            finite(result, totals)
        return result


@dataclass(frozen=True)
class _Compiled:
    """The model for one shape, and its requests that no thread is using."""

    model: openvino.CompiledModel
    idle: list[_Request] = field(default_factory=list)


def _add_totals(model: openvino.Model) -> None:
    """Add the output that `finite` checks.

    It costs a small network 2 to 5 % and changes the last bits in BF16, so it is off when speed
    matters more. A value that is finite in FP32 is also finite in BF16, which has the same range.
    """
    lower_ends = [op for op in model.get_ordered_ops() if op.get_type_name() == "Maximum"]
    clamped = [
        value
        for value in (lower_ends[-1].input_values() if lower_ends else ())
        if value.get_node().get_type_name() != "Constant"
    ]
    if len(clamped) != 1:
        raise ModelRefused("a graph that ends in no clamp; make it with: srgan-edge export")
    (image,) = clamped
    model.add_outputs(opset13.reduce_sum(image, np.array([1, 2, 3])).output(0))


def _last_line(error: Exception) -> str:
    """Return what went wrong; the lines above are places in OpenVINO's source."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)])[-1]
