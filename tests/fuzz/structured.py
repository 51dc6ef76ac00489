"""Files that are whole to their parser and odd in what they say, built from a fuzzer's bytes.

Bytes that a fuzzer changes at random seldom pass a checksum, a length or a parser. Here they only
choose: which chunks, tags and boxes an image has, and which edits are made to an ONNX graph.
"""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image, TiffImagePlugin

from srgan_edge.image.statements import STATEMENTS

MOST_PARTS = 6


class Choices:
    """A fuzzer's bytes, as a source of choices that never ends."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def bytes(self, count: int) -> bytes:
        taken = self._content[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def below(self, end: int) -> int:
        return int.from_bytes(self.bytes(3), "big") % end

    def of(self, values):
        return values[self.below(len(values))]

    def payload(self) -> bytes:
        """Bytes of any length, among them the lengths that headers have."""
        return self.bytes(self.of((0, 1, 2, 4, 6, 8, 9, 12, 13, 18, 24, 32, 60, 200)))

    def number(self) -> int:
        """A small number, a random one, or one at the end of a range."""
        ends = (0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
        return self.of((self.below(8), self.below(1 << 24), self.of(ends)))


def image(content: bytes) -> bytes:
    """Return a PNG, TIFF, JPEG, WebP or JPEG 2000 whose pixels are sound, with other statements."""
    choices = Choices(content)
    return choices.of((_png, _tiff, _jpeg, _webp, _jp2))(choices)


def _pixels(choices: Choices) -> Image.Image:
    mode = choices.of(("RGB", "RGBA", "L", "P", "LA", "I;16"))
    values = np.random.default_rng(0).integers(0, 255, (5, 7, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(values, "RGBA").convert(mode)


def _png(choices: Choices) -> bytes:
    saved = BytesIO()
    _pixels(choices).save(saved, "PNG")
    content = saved.getvalue()
    names = [name.encode() for name in STATEMENTS["PNG"] if len(name) == 4]
    before, after = b"", b""
    for _ in range(choices.below(MOST_PARTS)):
        name, payload = choices.of(names), choices.payload()
        if name in (b"iCCP", b"zTXt", b"iTXt") and choices.below(2):
            payload = b"k\0\0" + zlib.compress(payload)
        chunk = struct.pack(">I", len(payload)) + name + payload
        chunk += struct.pack(">I", zlib.crc32(name + payload))
        if choices.below(4):
            before += chunk
        else:
            after += chunk
    header = 8 + 25  # the signature, and IHDR
    return content[:header] + before + content[header:-12] + after + content[-12:]


def _tiff(choices: Choices) -> bytes:
    """One strip of 5x7 pixels; every other tag, type, count and value is chosen."""
    channels, bits = choices.of((1, 2, 3, 4, 5)), choices.of((8, 16, 32))
    data = np.random.default_rng(0).integers(0, 255, 35 * channels * bits // 8, np.uint8).tobytes()
    entries: dict[int, bytes] = {}
    tail = bytearray(data)
    base = 8

    def entry(tag: int, kind: int, values: bytes, count: int) -> None:
        if len(values) > 4:
            place = base + len(tail)
            tail.extend(values)
            values = struct.pack("<I", place)
        entries[tag] = struct.pack("<HHI", tag, kind, count) + values.ljust(4, b"\0")

    def shorts(tag: int, *values: int) -> None:
        entry(tag, 3, struct.pack(f"<{len(values)}H", *values), len(values))

    shorts(256, 7)
    shorts(257, 5)
    shorts(258, *[bits] * channels)
    shorts(259, 1)
    shorts(262, choices.of((0, 1, 2, 2, 2, 3, 5, 6, 8)))
    entry(273, 4, struct.pack("<I", base), 1)
    shorts(277, channels)
    shorts(278, 5)
    entry(279, 4, struct.pack("<I", len(data)), 1)
    if channels in (2, 4, 5):
        shorts(338, *[choices.below(4)] * (channels - (1 if channels == 2 else 3)))
    if bits == 32:
        shorts(339, *[3] * channels)
    known = (
        *(254, 255, 266, 274, 282, 283, 284, 296, 301, 317, 318, 319, 320, 322, 325, 330, 332),
        *(338, 339, 340, 341, 529, 530, 532, 700, 33432, 34377, 34665, 34675, 34853),
    )
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
    for _ in range(choices.below(MOST_PARTS)):
        kind, count = choices.of(tuple(sizes)), choices.of((0, 1, 1, 1, 2, 3, 4, 6, 16, 768))
        values = choices.bytes(min(count * sizes[kind], 200)).ljust(count * sizes[kind], b"\0")
        entry(choices.of((*known, choices.below(65536))), kind, values, count)
    folder = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    head = b"II*\0" + struct.pack("<I", base + len(tail))
    return head + bytes(tail) + folder + struct.pack("<I", choices.of((0, 0, 0, 8, base)))


def _exif(choices: Choices) -> bytes:
    """An EXIF block whose tags have any type."""
    found = TiffImagePlugin.ImageFileDirectory_v2()
    for _ in range(choices.below(MOST_PARTS)):
        tag = choices.of((274, 282, 283, 296, 305, 306, 315, 531, 40961, 34665, 34853, 37500))
        kind = choices.of((1, 2, 3, 4, 5, 7, 9, 10, 11, 12))
        found.tagtype[tag] = kind
        value = choices.number()
        low, high = {1: (0, 255), 3: (0, 65535), 9: (-(2**31), 2**31 - 1)}.get(kind, (0, 2**32 - 1))
        if kind in (2, 7):
            found[tag] = choices.payload()
        elif kind in (5, 10):
            found[tag] = TiffImagePlugin.IFDRational(
                max(0, min(value, 2**31 - 1)), choices.below(3)
            )
        else:
            found[tag] = max(low, min(value, high))
    return b"Exif\0\0" + found.tobytes(8).join((b"II*\0\x08\0\0\0", b""))


def _jpeg(choices: Choices) -> bytes:
    saved = BytesIO()
    _pixels(choices).convert("L" if choices.below(2) else "RGB").save(saved, "JPEG")
    content = saved.getvalue()
    parts = b""
    for _ in range(choices.below(MOST_PARTS)):
        start = choices.of(
            (b"", b"ICC_PROFILE\0\1\1", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0",
             b"Photoshop 3.0\0", b"Adobe", b"JFIF\0", b"urn:iso:std:iso:ts:21496:-1\0")
        )  # fmt: skip
        payload = choices.of((start + choices.payload(), _exif(choices)))
        marker = choices.of((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE))
        parts += struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
    return content[:2] + parts + content[2:]


def _webp(choices: Choices) -> bytes:
    saved = BytesIO()
    options = {"exif": _exif(choices), "icc_profile": choices.payload(), "xmp": choices.payload()}
    _pixels(choices).convert("RGBA").save(
        saved, "WEBP", **{name: it for name, it in options.items() if it and choices.below(2)}
    )
    return saved.getvalue()


def _jp2(choices: Choices) -> bytes:
    """A JPEG 2000 with further boxes in its header, and behind the signature."""
    saved = BytesIO()
    _pixels(choices).convert(choices.of(("RGB", "RGBA", "L"))).save(saved, "JPEG2000")
    content = saved.getvalue()
    at = content.index(b"jp2h") - 4
    (size,) = struct.unpack(">I", content[at : at + 4])
    boxes = b""
    for _ in range(choices.below(MOST_PARTS)):
        kind = choices.of((b"colr", b"res ", b"resc", b"resd", b"cdef", b"pclr", b"cmap", b"bpcc",
                           b"ihdr", b"xml ", b"uuid", b"free", choices.bytes(4)))  # fmt: skip
        payload = choices.payload()
        if kind == b"res ":
            inner = choices.of((b"resc", b"resd"))
            payload = struct.pack(">I", 18) + inner + choices.bytes(10)
        length = choices.of(
            (8 + len(payload), 8 + len(payload), 8 + len(payload), choices.below(99))
        )
        boxes += struct.pack(">I", length) + kind + payload
    if choices.below(3):
        header = struct.pack(">I", size + len(boxes)) + content[at + 4 : at + size] + boxes
        return content[:at] + header + content[at + size :]
    return content[:at] + boxes + content[at:]


def onnx_edits(model, content: bytes) -> bytes:
    """Return a serialized ONNX model after a few edits of its graph, which any parser reads."""
    choices = Choices(content)
    graph = model.graph
    for _ in range(choices.below(5)):
        node, weights = choices.of(graph.node), choices.of(graph.initializer)
        match choices.below(16):
            case 0:
                node.op_type = choices.of(OPERATIONS)
            case 1:
                graph.node.add().CopyFrom(node)
            case 2:
                graph.node.remove(node)
            case 3 if node.input:
                node.input[choices.below(len(node.input))] = choices.of(
                    [
                        *(value.name for value in graph.input),
                        weights.name,
                        choices.of(graph.node).output[0],
                        "",
                    ]
                )
            case 4 if node.output:
                node.output[0] = choices.of([choices.of(graph.node).output[0], "other", ""])
            case 5 if node.attribute:
                attribute = choices.of(node.attribute)
                if attribute.ints:
                    attribute.ints[choices.below(len(attribute.ints))] = choices.number()
                else:
                    attribute.i, attribute.f = choices.number(), choices.number()
            case 6 if node.attribute:
                attribute = choices.of(node.attribute)
                attribute.type = choices.below(14)
            case 7 if node.attribute:
                node.attribute.add().CopyFrom(choices.of(node.attribute))
            case 8:
                attribute = node.attribute.add(name=choices.of(ATTRIBUTES))
                attribute.type, attribute.i = 2, choices.number()
            case 9 if weights.dims:
                weights.dims[choices.below(len(weights.dims))] = choices.number()
            case 10:
                weights.data_type = choices.below(24)
            case 11:
                weights.raw_data = choices.payload()
            case 12:
                value = choices.of([*graph.input, *graph.output])
                dim = value.type.tensor_type.shape.dim.add()
                dim.dim_value = choices.number()
            case 13:
                value = choices.of([*graph.input, *graph.output])
                value.type.tensor_type.elem_type = choices.below(24)
            case 14:
                metadata = choices.of(model.metadata_props)
                at = choices.below(len(metadata.value) or 1)
                new = choices.of(('"', "{", "-1", "1e999", "null", "[]", "\u202e"))
                metadata.value = metadata.value[:at] + new + metadata.value[at + 1 :]
            case 15:
                model.opset_import[0].version = choices.number()
    return model.SerializeToString()


OPERATIONS = (
    *("Conv", "PRelu", "Relu", "DepthToSpace", "Resize", "Add", "Mul", "Div", "Clip", "Cast"),
    *("Transpose", "Identity", "Constant", "ReduceSum", "Loop", "If", "ConvTranspose", "Tile"),
)
ATTRIBUTES = ("blocksize", "group", "pads", "strides", "dilations", "to", "axis", "perm", "mode")
