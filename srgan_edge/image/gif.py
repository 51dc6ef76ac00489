"""The parts of a GIF that its frames paint: browsers show the others as transparent.

Pillow fills them with a color: with the first of the palette around a first frame that is smaller
than the image, and with the background where a frame was taken away again.
"""

import numpy as np
import numpy.typing as npt
from PIL.GifImagePlugin import GifImageFile

_TO_BACKGROUND, _TO_PREVIOUS = 2, 3
"""Disposal methods of the 89a specification, section 23: what becomes of a frame after its time."""


class Painted:
    """Follows an animation frame by frame, from its first one."""

    def __init__(self) -> None:
        self.pixels: npt.NDArray[np.bool_] = np.zeros((0, 0), bool)
        """[H, W]: True where the current frame or one before it has painted."""
        self._left = self.pixels  # what the next frame finds

    def take(self, image: GifImageFile) -> None:
        """Note the frame that `image` is at."""
        width, height = image.size
        before = np.zeros((height, width), bool)  # Pillow enlarges images for their frames
        before[: len(self._left), : self._left.shape[1]] = self._left
        self.pixels = before.copy()
        assert image.dispose_extent is not None
        left, top, right, bottom = image.dispose_extent
        self.pixels[top:bottom, left:right] = True
        self._left = self.pixels
        if image.disposal_method == _TO_PREVIOUS:
            self._left = before
        elif image.disposal_method == _TO_BACKGROUND:
            self._left = self.pixels.copy()
            self._left[top:bottom, left:right] = False
