"""The words of one upscale command in a job's folder, and its outcome in the words of clients."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srgan_edge.errors import InputRefused, printable
from srgan_edge.files import partial_result
from srgan_edge.image.writer import IMAGE_SUFFIXES
from srgan_edge.jobs.plan import Job as PlannedJob
from srgan_edge.jobs.plan import Naming, plan_jobs
from srgan_edge.suffixes import VIDEO_SUFFIXES

MAX_NAME = 200
SOURCE_STEM, RESULT_STEM = "source", "result"
_NO_SUFFIX = ".upload"
"""Suffix of a source whose own says nothing, so that its first bytes do."""

_FOR_TERMINALS = re.compile(
    r"; -n NAME takes another model.*|(;| or) name another place with --?[\w-]+"
)
"""Advice that clients cannot type."""


@dataclass(frozen=True)
class Ended:
    """The outcome of one command."""

    exit_code: int
    error: str | None = None
    frames: int = 0
    size: str | None = None
    sha256: str | None = None
    result: Path | None = None
    """The whole result, or what could be saved of a damaged video."""
    notes: tuple[str, ...] = ()


def shown_name(name: str) -> str:
    """Return the name of an uploaded file for people: one line without folders."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return printable(last)[-MAX_NAME:].strip() or "unnamed"


def source_name(name: str) -> str:
    """Return the name of a source in its job's folder; only the suffix is the client's."""
    return f"{SOURCE_STEM}{suffix_of(shown_name(name)).lower() or _NO_SUFFIX}"


def suffix_of(name: str) -> str:
    """Return the suffix of an image or video in a name; empty if it has none."""
    suffix = Path(name).suffix
    return suffix if suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES else ""


def without_suffix(name: str) -> str:
    """Return a name without the suffix of an image or video; whole if it has none."""
    return Path(name).stem if suffix_of(name) else name


def planned(source: Path, extension: str | None, name: str) -> PlannedJob:
    """Return the command for a source in its job's folder.

    Args:
        extension: type of the result, such as `.png`; None: that of the source, if possible.
        name: the client's name of the file, for error messages.

    Raises:
        InputRefused: it is not an image or video by its name or its first bytes.
    """
    try:
        (job,) = plan_jobs([str(source)], None, Naming("_upscaled", extension))
    except InputRefused as error:
        raise InputRefused(str(error).replace(str(source), name)) from None
    return PlannedJob(source, job.target.with_stem(RESULT_STEM), job.kind)


def in_clients_words(text: str, source: Path, target: Path, name: str) -> str:
    """Return a message with the client's name of the file, and no path of this machine."""
    folder = f"{source.parent}/"
    text = _FOR_TERMINALS.sub("", text)
    for ours, theirs in (
        (str(source), name),
        (str(partial_result(target)), "the result"),
        (str(target), "the result"),
        (folder, ""),
        (source.name, name),
        (partial_result(target).name, "the result"),
        (target.name, "the result"),
    ):
        text = text.replace(ours, theirs)
    return printable(text)


def outcome_in(report: Path) -> Ended | None:
    """Return the outcome that a command wrote with `--report`; None: it wrote none."""
    try:
        (job,) = json.loads(report.read_text())["jobs"]
    except (OSError, ValueError, KeyError):
        return None
    return _of_record(job)


def _of_record(job: dict[str, Any]) -> Ended:
    saved = Path(job.get("saved_as") or job["target"])
    return Ended(
        exit_code=job["exit_code"],
        error=job["error"],
        frames=job["frames"],
        size=job["size"] or None,
        sha256=job["sha256"],
        result=saved if job["sha256"] else None,
        notes=tuple(job["notes"]),
    )
