"""The work folder of a video: finished segments and a journal of them, which outlive any death.

`NAME.EXT.partial/` lies beside the result. `job.json` says what is being made, `journal` has
a line for every segment that lies on the disk whole, and a lock keeps a second process out. What is
in a segment is its writer's business.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srgan_edge import __version__
from srgan_edge.errors import OutputFailed, UsageError
from srgan_edge.files import file_locked, replace_when_whole, sha256_of, sync
from srgan_edge.jobs.plan import Options
from srgan_edge.video.frame import library_versions


@dataclass(frozen=True)
class Segment:
    """Some frames of the video, one after the other, that were encoded by themselves."""

    pts: list[int]
    """Of each frame, in the order in which they are shown, in ticks of the input."""
    durations: list[int]
    """Of each frame, in the same ticks."""
    reorder: int
    """How many frames a decoder has to hold back so that they come out in order."""
    bytes: int
    sha256: str


class WorkFolder:
    """One video on its way, locked; made by `open_work_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal = path / "journal"
        self.segments = 0
        """How many are finished."""
        self.frames = 0
        """How many frames are in them."""
        self.damaged: str | None = None
        """What is wrong with the first segment that has to be made again; None: nothing is."""
        self._recover()

    def segment_path(self, index: int) -> Path:
        """Where a segment lies, or will."""
        return self.path / f"segment-{index:06}.nut"

    def add(self, pts: list[int], durations: list[int], reorder: int) -> None:
        """Enter the next segment, whose file is closed, into the journal; both are then on disk.

        Raises:
            OSError: the disk is full, or failed.
        """
        file = self.segment_path(self.segments)
        sync(file)
        sync(self.path)  # the name of the file is on disk before the line that speaks of it
        segment = Segment(pts, durations, reorder, file.stat().st_size, sha256_of(file))
        with self._journal.open("a", encoding="ascii") as journal:
            record = json.dumps(asdict(segment))
            journal.write(f"{_digest(record.encode())} {record}\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.segments += 1
        self.frames += len(pts)

    def finished(self) -> Iterator[tuple[Path, Segment]]:
        """The files of the finished segments in order, and what the journal says of each."""
        with self._journal.open("rb") as journal:
            for index, line in zip(range(self.segments), journal, strict=False):
                yield self.segment_path(index), _parsed(line)

    def forget_last(self) -> None:
        """Have the last segment made again, as if it had not been finished."""
        lines = self._journal.read_bytes().splitlines(keepends=True)
        self.frames -= len(_parsed(lines.pop()).pts)
        self.segments -= 1
        os.truncate(self._journal, sum(map(len, lines)))

    def discard(self) -> None:
        """Remove all of it: the video is whole, or nothing of it is worth keeping."""
        shutil.rmtree(self.path, ignore_errors=True)

    def start_afresh(self, job: Mapping[str, Any]) -> None:
        """Forget what was finished, and begin `job`."""
        os.truncate(self._journal, 0)
        self.segments = self.frames = 0
        for segment in self.path.glob("segment-*.nut"):
            segment.unlink()
        with replace_when_whole(self.path / "job.json") as file:
            file.write_text(json.dumps(job, indent=1, sort_keys=True) + "\n")

    def job(self) -> dict[str, Any] | None:
        """What is being made here; None: nothing yet."""
        try:
            found = json.loads((self.path / "job.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _recover(self) -> None:
        """Keep the segments up to the first that is not as the journal says."""
        self._journal.touch(mode=0o600)
        with self._journal.open("rb") as journal:
            good_bytes = 0
            for index, line in enumerate(journal):
                try:
                    segment = _parsed(line)
                    self._compare(self.segment_path(index), segment)
                except (ValueError, OSError) as error:
                    if line.endswith(b"\n"):  # else it was being written when the process died
                        self.damaged = f"segment {index}: {error}"
                    break
                good_bytes += len(line)
                self.segments += 1
                self.frames += len(segment.pts)
        os.truncate(self._journal, good_bytes)

    def _compare(self, file: Path, segment: Segment) -> None:
        if file.stat().st_size != segment.bytes or sha256_of(file) != segment.sha256:
            raise ValueError(f"{file.name} has changed since it was finished")


@contextmanager
def open_work_folder(
    target: Path, job: Mapping[str, Any], *, restart: bool = False
) -> Iterator[WorkFolder]:
    """The work folder of the video that will be `target`, made or found, and locked.

    It stays when the body raises, unless no segment was finished; the body discards it when it has
    no use any more.

    Args:
        job: everything that decides the bytes of the result, as JSON values.
        restart: whatever was finished is forgotten.

    Raises:
        UsageError: the folder is of another job and `restart` was not asked for; nothing in it is
            changed.
        OutputFailed: another process is at work on this video, the folder cannot be made, or has
            something else in it.
    """
    path = target.with_name(f"{target.name}.partial")
    job = json.loads(json.dumps(job))  # as it will be read
    with _locked(path, target):
        _refuse_others_files(path)
        work = WorkFolder(path)
        started = work.job()
        if started is None or restart:
            work.start_afresh(job)
        elif started != job:
            raise UsageError(
                f"{path} is of another job: {_difference(started, job)}; "
                "type the same command as then, or add --restart to begin anew"
            )
        try:
            yield work
        finally:
            if not work.segments:
                work.discard()


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    """Hold the folder's lock."""

    def refuse() -> None:
        raise OutputFailed(f"another process is writing {target}; wait for it, or name another -o")

    with file_locked(path / "lock", lambda: _open_lock(path), refuse):
        yield


def _open_lock(path: Path) -> int:
    """Make the folder, if need be, and open the lock in it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            _refuse_foreign(path)
            return os.open(path / "lock", flags, 0o600)
        except FileNotFoundError:
            if not path.parent.is_dir():
                raise

            # Its owner has just finished, and removed it.


def _refuse_foreign(path: Path) -> None:
    """Where everybody may write, somebody else may have laid a folder or a link there."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise OutputFailed(f"{path} is not a folder of ours; remove it, or name another -o")


def _refuse_others_files(path: Path) -> None:
    """It will be removed with all that is in it, so that must be ours."""
    ours = {"lock", "job.json", "journal"}
    for entry in path.iterdir():
        if entry.name not in ours and not entry.name.startswith(("segment-", "joined.", ".job.")):
            raise OutputFailed(f"{entry} is none of ours; move it away, or name another -o")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Each value that is another one, by its path; of the input, only that it is another one."""
    was, becomes = _leaves(before), _leaves(now)
    changed = sorted(key for key in was | becomes if was.get(key) != becomes.get(key))
    words = [
        f"{key} was {json.dumps(was.get(key))} and is {json.dumps(becomes.get(key))}"
        for key in changed
        if not key.startswith("input.")
    ]
    return ", ".join(words if len(words) == len(changed) else ["the input has changed", *words])


def _leaves(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _parsed(line: bytes) -> Segment:
    """One line of the journal.

    Raises:
        ValueError: it is not one.
    """
    digest, _, record = line.partition(b" ")
    if digest != _digest(record.removesuffix(b"\n")).encode():
        raise ValueError("its line in the journal is damaged")
    try:
        segment = Segment(**json.loads(record))
        numbers = [segment.reorder, segment.bytes, *segment.pts, *segment.durations]
    except TypeError:
        numbers = []
    if not all(type(number) is int for number in numbers) or not numbers:
        raise ValueError("its line in the journal is damaged")
    if not segment.pts or len(segment.pts) != len(segment.durations):
        raise ValueError("its line in the journal is damaged")
    return segment


def _digest(record: bytes) -> str:
    """What a line begins with: a flipped bit in a time would be a frame at another one."""
    return hashlib.sha256(record).hexdigest()[:16]


_IDENTITY_BYTES = 1 << 20


def _identity(
    source: Path,
    size: tuple[int, int],
    segment_length: int,
    options: Options,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that decides the bytes of the segments, by names that a user knows."""
    status = source.stat()
    return {
        "input": {
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "ends_sha256": _ends_sha256(source, status.st_size),
        },
        "size": list(size),
        "encoding": asdict(options.encoding),
        "encoder_threads": len(os.sched_getaffinity(0)),
        "segment_frames": segment_length,
        "on_damage": options.on_damage,
        "deinterlace": options.deinterlace,
        "versions": {"srgan-edge": __version__, **library_versions()},
        **made_by,
    }


def _ends_sha256(path: Path, size_bytes: int) -> str:
    """Of the first and the last megabyte: a video of many gigabytes is not read twice for it."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_IDENTITY_BYTES))
        file.seek(max(0, size_bytes - _IDENTITY_BYTES))
        digest.update(file.read(_IDENTITY_BYTES))
    return digest.hexdigest()
