"""Animated GIF, WebP and PNG (APNG) files, with every frame and its duration kept.

PNG is written frame by frame. GIF and WebP frames are collected first, because Pillow takes them
all at once; it merges equal neighbors and adds their times.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from srgan_edge.files import open_when_whole
from srgan_edge.image.png import PngWriter
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import (
    format_from_suffix,
    pillow_options,
    png_chunks,
    samples,
    save_with_pillow,
    with_palette,
)


@contextmanager
def animation_file(
    path: Path,
    like: StillImage,
    size: tuple[int, int],
    seconds: Sequence[Fraction],
    plays: int,
    *,
    overwrite: bool = True,
    into: Path | None = None,
) -> Iterator[Callable[[StillImage], None]]:
    """Yield a function that takes the frames in order; `path` appears once all are written.

    GIF has 256 colors a frame, one of them transparent, and times in steps of 1/100 s; WebP has
    times in steps of 1/1000 s.

    Args:
        like: any rows of a frame, used for everything but their pixels; `refuse_unwritable` must
            have accepted them.
        size: (width, height) of every frame in pixels.
        seconds: duration of each frame.
        plays: number of times the animation is played; 0: forever.
        overwrite: replace a file that appears at `path` in the meantime.
        into: see `files.open_when_whole`.

    Raises:
        OutputFailed: the file cannot be written.
    """
    name = format_from_suffix(path)
    with open_when_whole(path, overwrite=overwrite, into=into) as file:
        if name == "PNG":
            has_alpha = like.alpha is not None
            channels = samples(like, with_alpha=has_alpha).shape[2]
            frames = len(seconds), plays
            png = PngWriter(file, size, channels, 8, png_chunks(like), frames)
            delays = iter(seconds)

            def write(frame: StillImage) -> None:
                png.start_frame(next(delays))
                png.write(samples(frame, with_alpha=has_alpha))

            yield write
            png.finish()
            return
        images: list[Image.Image] = []
        yield lambda frame: images.append(
            _rgb(frame) if name == "WEBP" else with_palette(_rgb(frame))
        )
        options = pillow_options(name, like) | _timing(name, seconds, plays)
        options |= {"save_all": True, "append_images": images[1:]}
        save_with_pillow(images[0], path, file, options)


def _timing(name: str, seconds: Sequence[Fraction], plays: int) -> dict[str, Any]:
    unit = Fraction(1, 100 if name == "GIF" else 1000)
    ends = [0, *(round(end / unit) for end in accumulate(seconds))]  # so that rounding adds up to 0
    milliseconds = [int((end - start) * unit * 1000) for start, end in pairwise(ends)]
    if name == "WEBP":
        return {"duration": milliseconds, "loop": plays}
    repeats = {} if plays == 1 else {"loop": max(0, plays - 1)}
    # Each frame is whole, and the next must not be laid over it where it is transparent.
    return {"duration": milliseconds, "disposal": 2, "optimize": False, **repeats}


def _rgb(frame: StillImage) -> Image.Image:
    """Return RGB or RGBA, even for a gray file."""
    values = frame.pixels if frame.alpha is None else np.dstack([frame.pixels, frame.alpha])
    return Image.fromarray(values)
