"""A second output for graphs in half precision: whether each picture is finite."""

import numpy as np
import onnx
import onnx_ir as ir

from srgan_edge.export.graph import add_constant, checked, insert_before
from srgan_edge.onnx_file import TOTALS


def with_totals(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the sum of each picture before it is clamped, float32 [N], checked by onnx.

    FP16 ends at 65504, and as bytes what lies beyond is black or white: `engines.base.finite`
    looks at the sums. They are taken where the graph is in FP32 again.
    """
    graph_model = ir.from_proto(model)
    graph = graph_model.graph
    (clamp,) = (node for node in graph if node.op_type == "Clip")
    axes = add_constant(graph, "all_but_the_batch", np.array([1, 2, 3]))
    totals = insert_before(clamp, "ReduceSum", [clamp.inputs[0], axes], {"keepdims": 0})
    totals.name, totals.dtype = TOTALS, ir.DataType.FLOAT
    shape = graph.inputs[0].shape
    assert shape is not None
    totals.shape = ir.Shape(shape[:1])
    graph.outputs.append(totals)
    return checked(graph_model)
