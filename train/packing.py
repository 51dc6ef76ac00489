"""Pack photographs into flat arrays; what a run that was stopped had packed is used by the next.

    hr.u8.partial, lr.u8.partial     the arrays so far
    photos.partial                   what they are made of; then a JSON line for each file

A line is written when the arrays before it are on the disk, so that after a power cut, too, all
that the lines name is there. `photos` has the arrays when they are whole.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from srgan_edge import bicubic
from srgan_edge.errors import InputRefused, OutputFailed
from srgan_edge.files import folder_made, output_failed, replace_when_whole, sync_folder
from srgan_edge.pixels import Pixels
from srgan_edge.train.photo_files import UnusablePhoto, read_photo

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with (done, in all): files when packing, photographs for a teacher."""

FORMAT = 1
DECODING = 2
"""Number of changes in how files become pixels; packs of older ones are packed again."""
KEY_BYTES = 32
"""Each array begins with the key of the index it belongs to, so that parts of two packs, or of one
cut short, are never taken for one."""

FILES_BETWEEN_SYNCS = 16
"""Photographs that a kill may cost; a sync for each would take longer than most of them."""


def pack_photos(
    folders: list[Path],
    files: list[tuple[Path, Path]],
    cache: Path,
    made_of: str,
    crop_px: int,
    scale: int,
    reduced: tuple[float, ...],
    on_progress: OnProgress,
) -> None:
    """Write `hr.u8` and `lr.u8`, then the index `photos.json` that makes them count.

    Args:
        files: the folder and the path of each file.
        made_of: `listing_key` of these arguments; work of another one is not continued.

    Raises:
        InputRefused: no photograph is usable.
        OutputFailed: the cache cannot be written, or another process writes to it.
    """

    def failed(error: OSError) -> OutputFailed:
        return OutputFailed(
            f"cannot make the cache folder {cache}: {error.strerror}; name another place"
        )

    with ExitStack() as life:
        life.enter_context(folder_made(cache, failed))
        for name in ("hr.u8", "lr.u8"):
            if (cache / name).is_dir():
                raise OutputFailed(f"cannot write {cache / name}: it is a folder; remove it")
        pack = life.enter_context(_packing(cache, made_of, scale))
        for done, (folder, path) in enumerate(files):
            on_progress(done, len(files))
            if done < len(pack.entries):
                continue
            place = folders.index(folder), str(path.relative_to(folder))
            try:
                whole = read_photo(path, crop_px)
            except UnusablePhoto as unusable:
                pack.leave_out(place, unusable.reason)
            else:
                pack.add(place, _sizes(whole, crop_px, scale, reduced))
        if not pack.photos:
            pack.discard()
            left_out = pack.left_out
            raise InputRefused(
                f"no usable photograph of at least {crop_px}x{crop_px} in "
                f"{', '.join(map(str, folders))}; {len(left_out)} files left out"
                + (f", the first because: {left_out[0][2]}" if left_out else "")
            )
        pack.finish(made_of)
    on_progress(len(files), len(files))


def listing_key(
    files: list[tuple[Path, Path]], crop_px: int, scale: int, reduced: tuple[float, ...]
) -> str:
    """Hex; changes with anything that may change the pack, without reading a photograph."""
    digest = hashlib.sha256(repr((FORMAT, DECODING, crop_px, scale, reduced)).encode())
    for folder, path in files:
        try:
            status = path.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # a link to nowhere; packing will name it
            state = (-1, -1)
        digest.update(repr((str(path.relative_to(folder)), *state)).encode())
    return digest.hexdigest()


@dataclass
class _Packing:
    """The arrays and the journal while they are written."""

    cache: Path
    scale: int
    journal: BinaryIO
    hr: BinaryIO
    lr: BinaryIO
    entries: list[dict[str, Any]] = field(default_factory=list)
    """For each file its `place`, and either its `photos` (height, width, factor) or `left_out`."""
    _waiting: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256(repr((FORMAT, self.scale)).encode())

    @property
    def photos(self) -> list[tuple[Any, ...]]:
        return [(*entry["place"], *photo) for entry in self.entries for photo in entry["photos"]]

    @property
    def left_out(self) -> list[tuple[Any, ...]]:
        reasons = ((entry["place"], entry["left_out"]) for entry in self.entries)
        return [(*place, reason) for place, reason in reasons if reason is not None]

    def add(self, place: tuple[int, str], sizes: Iterator[tuple[float, Pixels]]) -> None:
        """Append one photograph in its sizes."""
        photos = []
        for factor, hr in sizes:
            height, width = hr.shape[:2]
            photos.append((height, width, factor))
            self._hash(height, width, hr.data)
            self.hr.write(hr.data)
            lr = bicubic.resize(hr, height // self.scale, width // self.scale)
            self.lr.write(lr.tobytes())
        self._append({"place": place, "photos": photos, "left_out": None})

    def leave_out(self, place: tuple[int, str], reason: str) -> None:
        self._append({"place": place, "photos": [], "left_out": reason})

    def resume(self, made_of: str) -> None:
        """Go on behind what an earlier run has packed of the same files, or start over."""
        head = json.dumps({"made_of": made_of}).encode() + b"\n"
        hr_bytes, lr_bytes = (file.seek(0, os.SEEK_END) for file in (self.hr, self.lr))
        hr_end, lr_end, journal_end = KEY_BYTES, KEY_BYTES, len(head)
        self.journal.seek(0)
        is_ours = self.journal.readline() == head
        for line in self.journal if is_ours else ():
            try:
                entry = json.loads(line)
                pixels = sum(height * width for height, width, _ in entry["photos"])
            except (ValueError, LookupError, TypeError):
                break
            hr_end, lr_end = hr_end + 3 * pixels, lr_end + 3 * pixels // self.scale**2
            if not line.endswith(b"\n") or hr_end > hr_bytes or lr_end > lr_bytes:
                hr_end, lr_end = hr_end - 3 * pixels, lr_end - 3 * pixels // self.scale**2
                break
            self.entries.append(entry)
            journal_end += len(line)
        ends = (self.journal, journal_end), (self.hr, hr_end), (self.lr, lr_end)
        for file, end in ends:
            file.truncate(end if self.entries else 0)
            file.seek(0)
        if not self.entries:
            self.journal.write(head)
            self.hr.write(bytes(KEY_BYTES))
            self.lr.write(bytes(KEY_BYTES))
            return
        self.hr.seek(KEY_BYTES)
        for _, _, height, width, _ in self.photos:
            self._hash(height, width, memoryview(self.hr.read(3 * height * width)))
        for file, end in ends:
            file.seek(end)

    def finish(self, made_of: str) -> None:
        """Give the arrays their key and names, and write the index."""
        digest = self._digest.digest()
        for file, name in ((self.hr, "hr.u8"), (self.lr, "lr.u8")):
            file.seek(0)
            file.write(digest)
            _sync(file)
            (self.cache / f"{name}.partial").replace(self.cache / name)
        sync_folder(self.cache)
        index = {
            "made_of": made_of,
            "key": digest.hex(),
            "photos": self.photos,
            "left_out": self.left_out,
        }
        with replace_when_whole(self.cache / "photos.json") as partial:
            partial.write_text(json.dumps(index), encoding="utf-8")
        self.discard()

    def discard(self) -> None:
        for name in ("photos.partial", "hr.u8.partial", "lr.u8.partial"):
            (self.cache / name).unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        self._waiting.append(entry)
        if len(self._waiting) >= FILES_BETWEEN_SYNCS:
            _sync(self.hr)
            _sync(self.lr)
            for waiting in self._waiting:
                self.journal.write(json.dumps(waiting).encode() + b"\n")
            _sync(self.journal)
            self._waiting.clear()

    def _hash(self, height: int, width: int, pixels: memoryview) -> None:
        self._digest.update(repr((height, width)).encode())
        self._digest.update(pixels)


@contextmanager
def _packing(cache: Path, made_of: str, scale: int) -> Iterator[_Packing]:
    """Yield the arrays, opened where an earlier run stopped; no other process may write them."""
    try:
        with (
            _opened(cache / "photos.partial") as journal,
            _opened(cache / "hr.u8.partial") as hr,
            _opened(cache / "lr.u8.partial") as lr,
        ):
            _lock(journal, cache)
            pack = _Packing(cache, scale, journal, hr, lr)
            pack.resume(made_of)
            yield pack
    except OSError as error:
        raise output_failed(cache, error) from error


def _opened(path: Path) -> BinaryIO:
    """Open a file to read and to write, made if missing; a link is not followed."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+b")


def _lock(file: BinaryIO, cache: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputFailed(
            f"{cache}: another process packs photographs into it; wait for it"
        ) from None
    except OSError:
        pass  # a file system without locks; the folder of the run has its own


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sizes(
    whole: Pixels, crop_px: int, scale: int, reduced: tuple[float, ...]
) -> Iterator[tuple[float, Pixels]]:
    """(factor, HR): the photograph as it is and reduced, cropped to multiples of the scale."""
    for factor in (1.0, *reduced):
        height, width = (int(factor * side + 0.5) for side in whole.shape[:2])
        if min(height, width) >= crop_px:
            hr = whole if factor == 1.0 else bicubic.resize(whole, height, width)
            hr = hr[: height // scale * scale, : width // scale * scale]
            yield factor, np.ascontiguousarray(hr)
