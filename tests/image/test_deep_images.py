"""Images with more than 8 bits a channel keep them."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from images import png
from PIL import Image

from srgan_edge.errors import InputDamaged, InputRefused, UsageError
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage, enlarged, joined
from srgan_edge.image.writer import write_image
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler
from tests.test_upscaler import Nearest

CHANNELS = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 65536, shape, dtype=np.uint16)


def encode(path: Path, values: np.ndarray, kind: str, **options: str) -> Path:
    """Encode by FFmpeg, so that the tested writer did not produce what the tested reader reads."""
    codec, order = ("tiff", "le") if path.suffix == ".tif" else ("png", "be")
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = values.shape[:2]
    context.pix_fmt, context.time_base = kind + order, Fraction(1, 25)
    context.options = options
    frame = av.VideoFrame(context.width, context.height, kind + order)
    plane = frame.planes[0]
    rows = np.zeros((plane.height, plane.line_size // 2), ">u2" if order == "be" else "<u2")
    rows[:, : values[0].size] = values.reshape(len(values), -1)
    plane.update(rows.tobytes())
    path.write_bytes(
        b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    )
    return path


def read(path: Path) -> StillImage:
    with ImageReader(path) as reader:
        return reader.rows(0, reader.height)


def values_of(image: StillImage) -> np.ndarray:
    colors = image.pixels[..., :1] if image.gray else image.pixels
    return colors if image.alpha is None else np.dstack([colors, image.alpha])


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 18)])
def test_every_kind_is_read_and_written_exactly(tmp_path: Path, suffix: str, kind: str, size):
    if (suffix, kind) == (".tif", "ya16"):
        pytest.skip("Pillow opens no TIFF of that kind")
    values = noise(*size, CHANNELS[kind])
    path = encode(tmp_path / f"in{suffix}", values, kind)
    image = read(path)
    assert image.is_deep and image.gray == (CHANNELS[kind] < 3)
    assert np.array_equal(values_of(image), values)
    for name in ("out.png", "out.tif"):
        write_image(tmp_path / name, image)
        pixel_format, expected = kind, values
        if (name, kind) == ("out.tif", "ya16"):  # in colors, since Pillow opens it so alone
            pixel_format, expected = "rgba64", values[..., [0, 0, 0, 1]]
        assert np.array_equal(values_of(read(tmp_path / name)), expected)
        with av.open(str(tmp_path / name)) as container:
            frame = next(container.decode(video=0))
            assert frame.format.name in (f"{pixel_format}le", f"{pixel_format}be")


@pytest.mark.parametrize("compression", ["raw", "packbits", "lzw", "deflate"])
def test_compressed_tiff(tmp_path: Path, compression: str):
    values = noise(33, 18, 3) // 256 * 256
    path = encode(tmp_path / "in.tif", values, "rgb48", compression_algo=compression)
    assert np.array_equal(read(path).pixels, values)


def test_premultiplied_colors_become_plain(tmp_path: Path):
    alpha = np.array([[65535, 32768, 1000, 0]], np.uint16)
    plain = np.array([[[60_000, 30_000, 65_535]]], np.uint16).repeat(4, axis=1)
    multiplied = np.rint(plain * (alpha[..., None] / 65535)).astype(np.uint16)
    path = encode(tmp_path / "in.tif", np.dstack([multiplied, alpha]), "rgba64")
    unassociated, associated = (struct.pack("<HHIH", 338, 3, 1, kind) for kind in (2, 1))
    content = path.read_bytes()
    assert content.count(unassociated) == 1
    path.write_bytes(content.replace(unassociated, associated))
    image = read(path)
    assert np.array_equal(image.alpha, alpha)
    assert np.abs(image.pixels[0, :3].astype(int) - plain[0, :3]).max() <= 33  # 65535 / 1000 / 2


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_truncated_is_damaged(tmp_path: Path, suffix: str, share: float):
    path = encode(tmp_path / f"in{suffix}", noise(33, 18, 3), "rgb48")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputDamaged):
        read(path)


def test_a_flipped_byte_is_damage(tmp_path: Path):
    path = encode(tmp_path / "in.png", noise(33, 18, 3), "rgb48")
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(broken)
    with pytest.raises(InputDamaged):
        read(path)


def test_orientation(tmp_path: Path):
    values = noise(5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "in.png", StillImage(values, exif=exif.tobytes()))
    assert np.array_equal(read(tmp_path / "in.png").pixels, values[::-1].swapaxes(0, 1))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.array([[0, 1, 65535]], np.int32), [0, 1, 65535]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 32768, 65535]),
    ],
)
def test_levels_of_32_bits_become_16(tmp_path: Path, levels: np.ndarray, expected: list[int]):
    Image.fromarray(levels).save(tmp_path / "in.tif")
    with ImageReader(tmp_path / "in.tif") as reader:
        assert reader.rows(0, 1).pixels[0, :, 0].tolist() == expected
        assert [note.split(" become ")[1][:7] for note in reader.notes] == ["16 bits"]


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (np.array([[0, 65536]], np.int32), "from 0 to 65536; possible: 0 to 65535"),
        (np.array([[-1, 5]], np.int32), "from -1 to 5"),
        (np.array([[0, np.nan]], np.float32), "not finite"),
        (np.array([[0, np.inf]], np.float32), "not finite"),
        (np.array([[0, 255]], np.float32), "from 0 to 255; possible: 0 to 1"),
    ],
)
def test_levels_without_a_white_are_refused(tmp_path: Path, levels: np.ndarray, reason: str):
    Image.fromarray(levels).save(tmp_path / "in.tif")
    with pytest.raises(InputRefused, match=reason):
        read(tmp_path / "in.tif")


def test_more_than_ffmpeg_decodes_is_refused_before_it_is_decoded(tmp_path: Path):
    (tmp_path / "in.png").write_bytes(png(20_000, 20_000, 16, 2, b""))
    with pytest.raises(InputRefused, match="about 268 million pixels"):
        ImageReader(tmp_path / "in.png", max_pixels=10**9)
    (tmp_path / "in.png").write_bytes(png(16_000, 16_000, 16, 2, b""))
    with pytest.raises(InputDamaged):
        ImageReader(tmp_path / "in.png", max_pixels=10**9)


@pytest.mark.parametrize("name", ["out.jpg", "out.webp", "out.bmp", "out.gif"])
def test_formats_with_8_bits_are_refused(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match=r"16 bits per channel; write \.png or \.tif"):
        write_image(tmp_path / name, StillImage(noise(2, 3, 3)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tile", [0, 16, 32])
def test_stripes_are_the_whole_image(tile: int):
    y, x = np.mgrid[:70, :90]
    pixels = (200 * x[..., None] + (300, 5, 100) * y[..., None]).astype(np.uint16)
    image = StillImage(pixels, noise(70, 90) * (noise(70, 91)[:, 1:] % 3 > 0).astype(np.uint16))
    upscaler = FrameUpscaler(Nearest(), Tiling(tile=tile, overlap=8))
    stripes = list(enlarged(image, upscaler, 360, 280))
    assert len(stripes) == (1 if tile == 0 else -(-(70 - 16) // tile))
    whole = joined(list(enlarged(image, FrameUpscaler(Nearest(), Tiling(tile=0)), 360, 280)))
    assert np.array_equal(joined(stripes).pixels, whole.pixels)
    assert np.array_equal(joined(stripes).alpha, whole.alpha)


def test_deep_gray_stays_gray_and_even(tmp_path: Path):
    levels = np.linspace(30_000, 31_500, 64).astype(np.uint16)
    image = StillImage(np.tile(levels[None, :, None], (9, 1, 3)), gray=True)
    large = joined(list(enlarged(image, FrameUpscaler(Nearest(), Tiling()), 256, 36)))
    write_image(tmp_path / "out.png", large)
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == "I;16"
        row = np.asarray(out)[18].astype(int)
    assert len(np.unique(row)) > 240 and np.diff(row).min() >= 0 and np.diff(row).max() <= 8
