"""How close two pictures are, as the super-resolution literature measures it. Numpy only.

All functions take uint8 RGB [H, W, 3] of equal size and leave `border_px` pixels out at each edge
(the convention is the scale: 4).
"""

import numpy as np
import numpy.typing as npt

from srgan_edge.pixels import Pixels

Plane = npt.NDArray[np.float64]

# ITU-R BT.601 studio-range luma as MATLAB's rgb2ycbcr computes it from RGB in [0, 255].
_LUMA = np.array([65.481, 128.553, 24.966]) / 255


def luma(image: Pixels) -> Plane:
    """uint8 [H, W, 3] -> float64 [H, W] in [16, 235], not rounded."""
    return image.astype(np.float64) @ _LUMA + 16


def psnr_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """PSNR of BT.601 luma in dB; infinite for equal pictures."""
    return _psnr(_inner(luma(a), border_px) - _inner(luma(b), border_px))


def psnr_rgb(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """PSNR over the three channels together in dB; infinite for equal pictures."""
    difference = a.astype(np.float64) - b
    return _psnr(_inner(difference, border_px))


def ssim_y(a: Pixels, b: Pixels, border_px: int = 4) -> float:
    """SSIM of BT.601 luma (Wang et al. 2004): 11x11 Gaussian of sigma 1.5, valid region.

    Not the `daala` SSIM of the SRGAN paper's tables, which reads about 0.01 to 0.03 higher.
    """
    x, y = _inner(luma(a), border_px), _inner(luma(b), border_px)
    if min(x.shape) < 11:
        raise ValueError(f"SSIM needs 11x11 pixels inside the border, got {x.shape[::-1]}")
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
    difference = _inner(a.astype(np.float64) - b, border_px)
    red, green, blue = difference.mean(axis=(0, 1))
    return float(red), float(green), float(blue)


def _inner(plane: Plane, border_px: int) -> Plane:
    height, width = plane.shape[:2]
    return plane[border_px : height - border_px, border_px : width - border_px]


def _psnr(difference: Plane) -> float:
    mse = float(np.mean(difference**2))
    return float("inf") if mse == 0 else float(10 * np.log10(255**2 / mse))


def _gaussian(plane: Plane) -> Plane:
    """Separable 11-tap Gaussian of sigma 1.5 over the valid region: both sides shrink by 10."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    windows = np.lib.stride_tricks.sliding_window_view(plane, 11, axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(windows @ kernel, 11, axis=1)
    return windows @ kernel
