"""The colors that a network sees under transparency continue the visible ones."""

import numpy as np
import pytest

from srgan_edge.image import still
from srgan_edge.image.still import REACH_PX, continued


def noise(*shape: int, levels: int = 256) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, levels, shape)


def specification(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """One hidden pixel after the other, the smallest square with something visible in it."""
    result = pixels.astype(int)
    for y, x in np.argwhere(alpha == 0):
        result[y, x] = np.iinfo(pixels.dtype).max // 2
        for radius in (1, 2, 4, 8, 16, 32, 64):
            square = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            weight = alpha[square].astype(int)
            if total := weight.sum():
                mean = (pixels[square] * weight[..., None]).sum(axis=(0, 1)) / total
                result[y, x] = np.floor(mean + 0.5)
                break
    return result


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("visible", [0, 1, 3, 400])
@pytest.mark.parametrize("size", [(1, 1), (5, 90), (90, 5), (30, 41)])
def test_it_is_its_specification(size, visible: int, kind, monkeypatch):
    monkeypatch.setattr(still, "_BLOCK_PX", 32)
    levels = int(np.iinfo(kind).max) + 1
    pixels = noise(*size, 3, levels=levels).astype(kind)
    alpha = np.zeros(size, kind)
    places = noise(visible, levels=alpha.size)
    alpha.ravel()[places] = noise(visible, 2, levels=levels)[:, 0]
    assert np.array_equal(continued(pixels, alpha), specification(pixels, alpha))


def test_what_is_visible_stays_and_is_not_copied_in_vain():
    pixels, alpha = noise(9, 9, 3).astype(np.uint8), noise(9, 9).astype(np.uint8)
    assert np.array_equal(continued(pixels, alpha)[alpha > 0], pixels[alpha > 0])
    assert continued(pixels, np.maximum(alpha, 1)) is pixels


@pytest.mark.parametrize("cut", [(0, 50), (70, 100), (190, 220)])
def test_a_stripe_is_what_it_is_in_the_whole_image(cut: tuple[int, int]):
    pixels = noise(220, 40, 3).astype(np.uint8)
    alpha = np.where(noise(220, 40, levels=2000) < 3, 255, 0).astype(np.uint8)
    start, stop = cut
    top = max(0, start - REACH_PX)
    part = continued(pixels[top : stop + REACH_PX], alpha[top : stop + REACH_PX])
    assert np.array_equal(part[start - top :][: stop - start], continued(pixels, alpha)[start:stop])
