"""Server-sent events: each is a job as it is now, and its id the number of the change.

A client that connects again sends the last id, and gets what has changed since; a restart of the
service does not matter to it, for changes are numbered in the database.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from fastapi.sse import ServerSentEvent

from srgan_edge.serve.store import Deletion, Job, JobStore

RETRY_MS = 2000
"""Time after which a browser connects again."""
GATHERED_SECONDS = 0.1
"""Changes of this time come together, so that many of them do not keep the database busy."""
FIRST_JOBS = 200


class Changes:
    """Wakes all who follow the jobs. Any thread may call `publish`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._followers: set[asyncio.Event] = set()
        self._lock = threading.Lock()
        self.closed = False

    def bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Set the event loop of the followers; None: it ends."""
        with self._lock:
            self._loop = loop

    def publish(self) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """End all streams. It takes no lock, for a signal handler calls it."""
        self.closed = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    @contextmanager
    def followed(self) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._followers.add(changed)
        try:
            yield changed
        finally:
            self._followers.discard(changed)

    def _wake(self) -> None:
        for changed in self._followers:
            changed.set()


async def all_jobs(
    store: JobStore, changes: Changes, client: str | None, after: int | None
) -> AsyncIterator[ServerSentEvent]:
    """Yield `job` and `gone` events of all jobs that `client` may see, without end.

    Args:
        after: id of the last event that the client has; None: it has none, and gets all jobs.
    """
    yield ServerSentEvent(comment="jobs", retry=RETRY_MS)
    with changes.followed() as changed:
        if after is None:
            after = await asyncio.to_thread(store.last_change)
            for job in reversed(await asyncio.to_thread(store.latest, client, (), FIRST_JOBS)):
                yield ServerSentEvent(event="job", data=asdict(job.info))
        yield ServerSentEvent(event="ready", data={}, id=str(after))
        while not changes.closed:
            changed.clear()
            for news in await asyncio.to_thread(store.changes_after, after, client):
                event = _event(news)
                after = int(event.id or 0)
                yield event
            await asyncio.sleep(GATHERED_SECONDS)
            await changed.wait()


async def one_job(
    store: JobStore, changes: Changes, job_id: str, after: int | None
) -> AsyncIterator[ServerSentEvent]:
    """Yield `job` events of one job until it has ended, or a `gone` event."""
    yield ServerSentEvent(comment="job", retry=RETRY_MS)
    known = -1 if after is None else after
    with changes.followed() as changed:
        while not changes.closed:
            changed.clear()
            job = await asyncio.to_thread(store.find, job_id)
            if job is None:
                yield ServerSentEvent(event="gone", data={"id": job_id})
                return
            if job.info.change > known:
                known = job.info.change
                yield _event(job)
            if job.info.has_ended:
                return
            await asyncio.sleep(GATHERED_SECONDS)
            await changed.wait()


def _event(news: Job | Deletion) -> ServerSentEvent:
    if isinstance(news, Deletion):
        return ServerSentEvent(event="gone", data={"id": news.id}, id=str(news.change))
    return ServerSentEvent(event="job", data=asdict(news.info), id=str(news.info.change))
