"""A journal may be cut, corrupted or replaced: only lines that are intact are used."""

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srgan_edge.transcode import work_folder
from srgan_edge.transcode.work_folder import Segment, WorkFolder, _digest, open_work_folder

TIMES = ([0, 40, 80], [120, 160, 230], [240, 241, 1000])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work folder of three segments, and the bytes of its journal."""
    target = tmp_path_factory.mktemp("videos") / "out.mkv"
    with open_work_folder(target, {"made_by": "a test"}) as work:
        for index, pts in enumerate(TIMES):
            work.segment_path(index).write_bytes(bytes([index]) * 50)
            work.add(pts, [40] * 3, reorder=1)
        folder = work.path
    return folder, (folder / "journal").read_bytes()


def reopened(folder, journal):
    (folder / "journal").write_bytes(journal)
    work = WorkFolder(folder)
    return work, [segment for _, segment in work.finished()]


def test_finished_segments_are_found_again(finished):
    work, segments = reopened(*finished)
    assert (work.segments, work.frames, work.damaged) == (3, 9, None)
    assert [segment.pts for segment in segments] == [list(pts) for pts in TIMES]
    assert {(segment.bytes, segment.reorder) for segment in segments} == {(50, 1)}


@given(length=st.integers(0, 2000))
def test_of_a_cut_journal_the_whole_lines_are_used(finished, length):
    folder, journal = finished
    work, segments = reopened(folder, journal[:length])
    whole_lines = journal[:length].count(b"\n")
    # The last line may be complete even without its end of line.
    assert work.segments in (whole_lines, min(3, whole_lines + 1))
    assert [segment.pts for segment in segments] == list(map(list, TIMES[: work.segments]))


@given(at=st.integers(0, 700), flip=st.integers(1, 255))
def test_a_flipped_byte_never_changes_a_segment(finished, at, flip):
    folder, journal = finished
    changed = bytearray(journal)
    changed[at % len(changed)] ^= flip
    work, segments = reopened(folder, bytes(changed))
    assert work.segments <= 3
    assert [segment.pts for segment in segments] == list(map(list, TIMES[: work.segments]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from([*asdict(Segment([0], [1], 0, 1, "")), "surprise"])


@given(st.lists(VALUES | st.dictionaries(FIELDS, VALUES), max_size=4))
def test_lines_of_any_json_are_no_segments(finished, lines):
    """Valid checksums do not make arbitrary JSON a segment."""
    folder, _ = finished
    records = [json.dumps(line).encode() for line in lines]
    journal = b"".join(_digest(record).encode() + b" " + record + b"\n" for record in records)
    work, segments = reopened(folder, journal)
    assert (work.segments, segments) == (0, [])


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_no_segments(finished, content):
    work, _ = reopened(finished[0], content)
    assert work.segments == 0


def test_a_share_that_cannot_sync_folders_takes_segments(tmp_path, monkeypatch):
    def no_folders(path):
        if path.is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("srgan_edge.files.sync", no_folders)
    with open_work_folder(tmp_path / "out.mkv", {}) as work:
        work.segment_path(0).write_bytes(b"frames")
        work.add([0], [40], reorder=0)
    assert WorkFolder(work.path).frames == 1


def test_a_folder_whose_names_were_not_written_is_an_error(tmp_path, monkeypatch):
    def broken(path):
        if path.is_dir():
            raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr("srgan_edge.files.sync", broken)
    with open_work_folder(tmp_path / "out.mkv", {}) as work:
        work.segment_path(0).write_bytes(b"frames")
        with pytest.raises(OSError, match="input/output"):
            work.add([0], [40], reorder=0)


def test_a_segment_whose_line_was_not_synced_is_added_once(tmp_path, monkeypatch):
    """For example, because the network share is disconnected just then."""

    def lost(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_work_folder(tmp_path / "out.mkv", {}) as work:
        for index, pts in enumerate(TIMES):
            work.segment_path(index).write_bytes(b"segment")
            with monkeypatch.context() as patch:
                patch.setattr(work_folder, "sync", lambda path: None)
                patch.setattr(os, "fsync", lost)
                with pytest.raises(OSError, match="error"):
                    work.add(pts, [40] * 3, reorder=1)
            work.forget_unfinished()
            work.add(pts, [40] * 3, reorder=1)
        assert (work.segments, work.frames) == (3, 9)
        again = WorkFolder(work.path)
        assert [segment.pts for _, segment in again.finished()] == [list(pts) for pts in TIMES]


def test_no_folder_stays_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OSError, match="No locks"), open_work_folder(tmp_path / "out.mkv", {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_no_folder_stays_where_an_open_file_keeps_a_name(tmp_path, monkeypatch):
    """Network file systems rename the lock when it is removed, and free the name at its close."""
    kept, unlink, close = tmp_path / "out.mkv.partial" / ".nfs0001", Path.unlink, os.close

    def rename(path, **options):
        if path.name == "lock":
            return path.rename(kept)
        return unlink(path, **options)

    def close_lock(descriptor):
        if kept.exists() and os.path.samestat(os.fstat(descriptor), kept.stat()):
            unlink(kept)
        close(descriptor)

    monkeypatch.setattr(Path, "unlink", rename)
    monkeypatch.setattr(os, "close", close_lock)
    with open_work_folder(tmp_path / "out.mkv", {}) as work:
        work.discard()
    assert list(tmp_path.iterdir()) == []
