"""The rest of an upscaler, for replacements that only repeat the pixels of whole frames."""

from srgan_edge.tiling import plan_tiles
from srgan_edge.upscaler import Upscaled


class Death(BaseException):
    """Ends the process, as far as the code under test can see."""


class WholeFrames:
    """Needs `upscale` of a subclass."""

    def plan(self, width, height):
        return plan_tiles(width, height, 0, 0), 1

    def upscale_after(self, frame, earlier, unchanged):
        pixels = self.upscale(frame)
        return Upscaled(pixels, pixels, (None, None, 1)), 0


class Dying(WholeFrames):
    """Doubles frames by `doubled` of a subclass, and dies at the frame of a number from 1."""

    scale, slots = 2, 2

    def __init__(self, dies_at=None):
        self.dies_at, self.seen = dies_at, 0

    def upscale(self, pixels):
        self.seen += 1
        if self.seen == self.dies_at:
            raise Death
        return self.doubled(pixels)
