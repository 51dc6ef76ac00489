"""Videos with a known original, to measure how still an upscaled video holds.

A pan over a photograph moves by whole pixels of the result, so that two frames can be laid exactly
over each other, and every difference is flicker. A video file is its own original.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from srgan_edge import bicubic
from srgan_edge.errors import InputRefused
from srgan_edge.image.reader import read_pixels
from srgan_edge.pixels import Pixels

PHOTOS = Path(__file__).parent.parent / "demo" / "photos"

PAN_SIZE = (320, 240)
"""Most width and height of the frames of a pan, from the middle of a photograph."""

SMALLEST_PX = 64
"""Shortest side of a frame: less has no middle beside the borders that measures leave out."""

PAN_FPS = 25.0

ZOOM, TURN = 0.01, 0.004
"""Enlargement and turn, in radians, of a zoom from frame to frame."""


@dataclass(frozen=True)
class Scene:
    """A video in its original size."""

    name: str
    originals: Callable[[], Iterator[Pixels]]
    """Returns the frames from the first on, uint8 [H, W, 3] with sides that the scale divides."""
    fps: float
    step_px: int | None = None
    """Pixels by which everything moves to the left from frame to frame; None: not known."""

    def pairs(self, scale: int, noise: float = 0.0) -> Iterator[tuple[Pixels, Pixels]]:
        """Yield each frame reduced by MATLAB's bicubic interpolation, and in its original size.

        Args:
            noise: standard deviation, in levels, of the noise on every reduced frame.
        """
        for number, original in enumerate(self.originals()):
            height, width = (side // scale for side in original.shape[:2])
            reduced = bicubic.resize(original, height, width)
            if noise:
                grain = np.random.default_rng(number).normal(0, noise, reduced.shape)
                reduced = np.rint(reduced + grain).clip(0, 255).astype(np.uint8)
            yield reduced, original


def pan_over(path: Path, scale: int, frames: int, step_px: int = 1) -> Scene:
    """Return a horizontal pan over the middle of a photograph.

    Raises:
        InputRefused: the photograph is too small, or is none.
    """
    photo = read_pixels(path)
    travel_px = step_px * (frames - 1)
    height, width = (
        min(most, side) // scale * scale
        for most, side in zip(
            PAN_SIZE[::-1], (photo.shape[0], photo.shape[1] - travel_px), strict=True
        )
    )
    if min(height, width) < SMALLEST_PX:
        raise InputRefused(
            f"{path} is {photo.shape[1]}x{photo.shape[0]}; a pan of {frames} frames needs "
            f"{SMALLEST_PX + travel_px}x{SMALLEST_PX}"
        )
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width - travel_px) // 2

    def originals() -> Iterator[Pixels]:
        for number in range(frames):
            x = left + step_px * number
            yield np.ascontiguousarray(photo[top : top + height, x : x + width])

    return Scene(path.stem, originals, PAN_FPS, step_px)


def zoom_over(path: Path, scale: int, frames: int) -> Scene:
    """Return a zoom into the middle of a photograph, by 1 % a frame, that turns a little.

    Raises:
        InputRefused: the photograph is too small, or is none.
    """
    import cv2

    photo = read_pixels(path)
    height, width = (
        min(most, side) // scale * scale
        for most, side in zip(PAN_SIZE[::-1], photo.shape[:2], strict=True)
    )
    if min(height, width) < SMALLEST_PX:
        raise InputRefused(
            f"{path} is {photo.shape[1]}x{photo.shape[0]}; a zoom needs {SMALLEST_PX}x{SMALLEST_PX}"
        )
    middle = np.array([width, height]) / 2
    center = np.array([photo.shape[1], photo.shape[0]]) / 2

    def originals() -> Iterator[Pixels]:
        for number in range(frames):
            angle, shrink = TURN * number, (1 + ZOOM) ** -number
            cosine, sine = shrink * np.cos(angle), shrink * np.sin(angle)
            turned = np.array([[cosine, -sine], [sine, cosine]])
            affine = np.hstack([turned, (center - turned @ middle)[:, None]])
            flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
            frame = cv2.warpAffine(
                photo, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT
            )
            yield np.asarray(frame, np.uint8)

    return Scene(path.stem, originals, PAN_FPS)


def video_scene(
    name: str,
    decoded: Callable[[], Iterator[Pixels]],
    fps: float,
    scale: int,
    frames: int,
    fewest: int = 1,
) -> Scene:
    """Return a scene of the first frames of a video, cropped to sides that the scale divides.

    Raises:
        InputRefused: while its frames are read: they are too small, or less than `fewest`.
    """

    def originals() -> Iterator[Pixels]:
        there = 0
        for frame in islice(decoded(), frames):
            there += 1
            height, width = (side // scale * scale for side in frame.shape[:2])
            if min(height, width) < SMALLEST_PX:
                raise InputRefused(f"{name} is {width}x{height}; possible: {SMALLEST_PX} px and up")
            yield np.ascontiguousarray(frame[:height, :width])
        if there < fewest:
            raise InputRefused(f"{name}: frames {there}; possible: {fewest} and more")

    return Scene(name, originals, fps)
