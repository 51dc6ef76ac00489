"""List the engines, find those that can run on this machine, and choose one for a model."""

import importlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srgan_edge.engines.base import Engine
from srgan_edge.errors import ExtraMissing, UsageError, quoted
from srgan_edge.machine import Gpu, refuse_too_little, without_collections
from srgan_edge.model.library import ModelFiles
from srgan_edge.model.passport import ENGINE_SUFFIX

_OPENVINO_BYTES, _ONNXRUNTIME_BYTES = 224 << 20, 64 << 20
_SLOT_BYTES, _CORE_BYTES = 64 << 20, 16 << 20
"""Address space for libraries, for each call at a time and for each core, measured on two cores.
With less, a runtime may abort the process, or hang in it, rather than report an error."""


@dataclass(frozen=True)
class EngineKind:
    """One runtime: its name, the model files it reads and the packages it needs."""

    name: str
    class_name: str
    suffix: str
    """Suffix of the model files it runs."""
    requirement: str
    """The package to `pip install` for its runtime."""
    devices: tuple[str, ...]
    """Device families; the first one is the default where there is no GPU."""
    runtimes: tuple[str, ...] = ()
    """Modules of which at least one must be installed; empty: the module of the same name."""
    least_bytes: int = 0
    """Address space that it takes to load its libraries and a small network."""

    @property
    def installed(self) -> bool:
        runtimes = self.runtimes or (self.name,)
        return any(importlib.util.find_spec(runtime) is not None for runtime in runtimes)

    def refuse(self, device: str) -> None:
        """Refuse to run on a device of a family that the engine does not know.

        Raises:
            ExtraMissing: the runtime is not installed.
            UsageError: the engine does not run on this device.
        """
        if not self.installed:
            raise ExtraMissing(self.name, self.requirement, f"--engine {self.name}")
        if device.partition(":")[0] not in self.devices:
            raise UsageError(
                f"--engine {self.name} runs on {' or '.join(self.devices)}, not on {device!r}"
            )

    def open(self, path: Path, device: str, fp32: bool, slots: int) -> Engine:
        """Import the runtime and load `path` on `device`.

        Raises:
            ExtraMissing, UsageError: as `refuse`.
            HostMemoryExhausted: `ulimit -v` leaves too little for it.
        """
        self.refuse(device)
        if self.least_bytes:
            per_call = slots * _SLOT_BYTES + (os.cpu_count() or 1) * _CORE_BYTES
            refuse_too_little(self.least_bytes + per_call)
        with without_collections():
            module = importlib.import_module(f"srgan_edge.engines.{self.name}")
        create: Callable[..., Engine] = getattr(module, self.class_name)
        return create(path, device, fp32=fp32, slots=slots)


KINDS = {
    kind.name: kind
    for kind in (
        EngineKind(
            "openvino",
            "OpenVinoEngine",
            ".onnx",
            "srgan-edge",
            ("cpu",),
            least_bytes=_OPENVINO_BYTES,
        ),
        EngineKind(
            "onnxruntime",
            "OnnxRuntimeEngine",
            ".onnx",
            "srgan-edge[onnx]",
            ("cpu", "cuda", "tensorrt", "rtx"),
            least_bytes=_ONNXRUNTIME_BYTES,
        ),
        EngineKind("torch", "TorchEngine", ".safetensors", "srgan-edge[gpu]", ("cpu", "cuda")),
        EngineKind(
            "tensorrt",
            "TensorRtEngine",
            ".engine",
            "srgan-edge[rtx]",
            ("cuda",),
            ("tensorrt", "tensorrt_rtx"),
        ),
    )
}

_PREFERENCE = [
    ("tensorrt", "cuda"),
    ("torch", "cuda"),  # computes in FP16; onnxruntime in the FP32 of the file: docs/gpu.md
    ("onnxruntime", "cuda"),
    ("openvino", "cpu"),
    ("onnxruntime", "cpu"),
    ("torch", "cpu"),
]

_DEVICE = re.compile(r"auto|cpu|(cuda|tensorrt|rtx)(:\d+)?")


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a model, and the reason."""

    kind: EngineKind
    path: Path
    device: str
    reason: str


def choose_engine(model: ModelFiles, engine: str = "auto", device: str = "auto") -> Choice:
    """Choose the engine for a model.

    `auto` prefers tensorrt, then torch and onnxruntime on CUDA, then openvino, onnxruntime and
    torch on the CPU. Only engines that are installed and for which the model has a file count. A
    named engine runs on CUDA where it can.

    Raises:
        UsageError: the engine or the device is unknown, or no installed engine runs this model.
    """
    if not _DEVICE.fullmatch(device):
        raise UsageError(
            f"--device {device}; possible: auto, cpu, cuda, cuda:1 for the second GPU, and "
            "tensorrt or rtx with --engine onnxruntime"
        )
    if engine != "auto":
        if engine not in KINDS:
            raise UsageError(f"no engine {engine!r}; possible: auto, {', '.join(KINDS)}")
        kind = KINDS[engine]
        if device == "auto":
            device = "cuda" if "cuda" in kind.devices and _has_cuda(kind) else kind.devices[0]
        return Choice(kind, model.file(kind.suffix), device, "as asked")
    passed_over: list[str] = []
    if set(model.files) == {ENGINE_SUFFIX}:  # only TensorRT runs it, or reports why it cannot
        return choose_engine(model, "tensorrt", device)
    for name, family in _PREFERENCE:
        kind = KINDS[name]
        if kind.suffix == ENGINE_SUFFIX and not model.has(ENGINE_SUFFIX):
            continue
        if device != "auto" and device.partition(":")[0] != family:
            continue
        if device == "auto" and family == "cuda" and Gpu.find() is None:
            continue
        if reason := _why_not(kind, family, model):
            passed_over.append(f"{name} on {family}: {reason}")
            continue
        chosen = family if device == "auto" else device
        why = f"instead of {'; '.join(passed_over)}" if passed_over else "first choice"
        return Choice(kind, model.file(kind.suffix), chosen, why)
    advice = ""
    if model.has(".safetensors") and not model.has(".onnx") and not KINDS["torch"].installed:
        export = f"srgan-edge export {quoted(model.file('.safetensors'))} --onnx"
        advice = f"; type: pip install 'srgan-edge[export]', then: {export}"
    reasons = "; ".join(passed_over) or "possible with --engine onnxruntime"
    raise UsageError(f"no engine runs {model.name} on {device!r}: {reasons}{advice}")


def open_engine(choice: Choice, *, fp32: bool = False, slots: int = 1) -> Engine:
    """Open the engine that `choose_engine` returned.

    Args:
        fp32: forbid any lower precision.
        slots: number of calls that run at once; an engine may offer fewer: see `info.slots`.
    """
    return choice.kind.open(choice.path, choice.device, fp32, slots)


def video_slots() -> int:
    """Return the number of simultaneous calls that suits a video: one per CPU core, at most 4."""
    return min(4, os.cpu_count() or 1)


def _why_not(kind: EngineKind, family: str, model: ModelFiles) -> str | None:
    """Return why this engine cannot run the model, or None if it can."""
    if not model.has(kind.suffix):
        return f"{model.name} has no {kind.suffix} file"
    if not kind.installed:
        return "not installed"
    if family == "cuda" and not _has_cuda(kind):
        return "no CUDA device"
    return None


def _has_cuda(kind: EngineKind) -> bool:
    """Return True if the engine should run on CUDA, as far as is known before opening it."""
    if Gpu.find() is None or not kind.installed:
        return False
    if kind.name == "tensorrt":
        return True
    module = importlib.import_module(kind.name)
    if kind.name == "torch":
        return bool(module.cuda.is_available())
    return "CUDAExecutionProvider" in module.get_available_providers()
