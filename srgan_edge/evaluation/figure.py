"""The figure of super-resolution papers: the most telling crops, with a column for each system.

The crop is computed, so that nobody chooses a flattering one: it is the window where bicubic
interpolation lost the most detail, weighted with the distance between the systems in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from srgan_edge import bicubic
from srgan_edge.evaluation.drawing import (
    ACCENT,
    BACKGROUND,
    FAINT,
    INK,
    Color,
    Crop,
    Font,
    font_within,
    framed,
)
from srgan_edge.evaluation.evaluate import METRICS, Comparison
from srgan_edge.evaluation.metrics import luma
from srgan_edge.evaluation.systems import NEAREST, Pair, benchmark_name, bicubic_upscale, repeated
from srgan_edge.pixels import Pixels

CROP_PX = 80
"""Side of a crop in pixels of the result; smaller for smaller images."""

CAPTIONS = (("psnr_y", "ssim_y"), ("lpips_alex", "lpips_vgg", "dists"))
"""Metrics under a crop, line by line; those that were not measured are left out."""

_CELL_PX = 3 * CROP_PX
_WHOLE_WIDTH_PX = 3 * _CELL_PX // 2
_GAP_PX = 8
_ROW_GAP_PX = 22
_MARGIN_PX = 24
_HEADING_PX = 36
_LINE_PX = 23
_HEADING_SIZE_PX, _CAPTION_SIZE_PX = 19.0, 16.0

_Floats: TypeAlias = npt.NDArray[np.float64]
_Text: TypeAlias = list[tuple[str, Color]]
"""One line in several colors."""


@dataclass(frozen=True)
class Exhibit:
    """One image, and its most telling window."""

    comparison: Comparison
    crop: Crop
    telling: float
    """Score of the window, comparable between images."""


class Showcase:
    """Keeps the most telling images of those passed to `look`, one crop of each."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.exhibits: list[Exhibit] = []
        """The exhibits, most telling first."""

    def look(self, comparison: Comparison) -> None:
        crop, telling = telling_crop(comparison)
        self.exhibits.append(Exhibit(comparison, crop, telling))
        self.exhibits.sort(key=lambda exhibit: -exhibit.telling)  # stable: the earlier image wins
        del self.exhibits[self._count :]


def telling_crop(comparison: Comparison) -> tuple[Crop, float]:
    """Return the square of `CROP_PX` where the systems differ most visibly, and its score.

    The score, computed on luma, is the mean of |HR - bicubic|, which is the lost detail, times one
    plus the mean distance in levels between the two systems farthest apart. Those include bicubic
    but not nearest neighbor. The corner of the square lies on the LR's grid.
    """
    pair = comparison.pair
    plain = luma(bicubic_upscale(pair.scale)(pair.lr[None])[0])
    restored = [luma(sr) for name, sr in comparison.results.items() if name != NEAREST.name]
    systems = np.stack([plain, *restored])
    side = min(CROP_PX, *pair.hr.shape[:2])
    lost = _window_means(np.abs(luma(pair.hr) - plain), side, pair.scale)
    apart = _window_means(systems.max(axis=0) - systems.min(axis=0), side, pair.scale)
    telling = lost * (1 + apart)
    row, column = np.unravel_index(telling.argmax(), telling.shape)
    crop = Crop(pair.scale * int(column), pair.scale * int(row), side, side)
    return crop, float(telling[row, column])


def draw_figure(exhibits: Sequence[Exhibit]) -> Pixels:
    """Draw a row for each exhibit: the HR image with the crop framed, then the crop of each system.

    The crops, of the HR too, are enlarged by nearest neighbor; the scores of the whole image are
    below, with the best of a row in color.

    Returns:
        uint8 [H, W, 3].
    """
    names = [*exhibits[0].comparison.results, "HR"]
    lines = _measured_lines(exhibits[0].comparison)
    wholes = [_whole(exhibit) for exhibit in exhibits]
    left_px = max(whole.shape[1] for whole in wholes)
    row_px = _CELL_PX + _LINE_PX * max(1, len(lines)) + _ROW_GAP_PX
    top_px = _MARGIN_PX + _HEADING_PX
    columns_px = [
        _MARGIN_PX + left_px + _GAP_PX + number * (_CELL_PX + _GAP_PX)
        for number in range(len(names))
    ]
    width = columns_px[-1] + _CELL_PX + _MARGIN_PX
    height = top_px + len(exhibits) * row_px + _LINE_PX // 2 + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    for name, x in zip(names, columns_px, strict=True):
        font = font_within(_CELL_PX, _HEADING_SIZE_PX, [name])
        _write(sheet, [(name, INK)], font, x + _CELL_PX // 2, top_px - 13)
    for number, (exhibit, whole) in enumerate(zip(exhibits, wholes, strict=True)):
        y = top_px + number * row_px
        _draw_whole(sheet, whole, exhibit.comparison.pair, left_px, y)
        _draw_crops(sheet, exhibit, columns_px, y)
        for row, line in enumerate(lines):
            baseline = y + _CELL_PX + (row + 1) * _LINE_PX - 4
            _draw_scores(sheet, exhibit.comparison, line, columns_px, baseline)
    _draw_footnote(sheet)
    return np.asarray(sheet)


def _measured_lines(comparison: Comparison) -> list[list[str]]:
    measured = next(iter(comparison.scores.values())).values
    lines = [[name for name in line if name in measured] for line in CAPTIONS]
    return [line for line in lines if line]


def _whole(exhibit: Exhibit) -> Pixels:
    """Return the HR image as large as its place allows, with the crop framed."""
    hr, crop = exhibit.comparison.pair.hr, exhibit.crop
    height, width, _ = hr.shape
    ratio = min(_CELL_PX / height, _WHOLE_WIDTH_PX / width)
    if ratio >= 1:
        ratio = int(ratio)
        fitted = repeated(hr, ratio)
    else:
        fitted = bicubic.resize(hr, max(1, round(ratio * height)), max(1, round(ratio * width)))
    x, y, side = (round(ratio * length) for length in (crop.x, crop.y, crop.width))
    # A dark outline around the frame, for images that contain the frame's color.
    fitted = framed(fitted, Crop(x - 1, y - 1, side + 2, side + 2), 4, BACKGROUND)
    return framed(fitted, Crop(x, y, side, side), 2)


def _draw_whole(sheet: Image.Image, whole: Pixels, pair: Pair, left_px: int, y: int) -> None:
    _paste(sheet, whole, _MARGIN_PX, y, left_px)
    text = f"{benchmark_name(pair.folder)}, {Path(pair.name).stem}"
    font = font_within(left_px, _CAPTION_SIZE_PX, [text])
    baseline = y + _CELL_PX + _LINE_PX - 4
    _write(sheet, [(text, FAINT)], font, _MARGIN_PX + left_px // 2, baseline)


def _draw_crops(sheet: Image.Image, exhibit: Exhibit, columns_px: Sequence[int], y: int) -> None:
    comparison, crop = exhibit.comparison, exhibit.crop
    images = [*comparison.results.values(), comparison.pair.hr]
    for pixels, x in zip(images, columns_px, strict=True):
        _paste(sheet, repeated(crop.of(pixels), _CELL_PX // crop.width), x, y, _CELL_PX)


def _draw_scores(
    sheet: Image.Image,
    comparison: Comparison,
    names: Sequence[str],
    columns_px: Sequence[int],
    baseline: int,
) -> None:
    """Write one line of scores under every system, and its legend under the HR."""
    systems = list(comparison.scores.values())
    best = {name: METRICS[name].best([scores[name] for scores in systems]) for name in names}
    legend: _Text = [(METRICS[name].heading.replace("\n", " "), FAINT) for name in names]
    lines: list[_Text] = []
    for scores in systems:
        texts = {name: METRICS[name].text(scores[name]) for name in names}
        lines.append(
            [(text, ACCENT if text == best[name] else INK) for name, text in texts.items()]
        )
    for line, x in zip([*lines, legend], columns_px, strict=True):
        slashed = [piece for part in line for piece in (part, (" / ", FAINT))][:-1]
        font = font_within(_CELL_PX, _CAPTION_SIZE_PX, ["".join(text for text, _ in slashed)])
        _write(sheet, slashed, font, x + _CELL_PX // 2, baseline)


def _draw_footnote(sheet: Image.Image) -> None:
    text = "Scores: whole images, the best in color. Crops: where the systems differ most."
    font = font_within(sheet.width - 2 * _MARGIN_PX, _CAPTION_SIZE_PX - 2, [text])
    place = (_MARGIN_PX, sheet.height - _MARGIN_PX)
    ImageDraw.Draw(sheet).text(place, text, FAINT, font, anchor="ls")


def _write(sheet: Image.Image, line: _Text, font: Font, middle: int, baseline: int) -> None:
    """Write one line centered on `middle`."""
    x = middle - sum(font.getlength(text) for text, _ in line) / 2
    for text, color in line:
        ImageDraw.Draw(sheet).text((x, baseline), text, color, font, anchor="ls")
        x += font.getlength(text)


def _paste(sheet: Image.Image, pixels: Pixels, x: int, y: int, width: int) -> None:
    """Paste into the middle of the place of `width` x `_CELL_PX` at (x, y)."""
    left = x + (width - pixels.shape[1]) // 2
    top = y + (_CELL_PX - pixels.shape[0]) // 2
    sheet.paste(Image.fromarray(pixels), (left, top))


def _window_means(plane: _Floats, side: int, step: int) -> _Floats:
    """Return the mean over each square of `side`, at every `step`-th row and column."""
    sums = np.pad(plane, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    rows = sums[side::step] - sums[:-side:step]
    return (rows[:, side::step] - rows[:, :-side:step]) / side**2
