"""Images decoded in a child process that may crash, hang or be taken over: one for many files.

Both ends of one conversation. The child reads a file with `ImageReader`, of which this one has the
face; nothing that it says is believed unchecked.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self, TypeVar

from srgan_edge.errors import InputDamaged, SrganEdgeError
from srgan_edge.files import open_regular
from srgan_edge.image.opening import MAX_PIXELS
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage
from srgan_edge.isolation import calls as remote
from srgan_edge.isolation.calls import Json, Remote
from srgan_edge.isolation.child import ChildFailed, Parent

T = TypeVar("T")

SECONDS = 120.0
"""So long one step may take. Decoding 100 megapixels takes a slow box ten."""

MEMORY_BYTES = 512 << 20
BYTES_PER_PIXEL = 32
"""What the child may map, the second for each pixel of the largest image: some copies of it."""

_MOST_FOLDERS = 64  # their names go in one message


@dataclass(frozen=True)
class ImageFacts:
    """What a file says before any of its rows is asked for, as in `ImageReader`."""

    width: int
    height: int
    frames: int
    plays: int
    seconds: tuple[Fraction, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, reader: ImageReader) -> Self:
        size = (reader.width, reader.height, reader.frames)
        return cls(*size, reader.plays, tuple(reader.seconds), tuple(reader.notes))


class ImageProcess:
    """The child; it starts with the first image, and after a failure anew with the next.

    Args:
        paths: of all images; what is not in the folders of one cannot be read (see `sandbox`).
        max_pixels: as for `ImageReader`.

    Open images in the main thread, or in one that lives as long, and one at a time.
    """

    _entry = "srgan_edge.isolation.images:serve"

    def __init__(
        self,
        paths: list[Path],
        max_pixels: int = MAX_PIXELS,
        *,
        memory_bytes: int | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self.max_pixels = max_pixels
        most = MEMORY_BYTES + BYTES_PER_PIXEL * max_pixels
        folders = {path.resolve().parent for path in paths if path.is_file()}
        if len(folders) > _MOST_FOLDERS:
            folders = {Path(os.path.commonpath(folders))}
        self._remote = Remote(self._entry, sorted(folders), memory_bytes or most, seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._remote.close()

    def open(self, path: Path, enlargement: float = 1.0) -> "IsolatedImage":
        """One image.

        Raises:
            InputRefused, InputDamaged: as `ImageReader`, with the same message.
            InputDamaged: the decoder crashed, hung, wanted more memory than it may have, or said
                what makes no sense.
            ResourcesExhausted: no process or no memory to be had.
        """
        return IsolatedImage(path, self._remote, self.max_pixels, enlargement)


class IsolatedImage:
    """One image in the child, with the face of an `ImageReader`."""

    def __init__(self, path: Path, remote: Remote, max_pixels: int, enlargement: float) -> None:
        self.path, self._remote = path, remote
        open_regular(path).close()  # refused here for what it is, not there for want of rights
        facts = self._call(ImageFacts, "open", os.fspath(path), max_pixels, enlargement)
        self.width, self.height = facts.width, facts.height
        """Of the upright image, in pixels."""
        self.frames, self.plays = facts.frames, facts.plays
        self.seconds, self.notes = list(facts.seconds), list(facts.notes)
        counts = (self.width, self.height, self.frames)
        if (
            min(counts) < 1
            or self.width * self.height * self.frames > max_pixels
            or self.plays < 0
            or len(self.seconds) != (self.frames if self.frames > 1 else 0)
            or min(self.seconds, default=0) < 0
            or not all(note.isprintable() for note in self.notes)
        ):
            raise self._nonsense(str(facts)[:200])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._remote.is_running:
            with suppress(SrganEdgeError):  # what there was to say, the rows have said
                self._call(bool, "close")

    @property
    def is_transparent(self) -> bool:
        """Anywhere, in the least; looks at the whole image."""
        return self._call(bool, "is_transparent")

    def rows(self, start: int, stop: int) -> StillImage:
        """Those from `start` to before `stop`."""
        image = self._call(StillImage, "rows", int(start), int(stop))
        shape, alpha = (stop - start, self.width), image.alpha
        if image.pixels.shape != (*shape, 3) or (
            alpha is not None and (alpha.shape != shape or alpha.dtype != image.pixels.dtype)
        ):
            raise self._nonsense(f"rows of {image.pixels.shape}")
        return image

    def seek(self, frame: int) -> None:
        """From now on `rows` are of this image of an animation, counted from 0."""
        self._call(bool, "seek", frame)

    def _call(self, kind: type[T], function: str, *arguments: Json) -> T:
        try:
            return self._remote.call(kind, function, *arguments)
        except ChildFailed as failure:
            raise InputDamaged(f"{self.path}: damaged: the decoder {failure}") from failure

    def _nonsense(self, what: str) -> InputDamaged:
        self._remote.close()
        return InputDamaged(f"{self.path}: damaged: the decoder broke its protocol ({what})")


def serve(parent: Parent, _: object) -> None:
    """The child: everything that touches the files happens here."""
    opened: list[ImageReader] = []

    def close() -> bool:
        while opened:
            opened.pop().__exit__()
        return True

    def open_still(path: str, max_pixels: int, enlargement: float) -> ImageFacts:
        close()
        opened.append(ImageReader(Path(path), max_pixels, enlargement))
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
    remote.serve(parent, functions)
