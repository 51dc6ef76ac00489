"""The processes that will read the first file of a command.

They take as long to import their libraries as the command does, so they start first: nothing here
imports more than the standard library.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

from srgan_edge.isolation.child import started_ahead
from srgan_edge.suffixes import VIDEO_SUFFIXES, suffix_by_content

_Kind: TypeAlias = Literal["image", "video"]

IMAGES = "srgan_edge.isolation.images:serve"
VIDEOS = "srgan_edge.isolation.videos:serve"
JOINER = "srgan_edge.transcode.join:serve"
"""Entries of the children, as `started_ahead` takes them."""

READERS = {"image": IMAGES, "video": VIDEOS}
"""Those that read a kind of file."""


def children_of(kind: _Kind, *, looks: bool) -> list[str]:
    """Return the entries of the children that a file needs.

    Args:
        looks: a model is chosen for the file, for which a video is opened once more.
    """
    if kind == "image":
        return [IMAGES]
    return [VIDEOS, VIDEOS, JOINER] if looks else [VIDEOS, JOINER]


def readers_started(inputs: Sequence[str], *, looks: bool) -> AbstractContextManager[None]:
    """Start the children that the first input needs, if it is a file.

    Its name or first bytes say which. Whether it is upscaled at all is found out later; children
    that nobody needs end with the body.
    """
    first = Path(inputs[0])
    if not first.is_file():
        return started_ahead([])
    suffix: str | None = first.suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        with suppress(OSError):  # a file that cannot be read is refused later
            suffix = suffix_by_content(first)
    kind: _Kind = "video" if suffix in VIDEO_SUFFIXES else "image"
    return started_ahead(children_of(kind, looks=looks))
