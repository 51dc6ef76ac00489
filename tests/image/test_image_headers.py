"""What a header says of the samples: inverted levels, color chunks of PNG, times, unknown kinds."""

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError
from srgan_edge.image.colors import means_srgb
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import refuse_unwritable, write_image
from srgan_edge.train.photo_files import read_photo

P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
GAMMA_1, GAMMA_SRGB = (100_000).to_bytes(4), (45_455).to_bytes(4)
PQ = bytes([9, 16, 0, 1])
STATED = [
    {"gAMA": GAMMA_1},
    {"cHRM": P3, "gAMA": GAMMA_SRGB},
    {"cICP": PQ, "mDCV": bytes(24), "cLLI": bytes(8)},
]


def read(path: Path) -> StillImage:
    with ImageReader(path) as reader:
        return reader.rows(0, reader.height)


def ramp(dtype: type) -> np.ndarray:
    """Levels from white at the top left to black at the bottom right."""
    levels = np.linspace(1, 0, 40 * 33).reshape(33, 40)
    white = 1 if dtype is np.float32 else np.iinfo(dtype).max
    return (levels * white).astype(dtype)


def write_white_is_zero(path: Path, levels: np.ndarray) -> None:
    """Write gray in which 0 is white; Pillow inverts nothing when it writes."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    inverted = (1 if levels.dtype == np.float32 else np.iinfo(levels.dtype).max) - levels
    Image.fromarray(inverted).save(path, tiffinfo=tags)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HHI", 262, 3, 1))
    content[at + 8 : at + 10] = b"\0\0"
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_in_which_zero_is_white_is_no_negative(tmp_path, dtype):
    path, levels = tmp_path / "in.tif", ramp(dtype)
    write_white_is_zero(path, levels)
    white = 255 if dtype is np.uint8 else 65535
    pixels = read(path).pixels[..., 0].astype(float) / white
    assert np.abs(pixels - ramp(np.float32)).max() < 0.005
    photo = read_photo(path, 16)[..., 0] / 255
    assert np.abs(photo - ramp(np.float32)).max() < 0.005


def png_with(chunks: dict[str, bytes], pixels: np.ndarray) -> bytes:
    """Return a PNG with these chunks after its header."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content = file.getvalue()
    more = b"".join(
        struct.pack(">I", len(data)) + name.encode() + data
        + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in chunks.items()
    )  # fmt: skip
    return content[:33] + more + content[33:]


def chunks_of(path: Path) -> dict[str, bytes]:
    content, at, found = path.read_bytes(), 8, {}
    while at < len(content):
        length = int.from_bytes(content[at : at + 4])
        found[content[at + 4 : at + 8].decode()] = content[at + 8 : at + 8 + length]
        at += length + 12
    return found


@pytest.mark.parametrize("chunks", STATED, ids=lambda chunks: "+".join(chunks))
def test_what_a_png_states_of_its_colors_is_kept(tmp_path, chunks):
    path = tmp_path / "in.png"
    path.write_bytes(png_with(chunks, ramp(np.uint8)))
    write_image(tmp_path / "out.png", read(path))
    kept = chunks_of(tmp_path / "out.png")
    assert {name: kept.get(name) for name in chunks} == chunks
    order = list(kept)
    assert order.index(next(iter(chunks))) < order.index("IDAT")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".gif", ".bmp"])
@pytest.mark.parametrize("chunks", STATED, ids=lambda chunks: "+".join(chunks))
def test_a_format_that_cannot_state_it_is_refused(tmp_path, chunks, suffix):
    path = tmp_path / "in.png"
    path.write_bytes(png_with(chunks, ramp(np.uint8)))
    if suffix == ".tif" and "cHRM" in chunks:  # as white point and primaries
        return refuse_unwritable(tmp_path / f"out{suffix}", read(path), 160, 132)
    with pytest.raises(
        UsageError, match=f"states of its colors .*{next(iter(chunks))}.*write .png"
    ):
        refuse_unwritable(tmp_path / f"out{suffix}", read(path), 160, 132)


@pytest.mark.parametrize(
    ("chunks", "has_profile", "srgb"),
    [
        ({}, False, True),
        ({"sRGB": b"\0", "gAMA": GAMMA_1}, False, True),
        ({"gAMA": GAMMA_SRGB}, False, True),
        ({"gAMA": (45_000).to_bytes(4), "cHRM": SRGB}, False, True),
        ({"gAMA": GAMMA_1}, True, True),  # the profile counts
        ({"gAMA": GAMMA_1}, False, False),
        ({"cHRM": P3}, False, False),
        ({"cICP": bytes([1, 13, 0, 1])}, False, True),
        ({"cICP": PQ}, True, False),  # before the profile
        ({"cICP": PQ, "sRGB": b"\0"}, False, False),
    ],
)
def test_what_means_srgb(chunks, has_profile, srgb):
    assert means_srgb(chunks, has_profile=has_profile) is srgb


def test_chunks_of_a_wrong_size_or_after_the_pixels_say_nothing(tmp_path):
    path = tmp_path / "in.png"
    path.write_bytes(png_with({"cICP": bytes(5), "cLLI": b""}, ramp(np.uint8)))
    assert read(path).stated_colors == ()


@pytest.mark.parametrize(
    ("name", "seconds", "plays", "said"),
    [
        ("out.gif", [1, 700], 0, "at most 655.35 s, and one lasts 700 s"),
        ("out.webp", [20_000, 1], 0, "at most 16777.2 s, and one lasts 20000 s"),
        ("out.gif", [1, 1], 70_000, "at most 65535 times or forever"),
        ("out.webp", [1, 1], 70_000, "at most 65535 times or forever"),
    ],
)
def test_times_that_a_format_cannot_hold_are_refused(tmp_path, name, seconds, plays, said):
    like = StillImage(np.zeros((4, 4, 3), np.uint8))
    times = [Fraction(second) for second in seconds]
    with pytest.raises(UsageError, match=said):
        refuse_unwritable(tmp_path / name, like, 4, 4, frames=2, seconds=times, plays=plays)
    refuse_unwritable(tmp_path / "out.png", like, 4, 4, frames=2, seconds=times, plays=plays)


@pytest.mark.parametrize(
    ("bits", "sample_format", "compression"),
    [((32,) * 3, 3, 1), ((64,), 3, 1), ((8,) * 3, 1, 50002)],
)
def test_a_sound_tiff_of_another_kind_is_refused_and_not_called_damaged(
    tmp_path, bits, sample_format, compression
):
    path = tmp_path / "in.tif"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[256], tags[257], tags[258], tags[259], tags[262] = 8, 8, bits, compression, 2
    tags[273], tags[277], tags[278], tags[279], tags[339] = 8, len(bits), 8, 8, sample_format
    file = io.BytesIO(b"II*\0" + struct.pack("<I", 8))
    file.seek(8)
    tags.save(file)
    path.write_bytes(file.getvalue() + bytes(8 * 8 * 24))
    with pytest.raises(
        InputRefused, match=rf"a TIFF of {len(bits)} samples with {bits[0]} .*magick"
    ):
        ImageReader(path)


def test_a_compression_that_pillow_lacks_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "in.tif"
    Image.fromarray(ramp(np.uint8)).save(path, compression="tiff_adobe_deflate")

    def lacks_codec(*arguments):
        raise OSError("decoder error -2")

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", lacks_codec)
    monkeypatch.setitem(Image.SAVE, "TIFF", lacks_codec)
    with pytest.raises(InputRefused, match="TIFF compressed by tiff_adobe_deflate, which this"):
        ImageReader(path)


@pytest.mark.parametrize("compression", ["jpeg", "group4", "tiff_lzw", "packbits"])
def test_a_broken_tiff_is_damaged_whatever_its_compression(tmp_path, compression):
    """Pillow has the same error where libtiff lacks the compression."""
    path, mode = tmp_path / "in.tif", "1" if compression.startswith("group") else "L"
    Image.fromarray(ramp(np.uint8)).convert(mode).save(path, compression=compression)
    content = path.read_bytes()
    with Image.open(path) as image:
        start, length = image.tag_v2[273][0], image.tag_v2[279][0]
    path.write_bytes(content[:start] + b"\x01" * length + content[start + length :])
    with pytest.raises(InputDamaged, match=r"\(decoder error -2\); fetch it again"):
        ImageReader(path)


def test_exif_of_odd_types_costs_the_exif_alone(tmp_path):
    """A text tag that holds numbers, as mutated and badly written files have it."""
    exif = Image.Exif()
    exif[271] = "maker"
    content = exif.tobytes()
    at = content.index(struct.pack(">HHI", 271, 2, 6))
    for kind in range(14):
        odd = content[:at] + struct.pack(">HHI", 271, kind, 6) + content[at + 8 :]
        path = tmp_path / f"{kind}.jpg"
        Image.fromarray(ramp(np.uint8)).save(path, exif=odd)
        image = read(path)
        assert image.pixels.shape == (33, 40, 3)
        for suffix in (".png", ".jpg", ".tif", ".webp"):
            try:
                write_image(tmp_path / f"out{suffix}", image)
            except OutputFailed as error:  # one line, not a traceback
                assert "cannot write" in str(error)


def test_a_gain_map_and_a_motion_photo_are_named(tmp_path):
    path, more = tmp_path / "in.jpg", Image.fromarray(ramp(np.uint8))
    xmp = b'<x:xmpmeta><rdf:Description GCamera:MotionPhoto="1"/></x:xmpmeta>'
    more.save(path, "MPO", save_all=True, append_images=[more.resize((20, 16))], xmp=xmp)
    with ImageReader(path) as reader:
        assert reader.notes == [
            "left out: 1 more images in the file, such as previews and gain maps",
            "left out: XMP",
            "left out: the video of a motion photo",
        ]
