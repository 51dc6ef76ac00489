"""The jobs on disk: one row of SQLite and one folder each. What was accepted survives any kill.

A row is one `upscale` command; how far it is, its work folder knows (`transcode`). Rows of a
service that was killed while they ran are queued again, and resume there.
"""

import json
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srgan_edge.errors import OutputFailed
from srgan_edge.serve.job import ENDED, JobInfo, Kind, State

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, client TEXT NOT NULL, state TEXT NOT NULL, kind TEXT NOT NULL,
    name TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, model TEXT NOT NULL,
    outscale REAL, priority INTEGER NOT NULL, bytes INTEGER NOT NULL, created REAL NOT NULL,
    started REAL, ended REAL, frames INTEGER NOT NULL DEFAULT 0, frames_expected INTEGER,
    seconds REAL NOT NULL DEFAULT 0, exit_code INTEGER, error TEXT, size TEXT,
    result_bytes INTEGER, sha256 TEXT, notes TEXT NOT NULL DEFAULT '[]', change INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_change ON jobs (change);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, kind, priority DESC, created);
CREATE TABLE IF NOT EXISTS deleted (
    change INTEGER PRIMARY KEY, id TEXT NOT NULL, client TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS counter (change INTEGER NOT NULL) STRICT;
INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT * FROM counter);
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL, expires REAL
) STRICT;
"""

_DELETIONS_KEPT = 10_000
_OWN_FOLDER = re.compile(r"[0-9a-f]{32}(-result)?", re.ASCII)
"""Names of folders that this program makes; others are left alone."""
_WAITING = "state IN ('queued', 'running')"


@dataclass(frozen=True)
class NewJob:
    """A job that is being accepted; its source lies in its folder already."""

    id: str
    client: str
    kind: Kind
    name: str
    source: str
    """Name of the source in the job's folder."""
    target: str
    """Name of the result in the job's folder."""
    model: str
    outscale: float | None
    priority: int
    bytes: int


@dataclass(frozen=True)
class Job:
    """A row: what clients see of it, and where its files are."""

    info: JobInfo
    client: str
    folder: Path
    source: Path
    target: Path

    @property
    def change(self) -> int:
        return self.info.change


@dataclass(frozen=True)
class Deletion:
    """A job that is gone, for clients that showed it."""

    id: str
    change: int


def new_id() -> str:
    """Return a name that nobody guesses."""
    return secrets.token_hex(16)


class JobStore:
    """All jobs of one data folder. Any thread may call any method.

    Args:
        folder: the data folder, which is made if it is missing.
        on_change: called after each change, in the thread that made it.

    Raises:
        OutputFailed: it cannot be written; or it has the folders of a service without its
            database, so that whose files lie in them is not known.
    """

    def __init__(self, folder: Path, on_change: Callable[[], None] = lambda: None) -> None:
        self.folder, self._on_change = folder, on_change
        self.incoming = folder / "incoming"
        self.jobs_folder = folder / "jobs"
        self._lock = threading.RLock()
        try:
            for made in (folder, self.incoming, self.jobs_folder):
                made.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (folder / "jobs.sqlite3").exists():
                self._refuse_foreign()
            self._database = sqlite3.connect(
                folder / "jobs.sqlite3", check_same_thread=False, isolation_level=None, timeout=30
            )
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")  # a job survives a power cut
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise OutputFailed(
                f"cannot write {folder}: {error}; name another folder with --data"
            ) from error

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def recover(self) -> int:
        """Queue the jobs that ran when the last service ended, remove what belongs to no job.

        Returns:
            The number of jobs that go on.
        """
        with self._changing() as change:
            found = self._database.execute(
                "UPDATE jobs SET state = 'queued', change = ? WHERE state = 'running'", (change,)
            )
            known = {row["id"] for row in self._database.execute("SELECT id FROM jobs")}
        for left in (*self.jobs_folder.iterdir(), *self.incoming.iterdir()):
            if _OWN_FOLDER.fullmatch(left.name) and left.name not in known:
                shutil.rmtree(left, ignore_errors=True)
        return found.rowcount

    def _refuse_foreign(self) -> None:
        for place in (self.jobs_folder, self.incoming):
            if any(place.iterdir()):
                raise OutputFailed(
                    f"{place} has files, but {self.folder} has no jobs.sqlite3 of a service; name "
                    "another folder with --data"
                )

    def folder_of(self, job_id: str) -> Path:
        return self.jobs_folder / job_id

    def add(self, job: NewJob) -> Job:
        """Accept a job whose folder is in its place; after this it survives any kill."""
        with self._changing() as change:
            self._database.execute(
                "INSERT INTO jobs (id, client, state, kind, name, source, target, model, outscale,"
                " priority, bytes, created, change)"
                " VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job.id, job.client, job.kind, job.name, job.source, job.target, job.model),
                    *(job.outscale, job.priority, job.bytes, time.time(), change),
                ),
            )
        found = self.find(job.id)
        assert found is not None
        return found

    def find(self, job_id: str, client: str | None = None) -> Job | None:
        """Return a job, if it exists and `client` may see it; None may see all."""
        rows = self._jobs("id = ? AND (? IS NULL OR client = ?)", (job_id, client, client))
        return next(rows, None)

    def latest(
        self, client: str | None, states: tuple[State, ...] = (), limit: int = 100
    ) -> list[Job]:
        """Return jobs, latest first."""
        marks = ", ".join("?" * len(states))
        where = f"(? IS NULL OR client = ?) AND ({f'state IN ({marks})' if states else '1'})"
        return list(
            self._jobs(where, (client, client, *states), f"ORDER BY created DESC LIMIT {limit}")
        )

    def changes_after(self, change: int, client: str | None) -> list[Job | Deletion]:
        """Return what has changed after a change, in order."""
        who = (change, client, client)
        jobs: list[Job | Deletion] = [
            *self._jobs("change > ? AND (? IS NULL OR client = ?)", who, "ORDER BY change")
        ]
        with self._lock:
            rows = self._database.execute(
                "SELECT id, change FROM deleted WHERE change > ? AND (? IS NULL OR client = ?)", who
            ).fetchall()
        jobs += [Deletion(row["id"], row["change"]) for row in rows]
        return sorted(jobs, key=lambda it: it.change)

    def last_change(self) -> int:
        with self._lock:
            return int(self._database.execute("SELECT change FROM counter").fetchone()[0])

    def take(self, kind: Kind) -> Job | None:
        """Mark the job that is next as running, and return it; None if none is queued."""
        with self._lock:
            row = self._database.execute(
                "SELECT id FROM jobs WHERE state = 'queued' AND kind = ?"
                " ORDER BY priority DESC, created, id LIMIT 1",
                (kind,),
            ).fetchone()
            if row is None:
                return None
            started = "state = 'running', started = coalesce(started, ?)"
            self._update(row["id"], started, (time.time(),), "state = 'queued'")
            return self.find(row["id"])

    def hand_back(self, job_id: str, seconds: float) -> None:
        """Queue a running job again that the service cannot finish before it stops."""
        self._update(
            job_id, "state = 'queued', seconds = seconds + ?", (seconds,), "state = 'running'"
        )

    def progress(
        self, job_id: str, frames: int, expected: int | None, notes: tuple[str, ...]
    ) -> None:
        values = (frames, expected, json.dumps(notes))
        change = "frames = ?, frames_expected = ?, notes = ?"
        self._update(job_id, change, values, "state = 'running'")

    def end(self, job_id: str, state: State, **values: Any) -> bool:  # noqa: ANN401 - columns
        """End a job that is queued or running; return False for any other, or if it is gone."""
        notes = values.pop("notes", None)
        values |= {"state": state, "ended": time.time()}
        if notes is not None:
            values["notes"] = json.dumps(notes)
        seconds = values.pop("seconds", 0.0)
        assignments = ", ".join(f"{name} = ?" for name in values)
        return self._update(
            job_id,
            f"seconds = seconds + ?, {assignments}",
            (seconds, *values.values()),
            _WAITING,
        )

    def delete(self, job_id: str) -> None:
        """Forget a job, then remove its files."""
        with self._changing() as change:
            self._database.execute(
                "INSERT INTO deleted SELECT ?, id, client FROM jobs WHERE id = ?", (change, job_id)
            )
            self._database.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            self._database.execute(
                "DELETE FROM deleted WHERE change <= ?", (change - _DELETIONS_KEPT,)
            )
        shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def waiting(self, client: str | None = None) -> int:
        """Return the number of jobs that are queued or running, of a client or of all."""
        with self._lock:
            return int(
                self._database.execute(
                    f"SELECT count(*) FROM jobs WHERE {_WAITING} AND (? IS NULL OR client = ?)",
                    (client, client),
                ).fetchone()[0]
            )

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by state."""
        with self._lock:
            rows = self._database.execute("SELECT state, count(*) FROM jobs GROUP BY state")
            found = {row[0]: row[1] for row in rows}
        return dict.fromkeys(("queued", "running", *ENDED), 0) | found

    def ended_jobs(self) -> list[Job]:
        """Return the jobs that have ended, oldest first."""
        return list(self._jobs(f"NOT {_WAITING}", (), "ORDER BY ended"))

    def add_token(self, digest: str, name: str, expires: float | None = None) -> None:
        """Keep the hash of a token; see `tokens`."""
        with self._lock:
            self._database.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?)", (digest, name, time.time(), expires)
            )
            self._database.execute("DELETE FROM tokens WHERE expires < ?", (time.time(),))

    def tokens(self) -> list[tuple[str, str]]:
        """Return hash and name of each token that has not expired."""
        with self._lock:
            rows = self._database.execute(
                "SELECT hash, name FROM tokens WHERE expires IS NULL OR expires > ?",
                (time.time(),),
            )
            return [(row["hash"], row["name"]) for row in rows]

    def token_names(self) -> list[str]:
        """Return the names that have a token which does not expire."""
        with self._lock:
            rows = self._database.execute(
                "SELECT DISTINCT name FROM tokens WHERE expires IS NULL ORDER BY name"
            )
            return [row["name"] for row in rows]

    def remove_token(self, digest: str) -> None:
        """Remove one token or session."""
        with self._lock:
            self._database.execute("DELETE FROM tokens WHERE hash = ?", (digest,))

    def remove_tokens(self, name: str) -> int:
        """Remove all tokens of a name, and the sessions begun with them; return their number."""
        with self._lock:
            return self._database.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount

    def _update(self, job_id: str, assignments: str, values: tuple[Any, ...], where: str) -> bool:
        with self._changing() as change:
            done = self._database.execute(
                f"UPDATE jobs SET {assignments}, change = ? WHERE id = ? AND {where}",
                (*values, change, job_id),
            )
        return done.rowcount == 1

    @contextmanager
    def _changing(self) -> Iterator[int]:
        """Yield the number of a change, in a transaction that ends with the block."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                (change,) = self._database.execute(
                    "UPDATE counter SET change = change + 1 RETURNING change"
                ).fetchone()
                yield change
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        self._on_change()

    def _jobs(self, where: str, values: tuple[Any, ...], order: str = "") -> Iterator[Job]:
        # Position: jobs of the same kind that are queued and start earlier.
        query = (
            "SELECT *, CASE state WHEN 'queued' THEN (SELECT count(*) FROM jobs AS other WHERE"
            " other.state = 'queued' AND other.kind = jobs.kind AND (other.priority > jobs.priority"
            " OR (other.priority = jobs.priority AND (other.created, other.id) <"
            f" (jobs.created, jobs.id)))) END AS position FROM jobs WHERE {where} {order}"
        )
        with self._lock:
            rows = self._database.execute(query, values).fetchall()
        for row in rows:
            fields = dict(row)
            folder = self.folder_of(fields["id"])
            info = JobInfo.of(fields | {"notes": json.loads(fields["notes"])})
            source, target = folder / fields["source"], folder / fields["target"]
            yield Job(info, fields["client"], folder, source, target)
