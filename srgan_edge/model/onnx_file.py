"""Check an ONNX file before a runtime loads it: it must be one of our graphs, and harmless.

A graph is a program. It may loop forever, request a gigabyte in seventy bytes, or name local files
as its weights. So a runtime only gets graphs that the exporter could have written: a few
operations, weights inside the file, bytes as input and output. The package `onnx` is not needed; an
edge device does not have it. Field numbers are those of onnx.proto, https://github.com/onnx/onnx.
The protobuf wire format: https://protobuf.dev/programming-guides/encoding/
"""

import math
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srgan_edge.errors import ModelRefused
from srgan_edge.files import foreign, read_at_most
from srgan_edge.model.spec import METADATA_KEY, ModelSpec

MAX_BYTES = 1 << 30
MAX_NODES = 4096

TOTALS = "totals"
"""Name of the output with the sum of each image, in graphs in half precision."""

MAX_SCALE = 4
"""Limit on the product of the factors of all Resize nodes, and of all DepthToSpace nodes."""

MAX_REACH_PX = 64
"""Limit on the kernel size, padding and stride of a convolution."""

MAX_CHANNELS = 4096
"""Limit on the number of values in an operand of an image: one per channel."""

OPERATIONS = (
    {"Conv", "PRelu", "Relu", "BatchNormalization", "DepthToSpace", "Resize", "Tanh"}
    | {"Add", "Sub", "Mul", "Div", "Max", "Min", "Clip", "ReduceSum"}
    | {"Cast", "Transpose", "Identity", "Constant", "QuantizeLinear", "DequantizeLinear"}
)
"""Operations of the exporter and its rewrites. Those that enlarge their input have limits."""

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"}
_KEEPS_SHAPE = {"Identity", "Cast", "Transpose", "QuantizeLinear", "DequantizeLinear"}

_LAYOUTS = ([0, 3, 1, 2], [0, 2, 3, 1])
"""Permutations of axes from bytes [N, H, W, 3] and back."""

_FLOAT, _UINT8, _FLOAT16, _BFLOAT16 = 1, 2, 10, 16

_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}
"""Item sizes by TensorProto.DataType: float, uint8, int8, int32, int64, bool, float16, double,
bfloat16."""

Field = int | memoryview
"""A varint or fixed-width number, or the payload of a string, message or packed array."""


@dataclass(frozen=True)
class OnnxFile:
    """The metadata of one of our ONNX files."""

    spec: ModelSpec
    precision: Literal["fp32", "fp16", "bf16"]
    """Type of the weights, which determines the arithmetic of the graph."""


def read_onnx_spec(path: Path) -> ModelSpec:
    """Return the spec of an ONNX file, checked as in `read_onnx`."""
    return read_onnx(path).spec


def read_onnx(path: Path) -> OnnxFile:
    """Check that an ONNX file is one of ours and harmless, and return its spec and precision.

    Raises:
        ModelRefused: the file is not ONNX, is damaged, was made by another program, is the float
            form of `srgan-edge export --io float`, or has content that the exporter never writes.
    """
    content = read_at_most(path, MAX_BYTES)
    try:
        model = Message(memoryview(content))
        for entry in model.messages(14):  # metadata_props
            if entry.text(1) == METADATA_KEY:
                spec = ModelSpec.from_json(entry.text(2))
                break
        else:
            raise foreign(path)
        if _is_float_form(model):
            raise ModelRefused(
                f"{path}: the float form of {spec.name}, which is for other programs; srgan-edge "
                "runs the form with bytes as input; type: srgan-edge export MODEL --onnx"
            )
        if reason := _why_not_ours(model):
            raise ModelRefused(
                f"{path}: {reason}, which srgan-edge never writes; make it with `srgan-edge export`"
            )
    except (IndexError, ValueError) as error:
        raise ModelRefused(f"{path}: not an ONNX file, or a damaged one ({error})") from None
    types = {tensor.number(2) for tensor in model.message(7).messages(5)}
    return OnnxFile(spec, "fp16" if _FLOAT16 in types else "bf16" if _BFLOAT16 in types else "fp32")


def refuse_half(path: Path, file: OnnxFile) -> None:
    """Refuse a graph in half precision, for runtimes that would silently compute it in another.

    Raises:
        ModelRefused: the graph is in FP16 or BF16.
    """
    if file.precision != "fp32":
        raise ModelRefused(
            f"{path} is in {file.precision}, for a GPU; type: --engine onnxruntime --device cuda, "
            f"or on a CPU: -n {file.spec.name}"
        )


class Message:
    """A protobuf message, with its fields by number."""

    def __init__(self, content: Field) -> None:
        """Split the content of a message into fields.

        Raises:
            ValueError, IndexError: `content` is a number, is not a message, or is truncated.
        """
        if isinstance(content, int):
            raise ValueError("a number where a message should be")
        self._fields: dict[int, list[Field]] = defaultdict(list)
        for number, value in fields(content):
            self._fields[number].append(value)

    def has(self, number: int) -> bool:
        return number in self._fields

    def messages(self, number: int) -> list["Message"]:
        """Return a repeated field as messages."""
        return [Message(value) for value in self._fields.get(number, [])]

    def message(self, number: int) -> "Message":
        """Return a field as a message; an empty message if it is missing."""
        return Message(self._fields[number][-1]) if self.has(number) else Message(memoryview(b""))

    def text(self, number: int) -> str:
        """Return a field as a string; empty if it is missing."""
        return bytes(self.payload(number)).decode()

    def texts(self, number: int) -> list[str]:
        return [bytes(_payload(value)).decode() for value in self._fields.get(number, [])]

    def payload(self, number: int) -> memoryview:
        """Return the bytes of a field; empty if it is missing."""
        return _payload(self._fields[number][-1]) if self.has(number) else memoryview(b"")

    def number(self, number: int) -> int:
        """Return a field as an integer; zero if it is missing."""
        return self.numbers(number)[-1] if self.has(number) else 0

    def numbers(self, number: int) -> list[int]:
        """Return a repeated field as integers, packed or not."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            if isinstance(value, int):
                found.append(value)
                continue
            position = 0
            while position < len(value):
                one, position = _varint(value, position)
                found.append(one)
        return found


def fields(message: memoryview) -> Iterator[tuple[int, Field]]:
    """Yield (field number, content) in the order of the message; payloads are not copied.

    Raises:
        ValueError, IndexError: the bytes are not a message, or are truncated.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            if position + width > len(message):
                raise ValueError("it ends early")
            yield number, int.from_bytes(message[position : position + width], "little")
            position += width
        elif kind == 2:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("it ends early")
            yield number, message[position : position + length]
            position += length
        else:
            raise ValueError(f"wire type {kind}")


def _is_float_form(model: Message) -> bool:
    """Return True if an input is float32 [N, 3, H, W]."""
    for value in model.message(7).messages(11):
        tensor = value.message(2).message(1)
        dims = tensor.message(2).messages(1)
        if tensor.number(1) == _FLOAT and len(dims) == 4 and dims[1].number(1) == 3:
            return True
    return False


def _why_not_ours(model: Message) -> str | None:
    """Return the first detail that the exporter never writes, or None."""
    if model.has(25) or model.has(20):
        return "it has functions or training in it"
    graph = model.message(7)
    if graph.has(15):
        return "it has sparse weights"
    tensors = graph.messages(5)
    for tensor in tensors:
        if reason := _why_no_weight(tensor):
            return reason
    by_name = {tensor.text(8): tensor for tensor in tensors}
    nodes = graph.messages(1)
    if len(nodes) > MAX_NODES:
        return f"it has {len(nodes)} nodes"
    for node in nodes:
        if reason := _why_no_node(node, by_name):
            return reason
    if reason := _why_too_large(nodes, by_name):
        return reason
    inputs = [value for value in graph.messages(11) if value.text(1) not in by_name]
    outputs = [value for value in graph.messages(12) if not _is_totals(value)]
    for what, values in [("input", inputs), ("output", outputs)]:
        if len(values) != 1:
            return f"it has {len(values)} {what}s"
        tensor = values[0].message(2).message(1)
        dims = tensor.message(2).messages(1)
        if tensor.number(1) != _UINT8 or len(dims) != 4 or dims[3].number(1) != 3:
            return f"its {what} is not uint8 [N, H, W, 3]"
    return None


def _is_totals(value: Message) -> bool:
    """Return True if an output is `TOTALS`: float32 [N]."""
    tensor = value.message(2).message(1)
    dims = tensor.message(2).messages(1)
    return value.text(1) == TOTALS and tensor.number(1) == _FLOAT and len(dims) == 1


def _why_no_node(node: Message, tensors: dict[str, Message]) -> str | None:
    name, domain = node.text(4), node.text(7)
    if name not in OPERATIONS or domain not in ("", "ai.onnx"):
        return f"it has the operation {f'{domain}.' if domain else ''}{name}"
    for attribute in node.messages(5):
        if attribute.has(6) or attribute.has(11) or attribute.has(10) or attribute.has(22):
            return f"a {name} has a graph or further tensors in it"
        if attribute.has(5) and (reason := _why_no_weight(attribute.message(5))):
            return reason
        if name == "Constant" and not attribute.has(5):
            return "a Constant is not a tensor"
        if name == "Conv" and any(value > MAX_REACH_PX for value in attribute.numbers(8)):
            return f"a Conv has {attribute.text(1)} {attribute.numbers(8)}"
        if name == "Transpose" and attribute.numbers(8) not in _LAYOUTS:
            return f"a Transpose changes axes to {attribute.numbers(8)}"
    if name == "Transpose" and not node.messages(5):
        return "a Transpose reverses axes"
    if name == "Resize":
        inputs = node.texts(1)
        scales = tensors.get(inputs[2]) if len(inputs) == 3 else None
        if scales is None or scales.numbers(1) != [4] or len(scales.payload(9)) != 16:
            return "a Resize has no constant factors"
        factors = struct.unpack("<4f", scales.payload(9))
        if not all(1 <= factor <= MAX_SCALE for factor in factors):
            return f"a Resize enlarges by {max(factors):g}"
    return None


def _why_too_large(nodes: list[Message], tensors: dict[str, Message]) -> str | None:
    """Return why a result could exceed an image upscaled once, or None."""
    constants = {name: tensor.numbers(1) for name, tensor in tensors.items()}
    factors = {"Resize": 1.0, "DepthToSpace": 1.0}
    for node in nodes:
        name, inputs = node.text(4), node.texts(1)
        for operand in inputs if name in _ELEMENTWISE else ():
            dims = constants.get(operand, [])
            if len(dims) > 4 or dims[:-3] not in ([], [1]) or math.prod(dims) > MAX_CHANNELS:
                return f"a {name} with {dims} values"
        if name == "Constant":
            constants |= {key: node.messages(5)[0].message(5).numbers(1) for key in node.texts(2)}
        elif name in _KEEPS_SHAPE and inputs and inputs[0] in constants:
            constants |= dict.fromkeys(node.texts(2), constants[inputs[0]])
        if name == "Resize":
            factors[name] *= max(struct.unpack("<4f", tensors[inputs[2]].payload(9)))
        elif name == "DepthToSpace":
            sizes = [a.number(3) for a in node.messages(5) if a.text(1) == "blocksize"]
            factors[name] *= math.prod(sizes)
        if (factor := factors.get(name, 1)) > MAX_SCALE:
            return f"a {name} enlarges by {factor:g}"
    return None


def _why_no_weight(tensor: Message) -> str | None:
    """Return why weights are not all inside the file, in the size that they state; or None."""
    name = tensor.text(8)
    if tensor.has(13) or tensor.number(14):
        return f"the weights {name!r} are in another file"
    item_bytes = _ITEM_BYTES.get(tensor.number(2))
    dims = tensor.numbers(1)
    if item_bytes is None or len(tensor.payload(9)) != math.prod(dims) * item_bytes:
        return f"the weights {name!r} are not {dims} values of a known type, in raw bytes"
    return None


def _payload(value: Field) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if not byte & 0x80:
            return value, position
        shift += 7
    raise ValueError("a number is too long")
