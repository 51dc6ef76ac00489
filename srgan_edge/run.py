"""Doing the jobs of one `upscale` command: one engine, many files, none stops the others."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from srgan_edge.color import MATRICES
from srgan_edge.engines import Choice, choose_engine, film_slots, open_engine
from srgan_edge.engines.base import Engine
from srgan_edge.errors import InputDamaged, OutputFailed, SrganEdgeError, UsageError
from srgan_edge.image import (
    read_picture,
    refuse_unwritable,
    resize_picture,
    upscale_picture,
    write_picture,
)
from srgan_edge.jobs import Job
from srgan_edge.models import ModelFiles, find_model
from srgan_edge.passport import ENGINE_SUFFIX, read_passport
from srgan_edge.pipeline import upscale_video
from srgan_edge.report import Outcome, Reporter
from srgan_edge.upscaler import Tiling, Upscaler
from srgan_edge.video import Encoding, VideoInfo
from srgan_edge.video_reader import VideoReader
from srgan_edge.video_writer import VideoWriter


@dataclass(frozen=True)
class Options:
    """Everything `upscale` can be told besides which files."""

    model: str
    encoding: Encoding
    tiling: Tiling
    engine: str = "auto"
    device: str = "auto"
    fp32: bool = False
    outscale: float | None = None
    """Final scale; None: the model's."""
    existing: Literal["refuse", "replace", "keep"] = "refuse"
    """What to do where a result already exists."""


def run_jobs(jobs: list[Job], options: Options, reporter: Reporter) -> int:
    """Upscale every job's file; returns the worst exit code of all of them.

    Raises:
        SrganEdgeError: nothing could be started: no such model or engine, impossible options.
    """
    if options.outscale is not None and not 0 < options.outscale <= 16:
        raise UsageError(f"--outscale {options.outscale:g}; possible: above 0, up to 16")
    files = find_model(options.model)
    choice = choose_engine(files, options.engine, options.device)
    slots = film_slots() if any(job.kind == "video" for job in jobs) else 1
    with ExitStack() as opened:

        def open_one(chosen: Choice) -> Engine:
            return opened.enter_context(open_engine(chosen, fp32=options.fp32, slots=slots))

        engine, spare = open_one(choice), spare_for(choice, files)
        upscaler = Upscaler(
            engine,
            options.tiling,
            reporter.note,
            None if spare is None else lambda: open_one(spare),
        )
        info = engine.info
        reporter.note(
            f"{info.spec.name} on {info.name}, {info.device}, {info.arithmetic} ({choice.reason})"
        )
        outcomes = []
        for job in jobs:
            outcome = _outcome_of(job, upscaler, options, reporter)
            reporter.ended(outcome)
            outcomes.append(outcome)
    reporter.closed(outcomes)
    return max(outcome.exit_code for outcome in outcomes)


def spare_for(choice: Choice, files: ModelFiles) -> Choice | None:
    """What goes on, on the CPU, when the GPU of an engine is lost; None: nothing can."""
    if not choice.device.startswith("cuda"):
        return None
    try:
        if choice.kind.suffix == ENGINE_SUFFIX:  # it was made of a model that may be here
            original = find_model(read_passport(choice.path).source)
            files = original if original.spec == files.spec else files
        return choose_engine(files, device="cpu")
    except SrganEdgeError:
        return None


def _outcome_of(job: Job, upscaler: Upscaler, options: Options, reporter: Reporter) -> Outcome:
    """Do one job; its error, if it is one of ours, is its outcome."""
    started = time.monotonic()
    try:
        if job.target.exists() and options.existing != "replace":
            if options.existing == "keep":
                return Outcome(job, skipped=True)
            raise UsageError(
                f"{job.target} exists; type --overwrite to replace it, or --skip-existing"
            )
        job.target.parent.mkdir(parents=True, exist_ok=True)
        work = _upscale_image if job.kind == "image" else _upscale_video
        frames, size = work(job, upscaler, options, reporter)
    except OSError as error:
        failed = OutputFailed(f"cannot write {job.target}: {error.strerror or error}")
        return Outcome(job, error=failed)
    except SrganEdgeError as error:
        return Outcome(job, seconds=time.monotonic() - started, error=error)
    return Outcome(job, frames, time.monotonic() - started, f"{size[0]}x{size[1]}")


def _upscale_image(
    job: Job, upscaler: Upscaler, options: Options, reporter: Reporter
) -> tuple[int, tuple[int, int]]:
    picture = read_picture(job.source)
    for lost in picture.left_out:
        reporter.note(f"{job.source.name}: left out: {lost}")
    height, width = picture.pixels.shape[:2]
    size = _final_size(width, height, upscaler.scale, options.outscale)
    refuse_unwritable(job.target, picture, *size)
    reporter.started(job, 1)
    picture = upscale_picture(picture, upscaler.upscale, upscaler.scale)
    if size != (width * upscaler.scale, height * upscaler.scale):
        picture = resize_picture(picture, *size)
    write_picture(job.target, picture)
    reporter.frame_done()
    return 1, size


def _upscale_video(
    job: Job, upscaler: Upscaler, options: Options, reporter: Reporter
) -> tuple[int, tuple[int, int]]:
    with VideoReader(job.source, allow_8bit=options.encoding.accepts_8bit) as reader:
        info = reader.info
        size = _final_size(info.width, info.height, upscaler.scale, options.outscale)
        writer = VideoWriter(job.target, reader, size, options.encoding)
        for remark in _remarks_before(info, writer):
            reporter.note(f"{job.source.name}: {remark}")
        reporter.started(job, info.frames_expected)
        try:
            with writer:
                frames = upscale_video(
                    reader, upscaler.upscale, writer, reporter.frame_done, upscaler.slots
                )
        except InputDamaged as error:
            kept = f"; what came before is in {writer.saved_as}" if writer.saved_as else ""
            raise InputDamaged(f"{error}{kept}") from error
        for remark in _remarks_after(reader, writer):
            reporter.note(f"{job.source.name}: {remark}")
    return frames, size


def _remarks_before(info: VideoInfo, writer: VideoWriter) -> Iterator[str]:
    """What is not as in the source, or not certain, before the first frame."""
    yield from (f"left out: {lost}" for lost in writer.left_out)
    if info.interlaced:
        yield "interlaced; its fields are upscaled together, as one picture"
    if info.color.assumed:
        matrix, *_ = MATRICES[info.color.matrix]
        span = "full" if info.color.full_range else "limited"
        yield f"states no colour {' and '.join(info.color.assumed)}: taken as {matrix}, {span}"


def _remarks_after(reader: VideoReader, writer: VideoWriter) -> Iterator[str]:
    """What had to be done to the times."""
    if reader.untimed:
        yield f"{reader.untimed} frames had no time and were spaced by their period"
    if moved := reader.nudged + writer.nudged:
        yield f"{moved} frames or packets shared a time with the one before and moved by one tick"


def _final_size(width: int, height: int, scale: int, outscale: float | None) -> tuple[int, int]:
    factor = scale if outscale is None else outscale
    return max(1, round(width * factor)), max(1, round(height * factor))
