"""Write a JSON report of one `upscale` command: `--report`, see docs/report.md."""

import json
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srgan_edge import __version__
from srgan_edge.errors import OutputFailed, UsageError
from srgan_edge.files import (
    is_taken,
    output_failed,
    refuse_irreplaceable,
    replace_when_whole,
    sha256_of,
)
from srgan_edge.jobs.reporters import Forwarding, Outcome, Reporter

SCHEMA = 1
"""Version of the format: raised when a field is removed or changes meaning, not for new fields."""


class ReportFile(Forwarding):
    """Forwards all events to another reporter, and writes a report of them when the run ends.

    The file is either absent or complete. An older report is replaced.

    Raises:
        OutputFailed: at the end, if the report cannot be written.
    """

    def __init__(self, path: Path, shown: Reporter) -> None:
        super().__init__(shown)
        self._path = path
        self._made_by: Mapping[str, Any] = {}
        self._notes: list[str] = []
        self._jobs: list[dict[str, Any]] = []

    def refuse_other_file(self) -> None:
        """Check before the run that the report can be written and replaces only an older one.

        Raises:
            UsageError: the existing file is not a report.
            OutputFailed: there is no such folder, or it is not writable.
        """
        if is_taken(self._path) and not _is_report(self._path):
            raise UsageError(f"--report {self._path} exists and is not a report; name another file")
        if not os.access(self._path.parent, os.W_OK):
            raise OutputFailed(
                f"cannot write {self._path}: no such folder, or it is not writable; "
                "name another place with --report"
            )
        try:
            refuse_irreplaceable(self._path)
        except OSError as error:
            raise output_failed(self._path, error, "--report") from error

    def began(self, text: str, made_by: Mapping[str, Any], jobs: int) -> None:
        self._made_by = made_by
        self._shown.began(text, made_by, jobs)

    def note(self, text: str) -> None:
        self._notes.append(text)
        self._shown.note(text)

    def images_done(self, done: int, total: int) -> None:
        if done == total:
            self._notes = []  # about all of them, and not about the next file
        self._shown.images_done(done, total)

    def ended(self, outcome: Outcome) -> None:
        model = self._made_by.get("model")
        self._jobs.append(_job_record(outcome) | {"model": model, "notes": self._notes})
        self._notes = []
        self._shown.ended(outcome)

    def closed(self, outcomes: list[Outcome]) -> None:
        record = {
            "schema": SCHEMA,
            "srgan_edge": __version__,
            "exit_code": max((outcome.exit_code for outcome in outcomes), default=0),
            "made_by": self._made_by,
            "peak_memory_mb": _peak_memory_mb(),
            "jobs": self._jobs,
        }
        self.refuse_other_file()  # one that appeared during the work
        with replace_when_whole(self._path, "--report") as file:
            file.write_text(json.dumps(record, indent=1) + "\n")
        self._shown.closed(outcomes)


def _is_report(path: Path) -> bool:
    try:
        if not path.is_file() or path.is_symlink():
            return False
        record = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        return False
    return isinstance(record, dict) and record.keys() >= {"schema", "srgan_edge", "made_by", "jobs"}


def _job_record(outcome: Outcome) -> dict[str, Any]:
    error, video = outcome.error, outcome.video
    saved_as = outcome.job.target if video is None else Path(video.saved_as)
    has_file = bool(video or not error) and not outcome.skipped and outcome.job.outlet is None
    record = outcome.record() | {
        "kind": outcome.job.kind,
        "frames_per_second": round(outcome.frames_per_second, 3),
        "sha256": sha256_of(saved_as) if has_file else None,
    }
    if outcome.worker:
        record["worker"] = outcome.worker
    return record if video is None else record | video.record()


def _peak_memory_mb() -> float:
    """Return the peak memory of this process plus that of its largest child, in megabytes."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(sum(usage.ru_maxrss for usage in usages) * 1024 / 1e6, 1)
