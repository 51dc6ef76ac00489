"""Files below the one folder that requests may name, taken without following any link."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from srgan_edge.errors import InputRefused
from srgan_edge.serve.problems import Problem

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened_below(root: Path, name: str) -> Iterator[BinaryIO]:
    """Open a regular file below `root`; folder by folder, so that no link or `..` leads out.

    Args:
        name: relative path with `/`, as the client wrote it.

    Raises:
        Problem: the name is absolute, leads upwards or through a link, or is no regular file there.
    """
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise _refused(name, "is no path below the folder")
    descriptors = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for part in parts[:-1]:
            descriptors.append(os.open(part, _FOLDER, dir_fd=descriptors[-1]))
        descriptor = os.open(parts[-1], _FILE, dir_fd=descriptors[-1])
    except (OSError, ValueError):  # one message, so that nothing is learned of what lies there
        raise _refused(name, "is no regular file below the folder, or is behind a link") from None
    finally:
        for opened in descriptors:
            os.close(opened)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(name, "is no regular file below the folder, or is behind a link")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def copy_to(file: BinaryIO, path: Path) -> int:
    """Copy an open file, by reference where the file system can; return its size in bytes.

    Raises:
        InputRefused: it is empty.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise InputRefused("empty file (0 bytes); fetch it again")
    with path.open("xb") as target:
        done = 0
        with suppress(OSError):  # other file systems; go on as below
            while copied := os.copy_file_range(file.fileno(), target.fileno(), size - done):
                done += copied
        if done < size:
            file.seek(0)
            target.seek(0)
            shutil.copyfileobj(file, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
        return os.fstat(target.fileno()).st_size


def _refused(name: str, why: str) -> Problem:
    return Problem(
        "outside-root",
        f"{name[:200]!r} {why}",
        "a relative path of a file, as the folder that --root names has it",
    )
