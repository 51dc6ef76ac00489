"""A second output for graphs in half precision: whether each picture is finite."""

import numpy as np
import onnx
import onnx_ir as ir

from srgan_edge.export.graph import add_constant, checked, insert_before
from srgan_edge.onnx_file import TOTALS


def with_totals(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the sum of each picture in FP32, float32 [N], checked by onnx.

    FP16 ends at 65504, and as bytes what lies beyond is black or white: `engines.base.finite`
    looks at the sums. They are taken of what the last convolution makes, after which nothing is in
    FP16; taken just before the clamp, they would keep apart what is fused there.
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
