"""Upscale a video file so that no finished work is lost and no unfinished result is visible.

Frames are encoded into segments, which survive any crash of the process. Once all are complete,
they are joined with the audio and subtitles of the input. The result is compared with the input,
and only then moved to its final name.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec

from srgan_edge.engines.base import NotFinite
from srgan_edge.errors import (
    EngineLost,
    InputDamaged,
    Interrupted,
    OutOfMemory,
    OutputFailed,
    ResourcesExhausted,
)
from srgan_edge.files import free_partial_result, output_failed, replace_when_whole
from srgan_edge.grain import finish
from srgan_edge.isolation.child import ChildFailed, ChildKilled
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Reporter, VideoDamaged, VideoResult, remarks_after, remarks_on
from srgan_edge.pipeline import upscale_video, upscaled_frame
from srgan_edge.reuse import LinkedFrame, Reuse
from srgan_edge.signals import ends_within
from srgan_edge.steady import (
    Link,
    Steadied,
    Steadier,
    refuse_too_large,
    steadied_from_bytes,
    strength_of,
)
from srgan_edge.transcode.join import Joiner
from srgan_edge.transcode.on_gpu import NotOnGpu, encoder_for, upscaling_on_gpu
from srgan_edge.transcode.rehearsal import Rehearsal
from srgan_edge.transcode.segments import SegmentWriter, segment_frames
from srgan_edge.transcode.work_folder import (
    WorkFolder,
    content_sha256,
    job_identity,
    open_work_folder,
)
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.convert import depth_bits
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import CodedFrame, Frame, Notes, VideoInfo
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
    exits_on_signal: bool = True,  # a library leaves signals to its caller
) -> VideoResult:
    """Upscale the video of a job, starting where an earlier run stopped, and publish the result.

    Args:
        made_by: everything besides the input that determines the pixels, as JSON values. An earlier
            run with other values is refused.

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
        return _upscale_video(job, upscaler, options, made_by, reporter, "cpu")


def _upscale_video(
    job: Job,
    upscaler: FrameUpscaler,
    options: Options,
    made_by: Mapping[str, Any],
    reporter: Reporter,
    way: _Way,
) -> VideoResult:
    encoding = options.encoding
    with ExitStack() as life:
        reader = _open(job.source, options, way)
        life.enter_context(reader)
        source = _Source(job.source)
        info = reader.info
        size = options.video_size(info, upscaler.scale)

        def new_encoder() -> VideoEncoder:
            return (encoder_for if way == "gpu" else VideoEncoder)(info, size, encoding)

        encoder = new_encoder()

        length = segment_frames(upscaler.info, info.width, info.height)
        reuse = Reuse(upscaler, options.dedup, length)
        grained = finish(options.grain)

        def linked_after(frames: int) -> Iterator[LinkedFrame]:
            return reuse.linked(it for it in reader.after(frames) if isinstance(it, Frame))

        def through_host_memory(link: LinkedFrame) -> CodedFrame:
            return encoder.coded(
                upscaled_frame(link.frame, lambda pixels: grained(pixels, reuse.upscale(link)))
            )

        def steadied(link: Link[LinkedFrame]) -> CodedFrame:
            linked = link.item
            return encoder.coded(
                upscaled_frame(
                    linked.frame,
                    lambda pixels: grained(
                        pixels,
                        steadier.steadied(link, pixels, lambda: reuse.upscale(linked)),
                    ),
                )
            )

        frames_after: Callable[[int], Iterator[Any]] = linked_after
        upscaled: Callable[[Any], CodedFrame] = through_host_memory
        strength = strength_of(options.steady)
        if strength:
            refuse_too_large(info.width * upscaler.scale, info.height * upscaler.scale)
            upscaled = steadied
        if way == "gpu":
            assert isinstance(reader, VideoReader)
            frames_after = reader.images_after
            upscaled = life.enter_context(upscaling_on_gpu(upscaler, info, encoder, options))
        identity = job_identity(job.source, size, length, options, made_by)
        with (
            _resumable(job.target, identity, restart=options.restart) as work,
            Joiner(job.source, work.path, size, encoding, options.audio, options.excerpt) as joiner,
        ):
            if (finished := _finished(work)) is not None:
                reporter.note(f"{job.source.name}: an earlier run had finished {job.target}")
                return finished
            known = _rehearsed(work, joiner, job.target, options)
            for remark in _remarks_before(info, options, known, work):
                reporter.note(f"{job.source.name}: {remark}")
            resumed = work.frames
            reporter.started(job, info.frames_expected, resumed)
            steadier = Steadier[LinkedFrame](
                strength, _steadied_before(work), lambda number: (number + 1) % length == 0
            )
            begun = work.segments

            def state_after(segment: int) -> bytes:
                return steadier.state_after((segment - begun + 1) * length - 1).to_bytes()

            writer = SegmentWriter(
                *(work, new_encoder, length), *([state_after] if strength else [])
            )
            damaged = None
            try:
                try:
                    upscale_video(
                        frames_after(resumed),
                        upscaled,
                        writer,
                        reporter.frame_done,
                        upscaler.slots,
                        reader.close if isinstance(reader, IsolatedReader) else lambda: None,
                        result_bytes=_rgb_bytes(info, upscaler.scale),
                        taken=steadier.link if strength else None,
                    )
                except InputDamaged as error:
                    damaged = error
                writer.finish()
            except BaseException:
                writer.abandon()
                raise
            if damaged and not work.segments:
                raise damaged
            saved_as = (
                free_partial_result(job.target, overwrite=options.overwrite)
                if damaged
                else job.target
            )
            source.refuse_changed()
            with replace_when_whole(
                saved_as, partial=joiner.file_for(saved_as), overwrite=options.overwrite
            ) as whole:
                joined = joiner.join(saved_as, damaged=damaged is not None)
                if joined.frames != work.frames:  # a finished segment has changed since
                    raise OutputFailed(
                        f"{work.path} has only {joined.frames} of {work.frames} frames left"
                    )
                source.refuse_changed()
                notes = reader.notes
                result = VideoResult(
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
                    frames_reused=reuse.frames_reused,
                    frames_repeated=reuse.frames_repeated,
                    tiles=reuse.tiles,
                    tiles_reused=reuse.tiles_reused,
                )
                problem = _problem(job, result, damaged, notes)
                decoder_ended = damaged and isinstance(damaged.__cause__, ChildFailed)
                if not decoder_ended:
                    outcome = {"result": asdict(result), "problem": problem}
                    work.finish(whole, saved_as.name, outcome)
            if reuse.frames_repeated:
                reporter.note(
                    f"{job.source.name}: {reuse.frames_repeated} frames nearly repeat an earlier "
                    "one and were made of its result (--dedup)"
                )
            for remark in remarks_after(reader.info, reader.notes, options, joined.nudged):
                reporter.note(f"{job.source.name}: {remark}")
            if decoder_ended:
                # Not the video ended but the decoder, perhaps for lack of memory. The next run may
                # succeed, and has to produce the bytes of a run in which it never crashed.
                if work.frames % length:
                    work.forget_last()
            else:
                work.discard()
    if problem:
        raise VideoDamaged(problem, result) from damaged
    return result


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


def _steadied_before(work: WorkFolder) -> Steadied | None:
    """Return the frame by which the first one of the next segment is steadied, if there is one."""
    state = work.state() if work.segments else b""
    return steadied_from_bytes(state) if state else None


def _problem(
    job: Job, result: VideoResult, damaged: InputDamaged | None, notes: Notes
) -> str | None:
    """Return the line of an error that is raised though there is a result; None if it is whole."""
    if damaged:
        return f"{damaged}; what could be decoded is in {result.saved_as}"
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


def _rgb_bytes(info: VideoInfo, scale: int) -> int:
    """Return the memory of one upscaled frame before it is converted for the encoder."""
    samples = 3 * info.width * info.height * scale**2
    return samples if depth_bits(info.pixel_format) == 8 else 2 * samples


class _Source:
    """The input as it was when the work began. It is read twice: for its frames, for the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = file_identity(path)
        self._content = content_sha256(path)

    def refuse_changed(self) -> None:
        """Raise `InputDamaged` if the file was written, replaced or removed since."""
        with suppress(OSError):
            if (
                file_identity(self._path) == self._identity
                and content_sha256(self._path) == self._content
            ):
                return
        raise InputDamaged(
            f"{self._path} was changed or removed during the work; put it back, or add --restart "
            "to upscale what is there now"
        )


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


@contextmanager
def _resumable(target: Path, identity: Mapping[str, Any], *, restart: bool) -> Iterator[WorkFolder]:
    """Open the work folder; errors and signals then name the frames that are kept in it."""
    try:
        with open_work_folder(target, identity, restart=restart) as work:
            kept = f"{work.path}; the same command goes on from there"
            try:
                yield work
            except Interrupted as stopped:
                if not work.segments:
                    raise
                if work.is_lost:
                    raise Interrupted(stopped.signum, f"{work.path} was removed") from None
                line = f"{work.frames} frames are kept in {kept}"
                raise Interrupted(stopped.signum, line) from None
            except ChildKilled as killed:
                if not work.segments:
                    raise
                line = f"{killed}; {work.frames} frames are kept in {kept}"
                raise ResourcesExhausted(line) from killed
            except (OSError, OutputFailed) as error:
                if work.is_lost:
                    raise OutputFailed(
                        f"{work.path} was removed during the work, and the finished frames with "
                        "it; the same command starts over"
                    ) from error
                if not work.segments:
                    raise
                failed = output_failed(target, error) if isinstance(error, OSError) else error
                raise OutputFailed(f"{failed}; {work.frames} frames are kept in {kept}") from error
    except OSError as error:
        raise output_failed(target, error) from error


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
