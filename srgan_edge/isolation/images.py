"""Decode images in a child process that may crash, hang or be taken over; one serves many files.

Both ends of the conversation. The child reads a file with `ImageReader`, and `IsolatedImage` has
the same interface; all answers of the child are checked.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from srgan_edge.ahead import IMAGES
from srgan_edge.errors import InputDamaged, SrganEdgeError
from srgan_edge.files import open_regular
from srgan_edge.image.coding import Coding
from srgan_edge.image.metadata import is_possible
from srgan_edge.image.opening import MAX_PIXELS
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage
from srgan_edge.isolation.calls import MAX_RESULT_BYTES, Remote
from srgan_edge.isolation.calls import serve as serve_calls
from srgan_edge.isolation.child import ChildFailed, ChildKilled, Parent
from srgan_edge.isolation.wire import Json, Side

T = TypeVar("T")

SECONDS = 120.0
"""Time limit for one step. Decoding 100 megapixels takes ten seconds on a slow machine."""

MEMORY_BYTES = 512 << 20
BYTES_PER_PIXEL = 32
"""Memory that the child may map: a base, and room for several copies of the largest image."""

METADATA_BYTES = 128 << 20
"""Most memory for the metadata of an image, or for the durations of the frames of an animation."""

_LARGEST_PIXEL_BYTES = 4 * 2  # RGB and alpha in 16 bits


@dataclass(frozen=True)
class ImageFacts:
    """Properties of a file that are known before any row is decoded, as in `ImageReader`."""

    width: Side
    height: Side
    frames: int
    plays: int
    seconds: npt.NDArray[np.uint32]
    """[frames, 2], numerator and denominator of the duration of each frame."""
    notes: tuple[str, ...]
    coding: Coding

    @classmethod
    def of(cls, reader: ImageReader) -> Self:
        size = (reader.width, reader.height, reader.frames)
        ratios = [(second.numerator, second.denominator) for second in reader.seconds]
        seconds = np.array(ratios, np.uint32).reshape(-1, 2)
        return cls(*size, reader.plays, seconds, tuple(reader.notes), reader.coding)


class ImageProcess:
    """The child process; starts with the first image, and again with the next one after a failure.

    It gets each image as an open file, and can itself open none but those of Python.

    Args:
        max_pixels: as for `ImageReader`.

    Open one image at a time, in the main thread or in one that lives as long.
    """

    entry: ClassVar[str] = IMAGES
    """For `child.started_ahead`."""

    def __init__(
        self,
        max_pixels: int = MAX_PIXELS,
        *,
        memory_bytes: int | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self.max_pixels = max_pixels
        most = MEMORY_BYTES + BYTES_PER_PIXEL * max_pixels
        self._remote = Remote(self.entry, [], memory_bytes or most, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._remote.close()

    def open(self, path: Path, enlargement: float = 1.0) -> "IsolatedImage":
        """Open one image.

        Raises:
            InputRefused, InputDamaged: as `ImageReader`, with the same message.
            InputDamaged: the decoder crashed, hung, exceeded its memory limit, or sent an
                impossible answer.
            ResourcesExhausted: the process cannot be started, or memory is exhausted.
        """
        return IsolatedImage(path, self._remote, self.max_pixels, enlargement)


class IsolatedImage:
    """One image in the child, with the interface of an `ImageReader`."""

    def __init__(self, path: Path, remote: Remote, max_pixels: int, enlargement: float) -> None:
        self.path, self._remote = path, remote
        with open_regular(path) as file:
            arguments = (os.fspath(path), max_pixels, enlargement)
            facts = self._call(
                ImageFacts, "open", *arguments, file=file.fileno(), max_bytes=METADATA_BYTES
            )
        self.width, self.height = facts.width, facts.height
        """Size of the upright image in pixels."""
        self.frames, self.plays = facts.frames, facts.plays
        if (
            self.frames < 1
            or self.width * self.height * self.frames > max_pixels
            or facts.seconds.shape != (self.frames if self.frames > 1 else 0, 2)
            or not facts.seconds[:, 1].all()
        ):
            raise self._protocol_broken(f"{self.frames} frames of {self.width}x{self.height}")
        self.seconds = [Fraction(*map(int, ratio)) for ratio in facts.seconds]
        self.notes = list(facts.notes)
        self.coding = facts.coding
        self._checked: object = None  # metadata of the latest rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._remote.is_running:
            with suppress(SrganEdgeError):  # `rows` has already raised whatever there was to report
                self._call(bool, "close")

    @property
    def is_transparent(self) -> bool:
        """True if any pixel is not fully opaque; decodes the whole image."""
        return self._call(bool, "is_transparent")

    def rows(self, start: int, stop: int) -> StillImage:
        """Return the rows from `start` up to, but not including, `stop`."""
        most = METADATA_BYTES + (stop - start) * self.width * _LARGEST_PIXEL_BYTES
        image = self._call(StillImage, "rows", int(start), int(stop), max_bytes=most)
        shape, alpha = (stop - start, self.width), image.alpha
        if image.pixels.shape != (*shape, 3) or (
            alpha is not None and (alpha.shape != shape or alpha.dtype != image.pixels.dtype)
        ):
            raise self._protocol_broken(f"rows of {image.pixels.shape}")
        metadata = (image.exif, image.dpi, image.pixel_shape, image.stated_colors)
        if metadata != self._checked:
            if not is_possible(image):
                raise self._protocol_broken("metadata")
            self._checked = metadata
        return image

    def seek(self, frame: int) -> None:
        """Make `rows` return rows of frame `frame` of an animation, counted from 0."""
        self._call(bool, "seek", frame)

    def _call(
        self,
        kind: type[T],
        function: str,
        *arguments: Json,
        file: int | None = None,
        max_bytes: int = MAX_RESULT_BYTES,
    ) -> T:
        try:
            return self._remote.call(kind, function, *arguments, file=file, max_bytes=max_bytes)
        except ChildKilled as failure:
            raise ChildKilled(self.path) from failure
        except ChildFailed as failure:
            raise InputDamaged(f"{self.path}: damaged: the decoder {failure}") from failure

    def _protocol_broken(self, what: str) -> InputDamaged:
        self._remote.kill()
        return InputDamaged(f"{self.path}: damaged: the decoder broke its protocol ({what})")


def serve(parent: Parent, _: object) -> None:
    """Run in the child, where everything that touches the files happens."""
    opened: list[ImageReader] = []

    def close() -> bool:
        while opened:
            opened.pop().__exit__()
        return True

    def open_still(file: int, path: str, max_pixels: int, enlargement: float) -> ImageFacts:
        close()
        opened.append(ImageReader(Path(path), max_pixels, enlargement, os.fdopen(file, "rb")))
        return ImageFacts.of(opened[0])

    def seek(frame: int) -> bool:
        opened[0].seek(frame)
        return True

    functions: dict[str, Callable[..., object]] = {
        "open": open_still,
        "rows": lambda start, stop: opened[0].rows(start, stop),
        "seek": seek,
        "is_transparent": lambda: opened[0].is_transparent,
        "close": close,
    }
    serve_calls(parent, functions)
