"""Upscale a video file so that no finished work is lost and no unfinished result is visible.

Frames are encoded into segments, which survive any crash of the process. Once all are complete,
they are joined with the audio and subtitles of the input. The result is compared with the input,
and only then moved to its final name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from srgan_edge.engines.base import NotFinite
from srgan_edge.errors import (
    EngineLost,
    InputDamaged,
    InputRefused,
    Interrupted,
    OutOfMemory,
    OutputFailed,
    ResourcesExhausted,
    ResultAppeared,
)
from srgan_edge.files import (
    content_sha256,
    free_partial_result,
    kept_once,
    output_failed,
    replace_when_whole,
)
from srgan_edge.isolation.child import ChildKilled
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import (
    Reporter,
    VideoDamaged,
    VideoResult,
    remarks_after,
    remarks_on,
    shared_by,
)
from srgan_edge.signals import ends_within
from srgan_edge.steady import strength_of
from srgan_edge.transcode.fanout import Crew, Fanout, Order, tiles_of
from srgan_edge.transcode.join import Joined, Joiner
from srgan_edge.transcode.on_gpu import NotOnGpu
from srgan_edge.transcode.outage import Place, were_away
from srgan_edge.transcode.recipe import GpuRecipe, Made, Recipe, SteadyRecipe
from srgan_edge.transcode.rehearsal import Rehearsal
from srgan_edge.transcode.segments import WrittenSegment
from srgan_edge.transcode.work_folder import (
    WorkFolder,
    job_identity,
    open_work_folder,
)
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.borders import borders
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Frame, VideoInfo
from srgan_edge.video.nvidia import Nvdec, NvdecFailed
from srgan_edge.video.opening import file_identity
from srgan_edge.video.reader import VideoReader

STOP_SECONDS = 1.5
"""Time to stop after Ctrl-C. A forced exit loses no more than a clean one: segments survive it."""

_Way = Literal["gpu", "nvdec", "cpu"]
"""Frames stay on the GPU, or NVDEC decodes them into host memory, or the CPU decodes them."""


def upscale_video_file(
    job: Job,
    upscaler: FrameUpscaler,
    options: Options,
    made_by: Mapping[str, Any],
    reporter: Reporter,
    *,
    crew: Callable[[], Crew] | None = None,
    exits_on_signal: bool = True,  # a library leaves signals to its caller
) -> VideoResult:
    """Upscale the video of a job, starting where an earlier run stopped, and publish the result.

    Args:
        made_by: everything besides the input that determines the pixels, as JSON values. An earlier
            run with other values is refused.
        crew: starts the workers that make the segments, where `upscaler` shall not do it alone.

    Raises:
        InputRefused: the input is not a video, or contains something that would be lost.
        VideoDamaged: the input ends early or is broken. What could be decoded is saved; the error
            names the file. If damage was concealed as `options` ask, this is the whole result under
            its final name.
        InputDamaged: nothing in the input could be decoded.
        OutputFailed: the disk failed, or the result differs from the input; finished segments stay.
        UsageError: the encoder or the container does not support the options, or an earlier run was
            for another job.
        Interrupted: a signal was received; finished segments stay.
    """
    with ends_within(STOP_SECONDS) if exits_on_signal else nullcontext():
        nvdec = options.decode == "gpu"
        if nvdec and options.excerpt is not None:
            reporter.note(f"{job.source.name}: an excerpt is decoded on the CPU")
            nvdec = False
        if nvdec and upscaler.gpu_engine is not None:
            on_gpu = {**made_by, "colors": "on the GPU"}
            try:
                return _upscale_video(job, upscaler, options, on_gpu, reporter, "gpu")
            except NotOnGpu as reason:
                reporter.note(f"{job.source.name}: its frames go through host memory: {reason}")
            except (NvdecFailed, OutOfMemory, EngineLost, NotFinite) as trouble:
                line = "continuing through host memory, with slightly different colors"
                reporter.note(f"{job.source.name}: {trouble}; {line}")
                made_by = on_gpu  # to keep the finished segments
                nvdec = not isinstance(trouble, (NvdecFailed, EngineLost))
        if nvdec:
            try:
                return _upscale_video(job, upscaler, options, made_by, reporter, "nvdec")
            except NvdecFailed as failure:
                reporter.note(f"{job.source.name}: {failure}; decoding it on the CPU instead")
        if crew is not None and strength_of(options.steady):
            reporter.note(
                f"{job.source.name}: its detail is kept from frame to frame, so one engine makes "
                "all of it; with --steady off all do"
            )
            crew = None
        return _upscale_video(job, upscaler, options, made_by, reporter, "cpu", crew)


def _upscale_video(
    job: Job,
    upscaler: FrameUpscaler,
    options: Options,
    made_by: Mapping[str, Any],
    reporter: Reporter,
    way: _Way,
    crew: Callable[[], Crew] | None = None,
) -> VideoResult:
    name = job.source.name
    with (
        _open(job.source, options, way) as reader,
        _recipe(reader.info, upscaler, options, way) as recipe,
        _resumable(
            job.target,
            job_identity(job.source, recipe.size, recipe.length, options, made_by),
            restart=options.restart,
        ) as work,
        Joiner(
            *(job.source, work.path, recipe.size),
            *(options.encoding, options.audio, options.excerpt),
        ) as joiner,
    ):
        source, places = _Source(job.source), _places(job.source, work)
        if (finished := _finished(work)) is not None:
            reporter.note(f"{name}: an earlier run had finished {job.target}")
            return finished
        known = _rehearsed(work, joiner, job.target, options)
        for remark in _remarks_before(reader.info, options, known, work):
            reporter.note(f"{name}: {remark}")
        resumed = work.frames
        reporter.started(job, reader.info.frames_expected, resumed)
        if crew is None:
            made = _in_one_pass(reader, recipe, work, reporter)
        else:
            made = _by_crew(crew, job, upscaler, options, reader, recipe, work, places, reporter)
        if made.damaged and not work.segments:
            raise made.damaged
        saved_as = job.target
        if made.damaged:
            saved_as = free_partial_result(job.target, overwrite=options.overwrite)

        def published() -> tuple[Joined, VideoResult, str | None]:
            source.refuse_changed()
            with replace_when_whole(
                saved_as, partial=joiner.file_for(saved_as), overwrite=options.overwrite
            ) as whole:
                joined = joiner.join(saved_as, damaged=made.damaged is not None)
                if joined.frames != work.frames:  # a finished segment has changed since
                    raise OutputFailed(
                        f"{work.path} has only {joined.frames} of {work.frames} frames left"
                    )
                source.refuse_changed()
                result = _result(saved_as, recipe.size, resumed, made, joined, known)
                problem = _problem(job, result, made)
                if not made.decoder_ended:
                    outcome = {"result": asdict(result), "problem": problem}
                    work.finish(whole, saved_as.name, outcome)
            return joined, result, problem

        while True:
            try:
                joined, result, problem = published()
                break
            except (OSError, InputRefused, InputDamaged, OutputFailed):
                if not were_away(places, lambda line: reporter.note(f"{name}: {line}")):
                    raise
                joiner.start_anew()
        for remark in _remarks_after(reader.info, options, made, joined):
            reporter.note(f"{name}: {remark}")
        if not made.decoder_ended:
            work.discard()
        elif work.frames % recipe.length:
            # Not the video ended but the decoder, perhaps for lack of memory. The next run may
            # succeed, and has to produce the bytes of a run in which it never crashed.
            work.forget_last()
    if made.damaged and (kept := kept_once(saved_as, job.target)) != saved_as:
        result = replace(result, saved_as=str(kept))
        problem = _problem(job, result, made)
    if problem:
        raise VideoDamaged(problem, result) from made.damaged
    return result


def _in_one_pass(
    reader: IsolatedReader | VideoReader, recipe: Recipe, work: WorkFolder, reporter: Reporter
) -> Made:
    """Make the segments that are missing in this process."""
    recipe.begin(work.segments, work.state() if work.segments else b"")

    def enter(done: WrittenSegment) -> None:
        is_full = len(done.pts) == recipe.length
        state = recipe.state_after(done.number) if is_full else b""
        work.add(done.pts, done.durations, done.reorder, state)

    items: Iterable[Frame | CodedFrame | CopiedPacket] = reader.after(work.frames)
    if isinstance(recipe, GpuRecipe):
        assert isinstance(reader, VideoReader)
        items = reader.images_after(work.frames)
    damaged = recipe.make(
        *(items, work.segments, work.segment_path, enter, reporter.frame_done),
        reader.close if isinstance(reader, IsolatedReader) else lambda: None,
    )
    return Made(damaged, reader.notes, recipe.saved)


def _by_crew(
    crew: Callable[[], Crew],
    job: Job,
    upscaler: FrameUpscaler,
    options: Options,
    reader: IsolatedReader | VideoReader,
    recipe: Recipe,
    work: WorkFolder,
    places: Sequence[Place],
    reporter: Reporter,
) -> Made:
    """Let workers make the segments that are missing."""
    info, source = reader.info, job.source
    if isinstance(reader, IsolatedReader):
        begins = reader.borders(recipe.length)
    else:
        begins = list(borders(reader, recipe.length))
    reader.close()
    if not begins:
        reporter.note(
            f"{source.name}: has no index of keyframes; each worker reads it from its start"
        )
    order = Order(
        source=str(source.absolute()),
        content_sha256=content_sha256(source),
        options=options,
        length=recipe.length,
        tiles=tiles_of(upscaler, info.width, info.height),
    )
    made = Fanout(
        *(crew(), order, begins, info.frames_expected, work, places),
        reporter.frame_done,
        lambda line: reporter.note(f"{source.name}: {line}"),
        on_speeds=reporter.workers_at,
    ).run()
    if made.damaged is None:
        return made
    as_typed = InputDamaged(str(made.damaged).replace(order.source, str(source)))
    as_typed.__cause__ = made.damaged.__cause__
    return replace(made, damaged=as_typed)


def _result(
    saved_as: Path,
    size: tuple[int, int],
    resumed: int,
    made: Made,
    joined: Joined,
    known: Rehearsal,
) -> VideoResult:
    notes, saved = made.notes, made.saved
    return VideoResult(
        saved_as=str(saved_as),
        frames=joined.frames,
        size=size,
        frames_resumed=resumed,
        frames_untimed=notes.untimed,
        frames_nudged=notes.nudged,
        packets_copied=joined.packets,
        packets_nudged=joined.nudged,
        packets_refused=joined.refused,
        frames_concealed=notes.concealed,
        left_out=list(known.left_out),
        frames_reused=saved.frames_reused,
        frames_repeated=saved.frames_repeated,
        tiles=saved.tiles,
        tiles_reused=saved.tiles_reused,
        workers=list(made.shares),
    )


def _rehearsed(work: WorkFolder, joiner: Joiner, target: Path, options: Options) -> Rehearsal:
    """Rehearse the result, unless an earlier run did that before its first segment."""
    record = work.rehearsal_outcome() if work.segments else {}
    if record.get("audio") == options.audio:
        with suppress(msgspec.ValidationError):
            return msgspec.convert(record.get("outcome"), Rehearsal)
    rehearsal = joiner.rehearse(target)
    work.remember_rehearsal({"audio": options.audio, "outcome": asdict(rehearsal)})
    return rehearsal


def _finished(work: WorkFolder) -> VideoResult | None:
    """Return the result of a run that died after it was published; None if there is none.

    Raises:
        VideoDamaged: there is one, of an input that is damaged.
    """
    outcome = work.finished_outcome() or {}
    try:
        result = msgspec.convert(outcome.get("result"), VideoResult)
    except msgspec.ValidationError:
        return None
    work.discard()
    if outcome.get("problem"):
        raise VideoDamaged(str(outcome["problem"]), result)
    return result


def _problem(job: Job, result: VideoResult, made: Made) -> str | None:
    """Return the line of an error that is raised though there is a result; None if it is whole."""
    notes = made.notes
    if made.damaged:
        return f"{made.damaged}; what could be decoded is in {result.saved_as}"
    if notes.damage:  # all of it made up for, or it would have been raised
        return (
            f"{job.source}: damaged: {notes.damage}; {notes.concealed} of {result.frames} "
            f"frames show another one; all are in {result.saved_as}"
        )
    if result.packets_refused:
        return (
            f"{job.source}: damaged: {result.packets_refused} packets of audio or subtitles cannot "
            f"be copied; everything else is in {result.saved_as}"
        )
    return None


def _places(source: Path, work: WorkFolder) -> list[Place]:
    """Return the folders that may go away for a while: of the result, of the input."""
    folder = source.absolute().parent
    if folder == work.path.parent.absolute():
        return [work.place]
    return [work.place, Place(folder, source)]


class _Source:
    """The input as it was when the work began. It is read twice: for its frames, for the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._found()

    def refuse_changed(self) -> None:
        """Raise `InputDamaged` if the file was written, replaced or removed since."""
        if self._found() == self._identity:
            return
        raise InputDamaged(
            f"{self._path} was changed or removed during the work; put it back, or add --restart "
            "to upscale what is there now"
        )

    def _found(self) -> tuple[int | str, ...]:
        """Return size, time and content; numbers of file systems change when they come back."""
        _, _, *found = file_identity(self._path) or (0, 0)
        return tuple(found)


def _open(source: Path, options: Options, way: _Way) -> IsolatedReader | VideoReader:
    """Open a reader in a child process, unless it needs the GPU, which a child cannot access."""
    if way == "cpu":
        return IsolatedReader(source, **options.reading_file)
    if way == "nvdec":
        return open_video(source, nvdec=Nvdec(), **options.reading_file)
    try:
        return open_video(source, nvdec=Nvdec(stays=True), **options.reading_file)
    except NvdecFailed as error:
        raise NotOnGpu(str(error)) from error


def _recipe(info: VideoInfo, upscaler: FrameUpscaler, options: Options, way: _Way) -> Recipe:
    if way == "gpu":
        return GpuRecipe(info, upscaler, options)
    kind = SteadyRecipe if strength_of(options.steady) else Recipe
    return kind(info, upscaler, options)


@contextmanager
def _resumable(target: Path, identity: Mapping[str, Any], *, restart: bool) -> Iterator[WorkFolder]:
    """Open the work folder; errors and signals then name the frames that are kept in it."""
    try:
        with open_work_folder(target, identity, restart=restart) as work:
            try:
                yield work
            except Interrupted as stopped:
                if not work.segments:
                    raise
                if work.is_lost:
                    raise Interrupted(stopped.signum, f"{work.path} was removed") from None
                raise Interrupted(stopped.signum, _kept(work)) from None
            except ChildKilled as killed:
                if not work.segments:
                    raise
                raise ResourcesExhausted(f"{killed}; {_kept(work)}") from killed
            except ResultAppeared as appeared:
                line = f"{appeared}; {work.frames} frames are kept in {work.path}"
                raise ResultAppeared(line) from None
            except (OSError, OutputFailed) as error:
                if work.is_lost:
                    raise OutputFailed(
                        f"{work.path} was removed during the work, and the finished frames with "
                        "it; the same command starts over"
                    ) from error
                if not work.segments:
                    raise
                failed = output_failed(target, error) if isinstance(error, OSError) else error
                raise OutputFailed(f"{failed}; {_kept(work)}") from error
    except OSError as error:
        raise output_failed(target, error) from error


def _kept(work: WorkFolder) -> str:
    """Return where the finished frames are, and what to type."""
    if work.place.is_away:
        return (
            f"{work.frames} frames were in {work.path}, and its folder is gone; if it comes back, "
            "the same command goes on from there"
        )
    return f"{work.frames} frames are kept in {work.path}; the same command goes on from there"


def _remarks_before(
    info: VideoInfo, options: Options, known: Rehearsal, work: WorkFolder
) -> Iterator[str]:
    """Yield remarks on what was lost or assumed that are known before the first frame."""
    if work.damaged:
        yield f"{work.damaged}; resuming before it"
    if work.frames:
        yield f"resuming after {work.frames} frames in {work.path}"
    yield from (f"left out: {lost}" for lost in known.left_out)
    yield from known.remarks
    yield from remarks_on(info, options)


def _remarks_after(info: VideoInfo, options: Options, made: Made, joined: Joined) -> Iterator[str]:
    """Yield remarks that the whole video reveals."""
    if made.shares:
        yield shared_by(made.shares)
    if repeated := made.saved.frames_repeated:
        yield (
            f"{repeated} frames nearly repeat an earlier one and were made of its result (--dedup)"
        )
    yield from remarks_after(info, made.notes, options, joined.nudged)
