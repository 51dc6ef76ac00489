"""EXIF keeps its bytes: types, letters, byte order and places, in every format that holds it."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srgan_edge.image import tiff
from srgan_edge.image.in_memory import unpacked
from srgan_edge.image.metadata import is_possible
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import write_image

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 8: 2, 9: 4, 10: 8, 129: 1}
EXPOSURE, PLACE, INTEROP, MAKER_NOTE, THUMBNAIL = 0x8769, 0x8825, 0xA005, 0x927C, b"old face"
NAME, LATIN = "Jürgen Müller\0".encode(), "© Müller\0".encode("latin-1")


def table(order: str, start: int, tags: list[tuple[int, int, bytes]], following: int = 0) -> bytes:
    """A table at `start` of a block; values of more than four bytes follow it."""
    end = start + 2 + 12 * len(tags) + 4
    entries, values = struct.pack(order + "H", len(tags)), b""
    for number, kind, value in tags:
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field = struct.pack(order + "I", end + len(values))
            values += value + bytes(len(value) % 2)
        entries += struct.pack(order + "HHI", number, kind, len(value) // SIZES[kind]) + field
    return entries + struct.pack(order + "I", following) + values


def main_tags(order: str, exposure: int, place: int) -> list[tuple[int, int, bytes]]:
    pack = lambda layout, *values: struct.pack(order + layout, *values)  # noqa: E731
    return [
        (0x10E, 2, LATIN),
        (0x10F, 129, NAME),
        (0x112, 3, pack("H", 6)),
        (0x11A, 5, pack("II", 720000, 10000)),
        (0x11B, 5, pack("II", 360000, 10000)),
        (0x128, 3, pack("H", 2)),
        (0x13B, 2, NAME),
        (EXPOSURE, 4, pack("I", exposure)),
        (PLACE, 4, pack("I", place)),
    ]


def camera(order: str) -> bytes:
    """The block of a camera, with a thumbnail, whose maker's note counts from its beginning."""
    pack = lambda layout, *values: struct.pack(order + layout, *values)  # noqa: E731
    exposure = 8 + len(table(order, 8, main_tags(order, 0, 0)))
    tags = [
        (0x829A, 5, pack("II", 10, 200)),
        (0x9201, 10, pack("ii", 6965784, 1000000)),
        (0x9204, 10, pack("ii", 0, 0)),
        (MAKER_NOTE, 7, b"secret of the maker"),
        (0x9286, 7, b"ASCII\0\0\0a remark"),
        (0xA002, 4, pack("I", 64)),
        (0xA430, 129, NAME),
    ]
    place = exposure + len(table(order, exposure, tags))
    gps = [(1, 2, b"N\0"), (2, 5, pack("6I", 52, 1, 31, 1, 12, 1)), (27, 7, b"ASCII\0\0\0GPS")]
    second = place + len(table(order, place, gps))
    thumbnail = [(0x201, 4, pack("I", 0)), (0x202, 4, pack("I", len(THUMBNAIL)))]
    end = second + len(table(order, second, thumbnail))
    thumbnail[0] = (0x201, 4, pack("I", end))
    block = pack("2sHI", b"II" if order == "<" else b"MM", 42, 8)
    block += table(order, 8, main_tags(order, exposure, place), second)
    block += table(order, exposure, tags) + table(order, place, gps)
    return block + table(order, second, thumbnail) + THUMBNAIL


def tags_of(content: bytes) -> dict[int, tuple[int, bytes, int]]:
    """Type, bytes and place of all tags of a block or a classic TIFF."""
    order = "<" if content[:2] == b"II" else ">"
    found = {}
    starts = [struct.unpack_from(order + "I", content, 4)[0]]
    for start in starts:
        (count,) = struct.unpack_from(order + "H", content, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            number, kind, length = struct.unpack_from(order + "HHI", content, entry)
            length *= SIZES[kind]
            place = (
                entry + 8 if length <= 4 else struct.unpack_from(order + "I", content, entry + 8)[0]
            )
            found[number] = kind, content[place : place + length], place
            if number in (EXPOSURE, PLACE, INTEROP):
                starts.append(struct.unpack_from(order + "I", content, place)[0])
    return found


def values(content: bytes, *but: int) -> dict[int, tuple[int, bytes]]:
    return {
        number: (kind, value)
        for number, (kind, value, _) in tags_of(content).items()
        if number not in (EXPOSURE, PLACE, *but)
    }


def saved(path: Path, block: bytes) -> Path:
    Image.new("RGB", (17, 5)).save(path, exif=b"Exif\0\0" + block)
    return path


def read(path: Path) -> tuple[StillImage, list[str]]:
    with ImageReader(path) as reader:
        return reader.rows(0, reader.height), reader.notes


def block_in(path: Path) -> bytes:
    if path.suffix == ".tif":
        return path.read_bytes()
    with Image.open(path) as image:
        return image.info["exif"].removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp"])
def test_types_letters_and_places_are_kept(tmp_path: Path, source: str, target: str, order: str):
    block = camera(order)
    image, notes = read(saved(tmp_path / f"in{source}", block))
    assert notes == []
    write_image(tmp_path / f"out{target}", image)
    after = block_in(tmp_path / f"out{target}")
    expected = values(block, 0xA002) | {0x112: (3, struct.pack(order + "H", 1))}
    expected[0x11A], expected[0x11B] = expected[0x11B], expected[0x11A]  # the image was turned
    changed = (0x11A, 0x11B, 0x128) if target != ".png" else ()  # dots per inch of the format
    found = values(after, *changed)
    assert {number: found.get(number) for number in expected if number not in changed} == {
        number: value for number, value in expected.items() if number not in changed
    }
    assert 0xA002 not in found and THUMBNAIL not in after
    assert tags_of(after)[MAKER_NOTE] == tags_of(block)[MAKER_NOTE]
    with Image.open(tmp_path / f"out{target}") as out:
        assert out.getexif()[0x112] == 1
        assert out.getexif().get_ifd(PLACE)[2] == (52, 31, 12)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_keeps_types_and_letters(tmp_path: Path, monkeypatch, order: str, big: bool):
    block = camera(order)
    image, _ = read(saved(tmp_path / "in.png", block))
    monkeypatch.setattr(tiff, "_CLASSIC_LIMIT_BYTES", 0 if big else 2**31)
    pixels = np.arange(17 * 5 * 3, dtype=np.uint8 if big else np.uint16).reshape(17, 5, 3)
    write_image(tmp_path / "middle.tif", StillImage(pixels, exif=image.exif))
    again, notes = read(tmp_path / "middle.tif")
    assert notes == [] and np.array_equal(again.pixels, pixels)
    write_image(tmp_path / "out.png", again)
    found, expected = values(block_in(tmp_path / "out.png")), values(image.exif[6:])
    if big and order == ">":  # Pillow reads no BigTIFF with its highest bytes first
        assert found[0x9201] == (10, struct.pack("<ii", 6965784, 1000000))
        assert found[0x112] == (3, struct.pack("<H", 1))
        found = {number: it for number, it in found.items() if it[0] not in (3, 5, 10)}
        expected = {number: it for number, it in expected.items() if it[0] not in (3, 5, 10)}
    assert found == expected


def test_a_pil_image_keeps_them_unless_the_program_changes_them(tmp_path: Path, caplog):
    saved(tmp_path / "in.jpg", camera("<"))
    with Image.open(tmp_path / "in.jpg") as image:
        (still,), pack = unpacked(image)
    assert values(pack([still]).info["exif"][6:])[0x13B] == (2, NAME)
    write_image(tmp_path / "in.tif", read(tmp_path / "in.jpg")[0])
    with Image.open(tmp_path / "in.tif") as image:
        (still,), pack = unpacked(image)
    assert values(pack([still]).info["exif"][6:])[0x13B] == (2, NAME)
    caplog.set_level("INFO")
    with Image.open(tmp_path / "in.jpg") as image:
        image.getexif()[0x131] = "a program"
        (still,), pack = unpacked(image)
    assert values(pack([still]).info["exif"][6:])[0x131] == (2, b"a program\0")
    assert "letters beyond ASCII" in caplog.text


def test_a_turned_avif_keeps_letters(tmp_path: Path):
    saved(tmp_path / "in.avif", camera("<"))
    content = (tmp_path / "in.avif").read_bytes()
    # Pillow has written the tags anew for the file, so put the letters into it.
    assert content.count(b"J??rgen M??ller") == 1
    (tmp_path / "in.avif").write_bytes(content.replace(b"J??rgen M??ller", NAME[:-1]))
    image, _ = read(tmp_path / "in.avif")
    assert image.pixels.shape == (17, 5, 3)
    assert values(image.exif[6:])[0x13B] == (2, NAME)


def test_values_that_tags_share_stay(tmp_path: Path):
    content = struct.pack("<2sHIH", b"II", 42, 8, 3)
    for number in (0x10F, 0x9999, 0x131):
        content += struct.pack("<HHII", number, 2, 8, 50)
    image, notes = read(saved(tmp_path / "in.png", content + bytes(4) + b"Company\0"))
    assert values(image.exif[6:]) == {0x10F: (2, b"Company\0"), 0x131: (2, b"Company\0")}
    assert notes == ["left out: EXIF tags: tag 39321"]


def entry(number: int, kind: int, count: int, field: int) -> bytes:
    return struct.pack("<HHII", number, kind, count, field)


def block_with(*entries: bytes, following: int = 0, behind: bytes = b"") -> bytes:
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + b"".join(entries) + struct.pack("<I", following) + behind


MAKER = entry(0x10F, 2, 3, int.from_bytes(b"Abc", "little"))
BROKEN = {
    "value outside": (block_with(MAKER, entry(0x131, 2, 9, 1 << 30)), "tags: Software", True),
    "huge count": (block_with(MAKER, entry(0x131, 5, 2**32 - 1, 8)), "tags: Software", True),
    "unknown type": (block_with(MAKER, entry(0x131, 77, 1, 8)), "tags: Software", True),
    "table outside": (block_with(MAKER, entry(EXPOSURE, 4, 1, 1 << 30)), "EXIF", False),
    "table in itself": (
        block_with(MAKER, entry(0x9999, 3, 1, 0), entry(EXPOSURE, 4, 1, 8)),
        "tables that lie on each other",
        False,
    ),
    "next table outside": (block_with(MAKER, following=1 << 31), "", True),
    "next table is the first": (block_with(MAKER, following=8), "", True),
    "shared too often": (
        block_with(MAKER, *[entry(1000 + i, 7, 4000, 8) for i in range(400)]),
        "more values than",
        False,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, name: str):
    block, note, kept = BROKEN[name]
    image, notes = read(saved(tmp_path / "in.png", block))
    assert [note in it for it in notes] == [True] if note else notes == []
    if kept:
        assert values(image.exif[6:]) == {0x10F: (2, b"Abc")}
    for suffix in (".png", ".webp", ".tif"):  # whatever is kept can be written
        write_image(tmp_path / f"out{suffix}", image)
    assert image.exif is None or is_possible(image)


def test_exif_from_another_process_may_be_anything():
    rng = np.random.default_rng(0)
    for order in "<>":
        block = bytearray(camera(order))
        for _ in range(500):
            broken = block.copy()
            for place in rng.integers(0, len(broken), 3):
                broken[place] = rng.integers(0, 256)
            image = StillImage(np.zeros((1, 1, 3), np.uint8), exif=b"Exif\0\0" + bytes(broken))
            if is_possible(image):
                tiff.TiffWriter(io.BytesIO(), (1, 1), 3, 8, exif=image.exif)
