"""The size of a result that was asked for in pixels instead of a factor: `--height 2160`.

It is the size that players show: rotated, and with the shape of the pixels applied.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Self

from srgan_edge.errors import UsageError
from srgan_edge.video.frame import VideoInfo

LARGEST_FACTOR = 16
"""Largest final scale, as for `-s`."""

BOXES = {
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "1440p": (2560, 1440),
    "4k": (3840, 2160),
    "8k": (7680, 4320),
}
"""Names for `--fit` -> width and height in pixels; for sources higher than wide, the other way."""


@dataclass(frozen=True)
class Source:
    """Sides of a source in pixels, and how they are shown."""

    width: int
    height: int
    pixel_shape: Fraction = Fraction(1)
    """Width of a pixel divided by its height."""
    lies_on_side: bool = False
    """Players turn it by 90 degrees."""
    is_video: bool = False

    @classmethod
    def of_video(cls, info: VideoInfo) -> Self:
        """Return the sides of a video, with its rotation and the shape of its pixels."""
        shape = info.sample_aspect_ratio or Fraction(1)
        return cls(info.width, info.height, shape, info.lies_on_side, is_video=True)

    @property
    def shown(self) -> tuple[Fraction, Fraction]:
        """Width and height in pixels as a player shows them."""
        sides = self.width * self.pixel_shape, Fraction(self.height)
        return (sides[1], sides[0]) if self.lies_on_side else sides


@dataclass(frozen=True)
class WantedSize:
    """Width, height or both in pixels, of which the result has one at least, in its own shape."""

    option: str
    """The option as typed, such as `--height 2160`."""
    suffix: str
    """Text for the names of results, such as `_2160p`."""
    width: int | None = None
    height: int | None = None
    turns: bool = False
    """Width and height change places for a source that is higher than wide."""

    @classmethod
    def of(cls, width: int | None, height: int | None, fit: str | None) -> Self | None:
        """Return what `--width`, `--height` or `--fit` ask for; None if none was typed.

        Raises:
            UsageError: two were typed, or an impossible size.
        """
        typed = {"--width": width, "--height": height, "--fit": fit}
        given = {name: value for name, value in typed.items() if value is not None}
        refuse_both([f"{name} {value}" for name, value in given.items()])
        for name, value in given.items():
            if value is not fit and int(value) < 1:
                raise UsageError(f"{name} {value}; possible: from 1 up")
        if width is not None:
            return cls(f"--width {width}", f"_{width}w", width=width)
        if height is not None:
            return cls(f"--height {height}", f"_{height}p", height=height)
        if fit is None:
            return None
        name = fit.lower()
        if name in BOXES:
            return cls(f"--fit {name}", f"_{name}", *BOXES[name], turns=True)
        if not (sides := re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", name)):
            raise UsageError(f"--fit {fit}; possible: {', '.join(BOXES)} or WxH, like 1920x1080")
        return cls(f"--fit {name}", f"_{name}", int(sides[1]), int(sides[2]))

    def factor(self, source: Source) -> Fraction:
        """Return how many times larger the sides of the result are, before they are rounded.

        Raises:
            UsageError: the result would be smaller than the source, or more than 16 times larger;
                or a side is odd, which videos cannot have.
        """
        width, height = source.shown
        wanted = [self.width, self.height]
        if self.turns and height > width:
            wanted.reverse()
        if source.is_video and None not in wanted:  # a box: what fits into it is even
            wanted = [side and side - side % 2 for side in wanted]
        pairs = zip(wanted, (width, height), strict=True)
        factor = min(Fraction(side) / own for side, own in pairs if side is not None)
        if not 1 <= factor <= LARGEST_FACTOR:
            self._refuse(factor, source)
        if source.is_video and None in wanted:
            self._refuse_odd(wanted[0] or wanted[1] or 0, factor)
        return factor

    def result(self, source: Source) -> tuple[int, int]:
        """Return width and height of the result in pixels, before a player turns it.

        Raises:
            UsageError: as `factor` does.
        """
        factor, step = self.factor(source), 2 if source.is_video else 1
        sides = (source.width * factor, source.height * factor)
        width, height = (max(step, step * round(side / step)) for side in sides)
        return width, height

    def _refuse_odd(self, side: int, factor: Fraction) -> None:
        if side % 2:
            name = self.option.split()[0]
            even = side + 1 if (side + 1) * factor <= side * LARGEST_FACTOR else side - 1
            raise UsageError(
                f"{self.option} is odd, and videos have even sides; type {name} {even}"
            )

    def _refuse(self, factor: Fraction, source: Source) -> None:
        width, height = (round(side) for side in source.shown)
        name, step = self.option.split()[0], 2 if source.is_video else 1
        least, most = (
            _typed(name, [step * nearest(side * scale / step) for side in source.shown])
            for scale, nearest in ((1, ceil), (LARGEST_FACTOR, floor))
        )
        if factor < 1:
            raise UsageError(
                f"{self.option} is less than the source, which is {width}x{height}; "
                f"possible: {name} {least} to {most}, or -s X below 1 for a smaller result"
            )
        raise UsageError(
            f"{self.option} is more than {LARGEST_FACTOR} times the source, which is "
            f"{width}x{height}; possible: {name} {least} to {most}"
        )


def _typed(name: str, sides: list[int]) -> str:
    """Return width and height, or the one that an option takes, as they are typed for it."""
    width, height = sides
    return {"--width": f"{width}", "--height": f"{height}"}.get(name, f"{width}x{height}")


def wanted_size(
    outscale: float | None, width: int | None, height: int | None, fit: str | None
) -> WantedSize | None:
    """Return the size that was typed instead of a factor; None if none was.

    Raises:
        UsageError: two of these were typed, or an impossible size.
    """
    size = WantedSize.of(width, height, fit)
    if outscale is not None and size is not None:
        refuse_both([f"-s {outscale:g}", size.option])
    return size


def refuse_both(typed: Sequence[str]) -> None:
    """Raise a `UsageError` if more than one of options that exclude each other was typed."""
    if len(typed) > 1:
        raise UsageError(f"{' and '.join(typed)}; possible: one of them")
