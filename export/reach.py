"""Trace how far an output pixel of a graph sees, where its operations tell.

Convolutions, shuffles and resizes have a reach; attention, normalization over the image and shapes
computed from other shapes have none that a graph shows, and are measured instead.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import onnx
from onnx import numpy_helper

from srgan_edge.model.onnx_graph import inputs_of

_VALUE_BY_VALUE = (
    {"PRelu", "Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Mish"}
    | {"Gelu", "Softplus", "Erf", "Exp", "Sqrt", "Abs", "Neg", "Pow", "Add", "Sub", "Mul", "Div"}
    | {"Max", "Min", "Clip", "Cast", "Identity", "Transpose", "Pad", "BatchNormalization"}
    | {"Reciprocal", "Where", "Less", "Greater", "Celu", "Selu", "Round", "Floor", "Sign"}
)
"""Operations that neither move pixels nor mix them; `Pad` and `Slice` only follow the wrapper."""


@dataclass(frozen=True)
class Reach:
    """The receptive field of an output pixel."""

    radius_px: int
    multiple: int
    """The coarsest grid inside, in LR pixels."""


@dataclass(frozen=True)
class _State:
    """A tensor with the image in it."""

    size: Fraction
    """Relative to LR."""
    reach: Fraction
    """In LR pixels."""


def reach_of(model: onnx.ModelProto) -> Reach | str:
    """Return the reach of a deployment graph, or the operation that hides it."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants = dict.fromkeys(weights)
    (image,) = inputs_of(graph)
    states: dict[str, _State] = {image.name: _State(Fraction(1), Fraction(0))}
    coarsest = Fraction(1)
    for node in graph.node:
        given = [states[name] for name in node.input if name in states]
        if not given or node.op_type == "Shape":
            constants |= dict.fromkeys(node.output)
            continue
        if any(name and name not in states and name not in constants for name in node.input):
            return node.op_type
        state = _after(node, given, weights)
        if isinstance(state, str):
            return state
        states |= dict.fromkeys(node.output, state)
        coarsest = min(coarsest, state.size)
    return Reach(math.ceil(states[graph.output[0].name].reach), math.ceil(1 / coarsest))


def _after(
    node: onnx.NodeProto, given: list[_State], weights: dict[str, onnx.TensorProto]
) -> _State | str:
    name = node.op_type
    values: dict[str, Any] = {it.name: onnx.helper.get_attribute_value(it) for it in node.attribute}
    first = given[0]
    if len({it.size for it in given}) > 1:
        return name
    reach = max(it.reach for it in given)
    if name in _VALUE_BY_VALUE or (name == "Concat" and values.get("axis") == 1):
        return _State(first.size, reach)
    if name in ("Split", "Softmax", "ReduceMean", "ReduceSum", "ReduceMax", "LpNormalization"):
        axes = values.get("axis", _axes(node, weights))
        return _State(first.size, reach) if axes in (1, [1]) else name
    if name == "Slice":
        return _State(first.size, reach) if _slices_no_pixels(node, weights) else name
    if name in ("Conv", "AveragePool", "MaxPool", "ConvTranspose"):
        kernel = values.get("kernel_shape") or list(weights[node.input[1]].dims[2:])
        dilations = values.get("dilations", [1, 1])
        spread = max(
            (int(side) - 1) * int(dilation)
            for side, dilation in zip(kernel, dilations, strict=True)
        )
        stride = max(values.get("strides", [1, 1]))
        if name == "ConvTranspose":
            return _State(first.size * stride, reach + (spread // stride + 1) / first.size)
        reach += (-(-spread // 2) + stride - 1) / first.size
        return _State(first.size / stride, reach)
    if name == "DepthToSpace":
        return _State(first.size * values["blocksize"], reach)
    if name == "SpaceToDepth":
        return _State(first.size / values["blocksize"], reach + (values["blocksize"] - 1))
    if name == "Resize" and len(node.input) == 3 and node.input[2] in weights:
        factors = numpy_helper.to_array(weights[node.input[2]])
        more = {b"nearest": 0, b"linear": 1, b"cubic": 2}.get(values.get("mode", b"nearest"), 9)
        factor = Fraction(float(factors[2])).limit_denominator(64)
        wider = max(Fraction(1), 1 / factor) * more + (0 if factor >= 1 else 1 / factor)
        return _State(first.size * factor, reach + wider / first.size)
    return name


def _axes(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> Any:  # noqa: ANN401
    if len(node.input) > 1 and node.input[1] in weights and node.op_type.startswith("Reduce"):
        return numpy_helper.to_array(weights[node.input[1]]).tolist()
    return None


def _slices_no_pixels(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Return True for a slice of channels, and for one that begins at the first pixel."""
    start, axes = (weights.get(node.input[at]) if len(node.input) > at else None for at in (1, 3))
    if axes is not None and numpy_helper.to_array(axes).tolist() == [1]:
        return True
    return start is not None and not numpy_helper.to_array(start).any() and axes is not None
