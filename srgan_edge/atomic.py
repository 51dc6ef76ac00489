"""Output files that are absent or whole: never half written, never lost to a failed rerun.

What goes into a file is its writer's business; this file only decides when it gets its name.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from srgan_edge.errors import OutputFailed

_ELSEWHERE = "name another place with -o"
_ADVICE = {
    errno.ENOENT: "create the folder first with mkdir -p",
    errno.EISDIR: "name a file in it with -o",
    errno.ENOSPC: f"free some space or {_ELSEWHERE}",
    errno.EDQUOT: f"free some of your quota or {_ELSEWHERE}",
}


@contextmanager
def replace_when_whole(path: Path) -> Iterator[Path]:
    """Yields an empty file beside `path`, with the same suffix, that becomes `path` at the end.

    When the body ends, the file is synced to disk and renamed over `path`. When the body raises
    anything at all, it is removed and an older `path` stays as it was. A symbolic link at `path` is
    itself replaced; what it points to is not touched.

    Raises:
        OutputFailed: the folder is missing or not writable (before the body runs), `path` is a
            folder or a device, or the body, the sync or the rename raised an `OSError`. A body
            that also reads must turn its own read errors into `SrganEdgeError`s, which pass.
    """
    # The stem is cut so that a name that just fits the file system has a temporary one that fits.
    name = f".{path.stem[:40]}.partial-{secrets.token_hex(4)}{path.suffix}"
    partial = path.with_name(name)
    try:
        _refuse_special(path)
        partial.touch(exist_ok=False)  # fails now rather than after an hour of upscaling
        yield partial
        _sync(partial)
        partial.replace(path)
        # The file is whole either way, and some network file systems cannot sync a folder.
        with suppress(OSError):
            _sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, _ELSEWHERE)
        raise OutputFailed(f"cannot write {path}: {reason}; {advice}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _refuse_special(path: Path) -> None:
    """A rename would turn /dev/null into a file, and fails on a folder only after all the work."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
