"""The work folder of a video: finished segments and a journal, which survive any crash.

The folder `NAME.EXT.partial/` is beside the result. `job.json` describes the job, `journal` has
a line for every segment that is completely on disk, `finished.json` describes the whole result
right before it gets its name, and a lock keeps a second process out. The content of a segment is
up to its writer.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srgan_edge import __version__
from srgan_edge.errors import OutputFailed, UsageError
from srgan_edge.files import (
    WHOLE_BYTES,
    content_sha256,
    file_locked,
    replace_when_whole,
    sha256_of,
    sync,
    sync_folder,
    work_folder_of,
)
from srgan_edge.transcode.outage import Place
from srgan_edge.typed import MISTAKES, from_json
from srgan_edge.video.frame import library_versions

if TYPE_CHECKING:  # the process that joins a video needs no jobs
    from srgan_edge.jobs.plan import Options

_FINISHED = "finished.json"
_REHEARSED = "rehearsed.json"

_OURS = re.compile(
    r"lock|journal|(job|finished|rehearsed)\.json|\.(job|finished|rehearsed)\.partial-\w{8}\.json"
    r"|segment-\d{6,}\.nut|segment-part-[-0-9a-f]{15,}(\.nut)?|state-\d{6,}|joined\.files"
)
"""Names in a work folder. Programs that download videos have similar ones."""

_STATES = 2
"""States that are kept: the last, and the one before, as `forget_last` removes a segment."""


_DISCARDED = 3
"""Times that a folder is emptied: a worker may just have begun what another one was faster with."""


@dataclass(frozen=True)
class Segment:
    """Consecutive frames of the video that were encoded independently of the others."""

    pts: list[int]
    """Timestamps of the frames in display order, in ticks of the input."""
    durations: list[int]
    """Durations of the frames, in the same ticks."""
    reorder: int
    """Number of frames that a decoder has to hold back to return them in order."""
    bytes: int
    sha256: str
    state_sha256: str = ""
    """SHA-256 of the state that the next segment begins with; empty if it needs none."""
    border_sha256: str = ""
    """Hash of the frame behind the segment as it was decoded; empty if it is not known."""


class WorkFolder:
    """The locked folder of an unfinished video, opened by `open_work_folder`.

    With `read_only`, what is damaged is passed over, and stays as it is.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path, self._read_only = path, read_only
        self._journal = path / "journal"
        self.place = Place(path.parent, self._journal)
        """The folder of the result, which may go away for a while."""
        self.segments = 0
        """Number of finished segments."""
        self.frames = 0
        """Number of frames in the finished segments."""
        self.damaged: str | None = None
        """Damage of the first segment that has to be redone; None: there is none."""
        self.is_discarded = False
        self._recover()

    def segment_path(self, index: int) -> Path:
        """Return the path of a segment, which may not exist yet."""
        return self.path / f"segment-{index:06}.nut"

    def part_path(self, index: int) -> Path:
        """Return another path for a segment, until it is known to be whole and in order."""
        return self.path / f"segment-part-{index:06}-{secrets.token_hex(4)}.nut"

    def add(
        self,
        pts: list[int],
        durations: list[int],
        reorder: int,
        state: bytes = b"",
        border_sha256: str = "",
        sha256: str = "",
    ) -> None:
        """Add the next segment, whose file is closed, to the journal, and sync both to disk.

        Args:
            state: what `state` will return to whoever writes the segment after it.
            border_sha256: see `Segment`.
            sha256: SHA-256 of the file, if it was just computed.

        Raises:
            OSError: the disk is full or failed.
        """
        file = self.segment_path(self.segments)
        sync(file)
        if state:
            kept = self._state_path(self.segments)
            kept.write_bytes(state)
            sync(kept)
        sync_folder(
            self.path
        )  # the file's name has to be on disk before the line that refers to it
        state_sha256 = hashlib.sha256(state).hexdigest() if state else ""
        size = file.stat().st_size
        segment = Segment(
            *(pts, durations, reorder, size, sha256 or sha256_of(file)),
            *(state_sha256, border_sha256),
        )
        with self._journal.open("a", encoding="ascii") as journal:
            record = json.dumps(asdict(segment))
            journal.write(f"{_digest(record.encode())} {record}\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.segments += 1
        self.frames += len(pts)
        if state and self.segments > _STATES:
            self._state_path(self.segments - 1 - _STATES).unlink(missing_ok=True)

    def state(self) -> bytes:
        """Return the state after the last finished segment; empty if none was added."""
        with suppress(FileNotFoundError):
            return self._state_path(self.segments - 1).read_bytes()
        return b""

    def border_sha256(self) -> str:
        """Return the hash of the frame behind the last segment; empty if it is not known."""
        last = None
        for _, last in self.finished():  # noqa: B007
            pass
        return "" if last is None else last.border_sha256

    def finished(self) -> Iterator[tuple[Path, Segment]]:
        """Yield the files of the finished segments in order, with their lines of the journal."""
        with self._journal.open("rb") as journal:
            for index, line in zip(range(self.segments), journal, strict=False):
                yield self.segment_path(index), _parsed(line)

    def forget_last(self) -> None:
        """Remove the last segment from the journal, so that it is made again."""
        lines = self._journal.read_bytes().splitlines(keepends=True)
        self.frames -= len(_parsed(lines.pop()).pts)
        self.segments -= 1
        os.truncate(self._journal, sum(map(len, lines)))

    def forget_unfinished(self) -> None:
        """Remove what an `add` that failed may have written to the journal, so that it can be
        repeated."""
        lines = self._journal.read_bytes().splitlines(keepends=True)
        os.truncate(self._journal, sum(map(len, lines[: self.segments])))

    def discard(self) -> None:
        """Remove the folder: the video is complete, or nothing in it is worth keeping.

        What describes a finished result goes last, so that whoever finds the rest knows.
        """
        self.is_discarded = True
        for _ in range(_DISCARDED):
            with suppress(OSError):
                for entry in sorted(self.path.iterdir(), key=_in_order_of_removal):
                    if entry.is_dir() and not entry.is_symlink():
                        shutil.rmtree(entry, ignore_errors=True)
                    else:
                        with suppress(OSError):
                            entry.unlink()
                self.path.rmdir()

    @property
    def is_lost(self) -> bool:
        """True if somebody removed the folder or its journal; not if all around it is away."""
        return not self.place.is_away and not self._journal.exists()

    def finish(self, file: Path, name: str, outcome: Mapping[str, Any]) -> None:
        """Record that `file` is the whole result, before it is renamed to `name` beside the folder.

        If the process dies before it has removed the folder, `finished_outcome` finds `outcome`.
        """
        record = {"job": self.job(), "name": name, "file": _file_of(file), "outcome": dict(outcome)}
        with replace_when_whole(self.path / _FINISHED) as written:
            written.write_text(json.dumps(record))

    def remember_rehearsal(self, outcome: Mapping[str, Any]) -> None:
        """Record the outcome of a rehearsal, so that resuming the job needs no other one."""
        with suppress(OSError):  # another one costs a moment
            (self.path / _REHEARSED).write_text(json.dumps(dict(outcome)))

    def rehearsal_outcome(self) -> dict[str, Any]:
        """Return what `remember_rehearsal` was told; empty if nothing, or it is broken."""
        with suppress(OSError, ValueError):
            found = json.loads((self.path / _REHEARSED).read_text())
            return found if isinstance(found, dict) else {}
        return {}

    def finished_outcome(self) -> dict[str, Any] | None:
        """Return what `finish` was told, if the file has its name; None if it does not."""
        record = _finished(self.path)
        return None if record is None else dict(record["outcome"])

    def start_afresh(self, job: Mapping[str, Any]) -> None:
        """Remove all finished segments, and start `job`."""
        os.truncate(self._journal, 0)
        self.segments = self.frames = 0
        for record in (_FINISHED, _REHEARSED):
            (self.path / record).unlink(missing_ok=True)
        for segment in (*self.path.glob("segment-*.nut"), *self.path.glob("state-*")):
            segment.unlink()
        with replace_when_whole(self.path / "job.json") as file:
            file.write_text(json.dumps(job, indent=1, sort_keys=True) + "\n")

    def job(self) -> dict[str, Any] | None:
        """Return the job that was started here; None if there was none, empty if it is broken."""
        try:
            found = json.loads((self.path / "job.json").read_text())
        except FileNotFoundError:
            finished = _finished(self.path)  # the last file that is removed
            found = None if finished is None else finished["job"]
            if found is None:
                return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _recover(self) -> None:
        """Keep the segments up to the first that differs from the journal, or whose state does."""
        if not self._read_only:
            self._journal.touch(mode=0o600)
            for part in self.path.glob("segment-part-*"):  # of a run that was killed
                part.unlink()
        with self._journal.open("rb") as journal:
            good: list[tuple[int, Segment]] = []
            for index, line in enumerate(journal):
                try:
                    segment = _parsed(line)
                    self._compare(self.segment_path(index), segment)
                except (ValueError, OSError) as error:
                    if line.endswith(b"\n"):  # without it, the process died while writing it
                        self.damaged = f"segment {index}: {error}"
                    break
                good.append((len(line), segment))
        while good and not self._has_state(len(good) - 1, good[-1][1]):
            good.pop()  # the states of earlier segments were removed, down to the first one
            self.damaged = f"segment {len(good)}: its state is missing or has changed"
        self.segments = len(good)
        self.frames = sum(len(segment.pts) for _, segment in good)
        if not self._read_only:
            os.truncate(self._journal, sum(length for length, _ in good))

    def _state_path(self, index: int) -> Path:
        return self.path / f"state-{index:06}"

    def _has_state(self, index: int, segment: Segment) -> bool:
        if not segment.state_sha256:
            return True
        with suppress(OSError):
            return sha256_of(self._state_path(index)) == segment.state_sha256
        return False

    def _compare(self, file: Path, segment: Segment) -> None:
        if file.stat().st_size != segment.bytes or sha256_of(file) != segment.sha256:
            raise ValueError(f"{file.name} has changed since it was finished")


@contextmanager
def open_work_folder(
    target: Path, job: Mapping[str, Any], *, restart: bool = False
) -> Iterator[WorkFolder]:
    """Create or open, and lock, the work folder of the video that will be written to `target`.

    The folder stays if the body raises, unless no segment was finished. The body discards it when
    it is no longer needed.

    Args:
        job: everything that determines the bytes of the result, as JSON values.
        restart: discard the finished segments.

    Raises:
        UsageError: the folder belongs to another job and `restart` is False; nothing in it is
            changed.
        OutputFailed: another process is upscaling this video, or the folder cannot be created or
            contains other files.
    """
    path = work_folder_of(target)
    work: WorkFolder | None = None
    job = json.loads(json.dumps(job))  # the values that reading it will return
    try:
        with _locked(path, target):
            work = WorkFolder(path)
            started = work.job()
            if started is None or restart:
                work.start_afresh(job)
            elif not started:
                raise UsageError(
                    f"{path / 'job.json'} is empty or broken, so that whose work is in {path.name} "
                    "is unknown; add --restart to start over, or name another file with -o"
                )
            elif started != job:
                raise UsageError(
                    f"{path} belongs to another job: {_difference(started, job)}, or add --restart "
                    "to start over"
                )
            try:
                yield work
            finally:
                if not work.segments:
                    work.discard()
    except OSError:
        if work is None:  # as where files cannot be locked
            _remove_unused(path)
        raise
    finally:
        if work is not None and work.is_discarded:
            # Network file systems keep a file that is removed while it is open: the lock.
            with suppress(OSError):
                path.rmdir()


def is_finished(target: Path) -> bool:
    """Return True if `target` is the result of a run that died before it removed its folder."""
    record = _finished(work_folder_of(target))
    return record is not None and record["name"] == target.name


def begun_with(target: Path) -> str | None:
    """Return the name of the model of an unfinished run for `target`; None if there is none."""
    with suppress(KeyError, TypeError):
        return str((begun_job(target) or {})["model"]["name"])
    return None


def begun_job(target: Path) -> dict[str, Any] | None:
    """Return the job of an unfinished run for `target`; None if there is none."""
    folder = work_folder_of(target)
    job: Any = (_finished(folder) or {}).get("job")  # its file is removed before the other one
    with suppress(OSError, ValueError):
        job = json.loads((folder / "job.json").read_text())
    return job if isinstance(job, dict) else None


def job_identity(
    source: Path,
    size: tuple[int, int],
    segment_length: int,
    options: "Options",
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything that determines the bytes of the segments, by names that a user knows."""
    status = source.stat()
    is_whole = status.st_size <= WHOLE_BYTES  # a copy, or what was touched, is the same input
    return {
        "input": {
            "bytes": status.st_size,
            "modified_ns": None if is_whole else status.st_mtime_ns,
            "content_sha256": content_sha256(source),
        },
        "size": list(size),
        "encoding": asdict(options.encoding),
        "encoder_threads": len(os.sched_getaffinity(0)),
        "segment_frames": segment_length,
        "on_damage": options.on_damage,
        "deinterlace": options.deinterlace,
        "dedup": options.dedup,
        "excerpt": None if options.excerpt is None else asdict(options.excerpt),
        "versions": {"srgan-edge": __version__, **library_versions()},
        **made_by,
    }


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    def refuse() -> None:
        raise OutputFailed(f"another process is writing {target}; wait or choose another -o")

    with file_locked(path / "lock", lambda: _open_lock(path), refuse):
        yield


def _open_lock(path: Path) -> int:
    """Create the folder if necessary, and open the lock file in it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            with suppress(FileExistsError):  # a file, too, is named below
                path.mkdir(mode=0o700)
            _refuse_foreign(path)
            _refuse_others_files(path)
            return os.open(path / "lock", flags, 0o600)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise
            # Otherwise another process has just finished and removed the folder.


def _refuse_foreign(path: Path) -> None:
    """Reject a link or another user's folder, which may exist where everybody can write."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise OutputFailed(f"{path} is not a folder of yours; remove it or choose another -o")


def _refuse_others_files(path: Path) -> None:
    """Reject a folder with other files, because it will be removed with everything in it.

    Until `job.json` is there, and once it is removed, all others but `finished.json` are empty.
    """
    entries = list(path.iterdir())
    is_described = (path / "job.json").exists() or _record(path) is not None
    for entry in entries:
        is_ours = not entry.is_symlink() and _OURS.fullmatch(entry.name)
        is_partial = entry.name.startswith(".")
        if not is_ours or not (is_described or is_partial or entry.stat().st_size == 0):
            raise OutputFailed(
                f"{entry} was not created by srgan-edge; move it away or choose another -o"
            )


def _remove_unused(path: Path) -> None:
    """Remove a folder in which there is nothing but the lock."""
    with suppress(OSError):
        if [entry.name for entry in path.iterdir()] == ["lock"]:
            (path / "lock").unlink()
        path.rmdir()


def _in_order_of_removal(entry: Path) -> int:
    return ["lock", _FINISHED].index(entry.name) + 1 if entry.name in ("lock", _FINISHED) else 0


def _finished(folder: Path) -> dict[str, Any] | None:
    """Return the record of a whole result, if the very file that it describes has its name."""
    record = _record(folder)
    with suppress(OSError):
        if record is not None and record["file"] == _file_of(folder.parent / record["name"]):
            return record
    return None


def _record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a whole result; None if there is none, or it is no such record."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / _FINISHED).read_text())
        name, outcome, job = record["name"], record["outcome"], record["job"]
        is_ours = isinstance(outcome, dict) and isinstance(job, dict) and Path(name).name == name
        if is_ours and isinstance(record["file"], list):
            return dict(record)
    return None


def _file_of(path: Path) -> list[int]:
    """Return what stays the same when a file gets another name."""
    status = path.lstat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name each value that differs, by its path, and what to do about it.

    For the input, only that it has changed.
    """
    was, becomes = _leaves(before), _leaves(now)
    changed = sorted(key for key in was | becomes if was.get(key) != becomes.get(key))
    if changed == ["input.modified_ns"]:
        seconds, nanoseconds = divmod(was[changed[0]], 10**9)
        return (
            "the input was written to or touched; if it is the same file as before, type: "
            f"touch -d @{seconds}.{nanoseconds:09} INPUT; repeat the earlier command"
        )
    lines = [
        f"{key} was {json.dumps(was.get(key))} and is {json.dumps(becomes.get(key))}"
        for key in changed
        if not key.startswith("input.")
    ]
    if len(lines) < len(changed):
        return f"{', '.join(['the input has changed', *lines])}; put the earlier one back"
    return f"{', '.join(lines)}; repeat the earlier command"


def _leaves(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _parsed(line: bytes) -> Segment:
    """Parse one line of the journal; raises ValueError if it is damaged."""
    digest, _, record = line.partition(b" ")
    if digest == _digest(record.removesuffix(b"\n")).encode():
        with suppress(*MISTAKES):
            segment = from_json(record, Segment)
            if segment.pts and len(segment.pts) == len(segment.durations):
                return segment
    raise ValueError("its line in the journal is damaged")


def _digest(record: bytes) -> str:
    """Return the checksum that starts a line; a flipped bit in a timestamp would move a frame."""
    return hashlib.sha256(record).hexdigest()[:16]
