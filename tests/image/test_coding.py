"""The compression that an image went through, from the file alone."""

import io

import pytest
from PIL import Image

from srgan_edge.image.coding import Coding, jpeg_quality
from srgan_edge.image.reader import ImageReader

PHOTO = Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 50).convert("RGB")


def coding(tmp_path, name, image=PHOTO, **options):
    image.save(tmp_path / name, **options)
    with ImageReader(tmp_path / name) as reader:
        return reader.coding


@pytest.mark.parametrize("quality", [1, 5, 30, 49, 50, 51, 75, 89, 90, 92, 99, 100])
def test_the_quality_of_a_jpeg_is_read_off_its_tables(tmp_path, quality):
    found = coding(tmp_path, "a.jpg", quality=quality)
    assert found == Coding(f"JPEG of quality {quality}", quality < 90)


def test_other_tables_get_the_nearest_quality():
    assert jpeg_quality([1] * 64) == 100
    assert jpeg_quality([255] * 64) == 1
    assert 70 < jpeg_quality([8] * 64) < 95


def test_gray_and_progressive_jpegs_have_a_quality_too(tmp_path):
    assert coding(tmp_path, "g.jpg", PHOTO.convert("L"), quality=40).name == "JPEG of quality 40"
    assert coding(tmp_path, "p.jpg", quality=95, progressive=True).is_lossy is False


def test_webp_is_lossy_or_lossless_wherever_its_data_lie(tmp_path):
    assert coding(tmp_path, "a.webp", quality=80) == Coding("lossy WebP", True)
    assert coding(tmp_path, "b.webp", lossless=True) == Coding("lossless WebP", False)
    exif = Image.Exif()
    exif[0x010E] = "a text of odd length."
    for lossless in (False, True):  # behind an extended header, and inside the first frame
        found = coding(tmp_path, "c.webp", lossless=lossless, exif=exif)
        assert found.is_lossy is not lossless
        frames = [PHOTO, PHOTO.rotate(90)]
        options = {"save_all": True, "append_images": frames[1:], "lossless": lossless}
        assert coding(tmp_path, "d.webp", **options).is_lossy is not lossless


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.gif"])
def test_the_other_formats_keep_their_pixels(tmp_path, name):
    assert coding(tmp_path, name).is_lossy is False


def test_the_file_is_read_on_from_where_it_was(tmp_path):
    buffer = io.BytesIO()
    PHOTO.save(buffer, "WEBP", lossless=True)
    (tmp_path / "a.webp").write_bytes(buffer.getvalue())
    with ImageReader(tmp_path / "a.webp") as reader:
        assert reader.rows(0, reader.height).pixels.shape == (48, 64, 3)
