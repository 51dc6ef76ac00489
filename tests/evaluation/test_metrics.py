"""Bicubic interpolation and the metrics against the public benchmarks and their definitions."""

import numpy as np
import pytest
from PIL import Image

from srgan_edge import bicubic
from srgan_edge.errors import InputRefused
from srgan_edge.evaluation import metrics
from srgan_edge.evaluation.evaluate import evaluate_folder
from srgan_edge.evaluation.systems import bicubic_upscale


def photo(height=40, width=52, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return bicubic.resize(coarse, height, width)


@pytest.mark.parametrize(
    ("name", "psnr_y"),
    [("Set5", 28.42), ("Set14", 26.09), pytest.param("BSD100", 25.96, marks=pytest.mark.slow)],
)
def test_bicubic_calibration(shared_data, name, psnr_y):
    """The literature's baseline: code that scores it differently scores every model differently."""
    folder = shared_data / "benchmarks" / name
    assert evaluate_folder(bicubic_upscale(4), folder, 4).mean.psnr_y == pytest.approx(
        psnr_y, abs=0.015
    )


@pytest.mark.parametrize("name", ["Set5", "Set14", pytest.param("BSD100", marks=pytest.mark.slow)])
def test_lr_of_the_benchmarks_is_reproduced_byte_for_byte(shared_data, name):
    folder = shared_data / "benchmarks" / name
    paths = sorted((folder / "HR").iterdir())
    assert paths
    for path in paths:
        lr = np.asarray(Image.open(folder / "LRx4" / path.name).convert("RGB"))
        height, width = lr.shape[:2]
        hr = np.asarray(Image.open(path).convert("RGB"))[: 4 * height, : 4 * width]
        np.testing.assert_array_equal(bicubic.resize(hr, height, width), lr, err_msg=path.name)


def test_bicubic_keeps_flat_colors_and_is_the_identity_at_equal_size():
    flat = np.full((9, 13, 3), [0, 128, 255], np.uint8)
    assert (bicubic.resize(flat, 36, 52) == [0, 128, 255]).all()
    assert (bicubic.resize(flat, 3, 1) == [0, 128, 255]).all()
    np.testing.assert_array_equal(bicubic.resize(photo(), 40, 52), photo())


def test_bicubic_agrees_with_pillow_away_from_edges_and_rounding():
    """Pillow's kernel is the same; it differs at edges and in the rounding between passes."""
    image = photo(160, 208)
    theirs = np.asarray(Image.fromarray(image).resize((52, 40), Image.Resampling.BICUBIC))
    ours = bicubic.resize(image, 40, 52)
    assert np.abs(ours.astype(int) - theirs)[3:-3, 3:-3].max() <= 1


def test_psnr_of_one_level_is_48_13_db():
    image = photo()
    brighter = image.clip(0, 254) + np.uint8(1)
    assert metrics.psnr_rgb(image.clip(0, 254), brighter) == pytest.approx(48.1308, abs=1e-3)
    # Luma of (1, 1, 1) is 219 / 255 of a level.
    assert metrics.psnr_y(image.clip(0, 254), brighter) == pytest.approx(
        48.1308 + 20 * np.log10(255 / 219), abs=1e-3
    )


def test_equal_images_score_perfectly():
    assert metrics.psnr_y(photo(), photo()) == metrics.psnr_rgb(photo(), photo()) == float("inf")
    assert metrics.ssim_y(photo(), photo()) == pytest.approx(1)
    assert metrics.color_shift(photo(), photo()) == (0, 0, 0)


def test_the_border_is_left_out():
    damaged = photo().copy()
    damaged[:4] = damaged[:, -4:] = 0
    assert metrics.psnr_y(damaged, photo(), border_px=4) == float("inf")
    assert metrics.psnr_y(damaged, photo(), border_px=3) == pytest.approx(19.186, abs=0.001)


def test_color_shift_is_signed_and_by_channel():
    image = photo().clip(10, 240)
    shifted = (image.astype(int) + np.array([3, 0, -2])).astype(np.uint8)
    assert metrics.color_shift(shifted, image) == pytest.approx((3, 0, -2))


def test_ssim_against_its_definition():
    """One window, written out: the mean of an image of 11x11 inside the border."""
    x, y = (metrics.luma(photo(11, 11, seed)) for seed in (1, 2))
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    weight = np.outer(kernel, kernel) / kernel.sum() ** 2
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    var_x, var_y = (weight * (x - mean_x) ** 2).sum(), (weight * (y - mean_y) ** 2).sum()
    cov = (weight * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = 6.5025, 58.5225
    expected = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    expected /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    assert metrics.ssim_y(photo(11, 11, 1), photo(11, 11, 2), border_px=0) == pytest.approx(
        expected
    )


def save_benchmark(folder, hr_size, lr_size):
    for name, size in [("HR", hr_size), ("LRx4", lr_size)]:
        (folder / name).mkdir(parents=True)
        Image.fromarray(photo(size[1], size[0])).save(folder / name / "a.png")


def test_hr_is_cropped_to_the_lr(tmp_path):
    save_benchmark(tmp_path, hr_size=(127, 99), lr_size=(31, 24))
    evaluation = evaluate_folder(bicubic_upscale(4), tmp_path, 4)
    assert list(evaluation.images) == ["a.png"]
    assert evaluation.mean.psnr_y == pytest.approx(30.889, abs=0.001)


@pytest.mark.parametrize(
    ("hr_size", "lr_size", "message"),
    [((128, 96), (31, 24), "a.png: HR is 128x96"), ((100, 96), (31, 24), "not 4 times")],
)
def test_pairs_that_do_not_fit_are_refused(tmp_path, hr_size, lr_size, message):
    save_benchmark(tmp_path, hr_size, lr_size)
    with pytest.raises(InputRefused, match=message):
        evaluate_folder(bicubic_upscale(4), tmp_path, 4)


def test_a_folder_that_is_not_a_benchmark_is_refused(tmp_path):
    with pytest.raises(InputRefused, match="no folder HR/"):
        evaluate_folder(bicubic_upscale(4), tmp_path, 4)
    save_benchmark(tmp_path, (128, 96), (32, 24))
    (tmp_path / "LRx4" / "a.png").unlink()
    with pytest.raises(InputRefused, match="missing"):
        evaluate_folder(bicubic_upscale(4), tmp_path, 4)
