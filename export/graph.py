"""Basic edits of an ONNX graph, its output for non-finite images, and its cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from srgan_edge.model.onnx_file import TOTALS

Array = NDArray[np.float32]

_SIDE_PX = 32
"""Side of the input for which shapes are computed; it cancels out of the result."""


@dataclass(frozen=True)
class Cost:
    """Size of a deployment graph."""

    nodes: int
    macs_per_pixel: float
    """Multiply-accumulates of the convolutions per pixel of the LR image."""

    def __str__(self) -> str:
        return f"{self.nodes} nodes, {self.macs_per_pixel:,.0f} MAC a pixel"


def constant_of(value: ir.Value) -> Array:
    """Return the content of an input that does not depend on the image."""
    assert value.const_value is not None, f"{value.name} is no constant"
    return value.const_value.numpy()


def add_constant(graph: ir.Graph, name: str, content: NDArray[np.generic] | np.generic) -> ir.Value:
    """Add a constant to the graph and return its value."""
    value = ir.val(name, const_value=ir.tensor(np.asarray(content, order="C"), name=name))
    graph.register_initializer(value)
    return value


def insert_before(
    place: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
) -> ir.Value:
    """Insert a new node before `place` and return its output."""
    node = ir.node(op_type, inputs, attributes=attributes or {})
    graph = place.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(place, node)
    return node.outputs[0]


def checked(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a message, checked by onnx."""
    result = ir.to_proto(model)
    onnx.checker.check_model(result, full_check=True)
    return result


def with_totals(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with a second output, the sum of each image in FP32, float32 [N].

    FP16 ends at 65504; as bytes, values beyond are black or white, so `engines.base.finite` checks
    the sums. They are sums over the output of the last convolution, after which nothing is in FP16;
    taken just before the clamp, they would prevent kernel fusion there. onnx checks the result.
    """
    graph_model = ir.from_proto(model)
    graph = graph_model.graph
    *_, last = (node for node in graph if node.op_type == "Conv")
    made = last.outputs[0]
    reader = next(iter(made.consumers()))
    axes = add_constant(graph, "all_but_the_batch", np.array([1, 2, 3]))
    wide = insert_before(reader, "Cast", [made], {"to": ir.DataType.FLOAT})
    wide.shape, wide.dtype = made.shape, ir.DataType.FLOAT
    totals = insert_before(reader, "ReduceSum", [wide, axes], {"keepdims": 0})
    totals.name, totals.dtype = TOTALS, ir.DataType.FLOAT
    shape = graph.inputs[0].shape
    assert shape is not None
    totals.shape = ir.Shape(shape[:1])
    graph.outputs.append(totals)
    return checked(graph_model)


def cost_of(model: onnx.ModelProto) -> Cost:
    """Count nodes and convolutions of a deployment graph, uint8 [N, H, W, 3] in."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, _SIDE_PX, _SIDE_PX, 3), strict=True):
        dim.dim_value = size
    del fixed.graph.value_info[:]
    for dim in fixed.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in inferred.graph.value_info
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.graph.initializer}
    macs = sum(
        math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        for node in inferred.graph.node
        if node.op_type == "Conv"
    )
    return Cost(len(model.graph.node), macs / _SIDE_PX**2)
