"""Upscale a video in one pass, from or to a pipe or a live source.

Input that cannot be read twice cannot be resumed, joined or compared: frames go straight from the
source to the result. A live source may have no end, so a signal ends it. With `--live`, where the
newest frame matters more than every frame, older frames are dropped.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from srgan_edge.errors import InputDamaged, Interrupted, ReaderGone
from srgan_edge.files import output_failed
from srgan_edge.grain import finish
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Reporter, VideoDamaged, VideoResult, remarks_after, remarks_on
from srgan_edge.live.source import Intake, LiveSource, Source, StreamReader
from srgan_edge.live.writer import VideoWriter
from srgan_edge.pipeline import (
    ConsumerGone,
    Item,
    NewestChannel,
    Result,
    upscale_video,
    upscaled_frame,
)
from srgan_edge.pixels import Pixels
from srgan_edge.signals import StopSignals, stop_signals
from srgan_edge.steady import Link, Steadier, refuse_too_large, strength_of
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.endpoint import Address, InputPipe
from srgan_edge.video.frame import (
    CodedFrame,
    CopiedPacket,
    Encoding,
    Frame,
    Notes,
    ReaderOptions,
    VideoInfo,
)
from srgan_edge.video.reader import VideoReader

NEWEST_FRAMES = 2
"""Frames that wait when others are dropped. One alone would drop one of two that arrive close
together."""

GLANCE_SECONDS = 0.1
"""Interval of checking for a signal, which must not interrupt a library call."""

FINISH_SECONDS = 1.0
"""Time after a signal to finish the frames in progress; slower frames are abandoned."""


def upscale_stream(
    job: Job, upscaler: FrameUpscaler, options: Options, reporter: Reporter
) -> VideoResult:
    """Upscale from the job's source to its target; at least one of them is not a file.

    Returns when the source ends. A target file does not exist until it is complete.

    Raises:
        InputRefused: Nothing comes, or no video.
        InputDamaged: The source broke; the message names the file with everything before.
        OutputFailed: The target cannot be written.
        UsageError: The encoder or the container does not support the request.
        Interrupted: A signal came. The result of a live source up to there is complete and named.
        ReaderGone: The reader of standard output closed it.
    """
    is_live = options.live or isinstance(job.inlet, Address)
    if isinstance(job.inlet, Address):
        source: Source = LiveSource(job.inlet, reporter.note, paced=options.live, **options.reading)
    else:
        source = _Once(job, options.reading)
    intake = Intake(source)
    reader = intake.reader()
    size = options.video_size(reader.info, upscaler.scale)
    strength = strength_of(options.steady)
    if strength:
        refuse_too_large(reader.info.width * upscaler.scale, reader.info.height * upscaler.scale)
    target = job.target if job.outlet is None else job.outlet
    writer = VideoWriter(
        *(target, reader, size, _encoding(options)),
        audio=options.audio,
        overwrite=options.overwrite,
    )
    for remark in _remarks_before(reader, options, writer):
        reporter.note(f"{job.source.name}: {remark}")
    reporter.started(job, reader.info.frames_expected)
    newest = NewestChannel[Item](NEWEST_FRAMES, _is_frame) if options.live else None
    delays = Delays()
    gate = _Gate(writer, delays, on_failure=intake.stop)

    steadier = Steadier[Frame](strength) if strength else None
    grained = finish(options.grain)

    def upscaled(link: Link[Frame]) -> CodedFrame:
        def pixels_of(pixels: Pixels) -> Pixels:
            if steadier is None:
                return grained(pixels, upscaler.upscale(pixels))
            return grained(
                pixels, steadier.steadied(link, pixels, lambda: upscaler.upscale(pixels))
            )

        return writer.coded(upscaled_frame(link.item, pixels_of))

    def taken(frame: Frame) -> Link[Frame]:
        return Link(frame, 0, None) if steadier is None else steadier.link(frame)

    flow = _Flow(intake, taken, upscaled, upscaler.slots, gate, delays)

    def result(place: Path) -> VideoResult:
        return VideoResult(
            saved_as=str(place),
            frames=writer.frames_written,
            size=size,
            frames_resumed=0,
            frames_untimed=source.notes.untimed,
            frames_nudged=source.notes.nudged,
            packets_copied=gate.packets,
            packets_nudged=writer.nudged,
            packets_refused=writer.refused,
            frames_concealed=source.notes.concealed,
            left_out=writer.left_out,
            frames_dropped=0 if newest is None else newest.dropped,
        )

    try:
        with stop_signals() as signals, ExitStack() as life:
            life.enter_context(writer)
            upscaling = _Apart(lambda: flow.run(reporter.frame_done, newest))
            if not upscaling.wait(signals):
                intake.stop()
                if is_live:
                    upscaling.wait(signals, FINISH_SECONDS)
                if not gate.shut(None if job.outlet is None else FINISH_SECONDS / 2):
                    life.pop_all()  # a thread is stuck in it until the process ends
                    raise Interrupted(signals.received)
                if not is_live:
                    raise Interrupted(signals.received)
            if job.outlet is not None:
                closing = _Apart(life.pop_all().close)
                if not closing.wait(signals, FINISH_SECONDS / 2):
                    raise Interrupted(signals.received)
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise output_failed(job.target, error) from error
    except InputDamaged as error:
        if writer.saved_as is None:
            raise
        line = f"{error}; what came before is in {writer.saved_as}"
        raise VideoDamaged(line, result(writer.saved_as)) from error
    notes = source.notes
    for remark in _remarks_after(reader.info, notes, options, writer, delays, newest):
        reporter.note(f"{job.source.name}: {remark}")
    if signals.received:
        kept = f"the {writer.frames_written} frames until then are in {job.target}"
        if notes.damage:
            kept += f"; damaged: {notes.damage}"
        raise Interrupted(signals.received, kept)
    if notes.damage:  # all of it was made up for, or it would have been raised
        raise VideoDamaged(
            f"{job.source}: damaged: {notes.damage}; {notes.concealed} of "
            f"{writer.frames_written} frames show another one; all are in {job.target}",
            result(job.target),
        )
    if writer.refused:
        raise VideoDamaged(
            f"{job.source}: damaged: {writer.refusal}; everything else is in {job.target}",
            result(job.target),
        )
    return result(job.target)


class _Apart(threading.Thread):
    """Runs a slow call in its own thread so that the main thread can handle signals."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(name="stream", daemon=True)
        self._call = call
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    def wait(self, signals: StopSignals, grace_seconds: float = 0.0) -> bool:
        """Wait for the end of the call, or `grace_seconds` after a signal; return whether it ended.

        An error of the call is raised here.
        """
        while not (signals.received or self._ended.wait(GLANCE_SECONDS)):
            pass
        if not self._ended.wait(grace_seconds):
            return False
        if self._error is not None:
            raise self._error
        return True


class Delays:
    """Measures how long frames take from the decoder into the result.

    `arrived` and `left` may be called in two threads. Frames leave in the order of their arrival;
    those that never leave are not measured.
    """

    def __init__(self) -> None:
        self.arrivals = self.departures = 0
        self.longest_seconds = 0.0
        self._sum_seconds = 0.0
        self._under_way: deque[tuple[int, float]] = deque()  # pts and time of arrival

    @property
    def mean_seconds(self) -> float:
        return self._sum_seconds / max(1, self.departures)

    def arrived(self, pts: int) -> None:
        """Record that a frame was decoded."""
        self.arrivals += 1
        self._under_way.append((pts, time.monotonic()))

    def left(self, pts: int) -> None:
        """Record that a frame is in the result; earlier ones that are not there were dropped."""
        at, since = self._under_way.popleft()
        while at != pts:
            at, since = self._under_way.popleft()
        seconds = time.monotonic() - since
        self.departures += 1
        self._sum_seconds += seconds
        self.longest_seconds = max(self.longest_seconds, seconds)


class _Flow:
    """The pipeline between an intake and a gate."""

    def __init__(
        self,
        intake: Intake,
        taken: Callable[[Frame], Link[Frame]],
        upscale: Callable[[Link[Frame]], CodedFrame],
        slots: int,
        gate: "_Gate",
        delays: Delays,
    ) -> None:
        self._intake, self._taken, self._upscale, self._slots = intake, taken, upscale, slots
        self._gate, self._delays = gate, delays

    def run(self, on_frame: Callable[[], None], newest: NewestChannel[Item] | None) -> None:
        upscale_video(
            self._arriving(),
            self._upscale,
            self._gate,
            on_frame,
            self._slots,
            self._intake.stop,
            newest,
            taken=self._taken,
        )

    def _arriving(self) -> Iterator[Item]:
        for item in self._intake:
            if isinstance(item, Frame):
                self._delays.arrived(item.pts)
            yield item


class _Gate:
    """Passes items to a writer until it is shut; from then on, the writer is not used."""

    def __init__(self, writer: VideoWriter, delays: Delays, on_failure: Callable[[], None]) -> None:
        self.packets = 0
        """Copied packets that passed."""
        self._writer, self._delays, self._on_failure = writer, delays, on_failure
        self._passage = threading.Lock()
        self._is_shut = False

    def write(self, frame: Result) -> None:
        with self._passing():
            self._writer.write(frame)
            self._delays.left(frame.pts)

    def copy(self, copied: CopiedPacket) -> None:
        with self._passing():
            self._writer.copy(copied)
            self.packets += 1

    def shut(self, within_seconds: float | None) -> bool:
        """Wait for the item that is passing, without limit if None; return whether it passed."""
        if not self._passage.acquire(timeout=-1 if within_seconds is None else within_seconds):
            return False
        self._is_shut = True
        self._passage.release()
        return True

    @contextmanager
    def _passing(self) -> Iterator[None]:
        with self._passage:
            if self._is_shut:
                raise ConsumerGone
            try:
                yield
            except BaseException:
                self._on_failure()
                raise


class _Once:
    """A file or a pipe as a source, read once from start to end."""

    def __init__(self, job: Job, reading: ReaderOptions) -> None:
        self._job, self._reading = job, reading

    @property
    def notes(self) -> Notes:
        return self._reader.notes

    def open(self) -> VideoReader:
        if isinstance(self._job.inlet, InputPipe):
            self._reader: VideoReader = StreamReader(self._job.inlet, **self._reading)
        else:
            self._reader = VideoReader(self._job.source, **self._reading)
        return self._reader

    def __iter__(self) -> Iterator[Item]:
        return iter(self._reader)


def _encoding(options: Options) -> Encoding:
    """Return the requested settings; for a live result, x264 and x265 must not look ahead."""
    encoding = options.encoding
    if options.live and encoding.codec in ("libx264", "libx265"):
        return replace(encoding, options={"tune": "zerolatency"} | encoding.options)
    return encoding


def _is_frame(item: Item) -> bool:
    return isinstance(item, Frame)


def _remarks_before(reader: VideoReader, options: Options, writer: VideoWriter) -> Iterator[str]:
    """Yield what is uncertain or differs from the source, before the first frame."""
    unknown = reader.info.duration_seconds is None
    yield "in one pass, which cannot be resumed" + (
        "; states no length: whether it ends early cannot be known" if unknown else ""
    )
    if options.decode == "gpu":
        yield "decoded on the CPU, as what fails on the GPU has to be read again"
    yield from (f"left out: {lost}" for lost in writer.left_out)
    yield from writer.remarks
    yield from remarks_on(reader.info, options)


def _remarks_after(
    info: VideoInfo,
    notes: Notes,
    options: Options,
    writer: VideoWriter,
    delays: Delays,
    newest: NewestChannel[Item] | None,
) -> Iterator[str]:
    """Yield remarks that need the whole video, and the fate of its frames."""
    yield from (f"left out: {lost}" for lost in writer.left_out_within())
    yield from remarks_after(info, notes, options, writer.nudged)
    dropped = 0 if newest is None else newest.dropped
    if newest is not None:
        yield (
            f"{delays.departures} of {delays.arrivals} frames upscaled, {dropped} dropped for "
            f"newer ones; from decoder to result {delays.mean_seconds:.2f} s, "
            f"at most {delays.longest_seconds:.2f} s"
        )
    if let_go := delays.arrivals - delays.departures - dropped:
        yield f"{let_go} frames were under way at the end and let go"
