"""Reuse of what does not change from one frame of a video to the next, bit for bit.

A tile whose window (core and halo) holds the same bytes as in the frame before has the same result;
a frame of only such tiles is not computed at all. So the output is that of a run without reuse.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan
from srgan_edge.upscaler import FrameUpscaler, Upscaled
from srgan_edge.video.frame import Frame


@dataclass(eq=False)
class LinkedFrame:
    """A frame, and the one before it as far as the two are alike."""

    frame: Frame
    plan: TilePlan
    unchanged: tuple[bool, ...]
    """For each tile of the plan, whether its window is that of the frame before."""
    before: "LinkedFrame | None"
    """The frame before; None if no tile is unchanged, and once the result is there."""
    done: "Future[Upscaled]" = field(default_factory=Future)


class Reuse:
    """Upscales the frames of one video; counts what it did not have to compute.

    `linked` is iterated in one thread. `upscale` may be called in several threads at once, but has
    to begin with the frames in their order: it waits for the frame before, if it needs its result.
    """

    def __init__(self, upscaler: FrameUpscaler) -> None:
        self._upscaler = upscaler
        self._counting = threading.Lock()
        self.tiles = 0
        """Tiles of all frames so far."""
        self.tiles_reused = 0
        """Tiles that were not computed, those of repeated frames included."""
        self.frames_reused = 0
        """Frames that were not computed: each shows what the frame before it shows."""

    def linked(self, frames: Iterable[Frame]) -> Iterator[LinkedFrame]:
        """Yield the frames, each compared with the one before it."""
        before: LinkedFrame | None = None
        for frame in frames:
            height, width = frame.pixels.shape[:2]
            plan, _ = self._upscaler.plan(width, height)
            unchanged = tuple(_unchanged(frame.pixels, before, plan))
            link = LinkedFrame(frame, plan, unchanged, before if any(unchanged) else None)
            yield link
            before = link

    def upscale(self, link: LinkedFrame) -> Pixels:
        """Upscale a frame: uint8 [H, W, 3] -> uint8 [sH, sW, 3].

        Raises:
            SrganEdgeError: as `FrameUpscaler.upscale`, also of the frame before.
        """
        try:
            earlier = None if link.before is None else link.before.done.result()
            if earlier is not None and all(link.unchanged):
                done, reused = earlier, len(link.unchanged)
            else:
                unchanged = dict(zip(link.plan.tiles, link.unchanged, strict=True))
                done, reused = self._upscaler.upscale_after(link.frame.pixels, earlier, unchanged)
        except BaseException as error:
            link.done.set_exception(error)
            raise
        link.done.set_result(done)
        link.before = None  # or every frame would hold all frames before it
        with self._counting:
            self.tiles += len(link.unchanged)
            self.tiles_reused += reused
            self.frames_reused += done is earlier
        return done.pixels


def _unchanged(pixels: Pixels, before: LinkedFrame | None, plan: TilePlan) -> Iterator[bool]:
    """Yield for each tile whether its window holds the same bytes as in the frame before."""
    if before is None or before.plan != plan:
        yield from (False for _ in plan.tiles)
        return
    for tile in plan.tiles:
        window = tile.window_y.slice(), tile.window_x.slice()
        yield np.array_equal(pixels[window], before.frame.pixels[window])
