"""INT8, written into the graph: convolutions read bytes, and their weights are bytes.

QuantizeLinear and DequantizeLinear say what is rounded and how, and a runtime that has convolutions
of bytes makes those of them. Any other computes the same values in floating point.
"""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
from torch import Tensor, nn

from srgan_edge.export.graph import add_constant, checked, insert_before
from srgan_edge.model import generator_from_spec
from srgan_edge.quantization import SCALE, Int8Conv2d, bytes_of, inner_convolutions
from srgan_edge.spec import ModelSpec


def in_floating_point(generator: nn.Module, spec: ModelSpec) -> nn.Module:
    """The generator without its rounding, weights as they are, in evaluation mode."""
    plain = generator_from_spec(dataclasses.replace(spec, quantized_from=""))
    state = generator.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain.eval()


def in_bytes(model: onnx.ModelProto, generator: nn.Module) -> onnx.ModelProto:
    """The graph of `in_floating_point(generator)`, rounded as the generator does; checked by onnx.

    Weights are stored as bytes.
    """
    graph_model = ir.from_proto(model)
    graph = graph_model.graph
    by_weight = {node.inputs[1].name: node for node in graph if node.op_type == "Conv"}  # type: ignore[union-attr]
    zero = add_constant(graph, "zero_point", np.int8(0))
    for name, convolution in inner_convolutions(generator).items():
        assert isinstance(convolution, Int8Conv2d)
        node = by_weight[f"generator.{name}.weight"]
        x, weight = node.inputs[:2]
        assert x is not None and weight is not None and weight.name is not None
        scale = add_constant(graph, f"{name}.{SCALE}", _array(convolution.input_scale))
        rounded = insert_before(node, "QuantizeLinear", [x, scale, zero])
        values = insert_before(node, "DequantizeLinear", [rounded, scale, zero])
        weight_bytes, weight_scales = map(_array, bytes_of(convolution.weight))
        weights = insert_before(
            node,
            "DequantizeLinear",
            [
                add_constant(graph, f"{name}.weight_bytes", weight_bytes),
                add_constant(graph, f"{name}.weight_scales", weight_scales),
                add_constant(graph, f"{name}.weight_zeros", np.zeros_like(weight_scales, np.int8)),
            ],
            {"axis": 0},
        )
        for value, like in [(values, x), (weights, weight)]:
            value.shape, value.dtype = like.shape, ir.DataType.FLOAT
        rounded.shape, rounded.dtype = x.shape, ir.DataType.INT8
        node.replace_input_with(0, values)
        node.replace_input_with(1, weights)
        del graph.initializers[weight.name]
    return checked(graph_model)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()
