"""A lock that is a file: the system gives it back when its owner dies, who may remove it."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_locked(
    path: Path, open_lock: Callable[[], int], on_busy: Callable[[], None]
) -> Iterator[None]:
    """Hold the lock at `path`; its owner may remove the file as long as it holds it.

    Args:
        open_lock: opens the file there, made if missing, and returns the descriptor.
        on_busy: called, once, if another process has it now; unless it raises, that is waited for.
    """
    has_waited = False
    while True:
        descriptor = open_lock()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not has_waited:
                    on_busy()
                has_waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):  # else who held it has removed it
                yield
                return
        finally:
            os.close(descriptor)  # which unlocks; so does the death of the process


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
