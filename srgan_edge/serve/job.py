"""The record of a job that the service sends, and its clients read."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

State = Literal["queued", "running", "done", "failed", "cancelled"]
Kind = Literal["image", "video"]

ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class JobInfo:
    """One upscale command: its source, its options, its progress and its outcome."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"use_attribute_docstrings": True}

    id: str
    """Random name of the job, 32 hexadecimal digits."""
    state: State
    """`queued` and `running` jobs go on after a restart of the service; the others have ended."""
    kind: Kind
    name: str
    """Name of the uploaded file, for people; no path is made of it."""
    model: str
    """Model as asked for; `auto` chooses by source and device, and a note says which."""
    outscale: float | None
    """Final scale; null: that of the model."""
    priority: int
    """-9 to 9; higher ones start first."""
    bytes: int
    """Size of the source."""
    created: float
    """Seconds since 1970, as are the following two."""
    started: float | None
    ended: float | None
    frames: int
    """Frames done; of an image 1 when it is done."""
    frames_expected: int | None
    """Frames to expect; null: not known."""
    position: int | None
    """Number of jobs of the same kind that start before this one; null: not queued."""
    seconds: float
    """Time the job has run, over all restarts."""
    exit_code: int | None
    """Exit code of the upscale command, as `docs/reliability.md` lists them; null: not ended."""
    error: str | None
    size: str | None
    """Width and height of the result, such as `1280x720`."""
    result_bytes: int | None
    sha256: str | None
    """SHA-256 of the result."""
    notes: tuple[str, ...]
    """Lines about what was assumed, left out or done differently."""
    change: int
    """Increases with every change of any job; the `id` of server-sent events."""

    @classmethod
    def of(cls, values: object) -> Self:
        """Return the record of a JSON object; members that are not known here are left out.

        Raises:
            ValueError: it is none, or a member is missing or of another type.
        """
        if not isinstance(values, dict):
            raise ValueError("no job")
        found: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name)
            found[field.name] = tuple(value) if isinstance(value, list) else value
            if not _fits(found[field.name], field.type):
                raise ValueError(f"a job without {field.name}, or with another one than a job has")
        return cls(**found)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401 - an annotation
    """Return True if a value is of the type that a field of `JobInfo` states."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(it, str) for it in value)
    return isinstance(value, kind | int if float in (kind, *get_args(kind)) else kind)
