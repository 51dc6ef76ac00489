"""The bundled weights: intact, distinct, equal in both formats, and free of grids and casts."""

import re
import zlib
from functools import cache
from pathlib import Path

import cpu
import numpy as np
import pytest

import srgan_edge
from srgan_edge import bicubic
from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.evaluation.metrics import luma
from srgan_edge.image.reader import read_pixels
from srgan_edge.model.library import DEFAULT_MODEL, WEIGHTS_FOLDER, bundled_models

PHOTO = Path(srgan_edge.__file__).parent / "demo" / "photo.png"
CARDS = Path(__file__).resolve().parents[2] / "docs" / "models"
NAMES = list(bundled_models())


def grid_levels(pixels, period_px=4):
    """Amplitude of the strongest pattern that repeats with the pixels' blocks, in levels of 255.

    In the mean spectrum of 64 px windows, what the multiples of 1 / `period_px` cycles a pixel
    have more than their surroundings. Images have no reason for it; enlargers do (Odena et al.
    2016, "Deconvolution and checkerboard artifacts").
    """
    side, image = 64, luma(pixels) * (255 / 219)  # BT.601 spans 219 levels
    window = np.outer(np.hanning(side), np.hanning(side))
    corners = [
        (y, x)
        for y in range(0, image.shape[0] - side + 1, side // 2)
        for x in range(0, image.shape[1] - side + 1, side // 2)
    ]
    crops = np.stack([image[y : y + side, x : x + side] for y, x in corners])
    power = (np.abs(np.fft.fft2(crops * window)) ** 2).mean(0)
    multiples = [(k, m) for k in range(period_px) for m in range(period_px) if k or m]
    return max(_excess(power, k * side // period_px, m * side // period_px) for k, m in multiples)


MESH_LIMIT_DB = 1
"""Limit on the bulge in the spectrum of a model's results, beyond that of the photographs."""


def flat_patches(results, originals, side=64):
    """The patches of both whose originals have the least contrast: fur, cloth, stone, not edges."""
    pairs = [
        (original[y : y + side, x : x + side], result[y : y + side, x : x + side])
        for result, original in zip(results, originals, strict=True)
        for y in range(0, original.shape[0] - side + 1, side)
        for x in range(0, original.shape[1] - side + 1, side)
    ]
    pairs = sorted((pair for pair in pairs if pair[0].std() > 2), key=lambda pair: pair[0].std())
    return [np.stack(patches) for patches in zip(*pairs[: len(pairs) // 2], strict=True)]


def bulge_db(patches):
    """How far the mean spectrum rises above a straight line from 0.2 to 0.45 cycles a pixel, in dB.

    float [N, 64, 64]. A mesh of any period and direction is such a bulge; in photographs the
    strength of detail falls evenly.
    """
    side = patches.shape[1]
    window = np.outer(np.hanning(side), np.hanning(side))
    centered = patches - patches.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centered * window)) ** 2).mean(0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    rings = (radius * side).astype(int)[radius < 0.5]
    in_db = 10 * np.log10(np.bincount(rings, power[radius < 0.5]) / np.bincount(rings))
    at = (np.arange(side // 2) + 0.5) / side
    ends = [np.abs(at - end).argmin() for end in (0.2, 0.45)]
    between = (at > 0.22) & (at < 0.42)
    return (in_db - np.interp(at, at[ends], in_db[ends]))[between].max()


def _excess(power, row, column):
    """The square root of what a bin has more than its neighbors, as the amplitude of a wave.

    On an axis, where the edges of images are, those on the axis; else those around.
    """
    side = len(power)
    near = power[np.ix_((row + np.arange(-4, 5)) % side, (column + np.arange(-4, 5)) % side)]
    if row == 0 or column == 0:
        line = near[4] if row == 0 else near[:, 4]
        around = np.r_[line[:2], line[-2:]]
    else:
        around = near[np.maximum(*np.abs(np.indices((9, 9)) - 4)) > 1]
    window_sum = np.hanning(side).sum() ** 2
    return 2 * np.sqrt(max(0, near[4, 4] - np.median(around))) / window_sum


@cache
def enlarged_photo(name):
    choice = choose_engine(bundled_models()[name], "openvino", "cpu")
    with open_engine(choice, fp32=True) as engine:
        return engine.upscale(read_pixels(PHOTO)[None])[0]


def test_the_default_is_among_them_and_all_are_small_enough():
    assert DEFAULT_MODEL in NAMES
    in_the_wheel = [len(zlib.compress(path.read_bytes())) for path in WEIGHTS_FOLDER.iterdir()]
    assert sum(in_the_wheel) < 26e6  # the wheel stays under 28 MB: all else takes 2.07


@pytest.mark.parametrize("name", NAMES)
def test_each_says_where_it_comes_from(name):
    files = bundled_models()[name]
    spec = files.spec
    assert set(files.files) == {".onnx", ".safetensors"}
    assert spec.name == name
    assert spec.licence == "Apache-2.0"
    assert spec.halo_px is not None
    assert spec.training.steps > 0
    assert re.search(r"\d+ photographs, \d+ megapixels", spec.training.data)
    assert set(spec.training.scores) == {"Set5", "Set14", "BSD100"}
    card = (CARDS / f"{name}.md").read_text()
    assert f"{spec.training.steps:,}" in card
    for benchmark, psnr in spec.training.scores.items():
        assert f"{psnr:.2f}" in card, benchmark


@pytest.mark.parametrize("name", NAMES)
def test_each_is_one_model_in_two_forms(name):
    pytest.importorskip("torch")
    files = bundled_models()[name]
    crop = read_pixels(PHOTO)[40:77, 60:111]
    results = []
    for engine_name in ("torch", "openvino"):
        with open_engine(choose_engine(files, engine_name, "cpu"), fp32=True) as engine:
            assert engine.info.spec == files.spec
            results.append(engine.upscale(crop[None])[0].astype(int))
    difference = np.abs(results[0] - results[1])
    if files.spec.quantized_from:  # sums in another order now and then round to another byte
        assert difference.mean() < (0.1 if cpu.HAS_VNNI else 0.8)
        assert difference.max() <= (12 if cpu.HAS_VNNI else 40)
    else:
        assert difference.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_none_paints_a_grid(name):
    assert grid_levels(enlarged_photo(name)) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("-x4")])
def test_none_paints_a_mesh(name, shared_data):
    folder = shared_data / "benchmarks" / "Set14"
    names = ["img_001.png", "img_005.png", "img_009.png"]  # fur, cloth, skin
    originals = [luma(read_pixels(folder / "HR" / name)) for name in names]
    with open_engine(choose_engine(bundled_models()[name], "openvino", "cpu"), fp32=True) as engine:
        results = [
            luma(engine.upscale(read_pixels(folder / "LRx4" / name)[None])[0]) for name in names
        ]
    real, ours = flat_patches(results, originals)
    assert bulge_db(ours) - bulge_db(real) < MESH_LIMIT_DB


def test_the_bulge_is_that_of_a_mesh():
    """Noise of one frequency in all directions, on top of detail that falls evenly."""
    random, side = np.random.default_rng(0), 64
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    falling = 1 / (radius + 0.05) ** 1.5
    rings = falling * (1 + 3 * ((radius > 0.28) & (radius < 0.34)))
    noise = np.fft.fft2(random.standard_normal((200, side, side)))
    even, meshed = (np.fft.ifft2(noise * shape).real for shape in (falling, rings))
    assert abs(bulge_db(even)) < 1
    assert bulge_db(meshed) > 9


@pytest.mark.parametrize("name", NAMES)
def test_none_shifts_colors(name):
    photo = read_pixels(PHOTO)
    reduced = bicubic.resize(enlarged_photo(name), *photo.shape[:2]).astype(float)
    assert np.abs((reduced - photo).mean((0, 1))).max() < 0.5


@pytest.mark.parametrize("period", [2, 4])
def test_the_spectrum_sees_half_a_level_of_grid(period):
    smooth = bicubic.resize(read_pixels(PHOTO), 720, 960)
    assert grid_levels(smooth) < 0.1
    ramp = np.arange(720)[:, None, None] + np.arange(960)[:, None]
    grid = np.where(ramp % period < period / 2, 1.0, -1.0)
    dirty = np.clip(smooth + np.random.default_rng(0).uniform(0, 1, (720, 960, 1)) + grid, 0, 255)
    assert grid_levels(dirty.astype(np.uint8)) > 0.5
