"""Check an ONNX file before a runtime loads it: it must be one of our graphs, and harmless.

A graph is a program. It may loop forever, request a gigabyte in seventy bytes, or name local files
as its weights. So a runtime only gets graphs that the exporter could have written: a few
operations, weights inside the file, bytes as input and output, and no more memory and
multiplications than the spec of the model needs.

The file itself never reaches a runtime. Parsers disagree about repeated and unknown fields, so the
message that was checked is serialized again, and `OnnxFile.content` is all that a runtime gets.
"""

import math
import resource
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from srgan_edge.errors import HostMemoryExhausted, ModelRefused, printable
from srgan_edge.files import foreign, read_at_most
from srgan_edge.machine import address_space_is_limited
from srgan_edge.model.foreign_graph import why_no_foreign
from srgan_edge.model.onnx_graph import (
    BFLOAT16,
    FLOAT,
    FLOAT16,
    UINT8,
    fix_sizes,
    inputs_of,
    why_no_weight,
)
from srgan_edge.model.spec import MAX_SCALE, METADATA_KEY, ModelSpec, multiplications_per_px

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MAX_BYTES = 1 << 30
MAX_NODES = 4096

TOTALS = "totals"
"""Name of the output with the sum of each image, in graphs in half precision."""

MAX_FACTOR = MAX_SCALE
"""Limit on the product of the factors of all Resize nodes, and of all DepthToSpace nodes."""

MAX_REACH_PX = 64
"""Limit on the kernel size, padding and stride of a convolution."""

MAX_CHANNELS = 4096
"""Limit on the number of values in an operand of an image: one per channel."""

SHORT_BYTES = 8 << 20
"""Files up to this size are parsed at once: an empty message of two bytes becomes 155 in memory."""

PARSER_BYTES = 4 << 30
"""Address space of the process that parses a longer file first."""

PARSER_SECONDS = 60

OPERATIONS = (
    {"Conv", "PRelu", "Relu", "BatchNormalization", "DepthToSpace", "Resize", "Tanh"}
    | {"Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "ReduceSum"}
    | {"Cast", "Transpose", "Identity", "Constant", "QuantizeLinear", "DequantizeLinear"}
)
"""Operations of the exporter and its rewrites. Those that enlarge their input have limits."""

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"}
_KEEPS_SHAPE = {"Identity", "Cast", "Transpose", "QuantizeLinear", "DequantizeLinear"}

_LAYOUTS = ([0, 3, 1, 2], [0, 2, 3, 1])
"""Permutations of axes from bytes [N, H, W, 3] and back."""

_HEIGHT_PX, _WIDTH_PX = 100_003, 99_991
"""The image for which the cost is counted: so large that a side in place of the channels shows."""

_EXTRA_MULTIPLICATIONS = 1.5
"""Largest share of multiplications beyond `multiplications_per_px`, which leaves out the first
convolution and the resize."""

_TENSORS_ALIVE = 8
"""Limit on the values that are needed at the same time, in tensors of the largest size."""

_PARSE = """
import resource, sys
from onnx import ModelProto
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
ModelProto.FromString(sys.stdin.buffer.read())
"""


@dataclass(frozen=True)
class OnnxFile:
    """The metadata of one of our ONNX files, and the graph that was checked."""

    spec: ModelSpec
    precision: Literal["fp32", "fp16", "bf16"]
    """Type of the weights, which determines the arithmetic of the graph."""
    content: bytes = field(default=b"", repr=False, compare=False)
    """The checked graph, serialized again: the bytes for a runtime, in place of the file."""


def read_onnx_spec(path: Path) -> ModelSpec:
    """Return the spec of an ONNX file, checked as in `read_onnx`."""
    return read_onnx(path).spec


def read_onnx(path: Path) -> OnnxFile:
    """Check that an ONNX file is one of ours and harmless, and return its spec and its content.

    Raises:
        ModelRefused: the file is not ONNX, is damaged, was made by another program, is the float
            form of `srgan-edge export --io float`, or has content that the exporter never writes.
    """
    model = parsed(path, read_at_most(path, MAX_BYTES))
    specs = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not specs:
        raise foreign(path)
    spec = ModelSpec.from_json(specs[0])
    if _is_float_form(model):
        raise ModelRefused(
            f"{path}: the float form of {spec.name}, which is for other programs; srgan-edge "
            "runs the form with bytes as input; type: srgan-edge export MODEL --onnx"
        )
    reason = "it has two specs" if len(specs) > 1 else None
    if spec.foreign is not None:
        reason = reason or _why_ambiguous(model.graph) or why_no_foreign(model, spec)
    else:
        reason = reason or _why_not_ours(model) or _why_too_costly(model, spec)
    if reason:
        raise ModelRefused(
            f"{path}: {printable(reason)}, which srgan-edge never writes; "
            "make it with `srgan-edge export`"
        )
    types = {tensor.data_type for tensor in model.graph.initializer}
    precision: Literal["fp32", "fp16", "bf16"] = (
        "fp16" if FLOAT16 in types else "bf16" if BFLOAT16 in types else "fp32"
    )
    from google.protobuf.message import EncodeError

    try:
        content = model.SerializeToString(deterministic=True)
    except EncodeError as error:  # it was parsed, so it can be written
        raise HostMemoryExhausted from error
    return OnnxFile(spec, precision, content)


def refuse_half(path: Path, file: OnnxFile) -> None:
    """Refuse a graph in half precision, for runtimes that would silently compute it in another.

    Raises:
        ModelRefused: the graph is in FP16 or BF16.
    """
    if file.precision != "fp32":
        raise ModelRefused(
            f"{path} is in {file.precision}, for a GPU; type: --engine onnxruntime --device cuda, "
            f"or on a CPU: -n {file.spec.name}"
        )


def parsed(path: Path, content: bytes) -> "ModelProto":
    """Parse the content and drop every field that ONNX does not define.

    Raises:
        ModelRefused: it is not a message, or needs too much memory.
    """
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if len(content) > SHORT_BYTES and (reason := _why_not_parsed(content)):
        raise ModelRefused(f"{path}: not an ONNX file, or a damaged one ({reason})")
    try:
        model = ModelProto.FromString(content)
    except (DecodeError, MemoryError) as error:
        if isinstance(error, MemoryError) and address_space_is_limited():
            raise HostMemoryExhausted from error
        raise ModelRefused(f"{path}: not an ONNX file, or a damaged one ({error})") from None
    model.DiscardUnknownFields()
    return model


def _why_not_parsed(content: bytes) -> str | None:
    """Parse in a child with little memory, and return why that fails, or None.

    Messages without content take many times their size in memory.
    """
    memory = min(PARSER_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1] % (1 << 63))
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _PARSE, str(memory)],
            input=content,
            capture_output=True,
            timeout=PARSER_SECONDS,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return f"its structure takes more than {PARSER_SECONDS} s to read"
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return printable(last[0][:200]) if last else "its structure does not fit into memory"
    return None


def _is_float_form(model: "ModelProto") -> bool:
    """Return True if an input is float32 [N, 3, H, W]."""
    for value in model.graph.input:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.elem_type == FLOAT and len(dims) == 4 and dims[1].dim_value == 3:
            return True
    return False


def _why_not_ours(model: "ModelProto") -> str | None:
    """Return the first detail that the exporter never writes, or None."""
    graph = model.graph
    if model.functions or model.training_info:
        return "it has functions or training in it"
    if graph.sparse_initializer:
        return "it has sparse weights"
    for tensor in graph.initializer:
        if reason := why_no_weight(tensor):
            return reason
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    if len(graph.node) > MAX_NODES:
        return f"it has {len(graph.node)} nodes"
    for node in graph.node:
        if reason := _why_no_node(node, by_name):
            return reason
    if reason := _why_too_large(graph.node, by_name) or _why_ambiguous(graph):
        return reason
    outputs = [value for value in graph.output if not _is_totals(value)]
    for what, values in [("input", inputs_of(graph)), ("output", outputs)]:
        if len(values) != 1:
            return f"it has {len(values)} {what}s"
        tensor_type = values[0].type.tensor_type
        dims = tensor_type.shape.dim
        if tensor_type.elem_type != UINT8 or len(dims) != 4 or dims[3].dim_value != 3:
            return f"its {what} is not uint8 [N, H, W, 3]"
    return None


def _why_ambiguous(graph: "GraphProto") -> str | None:
    """Return the name that several values have, or None: runtimes may take different ones."""
    names = Counter(value.name for value in graph.initializer)
    names.update(output for node in graph.node for output in node.output if output)
    names.update({value.name for value in inputs_of(graph)})
    name, number = (names.most_common(1) or [("", 0)])[0]
    return f"{number} values have the name {name!r}" if number > 1 else None


def _is_totals(value: "ValueInfoProto") -> bool:
    """Return True if an output is `TOTALS`: float32 [N]."""
    tensor = value.type.tensor_type
    return value.name == TOTALS and tensor.elem_type == FLOAT and len(tensor.shape.dim) == 1


def _why_no_node(node: "NodeProto", tensors: "dict[str, TensorProto]") -> str | None:
    name, domain = node.op_type, node.domain
    if name not in OPERATIONS or domain not in ("", "ai.onnx"):
        return f"it has the operation {f'{domain}.' if domain else ''}{name}"
    for attribute in node.attribute:
        further = attribute.graphs or attribute.tensors or attribute.sparse_tensors
        if attribute.HasField("g") or attribute.HasField("sparse_tensor") or further:
            return f"a {name} has a graph or further tensors in it"
        if attribute.HasField("t") and (reason := why_no_weight(attribute.t)):
            return reason
        if name == "Constant" and not attribute.HasField("t"):
            return "a Constant is not a tensor"
        if name == "Conv" and any(not 0 <= value <= MAX_REACH_PX for value in attribute.ints):
            return f"a Conv has {attribute.name} {list(attribute.ints)}"
        if name == "Transpose" and list(attribute.ints) not in _LAYOUTS:
            return f"a Transpose changes axes to {list(attribute.ints)}"
    if name == "Transpose" and not node.attribute:
        return "a Transpose reverses axes"
    if name == "Constant" and len(node.attribute) != 1:
        return "a Constant is not a tensor"
    if name == "Resize":
        scales = tensors.get(node.input[2]) if len(node.input) == 3 else None
        if scales is None or list(scales.dims) != [4] or scales.data_type != FLOAT:
            return "a Resize has no constant factors"
        factors = _factors(scales)
        if not all(1 <= factor <= MAX_FACTOR for factor in factors):
            return f"a Resize enlarges by {max(factors):g}"
    return None


def _factors(scales: "TensorProto") -> list[float]:
    return list(struct.unpack("<4f", scales.raw_data))


def _why_too_large(nodes: "Iterable[NodeProto]", tensors: "dict[str, TensorProto]") -> str | None:
    """Return why a result could exceed an image upscaled once, or None."""
    constants = {name: list(tensor.dims) for name, tensor in tensors.items()}
    factors = {"Resize": 1.0, "DepthToSpace": 1.0}
    for node in nodes:
        name = node.op_type
        for operand in node.input if name in _ELEMENTWISE else ():
            dims = constants.get(operand, [])
            if len(dims) > 4 or dims[:-3] not in ([], [1]) or math.prod(dims) > MAX_CHANNELS:
                return f"a {name} with {dims} values"
        if name == "Constant":
            constants |= {key: list(node.attribute[0].t.dims) for key in node.output}
        elif name in _KEEPS_SHAPE and node.input and node.input[0] in constants:
            constants |= dict.fromkeys(node.output, constants[node.input[0]])
        if name == "Resize":
            factors[name] *= max(_factors(tensors[node.input[2]]))
        elif name == "DepthToSpace":
            factors[name] *= math.prod(a.i for a in node.attribute if a.name == "blocksize")
        if (factor := factors.get(name, 1)) > MAX_FACTOR:
            return f"a {name} enlarges by {factor:g}"
    return None


def _why_too_costly(model: "ModelProto", spec: ModelSpec) -> str | None:
    """Return why the graph needs more memory or time than a model of its spec, or None."""
    import onnx

    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    fix_sizes(fixed.graph, (1, _HEIGHT_PX, _WIDTH_PX, 3))
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return f"its graph is not sound ({str(error).strip().splitlines()[0][:200]})"
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    (result,) = (value.name for value in fixed.graph.output if value.name != TOTALS)
    if shapes[result] != [1, spec.scale * _HEIGHT_PX, spec.scale * _WIDTH_PX, 3]:
        return f"its output is not {spec.scale} times as large as its input"
    pixels, multiplications = _HEIGHT_PX * _WIDTH_PX, 0
    allowed = _values_per_px(spec)
    last_use = {name: place for place, node in enumerate(inferred.node) for name in node.input}
    alive: dict[str, float] = {}
    for place, node in enumerate(inferred.node):
        for name in filter(None, node.output):
            dims = shapes.get(name)
            if dims is None or not all(dim > 0 for dim in dims):
                return f"a {node.op_type} has a result of unknown size"
            if (values := math.prod(dims) / pixels) > allowed:
                return (
                    f"a {node.op_type} makes {values:.0f} values per pixel, and a model of its "
                    f"spec {allowed} at most"
                )
            alive[name] = values
        if (values := sum(alive.values())) > _TENSORS_ALIVE * allowed:
            return f"it holds {values:.0f} values per pixel at a {node.op_type}"
        for name in node.input:
            if last_use[name] == place:
                alive.pop(name, None)
        if node.op_type == "Conv":
            kernel = shapes.get(node.input[1], [])
            multiplications += math.prod(shapes[node.output[0]]) * math.prod(kernel[1:])
    expected = multiplications_per_px(spec) + 9 * 9 * 3 * spec.channels
    if multiplications / pixels > _EXTRA_MULTIPLICATIONS * expected:
        return (
            f"it multiplies {multiplications / pixels:.0f} times per pixel, and a model of its "
            f"spec about {expected}"
        )
    return None


def _values_per_px(spec: ModelSpec) -> int:
    """Return the number of values per LR pixel in the largest tensor of a model."""
    image = 3 * spec.scale**2
    if spec.architecture == "srresnet":
        return spec.channels * max(spec.scale**2, 3)
    return max(image, spec.channels)
