"""The jobs on disk: one row of SQLite and one folder each. What was accepted survives any kill.

A row is one `upscale` command; how far it is, its work folder knows (`transcode`). Rows of a
service that was killed while they ran are queued again, and resume there.
"""

import json
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srgan_edge.errors import OutputFailed
from srgan_edge.files import is_taken
from srgan_edge.serve.database import LOGS, TABLES, Database, tables_in
from srgan_edge.serve.job import ENDED, JobInfo, Kind, State
from srgan_edge.serve.problems import Problem

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
        OutputFailed: it cannot be written; its database is that of another program; or it has the
            folders of a service without its database, so that whose files lie in them is not known.
    """

    def __init__(self, folder: Path, on_change: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.jobs_folder = folder / "jobs"
        path = folder / "jobs.sqlite3"
        try:
            self._refuse_foreign(path)
            for made in (folder, self.incoming, self.jobs_folder):
                made.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.database = Database(path, on_change)
        except (OSError, sqlite3.Error) as error:
            raise OutputFailed(
                f"cannot write {folder}: {error}; name another folder with --data"
            ) from error

    def close(self) -> None:
        self.database.close()

    def recover(self) -> int:
        """Queue the jobs that ran when the last service ended, remove what belongs to no job.

        Returns:
            The number of jobs that go on.
        """
        with self.database.changing() as change:
            going_on = self.database.write(
                "UPDATE jobs SET state = 'queued', change = ? WHERE state = 'running'", (change,)
            )
            known = {row["id"] for row in self.database.rows("SELECT id FROM jobs")}
        for left in (*self.jobs_folder.iterdir(), *self.incoming.iterdir()):
            if _OWN_FOLDER.fullmatch(left.name) and left.name not in known:
                shutil.rmtree(left, ignore_errors=True)
        return going_on

    def _refuse_foreign(self, path: Path) -> None:
        """Refuse files of other programs, before any of them is changed."""
        tables = tables_in(path)
        if tables >= TABLES:
            return
        if tables:
            raise OutputFailed(
                f"{path} is the database of another program; name another folder with --data"
            )
        logs = [] if path.exists() else [path.with_name(path.name + it) for it in LOGS]
        for place in (self.jobs_folder, self.incoming, *logs):
            if any(place.iterdir()) if place.is_dir() else is_taken(place):
                raise OutputFailed(
                    f"{place} exists, but {self.folder} has no jobs.sqlite3 of a service; name "
                    "another folder with --data"
                )

    def refuse_unless_in_place(self) -> None:
        """Refuse jobs while what keeps them is not there.

        Raises:
            Problem: a folder or the database was removed, or can no longer be written.
        """
        gone = [
            place.name
            for place in (self.incoming, self.jobs_folder)
            if not os.access(place, os.W_OK | os.X_OK)
        ]
        if not self.database.is_in_place:
            gone.append("jobs.sqlite3")
        if gone:
            raise Problem(
                "not-ready",
                f"{' and '.join(gone)} of the service cannot be written, or are gone",
                retry_after_seconds=30,
            )

    def folder_of(self, job_id: str) -> Path:
        return self.jobs_folder / job_id

    def add(self, job: NewJob) -> Job:
        """Accept a job whose folder is in its place; after this it survives any kill."""
        with self.database.changing() as change:
            self.database.write(
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
        rows = self.database.rows(
            "SELECT id, change FROM deleted WHERE change > ? AND (? IS NULL OR client = ?)", who
        )
        jobs += [Deletion(row["id"], row["change"]) for row in rows]
        return sorted(jobs, key=lambda it: it.change)

    def last_change(self) -> int:
        return int(self.database.rows("SELECT change FROM counter")[0][0])

    def take(self, kind: Kind) -> Job | None:
        """Mark the job that is next as running, and return it; None if none is queued."""
        with self.database.lock:
            found = self.database.rows(
                "SELECT id FROM jobs WHERE state = 'queued' AND kind = ?"
                " ORDER BY priority DESC, created, id LIMIT 1",
                (kind,),
            )
            if not found:
                return None
            job_id = found[0]["id"]
            with self.database.changing() as change:
                self.database.write(
                    "UPDATE jobs SET state = 'running', started = coalesce(started, ?), change = ?"
                    " WHERE id = ?",
                    (time.time(), change, job_id),
                )
                return self.find(job_id)  # if that fails, the job is still queued

    def hand_back(self, job_id: str, seconds: float) -> bool:
        """Queue a running job again that the service cannot finish before it stops."""
        return self._update(
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
        with self.database.changing() as change:
            self.database.write(
                "INSERT INTO deleted SELECT ?, id, client FROM jobs WHERE id = ?", (change, job_id)
            )
            self.database.write("DELETE FROM jobs WHERE id = ?", (job_id,))
            self.database.write(
                "DELETE FROM deleted WHERE change <= ?", (change - _DELETIONS_KEPT,)
            )
        shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def waiting(self, client: str | None = None) -> int:
        """Return the number of jobs that are queued or running, of a client or of all."""
        ((count,),) = self.database.rows(
            f"SELECT count(*) FROM jobs WHERE {_WAITING} AND (? IS NULL OR client = ?)",
            (client, client),
        )
        return int(count)

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by state."""
        rows = self.database.rows("SELECT state, count(*) AS jobs FROM jobs GROUP BY state")
        found = {row["state"]: row["jobs"] for row in rows}
        return dict.fromkeys(("queued", "running", *ENDED), 0) | found

    def ended_jobs(self) -> list[Job]:
        """Return the jobs that have ended, oldest first."""
        return list(self._jobs(f"NOT {_WAITING}", (), "ORDER BY ended"))

    def _update(self, job_id: str, assignments: str, values: tuple[Any, ...], where: str) -> bool:
        with self.database.changing() as change:
            done = self.database.write(
                f"UPDATE jobs SET {assignments}, change = ? WHERE id = ? AND {where}",
                (*values, change, job_id),
            )
        return done == 1

    def _jobs(self, where: str, values: tuple[Any, ...], order: str = "") -> Iterator[Job]:
        # Position: jobs of the same kind that are queued and start earlier.
        query = (
            "SELECT *, CASE state WHEN 'queued' THEN (SELECT count(*) FROM jobs AS other WHERE"
            " other.state = 'queued' AND other.kind = jobs.kind AND (other.priority > jobs.priority"
            " OR (other.priority = jobs.priority AND (other.created, other.id) <"
            f" (jobs.created, jobs.id)))) END AS position FROM jobs WHERE {where} {order}"
        )
        for row in self.database.rows(query, values):
            fields = dict(row)
            folder = self.folder_of(fields["id"])
            info = JobInfo.of(fields | {"notes": json.loads(fields["notes"])})
            source, target = folder / fields["source"], folder / fields["target"]
            yield Job(info, fields["client"], folder, source, target)
