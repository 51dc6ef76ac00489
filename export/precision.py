"""Half precision, written into the graph: every engine then computes what the graph says.

TensorRT 11 has no flag for FP16 any more, and where there is one, a builder may ignore it and say
nothing. So weights and activations get their type here, and the bytes at both ends stay bytes.
"""

from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from srgan_edge.errors import ModelRefused

HalfPrecision = Literal["fp16", "bf16"]
DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
BF16_OPSET = 22
"""The first in which a convolution may be in BF16; nothing else of ours has changed since 18."""


def in_half(model: onnx.ModelProto, precision: HalfPrecision) -> onnx.ModelProto:
    """The deployment graph with all its floating point in FP16 or BF16, checked by onnx.

    Only the last lines stay in FP32, clamp, times 255 and rounding: they run in the kernel of the
    last convolution, and in FP16 the sum with 0.5 would itself be rounded to eighths of a level.

    Raises:
        ModelRefused: a weight is too large for the type.
    """
    graph_model = ir.from_proto(model)
    graph, half = graph_model.graph, DTYPES[precision]
    exact = _rounding_nodes(graph)
    for name, value in list(graph.initializers.items()):
        # The factors of a Resize are FP32 by type.
        uses = [
            use for use in value.uses() if use.node not in exact and use.node.op_type != "Resize"
        ]
        if value.dtype != ir.DataType.FLOAT or not uses:
            continue
        assert value.const_value is not None
        with np.errstate(over="ignore"):  # what it became is looked at
            content = value.const_value.numpy().astype(half.numpy())
        if not np.isfinite(content.astype(np.float32)).all():
            raise ModelRefused(f"{name} holds values too large for {precision}; export in FP32")
        narrow = ir.val(f"{name}.{precision}", const_value=ir.tensor(content, dtype=half))
        graph.register_initializer(narrow)
        for node, index in uses:
            node.replace_input_with(index, narrow)
        if not value.uses():
            del graph.initializers[name]
    if precision == "bf16":
        graph_model.opset_imports[""] = BF16_OPSET
    for node in graph:
        if node.op_type == "Cast" and node.attributes.get_int("to") == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", half)
    first = exact[0]
    assert first.inputs[0] is not None
    cast = ir.node("Cast", [first.inputs[0]], attributes={"to": ir.DataType.FLOAT})
    cast.outputs[0].dtype = ir.DataType.FLOAT
    cast.outputs[0].shape = first.inputs[0].shape
    graph.insert_before(first, cast)
    first.replace_input_with(0, cast.outputs[0])
    for node in graph:
        if node not in exact and node is not cast and not node.outputs[0].is_graph_output():
            node.outputs[0].dtype = half
    result = ir.to_proto(graph_model)
    onnx.checker.check_model(result, full_check=True)
    return result


def _rounding_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The nodes between the network and the bytes, from the clamp on, without the cast."""
    nodes: list[ir.Node] = []
    producer = graph.outputs[0].producer()
    while producer is not None:
        nodes.append(producer)
        if producer.op_type == "Clip":
            return nodes[::-1]
        value = producer.inputs[0]
        producer = None if value is None else value.producer()
    raise ModelRefused("the graph has no clamp before its output; make it with srgan-edge export")
