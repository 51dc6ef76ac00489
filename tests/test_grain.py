"""Grain: as much as the source has, the same for the same frame."""

import numpy as np
import pytest

from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.grain import finish, missing_variance, with_grain
from srgan_edge.model.library import find_model

SCALE = 4


def ramp(height=96, width=192):
    """A picture without grain: from dark to light, uint8 [H, W, 3]."""
    levels = np.linspace(40, 210, width).astype(np.uint8)
    return np.repeat(np.broadcast_to(levels, (height, width))[..., None], 3, axis=2)


def noisy(picture, sigma, seed=1):
    noise = np.random.default_rng(seed).normal(0, 1, picture.shape[:2])[..., None] * sigma
    return np.rint(picture + noise).clip(0, 255).astype(np.uint8)


def enlarged(picture):
    return picture.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def slow_variance(source, reduced):
    """The twin for a plane of one band: block by block, pixel by pixel."""
    height, width = source.shape

    def smooth(y, x):
        rows = [min(max(y + n, 0), height - 1) for n in range(-2, 3)]
        columns = [min(max(x + n, 0), width - 1) for n in range(-2, 3)]
        return sum(float(reduced[row, column]) for row in rows for column in columns) / 25

    found = []
    for top in range(0, height - 15, 16):
        for left in range(0, width - 15, 16):
            places = [(top + y, left + x) for y in range(16) for x in range(16)]
            both = []
            for plane in (source, reduced):
                values = [float(plane[place]) - smooth(*place) for place in places]
                mean = sum(values) / 256
                both.append(sum((value - mean) ** 2 for value in values) / 256)
            found.append((both[1], both[0] - both[1]))
    quiet = sorted(found)[: round(0.5 * len(found))]
    return np.median([missing for _, missing in quiet])


def test_the_measure_is_that_of_its_slow_twin():
    rng = np.random.default_rng(5)
    picture = rng.normal(112, 4, (50, 37)).clip(98, 126)
    source = (picture + rng.normal(0, 5, picture.shape)).clip(97, 127).astype(np.float32)
    found = missing_variance(source, picture.astype(np.float32))
    np.testing.assert_allclose(found, slow_variance(source, picture), rtol=1e-3)


@pytest.mark.parametrize("sigma", [2, 4, 8])
def test_the_variance_of_the_grain_is_that_of_the_source(sigma):
    """The result has no grain of its own; shadows, midtones and highlights are checked."""
    source, clean = noisy(ramp(), sigma), enlarged(ramp())
    result = with_grain(source, clean).astype(float)
    for part in np.array_split(np.arange(100, clean.shape[1] - 100), 3):
        added = (result - clean)[:, part, 0].var()
        there = (source.astype(float) - ramp())[..., 0].var()
        assert 0.9 < added / there < 1.1


def test_grain_that_depends_on_the_level_is_put_where_it_was():
    picture = ramp()
    source = noisy(picture, np.linspace(1, 8, picture.shape[1])[:, None])
    clean = enlarged(picture)
    added = (with_grain(source, clean).astype(float) - clean)[..., 0]
    assert added[:, :150].std() < 3 < 6 < added[:, -150:].std()


def test_grain_that_the_result_still_has_is_not_doubled():
    source = noisy(ramp(), 5)
    result = enlarged(source)
    change = with_grain(source, result).astype(float) - result
    assert change.var() < 0.1 * 25


def test_a_picture_without_grain_gets_none():
    assert np.array_equal(with_grain(ramp(), enlarged(ramp())), enlarged(ramp()))
    assert finish(False)(noisy(ramp(), 5), enlarged(ramp())).shape == enlarged(ramp()).shape


def test_detail_that_the_result_lacks_is_not_taken_for_grain():
    source = noisy(ramp(), 3)
    source[20:60, 80:120] = np.random.default_rng(6).integers(0, 256, (40, 40, 3), np.uint8)
    change = with_grain(source, enlarged(ramp())).astype(float) - enlarged(ramp())
    assert 0.9 < change[:, 100:-100, 0].var() / 9 < 1.1


def test_a_model_that_removes_grain_gets_it_back():
    source = noisy(ramp(64, 96), 6)
    model = find_model("edge-real-x4")
    with open_engine(choose_engine(model, "openvino"), fp32=True) as engine:
        result = engine.upscale(source[None])[0]
        clean = engine.upscale(ramp(64, 96)[None])[0].astype(float)
    inner = slice(40, -40), slice(40, -40), 0

    def variance(pixels):
        return (pixels - clean)[inner].var()

    there = (source.astype(float) - ramp(64, 96))[..., 0].var()
    assert variance(result) < 0.5 * there
    assert 0.9 < variance(with_grain(source, result)) / there < 1.1


def test_a_frame_has_the_same_grain_again_and_another_frame_has_another():
    clean, one, other = enlarged(ramp()), noisy(ramp(), 5, 1), noisy(ramp(), 5, 2)
    np.testing.assert_array_equal(with_grain(one, clean), with_grain(one.copy(), clean))
    a, b = (with_grain(it, clean).astype(float) - clean for it in (one, other))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (15, 40), (16, 16), (17, 33)])
def test_frames_of_any_size(size):
    source = np.random.default_rng(3).integers(90, 120, (*size, 3), np.uint8)
    assert with_grain(source, enlarged(source) // 2).shape == (4 * size[0], 4 * size[1], 3)
