"""Decoding in a child process: the same frames, and every way in which the child can fail."""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import clips
import misbehaving
import numpy as np
import psutil
import pytest
from clips import make
from processes import children

from srgan_edge.errors import InputDamaged, InputRefused, ResourcesExhausted
from srgan_edge.isolation import sandbox
from srgan_edge.isolation.child import Child, ChildFailed
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.video.frame import Frame
from srgan_edge.video.opening import MAX_PIXELS
from srgan_edge.video.reader import VideoReader

pytestmark = pytest.mark.slow

TICK = Fraction(1, 90000)
LANDLOCK = sandbox.landlock_version() >= 6


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make(tmp_path_factory.mktemp("video") / "in.mkv", frames=30)


@pytest.fixture
def entry(monkeypatch):
    """Return a function that replaces the child by one of those in `misbehaving`, by name."""
    return lambda name: monkeypatch.setattr(IsolatedReader, "entry", f"misbehaving:{name}")


def read_in_process(path, **options):
    with VideoReader(path, **options) as reader:
        return [item for item in reader if isinstance(item, Frame)], reader


def numbers(frames):
    return [clips.read_barcode(frame.pixels) for frame in frames]


# ---------------------------------------------------------------- the same as in this process


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.mp4", {"frames": 40, "options": {"bf": "3"}, "audio": ["eng"]}),
        ("odd.mkv", {"size": (31, 17), "pixel_format": "yuv444p", "frames": 5}),
        ("two at one time.mkv", {"codec": "ffv1", "options": {}, "pts": [0, 512, 512, 1024]}),
        ("turned.mp4", {"display": (90, True), "frames": 2}),
        ("http:a%d\n\udcff.mkv", {"frames": 1}),
    ],
)
def test_frames_times_and_properties_are_those_of_the_reader(tmp_path, name, wanted):
    source = make(tmp_path / "plain.mkv" if "\n" in name else tmp_path / name, **wanted)
    source = source.rename(tmp_path / name)
    expected, reader = read_in_process(source)
    with IsolatedReader(source) as isolated:
        frames = list(isolated)  # more than the ring holds, all of them alive
        assert isolated.info == reader.info
        assert isolated.notes == reader.notes
    assert [(f.pts, f.duration) for f in frames] == [(f.pts, f.duration) for f in expected]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames, expected, strict=True))
    assert children() == []


@pytest.mark.parametrize("skip", [0, 1, 17, 29, 30])
def test_skipped_frames_are_neither_sent_nor_forgotten(video, skip):
    expected, _ = read_in_process(video)
    with IsolatedReader(video) as reader:
        frames = list(reader.after(skip))
        assert reader.frames == 30
    assert numbers(frames) == list(range(skip, 30))
    assert [f.pts for f in frames] == [f.pts for f in expected[skip:]]


@pytest.mark.parametrize("keeps", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize(("read", "over"), [(1, 1), (1, 9), (3, 20), (1, 29), (5, 60), (30, 1)])
def test_frames_are_passed_over_in_the_middle(video, read, over, keeps):
    """Fewer than the decoder is ahead, and more; whether or not the caller holds those before."""
    expected, whole = read_in_process(video)
    with IsolatedReader(video) as reader:
        frames = reader.after(0)
        kept = [next(frames) for _ in range(read)]
        found = [frame.pts for frame in kept]
        if not keeps:
            kept.clear()
        reader.pass_over(over)
        tail = list(frames)
        assert reader.notes == whole.notes
        assert reader.frames == 30
    pts = [frame.pts for frame in expected]
    assert found + [frame.pts for frame in tail] == pts[:read] + pts[read + over :]
    for frame, wanted in zip(tail, expected[read + over :], strict=True):
        assert np.array_equal(frame.pixels, wanted.pixels)


@pytest.mark.parametrize("read", [0, 1, 7, 30])
def test_a_file_is_read_again_in_the_same_process(video, read):
    expected, _ = read_in_process(video)
    with IsolatedReader(video) as reader:
        (child,) = children()
        frames = reader.after(0)
        kept = [next(frames) for _ in range(read)]
        used = []
        for first in (12, 0, 29, 12, 12):
            reader.reopen(from_pts=expected[first].pts)
            again = list(reader)
            assert [frame.pts for frame in again] == [frame.pts for frame in expected[first:]]
            assert numbers(again) == list(range(first, 30))
            del again
            used.append((child.num_fds(), len(child.memory_maps(grouped=False))))
        assert children() == [child]
        assert reader.frames == 18
    assert numbers(kept) == list(range(read))
    assert used[-1] == used[-2]


@pytest.mark.skipif(not LANDLOCK, reason="a kernel without Landlock")
@pytest.mark.parametrize("is_link", [False, True])
def test_an_equal_file_in_its_place_is_a_change_and_not_missing_rights(video, tmp_path, is_link):
    """The sandbox lets the child read one file, whatever its name leads to later."""
    path, copies = tmp_path / "in.mkv", [tmp_path / "a.mkv", tmp_path / "b.mkv"]
    for copy in copies:
        copy.write_bytes(video.read_bytes())
    for step, copy in enumerate(copies):
        (tmp_path / "new").symlink_to(copy) if is_link else (tmp_path / "new").hardlink_to(copy)
        (tmp_path / "new").rename(path)
        if step == 0:
            reader = IsolatedReader(path)
    with reader, pytest.raises(InputDamaged, match=r"in\.mkv: damaged: the file was changed or"):
        reader.reopen()


def test_times_that_were_nudged_stay_so_after_a_skip(tmp_path):
    source = make(tmp_path / "in.mkv", codec="ffv1", options={}, pts=[0, 512, 512, 512, 1024])
    expected, _ = read_in_process(source)
    with IsolatedReader(source) as reader:
        assert [frame.pts for frame in reader.after(2)] == [frame.pts for frame in expected[2:]]
        assert reader.notes.nudged == 2
    with IsolatedReader(source) as reader:
        assert list(reader.after(5)) == []
        assert reader.notes.nudged == 2


def test_a_frame_is_valid_as_long_as_any_view_of_it_exists(video):
    """The slot of a frame must not be reused while any array refers to it, however derived."""
    rows = []
    with IsolatedReader(video) as reader:
        for number, frame in enumerate(reader):
            part = frame.pixels[::2].view(np.uint8)[..., 1:].reshape(24, 64, 2)
            rows.append((part, part.copy()))
            if number % 3 == 0:
                rows.pop(0)
            del frame
            time.sleep(0.001)  # for the decoder to overwrite what it may
    gc.collect()
    assert all(np.array_equal(part, copied) for part, copied in rows)


def test_frames_outlive_their_reader_and_may_be_written_to(video):
    with IsolatedReader(video) as reader:
        frame = next(iter(reader))
    frame.pixels[:] += 0
    assert clips.read_barcode(frame.pixels) == 0


def test_deep_frames_come_with_both_their_arrays(tmp_path):
    source = make(tmp_path / "in.mkv", pixel_format="yuv420p10le", frames=20)
    expected, _ = read_in_process(source)
    with IsolatedReader(source) as reader:
        frames = list(reader)
    assert frames[0].deep.dtype == np.uint16
    for frame, other in zip(frames, expected, strict=True):
        assert np.array_equal(frame.pixels, other.pixels)
        assert np.array_equal(frame.deep, other.deep)


def test_videos_that_become_deeper_midway(tmp_path):
    parts = [
        make(tmp_path / f"{depth}.ts", time_base=TICK, pixel_format=name, pts=pts)
        for depth, name, pts in [
            (8, "yuv420p", range(0, 43200, 3600)),
            (10, "yuv420p10le", range(43200, 86400, 3600)),
        ]
    ]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected, reader = read_in_process(source)
    with IsolatedReader(source) as isolated:
        frames = list(isolated)
        assert isolated.notes == reader.notes
    assert reader.notes.recolored
    assert [frame.deep is None for frame in frames] == [True] * 12 + [False] * 12
    for frame, other in zip(frames, expected, strict=True):
        assert np.array_equal(frame.pixels, other.pixels)
        assert frame.deep is None or np.array_equal(frame.deep, other.deep)


@pytest.mark.parametrize("name", ["missing.mp4", "text.mp4", "."])
def test_refusals_are_those_of_the_reader(tmp_path, monkeypatch, name):
    (tmp_path / "text.mp4").write_text("Four score\n" * 200)
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    with pytest.raises(InputRefused) as expected:
        VideoReader(path)
    with pytest.raises(InputRefused) as refusal:
        IsolatedReader(path)
    assert str(refusal.value) == str(expected.value)


def test_damage_comes_after_the_frames_before_it(tmp_path):
    source = make(tmp_path / "in.mkv", frames=60, options={"g": "12"})
    source.write_bytes(source.read_bytes()[:-2000])
    expected, frames = [], []
    with VideoReader(source) as reader, pytest.raises(InputDamaged) as damage:
        expected.extend(reader)
    with IsolatedReader(source) as isolated, pytest.raises(InputDamaged) as same:
        frames.extend(isolated)
    assert str(same.value) == str(damage.value)
    assert len(frames) == len(expected) > 20


# ---------------------------------------------------------------- a child that fails


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("abort", r"crashed \(SIGABRT\)"),
        ("fault", r"crashed \(SIGSEGV\)"),
        ("divide", r"failed \(ZeroDivisionError: division by zero\)"),
        ("leave", "exited with code 3"),
        ("eat", "needs more than the 512 MiB it may have"),
        ("hang", "gave no sign of life for 3 s"),
    ],
)
def test_a_failing_decoder_is_damage_and_frames_before_it_stay(video, entry, name, what):
    entry(name)
    frames, stall = [], 3 if name == "hang" else 40
    message = rf"in\.mkv: damaged: the decoder {what} at frame 3$"
    with (
        IsolatedReader(video, stall_seconds=stall, memory_bytes=512 << 20) as reader,
        pytest.raises(InputDamaged, match=message),
    ):
        frames.extend(reader)
    assert numbers(frames) == [0, 1, 2]
    assert children() == []


def test_a_failure_keeps_the_traceback_of_the_child(video, entry):
    entry("divide")
    with IsolatedReader(video) as reader, pytest.raises(InputDamaged) as damage:
        list(reader)
    assert "in misbehave" in "".join(damage.value.__cause__.__notes__)


def test_a_child_killed_from_outside(video):
    with IsolatedReader(video) as reader:
        frames = iter(reader)
        next(frames)
        children()[0].kill()
        with pytest.raises(ResourcesExhausted, match=r"in.*was killed \(SIGKILL\).*of memory"):
            list(frames)


def test_a_slow_consumer_does_not_count_as_a_hang(video):
    with IsolatedReader(video, stall_seconds=3) as reader:
        frames = iter(reader)
        kept = [next(frames)]
        time.sleep(4)
        kept.extend(frames)
    assert numbers(kept) == list(range(30))


def test_a_frame_bomb_is_refused_in_a_child_of_little_memory(tmp_path):
    with av.open(str(tmp_path / "in.avi"), "w") as video:
        stream = video.add_stream("png", rate=25, width=12000, height=12000, pix_fmt="gray")
        video.mux([*stream.encode(av.VideoFrame(12000, 12000, "gray")), *stream.encode(None)])
    with pytest.raises(InputRefused, match=f"more than {MAX_PIXELS} pixels"):
        IsolatedReader(tmp_path / "in.avi", memory_bytes=100 << 20)


def test_a_child_that_cannot_start_says_why(video, entry):
    entry("no_such_function")
    with pytest.raises(ResourcesExhausted, match=r"before it began: AttributeError.*no_such_func"):
        IsolatedReader(video)


def test_no_descriptors_are_left(video, monkeypatch):
    monkeypatch.setattr(os, "memfd_create", lambda *_: os.open("/none", 0))
    with pytest.raises(ResourcesExhausted, match="cannot start a process"):
        IsolatedReader(video)


def test_descriptors_and_processes_are_released(video):
    gc.collect()
    before = psutil.Process().num_fds()
    for _ in range(3):
        with IsolatedReader(video) as reader:
            next(iter(reader))
        with pytest.raises(InputRefused):
            IsolatedReader(video.parent)
    gc.collect()
    assert psutil.Process().num_fds() == before
    assert children() == []


def test_closing_ends_an_iteration_in_another_thread(video, entry):
    entry("hang")
    reader, got = IsolatedReader(video), []
    thread = threading.Thread(target=lambda: got.extend(reader))
    thread.start()
    while len(got) < misbehaving.FRAMES_BEFORE:
        time.sleep(0.01)
    started = time.monotonic()
    reader.close()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - started < 15
    assert len(got) == misbehaving.FRAMES_BEFORE


PROGRAM = """
import sys, time
from pathlib import Path
from srgan_edge.isolation.videos import IsolatedReader
IsolatedReader.entry = "misbehaving:hang"
with IsolatedReader(Path(sys.argv[1])) as reader:
    print("open", flush=True)
    for frame in reader:
        print("frame", flush=True)
"""


@pytest.fixture
def program(video):
    """A program in its own process group, as a terminal starts it, whose decoder hangs."""
    folders = os.pathsep.join(map(os.path.abspath, sys.path))
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, video],
        env=os.environ | {"PYTHONPATH": folders},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # What a shell starts with `&` ignores SIGINT, and so would this program in such a test run.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(1 + misbehaving.FRAMES_BEFORE):
        assert parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    yield parent, child
    parent.kill()
    parent.communicate()


def gone(process, within_seconds):
    _, alive = psutil.wait_procs([process], within_seconds)
    return not alive or process.status() == psutil.STATUS_ZOMBIE


def test_a_decoder_dies_with_its_parent(program):
    parent, child = program
    parent.kill()
    assert gone(child, 2)


def test_ctrl_c_ends_both_at_once(program):
    parent, child = program
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=20)  # a fifth of a second where nothing else runs
    assert "KeyboardInterrupt" in errors
    assert gone(child, 10)


# ---------------------------------------------------------------- a child that is taken over


@pytest.mark.parametrize("name", misbehaving.LIES)
def test_lies_are_noticed(video, entry, name):
    entry(name.replace(" ", "_"))
    started = time.monotonic()
    with (
        IsolatedReader(video, stall_seconds=20) as reader,
        pytest.raises(InputDamaged, match=r"the decoder (broke its protocol|sent )"),
    ):
        list(reader)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("name", misbehaving.INFOS)
def test_impossible_facts_are_noticed(video, entry, name):
    entry(f"info_{name}")
    with pytest.raises(InputDamaged, match=r"the decoder (broke its protocol|sent )"):
        IsolatedReader(video, stall_seconds=20)


def test_its_messages_cannot_move_the_cursor(video, entry):
    entry("terminal")
    with pytest.raises(InputDamaged) as damage:
        IsolatedReader(video)
    assert str(damage.value).startswith(r"\x1b[2Jgone\naaa")
    assert len(str(damage.value)) < 2100


def test_it_cannot_choose_an_exception(video, entry):
    entry("unknown_error")
    with pytest.raises(InputDamaged, match=r"failed \(0\)"):
        IsolatedReader(video)


def test_its_remaining_rights(video, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        request = {"path": str(video), "other": str(secret), "address": server.getsockname()}
        with Child("misbehaving:tell_rights", request, 512 << 20, [video]) as child:
            answer = child.receive(20)
        server.setblocking(False)
        with pytest.raises(BlockingIOError) if LANDLOCK else pytest.raises(OSError, match=""):
            server.accept()
    assert not {"PATH", "HOME", "PYTHONPATH"} & set(answer["environment"])
    assert not {"write", "open 100 files"} & set(answer["could"])
    if LANDLOCK:
        assert answer["could"] == ["read the video"]


def test_a_child_that_does_not_listen_delays_nothing():
    with Child("misbehaving:be_deaf", {}, 512 << 20, []) as child:
        started = time.monotonic()
        for _ in range(2000):
            child.send({"to": "nobody"})
        assert time.monotonic() - started < 5
        with pytest.raises(ChildFailed, match="gave no sign of life"):
            child.receive(0.1)
    child.send({"to": "nobody"})  # after its end, neither


def test_the_last_messages_of_a_child_are_received():
    with Child("misbehaving:die_unheard", {}, 512 << 20, []) as child:
        (process,) = children()
        child.send({"to": "nobody"})
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert [child.receive(20) for _ in range(2)] == [{"word": 1}, {"word": 2}]
        with pytest.raises(ChildFailed, match="crashed"):
            child.receive(20)


def test_a_child_that_has_ended_is_noticed_at_the_next_receive(video):
    request = {"path": str(video), "other": str(video), "address": ["127.0.0.1", 1]}
    with Child("misbehaving:tell_rights", request, 512 << 20, [video]) as child:
        child.receive(20)
        child.send({"to": "nobody"})
        with pytest.raises(ChildFailed, match="exited with code 0"):
            child.receive(20)
