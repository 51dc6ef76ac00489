"""Engines of TensorRT 10.3 to 11 and of TensorRT-RTX: from a typed graph to a plan.

One path for all of them, made of calls that every version has. TensorRT times kernels, and so needs
the GPU that it builds for; TensorRT-RTX builds ahead of time on any machine. Whether a builder did
what the graph says is not taken on trust: its own list of kernels is read, and a plan with a
convolution in another precision is refused.
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
"""What the builders call them."""

OnStep = Callable[[str, int, int], None]
"""Takes the name of a phase, the steps of it that are done, and how many there are."""


@dataclass(frozen=True)
class Search:
    """How TensorRT looks for the fastest kernels; None leaves it to TensorRT."""

    workspace_mib: int | None = None
    """Scratch memory on the GPU that a kernel may ask for; all of it if left out."""
    optimization_level: int | None = None
    """0 takes the first kernel that works, 5 times them all."""

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
    """What TensorRT measured, for the next build on this GPU; TensorRT-RTX measures nothing."""


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
        compute_capabilities: of the GPUs it is for, as `8.9`; for TensorRT-RTX alone.
        search: for TensorRT alone, as are `timings`, of an earlier plan.

    Raises:
        ExtraMissing: the runtime is not installed.
        UsageError: TensorRT-RTX does not know a compute capability, or cannot mix them.
        ModelRefused: the builder refuses the graph, or a convolution is not in its precision.
        ResourcesExhausted: TensorRT finds no GPU.
        Interrupted: SIGINT or SIGTERM.
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
        _say_how_to_search(trt, config, search or Search(), timings)
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
    """
    Raises:
        UsageError: TensorRT-RTX does not know one.
        ExtraMissing: it is not installed.
    """
    trt = _import("tensorrt_rtx")
    for capability in compute_capabilities:
        _compute_capability(trt, capability)


def version_of(runtime: Runtime) -> str:
    """All parts of it; an engine runs on that version alone.

    Raises:
        ExtraMissing: the runtime is not installed.
        ModelRefused: it is too old.
    """
    return str(_import(runtime).__version__)


def layers_in_log(lines: Sequence[str]) -> Iterator[Layer]:
    """The kernels that TensorRT-RTX lists, one a line, in its last message of `Layers:`."""
    listings = [text for text in lines if text.startswith("Layers:")]
    for line in listings[-1].splitlines() if listings else []:
        if found := _LAYER.match(line):
            inputs, weights, outputs = (
                tuple(_DATATYPE.findall(found[part])) for part in ("inputs", "weights", "outputs")
            )
            nodes = tuple(_ONNX_NODE.findall(found["rest"]))
            yield Layer(found["name"], found["kind"], inputs, weights, outputs, nodes)


def layers_in_engine(trt: Any, log: Any, content: bytes) -> Iterator[Layer]:  # noqa: ANN401
    """The kernels that TensorRT's inspector finds in a plan, on the GPU it was built for.

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
    """The kernels in what the inspector of TensorRT 10 and 11 writes at DETAILED verbosity."""
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
    """Every convolution of the graph is in a kernel that reads and multiplies in its precision.

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
            # Biases may be in FP32; of a kernel that multiplies in FP32 all is. Other inputs are
            # what was fused in: a sum with an image in FP32.
            if wanted not in layer.inputs or wanted not in (layer.weights or (wanted,)):
                raise ModelRefused(
                    f"the convolution {node.name} was to be in {wanted}, but its kernel "
                    f"{layer.name} reads {', '.join(layer.inputs)} and has weights in "
                    f"{', '.join(layer.weights) or 'a type it does not tell'}"
                )


def convolutions_of(layers: Sequence[Layer]) -> list[Layer]:
    """The kernels that convolve, alone or with what was fused into them.

    Others name a convolution too, if they only arrange its input: TensorRT-RTX pads RGB to four.
    """
    return [layer for layer in layers if _CONVOLVING.search(layer.kind)]


_CONVOLVING = re.compile("correlation|runtime_fusion|conv", re.IGNORECASE)
_AGAIN = "srgan-edge export MODEL --fp16"
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
"""As the logs name them, and what they are called in the words of the inspector."""


def _datatype(words: str) -> str:
    """The type in a phrase like `Row major linear FP16 format`, which may also be `Half` alone."""
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
    except TypeError:  # what the binding makes of nothing; without a GPU TensorRT gives that
        raise ResourcesExhausted(f"no builder: {explained(log.errors, _AGAIN)}") from None


def _say_how_to_search(trt: Any, config: Any, search: Search, timings: bytes) -> None:  # noqa: ANN401
    if search.workspace_mib is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, search.workspace_mib << 20)
    if search.optimization_level is not None:
        config.builder_optimization_level = search.optimization_level
    cache = config.create_timing_cache(timings)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        # Of another version or GPU, or damaged: it would only have saved time.
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _monitor_of(trt: Any, on_step: OnStep, signals: StopSignals) -> Any:  # noqa: ANN401
    """What the builder calls after each step, from whichever thread, and may be stopped by."""

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
