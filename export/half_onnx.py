"""The deployment ONNX in FP16, and the half precision of every engine.

TensorRT 11 no longer has a flag for FP16, and older builders may silently ignore theirs. So the
types of weights and activations are written into the graph; the bytes at both ends stay bytes.

FP16 represents a value in [0.5, 1] to an eighth of a level of 255, BF16 to one level. Whatever
carries the image itself would lose just that, so three exact rewrites come first: bytes enter as
multiples of 1/256, which both types represent exactly; the last convolution computes the image
minus one half, with twice the precision; and the nearest upscale, which the edge network adds to
its image, stays in FP32, as does the rounding to bytes. On a photograph that took FP16 from 59.9 to
61.0 dB for `srgan-x4` and from 61.8 to 70.6 dB for `edge-x4`; BF16 from 49.6 to 49.9 and from 50.8
to 61.6 dB.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import ModelRefused
from srgan_edge.evaluation.parity import compare, gate_of
from srgan_edge.export.graph import add_constant, checked, constant_of, insert_before, with_totals
from srgan_edge.export.onnx import deployment_graph
from srgan_edge.export.rewrites import rewritten
from srgan_edge.export.verify import natural_batches
from srgan_edge.files import replace_when_whole
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.onnx_file import read_onnx
from srgan_edge.pixels import Pixels

HalfPrecision = Literal["fp16", "bf16"]

DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
OPSETS = {"BFLOAT16": 22, "INT8": 19}
"""The first opsets that allow a convolution in BF16, and a scale of bytes in FP16; our other
operators have not changed since 18."""


def half_onnx_from_checkpoint(
    checkpoint: Path, path: Path, say: Callable[[str], None], *, overwrite: bool = True
) -> None:
    """Write the ONNX in FP16 of a `.safetensors` checkpoint to `path`, rewritten as for engines.

    The graph, computed exactly as written, is compared with PyTorch in FP32.

    Args:
        say: called with one line for the user.
        overwrite: replace a file that appears at `path` in the meantime.

    Raises:
        ModelRefused: the checkpoint is not one of ours, or misses the gate; nothing is written.
        OutputFailed: `path` cannot be written.
    """
    generator, spec = load_checkpoint(checkpoint)
    half = in_half(rewritten(deployment_graph(generator, spec)), "fp16")
    with TorchEngine.from_generator(generator, spec) as reference:
        parity = compare(reference.upscale, TypedReference(half).upscale, natural_batches())
    say(f"  fp16 graph against torch fp32: {parity}")
    if refusals := gate_of(spec, "fp16").refusals(parity):
        raise ModelRefused(f"{spec.name} in fp16 is too far from fp32: {'; '.join(refusals)}")
    with replace_when_whole(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(with_totals(half).SerializeToString(deterministic=True))
    assert read_onnx(path).precision == "fp16"


def in_half(model: onnx.ModelProto, precision: HalfPrecision) -> onnx.ModelProto:
    """Return the deployment graph with its convolutions in FP16 or BF16, checked by onnx.

    Raises:
        ModelRefused: not a deployment graph, or a weight is too large for the type.
    """
    graph_model = ir.from_proto(model)
    graph = graph_model.graph
    clamp = _only(graph, "Clip")
    exact = {clamp, *_after(clamp), *_keep_skip_apart(graph, clamp)}
    _enter_exactly(graph, exact)
    exact |= _leave_centered(graph, clamp)
    _narrow(graph, precision, exact)
    _widen_where_exact(graph, exact)
    types = {
        DTYPES[precision].name,
        *(v.dtype.name for v in graph.initializers.values() if v.dtype),
    }
    newest = max((OPSETS[name] for name in types & OPSETS.keys()), default=0)
    graph_model.opset_imports[""] = max(newest, graph_model.opset_imports[""])
    return checked(graph_model)


class TypedReference:
    """`upscale` of a deployment graph in FP16 or BF16, bit for bit as the graph defines it.

    Products are summed in FP32, as tensor cores do, and every tensor is rounded to the type that
    the graph assigns it. A CPU runtime cannot serve as the reference: given FP16, ONNX Runtime
    computes in FP32 throughout. An engine that fuses kernels rounds less often, never more.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(model, new_ops=[Conv])

    def upscale(self, batch: Pixels) -> Pixels:
        """Upscale uint8 [N, H, W, 3] to uint8 [N, sH, sW, 3]."""
        (result,) = cast("list[Pixels]", self._evaluator.run(None, {"input": batch}))
        return result


def _keep_skip_apart(graph: ir.Graph, clamp: ir.Node) -> set[ir.Node]:
    """Give the nearest upscale of the edge network, or at x1 the image that it adds, its own input
    path, and return that path."""
    add = _producer(clamp)
    if add.op_type != "Add":
        return set()
    index, skip = next(
        (
            (index, node)
            for index, node in enumerate(map(_producer_of, add.inputs))
            if node is not None and node.op_type in ("Resize", "Mul")
        ),
        (0, None),
    )
    if skip is None:
        return set()
    value = graph.inputs[0]
    for node in reversed(_back_from(skip)):
        inputs, like = [value, *node.inputs[1:]], node.outputs[0]
        value = _exact(insert_before(add, node.op_type, inputs, node.attributes), like)
    add.replace_input_with(index, value)
    if not skip.outputs[0].uses():
        graph.remove(skip, safe=True)
    return {*_back_from(value.producer()), add}


def _enter_exactly(graph: ir.Graph, exact: set[ir.Node]) -> None:
    """Scale bytes by 1/256, exact in both types, not 1/255; the first weights compensate."""
    (scale,) = (node for node in _readers_of_bytes(graph) if node not in exact)
    (head,) = scale.outputs[0].consumers()
    factor, weight = scale.inputs[1], head.inputs[1]
    assert factor is not None and weight is not None
    _change(graph, head, 1, constant_of(weight) * (constant_of(factor) * np.float32(256)))
    _change(graph, scale, 1, np.float32(1 / 256))


def _leave_centered(graph: ir.Graph, clamp: ir.Node) -> set[ir.Node]:
    """Let the last convolution compute the image minus one half, added again in FP32."""
    tail = _producer(clamp)
    if tail.op_type != "Conv" or len(tail.inputs) < 3 or tail.inputs[2] is None:
        return set()
    _change(graph, tail, 2, constant_of(tail.inputs[2]) - np.float32(0.5))
    half = add_constant(graph, "one_half", np.float32(0.5))
    image = _exact(insert_before(clamp, "Add", [tail.outputs[0], half]), tail.outputs[0])
    clamp.replace_input_with(0, image)
    return {_producer(clamp)}


def _narrow(graph: ir.Graph, precision: HalfPrecision, exact: set[ir.Node]) -> None:
    """Give all constants and results the type, except those of the `exact` nodes."""
    half = DTYPES[precision]
    for node in graph:
        if node in exact:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value.dtype == ir.DataType.FLOAT:
                with np.errstate(over="ignore"):  # checked below
                    content = constant_of(value).astype(half.numpy())
                if not np.isfinite(content.astype(np.float32)).all():
                    raise ModelRefused(f"{value.name} holds values too large for {precision}")
                _change(graph, node, index, content)
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", half)
        if node.op_type != "QuantizeLinear":
            node.outputs[0].dtype = half


def _widen_where_exact(graph: ir.Graph, exact: set[ir.Node]) -> None:
    """Insert a cast to FP32 wherever an `exact` node reads a result that is not in FP32."""
    for node in list(graph):
        for index, value in enumerate(node.inputs):
            source = _producer_of(value)
            if node in exact and value is not None and source is not None and source not in exact:
                wide = insert_before(node, "Cast", [value], {"to": ir.DataType.FLOAT})
                node.replace_input_with(index, _exact(wide, value))


def _exact(value: ir.Value, like: ir.Value) -> ir.Value:
    """Declare the value as FP32 with the shape of another, and return it."""
    value.shape, value.dtype = like.shape, ir.DataType.FLOAT
    return value


def _change(
    graph: ir.Graph, node: ir.Node, index: int, content: NDArray[np.generic] | np.generic
) -> None:
    """Replace one input of a node by this constant; other readers keep the old one."""
    old = node.inputs[index]
    assert old is not None and old.name is not None
    name = f"{old.name}.{np.asarray(content).dtype}"
    while name in graph.initializers:  # of another node that reads the same constant
        name += "_"
    node.replace_input_with(index, add_constant(graph, name, content))
    if not old.uses():
        del graph.initializers[old.name]


def _readers_of_bytes(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes that scale the bytes, after input, cast and transpose."""
    found: list[ir.Node] = []
    for to_float in graph.inputs[0].consumers():
        for transpose in to_float.outputs[0].consumers():
            found += transpose.outputs[0].consumers()
    return found


def _back_from(node: ir.Node | None) -> list[ir.Node]:
    """Return the node and its predecessors, back to the input."""
    before: list[ir.Node] = []
    while node is not None:
        before.append(node)
        node = _producer_of(node.inputs[0])
    return before


def _after(node: ir.Node) -> list[ir.Node]:
    """Return the nodes that follow, in order, to the output."""
    following: list[ir.Node] = []
    while readers := list(node.outputs[0].consumers()):
        (node,) = readers
        following.append(node)
    return following


def _only(graph: ir.Graph, op_type: str) -> ir.Node:
    found = [node for node in graph if node.op_type == op_type]
    if len(found) != 1:
        raise ModelRefused(
            f"the graph has {len(found)} {op_type} nodes, not one; make it with srgan-edge export"
        )
    return found[0]


def _producer(node: ir.Node) -> ir.Node:
    producer = _producer_of(node.inputs[0])
    assert producer is not None, f"{node.name} reads an input of the graph"
    return producer


def _producer_of(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


class Conv(OpRun):
    """A replacement for onnx's convolution, in torch and summing in FP32.

    onnx's own is in pure numpy, a hundred times slower, and sums in the type of its input.
    """

    op_domain = ""

    def _run(
        self,
        x: NDArray[np.generic],
        weight: NDArray[np.generic],
        bias: NDArray[np.generic] | None = None,
        *,
        pads: list[int],
        **plain: object,
    ) -> tuple[NDArray[np.generic]]:
        shift = None if bias is None else _float32(bias)
        result = torch.conv2d(_float32(x), _float32(weight), shift, padding=pads[0])
        return (result.numpy().astype(x.dtype),)


def _float32(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
