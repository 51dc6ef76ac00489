"""From the fields of an upload to a job: every value is checked here, before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from srgan_edge.image.opening import RESULT_SUFFIXES
from srgan_edge.image.writer import SUFFIXES
from srgan_edge.jobs.plan import KEPT_VIDEO_SUFFIXES
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.roots import copy_to, opened_below
from srgan_edge.serve.settings import Settings
from srgan_edge.serve.store import NewJob
from srgan_edge.serve.uploads import Upload
from srgan_edge.serve.work import planned, shown_name, source_name, without_suffix

FIELDS = ("model", "outscale", "format", "priority", "path")
MAX_OUTSCALE = 16
MAX_PRIORITY = 9


@dataclass(frozen=True)
class Wanted:
    """The wishes of a request, besides its file."""

    model: str
    outscale: float | None = None
    extension: str | None = None
    """Type of the result, such as `.png`; None: that of the source, if possible."""
    priority: int = 0
    path: str | None = None
    """File below the root, instead of an upload."""


def wanted(fields: Mapping[str, str], settings: Settings, models: list[str]) -> Wanted:
    """Check the fields of a request.

    Raises:
        Problem: a field or a value is not possible.
    """
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise _invalid(f"field {unknown[0][:50]!r}", f"file, {', '.join(FIELDS)}")
    model = fields.get("model") or settings.model
    if model not in models:
        raise _invalid(f"model {model[:100]!r}", ", ".join(models))
    return Wanted(
        model=model,
        outscale=_outscale(fields.get("outscale")),
        extension=_extension(fields.get("format")),
        priority=_priority(fields.get("priority")),
        path=fields.get("path") or None,
    )


def fetch(upload: Upload, path: str, settings: Settings, folder: Path) -> None:
    """Copy the file that `path` names below the root, as if it had been uploaded.

    Raises:
        Problem: there is no root, no such file in it, or it is too large.
        InputRefused: it is empty.
    """
    if settings.root is None:
        raise Problem("outside-root", "no folder may be read here", "an upload, as field file")
    with opened_below(settings.root, path) as file:
        upload.name = shown_name(path)
        upload.path = folder / source_name(upload.name)
        size = file.seek(0, 2)
        file.seek(0)
        if size > settings.max_bytes:
            limit = f"up to {settings.max_bytes} bytes"
            raise Problem("too-large", f"the file has {size} bytes", limit)
        upload.bytes = copy_to(file, upload.path)


def new_job(job_id: str, client: str, upload: Upload, request: Wanted) -> NewJob:
    """Return the job of an upload that lies in its folder.

    Raises:
        Problem: there is no file, or an empty one; or the type of the result does not fit.
        InputRefused: it is not an image or video by its name or its first bytes.
    """
    if upload.path is None:
        raise _invalid("no file", "a field file, or path with --root")
    if upload.bytes == 0:
        raise Problem("input-refused", f"{upload.name}: empty file (0 bytes); fetch it again")
    job = planned(upload.path, request.extension, upload.name)
    if request.extension is not None and job.target.suffix != request.extension:
        possible = KEPT_VIDEO_SUFFIXES if job.kind == "video" else SUFFIXES
        raise _invalid(
            f"format {request.extension[1:]!r} of {job.kind} {upload.name}",
            ", ".join(sorted(it[1:] for it in possible)),
        )
    return NewJob(
        id=job_id,
        client=client,
        kind=job.kind,
        name=upload.name,
        source=job.source.name,
        target=job.target.name,
        model=request.model,
        outscale=request.outscale,
        priority=request.priority,
        bytes=upload.bytes,
    )


def result_name(name: str, target: Path) -> str:
    """Return the name under which a browser saves a result."""
    return f"{without_suffix(name)}_upscaled{target.suffix}"


def _outscale(text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_OUTSCALE:
        raise _invalid(f"outscale {text[:50]!r}", f"above 0, up to {MAX_OUTSCALE}")
    return value


def _extension(text: str | None) -> str | None:
    if not text:
        return None
    extension = f".{text.lower().removeprefix('.')}"
    possible = (set(SUFFIXES) - set(RESULT_SUFFIXES)) | KEPT_VIDEO_SUFFIXES
    if extension not in possible:
        raise _invalid(f"format {text[:50]!r}", ", ".join(sorted(it[1:] for it in possible)))
    return extension


def _priority(text: str | None) -> int:
    if not text:
        return 0
    try:
        value = int(text)
    except ValueError:
        value = MAX_PRIORITY + 1
    if abs(value) > MAX_PRIORITY:
        raise _invalid(
            f"priority {text[:50]!r}", f"a whole number, -{MAX_PRIORITY} to {MAX_PRIORITY}"
        )
    return value


def _invalid(got: str, possible: str) -> Problem:
    return Problem("invalid", f"got {got}", possible)
