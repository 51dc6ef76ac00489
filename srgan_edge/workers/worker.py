"""A worker: one engine, which makes the images and segments of videos that it is asked for."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from srgan_edge import __version__
from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import (
    EngineLost,
    InputDamaged,
    InputRefused,
    ResourcesExhausted,
    SrganEdgeError,
)
from srgan_edge.files import content_sha256, output_failed, sha256_of
from srgan_edge.isolation.child import ChildFailed, started_ahead
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Heard
from srgan_edge.run import Opened, open_upscaler, upscale_image
from srgan_edge.transcode.fanout import MadeSegment, Order, Task, frame_sha256, tiles_of
from srgan_edge.transcode.recipe import Recipe
from srgan_edge.transcode.segments import WrittenSegment
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.frame import FileOptions, Frame, Notes, VideoInfo, library_versions
from srgan_edge.workers.answers import answer_of
from srgan_edge.workers.images import Chunk, ImageOrder, MadeChunk, MadeImage

MOST_PASSED_OVER = 150
"""Frames that are decoded for nothing before a file is opened anew at a keyframe instead."""

_DECISIVE = ("model", "tile", "overlap_px", "batch", "slots", "color_lock", "letters", "grain")
"""Values of `Opened.made_by` that count; its engine does too, without the number of a device."""

_TRIAL_SIDE_PX = 48

_LARGE_SIDE_PX = 4096
"""Side of an image that is cut into smaller tiles once memory does not suffice."""


@dataclass(frozen=True)
class Start:
    """The request to open a worker."""

    name: str
    """Its name, for people."""
    options: Options
    slots: int
    """Frames that are upscaled at once."""
    readers: tuple[str, ...] = ()
    """Entries of the children that will read its files, which start while the engine is opened."""


class Worker:
    """An open engine and an open video. Use it in a `with`, in a thread that lives as long.

    Raises:
        SrganEdgeError: there is no such model, engine or device.
    """

    def __init__(self, start: Start) -> None:
        self._said: list[str] = []
        self._life = ExitStack()
        options = replace(start.options, steady=0.0)
        self._life.enter_context(started_ahead(start.readers))
        self._opened = self._life.enter_context(
            open_upscaler(options, self._said.append, start.slots)
        )
        self._name, self._reading = start.name, _Reading()
        self._life.callback(self._reading.close)
        self._images = self._life.enter_context(ImageProcess(options.max_pixels))
        self._way_at_first = self._way()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._life.close()

    def facts(self) -> dict[str, Any]:
        """Return what the bytes of a segment depend on; see `facts_of`."""
        return facts_of(self._opened)

    def make(self, task: Task) -> MadeSegment:
        """Make one segment, in the file that the task names.

        Raises:
            InputRefused: the input is not here, or another one is.
            EngineLost: the engine is not what it was, so that this worker has to end.
            SrganEdgeError: as upscaling does.
        """
        try:
            return self._made(task)
        except OSError as error:
            self._reading.close()
            raise output_failed(Path(task.file), error) from error
        except BaseException:
            self._reading.close()
            raise

    def make_images(self, chunk: Chunk) -> MadeChunk:
        """Make the images of a chunk; an error of one stops no other."""
        options = chunk.options
        answers = [answer_of(lambda: self.make_image(it, options)) for it in chunk.images]  # noqa: B023
        return MadeChunk([answer.decode() for answer in answers])

    def make_image(self, order: ImageOrder, options: Options) -> MadeImage:
        """Make one image, in the file that the order names.

        Raises:
            InputRefused: the input is not here, or another one is.
            EngineLost: the engine is not what it was, so that this worker has to end.
            SrganEdgeError: as upscaling does.
        """
        began, upscaler, heard = time.monotonic(), self._opened.upscaler, Heard()
        source, file = Path(order.source), Path(order.file)
        _refuse_other_input(source, order.content_sha256)
        job, redone_before = Job(source, Path(order.target), "image"), upscaler.tiles_redone
        try:
            image = upscale_image(job, upscaler, self._images, options, heard, file)
            sha256 = sha256_of(file)
        except OSError as error:
            raise output_failed(job.target, error) from error
        if self._way() != self._way_at_first:
            raise EngineLost(f"{self._name}: {self._said[-1] if self._said else 'it changed'}")
        return MadeImage(
            *image.source_size,
            frames=image.frames,
            size="{}x{}".format(*image.size),
            tiles=tiles_of(upscaler, *image.source_size),
            tiles_redone=upscaler.tiles_redone - redone_before,
            sha256=sha256,
            notes=heard.notes,
            seconds=time.monotonic() - began,
        )

    def _way(self) -> tuple[EngineInfo, str]:
        """Return what changes with an engine that is lost or short of memory."""
        upscaler = self._opened.upscaler
        return upscaler.info, tiles_of(upscaler, _LARGE_SIDE_PX, _LARGE_SIDE_PX)

    def _made(self, task: Task) -> MadeSegment:
        began, upscaler, order = time.monotonic(), self._opened.upscaler, task.order
        info = upscaler.info
        first = task.number * order.length
        frames = self._reading.frames(task, first)
        with Recipe(self._reading.info, upscaler, order.options, order.length) as recipe:
            self._refuse_other_tiles(order)
            done: list[WrittenSegment] = []
            damaged = recipe.make(frames, task.number, lambda _: Path(task.file), done.append)
            saved = recipe.saved
        if upscaler.info != info or self._tiles() != order.tiles:
            raise EngineLost(f"{self._name}: {self._said[-1] if self._said else 'it changed'}")
        segment = done[0] if done else WrittenSegment(task.number, Path(task.file), [], [], 0)
        error = damaged or self._reading.error
        said, self._said[:] = list(self._said), []
        return MadeSegment(
            number=task.number,
            pts=segment.pts,
            durations=segment.durations,
            reorder=segment.reorder,
            sha256=sha256_of(segment.path) if done else "",
            first_sha256=self._reading.first_sha256,
            next_sha256=self._reading.next_sha256,
            ended=self._reading.ended,
            inexact=self._reading.doubt(task, segment.pts) if task.seeks else "",
            damaged="" if error is None else str(error),
            decoder_ended=error is not None and isinstance(error.__cause__, ChildFailed),
            notes=self._reading.notes,
            saved=saved,
            seconds=time.monotonic() - began,
            said=said,
        )

    def _tiles(self) -> str:
        return tiles_of(self._opened.upscaler, self._reading.info.width, self._reading.info.height)

    def _refuse_other_tiles(self, order: Order) -> None:
        if (tiles := self._tiles()) != order.tiles:
            raise ResourcesExhausted(
                f"{self._name} cuts frames into {tiles} instead of {order.tiles}, for its memory; "
                "type --tile 256, or less, for all"
            )


def facts_of(opened: Opened) -> dict[str, Any]:
    """Return what the bytes of a segment depend on besides its frames, as JSON values.

    Devices of one kind count as one; that they compute alike shows by a trial.
    """
    ours = {name: opened.made_by.get(name) for name in _DECISIVE}
    device = opened.upscaler.info.device.partition(":")[0]
    return ours | {
        "engine": {**opened.made_by["engine"], "device": device},
        "encoder_threads": len(os.sched_getaffinity(0)),
        "versions": {"srgan-edge": __version__, **library_versions()},
        "trial": _trial(opened.upscaler),
    }


def _trial(upscaler: FrameUpscaler) -> str:
    """Return a hash of what the engine makes of an image of noise."""
    noise = np.random.default_rng(1).integers(0, 256, (_TRIAL_SIDE_PX, _TRIAL_SIDE_PX, 3), np.uint8)
    digest = frame_sha256(Frame(upscaler.upscale(noise), 0, 0))
    return digest[:16]


class _Reading:
    """One open input, which stays open from one segment to the next if that is near."""

    def __init__(self) -> None:
        self._reader: IsolatedReader | None = None
        self._order: Order | None = None
        self._sought = False
        self._next = 0
        """Number of the next frame of `_frames`, or of `_ahead`."""
        self._frames: Iterator[Frame] = iter(())
        self._ahead: Frame | None = None
        self.error: InputDamaged | None = None
        """The error that ended the input behind the segment."""
        self.ended = False
        self.first_sha256 = self.next_sha256 = ""

    def frames(self, task: Task, first: int) -> Iterator[Frame]:
        """Return the frames of a segment, the first of which has a number in the video."""
        if not self._can_go_on(task, first):
            self._open(task, first)
        return self._segment(first, task.order.length)

    @property
    def info(self) -> VideoInfo:
        assert self._reader is not None
        return self._reader.info

    @property
    def notes(self) -> Notes:
        assert self._reader is not None
        return self._reader.notes

    def doubt(self, task: Task, pts: list[int]) -> str:
        """Return why frames may not be those that a reader from the start yields; empty: they are.

        Args:
            pts: times of the frames in ticks.
        """
        notes = self.notes
        if self.error is not None or notes.damage:
            return "it is damaged"
        if notes.untimed or notes.nudged or notes.concealed:
            return "times of frames are missing or repeated"
        after = None if self._ahead is None else self._ahead.pts
        if pts[:1] != [task.first_pts] or after != task.next_pts:
            return f"segment {task.number} has other frames than its packets state"
        return ""

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._order = self._ahead = None

    def _can_go_on(self, task: Task, first: int) -> bool:
        if self._reader is None or task.order != self._order or first < self._next:
            return False
        if not task.seeks:
            return not self._sought
        return first - self._next <= MOST_PASSED_OVER

    def _open(self, task: Task, first: int) -> None:
        order, path = task.order, Path(task.order.source)
        if order != self._order:
            self.close()
        _refuse_other_input(path, order.content_sha256)
        reading: FileOptions = {**order.options.reading_file}
        self._sought = task.seeks and task.first_pts is not None and first > 0
        if self._sought and task.first_pts is not None:
            reading["from_pts"] = task.first_pts
        if self._reader is not None:
            try:
                self._reader.reopen(**reading)
            except SrganEdgeError:  # as where the file was moved, which its process may not see
                self.close()
        if self._reader is None:
            self._reader = IsolatedReader(path, **reading)
        self._order, self.error, self.ended, self._ahead = order, None, False, None
        self._frames = self._reader.after(0 if self._sought else first)
        self._next = first

    def _segment(self, first: int, length: int) -> Iterator[Frame]:
        self.first_sha256 = self.next_sha256 = ""
        if self._next < first and self._ahead is not None:
            self._take()
        if self._next < first and self._reader is not None:
            self._reader.pass_over(first - self._next)
            self._next = first
        for number in range(length):
            if (frame := self._take()) is None:
                if self.error is not None:
                    raise self.error
                return
            if number == 0:
                self.first_sha256 = frame_sha256(frame)
            yield frame
        self._ahead = self._take()
        if self._ahead is not None:
            self._next -= 1
            self.next_sha256 = frame_sha256(self._ahead)

    def _take(self) -> Frame | None:
        """Return the next frame; None at the end of the input, whatever ended it."""
        frame, self._ahead = self._ahead, None
        if frame is None and not self.ended:
            try:
                frame = next(self._frames, None)
            except InputDamaged as error:
                self.error = error
        if frame is None:
            self.ended = True
        else:
            self._next += 1
        return frame


def _refuse_other_input(path: Path, content: str) -> None:
    try:
        if content_sha256(path) == content:
            return
    except OSError as error:
        raise InputRefused(f"{path}: {error.strerror}, for a worker") from error
    raise InputRefused(f"{path} was changed, or is another file for a worker")
