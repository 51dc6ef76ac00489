"""Wrap a float graph of another program into the deployment form: bytes in, bytes out.

Around float32 [N, 3, H, W] in [0, 1] come the conversions of `Deployment`; a network of other
values gets those, and what it makes is brought back. A network that only takes multiples of a size
gets an image whose last pixels are repeated at the right and at the bottom, and what they became is
cut off. A network of one channel gets the luma of the image, as `luma.enlarged_by_luma` defines it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from srgan_edge.export.luma import CUBIC, TO_CHROMA, TO_LUMA, TO_RGB
from srgan_edge.model.onnx_graph import inputs_of
from srgan_edge.model.spec import METADATA_KEY, ModelSpec

OPSET = 18

_MASKED = -30_000.0
"""Written in place of -inf, with which attention masks what it must not see: a softmax makes 0 of
either in every precision, but a file with values that are not finite is refused."""


@dataclass(frozen=True)
class Sizes:
    """The input sizes that a float graph takes."""

    multiple: int = 1
    """Height and width must be multiples of this."""
    least_px: int = 1
    """Smallest height and width."""
    window_px: int = 0
    """Side of the only square it takes; 0: it takes others too."""

    def taken(self, side_px: int) -> int:
        """Return the smallest side that the graph takes and that is not below `side_px`."""
        if self.window_px:
            return self.window_px
        return -(-max(side_px, self.least_px) // self.multiple) * self.multiple


@dataclass(frozen=True)
class Values:
    """The values of black and white in a float image."""

    black: int = 0
    white: int = 1

    def __str__(self) -> str:
        return f"[{self.black}, {self.white}]"


UNIT = Values()


def wrapped(
    model: onnx.ModelProto,
    scale: int,
    sizes: Sizes,
    *,
    is_luma: bool = False,
    taken: Values = UNIT,
    made: Values = UNIT,
) -> onnx.ModelProto:
    """Return the deployment form, checked by onnx, without metadata.

    Args:
        model: one input, float32 [N, 3, H, W]; one output, [N, 3, sH, sW]. One channel each if it
            is for luma.
        taken: the values of the input.
        made: the values of the output.
    """
    (version,) = (it.version for it in model.opset_import if it.domain in ("", "ai.onnx"))
    if version < OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    inner = onnx.GraphProto()
    inner.CopyFrom(model.graph)
    (source,) = (value.name for value in inputs_of(inner))
    (target,) = (value.name for value in inner.output)
    parts = _Parts()
    pads = not sizes.window_px and (sizes.multiple > 1 or sizes.least_px > 1)
    levels = parts.node("Transpose", ["pixels_f32"], perm=[0, 3, 1, 2])
    parts.nodes.insert(
        0, helper.make_node("Cast", ["pixels"], ["pixels_f32"], to=TensorProto.FLOAT)
    )
    values = parts.node("Mul", [levels, parts.constant(np.float32(1 / 255))])
    size = ""
    if pads:
        size = parts.node("Shape", ["pixels"], start=1, end=3)
        missing = parts.node("Sub", [_rounded_up(parts, size, sizes), size])
        none = parts.constant(np.zeros(2, np.int64))
        ends = parts.node("Concat", [none, none, none, missing], axis=0)
        values = parts.node("Pad", [values, ends], mode="edge")
    chroma = ""
    if is_luma:
        chroma = parts.mix(values, TO_CHROMA)
        values = parts.mix(values, TO_LUMA)
    if taken != UNIT:
        spread, black = (np.float32(it) for it in (taken.white - taken.black, taken.black))
        values = parts.node("Mul", [values, parts.constant(spread)])
        values = parts.node("Add", [values, parts.constant(black)])
    before, parts.nodes = parts.nodes, []
    before[-1].output[0] = source
    result = target
    if made != UNIT:
        shrink, black = (np.float32(it) for it in (1 / (made.white - made.black), made.black))
        result = parts.node("Sub", [result, parts.constant(black)])
        result = parts.node("Mul", [result, parts.constant(shrink)])
    if is_luma:
        result = _with_chroma(parts, result, chroma, scale)
    if pads:
        whole = parts.node("Mul", [size, parts.constant(np.int64(scale))])
        start, axes = (parts.constant(np.array(it, np.int64)) for it in ([0, 0], [2, 3]))
        result = parts.node("Slice", [result, start, whole, axes])
    low, high = (parts.constant(np.float32(it)) for it in (0, 1))
    result = parts.node("Clip", [result, low, high])
    result = parts.node("Mul", [result, parts.constant(np.float32(255))])
    result = parts.node("Add", [result, parts.constant(np.float32(0.5))])
    result = parts.node("Transpose", [result], perm=[0, 2, 3, 1])
    parts.nodes.append(helper.make_node("Cast", [result], ["result"], to=TensorProto.UINT8))
    side = sizes.window_px
    sides: list[int | str | None] = [1, side, side, 3] if side else ["n", "h", "w", 3]
    larger: list[int | str | None] = (
        [1, scale * side, scale * side, 3] if side else ["n", "rows", "columns", 3]
    )
    graph = helper.make_graph(
        [*before, *inner.node, *parts.nodes],
        "deployment",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, sides)],
        [helper.make_tensor_value_info("result", TensorProto.UINT8, larger)],
        [*_in_raw_bytes(inner.initializer), *parts.constants],
    )
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            if attribute.HasField("t"):
                (tensor,) = _in_raw_bytes([attribute.t])
                attribute.t.CopyFrom(tensor)
    result_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="srgan-edge"
    )
    result_model.ir_version = min(result_model.ir_version, 10)
    onnx.checker.check_model(result_model)
    return result_model


def with_spec(model: onnx.ModelProto, spec: ModelSpec) -> bytes:
    """Return the content of a file: the graph and its spec."""
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    return model.SerializeToString(deterministic=True)


class _Parts:
    """Nodes and constants whose names do not occur in the graph inside."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, operation: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401
        name = f"wrapper_{operation}_{len(self.nodes)}_{len(self.constants)}"
        self.nodes.append(helper.make_node(operation, inputs, [name], **attributes))
        return name

    def mix(self, image: str, matrix: NDArray[np.float32]) -> str:
        """Return the channels multiplied by a matrix, as a convolution."""
        return self.node("Conv", [image, self.constant(matrix[..., None, None])])

    def constant(self, value: np.generic | NDArray[Any]) -> str:
        name = f"wrapper_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _with_chroma(parts: _Parts, luma: str, chroma: str, scale: int) -> str:
    """Return RGB from the enlarged luma and the chroma of the small image."""
    low, high = (parts.constant(np.float32(it)) for it in (0, 1))
    luma = parts.node("Clip", [luma, low, high])
    if scale > 1:
        factors = parts.constant(np.array([1, 1, scale, scale], np.float32))
        options = {"mode": "cubic", "cubic_coeff_a": CUBIC}
        chroma = parts.node("Resize", [chroma, "", factors], **options)
    return parts.mix(parts.node("Concat", [luma, chroma], axis=1), TO_RGB)


def _rounded_up(parts: _Parts, size: str, sizes: Sizes) -> str:
    """Return the name of `size` as `Sizes.taken` makes it, int64 [2]."""
    least, more, multiple = (
        parts.constant(np.int64(it)) for it in (sizes.least_px, sizes.multiple - 1, sizes.multiple)
    )
    enough = parts.node("Add", [parts.node("Max", [size, least]), more])
    return parts.node("Mul", [parts.node("Div", [enough, multiple]), multiple])


def _in_raw_bytes(tensors: Iterable[onnx.TensorProto]) -> list[onnx.TensorProto]:
    """Store every tensor as raw bytes, in which its size and content are easily checked."""
    stored = []
    for tensor in tensors:
        values = numpy_helper.to_array(tensor)
        if np.issubdtype(values.dtype, np.floating):
            values = np.where(np.isneginf(values), values.dtype.type(_MASKED), values)
        stored.append(numpy_helper.from_array(values, tensor.name))
    return stored
