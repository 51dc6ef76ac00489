"""The rest of an upscaler, for replacements that only repeat the pixels of whole frames."""

from srgan_edge.tiling import plan_tiles
from srgan_edge.upscaler import Upscaled


class WholeFrames:
    """Needs `upscale` of a subclass."""

    def plan(self, width, height):
        return plan_tiles(width, height, 0, 0), 1

    def upscale_after(self, frame, earlier, unchanged):
        pixels = self.upscale(frame)
        return Upscaled(pixels, pixels, (None, None, 1)), 0
