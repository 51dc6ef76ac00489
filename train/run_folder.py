"""The folder of a run, which one process at a time may use, and its complete checkpoints.

    RUN/checkpoints/step-00012000.pt   the newest ones, from which a run resumes
    RUN/best.safetensors               the averaged weights that validated best
    RUN/log.jsonl                      a line every `run.log_every_steps`, equal in every rerun
    RUN/events.out.tfevents.*          the same and images, for TensorBoard
    RUN/report.md, curves.png          written when the run ends

`state.py` defines the content of a checkpoint.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from srgan_edge.errors import InputDamaged, OutputFailed
from srgan_edge.files import replace_when_whole

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
            try:
                torch.save(record, temporary)
            except RuntimeError as error:  # how torch's writer reports a full disk
                raise OSError(str(error).splitlines()[0]) from error
        for old in self.checkpoints()[kept:]:
            old.unlink()

    def newest(self) -> tuple[dict[str, Any], Path] | None:
        """Return the record and path of the newest checkpoint; None in a new folder.

        Raises:
            InputDamaged: it cannot be read; the message names the one before it.
        """
        for path in self.checkpoints():
            try:
                return torch.load(path, map_location="cpu", weights_only=True), path
            except Exception as error:  # torch and its unpickler raise many kinds
                older = self.checkpoints()[1:]
                advice = f"; remove it to go on from {older[0].name}" if older else ""
                raise InputDamaged(
                    f"{path}: damaged checkpoint ({type(error).__name__}){advice}"
                ) from None
        return None


@contextmanager
def lock_run_folder(path: Path) -> Iterator[RunFolder]:
    """Lock the folder, made if missing, so that no other process trains into it.

    Raises:
        OutputFailed: it cannot be made or written, or another process has it.
    """
    folder = RunFolder(path)
    try:
        folder.checkpoints_folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputFailed(f"cannot write {path}: {error.strerror}; name another with -o") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise OutputFailed(
                f"{path} is in use by process {owner}; wait for it, or name another with -o"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield folder
    finally:
        os.close(descriptor)  # releases the lock; the OS does so too if the process is killed
