"""The figure: the choice of the crop, its drawing, and images of every size."""

from pathlib import Path

import numpy as np
import pytest
from images import holds

from srgan_edge.bicubic import resize
from srgan_edge.evaluation.drawing import ACCENT, Crop
from srgan_edge.evaluation.evaluate import MEASURES, Comparison, Scores
from srgan_edge.evaluation.figure import Exhibit, Showcase, draw_figure, telling_crop
from srgan_edge.evaluation.metrics import luma
from srgan_edge.evaluation.systems import BICUBIC, NEAREST, Pair, repeated


def texture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def compared(hr, *systems, metrics=("psnr_y", "ssim_y"), name="a.png", **results):
    """`hr` with its results by NEAREST, BICUBIC and the given systems, scored."""
    lr = resize(hr, hr.shape[0] // 4, hr.shape[1] // 4)
    pair = Pair(Path("bench"), name, lr, hr)
    made = {system.name: system.restore(pair) for system in (NEAREST, BICUBIC, *systems)} | results
    scores = {
        name: Scores({metric: MEASURES[metric](sr, pair) for metric in metrics})
        for name, sr in made.items()
    }
    return Comparison(pair, made, scores)


def amber(sheet):
    return (sheet == ACCENT).all(axis=-1)


def test_the_crop_is_where_detail_was_lost():
    hr = np.full((240, 320, 3), 128, np.uint8)
    hr[100:180, 200:280] = texture(80, 80)
    crop, telling = telling_crop(compared(hr))
    assert crop == Crop(200, 100, 80, 80)
    assert telling == pytest.approx(34.369, abs=0.001)


def test_between_two_lost_details_the_crop_is_where_the_systems_differ():
    hr = np.full((240, 320, 3), 128, np.uint8)
    hr[20:100, 20:100] = texture(80, 80)
    hr[140:220, 220:300] = texture(80, 80)
    comparison = compared(hr)
    half_done = comparison.results["bicubic"].copy()
    half_done[140:220, 220:300] = hr[140:220, 220:300]
    crop, _ = telling_crop(compared(hr, model=half_done))
    assert crop == Crop(220, 140, 80, 80)


def test_the_window_search_is_that_of_the_definition():
    """The slow twin: every window, one by one."""
    comparison = compared(texture(92, 104), model=texture(92, 104, seed=1))
    hr, plain, model = (
        luma(pixels)
        for pixels in (
            comparison.pair.hr,
            comparison.results["bicubic"],
            comparison.results["model"],
        )
    )
    values = {
        (y, x): np.abs(hr - plain)[y : y + 80, x : x + 80].mean()
        * (1 + np.abs(model - plain)[y : y + 80, x : x + 80].mean())
        for y in range(0, 13, 4)
        for x in range(0, 25, 4)
    }
    y, x = max(values, key=values.get)
    crop, telling = telling_crop(comparison)
    assert crop == Crop(x, y, 80, 80)
    assert telling == pytest.approx(values[y, x])


def test_the_showcase_keeps_the_most_telling_in_order():
    showcase = Showcase(2)
    for name, contrast in [("a", 10), ("b", 90), ("c", 50), ("d", 90)]:
        hr = (128 + contrast * (texture(80, 80) / 255 - 0.5)).astype(np.uint8)
        showcase.look(compared(hr, name=name))
    assert [exhibit.comparison.pair.name for exhibit in showcase.exhibits] == ["b", "d"]


def test_every_crop_is_shown_threefold_and_untouched():
    comparison = compared(texture(96, 120), model=texture(96, 120, seed=1))
    crop = Crop(8, 12, 80, 80)
    sheet = draw_figure([Exhibit(comparison, crop, 1.0)])
    for pixels in (*comparison.results.values(), comparison.pair.hr):
        assert holds(sheet, repeated(crop.of(pixels), 3))


def test_the_best_scores_and_the_frame_are_in_the_accent_color():
    hr = texture(96, 120)
    sheet = draw_figure([Exhibit(compared(hr, perfect=hr), Crop(8, 12, 80, 80), 1.0)])
    rows, columns = np.nonzero(amber(sheet))
    below = rows > 24 + 36 + 240
    first_px = sheet.shape[1] - 24 - 4 * 248 + 8  # nearest, bicubic, perfect, HR
    assert columns[below].min() >= first_px + 2 * 248
    assert columns[below].max() < first_px + 3 * 248
    assert columns[~below].max() < first_px


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (12, 8), (44, 300), (400, 40), (80, 80)])
def test_images_of_every_size_have_a_figure(size):
    showcase = Showcase(1)
    showcase.look(compared(texture(*size), metrics=["lr_psnr"]))
    sheet = draw_figure(showcase.exhibits)
    assert sheet.dtype == np.uint8
    (exhibit,) = showcase.exhibits
    crop = exhibit.crop
    assert crop.of(exhibit.comparison.pair.hr).shape[:2] == (crop.height, crop.width)
    assert crop.width == min(80, *size)
    assert holds(sheet, repeated(crop.of(exhibit.comparison.pair.hr), 240 // crop.width))


@pytest.mark.parametrize("count", range(5))
def test_each_system_is_one_column_more(count):
    hr = texture(96, 120)
    models = {
        f"a model with the long name of number {n}": texture(96, 120, n) for n in range(count)
    }
    sheet = draw_figure([Exhibit(compared(hr, **models), Crop(0, 0, 80, 80), 1.0)] * 2)
    assert sheet.shape[1] == 2 * 24 + 240 + (3 + count) * 248


def test_a_line_of_captions_is_there_only_for_what_was_measured():
    hr = texture(96, 120)
    crop = Crop(0, 0, 80, 80)

    def height(comparison):
        return draw_figure([Exhibit(comparison, crop, 1.0)]).shape[0]

    plain = compared(hr)
    scores = {
        name: Scores({**scores.values, "lpips_alex": 0.1}) for name, scores in plain.scores.items()
    }
    assert height(Comparison(plain.pair, plain.results, scores)) == height(plain) + 23
    assert height(compared(hr, metrics=["psnr_y"])) == height(plain)


def test_gray_stays_gray():
    gray = np.repeat(texture(96, 120)[..., :1], 3, axis=2)
    sheet = draw_figure([Exhibit(compared(gray), Crop(0, 0, 80, 80), 1.0)])
    cells = sheet[60:300, -24 - 248 * 3 :]
    colored = (cells != cells[..., :1]).any(axis=-1)
    background = (cells == (17, 18, 22)).all(axis=-1)
    assert not (colored & ~background).any()
