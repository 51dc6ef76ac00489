"""How close two pictures are, as the super-resolution literature measures it. Numpy only.

All functions take uint8 RGB [H, W, 3] of equal size and leave `border_px` pixels out at each edge
(the convention is the scale: 4), except `lr_psnr`, which says what it takes.
"""

import numpy as np
import numpy.typing as npt

from srgan_edge import bicubic
from srgan_edge.pixels import Pixels

Plane = npt.NDArray[np.float64]

# ITU-R BT.601 studio-range luma as MATLAB's rgb2ycbcr computes it from RGB in [0, 255].
_LUMA = np.array([65.481, 128.553, 24.966]) / 255


class Undefined(ValueError):
    """A metric has no value for these pictures; the message says what it needs."""


def luma(image: Pixels) -> Plane:
    """uint8 [H, W, 3] -> float64 [H, W] in [16, 235], not rounded."""
    return image.astype(np.float64) @ _LUMA + 16


def inner(plane: Plane, border_px: int) -> Plane:
    """float64 [H, W] or [H, W, C] without its border; empty if there is no more than that."""
    height, width = (max(size, 2 * border_px) for size in plane.shape[:2])
    return plane[border_px : height - border_px, border_px : width - border_px]


def psnr_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """PSNR of BT.601 luma in dB; infinite for equal pictures.

    Raises:
        Undefined: no pixel inside the border; so do `psnr_rgb` and `color_shift`.
    """
    return _psnr(inner(luma(a), border_px) - inner(luma(b), border_px))


def psnr_rgb(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """PSNR over the three channels together in dB; infinite for equal pictures."""
    difference = a.astype(np.float64) - b
    return _psnr(inner(difference, border_px))


def lr_psnr(sr: Pixels, lr: Pixels) -> float:
    """PSNR over the three channels between `lr` [h, w, 3] and `sr` [H, W, 3] made that small again.

    Whether a result still is a picture of its input: every pixel counts, and the way down is
    MATLAB's bicubic. Models of pixels reach more than 50 dB, GANs 39 to 50 (Park, Moon and Cho,
    Perception-Oriented Single Image Super-Resolution, CVPR 2023, table 2).
    """
    height, width, _ = lr.shape
    return psnr_rgb(bicubic.resize(sr, height, width), lr, border_px=0)


def ssim_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """SSIM of BT.601 luma (Wang et al. 2004): 11x11 Gaussian of sigma 1.5, valid region.

    Not the `daala` SSIM of the SRGAN paper's tables, which reads about 0.01 to 0.03 higher.

    Raises:
        Undefined: less than one window inside the border.
    """
    x, y = inner(luma(a), border_px), inner(luma(b), border_px)
    if min(x.shape) < 11:
        raise Undefined(
            f"SSIM needs 11x11 pixels inside a border of {border_px}, "
            f"and {a.shape[1]}x{a.shape[0]} have {x.shape[1]}x{x.shape[0]}"
        )
    mean_x, mean_y = _gaussian(x), _gaussian(y)
    variance_x = _gaussian(x * x) - mean_x**2
    variance_y = _gaussian(y * y) - mean_y**2
    covariance = _gaussian(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def color_shift(a: Pixels, b: Pixels, border_px: int = 4) -> tuple[float, float, float]:
    """Mean of a - b for R, G and B, in levels of 255: what the eye sees as a cast."""
    difference = inner(a.astype(np.float64) - b, border_px)
    _refuse_empty(difference)
    red, green, blue = difference.mean(axis=(0, 1))
    return float(red), float(green), float(blue)


def _psnr(difference: Plane) -> float:
    _refuse_empty(difference)
    mse = float(np.mean(difference**2))
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def _refuse_empty(plane: Plane) -> None:
    if plane.size == 0:
        raise Undefined("the border leaves no pixel to compare")


def _gaussian(plane: Plane) -> Plane:
    """Separable 11-tap Gaussian of sigma 1.5 over the valid region: both sides shrink by 10."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    windows = np.lib.stride_tricks.sliding_window_view(plane, 11, axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(windows @ kernel, 11, axis=1)
    return windows @ kernel
