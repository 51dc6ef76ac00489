"""The SQLite file of a service: its tables, and one connection that all threads share."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


class Database:
    """One connection. Any thread may call any method.

    Args:
        path: the file, which is made if it is missing.
        on_change: called after each change of a job, in the thread that made it.

    Raises:
        sqlite3.Error: it cannot be opened, or is no database.
    """

    def __init__(self, path: Path, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.lock = threading.RLock()
        """Held by callers whose statements belong together."""
        self._connection = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None, timeout=30
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")  # a job survives a power cut
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        with self.lock:
            self._connection.close()

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        with self.lock:
            return self._connection.execute(query, values).fetchall()

    def write(self, statement: str, values: tuple[Any, ...] = ()) -> int:
        """Carry out a statement; return the number of rows that it changed."""
        with self.lock:
            return self._connection.execute(statement, values).rowcount

    @contextmanager
    def changing(self) -> Iterator[int]:
        """Yield the number of a change of jobs, in a transaction that ends with the block."""
        with self.lock:
            self.write("BEGIN IMMEDIATE")
            try:
                ((change,),) = self.rows("UPDATE counter SET change = change + 1 RETURNING change")
                yield change
            except BaseException:
                self.write("ROLLBACK")
                raise
            self.write("COMMIT")
        self._on_change()
