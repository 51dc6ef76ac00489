"""Animations out: GIF, WebP and PNG (APNG), every frame whole and as long as it is to be seen.

PNG is written frame by frame. GIF and WebP are collected, because Pillow takes them so; it joins
frames that are the same and adds their times.
"""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from srgan_edge.errors import OutputFailed
from srgan_edge.files import replace_when_whole
from srgan_edge.image.png import PngWriter
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import (
    format_from_suffix,
    pillow_options,
    png_chunks,
    samples,
    with_palette,
)


@contextmanager
def animation_file(
    path: Path, like: StillImage, size: tuple[int, int], seconds: Sequence[Fraction], plays: int
) -> Iterator[Callable[[StillImage], None]]:
    """Yields what takes the frames in order; the file is at `path` once all are there.

    GIF has 256 colors a frame, of which one is transparent, and times in 1/100 s; WebP in 1/1000.

    Args:
        like: any rows of a frame, for all but its pixels; as `refuse_unwritable` passed them.
        size: (width, height) of every frame in pixels.
        seconds: how long each frame is to be seen.
        plays: how often all of them; 0: for ever.

    Raises:
        OutputFailed: the file cannot be written.
    """
    name = format_from_suffix(path)
    with replace_when_whole(path) as partial, partial.open("wb") as file:
        if name == "PNG":
            channels = samples(like).shape[2]
            frames = len(seconds), plays
            png = PngWriter(file, size, channels, 8, png_chunks(like), frames)
            delays = iter(seconds)

            def write(frame: StillImage) -> None:
                png.start_frame(next(delays))
                png.write(samples(frame))

            yield write
            png.finish()
            return
        images: list[Image.Image] = []
        yield lambda frame: images.append(
            _rgb(frame) if name == "WEBP" else with_palette(_rgb(frame))
        )
        options = pillow_options(name, like) | _timing(name, seconds, plays)
        encoded = io.BytesIO()  # as `image_writer` does
        try:
            images[0].save(encoded, name, save_all=True, append_images=images[1:], **options)
        except (OSError, ValueError, struct.error) as error:
            raise OutputFailed(f"cannot write {path} as {name}: {error}; write .png") from error
        file.write(encoded.getbuffer())


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
    """RGB or RGBA, whatever the file was."""
    values = frame.pixels if frame.alpha is None else np.dstack([frame.pixels, frame.alpha])
    return Image.fromarray(values)
