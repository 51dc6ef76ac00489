"""Check a graph of another program, wrapped by `srgan-edge convert`, before a runtime loads it.

Its operations are many, but none of them loops, branches, reads files or makes results whose size
depends on pixels. What the graph needs is then known from shapes alone, and must be what its spec
states: values alive at a time and multiplications, per pixel of the input.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srgan_edge.model.onnx_graph import UINT8, fix_sizes, inputs_of, why_no_weight
from srgan_edge.model.spec import MAX_VALUES_PER_PX, ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_NODES = 20_000

MAX_ATTRIBUTE = 1 << 15
"""Limit on the whole numbers in attributes, such as pads and kernels."""

OPERATIONS = (
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}
    | {"PRelu", "Relu", "LeakyRelu", "Elu", "Celu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish"}
    | {"Tanh", "Mish", "Gelu", "Softplus", "Softmax", "LogSoftmax", "Erf", "Exp", "Log", "Sqrt"}
    | {"Abs", "Neg", "Reciprocal", "Pow", "Sin", "Cos", "Atan", "Sign", "Floor", "Ceil", "Round"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Mean", "Sum", "Clip", "Not", "And", "Or"}
    | {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where"}
    | {"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"}
    | {"LpNormalization", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"}
    | {"AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "GridSample"}
    | {"DepthToSpace", "SpaceToDepth", "Resize", "Pad", "Slice", "Split", "Concat", "Reshape"}
    | {"Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Gather", "GatherElements"}
    | {
        "GatherND",
        "ScatterND",
        "ScatterElements",
        "CumSum",
        "OneHot",
        "ArgMax",
        "TopK",
        "Shape",
        "Size",
        "Range",
        "ConstantOfShape",
        "Constant",
    }
    | {"Cast", "Identity"}
)

PROBES_PX = ((96, 160), (1920, 2400))
"""Heights and widths at which a graph for any size is examined: multiples of the usual windows, and
so far apart that what grows faster than the image shows."""

_TOLERANCE = 1.05

_MAX_FOLDED = 64
"""Longest vector of sizes that is computed here."""


@dataclass(frozen=True)
class GraphCost:
    """The needs of a graph for one input size."""

    values_per_px: float
    """Most values alive at the same time."""
    multiplications_per_px: float


def why_no_foreign(model: "ModelProto", spec: ModelSpec) -> str | None:
    """Return the first detail that `convert` never writes, or None."""
    import onnx

    if reason := _why_not_plain(model):
        return reason
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        return f"its graph is not sound ({_line(error)})"
    assert spec.foreign is not None
    window_px = spec.foreign.window_px
    for height, width in [(window_px, window_px)] if window_px else PROBES_PX:
        cost = cost_at(model, height, width, spec.scale)
        if isinstance(cost, str):
            return cost
        for what, needed, stated in [
            ("values", cost.values_per_px, spec.foreign.values_per_px),
            ("multiplications", cost.multiplications_per_px, spec.foreign.multiplications_per_px),
        ]:
            if needed > _TOLERANCE * stated + 1:
                return f"it needs {needed:.0f} {what} per pixel, and its spec states {stated}"
    return None


def cost_at(model: "ModelProto", height: int, width: int, scale: int) -> GraphCost | str:
    """Infer the shapes of a deployment graph for one image, and return its needs, or what is wrong.

    Args:
        model: uint8 [N, H, W, 3] to uint8 [N, sH, sW, 3].
    """
    import onnx

    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    graph = fixed.graph
    _fold_sizes(fixed, (1, height, width, 3))
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        return f"its graph is not sound ({_line(error)})"
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    if shapes.get(graph.output[0].name) != [1, scale * height, scale * width, 3]:
        return f"its output is not {scale} times as large as its input"
    pixels, multiplications, most, alive = height * width, 0, 0, {}
    last_use = {name: place for place, node in enumerate(inferred.node) for name in node.input}
    for place, node in enumerate(inferred.node):
        for name in filter(None, node.output):
            dims = shapes.get(name)
            if dims is None or not all(dim > 0 for dim in dims):
                return f"a {node.op_type} has a result of unknown size"
            alive[name] = math.prod(dims)
        most = max(most, sum(alive.values()))
        if most > MAX_VALUES_PER_PX * pixels:
            return f"it holds {most / pixels:.0f} values per pixel at a {node.op_type}"
        multiplications += _multiplications(node, shapes)
        for name in {*node.input, *node.output}:
            if last_use.get(name, place) <= place:
                alive.pop(name, None)
    return GraphCost(most / pixels, multiplications / pixels)


def why_not_plain_inside(model: "ModelProto") -> str | None:
    """Return why a graph could do more than compute, or None."""
    graph = model.graph
    if model.functions or model.training_info:
        return "it has functions or training in it"
    if graph.sparse_initializer:
        return "it has sparse weights"
    if len(graph.node) > MAX_NODES:
        return f"it has {len(graph.node)} nodes"
    if any(tensor.external_data or tensor.data_location for tensor in graph.initializer):
        return "its weights are in another file"
    for node in graph.node:
        if reason := _why_no_node(node):
            return reason
    return None


def _why_not_plain(model: "ModelProto") -> str | None:
    """Return why a deployment graph could do more than compute, or None."""
    graph = model.graph
    if reason := why_not_plain_inside(model):
        return reason
    constants = [it.t for node in graph.node for it in node.attribute if it.HasField("t")]
    for tensor in (*graph.initializer, *constants):
        if reason := why_no_weight(tensor):
            return reason
    for what, values in [("input", inputs_of(graph)), ("output", list(graph.output))]:
        if len(values) != 1:
            return f"it has {len(values)} {what}s"
        tensor_type = values[0].type.tensor_type
        if tensor_type.elem_type != UINT8 or len(tensor_type.shape.dim) != 4:
            return f"its {what} is not uint8 [N, H, W, 3]"
    return None


def _why_no_node(node: "NodeProto") -> str | None:
    name, domain = node.op_type, node.domain
    if name not in OPERATIONS or domain not in ("", "ai.onnx"):
        return f"it has the operation {f'{domain}.' if domain else ''}{name}"
    for attribute in node.attribute:
        further = attribute.graphs or attribute.tensors or attribute.sparse_tensors
        if attribute.HasField("g") or attribute.HasField("sparse_tensor") or further:
            return f"a {name} has a graph or further tensors in it"
        if attribute.t.external_data or attribute.t.data_location:
            return f"a {name} has its weights in another file"
        if any(not -MAX_ATTRIBUTE <= value <= MAX_ATTRIBUTE for value in attribute.ints):
            return f"a {name} has {attribute.name} {list(attribute.ints)[:8]}"
    return None


def _fold_sizes(model: "ModelProto", sizes: Sequence[int]) -> None:
    """Give the input these sizes, and compute what follows from sizes alone."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    (image,) = inputs_of(graph)
    fix_sizes(graph, sizes)
    for name, value in _sizes_known(model, image.name, list(sizes)):
        import onnx

        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    computed = {tensor.name for tensor in graph.initializer} - weights
    kept = [node for node in graph.node if not computed.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(kept)


def _sizes_known(model: "ModelProto", image: str, sizes: list[int]) -> Iterator[tuple[str, Any]]:
    """Yield the whole numbers that follow from the input's sizes: `Shape`, and arithmetic on it."""
    import numpy as np
    import onnx

    graph = model.graph
    shapes = {image: sizes}
    scalars = {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) == 1}
    known = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= _MAX_FOLDED and tensor.data_type in (6, 7)
    }
    for node in graph.node:
        values = {it.name: onnx.helper.get_attribute_value(it) for it in node.attribute}
        source = shapes.get(node.input[0]) if node.input else None
        if node.op_type == "Constant" and "value" in values:
            constant = onnx.numpy_helper.to_array(values["value"])
            if constant.size <= _MAX_FOLDED and constant.dtype.kind == "i":
                known[node.output[0]] = constant
        elif node.op_type == "Cast" and source is not None:
            shapes[node.output[0]] = source
        elif node.op_type == "Transpose" and source is not None and "perm" in values:
            shapes[node.output[0]] = [source[axis] for axis in values["perm"]]
        elif node.op_type == "Mul" and source is not None and node.input[1] in scalars:
            shapes[node.output[0]] = source
        elif node.op_type == "Shape" and source is not None:
            start, end = values.get("start", 0), values.get("end", 4)
            found = np.array(source[start:end], np.int64)
            known[node.output[0]] = found
            yield node.output[0], found
        elif node.input and all(name in known for name in node.input if name):
            found = _computed(node.op_type, [known[name] for name in node.input if name], values)
            if found is not None and found.size <= _MAX_FOLDED:
                known[node.output[0]] = found
                yield node.output[0], found


def _computed(operation: str, given: list[Any], values: dict[str, Any]) -> Any:  # noqa: ANN401
    """Compute one operation on whole numbers as ONNX defines it; None: not one of these."""
    import numpy as np

    try:
        match operation, given:
            case (("Add" | "Sub" | "Mul" | "Max" | "Min"), [one, other]):
                name = {"Add": "add", "Sub": "subtract", "Mul": "multiply"}
                name |= {"Max": "maximum", "Min": "minimum"}
                return np.asarray(getattr(np, name[operation])(one, other))
            case "Div", [one, other]:
                return np.asarray(np.trunc(one / other).astype(one.dtype))
            case "Mod", [one, other]:
                return np.asarray(np.mod(one, other))
            case "Neg", [one]:
                return np.asarray(-one)
            case "Concat", _:
                return np.concatenate(given, axis=values["axis"])
            case "Gather", [one, other]:
                return np.asarray(np.take(one, other, axis=values.get("axis", 0)))
            case "Squeeze", [one, *axes]:
                return np.squeeze(one, tuple(axes[0].tolist()) if axes else None)
            case "Unsqueeze", [one, axes]:
                return np.expand_dims(one, tuple(axes.tolist()))
            case "Reshape", [one, other]:
                return one.reshape(other.tolist())
            case "Slice", [one, start, end]:
                return one[int(start[0]) : int(end[0])]
            case "Cast", [one] if values.get("to") in (6, 7):
                return one.astype(np.int32 if values["to"] == 6 else np.int64)
            case "Identity", [one]:
                return one
    except (ValueError, IndexError, ZeroDivisionError, KeyError, TypeError):
        return None
    return None


def _multiplications(node: "NodeProto", shapes: dict[str, list[int]]) -> int:
    first, *others = (shapes.get(name, []) for name in node.input)
    made = math.prod(shapes.get(node.output[0], []))
    if node.op_type == "Conv" and others:
        return made * math.prod(others[0][1:])
    if node.op_type == "ConvTranspose" and others:
        return math.prod(first) * math.prod(others[0][1:])
    if node.op_type in ("MatMul", "Gemm") and first:
        return made * max(first[-2:])
    if node.op_type == "Einsum":
        return math.prod(first) * max(map(max, filter(None, others)), default=1)
    return made


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
