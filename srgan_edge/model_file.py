"""The bytes of model files, and what is said of those that are not ours."""

from pathlib import Path

from srgan_edge.errors import ModelRefused


def read_at_most(path: Path, max_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        ModelRefused: no such file, not readable, or larger than that.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise ModelRefused(f"{path}: larger than {max_bytes} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{path}: {error.strerror}") from None


def foreign(path: Path) -> ModelRefused:
    """The refusal of a file that another program made."""
    return ModelRefused(
        f"{path}: carries no srgan-edge spec, so its scale and value range are unknown; "
        "make it with `srgan-edge export` or `srgan-edge convert`"
    )
