"""The folder of a run, which one process at a time may use, and its complete checkpoints.

    RUN/checkpoints/step-00012000.pt   the newest ones, from which a run resumes; the last 32
                                       bytes are the SHA-256 of those before
    RUN/best.safetensors               the averaged weights that validated best
    RUN/log.jsonl                      a line every `run.log_every_steps`, equal in every rerun
    RUN/events.out.tfevents.*          the same and images, for TensorBoard
    RUN/report.md, curves.png          written when the run ends

`state.py` defines the content of a checkpoint.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from srgan_edge.errors import InputDamaged, OutputFailed, UsageError
from srgan_edge.files import (
    file_locked,
    folder_made,
    identity_of,
    is_taken,
    open_regular,
    replace_when_whole,
)

DIGEST_MARK = b"\nSHA256:"
DIGEST_BYTES = len(DIGEST_MARK) + hashlib.sha256().digest_size
"""The end of a checkpoint: a mark, and the digest of everything before it."""

LOCK = "lock"
"""The file that every folder of a run has; a line in it has the process that had the run last."""

_LOCK_LINE = re.compile(r"srgan-edge train, process (\d+)\n")
_OLD_LOCK_LINE = re.compile(r"\d+\n")
"""The line of earlier versions; without checkpoints beside it, it may be any program's."""

_WRITTEN_FILES = (
    *("best.safetensors", "log.jsonl", "left_out.txt"),
    *("report.md", "curves.png", "samples.png"),
)
_NAME_BYTES = 255
"""The longest name of a file on Linux."""
_WRITTEN_FOLDERS = ("checkpoints", "photos")

_CHECKPOINT = re.compile(r"step-(\d+)\.pt")


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints_folder = path / "checkpoints"
        self.log = path / "log.jsonl"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        found = (
            (int(match[1]), path)
            for path in self.checkpoints_folder.glob("step-*.pt")
            if (match := _CHECKPOINT.fullmatch(path.name))
        )
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, record: dict[str, Any], step: int, kept: int) -> None:
        """Write a checkpoint atomically, then remove all but the `kept` newest.

        Raises:
            OutputFailed: the disk is full, or the folder cannot be written.
        """
        with replace_when_whole(self.checkpoints_folder / f"step-{step:08}.pt") as temporary:
            content = io.BytesIO()
            torch.save(record, content)
            digest = hashlib.sha256(content.getbuffer()).digest()
            temporary.write_bytes(b"".join([content.getbuffer(), DIGEST_MARK, digest]))
        for old in self.checkpoints()[kept:]:
            old.unlink()

    def newest(self) -> tuple[dict[str, Any], Path] | None:
        """Return the record and path of the newest checkpoint; None in a new folder.

        Raises:
            InputDamaged: it cannot be read; the message names the one before it.
        """
        for path in self.checkpoints():
            try:
                return _read_checkpoint(path), path
            except Exception as error:  # torch and its unpickler raise many kinds
                older = self.checkpoints()[1:]
                advice = (
                    f"remove it to go on from {older[0].name}"
                    if older
                    else f"remove {self.checkpoints_folder} to start over"
                )
                why = str(error) if isinstance(error, ValueError) else type(error).__name__
                raise InputDamaged(f"{path}: damaged checkpoint ({why}); {advice}") from None
        return None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the record of a checkpoint, whose bytes must be those that were written."""
    with open_regular(path) as file:
        content = memoryview(file.read())
    end = len(content) - DIGEST_BYTES
    body, mark, digest = content[: max(end, 0)], content[max(end, 0) : -32], content[-32:]
    if mark != DIGEST_MARK:
        raise ValueError("no SHA-256 at its end: cut, or made by another program")
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("its SHA-256 is another")
    record = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if not isinstance(record, dict) or not isinstance(record.get("identity"), dict):
        raise ValueError("no state of a training")
    return record


def refuse_run_folder(run: Path, released: str, read: Iterable[Path]) -> None:
    """Refuse a folder in which a run would replace what it reads, or what no run has made.

    A run inside its photographs would find its own images among them, and never be resumed.

    A name that the result cannot have is found out now, too.

    Args:
        released: name of the file that the run releases.
        read: files and folders that the run reads.

    Raises:
        UsageError: as said.
    """
    written = [run / name for name in (*_WRITTEN_FILES, released)]
    made = [run / name for name in _WRITTEN_FOLDERS]
    for place in read:
        what = identity_of(place)
        if place.is_dir() and what in map(identity_of, _with_parents(run)):
            raise UsageError(
                f"{run} lies in {place}, which the run reads; name a folder outside with -o"
            )
        if not {what, *map(identity_of, _with_parents(place))}.isdisjoint(map(identity_of, made)):
            raise UsageError(f"{place} is where {run} keeps its own files; name another with -o")
        if what in map(identity_of, written):
            raise UsageError(f"{place}, an input, would be replaced; name another folder with -o")
    if released in _WRITTEN_FILES or len(os.fsencode(released)) > _NAME_BYTES:
        raise UsageError(
            f"model.name makes {released[:60]!r} the name of the result, which is that of another "
            f"file of the run or longer than {_NAME_BYTES} bytes; choose another model.name"
        )
    if _is_of_a_run(run):
        return
    if is_taken(made[-1] / "photos.json"):  # packed elsewhere
        made.pop()
    taken = (path for path in (*written, *made) if is_taken(path))
    if foreign := [path for path in taken if not _is_empty_folder(path)]:
        raise UsageError(f"{foreign[0]} exists and no run made it; name another folder with -o")


def _is_of_a_run(run: Path) -> bool:
    """Return True if a run has made this folder what it is.

    Raises:
        UsageError: its file `lock` is that of another program, or a link.
    """
    lock, has_checkpoints = run / LOCK, bool(RunFolder(run).checkpoints())
    if not is_taken(lock):
        return has_checkpoints
    line = "a link" if lock.is_symlink() or not lock.is_file() else _first_bytes(lock)
    if _LOCK_LINE.fullmatch(line):
        return True
    if line and not (has_checkpoints and _OLD_LOCK_LINE.fullmatch(line)):
        raise UsageError(f"{lock} exists and no run made it; name another folder with -o")
    return has_checkpoints


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(100).decode("ascii", "replace")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _with_parents(path: Path) -> list[Path]:
    whole = path.resolve()
    return [whole, *whole.parents]


@contextmanager
def lock_run_folder(path: Path) -> Iterator[RunFolder]:
    """Lock the folder, made if missing, so that no other process trains into it.

    A run that is refused before it has written anything leaves no folder.

    Raises:
        OutputFailed: it cannot be made or written, or another process has it.
    """
    folder, lock = RunFolder(path), path / LOCK
    is_new = not is_taken(lock)

    def failed(error: OSError) -> OutputFailed:
        return OutputFailed(f"cannot write {path}: {error.strerror}; name another with -o")

    def open_lock() -> int:
        try:
            return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise failed(error) from None

    def refuse() -> None:
        owner = None
        with suppress(OSError):
            owner = _LOCK_LINE.fullmatch(_first_bytes(lock))
        raise OutputFailed(
            f"{path} is in use by process {owner[1] if owner else 'unknown'}; wait for it, or "
            "name another with -o"
        )

    with (
        folder_made(folder.checkpoints_folder, failed),
        file_locked(lock, open_lock, refuse),
    ):
        with suppress(OSError):  # a full disk: then others learn no number of this process
            lock.write_text(f"srgan-edge train, process {os.getpid()}\n")
        try:
            yield folder
        finally:
            with suppress(OSError):
                if {it.name for it in path.iterdir()} <= {LOCK, folder.checkpoints_folder.name}:
                    folder.checkpoints_folder.rmdir()  # fails if it has a checkpoint
                    if is_new:
                        lock.unlink()
