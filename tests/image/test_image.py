"""Images of every kind are read and written unchanged, or refused with a reason."""

import io
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import cmyk_profile, icc_profile, png
from PIL import Image, ImageCms

from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError
from srgan_edge.image.opening import MAX_PIXELS
from srgan_edge.image.reader import ImageReader, read_pixels
from srgan_edge.image.still import StillImage, joined, resize_rows, upscale_rows
from srgan_edge.image.writer import SUFFIXES, format_from_suffix, refuse_unwritable, write_image

SIZES = [(1, 1), (3, 2), (1, 7), (17, 5)]
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()

ORIENTATION, MAKE, EXIF_TABLE, GPS_TABLE = 0x0112, 0x010F, 0x8769, 0x8825
USER_COMMENT, MAKER_NOTE, PIXEL_X_DIMENSION, GPS_LATITUDE = 0x9286, 0x927C, 0xA002, 2


def nearest_x4(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


class WholeFrames:
    """A network that is one function of the whole image."""

    def __init__(self, upscale: Callable[[np.ndarray], np.ndarray], scale: int):
        self.upscale, self.scale = upscale, scale

    def upscale_rows(self, rows, width: int, height: int, on_tiles) -> Iterator[np.ndarray]:
        yield self.upscale(rows(0, height))


def upscale_image(image: StillImage, upscale, scale: int) -> StillImage:
    return joined(list(upscale_rows(image, WholeFrames(upscale, scale))))


def resize_image(image: StillImage, width: int, height: int) -> StillImage:
    return joined(list(resize_rows(iter([image]), image.height, width, height)))


def read_image(path: Path) -> StillImage:
    with ImageReader(path) as reader:
        return reader.rows(0, reader.height)


def notes(path: Path) -> list[str]:
    with ImageReader(path) as reader:
        return reader.notes


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def gray_profile() -> bytes:
    """The smallest profile of a gray device, with gamma 2.2."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"gray\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, int(2.2 * 256)) + bytes(2)
    tags = {b"desc": text, b"wtpt": white, b"kTRC": curve}
    return icc_profile(b"mntr", b"GRAY", b"XYZ ", tags)


def camera_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = orientation, "Maker"
    exif[EXIF_TABLE] = {
        USER_COMMENT: b"ASCII\0\0\0hello",
        MAKER_NOTE: b"secret of the maker",
        PIXEL_X_DIMENSION: 17,
    }
    exif[GPS_TABLE] = {1: "N", GPS_LATITUDE: (52.0, 31.0, 12.0)}
    return exif.tobytes()


# Reading: every mode


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("size", SIZES)
def test_rgb_is_read_as_it_is(tmp_path: Path, suffix: str, size: tuple[int, int]):
    pixels = noise(size[1], size[0], 3)
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(Image.fromarray(pixels), tmp_path / f"in{suffix}", **options)
    image = read_image(path)
    assert np.array_equal(image.pixels, pixels)
    dpi = image.dpi if suffix == ".bmp" else None  # Pillow writes 96 into a BMP
    assert image == StillImage(image.pixels, dpi=dpi)  # neither alpha, gray, profile nor EXIF
    assert image.pixels.flags.writeable and image.pixels.flags.c_contiguous


def test_jpeg_is_read_close_to_what_was_written(tmp_path: Path):
    pixels = np.full((5, 17, 3), (200, 100, 50), np.uint8)
    image = read_image(saved(Image.fromarray(pixels), tmp_path / "in.jpg", quality=95))
    assert np.abs(image.pixels.astype(int) - pixels).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("size", SIZES)
def test_gray_stays_gray(tmp_path: Path, suffix: str, mode: str, size: tuple[int, int]):
    image = Image.fromarray(noise(size[1], size[0])).convert(mode)
    still = read_image(saved(image, tmp_path / f"in{suffix}"))
    assert still.gray and still.alpha is None
    assert np.array_equal(still.pixels, np.asarray(image.convert("RGB")))
    write_image(tmp_path / "out.png", still)
    out = Image.open(tmp_path / "out.png")
    assert out.mode == "L"
    assert np.array_equal(np.asarray(out), np.asarray(image.convert("L")))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_gray_is_written_gray(tmp_path: Path, suffix: str):
    levels = np.full((5, 17, 3), 77, np.uint8)
    write_image(tmp_path / f"out{suffix}", StillImage(levels, gray=True))
    with Image.open(tmp_path / f"out{suffix}") as out:
        assert out.mode == "L"
        assert np.asarray(out).mean() == pytest.approx(77, abs=1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_gray_with_alpha(tmp_path: Path, suffix: str):
    image = Image.fromarray(noise(5, 17, 2), mode=None)
    assert image.mode == "LA"
    still = read_image(saved(image, tmp_path / f"in{suffix}"))
    assert still.gray
    assert np.array_equal(still.alpha, np.asarray(image)[..., 1])
    write_image(tmp_path / f"out{suffix}", still)
    with Image.open(tmp_path / f"out{suffix}") as out:
        assert out.mode == "LA"
        assert np.array_equal(np.asarray(out), np.asarray(image))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("size", SIZES)
def test_rgba_round_trip(tmp_path: Path, suffix: str, size: tuple[int, int]):
    rgba = noise(size[1], size[0], 4)
    path = saved(Image.fromarray(rgba), tmp_path / "in.png")
    image = read_image(path)
    assert np.array_equal(image.pixels, rgba[..., :3])
    assert np.array_equal(image.alpha, rgba[..., 3])
    write_image(tmp_path / f"out{suffix}", image)
    again = read_image(tmp_path / f"out{suffix}")
    assert np.array_equal(again.alpha, image.alpha)
    if suffix != ".webp":  # lossy in its colors
        assert np.array_equal(again.pixels, image.pixels)


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 2))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 2, 1, 0])
    return image


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_palette_becomes_rgb(tmp_path: Path, suffix: str):
    image = read_image(saved(palette_image(), tmp_path / f"in{suffix}"))
    assert image.pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert image.alpha is None and not image.gray


@pytest.mark.parametrize(
    ("transparency", "alpha"),
    [(1, [[255, 0, 255], [255, 0, 255]]), (b"\x40\x80", [[64, 128, 255], [255, 128, 64]])],
)
def test_palette_with_transparency_becomes_rgba(tmp_path: Path, transparency, alpha):
    path = saved(palette_image(), tmp_path / "in.png", transparency=transparency)
    image = read_image(path)
    assert image.alpha.tolist() == alpha
    assert image.pixels[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_rgb_with_a_transparent_color_becomes_rgba(tmp_path: Path):
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / "in.png", transparency=(4, 5, 6))
    assert read_image(path).alpha.tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("depth", "level", "row"),
    [(1, 1, b"\x80"), (2, 3, b"\xc0"), (4, 15, b"\xf0"), (8, 255, b"\xff\0")],
)
def test_transparent_gray_of_every_depth(tmp_path: Path, depth: int, level: int, row: bytes):
    data = png(2, 1, depth, 0, b"\0" + row, b"tRNS" + struct.pack(">H", level))
    (tmp_path / "in.png").write_bytes(data)
    image = read_image(tmp_path / "in.png")
    assert image.gray
    assert image.pixels[0, :, 0].tolist() == [255, 0]
    assert image.alpha.tolist() == [[0, 255]]


def test_a_wrong_suffix_does_not_matter(tmp_path: Path):
    pixels = noise(2, 3, 3)
    path = saved(Image.fromarray(pixels), tmp_path / "in.jpg", format="PNG")
    assert np.array_equal(read_image(path).pixels, pixels)


# Reading: EXIF and profiles


def raw_and_upright(orientation: int) -> tuple[np.ndarray, np.ndarray]:
    """An image as the sensor stored it, and as EXIF 2.32 (table of tag 0x0112) displays it."""
    raw = noise(5, 17, 3)
    rows, columns = raw[::-1], raw[:, ::-1]
    upright = {
        1: raw,
        2: columns,
        3: rows[:, ::-1],
        4: rows,
        5: raw.swapaxes(0, 1),
        6: rows.swapaxes(0, 1),
        7: rows[:, ::-1].swapaxes(0, 1),
        8: columns.swapaxes(0, 1),
    }[orientation]
    return raw, upright


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int):
    raw, upright = raw_and_upright(orientation)
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"in{suffix}"
    saved(Image.fromarray(raw), path, exif=camera_exif(orientation), **options)
    image = read_image(path)
    assert np.array_equal(image.pixels, upright)
    write_image(tmp_path / "out.png", image)
    again = read_image(tmp_path / "out.png")
    assert np.array_equal(again.pixels, upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_gray_jpeg(tmp_path: Path, orientation: int):
    raw, upright = raw_and_upright(orientation)
    image = Image.fromarray(raw[..., 0].copy())
    path = saved(image, tmp_path / "in.jpg", quality=100, exif=camera_exif(orientation))
    still = read_image(path)
    assert np.allclose(still.pixels[..., 0], upright[..., 0], atol=3)


@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif"])
def test_exif_is_kept_but_for_orientation_and_size(tmp_path: Path, source: str, target: str):
    path = saved(Image.new("RGB", (17, 5)), tmp_path / f"in{source}", exif=camera_exif(6))
    image = read_image(path)
    write_image(tmp_path / f"out{target}", upscale_image(image, nearest_x4, 4))
    with Image.open(tmp_path / f"out{target}") as out:
        exif = out.getexif()
        inner = exif.get_ifd(EXIF_TABLE)
        assert out.size == (20, 68)
        assert exif[ORIENTATION] == 1 and exif[MAKE] == "Maker"
        assert inner[USER_COMMENT] == b"ASCII\0\0\0hello"
        assert inner[MAKER_NOTE] == b"secret of the maker"
        assert PIXEL_X_DIMENSION not in inner
        assert exif.get_ifd(GPS_TABLE)[GPS_LATITUDE] == (52.0, 31.0, 12.0)


def test_tiff_layout_does_not_leak_into_exif(tmp_path: Path):
    path = saved(Image.new("RGB", (17, 5)), tmp_path / "in.tif", software="scanner")
    image = read_image(path)
    exif = Image.Exif()
    exif.load(image.exif)
    assert dict(exif) == {0x0131: "scanner"}
    plain = saved(Image.new("RGB", (17, 5)), tmp_path / "plain.tif")
    assert read_image(plain).exif is None


def test_bigtiff_gives_classic_exif(tmp_path: Path):
    path = tmp_path / "in.tif"
    saved(Image.new("RGB", (17, 5)), path, big_tiff=True, exif=camera_exif(1))
    assert read_image(path).exif[6:10] == b"II*\0"


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_unreadable_exif_is_left_out_and_reported(tmp_path: Path, suffix: str):
    path = tmp_path / f"in{suffix}"
    saved(Image.new("RGB", (3, 2)), path, exif=b"Exif\0\0garbage, garbage")
    image = read_image(path)
    assert image.exif is None and image.pixels.shape == (2, 3, 3)
    assert [line.split(": ")[:2] for line in notes(path)] == [["left out", "EXIF"]]


@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("target", [".jpg", ".png", ".webp", ".tif"])
def test_profile_is_kept(tmp_path: Path, source: str, target: str):
    path = saved(Image.new("RGB", (3, 2)), tmp_path / f"in{source}", icc_profile=SRGB_PROFILE)
    image = read_image(path)
    assert image.icc_profile == SRGB_PROFILE
    write_image(tmp_path / f"out{target}", image)
    with Image.open(tmp_path / f"out{target}") as out:
        assert out.info["icc_profile"] == SRGB_PROFILE


def test_gray_profile_stays_with_gray_pixels(tmp_path: Path):
    profile = gray_profile()
    path = saved(Image.new("L", (3, 2), 9), tmp_path / "in.png", icc_profile=profile)
    image = read_image(path)
    assert image.icc_profile == profile
    write_image(tmp_path / "out.jpg", image)
    with Image.open(tmp_path / "out.jpg") as out:
        assert (out.mode, out.info["icc_profile"]) == ("L", profile)
    with pytest.raises(UsageError, match=r"WEBP cannot hold a gray color profile; write \.png"):
        write_image(tmp_path / "out.webp", image)


@pytest.mark.parametrize(
    ("mode", "profile", "reason"),
    [
        ("RGB", b"x" * 99, "unreadable"),
        ("RGB", SRGB_PROFILE[:200], "unreadable"),
        ("RGB", LAB_PROFILE, "for Lab, but the pixels are RGB"),
        ("RGB", gray_profile(), "for GRAY, but the pixels are RGB"),
        ("L", SRGB_PROFILE, "for RGB, but the pixels are GRAY"),
    ],
)
def test_unusable_profile_is_left_out_and_reported(tmp_path: Path, mode, profile, reason):
    path = saved(Image.new(mode, (3, 2)), tmp_path / "in.png", icc_profile=profile)
    image = read_image(path)
    assert image.icc_profile is None
    assert notes(path) == [f"left out: color profile: {reason}"]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_rgb_by_its_profile(tmp_path: Path, suffix: str):
    inks = np.zeros((8, 16, 4), np.uint8)
    inks[:, 8:, 0] = 255  # cyan, which by this profile is a gray
    options = {"icc_profile": cmyk_profile()} | ({"quality": 100} if suffix == ".jpg" else {})
    path = saved(Image.fromarray(inks, "CMYK"), tmp_path / f"in{suffix}", **options)
    image = read_image(path)
    assert (image.pixels[:, :6] >= 253).all()
    assert np.abs(image.pixels[:, 10:].astype(int) - 119).max() <= 3  # L* 50 is sRGB 119
    with ImageReader(path) as reader:
        assert reader.notes == ["CMYK becomes sRGB by its color profile"]
    assert read_image(path).icc_profile == image.icc_profile  # nothing of the time of day
    write_image(tmp_path / "out.jpg", image)
    with Image.open(tmp_path / "out.jpg") as out:
        assert out.mode == "RGB" and out.info["icc_profile"] == image.icc_profile


@pytest.mark.parametrize(
    ("profile", "left_out"),
    [(None, 0), (b"x" * 99, 1), (SRGB_PROFILE, 1), (cmyk_profile()[:400], 1)],
)
def test_cmyk_without_a_usable_profile(tmp_path: Path, profile: bytes | None, left_out: int):
    inks = np.full((2, 3, 4), (255, 0, 51, 51), np.uint8)
    path = tmp_path / "in.tif"
    options = {} if profile is None else {"icc_profile": profile}
    saved(Image.fromarray(inks, "CMYK"), path, **options)
    assert (read_image(path).pixels == (0, 204, 163)).all()
    assert len(notes(path)) == 1 + left_out
    assert notes(path)[-1] == "CMYK without a profile becomes RGB as (1 - ink) x (1 - black)"


# Reading: refusals


def refusal(path: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        read_pixels(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colors_are_refused(tmp_path: Path, mode: str):
    path = saved(Image.new(mode, (3, 2)), tmp_path / "in.tif")
    assert f"{mode} colors" in refusal(path)
    assert f"magick {path} -depth 16 -colorspace sRGB" in refusal(path)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_comparisons_accept_no_more_than_8_bits(tmp_path: Path, mode: str):
    path = saved(Image.new(mode, (3, 2)), tmp_path / "in.tif")
    assert "16 bits per channel, and only 8" in refusal(path)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_several_images_are_refused_and_counted(tmp_path: Path, suffix: str):
    first, *others = (Image.fromarray(noise(4, 4, i + 3)[..., :3].copy()) for i in range(3))
    path = saved(first, tmp_path / f"in{suffix}", save_all=True, append_images=others)
    assert "holds 3 images" in refusal(path)


@pytest.mark.parametrize(("kind", "pages"), [(0x000000, 1), (0x010002, 1), (0x020002, 2)])
def test_only_other_views_in_a_jpeg_count_as_images(tmp_path: Path, kind: int, pages: int):
    """Gain maps (undefined kind) and previews are in most phone and camera images."""
    path = tmp_path / "in.jpg"
    first, second = Image.new("RGB", (16, 8)), Image.new("RGB", (8, 8))
    first.save(path, "MPO", save_all=True, append_images=[second])
    data = path.read_bytes()
    index = data.index(b"0100", data.index(b"MPF\0"))
    entry = data.index(struct.pack("<I", 0x030000), index) + 16  # the second entry's kind
    assert data[entry : entry + 4] == bytes(4)
    path.write_bytes(data[:entry] + struct.pack("<I", kind) + data[entry + 4 :])
    if pages == 1:
        assert read_image(path).pixels.shape == (8, 16, 3)
    else:
        assert "holds 2 images" in refusal(path)


@pytest.mark.parametrize("side", [10_001, 12_000, 30_000])  # quiet, a warning, an error in Pillow
def test_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int, recwarn):
    path = tmp_path / "in.png"
    path.write_bytes(png(side, side, 1, 0, b""))  # would be damaged, were it decoded
    message = refusal(path)
    assert f"{side}x{side} is {side * side} pixels, and {MAX_PIXELS} is the limit" in message
    assert not recwarn.list


def test_largest_input_is_not_refused(tmp_path: Path, recwarn):
    path = tmp_path / "in.png"
    path.write_bytes(png(10_000, 10_000, 1, 0, b""))
    with pytest.raises(InputDamaged):
        read_image(path)
    assert not recwarn.list


FOREIGN = {
    "text": b"This is not an image.\n",
    "capitals": b"BMW is a maker of cars, and this is text.\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "avi": b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(30),
    "random": np.random.default_rng(0).bytes(5000),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_content_is_refused_whatever_its_name(tmp_path: Path, content: bytes, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no Ghostscript to be found, should anyone look
    path = tmp_path / "in.png"
    path.write_bytes(content)
    assert "not a PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF" in refusal(path)


def test_anything_but_a_regular_file_is_refused_at_once(tmp_path: Path):
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "fifo.png")
    assert "empty file" in refusal(tmp_path / "empty.png")
    assert "not a regular file" in refusal(tmp_path / "fifo.png")
    assert "not a regular file" in refusal(Path("/dev/zero"))
    assert "a folder" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing.png")
    assert "Not a directory" in refusal(tmp_path / "empty.png" / "in.png")


# Reading: damage


def encoded(suffix: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(50, 40, 3)).save(buffer, SUFFIXES[suffix], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_truncated_is_damaged(tmp_path: Path, suffix: str, share: float):
    whole = encoded(suffix)
    path = tmp_path / f"in{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputDamaged, match="cut short") as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_truncated_deflated_tiff_is_damaged(tmp_path: Path):
    whole = encoded(".tif", compression="tiff_adobe_deflate")
    for length in (100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "in.tif").write_bytes(whole[:length])
        with pytest.raises(InputDamaged):
            read_image(tmp_path / "in.tif")


def test_flipped_byte_in_a_png_is_damaged(tmp_path: Path):
    whole = bytearray(encoded(".png"))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "in.png").write_bytes(whole)
    with pytest.raises(InputDamaged):
        read_image(tmp_path / "in.png")


def test_png_without_its_palette_is_damaged(tmp_path: Path):
    (tmp_path / "in.png").write_bytes(png(2, 1, 8, 3, b"\0\0\1"))
    with pytest.raises(InputDamaged, match="palette"):
        read_image(tmp_path / "in.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_flipped_bytes_raise_nothing_else(tmp_path: Path, suffix: str):
    whole = encoded(suffix, exif=camera_exif(6), icc_profile=SRGB_PROFILE)
    path = tmp_path / "in"
    rng = np.random.default_rng(1)
    outcomes = []
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 1500), 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            outcomes.append(type(read_image(path)))
        except (InputDamaged, InputRefused) as error:
            outcomes.append(type(error))
    assert InputDamaged in outcomes


# Alpha


def disc(soft: bool) -> StillImage:
    """Red on hidden black, as most programs leave it."""
    y, x = np.mgrid[-10:11, -12:13]
    distance = np.hypot(x, y)
    coverage = np.clip(8.5 - distance, 0, 1) if soft else (distance < 8).astype(float)
    alpha = np.rint(255 * coverage).astype(np.uint8)
    pixels = np.zeros((*alpha.shape, 3), np.uint8)
    pixels[alpha > 0] = (255, 0, 0)
    return StillImage(pixels, alpha)


def on(background: int, image: StillImage) -> np.ndarray:
    share = image.alpha[..., None] / 255
    return share * image.pixels + (1 - share) * background


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "enlarge",
    [
        lambda image: upscale_image(image, nearest_x4, 4),
        lambda image: resize_image(image, 70, 61),
        lambda image: resize_image(upscale_image(image, nearest_x4, 4), 37, 31),
    ],
    ids=["upscale", "resize", "both"],
)
def test_no_dark_fringe(soft: bool, enlarge: Callable[[StillImage], StillImage]):
    large = enlarge(disc(soft))
    assert on(255, large)[..., 0].min() >= 254  # red on white: the red channel is full throughout
    assert np.ptp(large.alpha) == 255
    red = on(0, large)
    assert red[..., 1:].max() == 0 and np.allclose(red[..., 0], large.alpha, atol=1)


def test_network_never_sees_hidden_colors():
    seen = []
    pixels, alpha = noise(5, 17, 3), np.zeros((5, 17), np.uint8)
    pixels[2, 3], alpha[2, 3] = (10, 20, 30), 1
    pixels[2, 4], alpha[2, 4] = (10, 20, 30), 255
    upscale_image(
        StillImage(pixels, alpha), lambda array: seen.append(array) or nearest_x4(array), scale=4
    )
    assert (seen[0] == (10, 20, 30)).all()


@pytest.mark.parametrize("size", SIZES)
def test_visible_colors_reach_the_network_untouched(size: tuple[int, int]):
    pixels, alpha = noise(size[1], size[0], 3), noise(size[1], size[0]) % 7
    large = upscale_image(StillImage(pixels, alpha), nearest_x4, 4)
    assert large.pixels.shape == (4 * size[1], 4 * size[0], 3)
    assert large.alpha.shape == (4 * size[1], 4 * size[0])
    assert np.array_equal(large.pixels[::4, ::4][alpha > 0], pixels[alpha > 0])


def test_hidden_colors_continue_the_nearest_visible_ones():
    pixels, alpha = np.zeros((8, 32, 3), np.uint8), np.zeros((8, 32), np.uint8)
    pixels[:, 0], alpha[:, 0] = (255, 0, 0), 255
    pixels[:, -1], alpha[:, -1] = (0, 0, 255), 255
    large = upscale_image(StillImage(pixels, alpha), lambda array: array, 1)
    assert (large.pixels[:, 1] == (255, 0, 0)).all()
    assert (large.pixels[:, -2] == (0, 0, 255)).all()


def test_alpha_is_upscaled_smoothly():
    alpha = np.full((3, 8), 255, np.uint8)
    alpha[:, :4] = 0
    row = upscale_image(StillImage(noise(3, 8, 3), alpha), nearest_x4, 4).alpha[6].astype(int)
    assert (np.diff(row[13:19]) > 0).all() and np.array_equal(row, 255 - row[::-1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", [0, 255])
def test_uniform_alpha_stays_uniform(size: tuple[int, int], level: int):
    alpha = np.full((size[1], size[0]), level, np.uint8)
    large = upscale_image(StillImage(noise(size[1], size[0], 3), alpha), nearest_x4, 4)
    assert (large.alpha == level).all()
    assert (resize_image(large, 13, 11).alpha == level).all()


# Resizing and writing


@pytest.mark.parametrize("size", SIZES)
def test_resize_gives_the_size_asked_for_and_keeps_the_rest(size: tuple[int, int]):
    image = StillImage(noise(size[1], size[0], 3), None, True, b"profile", b"exif", (9, 9))
    resized = resize_image(image, 5, 3)
    assert resized.pixels.shape == (3, 5, 3) and resized.pixels.dtype == np.uint8
    assert resized == StillImage(resized.pixels, None, True, b"profile", b"exif", (9, 9))


@pytest.mark.parametrize("new_size", [(9, 31), (70, 300), (3, 2), (41, 900)])
def test_resize_is_the_same_in_stripes(new_size: tuple[int, int]):
    image = StillImage(noise(300, 41, 3), noise(300, 41))
    stripes = iter([image.rows(0, 1), image.rows(1, 200), image.rows(200, 300)])
    result = joined(list(resize_rows(stripes, 300, *new_size)))
    whole = resize_image(image, *new_size)
    assert np.array_equal(result.pixels, whole.pixels) and np.array_equal(result.alpha, whole.alpha)
    expected = Image.fromarray(image.pixels).resize(new_size, Image.Resampling.LANCZOS)
    plain = resize_image(StillImage(image.pixels), *new_size)
    assert np.abs(plain.pixels.astype(int) - np.asarray(expected)).max() <= 1


def test_resize_of_a_constant_is_that_constant():
    image = StillImage(np.full((17, 5, 3), (200, 100, 50), np.uint8))
    assert (resize_image(image, 9, 31).pixels == (200, 100, 50)).all()


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG", ".Jpeg"])
def test_suffix_names_the_format(tmp_path: Path, suffix: str):
    path = tmp_path / f"out{suffix}"
    write_image(path, StillImage(np.full((5, 17, 3), (200, 100, 50), np.uint8)))
    with Image.open(path) as out:
        assert out.format == format_from_suffix(path) == SUFFIXES[suffix.lower()]
        assert np.abs(np.asarray(out.convert("RGB"), int) - (200, 100, 50)).max() <= 4


def test_jpeg_keeps_the_full_color_resolution(tmp_path: Path):
    write_image(tmp_path / "out.jpg", StillImage(noise(16, 16, 3)))
    with Image.open(tmp_path / "out.jpg") as out:
        assert [layer[1:3] for layer in out.layer] == [(1, 1)] * 3


def test_tiff_is_compressed(tmp_path: Path):
    write_image(tmp_path / "out.tif", StillImage(np.zeros((200, 200, 3), np.uint8)))
    assert (tmp_path / "out.tif").stat().st_size < 2000


@pytest.mark.parametrize("name", ["out.jxl", "out", "out.png.txt"])
def test_unknown_suffix_is_a_usage_error(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match=r"possible: \.png, \.jpg, .*\.bmp"):
        write_image(tmp_path / name, StillImage(noise(2, 3, 3)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_transparency_does_not_fit_everywhere(tmp_path: Path, suffix: str):
    path = tmp_path / f"out{suffix}"
    alpha = np.full((2, 3), 255, np.uint8)
    write_image(path, StillImage(noise(2, 3, 3), alpha))  # opaque: nothing is lost
    before = path.read_bytes()
    alpha[0, 0] = 254
    with pytest.raises(UsageError, match=r"transparency; write \.png or \.webp") as caught:
        write_image(path, StillImage(noise(2, 3, 3), alpha))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_profile_does_not_fit_bmp(tmp_path: Path):
    with pytest.raises(UsageError, match="BMP cannot hold the image's color profile"):
        write_image(tmp_path / "out.bmp", StillImage(noise(2, 3, 3), icc_profile=SRGB_PROFILE))


@pytest.mark.parametrize(("suffix", "side"), [(".webp", 16_383), (".jpg", 65_500)])
def test_side_limits(tmp_path: Path, suffix: str, side: int):
    path = tmp_path / f"out{suffix}"
    write_image(path, StillImage(np.zeros((side, 1, 3), np.uint8)))
    assert read_image(path).pixels.shape == (side, 1, 3)
    path.unlink()
    with pytest.raises(OutputFailed, match=rf"{side} pixels a side"):
        write_image(path, StillImage(np.zeros((1, side + 1, 3), np.uint8)))
    with pytest.raises(OutputFailed, match=rf"4x{side + 1}"):
        refuse_unwritable(path, StillImage(noise(2, 1, 3)), 4, side + 1)
    assert list(tmp_path.iterdir()) == []


def test_exif_too_long_for_jpeg(tmp_path: Path):
    exif = Image.Exif()
    exif[EXIF_TABLE] = {MAKER_NOTE: bytes(70_000)}
    image = StillImage(noise(2, 3, 3), exif=exif.tobytes())
    with pytest.raises(UsageError, match=r"JPEG cannot hold 70\d+ bytes of EXIF.*write \.png"):
        refuse_unwritable(tmp_path / "out.jpg", image, 8, 12)  # before the work
    write_image(tmp_path / "out.png", image)
    longest = replace(image, exif=image.exif[:65_533])
    write_image(tmp_path / "out.jpg", longest)


def test_missing_folder(tmp_path: Path):
    with pytest.raises(OutputFailed, match="create the folder"):
        write_image(tmp_path / "missing" / "out.png", StillImage(noise(2, 3, 3)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk_leaves_the_older_output(tmp_path: Path, suffix: str, capfd):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"older")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that write() returns EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputFailed, match="File too large"):
            write_image(path, StillImage(noise(50, 50, 3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr().err == ""
