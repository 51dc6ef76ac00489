"""Small letters: interpolated where they are, and nothing else is touched."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from srgan_edge import Upscaler, bicubic, letters
from srgan_edge.depth import interpolated, shown_to_network
from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.errors import UsageError
from srgan_edge.image.reader import read_pixels
from srgan_edge.letters import HALO_PX, letter_shares, with_letters
from srgan_edge.model.library import find_model
from srgan_edge.pixels import LEVEL
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler

PHOTOS = Path(letters.__file__).parent / "demo" / "photos"
FONT = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
SENTENCES = (
    "the quick brown fox jumps over\na lazy dog while seven wizards\nquietly mix bright purple\n"
    "potions for the last of winter"
)


def page(size=(150, 60), ink=(20, 20, 20), paper=(255, 255, 250), font=None):
    image = Image.new("RGB", size, paper)
    font = font or ImageFont.load_default(8)
    ImageDraw.Draw(image).text((4, 4), SENTENCES, fill=ink, font=font)
    return np.asarray(image)


@pytest.fixture(scope="module")
def edge():
    with open_engine(choose_engine(find_model("edge-x4"), "openvino"), fp32=True) as engine:
        yield engine


def slow_shares(source):
    """The twin: one pixel after the other, from the definition."""
    height, width, _ = source.shape
    red, green, blue = (source[..., n].astype(int) for n in range(3))
    luma = (77 * red + 150 * green + 29 * blue + 128) // 256

    def square(plane, y, x, reach):
        """Values of a square whose parts beyond the edge repeat the edge."""
        return [
            plane[min(max(y + dy, 0), height - 1)][min(max(x + dx, 0), width - 1)]
            for dy in range(-reach, reach + 1)
            for dx in range(-reach, reach + 1)
        ]

    def everywhere(function):
        return [[int(function(y, x)) for x in range(width)] for y in range(height)]

    def ramp(value, low, high):
        return min(max((value - low) * 256 // (high - low), 0), 256)

    def dark(plane):
        most = everywhere(lambda y, x: max(square(plane, y, x, 2)))
        ground = everywhere(lambda y, x: min(square(most, y, x, 2)))
        strokes = everywhere(lambda y, x: ground[y][x] - plane[y][x])

        def share(y, x):
            around, inks = square(ground, y, x, 4), square(strokes, y, x, 4)
            uneven, mean = max(around) - min(around), sum(inks) // 81
            even = 256 - ramp(uneven, 12, 28)
            on_flat = ramp(max(inks), 90, 120) * (256 - ramp(uneven, 2, 6)) // 256
            strong = max(ramp(max(inks), 115, 150), on_flat)
            many = ramp(mean, 14, 24) - ramp(mean, 54, 66)
            return even * many // 256 * strong // 256

        return everywhere(share)

    shares = np.maximum(dark(luma), dark(255 - luma))
    return np.array(everywhere(lambda y, x: sum(square(shares, y, x, 1)) // 9))


@pytest.mark.parametrize("name", ["letters", "light letters", "faint letters", "photo", "noise"])
def test_shares_are_those_of_the_slow_twin(name):
    source = {
        "letters": lambda: page()[:20, :31],
        "light letters": lambda: page(ink=(230, 240, 250), paper=(30, 30, 40))[:20, :31],
        "faint letters": lambda: page(ink=(130, 130, 130), paper=(245, 243, 240))[:20, :31],
        "photo": lambda: read_pixels(PHOTOS / "city.jpg")[:20, :31],
        "noise": lambda: np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8),
    }[name]()
    slow = slow_shares(source)
    np.testing.assert_array_equal(letter_shares(source), slow)
    assert slow.any() or "letters" not in name


def test_letters_are_interpolated_and_all_else_stays():
    source = np.full((60, 150, 3), 200, np.uint8)
    source[:, :70] = page(size=(70, 60))
    other = np.random.default_rng(3).integers(0, 256, (240, 600, 3), np.uint8)
    result = with_letters(source, other)
    sure = letter_shares(source) == 256
    inner = np.logical_and.reduce(
        [np.roll(sure, (y, x), (0, 1)) for y in range(-2, 3) for x in range(-2, 3)]
    )
    inside = inner.repeat(4, 0).repeat(4, 1)
    assert inside.sum() > 1000
    plain = shown_to_network(interpolated(source.astype(np.uint16) * LEVEL, 4))
    np.testing.assert_array_equal(result[inside], plain[inside])
    np.testing.assert_array_equal(result[:, 400:], other[:, 400:])


@pytest.mark.parametrize("name", ["dog", "grass", "waves", "nyc"])
def test_photographs_are_the_networks_own_bit_for_bit(name):
    hr = read_pixels(PHOTOS / f"{name}.jpg")
    source = bicubic.resize(hr, hr.shape[0] // 4, hr.shape[1] // 4)
    result = np.zeros((4 * source.shape[0], 4 * source.shape[1], 3), np.uint8)
    assert with_letters(source, result) is result


def test_faint_letters_are_found_on_a_flat_background_alone():
    faint = page(size=(50, 24), ink=(70, 70, 70), paper=(200, 200, 200))
    slope = np.arange(50, dtype=np.uint8)[:, None]  # 8 levels within sight
    assert letter_shares(faint).max() > 200
    assert letter_shares(faint + slope).max() < 64


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 3), (17, 33)])
def test_frames_of_any_size(size):
    source = np.random.default_rng(4).integers(0, 2, (*size, 3), np.uint8) * 255
    result = with_letters(source, source.repeat(3, 0).repeat(3, 1))
    assert result.shape == (3 * size[0], 3 * size[1], 3)


@pytest.mark.parametrize("tile", [24, 37])
def test_tiles_have_the_letters_of_the_whole_frame(tile):
    """With an engine that is exact, tiles are the bytes of whole frames."""
    frame = page(ink=(200, 30, 30), paper=(225, 240, 225))
    whole, tiled = (
        FrameUpscaler(Doubling(), Tiling(tile=side), letters=True) for side in (0, tile)
    )
    assert tiled.halo_px == HALO_PX
    expected = whole.upscale(frame)
    assert not np.array_equal(expected, Doubling().upscale(frame[None])[0])
    np.testing.assert_array_equal(tiled.upscale(frame), expected)
    rows = tiled.upscale_rows(lambda start, stop: frame[start:stop], 150, 60)
    np.testing.assert_array_equal(np.concatenate(list(rows)), expected)


def test_tiles_of_a_network_are_the_whole_frame_with_letters_and_locked_colors(edge):
    frame = page()
    whole, tiled = (
        FrameUpscaler(edge, Tiling(tile, "exact"), letters=True, color_lock=True).upscale(frame)
        for tile in (0, 32)
    )
    assert np.abs(whole.astype(int) - tiled).max() <= 1


class Doubling:
    """Repeats pixels."""

    def __init__(self):
        from srgan_edge.engines.base import EngineInfo

        self.info = EngineInfo("doubling", "cpu", "fp32", find_model("edge-x4").spec)

    def upscale(self, batch):
        return batch.repeat(4, axis=1).repeat(4, axis=2)


def test_the_command_interpolates_letters_and_says_so(cli, tmp_path):
    Image.fromarray(page()).save(tmp_path / "in.png")
    for fidelity in ([], ["--fidelity", "auto"]):
        code, _, err = cli(
            *("upscale", "in.png", "-n", "edge-x4", "--fp32", "--overwrite", *fidelity),
            *("-o", f"{len(fidelity)}.png"),
        )
        assert code == 0, err
        assert ("letters interpolated" in err) == bool(fidelity)
    plain, lettered = (read_pixels(tmp_path / f"{n}.png") for n in (0, 2))
    np.testing.assert_array_equal(lettered, with_letters(page(), plain))


def test_the_python_api_interpolates_letters_too():
    with (
        Upscaler("edge-x4", fp32=True) as plain,
        Upscaler("edge-x4", fp32=True, fidelity="auto", overlap=HALO_PX) as lettered,
    ):
        expected = with_letters(page(), plain(page()))
        np.testing.assert_array_equal(lettered(page()), expected)
    with pytest.raises(UsageError, match="fidelity='most'; possible: a number or 'auto' or None"):
        Upscaler("srgan-x4", fidelity="most")
    with pytest.raises(UsageError, match="possible: -n srgan-x4"):
        Upscaler("edge-x4", fidelity=0.5)


def errors_of_characters(pixels):
    """Share of the characters that are missed, added or changed by a reader of text."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    read = subprocess.run(
        ["tesseract", "-", "-", "--psm", "6", "-l", "eng"],
        input=file.getvalue(),
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    ).stdout.decode()
    found, wanted = " ".join(read.split()), " ".join(SENTENCES.split())
    distances = list(range(len(wanted) + 1))
    for row, a in enumerate(found, 1):
        before, distances = distances, [row]
        for column, b in enumerate(wanted, 1):
            changed = before[column - 1] + (a != b)
            distances.append(min(before[column] + 1, distances[-1] + 1, changed))
    return distances[-1] / len(wanted)


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="needs tesseract")
@pytest.mark.skipif(not FONT.is_file(), reason="needs the font DejaVu Sans")
def test_text_is_read_as_well_as_from_bicubic_interpolation(edge):
    sums = np.zeros(3)
    for size in (6, 8):  # of 7, one character in sixty is read worse: docs/models.md
        frame = page((140, 50), font=ImageFont.truetype(FONT, size))
        height, width, _ = frame.shape
        plain, lettered = (
            FrameUpscaler(edge, Tiling(), letters=on).upscale(frame) for on in (False, True)
        )
        images = (bicubic.resize(frame, 4 * height, 4 * width), lettered, plain)
        sums += [errors_of_characters(image) for image in images]
    assert sums[1] <= sums[0]
    assert sums[1] < sums[2]
