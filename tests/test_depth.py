"""Sixteen bits go through a network of eight: smooth places stay smooth, drawn ones as drawn."""

import numpy as np
import pytest

from srgan_edge.bicubic import keys_cubic
from srgan_edge.depth import UNCERTAIN, deepened, interpolated, shown_to_network
from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.model.library import find_model
from srgan_edge.pixels import LEVEL
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler

SIZES = [(1, 1), (2, 3), (7, 1), (8, 8), (9, 17), (23, 40)]


def noise(seed: int, *shape: int, levels: int = 65536) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).integers(0, levels, shape, np.int64)


def exactly_interpolated(deep: np.ndarray, scale: int) -> np.ndarray:
    """The specification, in Python's own integers: weights in steps of 2**-14, edges replicated."""

    def matrix(size: int) -> np.ndarray:
        rows = np.zeros((scale * size, size), object)
        for place in range(scale * size):
            center = (place + 0.5) / scale - 0.5
            taps = {k: round(2**14 * float(keys_cubic(center - k))) for k in _around(center)}
            taps[max(taps, key=taps.__getitem__)] += 2**14 - sum(taps.values())
            for tap, weight in taps.items():
                rows[place, min(max(tap, 0), size - 1)] += weight
        return rows

    tall, wide = (matrix(side) for side in deep.shape[:2])
    planes = [tall @ deep[..., c].astype(object) @ wide.T for c in range(deep.shape[2])]
    exact = np.stack(planes, axis=2)
    rounded = np.frompyfunc(lambda value: _rounded(value, 2**28), 1, 1)(exact)
    return rounded.astype(np.int64).clip(0, 65535)


def _around(center: float) -> range:
    return range(int(np.floor(center)) - 2, int(np.floor(center)) + 4)


def _rounded(value: int, unit: int) -> int:
    """To the nearest whole unit, ties to the even one."""
    whole, rest = divmod(value, unit)
    return whole + (2 * rest > unit or (2 * rest == unit and whole % 2 == 1))


def specification(deep: np.ndarray, upscaled: np.ndarray) -> np.ndarray:
    base = exactly_interpolated(deep, upscaled.shape[0] // deep.shape[0])
    answer = upscaled.astype(np.int64) * LEVEL
    apart = np.abs(answer - base)
    halfway = base + np.sign(answer - base) * 2 * (apart - UNCERTAIN)
    near, far = apart <= UNCERTAIN, apart >= 2 * UNCERTAIN
    return np.where(near, base, np.where(far, answer, halfway))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_its_specification_to_the_bit(size, channels: int, scale: int):
    height, width = size
    deep = noise(1, height, width, channels).astype(np.uint16)
    near = (
        exactly_interpolated(deep, scale) // LEVEL
        + noise(2, scale * height, scale * width, 1) % 9
        - 4
    )
    upscaled = near.clip(0, 255).astype(np.uint8)
    result = deepened(deep, upscaled)
    assert result.dtype == np.uint16
    assert np.array_equal(result, specification(deep, upscaled))
    assert np.array_equal(interpolated(deep, scale), exactly_interpolated(deep, scale))


def test_every_value_is_shown_as_the_nearest_byte():
    values = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(shown_to_network(values), (values.astype(int) + 128) // 257)


@pytest.mark.parametrize("cut", [2, 3, 8, 11, 21])
def test_where_it_is_cut_changes_nothing(cut: int):
    deep = noise(3, 23, 9, 3).astype(np.uint16)
    upscaled = shown_to_network(deep).repeat(4, axis=0).repeat(4, axis=1)
    top = deepened(deep[: cut + 2], upscaled[: 4 * cut], below=2)
    bottom = deepened(deep[cut - 2 :], upscaled[4 * cut :], above=2)
    assert np.array_equal(np.concatenate([top, bottom]), deepened(deep, upscaled))
    smooth = interpolated(deep[cut - 2 : cut + 2], 4, above=2, below=1)
    assert np.array_equal(smooth[:2], interpolated(deep, 4)[4 * cut :][:2])


@pytest.mark.parametrize("value", [0, 1, 128, 129, 33000, 65407, 65534, 65535])
def test_one_level_stays_that_level(value: int):
    deep = np.full((5, 7, 3), value, np.uint16)
    upscaled = shown_to_network(deep).repeat(4, axis=0).repeat(4, axis=1)
    assert (deepened(deep, upscaled) == value).all()


def test_what_the_network_draws_is_as_it_drew_it():
    deep = np.full((6, 6, 3), 30_000, np.uint16)
    upscaled = shown_to_network(deep).repeat(4, axis=0).repeat(4, axis=1)
    upscaled[10:14, 8] = (117 + 40, 117 - 40, 117 + 4)
    result = deepened(deep, upscaled)
    drawn = upscaled[10:14, 8].astype(np.uint16) * 257
    assert np.array_equal(result[10:14, 8], drawn)
    result[10:14, 8] = 30_000
    assert (result == 30_000).all()


@pytest.mark.parametrize("model", ["edge-x4", "srgan-x4"])
def test_a_slow_ramp_has_no_bands(model: str):
    """Five levels of 8 bits over the image, which alone would be five bands."""
    y, x = np.mgrid[:48, :64]
    deep = (20_000 + 16 * x[..., None] + (3, 5, 7) * y[..., None]).astype(np.uint16)
    with open_engine(choose_engine(find_model(model), device="cpu")) as engine:
        upscaled = FrameUpscaler(engine, Tiling()).upscale(shown_to_network(deep))
    inside = np.s_[8:-8, 8:-8]  # at their edges the networks themselves draw a little
    bands, result = upscaled[inside].astype(int) * LEVEL, deepened(deep, upscaled)[inside]
    smooth = interpolated(deep, 4)[inside]
    assert len(np.unique(bands[..., 0])) <= 7 and np.abs(np.diff(bands, axis=1)).max() >= LEVEL
    assert len(np.unique(result[..., 0])) > 800
    assert np.quantile(np.abs(np.diff(result.astype(int), axis=1)), 0.999) <= 8
    assert np.quantile(np.abs(result.astype(int) - smooth), 0.999) == 0
