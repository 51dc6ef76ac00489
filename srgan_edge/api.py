"""The Python API, as `from srgan_edge import ...` offers it; see docs/python.md.

It runs the same functions as `srgan-edge upscale`, so that the same options give the same bytes.
Errors are raised as `SrganEdgeError`s and never printed, and signals stay the caller's. Notes about
the work go to the logger `srgan_edge`.
"""

import atexit
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast
from weakref import WeakSet

from srgan_edge.arguments import checked, refuse_unused
from srgan_edge.duplicates import Dedup
from srgan_edge.engines import Choice, choose_engine, video_slots
from srgan_edge.engines.base import AFTER_FORK
from srgan_edge.errors import InputRefused, ResourcesExhausted, UsageError
from srgan_edge.files import is_file, sha256_of
from srgan_edge.image.coding import Coding
from srgan_edge.image.in_memory import ImageT, Pack, unpacked, upscaled
from srgan_edge.image.opening import MAX_PIXELS
from srgan_edge.image.still import StillImage
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.jobs.plan import (
    Job,
    Kind,
    Naming,
    Options,
    plan_jobs,
    refuse_excerpt,
    result_suffix,
)
from srgan_edge.jobs.reporters import Outcome, Unheard, VideoResult
from srgan_edge.jobs.size import wanted_size
from srgan_edge.model.library import bundled_models, find_model
from srgan_edge.model.mixture import DENOISE, FIDELITY, mixed_model
from srgan_edge.pipeline import in_order
from srgan_edge.run import Opened, do_job, open_upscaler, refuse_outscale, was_finished
from srgan_edge.steady import Steady, refuse_strength
from srgan_edge.suited import AUTO, is_on_gpu, suited_to, suited_to_job
from srgan_edge.tiling import Tiling, plan_tiles
from srgan_edge.video.audio import AudioHandling
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.frame import Encoding
from srgan_edge.video.nvidia import Decoder, choose_decoder

_log = logging.getLogger("srgan_edge")
_log.addHandler(logging.NullHandler())  # without a handler Python would print warnings

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Progress:
    """The state of one file, for a progress display."""

    frames: int
    """Frames done, including those of an earlier run."""
    total: int | None
    """Frames to expect; None: the file does not state it."""
    fps: float
    """Frames a second in this run."""


@dataclass(frozen=True)
class FileReport:
    """One upscaled file: the values that `srgan-edge upscale --report` writes for it."""

    path: Path
    """The result."""
    kind: Kind
    size: str
    """Width and height of the result in pixels, for example `1280x720`."""
    frames: int
    """Frames in the result; 1 for a still image."""
    seconds: float
    fps: float
    """Frames a second in this run."""
    tiles_redone: int
    """Tiles that were not finite in the engine's precision, and were upscaled again in FP32."""
    sha256: str
    """SHA-256 of the result, in hexadecimal digits."""
    notes: tuple[str, ...]
    """Lines about what was assumed, left out or done differently."""
    made_by: Mapping[str, Any]
    """Model, engine and options that determine the pixels, as JSON values; see docs/report.md."""
    video: VideoResult | None = None
    """Counts of the frames, packets and streams of a video."""


@dataclass(frozen=True)
class BundledModel:
    """A model that comes with the package."""

    name: str
    scale: int
    licence: str
    scores: Mapping[str, float]
    """PSNR-Y in dB by benchmark, for example `{"Set5": 30.8}`; empty if not stated."""
    bytes: int
    """Size of the file at `path`."""
    path: Path
    """Its ONNX file, or the only one there is."""


class Upscaler:
    """A model, ready to upscale images, frames and files; use it in a `with`, or `close` it.

    Model and options are checked here, and the engine is opened when it is first needed: one that
    gives a single image all cores, and one that has several frames of a video in work.

    Any thread may call any method at any time. Calls share the engines, and `close` waits for those
    that have begun; later ones raise a `UsageError`.

    Args:
        model: Name of a bundled model, or path of a `.onnx`, `.safetensors` or `.engine` file;
            `auto`: for files as the command chooses, for images in memory by the device.
        engine: `auto`, `openvino`, `onnxruntime`, `torch` or `tensorrt`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; for onnxruntime also `tensorrt` and `rtx`.
        fp32: forbid any lower precision.
        tile: Side of a tile's core in input pixels; 0: whole frames; `auto`: the largest that fits.
        overlap: Halo in input pixels; `exact`: the receptive radius; `auto`: as measured.
        batch: Tiles in one call of the engine.
        color_lock: preserve mean colors; None: if the model may shift them.
        steady: keep the detail of video files from frame to frame, by a strength from 0 to 1;
            `auto`: for GANs on a CPU, where OpenCV is installed.
        fidelity: `auto` interpolates small letters, which networks break; a number mixes srgan-x4,
            at 0, and srresnet-x4, at 1.
        denoise: with srgan-real-x4, from 0, which keeps noise and blocks, to 1, its own strength.
        grain: put grain that the model removes back on the results of video files.

    Raises:
        UsageError: no such model, engine or device, or an impossible option.
        ModelRefused: the model's file is foreign or damaged.
    """

    @checked
    def __init__(
        self,
        model: PathLike = AUTO,
        *,
        engine: str = "auto",
        device: str = "auto",
        fp32: bool = False,
        tile: int | Literal["auto"] = "auto",
        overlap: int | Literal["auto", "exact"] = "auto",
        batch: int = 1,
        color_lock: bool | None = None,
        steady: Steady = "auto",
        fidelity: float | Literal["auto"] | None = None,
        denoise: float | None = None,
        grain: bool = False,
    ) -> None:
        if steady != "auto":
            steady = refuse_strength(steady, f"steady={steady!r}", "'auto', or from 0 to 1")
        name = os.fspath(model)
        if isinstance(fidelity, (int, float)):
            name = mixed_model(name, FIDELITY, fidelity)
        if denoise is not None:
            name = mixed_model(name, DENOISE, denoise)
        self._options = Options(
            model=name,
            encoding=Encoding(),
            tiling=_tiling(tile, overlap, batch),
            engine=engine,
            device=device,
            fp32=fp32,
            color_lock=color_lock,
            steady=steady,
            letters=fidelity == "auto",
            grain=grain,
        )
        self._in_memory = self._options
        if self._options.model == AUTO:
            coding = Coding("in memory", False)
            suited = suited_to("image", coding, on_gpu=is_on_gpu(self._options))
            self._in_memory = replace(self._options, model=suited.model)
        files = find_model(self._in_memory.model)
        self.scale = files.spec.scale
        """Factor by which width and height grow."""
        self._choice = choose_engine(files, engine, device)
        self._engines = _Engines(self._in_memory, self._choice)
        self._by_model = {self._in_memory.model: self._engines}
        self._choosing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        choice = self._choice
        return f"<Upscaler {self._options.model} on {choice.kind.name}, {choice.device}>"

    def __call__(self, image: ImageT) -> ImageT:
        """Return the image `scale` times larger, as the same kind of object.

        Args:
            image: a PIL image (1, L, LA, P, RGB, RGBA or I;16); a NumPy array, uint8 or uint16
                [H, W] or [H, W, 1, 3 or 4]; a PyTorch tensor, uint8 or float in [0, 1], [C, H, W]
                or [N, C, H, W]; or a PyAV video frame. Gray stays gray. A fourth channel is alpha,
                which is interpolated.

        Raises:
            UsageError: another type, shape or value range; a closed upscaler.
            SrganEdgeError: the engine cannot be opened, or memory ran out.
        """
        stills, pack = unpacked(image)
        result: ImageT = self._engines.upscaled(stills, pack, 1)
        return result

    def frames(self, frames: Iterable[ImageT]) -> Iterator[ImageT]:
        """Yield the frames `scale` times larger, in their order; any images that a call accepts.

        `frames` is iterated in the thread that iterates the result, a few frames ahead: no more
        than the engine has in work, and one. Each frame is copied when it is taken, so that its
        memory may be used again. An error of `frames` is raised after the results of the frames
        before it. Stop whenever you like: what is in work ends in the background.

        Raises:
            UsageError: `frames` is not iterable; a frame that a call would refuse; a closed
                upscaler.
        """
        try:
            source = iter(frames)
        except TypeError:
            raise UsageError(
                f"got {type(frames).__name__}; possible: an iterable of images"
            ) from None
        with self._engines.using(video_slots()) as opened:
            slots = opened.upscaler.slots

        def done(frame: tuple[list[StillImage], Pack]) -> ImageT:
            result: ImageT = self._engines.upscaled(*frame, video_slots())
            return result

        results = _results_in_order(source, done, slots)
        _HELD.add(results)
        return results

    @checked
    def file(
        self,
        source: PathLike,
        target: PathLike | None = None,
        *,
        overwrite: bool = False,
        progress: Callable[[Progress], object] | None = None,
        outscale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        fit: str | None = None,
        start: str | float | None = None,
        duration: str | float | None = None,
        sample: str | None = None,
        dedup: Dedup | None = None,
        codec: str = "libx264",
        crf: int | None = None,
        preset: str | None = None,
        pix_fmt: str | None = None,
        encoder_options: Mapping[str, str] | None = None,
        deinterlace: bool = False,
        audio: AudioHandling = "convert",
        on_damage: Literal["skip", "conceal"] = "skip",
        decode: Decoder = "cpu",
        restart: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> FileReport:
        """Upscale one image or video file to the bytes that `srgan-edge upscale` writes.

        The result is whole or absent, and an interrupted video resumes after its last finished
        segment when the same call is made again, or the same command.

        Args:
            target: a file or a folder; None: `NAME_x4.EXT`, by the scale or size, beside the
                source.
            overwrite: replace a result that exists.
            progress: called after each frame, in this thread. What it raises ends the work, and is
                raised here; finished segments of a video are kept.
            outscale: Final scale, up to 16; None: the model's.
            width, height: One side of the result in pixels, instead of a scale.
            fit: Box that the result fits, such as `4k` or `1920x1080`, instead of a scale.
            start, duration: Part of a video to upscale, in seconds or as `h:mm:ss`.
            sample: Samples spread over a video, such as `3x2s`, instead of one part.
            dedup: make frames that nearly repeat an earlier one of its result: `strict` or
                `normal`.
            codec: FFmpeg encoder of a video; `crf`, `preset`, `pix_fmt` and `encoder_options`
                are its options.
            deinterlace: make one image of the two fields of a frame.
            audio: copy it, and convert to PCM what the result cannot hold; or only copy; or drop.
            on_damage: leave out frames that cannot be decoded, or show another one instead.
            decode: where videos are decoded: `cpu`, `gpu`, or `auto` (where the engine is).
            restart: start a video over instead of resuming.
            max_pixels: Largest image accepted; its result may be 16 times as large.

        Raises:
            UsageError: the target exists, is the source, or cannot hold what the source has.
            InputRefused: no such file, or not one that is accepted.
            InputDamaged: the source is damaged. If part of a video was saved, the error's `video`
                says what, and `video.saved_as` where.
            OutputFailed: the result cannot be written.
            SrganEdgeError: the engine cannot be opened, or memory ran out.
        """
        size = wanted_size(outscale, width, height, fit)
        excerpt = Excerpt.of(_text(start), _text(duration), sample)
        suffix = result_suffix(size, self.scale if outscale is None else outscale, excerpt)
        job = _job(Path(source), target, suffix)
        if excerpt is not None:
            refuse_excerpt([job])
        is_there = is_file(job.target) or job.target.is_symlink()  # a folder is never replaced
        if is_there and not overwrite and not was_finished(job, restart=restart):
            raise UsageError(f"{job.target} exists; type overwrite=True to replace it")
        refuse_outscale(outscale)
        if job.kind == "image":
            for_videos = {
                "dedup": dedup,
                "codec": codec,
                "crf": crf,
                "preset": preset,
                "pix_fmt": pix_fmt,
                "encoder_options": encoder_options,
                "deinterlace": deinterlace,
                "audio": audio,
                "on_damage": on_damage,
                "decode": decode,
                "restart": restart,
            }
            refuse_unused(Upscaler.file, f"for videos, and {source} is an image", for_videos)
        else:
            for_images = {"max_pixels": max_pixels}
            refuse_unused(Upscaler.file, f"for images, and {source} is a video", for_images)
        encoding = Encoding(codec, crf, preset, pix_fmt, dict(encoder_options or {}))
        options = replace(
            self._options,
            encoding=encoding,
            outscale=outscale,
            size=size,
            excerpt=excerpt,
            dedup=dedup,
            decode=decode,
            existing="replace" if overwrite else "refuse",
            on_damage=on_damage,
            deinterlace=deinterlace,
            audio=audio,
            restart=restart,
            max_pixels=max_pixels,
        )
        is_video, listener = job.kind == "video", _Listener(progress)
        with (
            ImageProcess(max_pixels) as images,
            self._engines_for(job, options, images, listener).using(
                video_slots() if is_video else 1, listener
            ) as opened,
        ):
            if is_video:
                device = opened.upscaler.info.device
                options = replace(options, decode=choose_decoder(decode, device, listener.note))
            try:
                outcome = do_job(job, opened, images, options, listener, exits_on_signal=False)
            except _CallbackFailed as failed:
                raise failed.error from None
            if outcome.error is not None:
                raise outcome.error
            return _report(outcome, opened, listener.notes)

    def close(self) -> None:
        """Wait for calls in other threads, then free the engines' memory.

        Raises:
            UsageError: this thread is in a call, for example in a `progress` callback.
        """
        all_engines = list(self._by_model.values())
        for engines in all_engines:
            engines.refuse_in_call()
        for engines in all_engines:
            engines.close()

    def _engines_for(
        self, job: Job, options: Options, images: ImageProcess, listener: "_Listener"
    ) -> "_Engines":
        """Return the engines of the model that suits a file, opened for later files too."""
        if self._options.model != AUTO:
            return self._engines
        suited = suited_to_job(job, options, images)
        listener.note(f"{job.source.name}: upscaled by {suited.model} ({suited.reason})")
        with self._choosing:
            if suited.model not in self._by_model:
                self._engines.refuse_closed()
                self._by_model[suited.model] = _Engines(replace(self._options, model=suited.model))
            return self._by_model[suited.model]


@checked
def upscale(
    source: PathLike,
    target: PathLike | None = None,
    model: PathLike = AUTO,
    *,
    device: str = "auto",
    tile: int | Literal["auto"] = "auto",
    overwrite: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> Path:
    """Upscale one image or video file and return the path of the result; see `Upscaler.file`."""
    with Upscaler(model, device=device, tile=tile) as up:
        return up.file(source, target, overwrite=overwrite, progress=progress).path


def models() -> list[BundledModel]:
    """Return the models that come with the package, by name."""
    found = []
    for name, model in bundled_models().items():
        spec, path = model.spec, model.files.get(".onnx") or next(iter(model.files.values()))
        scores = spec.training.scores if spec.training else {}
        size = path.stat().st_size
        found.append(BundledModel(name, spec.scale, spec.licence, dict(scores), size, path))
    return found


class _Engines:
    """The engines of an upscaler by their slots: opened when first needed, closed together."""

    def __init__(self, options: Options, choice: Choice | None = None) -> None:
        self._options, self._choice = options, choice
        self._opened: dict[int, Opened] = {}
        self._opening = threading.Lock()
        self._life = ExitStack()
        self._listeners: list[_Listener] = []
        self._changed = threading.Condition()
        self._calls: Counter[int] = Counter()  # by thread
        self._closed = False
        self._opened_in: int | None = None  # the process whose threads engines have

    @contextmanager
    def using(self, slots: int, listener: "_Listener | None" = None) -> Iterator[Opened]:
        """Yield the engine with this many slots; `listener` is notified if it is replaced."""
        if self._is_forked:
            raise UsageError(AFTER_FORK)
        thread = threading.get_ident()
        listeners = [] if listener is None else [listener]
        with self._changed:
            self.refuse_closed()
            self._calls[thread] += 1
            self._listeners += listeners
        try:
            with self._opening:
                if slots not in self._opened:
                    self._opened_in = os.getpid()
                    self._opened[slots] = self._life.enter_context(
                        open_upscaler(self._options, self._replaced, slots, self._choice)
                    )
                opened = self._opened[slots]
            yield opened
        finally:
            with self._changed:
                self._calls[thread] -= 1
                self._listeners = [it for it in self._listeners if it not in listeners]
                self._changed.notify_all()

    @property
    def _is_forked(self) -> bool:
        """Engines were opened in a process that this one was forked from."""
        return self._opened_in not in (None, os.getpid())

    def refuse_closed(self) -> None:
        """Raise a `UsageError` after `close`."""
        if self._closed:
            raise UsageError("this Upscaler is closed; make another one")

    def refuse_in_call(self) -> None:
        """Raise a `UsageError` if this thread is in a call: `close` would wait for it forever."""
        with self._changed:
            if self._calls[threading.get_ident()]:
                raise UsageError("close() inside a call of the same Upscaler; call it afterwards")

    def upscaled(self, stills: list[StillImage], pack: Pack, slots: int) -> Any:  # noqa: ANN401
        """Return what `pack` makes of the upscaled images."""
        try:
            with self.using(slots) as opened:
                return pack([upscaled(still, opened.upscaler) for still in stills])
        except MemoryError as error:
            first = stills[0]
            raise ResourcesExhausted(
                f"no memory for the result of {len(stills)} x {first.width}x{first.height} pixels; "
                "pass smaller or fewer images"
            ) from error

    def close(self) -> None:
        """Wait until no other thread uses an engine, then close them all.

        In a forked process they are left alone: their threads are in the other one.
        """
        if self._is_forked:
            return
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._calls.total())
            self._opened.clear()
            self._life.close()

    def _replaced(self, line: str) -> None:
        _log.warning("%s", line)
        for listener in self._listeners:
            listener.notes.append(line)


class _Listener(Unheard):
    """The reporter of one file: keeps its notes, and passes progress on."""

    def __init__(self, progress: Callable[[Progress], object] | None) -> None:
        self.notes: list[str] = []
        self._progress = progress
        self._total: int | None = None
        self._resumed = self._frames = 0
        self._started = time.monotonic()

    def note(self, text: str) -> None:
        _log.info("%s", text)
        self.notes.append(text)

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        self._total, self._resumed, self._frames = frames, done, done
        self._started = time.monotonic()

    def frame_done(self) -> None:
        self._frames += 1
        if self._progress is None:
            return
        seconds = max(time.monotonic() - self._started, 1e-6)
        fps = (self._frames - self._resumed) / seconds
        try:
            self._progress(Progress(self._frames, self._total, fps))
        except Exception as error:
            raise _CallbackFailed(error) from error


class _CallbackFailed(BaseException):
    """A caller's `progress` raised. Not an `Exception`, so that no handler here swallows it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


_HELD: WeakSet[Generator[Any, None, None]] = WeakSet()
"""Results of `Upscaler.frames` that a program holds, perhaps until its end."""


@atexit.register
def _close_held() -> None:
    """Close what is held while the modules that closing needs are still there."""
    for results in list(_HELD):
        with suppress(ValueError):  # a thread that ends with the process is at it
            results.close()


def _results_in_order(
    source: Iterator[ImageT],
    done: Callable[[tuple[list[StillImage], Pack]], ImageT],
    slots: int,
) -> Generator[ImageT, None, None]:
    ended_by: list[Exception] = []

    def taken() -> Iterator[tuple[list[StillImage], Pack]]:
        try:
            for frame in source:
                yield unpacked(frame)
        except Exception as error:  # raised below, after the frames before it
            ended_by.append(error)

    with closing(in_order(taken(), done, slots, slots)) as results:
        yield from cast("Iterator[ImageT]", results)
    if ended_by:
        raise ended_by[0]


def _text(time: str | float | None) -> str | None:
    """Return a time as it is typed for the command."""
    return f"{time:f}" if isinstance(time, int | float) else time


def _job(source: Path, target: PathLike | None, suffix: str) -> Job:
    try:
        source.stat()
    except OSError as error:
        raise InputRefused(f"{source}: {error.strerror}; check the name and its folder") from error
    if source.is_dir():
        raise UsageError(f"{source} is a folder; possible: one file; call file() for each in it")
    (job,) = plan_jobs([os.fspath(source)], target, Naming(suffix))
    return job


def _report(outcome: Outcome, opened: Opened, notes: list[str]) -> FileReport:
    video = outcome.video
    path = outcome.job.target if video is None else Path(video.saved_as)
    return FileReport(
        path=path,
        kind=outcome.job.kind,
        size=outcome.size,
        frames=outcome.frames,
        seconds=outcome.seconds,
        fps=outcome.frames_per_second,
        tiles_redone=outcome.tiles_redone,
        sha256=sha256_of(path),
        notes=tuple(notes),
        made_by=opened.made_by,
        video=video,
    )


def _tiling(
    tile: int | Literal["auto"], overlap: int | Literal["auto", "exact"], batch: int
) -> Tiling:
    plan_tiles(1, 1, 0 if tile == "auto" else tile, overlap if isinstance(overlap, int) else 0)
    if batch < 1:
        raise UsageError(f"batch={batch}; possible: 1 and up")
    return Tiling(tile, overlap, batch, joined=True)
