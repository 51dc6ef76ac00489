"""The bytes of model files, and what is said of those that are not ours."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from srgan_edge.errors import ModelRefused


def open_model(path: Path) -> BinaryIO:
    """A file to be read; a pipe or a device could be waited for without end.

    Raises:
        ModelRefused: no such file, not readable, or none.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ModelRefused(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelRefused(f"{path}: not a file; possible: a model file")
    return os.fdopen(descriptor, "rb")


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        ModelRefused: as `open_model`, or larger than that.
    """
    with open_model(path) as file:
        try:
            if os.fstat(file.fileno()).st_size > max_bytes:
                raise ModelRefused(f"{path}: larger than {max_bytes} bytes")
            return file.read(max_bytes)
        except OSError as error:
            raise ModelRefused(f"{path}: {error.strerror}") from None


def foreign(path: Path) -> ModelRefused:
    """The refusal of a file that another program made."""
    return ModelRefused(
        f"{path}: carries no srgan-edge spec, so its scale and value range are unknown; "
        "make it with `srgan-edge export` or `srgan-edge convert`"
    )
