"""Engines of TensorRT-RTX: from a typed graph to a plan, ahead of time and without a GPU.

Whether a builder did what the graph says is not taken on trust: it lists the kernels of the plan in
its log, and a plan with a convolution in another precision is refused.
"""

import importlib.util
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from srgan_edge.errors import ExtraMissing, ModelRefused, UsageError
from srgan_edge.export.precision import HalfPrecision
from srgan_edge.passport import Layer, Profile

RTX = "tensorrt_rtx"
DATATYPES: dict[HalfPrecision, str] = {"fp16": "Half", "bf16": "BFloat16"}
"""What the builder calls them."""


@dataclass(frozen=True)
class Plan:
    """A built engine."""

    content: bytes
    layers: tuple[Layer, ...]
    seconds: float


def build_plan(
    model: onnx.ModelProto,
    precision: HalfPrecision,
    profile: Profile,
    compute_capabilities: Sequence[str],
) -> Plan:
    """Build an engine of a graph that `in_half` typed.

    Args:
        compute_capabilities: of the GPUs it is for, as `8.9`.

    Raises:
        ExtraMissing: tensorrt-rtx is not installed.
        UsageError: the builder does not know a compute capability, or cannot mix them.
        ModelRefused: the builder refuses the graph, or a convolution is not in `precision`.
    """
    trt = _builder()
    log = _log_of(trt)
    begun = time.perf_counter()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ModelRefused(f"TensorRT-RTX cannot read the graph: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or it lists no kernels
    shapes = builder.create_optimization_profile()
    limits = (profile.smallest, profile.best, profile.largest)
    shapes.set_shape(network.get_input(0).name, *((*shape, 3) for shape in limits))
    config.add_optimization_profile(shapes)
    config.num_compute_capabilities = len(compute_capabilities)
    for index, capability in enumerate(compute_capabilities):
        config.set_compute_capability(_compute_capability(trt, capability), index)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelRefused(f"TensorRT-RTX built nothing: {log.complaint}")
    layers = tuple(layers_in_log(log.lines))
    refuse_other_precision(layers, model, precision)
    seconds = time.perf_counter() - begun
    return Plan(bytes(serialized), layers, seconds)


def refuse_unknown_capabilities(compute_capabilities: Sequence[str]) -> None:
    """
    Raises:
        UsageError: the builder does not know one.
        ExtraMissing: tensorrt-rtx is not installed.
    """
    trt = _builder()
    for capability in compute_capabilities:
        _compute_capability(trt, capability)


def builder_version() -> str:
    """All four parts of it; an engine runs on that version alone.

    Raises:
        ExtraMissing: tensorrt-rtx is not installed.
    """
    return str(_builder().__version__)


def layers_in_log(lines: Sequence[str]) -> Iterator[Layer]:
    """The kernels a builder lists, one a line, in the last message that begins with `Layers:`."""
    listings = [text for text in lines if text.startswith("Layers:")]
    for line in listings[-1].splitlines() if listings else []:
        if found := _LAYER.match(line):
            inputs, weights, outputs = (
                tuple(_DATATYPE.findall(found[part])) for part in ("inputs", "weights", "outputs")
            )
            nodes = tuple(_ONNX_NODE.findall(found["rest"]))
            yield Layer(found["name"], found["kind"], inputs, weights, outputs, nodes)


def refuse_other_precision(
    layers: Sequence[Layer], model: onnx.ModelProto, precision: HalfPrecision
) -> None:
    """Every convolution of the graph is in a kernel that reads and multiplies in `precision`.

    Raises:
        ModelRefused: one is in another precision, or in no kernel of the list.
    """
    wanted = DATATYPES[precision]
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        kernels = [layer for layer in convolutions_of(layers) if node.name in layer.onnx_nodes]
        if not kernels:
            raise ModelRefused(
                f"the builder's list of {len(layers)} kernels does not name the convolution "
                f"{node.name}, so its precision is unknown"
            )
        for layer in kernels:
            # Biases may be in FP32; of a kernel that multiplies in FP32 all is.
            if set(layer.inputs) != {wanted} or wanted not in layer.weights:
                raise ModelRefused(
                    f"the convolution {node.name} was to be in {precision}, but its kernel "
                    f"{layer.name} reads {', '.join(layer.inputs)} and has weights in "
                    f"{', '.join(layer.weights)}"
                )


def convolutions_of(layers: Sequence[Layer]) -> list[Layer]:
    """The kernels that convolve, alone or with what was fused into them.

    Others name a convolution too, if they only arrange its input: TensorRT-RTX pads RGB to four.
    """
    return [layer for layer in layers if layer.kind in ("correlation", "runtime_fusion")]


_LAYER = re.compile(
    r"Name: (?P<name>\S+), LayerType: (?P<kind>\w+), "
    r"Inputs: (?P<inputs>\[.*?\]), Constants: (?P<weights>\[.*?\]), "
    r"Outputs: (?P<outputs>\[.*?\]), (?P<rest>TacticName: .*)"
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def _builder() -> Any:  # noqa: ANN401 - a module that may be absent
    if importlib.util.find_spec(RTX) is None:
        raise ExtraMissing(RTX, "srgan-edge[rtx]", "building an engine")
    return importlib.import_module(RTX)


def _log_of(trt: Any) -> Any:  # noqa: ANN401 - a class of a module that may be absent
    """A logger that keeps everything: errors arrive nowhere else."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            self.lines.append(message)
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        @property
        def complaint(self) -> str:
            return "; ".join(self.errors) or "it gave no reason"

    return Log()


def _compute_capability(trt: Any, text: str) -> Any:  # noqa: ANN401
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if text not in known:
        raise UsageError(f"--compute-capability {text}; possible: {', '.join(known)}")
    return known[text]
