"""Everything that one service holds: its jobs, its workers, its limits, and how it ends."""

import fcntl
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from srgan_edge.errors import OutputFailed, UsageError, quoted
from srgan_edge.model.library import bundled_models, registered_models
from srgan_edge.serve.events import Changes
from srgan_edge.serve.images import ImageWorkers
from srgan_edge.serve.keeping import Keeper
from srgan_edge.serve.log import Log
from srgan_edge.serve.metrics import Metrics
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.settings import Settings
from srgan_edge.serve.store import Job, JobStore, NewJob, new_id
from srgan_edge.serve.tokens import Tokens
from srgan_edge.serve.videos import VideoWorker
from srgan_edge.serve.work import Ended
from srgan_edge.suited import AUTO

_RETRY_SECONDS = 10


class Service:
    """One service on one data folder. `start` and `stop` are those of its threads.

    Raises:
        OutputFailed: another service has the folder, or it cannot be written.
        UsageError: it would listen to other machines without any token.
    """

    def __init__(self, settings: Settings, log: Log | None = None) -> None:
        self.settings, self.log, self.changes = settings, log or Log(), Changes()
        self._life = ExitStack()
        with ExitStack() as opened:  # which is undone unless all of it works out
            try:
                self.store = JobStore(settings.data, self.changes.publish)
                opened.callback(self.store.close)
                _lock(settings.data, opened)
                self._going_on = self.store.recover()
            except BlockingIOError:
                raise OutputFailed(
                    f"another service has {settings.data}; name another folder with --data"
                ) from None
            except OSError as error:
                raise OutputFailed(
                    f"cannot write {settings.data}: {error}; name another folder with --data"
                ) from error
            self.tokens = Tokens(self.store.database)
            if not settings.is_local and not self.tokens.are_required:
                raise UsageError(
                    f"--host {settings.host} without a token lets everybody in; make one first, "
                    f"type: srgan-edge serve --data {quoted(settings.data)} --new-token NAME"
                )
            self._life = opened.pop_all()
        self.images = ImageWorkers(settings, self.store, self.log, self._ended)
        self.videos = VideoWorker(settings, self.store, self.log, self._ended)
        self.metrics = Metrics(self.store, self.images)
        self.keeper = Keeper(settings, self.store, self.log)
        self.draining = False
        self._drain_ends = 0.0
        self._uploading: Counter[str] = Counter()
        self._admitting = threading.Lock()
        self._requests = 0

    def start(self) -> None:
        """Go on with the jobs of the last service, and begin to work."""
        self.log.info("started", data=str(self.settings.data), going_on=self._going_on)
        self.images.start()
        self.videos.start()
        self.keeper.start()

    def drain(self) -> None:
        """Accept no more jobs, and end the event streams; a signal handler may call it."""
        self.draining = True
        self._drain_ends = self._drain_ends or time.monotonic() + self.settings.drain_seconds
        self.changes.close()

    def stop(self) -> None:
        """Finish images, hand videos back, and close everything, by the end of the drain."""
        self.drain()
        stopping = threading.Thread(target=self.videos.stop)
        stopping.start()
        self.images.stop(max(0.0, self._drain_ends - time.monotonic()))
        stopping.join()
        self.keeper.stop()
        self.log.info("stopped", **self.store.counts())
        self.close()

    def close(self) -> None:
        """Close the database, and let another service have the folder."""
        self._life.close()

    def models(self) -> list[str]:
        """Return the names that requests may give as their model."""
        known = [AUTO, *bundled_models(), *registered_models()]
        named = self.settings.models
        return [name for name in known if not named or name in named]

    @contextmanager
    def admitted(self, client: str, coming_bytes: int) -> Iterator[Path]:
        """Yield a folder for one upload, which is gone afterwards unless it was renamed.

        Raises:
            Problem: the service drains, the client or the queue has enough, or the disk is full.
        """
        self.refuse_while_draining()
        with self._admitting:
            own, all_waiting = self.store.waiting(client), self.store.waiting()
            if own + self._uploading[client] >= self.settings.max_jobs:
                raise Problem(
                    "too-many",
                    f"{own} jobs of this client are not done",
                    f"{self.settings.max_jobs} of a client",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            if all_waiting + self._uploading.total() >= self.settings.max_queue:
                raise Problem(
                    "too-many",
                    f"{all_waiting} jobs are not done",
                    f"{self.settings.max_queue} in all",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            self._uploading[client] += 1
        try:
            with self.incoming(coming_bytes) as folder:
                yield folder
        finally:
            with self._admitting:
                self._uploading[client] -= 1
                self._uploading += Counter()  # forgets those with none

    @contextmanager
    def incoming(self, coming_bytes: int) -> Iterator[Path]:
        """Yield an empty folder that is removed afterwards, unless it was renamed."""
        self.store.refuse_unless_in_place()
        self.keeper.refuse_without_room(coming_bytes)
        folder = self.store.incoming / new_id()
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def waiting_request(self) -> Iterator[None]:
        """Count a request of `/v1/upscale` until the block ends.

        Raises:
            Problem: too many are under way.
        """
        if self._requests >= self.settings.max_waiting:  # only the event loop's thread comes here
            raise Problem(
                "too-many",
                f"{self._requests} images are waiting",
                f"{self.settings.max_waiting}",
                retry_after_seconds=1,
            )
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def refuse_while_draining(self) -> None:
        if self.draining:
            raise Problem("draining", "no jobs are accepted any more", retry_after_seconds=30)

    def accept(self, folder: Path, job: NewJob) -> Job:
        """Move an upload to its place and queue it; from then on it survives any kill."""
        folder.rename(self.store.folder_of(job.id))
        try:
            accepted = self.store.add(job)
        except BaseException:
            shutil.rmtree(self.store.folder_of(job.id), ignore_errors=True)
            raise
        self.metrics.uploaded.inc(job.bytes)
        (self.images if job.kind == "image" else self.videos).wake()
        return accepted

    def cancel_or_delete(self, job: Job) -> Job | None:
        """Cancel a job that is queued or running; delete any other, and return None."""
        if self.store.end(job.info.id, "cancelled", error="cancelled by its client"):
            self.images.cancel(job.info.id)
            self.videos.cancel(job.info.id)
            return self.store.find(job.info.id)
        self.store.delete(job.info.id)
        return None

    def _ended(self, job: Job, ended: Ended) -> None:
        kind = job.info.kind
        self.metrics.ended.labels(kind, str(ended.exit_code)).inc()
        self.metrics.frames.labels(kind).inc(ended.frames)
        self.metrics.job_seconds.labels(kind).observe(max(0.0, time.time() - job.info.created))
        self.log.info(
            "ended", job=job.info.id, kind=kind, exit_code=ended.exit_code, client=job.client
        )


def _lock(folder: Path, life: ExitStack) -> None:
    """Keep other services from a folder until `life` ends, or this process.

    Raises:
        BlockingIOError: another one has it.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    life.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_ready(service: Service) -> str | None:
    """Return why the service cannot take a job now; None: it can."""
    if service.draining:
        return "the service is being stopped"
    try:
        service.store.refuse_unless_in_place()
        service.keeper.refuse_without_room(0)
        service.store.last_change()
    except Problem as problem:
        return problem.detail
    except OSError as error:
        return Problem.of_failure(error).detail
    return service.images.trouble or service.videos.trouble
