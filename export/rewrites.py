"""Rewrites of the deployment graph: for speed, and for convolutions in INT8.

Each rewrite for speed is a function that changes a graph in place and is exact but for the order
of additions: the FP32 results agree to 1e-5, as `tests/export/test_rewrites.py` proves for each.
All of them serve fusion on GPUs; `fold_tail` pays everywhere, so every ONNX has it.
`docs/export.md` has what they gain.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import optimize_ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule
from torch import Tensor, nn

from srgan_edge.export.graph import add_constant, checked, constant_of, insert_before
from srgan_edge.model.network import generator_from_spec, kernel_before_shuffle
from srgan_edge.model.quantization import SCALE, Int8Conv2d, bytes_of, inner_convolutions
from srgan_edge.model.spec import ModelSpec


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model after all rewrites, checked by onnx; inputs, outputs, metadata unchanged."""
    graph_model = ir.from_proto(model)
    for rewrite_graph in REWRITES:
        rewrite_graph(graph_model)
    return checked(graph_model)


def with_folded_tail(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model after `fold_tail` alone, or itself if that changes nothing."""
    graph_model = ir.from_proto(model)
    before = list(graph_model.graph)
    fold_tail(graph_model)
    return model if list(graph_model.graph) == before else checked(graph_model)


def fold_constants(model: ir.Model) -> None:
    """Compute nodes that do not depend on the input, and drop nodes that nothing reads."""
    optimize_ir(model)


def fold_batch_norm(model: ir.Model) -> None:
    """Fold each batch norm, a scale and a shift when evaluated, into the convolution before it."""
    rewrite(model, pattern_rewrite_rules=[fuse_batchnorm_into_conv_rule])


def round_before_shuffle(model: ir.Model) -> None:
    """Move clamp, scale and rounding before the last PixelShuffle.

    They work on single values, whose position does not matter; and before the shuffle they fuse
    into the convolution, which then rounds to bytes its own sums, not values already stored.
    """
    for shuffle in _nodes(model, "DepthToSpace"):
        chain = _value_by_value(shuffle.outputs[0])
        if not any(node.op_type == "Clip" for node in chain):
            continue
        deep, end = shuffle.inputs[0], chain[-1].outputs[0]
        assert deep is not None
        (last,) = end.consumers()
        chain[0].replace_input_with(0, deep)
        for node in chain:
            node.outputs[0].shape = deep.shape
        result = insert_before(last, "DepthToSpace", [end], dict(shuffle.attributes))
        last.replace_input_with(0, result)
    _sweep(model)


def prelu_as_max(model: ir.Model) -> None:
    """Write PReLU as max(x, a * x), which fuses into the preceding convolution; PReLU does not.

    That is exact where a <= 1, negative slopes included (trained SRGANs have some); where a >= 1 it
    is the minimum. A layer with both becomes max(x, 0) + a * min(x, 0).
    """
    for node in _nodes(model, "PRelu"):
        x, slope = node.inputs
        assert x is not None and slope is not None
        slopes = constant_of(slope)
        scaled = insert_before(node, "Mul", [x, slope])
        if (slopes <= 1).all():
            result = insert_before(node, "Max", [x, scaled])
        elif (slopes >= 1).all():
            result = insert_before(node, "Min", [x, scaled])
        else:
            zero = add_constant(model.graph, f"{slope.name}_zero", np.zeros(1, np.float32))
            below = insert_before(node, "Mul", [insert_before(node, "Min", [x, zero]), slope])
            result = insert_before(node, "Add", [insert_before(node, "Max", [x, zero]), below])
        _replace(node, result)
    _sweep(model)


def fold_tail(model: ir.Model) -> None:
    """Move a convolution before a PixelShuffle: four times fewer pixels and channels out.

    A pixel of the shuffled image is a channel of the image before, so a 9x9 convolution of 64
    channels on the large image is a 5x5 one of 256 channels on the small one, with an output
    channel for each of the four sub-pixels, shuffled last. Three output channels become twelve,
    which fill the sixteen that CPUs and tensor cores compute at once better; and the shuffle moves
    3 channels, not 64. A PReLU in between also moves before the shuffle, with its slopes repeated.
    """
    for shuffle in _nodes(model, "DepthToSpace"):
        if shuffle.attributes.get_int("blocksize") != 2:
            continue  # before a PixelShuffle(3) a 9x9 kernel multiplies 2.8 times as often
        readers = list(shuffle.outputs[0].consumers())
        prelu = readers[0] if len(readers) == 1 and readers[0].op_type == "PRelu" else None
        shuffled = prelu.outputs[0] if prelu else shuffle.outputs[0]
        readers = list(shuffled.consumers())
        if len(readers) != 1 or readers[0].op_type != "Conv" or not _is_plain(readers[0]):
            continue
        convolution = readers[0]
        deep, weight, *bias = shuffle.inputs[0], *convolution.inputs[1:]
        assert deep is not None and weight is not None
        kernel = constant_of(weight)
        if kernel.shape[0] * 4 > kernel.shape[1]:
            continue  # so many output channels cost more than the shuffle
        x = deep
        if prelu is not None:
            slope = prelu.inputs[1]
            assert slope is not None
            repeated = constant_of(slope).repeat(4, axis=1)
            slopes = add_constant(model.graph, f"{slope.name}_before_shuffle", repeated)
            x = insert_before(convolution, "PRelu", [x, slopes])
        folded = kernel_before_shuffle(kernel, 2)
        inputs = [x, add_constant(model.graph, f"{weight.name}_before_shuffle", folded)]
        if bias and bias[0] is not None:
            repeated = constant_of(bias[0]).repeat(4)
            inputs.append(add_constant(model.graph, f"{bias[0].name}_before_shuffle", repeated))
        pads = [folded.shape[2] // 2] * 4
        phases = insert_before(convolution, "Conv", inputs, {"pads": pads})
        result = insert_before(
            convolution, "DepthToSpace", [phases], {"blocksize": 2, "mode": "CRD"}
        )
        _replace(convolution, result)
    _sweep(model)


REWRITES: tuple[Callable[[ir.Model], None], ...] = (
    fold_constants,
    fold_batch_norm,
    fold_tail,
    round_before_shuffle,
    prelu_as_max,
)
"""The rewrites, in the order in which they are applied."""


def in_floating_point(generator: nn.Module, spec: ModelSpec) -> nn.Module:
    """Return the generator without its rounding, with the same weights, in evaluation mode."""
    plain = generator_from_spec(dataclasses.replace(spec, quantized_from=""))
    state = generator.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain.eval()


def in_bytes(model: onnx.ModelProto, generator: nn.Module) -> onnx.ModelProto:
    """Write the generator's INT8 rounding into the graph of `in_floating_point(generator)`.

    Convolutions read bytes, and their weights are stored as bytes. QuantizeLinear and
    DequantizeLinear define the rounding; a runtime with convolutions in INT8 uses those, and any
    other computes the same values in floating point. onnx checks the result.
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


def _nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op_type]


def _is_plain(convolution: ir.Node) -> bool:
    """Return True for an odd square kernel of stride 1, not grouped or dilated, that keeps size."""
    weight = convolution.inputs[1]
    assert weight is not None
    height, width = constant_of(weight).shape[2:]
    attributes = convolution.attributes
    return (
        height == width
        and height % 2 == 1
        and list(attributes.get_ints("pads", [0] * 4)) == [height // 2] * 4
        and list(attributes.get_ints("strides", [1, 1])) == [1, 1]
        and list(attributes.get_ints("dilations", [1, 1])) == [1, 1]
        and attributes.get_int("group", 1) == 1
    )


def _value_by_value(start: ir.Value) -> list[ir.Node]:
    """Return the chain of nodes after `start` that treat each value separately."""
    chain: list[ir.Node] = []
    value = start
    while True:
        readers = list(value.consumers())
        if len(readers) != 1 or readers[0].op_type not in ("Clip", "Mul", "Add"):
            return chain
        others = readers[0].inputs[1:]
        if readers[0].inputs[0] is not value or not all(_is_number(other) for other in others):
            return chain
        chain.append(readers[0])
        value = readers[0].outputs[0]


def _is_number(value: ir.Value | None) -> bool:
    return value is None or (value.const_value is not None and value.const_value.size == 1)


def _replace(node: ir.Node, result: ir.Value) -> None:
    """Redirect all readers of the node's output to `result`, and remove the node."""
    old = node.outputs[0]
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, result)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.remove(node, safe=True)


def _sweep(model: ir.Model) -> None:
    RemoveUnusedNodesPass()(model)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()
