"""What a graph costs: its nodes, and the multiplications for one pixel of the input."""

import math
from dataclasses import dataclass

import onnx

_SIDE_PX = 32
"""Of the input for which shapes are computed; any side would do, as all is divided by it again."""


@dataclass(frozen=True)
class Cost:
    """Of one deployment graph."""

    nodes: int
    macs_per_pixel: float
    """Multiply-accumulates of the convolutions for each pixel of the LR picture."""

    def __str__(self) -> str:
        return f"{self.nodes} nodes, {self.macs_per_pixel:,.0f} MAC a pixel"


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
