"""The color lock: what shifts is put back, what does not shift is left alone, and no seams."""

import numpy as np
import pytest

from srgan_edge.color_lock import locked, locked_stripes

SHIFT = (6, 0, -4)
SIZES = [(1, 1), (3, 50), (17, 33), (40, 24), (63, 129), (90, 160)]


def image(height, width, seed=0):
    """A smooth scene away from black and white, with a little grain."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    waves = [np.sin(down / (9 + n) + n) * np.cos(across / (13 - n)) for n in range(3)]
    grain = rng.normal(0, 2, (height, width, 3))
    return (128 + 60 * np.stack(waves, -1) + grain).round().clip(20, 235).astype(np.uint8)


def shifting(source, scale=4, seed=1):
    """A generator with texture of its own, whose red is 6 levels too high and blue 4 too low."""
    texture = np.random.default_rng(seed).normal(0, 9, (*source.shape[:2], scale, scale, 3))
    texture -= texture.mean((2, 3), keepdims=True)  # within each pixel of the input, it has no sum
    large = source[:, :, None, None].astype(float) + texture + SHIFT
    height, width, _ = source.shape
    large = large.swapaxes(1, 2).reshape(scale * height, scale * width, 3)
    return large.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_shifted_colors_are_put_back(height, width, scale):
    source = image(height, width)
    upscaled = shifting(source, scale)
    result = locked(source, upscaled)
    assert (result.shape, result.dtype) == (upscaled.shape, np.uint8)
    if height * width > 16:
        before = upscaled.mean((0, 1)) - source.mean((0, 1))
        assert np.abs(before - SHIFT).max() < 0.5
        assert np.abs(result.mean((0, 1)) - source.mean((0, 1))).max() < 0.1


def test_a_shift_below_one_level_is_put_back_too():
    """A third of a level is not rounded away, on flat colors either."""
    source = np.full((64, 96, 3), 100, np.uint8)
    upscaled = np.full((256, 384, 3), 100, np.uint8)
    upscaled[::3] += 1
    result = locked(source, upscaled)
    assert abs(result.mean() - 100) <= 1 / 32  # a third, in sixteenths
    assert np.abs(result.astype(int) - 100).max() <= 1


def test_a_shift_that_differs_from_place_to_place():
    source = image(96, 160)
    upscaled = shifting(source).astype(int)
    upscaled += np.linspace(-5, 5, upscaled.shape[1]).round().astype(int)[None, :, None]
    upscaled = upscaled.clip(0, 255).astype(np.uint8)
    result = locked(source, upscaled)

    def quarters(pixels):
        return pixels.reshape(2, len(pixels) // 2, 4, -1, 3).mean((1, 3))

    assert np.abs(quarters(upscaled) - quarters(source)).max() > 5
    assert np.abs(quarters(result) - quarters(source)).max() < 0.3


def test_what_has_the_right_colors_is_left_alone():
    source = image(50, 70)
    faithful = source.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(locked(source, faithful), faithful)


def test_texture_stays():
    source = image(64, 96)
    upscaled = shifting(source)
    change = locked(source, upscaled).astype(int) - upscaled
    assert change.std((0, 1)).max() < 0.6  # the shift itself, and the dither of its fraction


def test_a_sharp_edge_gets_no_halo():
    """Shifted on one side of an edge only: the correction spreads, but no further than a block."""
    source = np.zeros((64, 128, 3), np.uint8)
    source[:, 64:] = 200
    upscaled = source.repeat(4, axis=0).repeat(4, axis=1)
    upscaled[:, 256:] += 4
    result = locked(source, upscaled).astype(int)
    assert np.abs(result[:, : 256 - 64]).max() == 0
    assert np.abs(result[:, 256 + 64 :] - 200).max() <= 1
    assert np.abs(result[:, :256]).max() == 0  # nothing is darker than black
    assert np.abs(result[:, 256:] - 200).max() <= 2


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stripe_rows", [1, 7, 16, 50])
def test_stripes_give_the_same_image(height, width, stripe_rows):
    source = image(height, width)
    upscaled = shifting(source)
    stripes = [upscaled[4 * n : 4 * (n + stripe_rows)] for n in range(0, height, stripe_rows)]
    result = locked_stripes(lambda a, b: source[a:b], iter(stripes), width, height)
    assert np.array_equal(np.concatenate(list(result)), locked(source, upscaled))


def test_stripes_are_not_held_back_for_long():
    source = image(400, 10)
    upscaled = shifting(source)
    taken = 0

    def stripes():
        nonlocal taken
        for start in range(0, 400, 4):
            taken += 4
            yield upscaled[4 * start : 4 * (start + 4)]

    given = 0
    for stripe in locked_stripes(lambda a, b: source[a:b], stripes(), 10, 400):
        given += len(stripe) // 4
        assert taken - given <= 24 + 4
    assert given == 400
