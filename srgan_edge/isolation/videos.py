"""Decode the frames of a video in a child process that may crash, hang or be taken over.

Both ends of the conversation. The child reads the file with `VideoReader`. Pixels come through a
ring of shared memory, everything else as messages, all of which are checked.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from time import monotonic
from typing import Any, Self, Unpack

from srgan_edge.errors import InputDamaged, SrganEdgeError, UsageError
from srgan_edge.files import first_bytes
from srgan_edge.isolation.child import Child, ChildFailed, Parent, closed_on_failure
from srgan_edge.isolation.frame_ring import FrameRing, FrameSlots, Plane, Samples
from srgan_edge.isolation.wire import Duration, Heap, Ticks, pack, unpack
from srgan_edge.video.frame import (
    Frame,
    FrameTime,
    Notes,
    ReaderOptions,
    VideoInfo,
)
from srgan_edge.video.reader import VideoReader

STALL_SECONDS = 60.0
"""Time limit for decoding one frame. A 4K frame takes a slow machine one second."""

MEMORY_BYTES = min(6 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4)
"""Memory that a decoder may map. At 8K in 10 bits, it keeps 33 frames of 100 MB each."""

_LAYOUTS = (("uint8",), ("uint8", "uint16"))
"""Types of the arrays of a frame: `pixels`, and `deep` if the frame has it."""

_BROKEN = (ChildFailed, ValueError, UsageError)
"""Errors that mean that the child failed or sent an invalid message."""


class IsolatedReader:
    """Reads one video, once, from start to end, as `VideoReader` does, but in another process.

    Iterating yields every `Frame` in order, and no `CopiedPacket`. Pixels are in shared memory,
    which the decoder does not reuse as long as any array refers to it. If the caller holds on to
    many frames, later ones are copied. The decoder is at most `MOST_SLOTS` frames ahead.

    Args:
        path: the video.
        stall_seconds: the longest a frame may take before decoding counts as hung. Time that the
            caller spends between frames does not count.
        memory_bytes: how much memory the decoder may map.
        options: as for `VideoReader`.

    Create it in the main thread, or in one that lives as long: the child dies with that thread.
    `close` may be called from any thread and takes a moment; an iteration in another thread then
    ends without an error.

    Raises:
        InputRefused, InputDamaged: as `VideoReader`, with the same message.
        InputDamaged: the decoder crashed, hung, ran out of memory or sent an impossible message.
            The error names the frame; the frames before it were yielded and stay valid.
        ResourcesExhausted: the process cannot be started, or memory is exhausted.
    """

    _entry = "srgan_edge.isolation.videos:serve"

    def __init__(
        self,
        path: Path,
        *,
        stall_seconds: float = STALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        **options: Unpack[ReaderOptions],
    ) -> None:
        self.path = path
        self.notes = Notes()
        """Counts and remarks up to the frame that was yielded last."""
        self.frames = 0
        """Number of frames yielded, including the skipped ones."""
        self._stall_seconds = stall_seconds
        self._last_pts: int | None = None
        self._closed = False
        self._ring: FrameRing | None = None
        self._news: set[str] = set()
        """Kinds of messages received since the last frame; each may come once."""
        first_bytes(path)  # raises the right error here; the child could only report missing rights
        request = {"path": os.fspath(path), "options": options}
        self._child = Child(self._entry, request, memory_bytes, [path])
        with closed_on_failure(self.close):
            try:
                self.info = unpack(VideoInfo, self._receive("info")["info"])
                """Properties of the video stream."""
            except _BROKEN as problem:
                raise self._damaged(problem) from problem

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the decoder. Frames that were yielded stay valid."""
        self._closed = True
        self._child.close()
        self._ring = None

    def __iter__(self) -> Iterator[Frame]:
        return self.after(0)

    def after(self, frames: int) -> Iterator[Frame]:
        """Yield every frame after the first `frames`, which the caller already has.

        The skipped frames are decoded, but neither converted nor sent; times and counts are as if
        they had been. Nothing is decoded before this is iterated.
        """
        self._child.send({"skip": frames})
        kinds = ("frame", "notes", "layout", "skipped", "end")
        try:
            while "end" not in (message := self._receive(*kinds)):
                if "frame" in message:
                    yield self._frame(message["frame"])
                elif "skipped" in message:
                    self._note_skipped(message["skipped"], frames)
                elif "layout" in message:
                    self._make_ring(message["layout"])
                else:
                    self.notes = unpack(Notes, message["notes"])
        except _BROKEN as problem:
            if not self._closed:
                raise self._damaged(problem) from problem
        except SrganEdgeError:
            if not self._closed:
                raise

    def _receive(self, *kinds: str) -> dict[str, Any]:
        if (ring := self._ring) is not None:  # `close` removes it
            for slot in ring.freed():
                self._child.send({"free": slot})
        message = self._child.receive(self._stall_seconds)
        kind = "".join(message) if len(message) == 1 else ""
        if kind not in kinds or kind in self._news:  # endless repeats do not count as progress
            raise ValueError(f"expected {' or '.join(kinds)}")
        self._news = set() if kind in ("frame", "skipped") else self._news | {kind}
        return message

    def _make_ring(self, record: Any) -> None:  # noqa: ANN401 - as the child sent it
        planes = unpack(tuple[Plane, ...], record)
        size = (self.info.height, self.info.width, 3)
        dtypes = tuple(plane.dtype for plane in planes)
        if dtypes not in _LAYOUTS or any(plane.shape != size for plane in planes):
            raise ValueError(f"frames of {planes}")
        self._ring = FrameRing(planes, self._send_ring, lend=self._ring is None)

    def _send_ring(self, slots: int, descriptor: int) -> None:
        self._child.send({"slots": slots}, descriptor)

    def _note_skipped(self, record: Any, wanted: int) -> None:  # noqa: ANN401
        skipped = unpack(int, record)
        if not self.frames < skipped <= wanted:  # must advance, and must end
            raise ValueError(f"{skipped} frames skipped after {self.frames}")
        self.frames = skipped

    def _frame(self, record: Any) -> Frame:  # noqa: ANN401
        slot, pts, duration = unpack(tuple[int, Ticks, Duration], record)
        is_later = self._last_pts is None or pts > self._last_pts
        if self._ring is None or not is_later:
            raise ValueError(f"a frame at {pts} for {duration}")
        pixels, *deep = self._ring.take(slot)
        self._last_pts = pts
        self.frames += 1
        return Frame(pixels, pts, duration, *deep)

    def _damaged(self, problem: Exception) -> InputDamaged:
        what = problem if isinstance(problem, ChildFailed) else f"broke its protocol ({problem})"
        return InputDamaged(f"{self.path}: damaged: the decoder {what} at frame {self.frames}")


def serve(parent: Parent, request: dict[str, Any]) -> None:
    """Run in the child, where everything that touches the file happens."""
    with VideoReader(Path(request["path"]), **request["options"]) as reader:
        parent.send({"info": pack(reader.info, Heap())})
        _skip(reader, parent.receive()["skip"], parent)
        notes, slots = Notes(), None
        arrays: list[Samples]
        for frame in reader:
            if not isinstance(frame, Frame):
                continue
            notes = _say_what_is_new(notes, reader, parent)
            arrays = [frame.pixels] if frame.deep is None else [frame.pixels, frame.deep]
            planes = tuple(Plane.of(array) for array in arrays)
            if slots is None or slots.planes != planes:
                slots = _slots_for(planes, parent)
            parent.send({"frame": [slots.put(arrays), frame.pts, frame.duration]})
        _say_what_is_new(notes, reader, parent)
    parent.send({"end": None})


def _say_what_is_new(before: Notes, reader: VideoReader, parent: Parent) -> Notes:
    if reader.notes == before:
        return before
    parent.send({"notes": pack(reader.notes, Heap())})
    return deepcopy(reader.notes)


def _skip(reader: VideoReader, frames: int, parent: Parent) -> None:
    """Skip the first frames, and report progress once a second."""
    reported, skipped = monotonic(), 0
    scanned = reader.scan()
    while skipped < frames and (item := next(scanned, None)):
        if isinstance(item, FrameTime):
            skipped += 1
            if skipped == frames or monotonic() - reported > 1:
                parent.send({"skipped": skipped})
                reported = monotonic()


def _slots_for(planes: tuple[Plane, ...], parent: Parent) -> FrameSlots:
    """Ask the parent for memory for frames of these planes."""
    parent.send({"layout": pack(planes, Heap())})
    message, memory = parent.receive_with_memory()
    while memory is None:  # slots of the previous memory that were freed in the meantime
        message, memory = parent.receive_with_memory()
    return FrameSlots(memory, planes, message["slots"], lambda: int(parent.receive()["free"]))
