"""Dense motion between two frames of a video, by OpenCV (the extra `steady`).

A flow is float32 [H, W, 2], x before y, in pixels. It points backward: what the later frame shows
at x, y was at x + flow[y, x, 0], y + flow[y, x, 1] in the earlier one.
"""

from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from srgan_edge.pixels import Gray, Pixels

Flow: TypeAlias = npt.NDArray[np.float32]
Image: TypeAlias = npt.NDArray[np.integer[Any] | np.floating[Any]]

SMALLEST_PX = 16
"""Shortest side of a frame in which motion is looked for; the search compares patches of 8 px."""


def gray(frame: Pixels) -> Gray:
    """Return the BT.601 luma of uint8 [H, W, 3], rounded: uint8 [H, W]."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def dense_flow(before: Gray, now: Gray) -> Flow:
    """Return the flow from `now` back to `before` by dense inverse search.

    Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016, down to single pixels.
    Frames with a side below `SMALLEST_PX` count as still.
    """
    if min(now.shape) < SMALLEST_PX:
        return _empty(now)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    # Half of the time of the preset's own stride and iterations, for 0.02 dB less on pans.
    search.setPatchStride(4)
    search.setGradientDescentIterations(12)
    search.setVariationalRefinementIterations(0)  # takes as long again, and smooths motion too much
    return np.asarray(search.calc(now, before, _empty(now)), np.float32)


def farneback_flow(before: Gray, now: Gray) -> Flow:
    """Return the flow from `before` to `now`, as TecoGAN's measures compute it.

    It points forward, unlike all others here: Chu et al., Learning Temporal Coherence via
    Self-Supervision for GAN-based Video Generation, 2020, with the parameters of their program.
    """
    flow = cv2.calcOpticalFlowFarneback(before, now, _empty(now), 0.5, 3, 15, 3, 5, 1.2, 0)
    return np.asarray(flow, np.float32)


def moved(image: Image, flow: Flow, top: int = 0, *, kernel: int = cv2.INTER_LANCZOS4) -> Image:
    """Move an earlier image to where the later one shows it.

    Args:
        image: [H, W] or [H, W, C], uint8 or float32.
        flow: float32 [h, W, 2]: of all rows, or of those from `top` on.
        kernel: OpenCV's number of an interpolation. `INTER_CUBIC` takes a quarter of the time.
    """
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(top, top + height, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(image, x, y, kernel, borderMode=cv2.BORDER_REPLICATE))


def _empty(frame: Gray) -> Flow:
    """Return a flow for OpenCV to fill."""
    return np.zeros((frame.shape[0], frame.shape[1], 2), np.float32)
