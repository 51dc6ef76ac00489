"""Files written row by row are read by other programs, and take memory by the row."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from srgan_edge.errors import OutputFailed
from srgan_edge.image import png, tiff
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import image_file, left_out_by, refuse_unwritable, write_image

KINDS = [
    (gray, alpha, bits) for gray in (True, False) for alpha in (True, False) for bits in (8, 16)
]


def noise(*shape: int, bits: int = 8) -> np.ndarray:
    kind = np.uint16 if bits == 16 else np.uint8
    return np.random.default_rng(shape).integers(0, 2**bits, shape, dtype=kind)


def still_image(width: int, height: int, gray: bool, alpha: bool, bits: int) -> StillImage:
    pixels = noise(height, width, 1 if gray else 3, bits=bits)
    pixels = pixels.repeat(3, axis=2) if gray else pixels
    return StillImage(pixels, noise(height, width, bits=bits) if alpha else None, gray)


def decoded_by_ffmpeg(path: Path) -> np.ndarray:
    """The samples of the file, [H, W, channels], in their own type."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    deep = frame.format.components[0].bits > 8
    order = np.dtype(np.uint16 if deep else np.uint8)
    if frame.format.name.endswith("be"):
        order = order.newbyteorder(">")
    channels = len(frame.format.components)
    rows = np.frombuffer(memoryview(frame.planes[0]), order).reshape(frame.height, -1)
    return rows[:, : frame.width * channels].reshape(frame.height, frame.width, channels)


@pytest.mark.parametrize(("gray", "alpha", "bits"), KINDS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (401, 5)])
def test_another_decoder_reads_what_was_written(tmp_path, suffix, size, gray, alpha, bits):
    whole = still_image(*size, gray, alpha, bits)
    path = tmp_path / f"out{suffix}"
    with image_file(path, whole.rows(0, 0), *size) as write:
        for start in range(0, whole.height, 3):
            write(whole.rows(start, start + 3))
    as_gray = gray and not (
        alpha and bits == 16 and suffix == ".tif"
    )  # hardly any program opens it
    expected = whole.pixels[..., :1] if as_gray else whole.pixels
    if alpha:
        expected = np.dstack([expected, whole.alpha])
    assert np.array_equal(decoded_by_ffmpeg(path), expected)
    if bits == 8:
        with Image.open(path) as image:
            image.verify()
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image).reshape(expected.shape), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_how_the_rows_come_changes_nothing(tmp_path: Path, suffix: str):
    whole = still_image(700, 900, False, False, 8)
    files = []
    for step in (1, 7, 256, 900):
        path = tmp_path / f"{step}{suffix}"
        with image_file(path, whole, 700, 900) as write:
            for start in range(0, 900, step):
                write(whole.rows(start, start + step))
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), whole.pixels)
        files.append(path.read_bytes())
    if suffix == ".tif":
        assert len(set(files)) == 1


def test_how_many_cores_there_are_changes_nothing(tmp_path: Path, monkeypatch):
    whole = still_image(700, 900, False, True, 16)
    files = set()
    for workers in (1, 2, 5):
        monkeypatch.setattr(png, "_WORKERS", workers)
        write_image(tmp_path / "out.png", whole)
        files.add((tmp_path / "out.png").read_bytes())
    assert len(files) == 1


def test_smooth_images_are_compressed(tmp_path: Path):
    y, x = np.mgrid[:400, :600]
    pixels = np.stack([x // 3, y // 2, (x + y) // 5], axis=2).astype(np.uint8)
    for name in ("out.png", "out.tif"):
        write_image(tmp_path / name, StillImage(pixels))
        assert (tmp_path / name).stat().st_size < pixels.size / 20


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_big_tiff_and_all_that_is_kept(tmp_path: Path, monkeypatch, suffix: str):
    monkeypatch.setattr(tiff, "_CLASSIC_LIMIT_BYTES", 1000)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    like = StillImage(noise(50, 40, 3), exif=exif.tobytes(), dpi=(300.0, 150.0))
    write_image(tmp_path / f"out{suffix}", like)
    if suffix == ".tif":
        assert (tmp_path / "out.tif").read_bytes()[:4] == b"II+\0"
    with ImageReader(tmp_path / f"out{suffix}") as reader:
        still = reader.rows(0, 50)
        assert np.array_equal(still.pixels, like.pixels)
        assert still.dpi == pytest.approx((300, 150), abs=0.02)
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.getexif()[0x010F] == "Maker"
        assert image.getexif().get_ifd(0x8825)[2] == (52.0, 31.0, 12.0)


@pytest.mark.parametrize("source", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".tif", ".bmp"])
def test_dpi_is_kept(tmp_path: Path, source: str, target: str):
    Image.new("RGB", (3, 2)).save(tmp_path / f"in{source}", dpi=(300, 300))
    with ImageReader(tmp_path / f"in{source}") as reader:
        write_image(tmp_path / f"out{target}", reader.rows(0, 2))
    with Image.open(tmp_path / f"out{target}") as out:
        assert tuple(map(float, out.info["dpi"])) == pytest.approx((300, 300), abs=0.02)


@pytest.mark.parametrize("alpha", [False, True])
def test_a_still_gif_has_the_colors_that_suit_it(tmp_path: Path, alpha: bool):
    y, x = np.mgrid[:64, :96]
    pixels = np.stack([2 * x, 3 * y, x + y], axis=2).astype(np.uint8)
    like = StillImage(pixels, np.where(x < 40, 255, 100).astype(np.uint8) if alpha else None)
    write_image(tmp_path / "out.gif", like)
    with ImageReader(tmp_path / "out.gif") as reader:
        image = reader.rows(0, 64)
    visible = np.s_[:, :40]
    apart = image.pixels[visible].astype(int) - pixels[visible]
    assert np.abs(apart).mean() < 6 and np.abs(apart.mean(axis=(0, 1))).max() < 1
    assert (image.alpha is not None) == alpha
    if alpha:
        assert np.array_equal(image.alpha, np.where(x < 40, 255, 0))


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("out.png", []),
        ("out.tif", []),
        ("out.jpg", []),
        ("out.webp", []),
        ("out.bmp", ["EXIF"]),
        ("out.gif", ["colors", "EXIF", "dots per inch"]),
    ],
)
def test_left_out_by_lists_what_a_format_cannot_store(name: str, left_out: list[str]):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    like = StillImage(noise(1, 1, 3), exif=exif.tobytes(), dpi=(300, 300))
    lines = list(left_out_by(Path(name), like))
    assert [line.split(":")[0] for line in lines] == left_out


def test_shades_of_transparency_that_a_gif_lacks_are_named():
    like = StillImage(noise(1, 1, 3), noise(1, 1))
    lines = list(left_out_by(Path("out.gif"), like))
    assert [line.split(":")[0] for line in lines] == ["colors", "shades of transparency"]


def test_formats_collected_in_memory_have_a_limit(tmp_path: Path):
    like = StillImage(noise(1, 1, 3))
    for name in ("out.jpg", "out.bmp"):
        with pytest.raises(OutputFailed, match=r"would all be in memory.*write \.png or \.tif"):
            refuse_unwritable(tmp_path / name, like, 20_000, 20_000)
    for name in ("out.png", "out.tif"):
        refuse_unwritable(tmp_path / name, like, 200_000, 200_000)


def test_an_interrupted_file_is_absent(tmp_path: Path):
    (tmp_path / "out.png").write_bytes(b"older")
    with (
        pytest.raises(ZeroDivisionError),
        image_file(tmp_path / "out.png", StillImage(noise(9, 9, 3)), 9, 9) as write,
    ):
        write(StillImage(noise(4, 9, 3)))
        raise ZeroDivisionError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


UPSCALES = """
import resource, sys
from pathlib import Path
import numpy as np
from tests.test_upscaler import Nearest
from srgan_edge.image.still import enlarged
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.writer import image_file
from srgan_edge.upscaler import Tiling, FrameUpscaler
source, target = map(Path, sys.argv[1:])
with ImageReader(source) as reader:
    size = 4 * reader.width, 4 * reader.height
    with image_file(target, reader.rows(0, 0), *size) as write:
        for stripe in enlarged(reader, FrameUpscaler(Nearest(), Tiling(tile=64)), *size):
            write(stripe)
            del stripe
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_memory_is_that_of_the_input_and_one_stripe(tmp_path: Path, suffix: str):
    """Six times the rows are 8 MB more of input, and 92 MB more of result."""

    def peak_mb(height: int) -> float:
        source = tmp_path / f"{height}.png"
        Image.new("RGB", (800, height), "teal").save(source)
        arguments = [sys.executable, "-c", UPSCALES, source, tmp_path / f"out{suffix}"]
        paths = ":".join(
            str(Path(__file__).resolve().parents[1] / folder) for folder in ("..", ".")
        )
        done = subprocess.run(
            arguments, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=True
        )
        return int(done.stdout) / 1024

    short, tall = peak_mb(500), peak_mb(3000)
    held_mb = 4 * 800 * 2500 / 2**20  # Pillow takes 4 bytes a pixel
    assert tall - short < held_mb + 30
