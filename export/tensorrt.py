"""Build engines of TensorRT 10.3 to 11 and TensorRT-RTX from a typed graph.

One code path uses only calls that every version has. TensorRT times kernels, so it needs the GPU
that it builds for; TensorRT-RTX builds ahead of time on any machine. A builder is not trusted to
obey the types of the graph: its own list of kernels is read, and a plan with a convolution in
another precision is refused.
"""

import importlib
import importlib.util
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx

from srgan_edge.engines.tensorrt_log import explained, log_of
from srgan_edge.errors import (
    ExtraMissing,
    Interrupted,
    ModelRefused,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.export.half_onnx import HalfPrecision
from srgan_edge.model.passport import Layer, Profile
from srgan_edge.signals import StopSignals, stop_signals

Runtime = Literal["tensorrt", "tensorrt_rtx"]
EXTRAS: dict[Runtime, str] = {
    "tensorrt": "srgan-edge[tensorrt]",
    "tensorrt_rtx": "srgan-edge[rtx]",
}
OLDEST: dict[Runtime, tuple[int, int]] = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 7)}
DATATYPES: dict[HalfPrecision, str] = {"fp16": "Half", "bf16": "BFloat16"}
"""Names of the precisions in the builders' output."""

OnStep = Callable[[str, int, int], None]
"""Called with the name of a phase, the number of its steps done, and their total."""

_AGAIN = "srgan-edge export MODEL --fp16"
_CONVOLVING = re.compile("correlation|runtime_fusion|conv", re.IGNORECASE)
_LAYER = re.compile(
    r"Name: (?P<name>\S+), LayerType: (?P<kind>\w+), "
    r"Inputs: (?P<inputs>\[.*?\]), Constants: (?P<weights>\[.*?\]), "
    r"Outputs: (?P<outputs>\[.*?\]), (?P<rest>TacticName: .*)"
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_DATATYPES_IN_WORDS = {
    "UInt8": "uint8",
    "Int8": "int8",
    "BFloat16": "bf16|bfloat16",
    "Half": "fp16|half",
    "Float": "fp32|float",
}
"""Names of types in the logs, with their names in the text of the inspector."""


@dataclass(frozen=True)
class Search:
    """Settings of TensorRT's search for the fastest kernels; None keeps its default."""

    workspace_mib: int | None = None
    """Scratch memory on the GPU that a kernel may use; by default all of it."""
    optimization_level: int | None = None
    """0 takes the first kernel that works, 5 measures all of them."""

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"--workspace {self.workspace_mib}; possible: 1 MiB or more")
        if self.optimization_level not in (None, *range(6)):
            raise UsageError(f"--optimization-level {self.optimization_level}; possible: 0 to 5")


@dataclass(frozen=True)
class Plan:
    """A built engine."""

    content: bytes
    layers: tuple[Layer, ...]
    seconds: float
    timings: bytes = b""
    """TensorRT's measurements, for the next build on this GPU; TensorRT-RTX measures nothing."""


def build_plan(
    model: onnx.ModelProto,
    precision: HalfPrecision,
    profile: Profile,
    runtime: Runtime,
    compute_capabilities: Sequence[str] = (),
    search: Search | None = None,
    timings: bytes = b"",
    on_step: OnStep = lambda phase, done, steps: None,
) -> Plan:
    """Build an engine of a graph that `in_half` typed.

    Args:
        compute_capabilities: compute capabilities of the target GPUs, such as `8.9`; for
            TensorRT-RTX only.
        search: for TensorRT only.
        timings: those of an earlier plan; for TensorRT only.

    Raises:
        ExtraMissing: the runtime is not installed.
        UsageError: TensorRT-RTX does not know a compute capability, or cannot mix them.
        ModelRefused: the builder refuses the graph, or a convolution is not in its precision.
        ResourcesExhausted: TensorRT finds no GPU.
        Interrupted: a signal of `STOPPING` arrived.
    """
    trt, log = _import(runtime), log_of(runtime)
    log.clear()
    begun = time.perf_counter()
    builder = _builder_of(trt, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ModelRefused(f"{runtime} cannot read the graph: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or it lists no kernels
    shapes = builder.create_optimization_profile()
    limits = (profile.smallest, profile.best, profile.largest)
    shapes.set_shape(network.get_input(0).name, *((*shape, 3) for shape in limits))
    config.add_optimization_profile(shapes)
    if runtime == "tensorrt_rtx":
        config.num_compute_capabilities = len(compute_capabilities)
        for index, capability in enumerate(compute_capabilities):
            config.set_compute_capability(_compute_capability(trt, capability), index)
    else:
        _configure_search(trt, config, search or Search(), timings)
    with stop_signals() as signals:
        monitor = _monitor_of(trt, on_step, signals)
        config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
        if signals.received:
            raise Interrupted(signals.received, "no engine was written")
    if serialized is None:
        raise ModelRefused(f"{runtime} built nothing: {explained(log.errors, _AGAIN)}")
    content = bytes(serialized)
    if runtime == "tensorrt_rtx":
        layers = tuple(layers_in_log(log.messages))
        timings = b""
    else:
        layers = tuple(layers_in_engine(trt, log, content))
        timings = bytes(config.get_timing_cache().serialize())
    refuse_other_precision(layers, model, precision)
    return Plan(content, layers, time.perf_counter() - begun, timings)


def refuse_unknown_capabilities(compute_capabilities: Sequence[str]) -> None:
    """Check that TensorRT-RTX can build for these compute capabilities.

    Raises:
        UsageError: TensorRT-RTX does not know one of them.
        ExtraMissing: it is not installed.
    """
    trt = _import("tensorrt_rtx")
    for capability in compute_capabilities:
        _compute_capability(trt, capability)


def version_of(runtime: Runtime) -> str:
    """Return the full version of the runtime; an engine runs on that version only.

    Raises:
        ExtraMissing: the runtime is not installed.
        ModelRefused: it is too old.
    """
    return str(_import(runtime).__version__)


def layers_in_log(lines: Sequence[str]) -> Iterator[Layer]:
    """Yield the kernels that TensorRT-RTX lists, one per line, in its last `Layers:` message."""
    listings = [text for text in lines if text.startswith("Layers:")]
    for line in listings[-1].splitlines() if listings else []:
        if found := _LAYER.match(line):
            inputs, weights, outputs = (
                tuple(_DATATYPE.findall(found[part])) for part in ("inputs", "weights", "outputs")
            )
            nodes = tuple(_ONNX_NODE.findall(found["rest"]))
            yield Layer(found["name"], found["kind"], inputs, weights, outputs, nodes)


def layers_in_engine(trt: Any, log: Any, content: bytes) -> Iterator[Layer]:  # noqa: ANN401
    """Return the kernels that TensorRT's inspector finds in a plan, on the GPU it was built for.

    Raises:
        ModelRefused: the plan cannot be loaded.
    """
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise ModelRefused(f"the new engine cannot be loaded: {explained(log.errors, _AGAIN)}")
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return layers_in_json(text)


def layers_in_json(text: str) -> Iterator[Layer]:
    """Yield the kernels that the inspector of TensorRT 10 and 11 lists at DETAILED verbosity."""
    for record in json.loads(text)["Layers"]:
        if isinstance(record, str):
            continue  # a name alone, where the engine was built without details
        inputs, outputs = (
            tuple(_datatype(tensor["Format/Datatype"]) for tensor in record.get(side, []))
            for side in ("Inputs", "Outputs")
        )
        weights = tuple(
            _datatype(part["Type"])
            for part in (record.get("Weights"), record.get("Bias"))
            if isinstance(part, dict) and part.get("Count", 1)
        )
        nodes = tuple(_ONNX_NODE.findall(record.get("Metadata", "")))
        yield Layer(record["Name"], record["LayerType"], inputs, weights, outputs, nodes)


def refuse_other_precision(
    layers: Sequence[Layer], model: onnx.ModelProto, precision: HalfPrecision
) -> None:
    """Check that every convolution is in a kernel that reads and multiplies in its precision.

    That is `precision`, or INT8 where the graph has bytes before it.

    Raises:
        ModelRefused: one is in another precision, or in no kernel of the list.
    """
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        in_bytes = makers.get(node.input[0]) == "DequantizeLinear"
        wanted = "Int8" if in_bytes else DATATYPES[precision]
        kernels = [layer for layer in convolutions_of(layers) if node.name in layer.onnx_nodes]
        if not kernels:
            raise ModelRefused(
                f"the builder's list of {len(layers)} kernels does not name the convolution "
                f"{node.name}, so its precision is unknown"
            )
        for layer in kernels:
            # Biases may be in FP32; a kernel that multiplies in FP32 has everything in FP32. Other
            # inputs belong to fused operations, such as a sum with an image in FP32.
            if wanted not in layer.inputs or wanted not in (layer.weights or (wanted,)):
                raise ModelRefused(
                    f"the convolution {node.name} must be in {wanted}, but its kernel "
                    f"{layer.name} reads {', '.join(layer.inputs)} and has weights in "
                    f"{', '.join(layer.weights) or 'an unknown type'}"
                )


def convolutions_of(layers: Sequence[Layer]) -> list[Layer]:
    """Return the kernels that convolve, alone or with fused operations.

    Others name a convolution too but only arrange its input: TensorRT-RTX pads RGB to four.
    """
    return [layer for layer in layers if _CONVOLVING.search(layer.kind)]


def _datatype(words: str) -> str:
    """Return the type in a phrase like `Row major linear FP16 format`, or just `Half`."""
    for name, pattern in _DATATYPES_IN_WORDS.items():
        if re.search(rf"\b({pattern})\b", words, re.IGNORECASE):
            return name
    return words


def _import(runtime: Runtime) -> Any:  # noqa: ANN401 - a module that may be absent
    if importlib.util.find_spec(runtime) is None:
        raise ExtraMissing(runtime, EXTRAS[runtime], "building an engine")
    trt = importlib.import_module(runtime)
    major, minor, *_ = trt.__version__.split(".")
    oldest = OLDEST[runtime]
    if (int(major), int(minor)) < oldest:
        raise ModelRefused(
            f"{runtime} {trt.__version__} is too old; possible: {'.'.join(map(str, oldest))} or "
            f"newer; type: pip install --upgrade '{EXTRAS[runtime]}'"
        )
    return trt


def _builder_of(trt: Any, log: Any) -> Any:  # noqa: ANN401
    try:
        return trt.Builder(log)
    except TypeError:  # without a GPU TensorRT returns null, and the binding raises this
        raise ResourcesExhausted(f"no builder: {explained(log.errors, _AGAIN)}") from None


def _configure_search(trt: Any, config: Any, search: Search, timings: bytes) -> None:  # noqa: ANN401
    if search.workspace_mib is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, search.workspace_mib << 20)
    if search.optimization_level is not None:
        config.builder_optimization_level = search.optimization_level
    cache = config.create_timing_cache(timings)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        # A cache of another version or GPU, or damaged, which would only have saved time.
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _monitor_of(trt: Any, on_step: OnStep, signals: StopSignals) -> Any:  # noqa: ANN401
    """Return the builder's monitor, called from any thread, which reports steps and may stop it."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            on_step(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_step(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return not signals.received

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 1)
            on_step(phase_name, steps, steps)

    return Monitor()


def _compute_capability(trt: Any, text: str) -> Any:  # noqa: ANN401
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    if text not in known:
        raise UsageError(f"--compute-capability {text}; possible: {', '.join(known)}")
    return known[text]
