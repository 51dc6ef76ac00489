"""Images: several threads on one engine of each model, for queued jobs and for waiting requests.

Each thread decodes in a child process of its own. Requests and queued jobs take turns.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from srgan_edge.engines import video_slots
from srgan_edge.errors import ResourcesExhausted, SrganEdgeError
from srgan_edge.files import sha256_of
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.jobs.plan import Job as PlannedJob
from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.reporters import Heard, Outcome
from srgan_edge.run import Opened, do_job, open_upscaler
from srgan_edge.serve.batching import SharedCalls
from srgan_edge.serve.job import State
from srgan_edge.serve.log import Log
from srgan_edge.serve.patience import Patience
from srgan_edge.serve.settings import Settings
from srgan_edge.serve.store import Job, JobStore
from srgan_edge.serve.work import Ended, in_clients_words
from srgan_edge.suited import AUTO, is_on_gpu, suited_to_job
from srgan_edge.tiling import Tiling
from srgan_edge.video.frame import Encoding

GPU_THREADS = 8
"""Images at once on a GPU, which batches can be made of."""
GPU_WINDOW_MS = 5.0
GIVE_UP_SECONDS = 3.0
"""Time for images that were not done in time to notice it, at their next tile."""
MODELS_KEPT = 4
"""Engines that stay open; the one unused for longest is closed for another."""


@dataclass(eq=False)
class Request:
    """An image that a client waits for."""

    planned: PlannedJob
    model: str
    outscale: float | None
    name: str
    future: "Future[Ended]" = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)
    """Set when the client has gone."""


class _Stopped(BaseException):
    """The image is not wanted, or took too long. Not an `Exception`, so that nothing handles it."""


class ImageWorkers:
    """Threads that upscale images.

    Args:
        on_end: called with a queued job and its outcome when one has ended.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        log: Log,
        on_end: Callable[[Job, Ended], None],
    ) -> None:
        self._settings, self._store, self._log, self._on_end = settings, store, log, on_end
        self._options = Options(
            model=settings.model,
            engine=settings.engine,
            device=settings.device,
            encoding=Encoding(),
            tiling=Tiling(joined=True),
            max_pixels=settings.max_pixels,
            existing="replace",  # a kill may come between the result and the row
        )
        on_gpu = is_on_gpu(self._options)
        self._slots = GPU_THREADS if on_gpu else video_slots()
        window_ms = settings.batch_window_ms
        window_ms = (GPU_WINDOW_MS if on_gpu else 0.0) if window_ms is None else window_ms
        self.models = _Models(self._options, self._slots, window_ms / 1000, log)
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._patience = Patience(log, self._stopping)
        self._giving_up = threading.Event()
        self._running: set[str] = set()
        self._cancelled: set[str] = set()
        self._threads = [
            threading.Thread(target=self._work, name=f"images-{number}", daemon=True)
            for number in range(self._slots)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look for queued jobs now."""
        with self._changed:
            self._changed.notify()

    def submit(self, request: Request) -> None:
        """Upscale an image that a client waits for; `request.future` has its outcome."""
        self._requests.put(request)
        self.wake()

    @property
    def waiting(self) -> int:
        """Number of requests that no thread has begun."""
        return self._requests.qsize()

    def cancel(self, job_id: str) -> None:
        """Stop the job if it runs; its row says already that it is cancelled."""
        if job_id in self._running:
            self._cancelled.add(job_id)

    def stop(self, seconds: float) -> None:
        """Finish the images at work, within `seconds`; others stay queued, or are again."""
        with self._changed:
            self._stopping.set()
            self._changed.notify_all()
        self._join(seconds)
        self._giving_up.set()
        self._join(GIVE_UP_SECONDS)
        if not self.is_at_work:
            self.models.close()

    @property
    def is_at_work(self) -> bool:
        """True while any thread runs."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def trouble(self) -> str | None:
        """Why queued images do not go on now; None: they do."""
        if not all(thread.is_alive() for thread in self._threads):
            return "images are not worked on; the log has a traceback"
        return self._patience.trouble

    def _join(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, ends - time.monotonic()))

    def _work(self) -> None:
        prefers_queue = False
        with ImageProcess(self._settings.max_pixels) as images:
            while (found := self._next(prefers_queue)) is not None:
                prefers_queue = isinstance(found, Request)
                try:
                    if isinstance(found, Request):
                        self._answer(found, images)
                    else:
                        self._run(found, images)
                except Exception as error:
                    self._log.failure("image", error)
                    ended = Ended(1, "the service failed; its log has a traceback")
                    if isinstance(found, Request):
                        found.future.set_result(ended)
                    else:
                        self._end(found, ended, 0.0)

    def _next(self, prefers_queue: bool) -> Request | Job | None:
        """Wait for work; None: the service stops. Requests and queued jobs take turns."""
        while not self._stopping.is_set():
            if prefers_queue and (job := self._queued()):
                return job
            with suppress(queue.Empty):
                return self._requests.get_nowait()
            if job := self._queued():
                return job
            with self._changed:
                if not self._stopping.is_set() and self._requests.empty():
                    self._changed.wait(2.0)
        return None

    def _queued(self) -> Job | None:
        return self._patience.attempt(lambda: self._store.take("image"))

    def _answer(self, request: Request, images: ImageProcess) -> None:
        if request.given_up.is_set() or not request.future.set_running_or_notify_cancel():
            return
        options = replace(self._options, model=request.model, outscale=request.outscale)
        listener = _Listener(request.given_up.is_set, self._settings.max_seconds)
        ended = self._upscaled(request.planned, options, images, listener, request.name)
        request.future.set_result(ended)

    def _run(self, job: Job, images: ImageProcess) -> None:
        began = time.monotonic()
        self._running.add(job.info.id)
        planned = PlannedJob(job.source, job.target, "image")
        options = replace(self._options, model=job.info.model, outscale=job.info.outscale)
        listener = _Listener(
            lambda: job.info.id in self._cancelled or self._giving_up.is_set(),
            self._settings.max_seconds,
        )
        ended = self._upscaled(planned, options, images, listener, job.info.name)
        if ended.exit_code and self._giving_up.is_set():
            self._patience.insist(
                lambda: self._store.hand_back(job.info.id, time.monotonic() - began)
            )
            return
        self._running.discard(job.info.id)
        self._cancelled.discard(job.info.id)
        self._end(job, ended, time.monotonic() - began)

    def _end(self, job: Job, ended: Ended, seconds: float) -> None:
        values = {
            "exit_code": ended.exit_code,
            "error": ended.error,
            "frames": ended.frames,
            "size": ended.size,
            "sha256": ended.sha256,
            "result_bytes": None if ended.result is None else ended.result.stat().st_size,
            "notes": ended.notes,
            "seconds": seconds,
        }
        state: State = "done" if ended.exit_code == 0 else "failed"
        if self._patience.insist(lambda: self._store.end(job.info.id, state, **values)):
            self._on_end(job, ended)

    def _upscaled(
        self,
        planned: PlannedJob,
        options: Options,
        images: ImageProcess,
        listener: "_Listener",
        name: str,
    ) -> Ended:
        """Carry out one command as `srgan-edge upscale` does."""
        try:
            if options.model == AUTO:
                suited = suited_to_job(planned, options, images)
                listener.note(f"upscaled by {suited.model} ({suited.reason})")
                options = replace(options, model=suited.model)
            with self.models.using(options.model) as opened:
                outcome = do_job(planned, opened, images, options, listener, exits_on_signal=False)
            error = outcome.error
        except SrganEdgeError as failed:
            outcome, error = Outcome(planned), failed
        except _Stopped as stopped:
            outcome, error = Outcome(planned), ResourcesExhausted(str(stopped))

        def words(text: str) -> str:
            return in_clients_words(text, planned.source, planned.target, name)

        notes = tuple(map(words, listener.notes))
        if error is not None:
            return Ended(error.exit_code, words(str(error)), notes=notes)
        digest = sha256_of(planned.target)
        return Ended(0, None, outcome.frames, outcome.size, digest, planned.target, notes)


class _Models:
    """The engines that are open, by model, shared by all threads."""

    def __init__(self, options: Options, slots: int, window_seconds: float, log: Log) -> None:
        self._options, self._slots, self._window_seconds = options, slots, window_seconds
        self._log = log
        self._lock = threading.Lock()
        self._open: dict[str, _Model] = {}

    @contextmanager
    def using(self, name: str) -> Iterator[Opened]:
        """Yield an open model; another one that nobody uses may be closed for it."""
        with self._lock:
            model = self._open.pop(name, None) or self._opened(name)
            self._open[name] = model  # behind the others, as the latest one used
            model.users += 1
            for other, it in [*self._open.items()]:
                if len(self._open) > MODELS_KEPT and not it.users:
                    self._open.pop(other).close()
        try:
            with model.working():
                yield model.opened
        finally:
            with self._lock:
                model.users -= 1

    def batches(self) -> tuple[int, int]:
        """Return the calls of shared engines so far, and the images in them."""
        shared = [it.shared for it in [*self._open.values()] if it.shared is not None]
        return sum(it.calls for it in shared), sum(it.images for it in shared)

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _opened(self, name: str) -> "_Model":
        model = _Model(
            replace(self._options, model=name), self._slots, self._window_seconds, self._log
        )
        self._log.info("model", text=model.opened.summary)
        return model


class _Model:
    """One open model."""

    def __init__(self, options: Options, slots: int, window_seconds: float, log: Log) -> None:
        self.users = 0
        self.shared: SharedCalls | None = None
        self._life = ExitStack()

        def shared(engine: Any) -> Any:  # noqa: ANN401 - an Engine
            if window_seconds > 0 and engine.info.fixed_shape is None:
                self.shared = SharedCalls(engine, window_seconds, slots)
                return self.shared
            return engine

        opening = open_upscaler(
            options, lambda line: log.warning("engine", text=line), slots, shared=shared
        )
        self.opened = self._life.enter_context(opening)

    @contextmanager
    def working(self) -> Iterator[None]:
        with ExitStack() as counted:
            if self.shared is not None:
                counted.enter_context(self.shared.working())
            yield

    def close(self) -> None:
        self._life.close()


class _Listener(Heard):
    """The reporter of one image: keeps notes, and stops it when nobody wants it any more."""

    def __init__(self, unwanted: Callable[[], bool], max_seconds: float) -> None:
        super().__init__()
        self._unwanted, self._max_seconds = unwanted, max_seconds
        self._began = time.monotonic()

    def frame_done(self) -> None:
        self._go_on()

    def tiles_done(self, done: int, total: int) -> None:
        self._go_on()

    def _go_on(self) -> None:
        if self._unwanted():
            raise _Stopped("cancelled")
        if time.monotonic() - self._began > self._max_seconds:
            raise _Stopped(f"the image took longer than {self._max_seconds:g} s, the limit")
