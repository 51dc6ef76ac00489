"""Decode the frames of a video in a child process that may crash, hang or be taken over.

Both ends of the conversation. The child reads the file with `VideoReader`, and the parent calls its
functions (`calls`): for each free slot of a ring of shared memory, it asks for one frame ahead.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import ClassVar, Self, Unpack

import msgspec

from srgan_edge.ahead import VIDEOS
from srgan_edge.errors import InputDamaged, SrganEdgeError
from srgan_edge.files import first_bytes
from srgan_edge.isolation.calls import Remote
from srgan_edge.isolation.calls import serve as serve_calls
from srgan_edge.isolation.child import ChildFailed, Parent, closed_on_failure, mapped
from srgan_edge.isolation.frame_ring import FrameRing, FrameSlots, Plane, Samples
from srgan_edge.isolation.wire import Duration, Json, Ticks
from srgan_edge.video.borders import borders
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import (
    FileOptions,
    Frame,
    FrameTime,
    Notes,
    VideoInfo,
)

STALL_SECONDS = 60.0
"""Time limit for decoding one frame. A 4K frame takes a slow machine one second."""

MEMORY_BYTES = min(6 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4)
"""Memory that a decoder may map. At 8K in 10 bits, it keeps 33 frames of 100 MB each."""

_MOST_BORDERS = 1000
"""Times in one answer."""

_LAYOUTS = (("uint8",), ("uint8", "uint16"))
"""Types of the arrays of a frame: `pixels`, and `deep` if the frame has it."""


@dataclass(frozen=True)
class Step:
    """The answer of a child that was asked for a frame; all None at the end."""

    frame: tuple[Ticks, Duration] | None
    """Presentation time and duration of the frame that is in the slot now."""
    planes: tuple[Plane, ...] | None
    """Arrays of the next frame, which needs other memory than there is."""
    notes: Notes | None
    """All notes up to this frame, if there are new ones."""


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

    entry: ClassVar[str] = VIDEOS
    """For `child.started_ahead`."""

    def __init__(
        self,
        path: Path,
        *,
        stall_seconds: float = STALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        **options: Unpack[FileOptions],
    ) -> None:
        self.path = path
        self._closed = False
        self._asked: deque[int] = deque()
        """Slots that frames were asked for, in order."""
        first_bytes(path)  # raises the right error here; the child could only report missing rights
        self._remote = Remote(self.entry, [path], memory_bytes, stall_seconds)
        with closed_on_failure(self.close):
            self._open(options)

    def reopen(self, **options: Unpack[FileOptions]) -> None:
        """Read the file again, with other options, in the same process: it need not start.

        Nothing of an iteration that has begun may be used any more, but its frames stay valid.

        Raises:
            SrganEdgeError: as when this was made. Close it then.
        """
        try:
            for _ in range(len(self._asked)):
                self._remote.answer(Step)
                self._asked.popleft()
        except ChildFailed as failure:
            raise self._damaged(failure) from failure
        self._open(options)

    def _open(self, options: FileOptions) -> None:
        self.notes = Notes()
        """Counts and remarks up to the frame that was yielded last."""
        self.frames = 0
        """Number of frames yielded, including the skipped ones."""
        self._last_pts: int | None = None
        self._over = 0
        """Frames that are passed over before the next one is yielded."""
        self._ring: FrameRing | None = None
        arguments = msgspec.to_builtins(options)
        try:
            self.info = self._remote.call(VideoInfo, "open", os.fspath(self.path), arguments)
            """Properties of the video stream."""
        except ChildFailed as failure:
            raise self._damaged(failure) from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the decoder. Frames that were yielded stay valid."""
        self._closed = True
        self._remote.close()
        self._ring = None

    def __iter__(self) -> Iterator[Frame]:
        return self.after(0)

    def after(self, frames: int) -> Iterator[Frame]:
        """Yield every frame after the first `frames`, which the caller already has.

        The skipped frames are decoded, but neither converted nor sent; times and counts are as if
        they had been. Nothing is decoded before this is iterated.
        """
        try:
            self._skip(frames)
            yield from self._frames()
        except ChildFailed as failure:
            if not self._closed:
                raise self._damaged(failure) from failure
        except SrganEdgeError:
            if not self._closed:
                raise

    def pass_over(self, frames: int) -> None:
        """Let the iteration that has begun go on behind the next `frames` frames.

        They are decoded, as by `after`; those that the decoder has ready are dropped.
        """
        self._over += frames

    def borders(self, length: int) -> list[int]:
        """Return what `video.borders` yields for segments of `length` frames."""
        found: list[int] = []
        while more := self._remote.call(tuple[Ticks, ...], "borders", length):
            found += more
        return found

    def _skip(self, frames: int) -> None:
        while self.frames < frames:
            skipped = self._remote.call(int, "skip", frames - self.frames)
            if skipped > frames - self.frames:
                raise self._broken(f"{skipped} frames skipped")
            self.frames += skipped
            if not skipped:
                return

    def _frames(self) -> Iterator[Frame]:
        self._ask(0)  # it has no place yet: the answer says how much memory frames need
        is_new_ring = False
        while True:
            step = self._remote.answer(Step)
            slot = self._asked.popleft()
            if step.notes is not None:
                self.notes = step.notes
            if step.frame is not None and self._over:
                self._frame(slot, *step.frame)
                self._over -= 1
            elif step.frame is not None:
                yield self._frame(slot, *step.frame)
            elif step.planes and not is_new_ring:  # endless repeats are no progress
                self._make_ring(step.planes)
            elif step.planes:
                raise self._broken("no frame for the memory")
            else:
                return
            is_new_ring = step.frame is None
            if (ring := self._ring) is not None:  # `close` removes it
                if self._over > len(self._asked):
                    if self._asked:
                        continue
                    self._skip(self.frames + self._over)
                    self._over = 0
                for free in ring.freed():
                    self._ask(free)

    def _ask(self, slot: int) -> None:
        self._remote.ask("frame", slot)
        self._asked.append(slot)

    def _frame(self, slot: int, pts: int, duration: int) -> Frame:
        is_later = self._last_pts is None or pts > self._last_pts
        if (ring := self._ring) is None or not is_later:
            raise self._broken(f"a frame at {pts}")
        pixels, *deep = ring.take(slot)
        self._last_pts = pts
        self.frames += 1
        return Frame(pixels, pts, duration, *deep)

    def _make_ring(self, planes: tuple[Plane, ...]) -> None:
        """Make memory for the next frame, which has other planes than those before it."""
        size = (self.info.height, self.info.width, 3)
        dtypes = tuple(plane.dtype for plane in planes)
        if dtypes not in _LAYOUTS or any(plane.shape != size for plane in planes):
            raise self._broken(f"frames of {len(planes)} planes")
        while self._asked:  # for slots of the memory before
            if self._remote.answer(Step) != Step(None, planes, None):
                raise self._broken("a frame without memory")
            self._asked.popleft()
        self._ring = FrameRing(planes, self._send_ring, lend=self._ring is None)

    def _send_ring(self, slots: int, descriptor: int) -> None:
        self._remote.call(bool, "memory", slots, file=descriptor)

    def _broken(self, what: str) -> ChildFailed:
        return ChildFailed(f"broke its protocol ({what})")

    def _damaged(self, failure: ChildFailed) -> InputDamaged:
        return InputDamaged(f"{self.path}: damaged: the decoder {failure} at frame {self.frames}")


def serve(parent: Parent, _: object) -> None:
    """Run in the child, where everything that touches the file happens."""
    decoding = _Decoding()
    functions: dict[str, Callable[..., object]] = {
        "open": decoding.open,
        "skip": decoding.skip,
        "frame": decoding.frame,
        "memory": decoding.memory,
        "borders": decoding.borders,
    }
    serve_calls(parent, functions)


class _Decoding:
    """One video in the child; each function but `open` needs the one before it."""

    def __init__(self) -> None:
        self._life = ExitStack()

    def open(self, path: str, options: Json) -> VideoInfo:
        self._life.close()
        self._slots: FrameSlots | None = None
        self._told = Notes()
        self._next: Frame | None = None
        self._borders: Iterator[int] | None = None
        reader = open_video(Path(path), **msgspec.convert(options, FileOptions))
        self._reader = self._life.enter_context(reader)
        self._items = iter(self._reader)
        return self._reader.info

    def skip(self, frames: int) -> int:
        """Skip frames for about a second; return how many, 0 at the end."""
        began, skipped = monotonic(), 0
        if frames and self._next is not None:
            self._next, skipped = None, 1
        scanned = self._reader.scan()
        while skipped < frames and (item := next(scanned, None)):
            skipped += isinstance(item, FrameTime)
            if skipped and monotonic() - began > 1:
                break
        return skipped

    def borders(self, length: int) -> tuple[Ticks, ...]:
        """Return the borders that are found in about a second; none at the end."""
        began = monotonic()
        if self._borders is None:
            self._borders = borders(self._reader, length)
        found: list[int] = []
        for pts in self._borders:
            found.append(pts)
            if monotonic() - began > 1 or len(found) == _MOST_BORDERS:
                break
        return tuple(found)

    def frame(self, slot: int) -> Step:
        """Put the next frame into a slot, unless it needs other memory."""
        frame = self._next = self._next or self._decoded()
        if frame is None:
            return Step(None, None, self._news())
        arrays: list[Samples] = [frame.pixels] if frame.deep is None else [frame.pixels, frame.deep]
        planes = tuple(Plane.of(array) for array in arrays)
        if self._slots is None or self._slots.planes != planes:
            self._planes = planes
            return Step(None, planes, None)
        self._slots.put(slot, arrays)
        self._next = None
        return Step((frame.pts, frame.duration), None, self._news())

    def memory(self, descriptor: int, slots: int) -> bool:
        """Take memory for frames of the planes that were named last."""
        self._slots = FrameSlots(mapped(descriptor), self._planes, slots)
        return True

    def _decoded(self) -> Frame | None:
        return next((item for item in self._items if isinstance(item, Frame)), None)

    def _news(self) -> Notes | None:
        if self._reader.notes == self._told:
            return None
        self._told = deepcopy(self._reader.notes)
        return self._told
