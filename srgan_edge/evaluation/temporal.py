"""Measures of an upscaled video: how still it holds, and how sharp and true it is meanwhile.

Flicker and warping error are means of absolute differences of BT.601 luma, in levels of 255. tOF
and tLP are those of TecoGAN (Chu et al., Learning Temporal Coherence via Self-Supervision for
GAN-based Video Generation, 2020): how far the motion of the result, and its change from frame to
frame as LPIPS sees it, are from those of the original. Lower is better. Needs the extra `steady`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from srgan_edge.evaluation.metrics import Undefined, luma
from srgan_edge.pixels import Pixels

BORDER_PX = 8
"""Pixels at each edge that flicker, warping error and sharpness leave out."""

AGREE_LEVELS = 4.0
"""Most difference of the two inputs at a pixel, where a warping error is measured."""

Distance: TypeAlias = Callable[[Pixels, Pixels], float]
"""LPIPS of two images, uint8 [H, W, 3]."""

_Plane: TypeAlias = npt.NDArray[np.floating[Any]]


def pan_flicker(before: Pixels, now: Pixels, step_px: int) -> float:
    """Return the mean difference of two frames of a pan, one laid over the other.

    Args:
        step_px: pixels by which everything moved to the left.
    """
    inner = slice(BORDER_PX, -BORDER_PX)
    width = now.shape[1]
    earlier = luma(before)[inner, BORDER_PX + step_px : width - BORDER_PX]
    later = luma(now)[inner, BORDER_PX : width - BORDER_PX - step_px]
    return float(np.abs(earlier - later).mean())


def warping_error(before: Pixels, now: Pixels, lr_before: Pixels, lr_now: Pixels) -> float:
    """Return the mean difference of a frame and the one before it, moved as the inputs move.

    The motion is that of Farneback's method, which `--steady` does not use. Only what both inputs
    show counts.

    Args:
        before: uint8 [sH, sW, 3], and so is `now`.
        lr_before: uint8 [H, W, 3], and so is `lr_now`.

    Raises:
        Undefined: the inputs have nothing in common, as at a cut.
    """
    import cv2

    from srgan_edge.motion import farneback_flow, gray, moved

    earlier, later = gray(lr_before), gray(lr_now)
    flow = farneback_flow(later, earlier)
    residual = np.abs(moved(earlier.astype(np.float32), flow) - later.astype(np.float32))
    height, width = now.shape[:2]
    scale = height // later.shape[0]
    agrees = (residual <= AGREE_LEVELS).repeat(scale, axis=0).repeat(scale, axis=1)
    wide = scale * np.asarray(cv2.resize(flow, (width, height)), np.float32)
    difference = np.abs(moved(luma(before).astype(np.float32), wide) - luma(now))
    inner = slice(BORDER_PX, -BORDER_PX)
    measured = difference[inner, inner][agrees[inner, inner]]
    if measured.size < agrees.size // 10:
        raise Undefined("a warping error needs two frames of one scene")
    return float(measured.mean())


def sharpness(result: Pixels, original: Pixels) -> float:
    """Return the mean gradient of the result's luma as a share of the original's."""
    return _gradient(result) / max(_gradient(original), 1e-9)


def t_of(before: Pixels, now: Pixels, true_before: Pixels, true_now: Pixels) -> float:
    """Return the mean distance of the motions of result and original, in pixels.

    Raises:
        Undefined: the frames are smaller than what TecoGAN's program measures.
    """
    from srgan_edge.motion import farneback_flow, gray

    made = farneback_flow(gray(before), gray(now))
    true = farneback_flow(gray(true_before), gray(true_now))
    return float(np.linalg.norm(tecogan_crop(made) - tecogan_crop(true), axis=-1).mean())


def t_lp(
    lpips: Distance, before: Pixels, now: Pixels, true_before: Pixels, true_now: Pixels
) -> float:
    """Return by how much the change of the result differs from the original's, times 100.

    Raises:
        Undefined: as in `t_of`.
    """
    made = lpips(tecogan_crop(before), tecogan_crop(now))
    true = lpips(tecogan_crop(true_before), tecogan_crop(true_now))
    return 100 * abs(made - true)


def tecogan_crop(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the middle of [H, W, C]: sides that are multiples of 32, and 16 less than before.

    Raises:
        Undefined: nothing is left.
    """
    height, width = image.shape[:2]
    high, wide = (side - 16 - (side - 16) % 32 for side in (height, width))
    if high <= 0 or wide <= 0:
        raise Undefined(f"tOF and tLP need 48x48 pixels, not {width}x{height}")
    top, left = (height - high) // 2, (width - wide) // 2
    return image[top : top + high, left : left + wide]


def _gradient(image: Pixels) -> float:
    plane: _Plane = luma(image)[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
    return float(np.abs(np.diff(plane, axis=0)).mean() + np.abs(np.diff(plane, axis=1)).mean())
