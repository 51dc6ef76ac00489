"""The folder of a run: one process at a time, checkpoints that are whole, and which of them stay.

    RUN/checkpoints/step-00012000.pt   the newest ones; what resuming reads
    RUN/best.safetensors               the averaged weights that validated best
    RUN/log.jsonl                      a line every `run.log_every_steps`, equal in every rerun
    RUN/events.out.tfevents.*          the same and images, for TensorBoard
    RUN/report.md, curves.png          written when the run ends

What is in a checkpoint is `state.py`'s affair.
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
        """The newest first."""
        found = (
            (int(match[1]), path)
            for path in self.checkpoints_folder.glob("step-*.pt")
            if (match := _CHECKPOINT.fullmatch(path.name))
        )
        return [path for _, path in sorted(found, reverse=True)]

    def save(self, record: dict[str, Any], step: int, kept: int) -> None:
        """Write a checkpoint, whole or not at all, then remove all but the `kept` newest.

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
        """The record of the newest checkpoint; None in a new folder.

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
    """The folder, made if missing, while no other process trains into it.

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
        os.close(descriptor)  # and with it the lock, however the process ends
