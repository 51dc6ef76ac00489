"""Reuse of what does not change from one frame of a video to the next, bit for bit.

A tile whose window (core and halo) holds the same bytes as in the frame before has the same result;
a frame of only such tiles is not computed at all. So the output is that of a run without reuse,
unless frames that nearly repeat an earlier one shall be made of its result (`duplicates`).
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from srgan_edge.duplicates import Dedup, with_difference
from srgan_edge.duplicates import is_repeat as is_near
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
    """The frame before; None if no tile is unchanged, and once the result is there. Where frames
    may repeat others, the one that was upscaled last."""
    is_repeat: bool = False
    """The frame nearly repeats `before`, and is made of its result."""
    done: "Future[Upscaled]" = field(default_factory=Future)

    @property
    def is_light(self) -> bool:
        """The network computes nothing of the frame: it is made of the result of `before`."""
        return self.before is not None and (self.is_repeat or all(self.unchanged))


class Reuse:
    """Upscales the frames of one video; counts what it did not have to compute.

    `linked` is iterated in one thread. `upscale` may be called in several threads at once, but has
    to begin with the frames in their order: it waits for the frame before, if it needs its result.
    """

    def __init__(
        self, upscaler: FrameUpscaler, dedup: Dedup | None = None, every: int | None = None
    ) -> None:
        """
        Args:
            dedup: make frames that nearly repeat an earlier one of its result.
            every: with `dedup`, a frame whose number is a multiple of this is always upscaled, so
                that results do not depend on where a run began.
        """
        self._upscaler, self._dedup, self._every = upscaler, dedup, every
        self._counting = threading.Lock()
        self.tiles = 0
        """Tiles of all frames so far."""
        self.tiles_reused = 0
        """Tiles that were not computed, those of repeated frames included."""
        self.frames_reused = 0
        """Frames that were not computed: each shows what the frame before it shows."""
        self.frames_repeated = 0
        """Frames that were not computed because they nearly repeat an earlier one."""

    def linked(self, frames: Iterable[Frame]) -> Iterator[LinkedFrame]:
        """Yield the frames, each compared with the one before it."""
        before: LinkedFrame | None = None
        for number, frame in enumerate(frames):
            if self._dedup is not None and self._every and number % self._every == 0:
                before = None
            height, width = frame.pixels.shape[:2]
            plan, _ = self._upscaler.plan(width, height)
            unchanged = tuple(_unchanged(frame.pixels, before, plan))
            is_repeat = (
                self._dedup is not None
                and before is not None
                and not all(unchanged)
                and before.plan == plan
                and is_near(frame.pixels, before.frame.pixels, self._dedup)
            )
            needed = before if is_repeat or any(unchanged) else None
            link = LinkedFrame(frame, plan, unchanged, needed, is_repeat)
            yield link
            if self._dedup is None or not (is_repeat or all(unchanged)):
                before = link

    def upscale(self, link: LinkedFrame) -> Pixels:
        """Upscale a frame: uint8 [H, W, 3] -> uint8 [sH, sW, 3].

        Raises:
            SrganEdgeError: as `FrameUpscaler.upscale`, also of the frame before.
        """
        try:
            earlier = None if link.before is None else link.before.done.result()
            if link.is_repeat and earlier is not None and link.before is not None:
                source = link.before.frame.pixels
                pixels = with_difference(earlier.pixels, link.frame.pixels, source)
                done, reused = replace(earlier, pixels=pixels), 0
            elif earlier is not None and all(link.unchanged):
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
            self.frames_repeated += link.is_repeat
        return done.pixels


def _unchanged(pixels: Pixels, before: LinkedFrame | None, plan: TilePlan) -> Iterator[bool]:
    """Yield for each tile whether its window holds the same bytes as in the frame before."""
    if before is None or before.plan != plan:
        yield from (False for _ in plan.tiles)
        return
    for tile in plan.tiles:
        window = tile.window_y.slice(), tile.window_x.slice()
        yield np.array_equal(pixels[window], before.frame.pixels[window])
