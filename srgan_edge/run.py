"""Run the jobs of one `upscale` command: one engine, many files; a bad file stops no other."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from srgan_edge.ahead import READERS, children_of
from srgan_edge.engines import Choice, choose_engine, open_engine, video_slots
from srgan_edge.engines.base import Engine, EngineInfo
from srgan_edge.errors import (
    HostMemoryExhausted,
    ResultAppeared,
    SrganEdgeError,
    UsageError,
    lacks_memory,
)
from srgan_edge.files import (
    folder_made,
    is_file,
    is_taken,
    output_failed,
    refuse_irreplaceable,
    sha256_of,
)
from srgan_edge.image.animation import animation_file
from srgan_edge.image.still import enlarged, joined
from srgan_edge.image.writer import image_file, left_out_by, refuse_unwritable
from srgan_edge.isolation.child import started_ahead
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.jobs.estimate import Estimated
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Heard, Outcome, Reporter, VideoDamaged
from srgan_edge.jobs.size import Source
from srgan_edge.model.library import ModelFiles, find_model
from srgan_edge.model.onnx_file import read_onnx
from srgan_edge.model.passport import ENGINE_SUFFIX, read_passport
from srgan_edge.model.spec import multiplications_per_px
from srgan_edge.steady import REQUIREMENT, chosen_strength, recorded
from srgan_edge.suited import AUTO, CRISP, QUICK, suited_to_job
from srgan_edge.transcode.upscale import upscale_video_file
from srgan_edge.transcode.work_folder import is_finished
from srgan_edge.tuning import Setting, record_of, setting_for
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.nvidia import Decoder, choose_decoder

if TYPE_CHECKING:
    from srgan_edge.transcode.fanout import Crew


@dataclass(frozen=True)
class Opened:
    """A model on an engine, ready for jobs."""

    upscaler: FrameUpscaler
    made_by: Mapping[str, Any]
    """Everything but the input that determines the pixels of a result, as JSON values."""
    summary: str
    """Model, engine, device and arithmetic in a line."""
    steady: float = 0.0
    """Strength with which the detail of videos is kept from frame to frame."""


@dataclass(frozen=True)
class UpscaledImage:
    """The facts of an image that was upscaled."""

    frames: int
    source_size: tuple[int, int]
    """Width and height of the input in pixels."""
    size: tuple[int, int]
    """Those of the result."""


def run_jobs(jobs: list[Job], options: Options, reporter: Reporter) -> int:
    """Upscale the file of every job; return the worst exit code.

    Several workers make all images first, side by side, and then one video after another.

    Raises:
        SrganEdgeError: nothing could be started, because of the model, the engine or the options.
    """
    refuse_outscale(options.outscale)
    slots = video_slots() if any(job.kind == "video" for job in jobs) else 1
    outcomes: dict[int, Outcome] = {}
    with (
        started_ahead(_children(jobs, options)),
        ImageProcess(options.max_pixels) as images,
        _Models(options, reporter, slots, jobs) as models,
    ):
        if options.has_workers:
            outcomes |= _images_of_workers(jobs, options, images, models, reporter)
        for number, job in enumerate(jobs):
            if number in outcomes:
                continue
            job_options, job_reporter = options, reporter
            if options.model == AUTO and not _is_kept(job, options):
                job_options, job_reporter = _suited(job, options, images, reporter)
            setting = setting_for(job, job_options, reporter.note)
            opened = models.use(job_options.model, setting)
            crew = None
            if job.kind == "video" and options.has_workers:
                job_options = replace(job_options, decode=_decoder_of_workers(options, models))
                crew = models.crew(opened, job_options.model, setting)
            elif job.kind == "video":
                device = opened.upscaler.info.device
                decoder = choose_decoder(options.decode, device, models.say_once)
                job_options = replace(job_options, decode=decoder)
            elif options.has_workers:
                models.say_once(f"a single image is upscaled by one engine, on {options.device}")
            outcome = do_job(job, opened, images, job_options, job_reporter, crew=crew)
            reporter.ended(outcome)
            outcomes[number] = outcome
    reporter.closed([outcomes[number] for number in range(len(jobs))])
    return max(outcome.exit_code for outcome in outcomes.values())


def _images_of_workers(
    jobs: list[Job], options: Options, images: ImageProcess, models: "_Models", reporter: Reporter
) -> dict[int, Outcome]:
    """Let workers make all images, those of one model after those of another.

    Returns:
        The outcomes by the numbers of the jobs. A single image of a model has none, and neither has
        one whose result is kept: one engine is enough for them.
    """
    from srgan_edge.workers.images import Asked, ImageFanout

    groups: dict[str, dict[int, Asked]] = {}
    for number, job in enumerate(jobs):
        if job.kind == "image" and not _is_kept(job, options):
            chosen, heard = options, Heard()
            if options.model == AUTO:
                chosen, _ = _suited(job, options, images, heard)
            groups.setdefault(chosen.model, {})[number] = Asked(job, heard.notes)
    outcomes: dict[int, Outcome] = {}
    for model, asked in groups.items():
        if len(asked) > 1:
            opened = models.use(model)
            crew = models.crew(opened, model, None)
            own = replace(options, model=model)
            made = ImageFanout(crew, list(asked.values()), opened.upscaler, own, reporter).run()
            outcomes |= zip(asked, made, strict=True)
    return outcomes


def _children(jobs: list[Job], options: Options) -> list[str]:
    """Return the entries of the children that the first job will need."""
    first = next((job for job in jobs if not _is_kept(job, options)), None)
    if first is None or first.is_stream:
        return []
    return children_of(first.kind, looks=options.model == AUTO)


class _Models:
    """The models of one command, each opened when it is first needed."""

    def __init__(
        self, options: Options, reporter: Reporter, slots: int, jobs: Sequence[Job]
    ) -> None:
        self._options, self._reporter, self._slots = options, reporter, slots
        self._jobs = jobs
        self._in_use: Opened | None = None
        self._opened: dict[tuple[str, Setting | None], Opened] = {}
        self._crews: dict[tuple[str, Setting | None], Crew] = {}
        self._said: set[str] = set()
        self._life = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:  # noqa: ANN401 - as ExitStack has them
        self._life.__exit__(*exception)

    def use(self, model: str, setting: Setting | None = None) -> Opened:
        """Return a model on its engine, and report it unless it is the one that was used last."""
        opened = self.opened(model, setting)
        if opened is not self._in_use:
            self._in_use = opened
            self._reporter.began(opened.summary, opened.made_by, len(self._jobs))
        return opened

    def opened(self, model: str, setting: Setting | None = None) -> Opened:
        """Return a model on its engine; `auto` is any one that is open, or else the quick one.

        Args:
            setting: the tile, slots and precision that were tuned; None: the default.
        """
        if model == AUTO:
            model = next((name for name, _ in self._opened), QUICK)
        if (model, setting) not in self._opened:
            options, slots = self._asked(model, setting)
            opened = self._life.enter_context(open_upscaler(options, self._reporter.note, slots))
            made_by = {**opened.made_by, **record_of(setting)}
            self._opened[model, setting] = replace(opened, made_by=made_by)
        return self._opened[model, setting]

    def crew(self, opened: Opened, model: str, setting: Setting | None) -> Callable[[], "Crew"]:
        """Return a function that starts the workers of a model, or returns those that it did."""
        from srgan_edge.workers.crew import crew_beside

        def started() -> "Crew":
            if (model, setting) not in self._crews:
                readers = tuple(READERS[kind] for kind in sorted({it.kind for it in self._jobs}))
                asked = self._asked(model, setting)
                crew = crew_beside(opened, *asked, self._reporter.note, readers)
                self._crews[model, setting] = self._life.enter_context(crew)
            return self._crews[model, setting]

        return started

    def _asked(self, model: str, setting: Setting | None) -> tuple[Options, int]:
        options = replace(self._options, model=model)
        return (
            (options, self._slots) if setting is None else (setting.apply(options), setting.slots)
        )

    def say_once(self, line: str) -> None:
        """Pass a note on unless it was passed on before, for an earlier file."""
        if line not in self._said:
            self._said.add(line)
            self._reporter.note(line)


def _is_kept(job: Job, options: Options) -> bool:
    """Return True if a job's result exists, so that nothing about the job has to be found out."""
    try:
        is_kept = job.outlet is None and options.existing != "replace" and is_taken(job.target)
    except OSError:  # the job itself will report it
        return False
    return is_kept and not was_finished(job, restart=options.restart)


def _suited(
    job: Job, options: Options, images: ImageProcess, reporter: Reporter
) -> tuple[Options, Reporter]:
    """Return the options with the model that suits a job, and a reporter that says how fast it is.

    One note names the model, the reason, and how to take another one.
    """
    suited = suited_to_job(job, options, images)
    other = CRISP if suited.model != CRISP else QUICK
    reporter.note(
        f"{job.source.name}: upscaled by {suited.model} ({suited.reason}); "
        f"-n NAME takes another model, such as {other}"
    )
    chosen = replace(options, model=suited.model)
    if job.kind == "image" or suited.model == CRISP:
        return chosen, reporter
    work = [multiplications_per_px(find_model(name).spec) for name in (CRISP, suited.model)]
    return chosen, Estimated(reporter, CRISP, work[0] / work[1])


def _decoder_of_workers(options: Options, models: _Models) -> Decoder:
    if options.decode == "gpu":
        raise UsageError("--decode gpu with several workers; possible: --decode cpu, or one device")
    if options.decode == "auto":
        models.say_once("several workers decode on the CPU")
    return "cpu"


@contextmanager
def open_upscaler(
    options: Options,
    say: Callable[[str], None],
    slots: int,
    choice: Choice | None = None,
    shared: Callable[[Engine], Engine] = lambda engine: engine,
    on_licence: Callable[[str], None] | None = None,
) -> Iterator[Opened]:
    """Open the model and engine that `options` name; close it, and spare engines, at the end.

    Args:
        say: called with a line for the user whenever the engine had to be changed.
        slots: number of frames to upscale at once.
        choice: the engine, if it was chosen already.
        shared: returns the engine that upscales for several callers at once.
        on_licence: called with the line about a licence that forbids commercial use; None: `say`.

    Raises:
        SrganEdgeError: no such model or engine, or impossible options.
    """
    files = find_model(options.model)
    first = choice or choose_engine(files, options.engine, options.device)
    with ExitStack() as opened:

        def open_one(chosen: Choice, fp32: bool = options.fp32) -> Engine:
            return opened.enter_context(open_engine(chosen, fp32=fp32, slots=slots))

        engine, spare = shared(open_one(first)), spare_for(first, files)
        upscaler = FrameUpscaler(
            engine,
            options.tiling,
            say,
            None if spare is None else lambda: open_one(spare),
            None if spare is None else lambda: open_one(spare, fp32=True),
            color_lock=options.color_lock,
            letters=options.letters,
        )
        info = engine.info
        if line := info.spec.licence_line:
            (on_licence or say)(line)
        summary = (
            f"{info.spec.name} on {info.name}, {info.device}, {info.arithmetic} ({first.reason})"
            f"{', colors locked' if upscaler.color_lock else ''}"
            f"{', letters interpolated' if upscaler.letters else ''}"
        )
        steady = chosen_strength(options.steady, suits=_is_steadied(info))
        made_by = _made_by(first, upscaler, options) | recorded(steady)
        yield Opened(upscaler, made_by, summary, steady)


def do_job(
    job: Job,
    opened: Opened,
    images: ImageProcess,
    options: Options,
    reporter: Reporter,
    *,
    crew: Callable[[], "Crew"] | None = None,
    exits_on_signal: bool = True,
) -> Outcome:
    """Upscale one file. An error of ours becomes the outcome; any other exception is raised.

    `crew` starts workers for the segments of a video file; None: `opened` makes them alone. With
    `exits_on_signal`, a signal ends the process if a video does not stop soon after it.
    """
    upscaler = opened.upscaler
    if job.kind == "video":
        if options.steady == "auto" and not opened.steady and _is_steadied(upscaler.info):
            line = f"detail may flicker; to steady it: pip install '{REQUIREMENT}'"
            reporter.note(f"{job.source.name}: {line}")
        options = replace(options, steady=opened.steady)
    if (outcome := settled(job, options)) is not None:
        return outcome
    started, redone_before = time.monotonic(), upscaler.tiles_redone
    damage: VideoDamaged | None = None
    try:
        with folder_made(job.target.parent):
            if job.kind == "image":
                video = None
                image = upscale_image(job, upscaler, images, options, reporter)
                frames, size = image.frames, image.size
            elif job.is_stream:
                from srgan_edge.live.upscale import upscale_stream

                video = upscale_stream(job, upscaler, options, reporter)
                frames, size = video.frames, video.size
            else:
                mixed = {"mixed": True} if crew is not None and options.allow_mixed else {}
                video = upscale_video_file(
                    *(job, upscaler, options, {**opened.made_by, **mixed}, reporter),
                    crew=crew,
                    exits_on_signal=exits_on_signal,
                )
                frames, size = video.frames, video.size
    except OSError as error:
        failed = output_failed(job.target, error)
        return Outcome(job, seconds=time.monotonic() - started, error=failed)
    except VideoDamaged as damaged:
        damage, video = damaged, damaged.video
        frames, size = video.frames, video.size
    except SrganEdgeError as refused:
        return refusal(job, options, refused, time.monotonic() - started)
    except Exception as error:
        if not lacks_memory(error):
            raise
        failure = HostMemoryExhausted()
        return Outcome(job, seconds=time.monotonic() - started, error=failure)
    seconds, redone = time.monotonic() - started, upscaler.tiles_redone - redone_before
    return Outcome(job, frames, seconds, f"{size[0]}x{size[1]}", redone, damage, video=video)


def settled(job: Job, options: Options) -> Outcome | None:
    """Return the outcome of a job whose result exists or cannot be written; None: it is to be done.

    What only the input and the disk reveal is found by the work.
    """
    if job.outlet is not None:
        return None
    try:
        if options.existing == "keep" and is_file(job.target):
            return Outcome(job, skipped=True)
        refuse_irreplaceable(job.target)  # which --overwrite replaces neither
        is_new = options.existing == "replace" or not is_taken(job.target)
        if not is_new and not was_finished(job, restart=options.restart):
            other = "--skip-existing" if is_file(job.target) else "remove it"  # a link to nothing
            raise UsageError(f"{job.target} exists; type --overwrite to replace it, or {other}")
    except OSError as error:
        return Outcome(job, error=output_failed(job.target, error))
    except SrganEdgeError as refused:
        return Outcome(job, error=refused)
    return None


def refusal(job: Job, options: Options, error: SrganEdgeError, seconds: float) -> Outcome:
    """Return the outcome of a job that ended with an error.

    With `--skip-existing`, a result that another command finished first is none.
    """
    if options.existing == "keep" and isinstance(error, ResultAppeared):
        return Outcome(job, seconds=seconds, skipped=True)
    return Outcome(job, seconds=seconds, error=error)


def _is_steadied(info: EngineInfo) -> bool:
    """Return True if `--steady auto` is on.

    GANs draw their own detail. On a GPU, steadying it would take longer than drawing it.
    """
    return info.spec.may_shift_colors and info.spec.scale > 1 and info.device == "cpu"


def was_finished(job: Job, *, restart: bool) -> bool:
    """Return True if the target is the result of a run that died before it could say so."""
    is_file = job.kind == "video" and not job.is_stream
    return is_file and not restart and is_finished(job.target)


def refuse_outscale(outscale: float | None) -> None:
    """Raise a `UsageError` for a final scale that is not possible; None is the model's own."""
    if outscale is not None and not 0 < outscale <= 16:
        raise UsageError(f"--outscale {outscale:g}; possible: above 0, up to 16")


def spare_for(choice: Choice, files: ModelFiles) -> Choice | None:
    """Return the CPU engine that continues if a GPU is lost; None if there is none.

    Opened in FP32, it also recomputes tiles that were not finite on the GPU.
    """
    if choice.device == "cpu":
        return None
    try:
        if source := _source_of(choice):
            original = find_model(source)
            files = original if original.spec == files.spec else files
        return choose_engine(files, device="cpu")
    except SrganEdgeError:
        return None


def _source_of(choice: Choice) -> str | None:
    """Return the name of the model that a GPU-only file was made from, if it states one."""
    if choice.kind.suffix == ENGINE_SUFFIX:
        return read_passport(choice.path).source
    if choice.kind.suffix == ".onnx" and (file := read_onnx(choice.path)).precision != "fp32":
        return file.spec.name
    return None


def _made_by(choice: Choice, upscaler: FrameUpscaler, options: Options) -> dict[str, Any]:
    """Return everything besides the input that determines the pixels of a result."""
    info = upscaler.info
    return {
        "model": {"name": info.spec.name, "sha256": sha256_of(choice.path)},
        "engine": {"name": info.name, "device": info.device, "arithmetic": info.arithmetic},
        "tile": options.tiling.tile,
        "overlap_px": upscaler.halo_px,
        "batch": options.tiling.batch,
        "slots": upscaler.slots,
        "color_lock": upscaler.color_lock,
        **({"letters": True} if upscaler.letters else {}),
        **({"grain": True} if options.grain else {}),
    }


def _factor_of_image(job: Job, images: ImageProcess, options: Options) -> float | None:
    """Return the factor that was asked for, for which the size of the image may be needed."""
    if options.size is None:
        return options.outscale
    with images.open(job.source) as reader:
        return options.factor(Source(reader.width, reader.height))


def upscale_image(
    job: Job,
    upscaler: FrameUpscaler,
    images: ImageProcess,
    options: Options,
    reporter: Reporter,
    into: Path | None = None,
) -> UpscaledImage:
    """Upscale an image file.

    Args:
        into: an empty file that is written instead of the job's target; see
            `files.open_when_whole`.

    Raises:
        SrganEdgeError: the input is refused or damaged, or the result cannot be written.
        OSError: `into` cannot be written.
    """
    enlargement = _factor_of_image(job, images, options) or upscaler.scale
    with images.open(job.source, enlargement) as reader:
        size = options.final_size(Source(reader.width, reader.height), upscaler.scale)
        like = reader.rows(0, 0)
        refuse_unwritable(
            job.target,
            like,
            *size,
            transparent=lambda: reader.is_transparent,
            frames=reader.frames,
            seconds=reader.seconds,
            plays=reader.plays,
        )
        left_out = (f"left out: {lost}" for lost in left_out_by(job.target, like))
        for remark in (*reader.notes, *left_out):
            reporter.note(f"{job.source.name}: {remark}")
        reporter.started(job, reader.frames)
        if reader.frames == 1:
            with image_file(
                job.target, like, *size, overwrite=options.overwrite, into=into
            ) as write:
                for stripe in enlarged(reader, upscaler, *size, reporter.tiles_done):
                    write(stripe)
                    del stripe  # before the next one is made
            reporter.frame_done()
        else:
            with animation_file(
                job.target,
                like,
                size,
                reader.seconds,
                reader.plays,
                overwrite=options.overwrite,
                into=into,
            ) as write:
                for frame in range(reader.frames):
                    reader.seek(frame)
                    write(joined(list(enlarged(reader, upscaler, *size))))
                    reporter.frame_done()
    return UpscaledImage(reader.frames, (reader.width, reader.height), size)
