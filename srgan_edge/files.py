"""Files and folders: outputs that are absent or whole, hashes, lock files, and safe reading.

An output is never half written, and never lost to a failed rerun: it gets its name at the end.
"""

import errno
import fcntl
import filecmp
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeAlias

from srgan_edge.errors import (
    HostMemoryExhausted,
    InputRefused,
    ModelRefused,
    OutputFailed,
    ResultAppeared,
    UsageError,
    lacks_memory,
)

_ELSEWHERE = "name another place with {option}"

WHOLE_BYTES = 32 << 20
"""Largest file that `content_sha256` knows entirely."""

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16

_FULL_BYTES = 1 << 16
"""Room below which a file system counts as full."""

_ADVICE = {
    errno.ENOENT: "create the folder first with mkdir -p",
    errno.EISDIR: "name a file in it with {option}",
    errno.ENOSPC: f"free some space or {_ELSEWHERE}",
    errno.ENOLCK: f"its file system cannot lock files; {_ELSEWHERE}",
    errno.EDQUOT: f"free some of your quota or {_ELSEWHERE}",
    errno.EFBIG: f"raise the limit (ulimit -f) or {_ELSEWHERE}, whose files may be larger",
}


_GET_FLAGS = 0x80086601
"""Linux's `FS_IOC_GETFLAGS`."""

_FIXED = {"i": 0x10, "a": 0x20}
"""Letter of chattr -> its flag: immutable, and for appending only."""


@contextmanager
def replace_when_whole(
    path: Path, option: str = "-o", partial: Path | None = None, *, overwrite: bool = True
) -> Iterator[Path]:
    """Yield an empty file beside `path`, with the same suffix, that becomes `path` at the end.

    When the body ends, the file is synced to disk and renamed over `path`, with the rights of an
    older one. When the body raises anything at all, it is removed and an older `path` stays as it
    was. A symbolic link at `path` is itself replaced; what it points to is not touched. Callers
    refuse first what must not be replaced: see `refuse_replacing`.

    Args:
        option: the option that names another place, for error messages.
        partial: another place for the file until then, on the same file system; a file that a dead
            process left there is replaced.
        overwrite: replace a file that appears at `path` in the meantime; else it is kept.

    Raises:
        OutputFailed: the folder is missing or not writable (before the body runs), `path` is a
            folder or a device, or the body, the sync or the rename raised an `OSError`. A body
            that also reads must turn its own read errors into `SrganEdgeError`s, which pass.
        ResultAppeared: without `overwrite`, `path` exists at the end.
    """
    if partial is None:
        # The stem is cut: a name that just fits the file system has a temporary one that fits.
        name = f".{path.stem[:40]}.partial-{secrets.token_hex(4)}{path.suffix}"
        partial = path.with_name(name)
    try:
        refuse_irreplaceable(path)
        partial.unlink(missing_ok=True)
        partial.touch(exist_ok=False)  # fails now rather than after an hour of upscaling
        yield partial
        _refuse_exchanged(partial)
        sync(partial)
        if overwrite:
            _keep_rights(partial, path)
            partial.replace(path)
        else:
            _rename_to_free(partial, path)
        # The file is whole either way, and some network file systems cannot sync a folder.
        with suppress(OSError):
            sync(path.parent)
    except FileExistsError:
        raise ResultAppeared(
            f"{path} appeared during the work and is kept; type --overwrite to replace it, or name "
            f"another file with {option}"
        ) from None
    except OSError as error:
        raise output_failed(path, error, option) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def open_when_whole(
    path: Path, option: str = "-o", *, overwrite: bool = True, into: Path | None = None
) -> Iterator[BinaryIO]:
    """Yield an open file that becomes `path` at the end, as `replace_when_whole` describes.

    Args:
        into: an empty file that is written instead and stays as it is; whoever made it gives it
            its name. Once that is removed, no other one appears.

    Raises:
        OutputFailed: as `replace_when_whole` does.
        OSError: `into` cannot be written.
    """
    if into is not None:
        with into.open("r+b") as file:
            yield file
        return
    with (
        replace_when_whole(path, option, overwrite=overwrite) as partial,
        partial.open("wb") as file,
    ):
        yield file


@contextmanager
def folder_when_whole(
    path: Path, option: str, known_by: str, inputs: Iterable[Path] = (), *, overwrite: bool
) -> Iterator[Path]:
    """Yield an empty folder beside `path` that becomes `path` at the end; its parents are made.

    When the body ends, its content is synced to disk and the folder is renamed. When the body
    raises anything at all, it is removed. Of an older `path`, the files that the new folder has are
    replaced one by one, `known_by` last; all others are somebody else's, and stay.

    Args:
        option: the option that names another place, such as `--triton`.
        known_by: a file that every such folder has; another folder is not changed.
        inputs: files that the command reads; a folder that has one is not changed.
        overwrite: files of an older `path` may be replaced.

    Raises:
        UsageError: `path` exists, and may not be changed, or has a folder in place of a file.
        OutputFailed: its parent is not writable, or the body raised an `OSError`; a body that also
            reads must turn its own read errors into `SrganEdgeError`s.
    """
    partial = path.with_name(f".{path.name[:40]}.partial-{secrets.token_hex(4)}")
    if is_taken(path):
        _refuse_folder(path, option, known_by, inputs, overwrite=overwrite)
    try:
        _refuse_fixed(path.parent, "its folder")
        _refuse_fixed(path, "it")
        with folder_made(path.parent):
            try:
                partial.mkdir()
                yield partial
                files = [file for file in partial.rglob("*") if file.is_file()]
                for file in files:
                    sync(file)
                if overwrite and path.is_dir():
                    files.sort(key=lambda file: file == partial / known_by)
                    _move_files({file: path / file.relative_to(partial) for file in files}, option)
                else:
                    partial.rename(path)
                with suppress(OSError):
                    sync(path.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise output_failed(path, error, option) from error


@contextmanager
def folder_made(
    path: Path, failed: Callable[[OSError], Exception] = lambda error: error
) -> Iterator[None]:
    """Make a folder and its parents; of those that were missing, the empty ones go at the end.

    So a command that is refused leaves no empty folder.

    Args:
        failed: returns what is raised where one cannot be made; by default the `OSError` itself.
    """
    missing: list[Path] = []
    try:
        try:
            missing += (it for it in (path, *path.parents) if not it.exists())
            if is_taken(path) and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is no folder", os.fspath(path))
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failed(error) from None
        yield
    finally:
        for folder in missing:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder for what a command needs in between; it is removed at the end.

    Raises:
        OutputFailed: none can be made, or anything failed while its file system was full.
    """
    advice = "free some space, or name another folder in the variable TMPDIR"
    try:
        path = Path(tempfile.mkdtemp(prefix="srgan-edge-"))
    except OSError as error:
        raise OutputFailed(f"no folder for temporary files: {error.strerror}; {advice}") from error
    try:
        yield path
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.EDQUOT):
            reason = os.strerror(error.errno)
        elif _is_full(path):  # programs that were started and libraries say it in many ways
            reason = os.strerror(errno.ENOSPC)
        else:
            raise
        raise OutputFailed(f"cannot write {path.parent}: {reason}; {advice}") from error
    finally:
        shutil.rmtree(path, ignore_errors=True)


def cache_folder(variable: str, name: str) -> Path:
    """Return the folder that `variable` names, or else `srgan-edge/NAME` in the user's cache."""
    if named := os.environ.get(variable):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "srgan-edge" / name


Identity: TypeAlias = tuple[int | str, ...]


def identity_of(path: Path) -> Identity:
    """Return what a name stands for: equal for all names of one file, whether it exists or not.

    A file is known by its device and inode, and one that does not exist by its folder's and by its
    name.
    """
    for name in _meanings_of(path):
        with suppress(OSError, ValueError):
            found = name.stat()
            return found.st_dev, found.st_ino
        with suppress(OSError, ValueError):
            folder = name.parent.stat()
            return folder.st_dev, folder.st_ino, name.name
    return (str(path.absolute()),)


def identity_of_open(descriptor: int) -> Identity | None:
    """Return what `identity_of` does for the regular file that is open; None for anything else."""
    with suppress(OSError):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            return found.st_dev, found.st_ino
    return None


def is_taken(path: Path) -> bool:
    """Return True if anything has this name, even a symbolic link to nothing.

    Raises:
        OSError: the name is too long, or the folder not accessible.
    """
    for name in _meanings_of(path):
        with suppress(FileNotFoundError, NotADirectoryError):
            name.lstat()
            return True
    return False


def is_file(path: Path) -> bool:
    """Return True if a regular file, or a link to one, has this name.

    Raises:
        OSError: as `is_taken` does.
    """
    return any(name.is_file() for name in _meanings_of(path))


def _meanings_of(path: Path) -> Iterator[Path]:
    """Yield a name, and what it means once its folders exist: `new/../a.png` is then `a.png`."""
    yield path
    if ".." in path.parts:
        yield Path(os.path.realpath(path.parent)) / path.name


def refuse_replacing(
    path: Path,
    inputs: Iterable[Path] = (),
    *,
    overwrite: bool,
    option: str = "-o",
    makes_folder: bool = False,
) -> None:
    """Refuse a result that would replace a file without having been told to, or an input ever.

    That it could not be written for want of a folder, or over a pipe, is found out now, too.

    Args:
        inputs: files that the command reads, and folders whose files it reads.
        option: what names another place, for error messages.
        makes_folder: the folder of the result is made later.

    Raises:
        UsageError: `path` is one of the inputs, or exists and `overwrite` is false.
        OutputFailed: the name is impossible or that of a folder or device, or its folder is missing
            or not accessible.
    """
    wanted = identity_of(path)
    if any(identity_of(file) == wanted for source in inputs for file in _files_at(source)):
        raise UsageError(f"{path} is an input itself; name another file with {option}")
    try:
        refuse_irreplaceable(path)  # which --overwrite replaces neither
        if not makes_folder and not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if is_taken(path) and not overwrite:
            raise UsageError(
                f"{path} exists; type --overwrite to replace it, or name another file with {option}"
            )
    except OSError as error:
        raise output_failed(path, error, option) from error


def files_below(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder, and in those below it, that is no folder.

    Symbolic links to folders are among it, and not followed.

    Raises:
        InputRefused: one of the folders cannot be read, so that files in it would be missing.
    """

    def refuse(error: OSError) -> NoReturn:
        raise InputRefused(
            f"cannot read {os.fsdecode(error.filename)}: {error.strerror}; check the rights on it, "
            "or name the files and folders beside it"
        ) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in names)
        yield from (path for name in folders if (path := Path(place, name)).is_symlink())


def _files_at(place: Path) -> Iterator[Path]:
    """Yield a file, or every file below a folder that can be read."""
    yield place
    for folder, _, names in os.walk(place):
        yield from (Path(folder, name) for name in names)


def partial_result(path: Path, number: int = 1) -> Path:
    """Return the name of the partial result that is kept when the input of `path` is damaged."""
    which = "" if number == 1 else f"-{number}"
    return path.with_name(f"{path.stem}.partial{which}{path.suffix}")


def free_partial_result(path: Path, *, overwrite: bool) -> Path:
    """Return the first name of a partial result that nothing has; with `overwrite`, the first."""
    names = (partial_result(path, number) for number in count(1))
    return next(name for name in names if overwrite or not is_taken(name))


def free_name(path: Path, suffix: str) -> Path:
    """Return a name to advise for a result: `path` with another suffix, `-2` added if it is taken.

    What a video writes beside its result is looked for, too, since an input may have such a name.
    """
    endings = chain([suffix], (f"-{number}{suffix}" for number in count(2)))
    names = (path.with_name(f"{path.stem}{ending}") for ending in endings)
    return next(
        name
        for name in names
        if not any(map(os.path.lexists, (name, partial_result(name), work_folder_of(name))))
    )


def kept_once(saved: Path, path: Path) -> Path:
    """Return the first partial result of `path` with the bytes of `saved`, which is one, too.

    If that is another one, `saved` is removed: repeated runs on a damaged file make it again.
    """
    names = (partial_result(path, number) for number in count(1))
    first = next(
        name
        for name in names
        if name == saved or (name.is_file() and filecmp.cmp(name, saved, shallow=False))
    )
    if first != saved:
        saved.unlink()
    return first


def work_folder_of(path: Path) -> Path:
    """Return the folder beside the result of a video in which its finished segments are kept."""
    return path.with_name(f"{path.name}.partial")


def output_failed(
    path: Path, error: OSError, option: str = "-o"
) -> OutputFailed | HostMemoryExhausted:
    """Return the error for a failed write to `path`; `option` is what names another place."""
    if lacks_memory(error):  # to encode it, for example
        return HostMemoryExhausted()
    reason = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, _ELSEWHERE).format(option=option)
    return OutputFailed(f"cannot write {path}: {reason}; {advice}")


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk, where the file system can: some shares cannot."""
    try:
        sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(path: Path) -> str:
    """Return a hash of samples across a whole file, both ends included: a large one is read once.

    Files of up to `WHOLE_BYTES` are hashed entirely.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= WHOLE_BYTES:
            file.seek(0)
            return hashlib.sha256(file.read(size)).hexdigest()
        last = size - _SAMPLE_BYTES
        for number in range(_SAMPLES):
            file.seek(last * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


@contextmanager
def file_locked(
    path: Path, open_lock: Callable[[], int], on_busy: Callable[[], None]
) -> Iterator[None]:
    """Hold the lock file at `path`, which the owner of the lock may delete.

    The operating system releases the lock when its owner dies.

    Args:
        open_lock: opens the file, makes it if missing, and returns the descriptor.
        on_busy: called once if another process holds the lock; unless it raises, this waits.
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
            if _is_at(descriptor, path):  # else the previous owner deleted it
                yield
                return
        finally:
            os.close(descriptor)  # which unlocks; so does the death of the process


def open_model(path: Path) -> BinaryIO:
    """Open a model file for reading.

    Raises:
        ModelRefused: it does not exist, is not readable, or is not a regular file.
    """
    try:
        descriptor, status = _opened(path)
    except OSError as error:
        raise ModelRefused(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ModelRefused(f"{path}: not a file; possible: a model file")
    return os.fdopen(descriptor, "rb")


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """Read a whole model file.

    Raises:
        ModelRefused: as for `open_model`, or the file is larger than `max_bytes`.
    """
    with open_model(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size  # `read` reserves as much as it is asked for
            if size > max_bytes:
                raise ModelRefused(f"{path}: larger than {max_bytes} bytes")
            return file.read(size)
        except OSError as error:
            raise ModelRefused(f"{path}: {error.strerror}") from None


def foreign(path: Path) -> ModelRefused:
    """Return the error for a model file that another program made."""
    return ModelRefused(
        f"{path}: carries no srgan-edge spec, so its scale and value range are unknown; "
        "make it with `srgan-edge export` or `srgan-edge convert`"
    )


def open_regular(path: Path) -> BinaryIO:
    """Open an image file for reading.

    Raises:
        InputRefused: it does not exist, is not readable, is empty, or is not a regular file.
    """
    try:
        descriptor, status = _opened(path)
    except OSError as error:
        raise InputRefused(
            f"cannot read {path}: {error.strerror}; check the name and rights"
        ) from error
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise InputRefused(f"{path}: empty file (0 bytes); fetch it again")
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    raise InputRefused(f"{path}: {kind}; name an image file")


def first_bytes(path: Path) -> bytes:
    """Return the first 16 bytes of a video file.

    Raises:
        InputRefused: it does not exist, is not readable, is empty, or is not a regular file.
    """
    try:
        descriptor, status = _opened(path)
        try:
            if not stat.S_ISREG(status.st_mode):
                raise InputRefused(f"{path} is not a file; possible: one video file")
            head = os.read(descriptor, 16)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise InputRefused(f"{path} is empty")
    return head


def _opened(path: Path) -> tuple[int, os.stat_result]:
    """Open anything without waiting: a FIFO would block forever, so callers check the mode."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return descriptor, os.fstat(descriptor)


def _rename_to_free(path: Path, target: Path) -> None:
    """Rename a file to a name that nothing has.

    Raises:
        FileExistsError: something has it.
    """
    try:
        os.link(path, target)  # unlike a rename, never replaces anything
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        if is_taken(target):
            raise FileExistsError from None
        path.rename(target)


def _is_full(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path).free < _FULL_BYTES
    return False


def _refuse_exchanged(path: Path) -> None:
    """Raise if a link or a device has the name of a file that was made here."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(errno.EINVAL, f"{path} is not the file that was made there")


def _refuse_folder(
    path: Path, option: str, known_by: str, inputs: Iterable[Path], *, overwrite: bool
) -> None:
    """Refuse to replace the folder at `path`, as `folder_when_whole` says."""
    elsewhere = f"name another place with {option}"
    if not overwrite:
        raise UsageError(f"{path} exists; type --overwrite to replace its files, or {elsewhere}")
    if path.is_symlink() or not (path / known_by).is_file():
        raise UsageError(f"{path} is no folder with a {known_by}, so it is kept; {elsewhere}")
    read = {identity_of(source) for source in inputs}
    if not read.isdisjoint(map(identity_of, _files_at(path))):
        raise UsageError(f"{path} has an input itself; {elsewhere}")


def _move_files(targets: dict[Path, Path], option: str) -> None:
    """Move files over others, in order and once none of them is refused; folders are made."""
    for target in targets.values():
        if target.is_dir():
            raise UsageError(f"{target} is a folder, so it is kept; name another with {option}")
        target.parent.mkdir(parents=True, exist_ok=True)
        refuse_irreplaceable(target)
    for file, target in targets.items():
        _keep_rights(file, target)
        file.replace(target)
        with suppress(OSError):
            sync(target.parent)


def _keep_rights(file: Path, older: Path) -> None:
    """Give a file the rights of the one that it replaces, as writing into that would."""
    if older.is_symlink() or not older.is_file():
        return
    rights = older.stat().st_mode & 0o777
    if rights != file.stat().st_mode & 0o777:
        file.chmod(rights)


def refuse_irreplaceable(path: Path) -> None:
    """Raise before any work where the renaming at its end would fail, or replace a device.

    Raises:
        OSError: `path` is a folder or a device, was mounted itself (as `podman -v FILE:FILE` does),
            belongs to somebody else in a folder where each may replace only their own files, or it
            or its folder is marked as immutable or for appending only.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    _refuse_fixed(path.parent, "its folder")
    if not is_taken(path):
        return
    if not path.is_symlink():
        _refuse_fixed(path, "it")
    file, folder = path.lstat(), path.parent.stat()
    if file.st_dev != folder.st_dev:
        raise OSError(errno.EBUSY, "it is mounted there, so nothing can replace it")
    owners = (0, file.st_uid, folder.st_uid)
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in owners:
        raise PermissionError(errno.EPERM, "it belongs to somebody else, and its folder is sticky")


def _refuse_fixed(path: Path, what: str) -> None:
    """Raise if a file system says that names at `path` cannot be changed; not every one does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # missing, or not readable: the renaming may still work
        return
    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))[:4], sys.byteorder)
    except OSError:
        return
    finally:
        os.close(descriptor)
    if marks := [f"chattr -{letter}" for letter, flag in _FIXED.items() if flags & flag]:
        raise PermissionError(
            errno.EPERM, f"{what} is marked so that nothing replaces a file ({marks[0]} undoes it)"
        )


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
