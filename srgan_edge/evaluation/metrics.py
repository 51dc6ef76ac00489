"""Image quality metrics as the super-resolution literature defines them, with NumPy only.

The full-reference metrics take two uint8 RGB images [H, W, 3] of equal size and leave out
`border_px` pixels at each edge (by convention the scale: 4); `lr_psnr` compares every pixel with
the LR image instead.

NIQE measures how far an image's statistics are from those of undistorted photographs: Mittal,
Soundararajan and Bovik, Making a "Completely Blind" Image Quality Analyzer, IEEE Signal Processing
Letters 20(3), 2013; section and equation numbers refer to it. It sees one image alone, so it shows
whether a result looks like a photograph, not whether it is the right one. Lower is better:
photographs lie around 2 to 5. Below some twenty blocks of 96x96 it is a coarse measure.

Ours was within 0.041 of the NIQE of BasicSR 1.4.2, computed in float64, on Set5 and Set14 and
their bicubic enlargements, with a median of 0.005: BasicSR mirrors the edges of the half-size
image where we repeat them, and in flat areas the sign of a rounding error counts in both.
"""

import math
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srgan_edge import bicubic
from srgan_edge.pixels import Pixels

Plane: TypeAlias = npt.NDArray[np.float64]
"""float64 [H, W], or [H, W, C] where a function allows it."""

_Floats: TypeAlias = npt.NDArray[np.float64]

BLOCK_PX = 96
"""Side of a block of NIQE at full size, as in the authors' own program."""

# ITU-R BT.601 studio-range luma as MATLAB's rgb2ycbcr computes it from RGB in [0, 255].
_LUMA = np.array([65.481, 128.553, 24.966]) / 255

_PRISTINE_MODEL = Path(__file__).parent.parent / "pristine" / "niqe.npz"

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns to the neighbors whose products NIQE describes (II-B)."""


class Undefined(ValueError):
    """The metric has no value for these images; the message states what it needs."""


def luma(image: Pixels) -> Plane:
    """Convert uint8 [H, W, 3] to float64 [H, W] in [16, 235], not rounded."""
    return image.astype(np.float64) @ _LUMA + 16


def inner(plane: Plane, border_px: int) -> Plane:
    """Return float64 [H, W] or [H, W, C] without its border; empty if nothing is left."""
    height, width = (max(size, 2 * border_px) for size in plane.shape[:2])
    return plane[border_px : height - border_px, border_px : width - border_px]


def psnr_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """Return the PSNR of BT.601 luma in dB; infinite for equal images.

    Raises:
        Undefined: no pixel inside the border; the same in `psnr_rgb` and `color_shift`.
    """
    return _psnr(inner(luma(a), border_px) - inner(luma(b), border_px))


def psnr_rgb(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """Return the PSNR over the three channels together in dB; infinite for equal images."""
    difference = a.astype(np.float64) - b
    return _psnr(inner(difference, border_px))


def lr_psnr(sr: Pixels, lr: Pixels) -> float:
    """Return the PSNR between `lr` [h, w, 3] and `sr` [H, W, 3] shrunk to its size, in dB.

    This shows whether a result is still an image of its input: every pixel counts, over the three
    channels together, and MATLAB's bicubic interpolation shrinks it. Models trained on pixel losses
    reach more than 50 dB, GANs 39 to 50 (Park, Moon and Cho, Perception-Oriented Single Image
    Super-Resolution, CVPR 2023, table 2).
    """
    height, width, _ = lr.shape
    return psnr_rgb(bicubic.resize(sr, height, width), lr, border_px=0)


def ssim_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """Return the SSIM of BT.601 luma (Wang et al. 2004): 11x11 Gaussian, sigma 1.5, valid region.

    The `daala` SSIM in the SRGAN paper's tables is another one and about 0.01 to 0.03 higher.

    Raises:
        Undefined: less than one window inside the border.
    """
    x, y = inner(luma(a), border_px), inner(luma(b), border_px)
    if min(x.shape) < 11:
        raise Undefined(
            f"SSIM needs 11x11 pixels inside a border of {border_px}, "
            f"and an image of {a.shape[1]}x{a.shape[0]} has {x.shape[1]}x{x.shape[0]}"
        )
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def color_shift(a: Pixels, b: Pixels, border_px: int = 4) -> tuple[float, float, float]:
    """Return the mean of a - b for R, G and B, in levels of 255: visible as a color cast."""
    difference = inner(a.astype(np.float64) - b, border_px)
    _refuse_empty(difference)
    red, green, blue = difference.mean(axis=(0, 1))
    return float(red), float(green), float(blue)


def niqe(image: Pixels, border_px: int = 4) -> float:
    """Return the distance of uint8 RGB [H, W, 3] from natural photographs, by its luma (II-E).

    Raises:
        Undefined: fewer than two blocks of 96x96 inside the border contain any structure; a
            distribution needs two.
    """
    features = _features(np.rint(inner(luma(image), border_px)))
    # A flat block, such as sky in a drawing, has no statistics; the authors leave it out too.
    whole = features[np.isfinite(features).all(axis=1)]
    if len(whole) < 2:
        raise Undefined(
            f"NIQE needs two {BLOCK_PX}x{BLOCK_PX} blocks with structure inside a border of "
            f"{border_px}, and an image of {image.shape[1]}x{image.shape[0]} pixels has "
            f"{len(whole)}"
        )
    natural_mean, natural_covariance = _natural_model()
    away = natural_mean - np.nanmean(features, axis=0)
    spread = np.linalg.pinv((natural_covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(away @ spread @ away))  # eq. 10


def _psnr(difference: Plane) -> float:
    _refuse_empty(difference)
    mse = float(np.mean(difference**2))
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def _refuse_empty(plane: Plane) -> None:
    if plane.size == 0:
        raise Undefined("the border leaves no pixel to compare")


def _window_mean(plane: Plane) -> Plane:
    return _gaussian(plane, radius=5, sigma=1.5)


def _gaussian(plane: Plane, radius: int, sigma: float) -> Plane:
    """Blur by a separable Gaussian over the valid region: both sides shrink by 2 * `radius`."""
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    rows = np.lib.stride_tricks.sliding_window_view(plane, len(kernel), axis=0) @ kernel
    return np.lib.stride_tricks.sliding_window_view(rows, len(kernel), axis=1) @ kernel


@cache
def _natural_model() -> tuple[_Floats, _Floats]:
    """Return mean [36] and covariance [36, 36] of the features of 125 photographs (II-D)."""
    with np.load(_PRISTINE_MODEL) as model:
        return model["mean"], model["covariance"]


def _features(plane: Plane) -> _Floats:
    """Luma [H, W] -> 36 numbers a block, 18 at each of two scales; NaN where a block is flat."""
    rows, columns = plane.shape[0] // BLOCK_PX, plane.shape[1] // BLOCK_PX
    plane = plane[: rows * BLOCK_PX, : columns * BLOCK_PX]
    if plane.size == 0:
        return np.empty((0, 36))
    half = bicubic.resize_float(plane, plane.shape[0] // 2, plane.shape[1] // 2)
    scales = [_blocks(_normalized(scale), rows, columns) for scale in (plane, half)]
    with np.errstate(invalid="ignore", divide="ignore"):  # flat blocks
        return np.hstack([_describe(blocks) for blocks in scales])


def _normalized(plane: Plane) -> Plane:
    """Subtract the local mean and divide by the contrast (eq. 1 to 3) of 7x7 Gaussian windows."""
    mean, mean_square = (
        _gaussian(np.pad(values, 3, mode="edge"), radius=3, sigma=7 / 6)
        for values in (plane, plane**2)
    )
    deviation = np.sqrt(np.abs(mean_square - mean**2))
    return (plane - mean) / (deviation + 1)


def _blocks(plane: Plane, rows: int, columns: int) -> _Floats:
    """[H, W] -> [rows * columns, H / rows, W / columns]."""
    height, width = plane.shape[0] // rows, plane.shape[1] // columns
    grid = plane.reshape(rows, height, columns, width).swapaxes(1, 2)
    return grid.reshape(-1, height, width)


def _describe(blocks: _Floats) -> _Floats:
    """[N, h, w] -> [N, 18]: the shape of the values, then of their products with neighbors."""
    shape, left, right = _fitted(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        # Around the block's own edge, as in the authors' program: blocks are independent.
        shape, left, right = _fitted(blocks * np.roll(blocks, shift, axis=(1, 2)))
        mean = (right - left) * _gamma(2 / shape) / _gamma(1 / shape)  # eq. 8
        features += [shape, mean, left, right]
    return np.stack(features, axis=1)


def _fitted(blocks: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Fit an asymmetric generalized Gaussian to each block: shape, left and right scale.

    By moments: Lasmar, Stitou and Berthoumieu, Multiscale skewed heavy tailed model for texture
    analysis, 2009.
    """
    squares = blocks**2
    left, right = (
        np.sqrt(np.where(side, squares, 0).sum(axis=(1, 2)) / side.sum(axis=(1, 2)))
        for side in (blocks < 0, blocks > 0)
    )
    skew = left / right
    ratio = np.abs(blocks).mean(axis=(1, 2)) ** 2 / squares.mean(axis=(1, 2))
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _shape_table()
    nearest = shapes[np.searchsorted((ratios[1:] + ratios[:-1]) / 2, ratio)]
    shape = np.where(np.isfinite(ratio), nearest, np.nan)
    scale = np.sqrt(_gamma(1 / shape) / _gamma(3 / shape))
    return shape, left * scale, right * scale


@cache
def _shape_table() -> tuple[_Floats, _Floats]:
    """Return shapes from 0.2 to 10 by thousandths, and the moment ratio of each, ascending."""
    shapes = np.arange(200, 10_001) / 1000
    return shapes, _gamma(2 / shapes) ** 2 / (_gamma(1 / shapes) * _gamma(3 / shapes))


def _gamma(x: _Floats) -> _Floats:
    return np.array([math.gamma(value) for value in x])
