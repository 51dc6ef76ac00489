"""PIL images are treated as the files that they came from."""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from images import cmyk_profile, png
from PIL import Image, ImageCms, TiffImagePlugin

from srgan_edge.errors import InputDamaged, InputRefused, UsageError
from srgan_edge.image.in_memory import unpacked
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage

SIZE = (13, 9)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
ORIENTATION, MAKE = 0x0112, 0x010F


def colors() -> np.ndarray:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.stack([9 * x, 14 * y, 5 * (x + y)], axis=2).astype(np.uint8)


def exif(orientation: int) -> Image.Exif:
    table = Image.Exif()
    table[ORIENTATION], table[MAKE] = orientation, "Maker"
    return table


def tags_of(block: bytes | None) -> dict[int, object]:
    table = Image.Exif()
    table.load(block or b"")
    return {tag: table[tag] for tag in table if tag != ORIENTATION}


def mode(name: str) -> Image.Image:
    return Image.fromarray(colors()).convert(name)


def deep(dtype: type, white: float) -> Image.Image:
    levels = np.linspace(0, 1, 117).reshape(9, 13)
    return Image.fromarray((levels * white).astype(dtype))


def is_white_at_zero(path: Path) -> None:
    """Change the photometric interpretation of a TIFF from 1 to 0."""
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HHI", 262, 3, 1))
    content[at + 8] = 0
    path.write_bytes(content)


FILES = {
    "RGB": ("in.png", Image.fromarray(colors()), {}),
    "dots": ("in.png", Image.fromarray(colors()), {"dpi": (300, 200)}),
    "L": ("in.jpg", mode("L"), {}),
    "1": ("in.png", mode("1"), {}),
    "P": ("in.png", mode("P"), {"transparency": 3}),
    "RGBA": ("in.tif", mode("RGBA"), {}),
    "profile": ("in.jpg", Image.fromarray(colors()), {"icc_profile": SRGB}),
    "wrong profile": ("in.png", Image.fromarray(colors()), {"icc_profile": LAB}),
    "CMYK": ("in.jpg", mode("CMYK"), {"icc_profile": cmyk_profile()}),
    "CMYK without": ("in.tif", mode("CMYK"), {}),
    "16 bits": ("in.png", deep(np.uint16, 65535), {}),
    "32 bits": ("in.tif", deep(np.int32, 65535), {}),
    "floats": ("in.tif", deep(np.float32, 1), {}),
    **{f"turned {n}": ("in.jpg", mode("RGB"), {"exif": exif(n)}) for n in range(1, 9)},
    # Of an uncompressed one, opened by its path, Pillow 13 maps the rows into the wrong shape.
    "turned TIFF": (
        "in.tif",
        mode("L"),
        {"exif": exif(6), "dpi": (300, 200), "compression": "tiff_lzw"},
    ),
    "turned deep": ("in.png", deep(np.uint16, 65535), {"exif": exif(8)}),
}


@pytest.mark.parametrize(("name", "image", "options"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_as_the_file(tmp_path: Path, name, image, options, inverted, loaded):
    path = tmp_path / name
    image.save(path, **options)
    if inverted:
        if path.suffix != ".tif" or image.mode not in ("L", "F"):
            return
        is_white_at_zero(path)
    with ImageReader(path) as reader:
        expected = reader.rows(0, reader.height)
    with Image.open(path) as opened:
        if loaded:
            opened.load()
        (still,), pack = unpacked(opened)
    assert np.array_equal(still.pixels, expected.pixels)
    assert np.array_equal(still.alpha, expected.alpha) if still.alpha is not None else True
    assert (still.gray, still.alpha is None) == (expected.gray, expected.alpha is None)
    result = pack([still])
    assert result.size == (expected.width, expected.height)
    assert result.info.get("icc_profile") == expected.icc_profile
    if loaded and path.suffix == ".tif":  # Pillow has closed the file
        assert tags_of(result.info.get("exif")) == tags_of(expected.exif)
    else:
        assert result.info.get("exif") == expected.exif
    assert tuple(result.info.get("dpi", ())) == pytest.approx(expected.dpi or ())


def test_the_image_of_the_caller_stays_as_it_is(tmp_path: Path):
    Image.fromarray(colors()).save(tmp_path / "in.jpg", exif=exif(6))
    with Image.open(tmp_path / "in.jpg") as opened:
        unpacked(opened)
        assert opened.size == SIZE and opened.getexif()[ORIENTATION] == 6
        assert opened.getexif()[MAKE] == "Maker"


def test_entries_of_a_program_are_kept_and_others_logged(caplog):
    caplog.set_level(logging.INFO, "srgan_edge")
    image = Image.fromarray(colors())
    image.info = {"mine": 7, "gamma": 0.45, "duration": 40, "xmp": b"<x/>", "background": 3}
    (still,), pack = unpacked(image)
    assert pack([still]).info == {"mine": 7, "gamma": 0.45, "duration": 40}
    assert caplog.messages == ["the PIL image: left out: XMP"]


def test_exif_that_cannot_be_read_is_logged(caplog):
    caplog.set_level(logging.INFO, "srgan_edge")
    image = Image.fromarray(colors())
    image.info["exif"] = b"Exif\0\0garbage, garbage"
    (still,), pack = unpacked(image)
    assert "exif" not in pack([still]).info
    assert "left out: EXIF: unreadable" in caplog.messages[0]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_the_other_images_of_an_open_file_are_logged(tmp_path: Path, caplog, kind):
    caplog.set_level(logging.INFO, "srgan_edge")
    images = [Image.fromarray(colors() // n) for n in (1, 2, 3)]
    images[0].save(tmp_path / "in", kind, save_all=True, append_images=images[1:])
    with Image.open(tmp_path / "in") as opened:
        unpacked(opened)
    assert "the PIL image: left out: the other 2 of its 3 images" in caplog.messages


def test_what_pillow_loses_is_refused(tmp_path: Path):
    from srgan_edge.image.writer import write_image

    write_image(tmp_path / "in.png", StillImage(colors().astype(np.uint16) * 257))
    with (
        Image.open(tmp_path / "in.png") as opened,
        pytest.raises(UsageError, match=r"16 bits per channel, of which Pillow decodes 8.*file"),
    ):
        unpacked(opened)


def test_what_an_open_file_states_is_logged(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, "srgan_edge")
    content = png(1, 1, 8, 2, b"\0\1\2\3", b"cICP\x09\x10\0\1", b"tEXtAuthor\0A. B.")
    (tmp_path / "in.png").write_bytes(content)
    with Image.open(tmp_path / "in.png") as opened:
        (still,), _ = unpacked(opened)
    assert still.pixels.tolist() == [[[1, 2, 3]]]
    assert caplog.messages == [
        "the PIL image: left out: text: Author",
        "the PIL image: left out: what the file states of its colors (cICP)",
    ]


def test_a_tga_without_transparency_is_refused(tmp_path: Path):
    Image.fromarray(colors()).convert("RGBA").save(tmp_path / "in.tga")
    content = bytearray((tmp_path / "in.tga").read_bytes())
    content[17] &= 0xF0
    (tmp_path / "in.tga").write_bytes(content)
    with (
        Image.open(tmp_path / "in.tga") as opened,
        pytest.raises(UsageError, match=r"takes for transparency; for files type up\.file"),
    ):
        unpacked(opened)


def test_a_format_that_only_pillow_knows(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO, "srgan_edge")
    Image.fromarray(colors()).save(tmp_path / "in.pcx")
    with Image.open(tmp_path / "in.pcx") as opened:
        (still,), pack = unpacked(opened)
    assert np.array_equal(still.pixels, colors()) and pack([still]).size == SIZE
    assert "does not know in this PCX" in caplog.messages[0]


@pytest.mark.parametrize("value", [np.nan, 255])
def test_levels_without_a_white_are_refused(value: float):
    image = Image.fromarray(np.full((4, 4), value, np.float32))
    with pytest.raises(InputRefused, match=r"the PIL image: holds"):
        unpacked(image)


def test_a_misleading_tag_is_refused(tmp_path: Path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    Image.fromarray(colors()).save(tmp_path / "in.tif", tiffinfo=tags)
    with (
        Image.open(tmp_path / "in.tif") as opened,
        pytest.raises(InputRefused, match="the PIL image: a reduced copy"),
    ):
        unpacked(opened)


def test_a_broken_file_is_damaged(tmp_path: Path):
    Image.effect_noise((99, 99), 99).save(tmp_path / "in.png")
    (tmp_path / "in.png").write_bytes((tmp_path / "in.png").read_bytes()[:3000])
    with (
        Image.open(tmp_path / "in.png") as opened,
        pytest.raises(InputDamaged, match="broken or cut short"),
    ):
        unpacked(opened)
