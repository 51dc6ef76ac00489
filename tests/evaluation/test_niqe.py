"""NIQE: its response to damage, its fits to known distributions, and a frozen value."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

import srgan_edge
from srgan_edge.bicubic import resize, resize_float
from srgan_edge.evaluation.metrics import Undefined, _describe, _fitted, niqe

DEMO = Path(srgan_edge.__file__).parent / "demo" / "photo.png"


@pytest.fixture
def photo():
    """uint8 [180, 240, 3]: two blocks of 96x96 inside the border."""
    return np.asarray(Image.open(DEMO).convert("RGB"))


def blurred(image, radius):
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noisy(image, sigma):
    noise = sigma * np.random.default_rng(0).normal(size=image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def test_the_demo_photo_keeps_its_value(photo):
    assert niqe(photo) == pytest.approx(7.1786, abs=2e-3)


@pytest.mark.parametrize(("damage", "strengths"), [(blurred, (0.5, 1, 2)), (noisy, (5, 10, 20))])
def test_more_blur_and_noise_raise_it_more(photo, damage, strengths):
    scores = [niqe(photo), *(niqe(damage(photo, strength)) for strength in strengths)]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 3


def test_it_tells_hr_from_bicubic_interpolation(shared_data):
    """As in the literature: photographs around 3, their bicubic enlargements around 7.5."""
    hr = np.asarray(Image.open(shared_data / "benchmarks/Set5/HR/img_001.png").convert("RGB"))
    height, width, _ = hr.shape
    enlarged = resize(resize(hr, height // 4, width // 4), height, width)
    assert niqe(hr) == pytest.approx(3.322, abs=0.01)  # BasicSR: 3.322 and 7.500
    assert niqe(enlarged) == pytest.approx(7.500, abs=0.01)


def test_the_border_is_left_out(photo):
    damaged = photo.copy()
    damaged[:4] = damaged[:, -4:] = 0
    assert niqe(damaged) == niqe(photo)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (103, 300), (200, 103), (199, 199)])
def test_images_of_fewer_than_two_blocks_have_no_score(photo, size):
    image = np.tile(photo, (2, 2, 1))[: size[0], : size[1]]
    with pytest.raises(Undefined, match=f"needs two 96x96 blocks.* {size[1]}x{size[0]} pixels"):
        niqe(image)


def test_two_blocks_are_enough(photo):
    assert niqe(photo[:104, :200]) == niqe(photo)  # the photograph has the same two blocks


def test_flat_images_have_no_score_and_flat_blocks_do_not_spoil_the_rest(photo):
    with pytest.raises(Undefined, match="has 0"):
        niqe(np.full((300, 300, 3), 90, np.uint8))
    partly = np.tile(photo, (2, 2, 1))
    partly[:110, :110] = 255
    assert niqe(partly) == pytest.approx(4.6466, abs=2e-3)


@pytest.mark.parametrize(("left", "right"), [(1, 1), (0.5, 2)])
@pytest.mark.parametrize("shape", [1, 2])
def test_the_fit_finds_the_distribution_the_numbers_came_from(shape, left, right):
    """Shape 1 is Laplace's, shape 2 is Gauss's with a deviation of scale / sqrt(2)."""
    random = np.random.default_rng(1)
    size = (3, 300, 300)
    half = {1: random.exponential(size=size), 2: np.abs(random.normal(size=size)) / np.sqrt(2)}
    to_the_left = random.random(size) < left / (left + right)
    numbers = np.where(to_the_left, -left * half[shape], right * half[shape])
    fitted_shape, fitted_left, fitted_right = _fitted(numbers)
    np.testing.assert_allclose(fitted_shape, shape, rtol=0.03)
    np.testing.assert_allclose(fitted_left, left, rtol=0.03)
    np.testing.assert_allclose(fitted_right, right, rtol=0.03)


def test_blocks_are_described_as_if_each_were_alone(photo):
    blocks = np.random.default_rng(2).normal(size=(3, 24, 24))
    alone = [_describe(block[None])[0] for block in blocks]
    np.testing.assert_array_equal(_describe(blocks), alone)


def test_the_half_size_is_bicubic_but_for_rounding(photo):
    plane = photo[..., 0]
    exact = resize_float(plane.astype(float), 90, 120)
    assert np.abs(exact.clip(0, 255) - resize(plane, 90, 120)).max() < 1.6  # two roundings
    assert (exact != np.rint(exact)).any()
