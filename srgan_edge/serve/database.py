"""The SQLite file of a service: its tables, and one connection that all threads share."""

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from srgan_edge.files import identity_of, is_taken

TABLES = frozenset({"jobs", "deleted", "counter", "tokens"})
"""The tables that the database of every version of the service has."""

LOGS = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database, and takes over or removes."""

_SCHEMA = """
BEGIN IMMEDIATE;
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
COMMIT;
"""

_DISK_ERRORS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.ENOENT,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
}
"""Failures of the disk, not of a statement, by SQLite's code -> the `errno` of other files."""
_PRIMARY_CODE = 0xFF


def tables_in(path: Path) -> set[str]:
    """Return the tables of a database, which is not changed; none if there is no such file.

    Raises:
        sqlite3.Error: it cannot be read, or is no database.
    """
    if not path.exists():
        return set()
    has_log = any(is_taken(path.with_name(path.name + it)) for it in LOGS)
    # Read as `immutable` no log is made beside it; where there is one, it may have the tables.
    uri = f"{path.absolute().as_uri()}?{'mode=ro' if has_log else 'immutable=1'}"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in found}


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
        self._path, self._identity = path, identity_of(path)

    @property
    def is_in_place(self) -> bool:
        """False if its file was moved or removed, so that no change outlasts the service."""
        return identity_of(self._path) == self._identity

    def close(self) -> None:
        with self.lock:
            self._connection.close()

    def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Return what a query finds.

        Raises:
            OSError: the disk is full or fails.
        """
        with self.lock, _disk_errors():
            return self._connection.execute(query, values).fetchall()

    def write(self, statement: str, values: tuple[Any, ...] = ()) -> int:
        """Carry out a statement; return the number of rows that it changed.

        Raises:
            OSError: the disk is full or fails.
        """
        with self.lock, _disk_errors():
            return self._connection.execute(statement, values).rowcount

    @contextmanager
    def changing(self) -> Iterator[int]:
        """Yield the number of a change of jobs, in a transaction that ends with the block.

        Raises:
            OSError: the disk is full or fails; nothing is changed.
        """
        with self.lock:
            self.write("BEGIN IMMEDIATE")
            try:
                ((change,),) = self.rows("UPDATE counter SET change = change + 1 RETURNING change")
                yield change
                self.write("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have ended it
                    self.write("ROLLBACK")
                raise
        self._on_change()


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise the errors of a disk that SQLite reports as those that other files raise."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = _DISK_ERRORS.get(error.sqlite_errorcode & _PRIMARY_CODE)
        if code is None:
            raise
        raise OSError(code, str(error)) from error
