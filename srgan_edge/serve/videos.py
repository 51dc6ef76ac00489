"""Videos: one at a time, each by an `srgan-edge upscale` process of its own, which resumes.

The process dies with the service, and its segments stay. It yields to images by its priority.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from srgan_edge.errors import ResourcesExhausted, SrganEdgeError, printable
from srgan_edge.files import sha256_of
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.serve.job import State
from srgan_edge.serve.log import Log
from srgan_edge.serve.patience import Patience
from srgan_edge.serve.settings import Settings
from srgan_edge.serve.store import Job, JobStore
from srgan_edge.serve.work import Ended, in_clients_words, outcome_in

REPORT = "report.json"
STOP_SECONDS = 8.0
"""Time from SIGTERM to SIGKILL; `upscale` stops within some."""
ATTEMPTS = 3
"""Processes that may be killed by others, such as the kernel, before a job counts as failed."""

_NICENESS = 5
_STARTS = """
import os, sys
from srgan_edge.isolation.sandbox import die_with
die_with(int(sys.argv[1]))
os.nice(int(sys.argv[2]))
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""
_ADOPTED = (0, 4)
"""Exit codes of reports that hold a result, even if the service died before it read them."""
_LINE_BYTES = 1 << 20


class VideoWorker:
    """A thread that upscales the queued videos.

    Args:
        on_end: called with the job and its outcome when one has ended.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        log: Log,
        on_end: Callable[[Job, Ended], None],
    ) -> None:
        self._settings, self._store, self._log, self._on_end = settings, store, log, on_end
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._patience = Patience(log, self._stopping)
        self._lock = threading.Lock()
        self._running: _Command | None = None
        self._thread = threading.Thread(target=self._work, name="videos", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look for queued jobs now."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Stop the job if it runs; its row says already that it is cancelled."""
        with self._lock:
            if self._running is not None and self._running.job.info.id == job_id:
                self._running.stop()

    def stop(self) -> None:
        """Hand the running job back, which the next service goes on with, and end the thread."""
        self._stopping.set()
        self._wake.set()
        with self._lock:
            if self._running is not None:
                self._running.stop()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS + 5)

    @property
    def trouble(self) -> str | None:
        """Why queued videos do not go on now; None: they do."""
        if not self._thread.is_alive():
            return "videos are not worked on; the log has a traceback"
        return self._patience.trouble

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            job = self._patience.attempt(lambda: self._store.take("video"))
            if job is None:
                self._wake.wait(5)
                continue
            try:
                self._upscale(job)
            except Exception as error:
                self._log.failure("video", error, job=job.info.id)
                ended = Ended(1, "the service failed; its log has a traceback")
                self._end(job, ended, 0.0)

    def _upscale(self, job: Job) -> None:
        known = outcome_in(job.folder / REPORT)
        if known is not None and known.exit_code in _ADOPTED:
            self._end(job, known, 0.0)
            return
        for attempt in range(1, ATTEMPTS + 1):
            began = time.monotonic()
            command = _Command(job, self._settings)
            with self._lock:
                self._running = command
                if self._stopping.is_set():
                    command.stop()
            try:
                for frames, expected, notes in command.progress():
                    with suppress(OSError):  # of a full disk; the next progress has it all
                        self._store.progress(job.info.id, frames, expected, self._words(job, notes))
                ended = command.ended()
            finally:
                command.kill()  # which has ended, but for a bug here
                with self._lock:
                    self._running = None
            seconds = time.monotonic() - began
            if command.was_stopped and not command.ran_out and ended is None:
                self._hand_back(job, seconds)  # unless it was cancelled
                return
            if command.ran_out:
                limit = f"{self._settings.max_seconds:g} s"
                ended = Ended(
                    ResourcesExhausted.exit_code, f"the job took longer than {limit}, the limit"
                )
            if ended is not None:
                self._end(job, ended, seconds)
                return
            self._log.warning("killed", job=job.info.id, attempt=attempt, how=command.how_it_ended)
        ended = Ended(
            ResourcesExhausted.exit_code,
            f"upscaling was killed {ATTEMPTS} times, memory may be short",
        )
        self._end(job, ended, 0.0)

    def _end(self, job: Job, ended: Ended, seconds: float) -> None:
        result = ended.result
        if ended.exit_code == 0 and result is None:  # published by a process that died right after
            result = job.target
        if result is not None and not result.exists():  # deleted by its client meanwhile
            result = None
        digest = ended.sha256 or (None if result is None else sha256_of(result))
        (error,) = self._words(job, (ended.error,)) if ended.error else (None,)
        values = {
            "exit_code": ended.exit_code,
            "error": error,
            "frames": ended.frames or job.info.frames_expected or job.info.frames,
            "size": ended.size or (None if result is None else _size_of(result)),
            "sha256": digest,
            "result_bytes": None if result is None else result.stat().st_size,
            "target": job.target.name if result is None else result.name,
            "notes": self._words(job, ended.notes),
            "seconds": seconds,
        }
        state: State = "done" if ended.exit_code == 0 else "failed"
        if self._patience.insist(lambda: self._store.end(job.info.id, state, **values)):
            self._on_end(job, ended)

    def _hand_back(self, job: Job, seconds: float) -> None:
        self._patience.insist(lambda: self._store.hand_back(job.info.id, seconds))

    def _words(self, job: Job, lines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(in_clients_words(it, job.source, job.target, job.info.name) for it in lines)


def _size_of(result: Path) -> str | None:
    """Return width and height of a result whose process died before it could report them."""
    try:
        with IsolatedReader(result) as reader:
            return f"{reader.info.width}x{reader.info.height}"
    except SrganEdgeError:
        return None


class _Command:
    """One `srgan-edge upscale` process."""

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job = job
        self.was_stopped = self.ran_out = False
        self._complaints: deque[str] = deque(maxlen=40)
        (job.folder / REPORT).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _STARTS, str(os.getpid()), str(_NICENESS)),
                *("-m", "srgan_edge", "upscale", str(job.source), "-o", str(job.target)),
                *("-n", job.info.model, "--engine", settings.engine, "--device", settings.device),
                *([] if job.info.outscale is None else ["-s", f"{job.info.outscale:g}"]),
                *("--skip-existing", "--json-events", "--report", str(job.folder / REPORT)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # Ctrl-C reaches the service alone, which hands its jobs back
        )
        left_seconds = max(0.1, settings.max_seconds - job.info.seconds)
        self._limit = threading.Timer(left_seconds, self._run_out)
        self._limit.daemon = True
        self._limit.start()
        self._reading = threading.Thread(target=self._keep_complaints, daemon=True)
        self._reading.start()

    def progress(self) -> Iterator[tuple[int, int | None, tuple[str, ...]]]:
        """Yield frames done, frames to expect and the notes so far, until the process ends."""
        expected: int | None = None
        frames, notes = 0, []
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(_LINE_BYTES):
            with suppress(ValueError):
                event = json.loads(line)
                match event.get("event"):
                    case "note":
                        notes.append(str(event["text"]))
                    case "started":
                        expected, frames = event["frames"], event["done"]
                    case "progress":
                        frames = event["frames"]
                    case _:
                        continue
                yield frames, expected, tuple(notes)
        self._process.stdout.close()

    def ended(self) -> Ended | None:
        """Return the outcome; None if the process was killed or stopped before it had one."""
        code = self._process.wait()
        self._limit.cancel()
        self._reading.join(5)
        outcome = outcome_in(self.job.folder / REPORT)
        if outcome is not None or code < 0 or code > 128:
            return outcome
        line = self._complaints[-1] if self._complaints else f"exit code {code}"
        if code == 0:
            return None
        return Ended(code, line.removeprefix("srgan-edge: error: "))

    @property
    def how_it_ended(self) -> str:
        return " / ".join(list(self._complaints)[-3:]) or f"exit code {self._process.returncode}"

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if that is not enough. Finished segments stay."""
        self.was_stopped = True
        with suppress(OSError):
            self._process.send_signal(signal.SIGTERM)
        killing = threading.Timer(STOP_SECONDS, self.kill)
        killing.daemon = True
        killing.start()

    def _run_out(self) -> None:
        self.ran_out = True
        self.stop()

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        with suppress(OSError):
            self._process.kill()

    def _keep_complaints(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            while line := stream.readline(_LINE_BYTES):
                self._complaints.append(printable(line.decode("utf-8", "replace").strip()))
