"""Several workers make the bytes of one, whatever the file, and whoever dies."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import clips
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killing import kill_while_at_work
from processes import children, stopped
from streams import Listener, Watching

from srgan_edge.ahead import READERS
from srgan_edge.errors import (
    InputDamaged,
    OutputFailed,
    ResourcesExhausted,
    SrganEdgeError,
    UsageError,
)
from srgan_edge.files import content_sha256
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import join as join_module
from srgan_edge.transcode import outage, segments
from srgan_edge.transcode import upscale as upscale_module
from srgan_edge.transcode.fanout import Order, Task, frame_sha256, tiles_of
from srgan_edge.transcode.upscale import upscale_video_file
from srgan_edge.transcode.work_folder import WorkFolder
from srgan_edge.video.borders import borders
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import Encoding, Frame
from srgan_edge.workers import processes as processes_module
from srgan_edge.workers import worker as worker_module
from srgan_edge.workers.crew import crew_beside
from srgan_edge.workers.kind import Kind
from srgan_edge.workers.worker import Start, Worker

OPTIONS = Options(
    "edge-x4", Encoding(preset="ultrafast"), Tiling(), device="cpu", devices=("cpu", "cpu")
)
SEGMENT = 7
GOP = {"crf": "18", "bf": "2", "g": "20"}
ODD_TIMES = [0, 1, 33, 66, 100, 400, 433, 1000, 1001, 1500, 1510, 4000, 4001, 4002]

KINDS = {
    "MP4": ("a.mp4", {"options": GOP, "audio": ["eng"]}),
    "open GOPs": ("a.mkv", {"options": {**GOP, "x264-params": "open-gop=1"}}),
    "HEVC": ("a.mp4", {"codec": "libx265", "options": {"x265-params": "keyint=20:log-level=0"}}),
    "transport stream": ("a.ts", {"options": GOP, "time_base": Fraction(1, 90000)}),
    "AVI": ("a.avi", {"codec": "mpeg4", "options": {"g": "20"}, "time_base": Fraction(1, 25)}),
    "one keyframe": ("a.mp4", {"options": {**GOP, "g": "500"}}),
    "intra refresh": ("a.mkv", {"options": {**GOP, "bf": "0", "x264-params": "intra-refresh=1"}}),
    "odd times": (
        "a.mkv",
        {
            "pts": [9000 + 5000 * n + pts for n in range(4) for pts in ODD_TIMES],
            "options": {**GOP, "g": "10"},
            "time_base": clips.MS,
            "last_duration": 70,
        },
    ),
    "NTSC": ("a.mov", {"time_base": Fraction(1001, 30000), "pts": range(1, 61), "options": GOP}),
    "edit list": (
        "a.mp4",
        {
            "pts": [512 * (n - 5) for n in range(60)],
            "options": {**GOP, "g": "8"},
            "container_options": {"avoid_negative_ts": "disabled"},
        },
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def clip(request, tmp_path_factory):
    name, wanted = KINDS[request.param]
    return clips.make(
        tmp_path_factory.mktemp("clips") / name, **{"frames": 60, "size": (32, 24), **wanted}
    )


class InProcess:
    """A reader without its child, which takes longer to start than most of these tests."""

    def __init__(self, path, **reading):
        self._reader = open_video(path, **reading)
        self.info, self.close = self._reader.info, self._reader.close
        self.pass_over = self._reader.pass_over

    @property
    def notes(self):
        return self._reader.notes

    def after(self, frames):
        return (item for item in self._reader.after(frames) if isinstance(item, Frame))


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_every_segment_is_read_from_a_keyframe_as_from_the_start(clip, monkeypatch, backwards):
    """Cut at every border: the frames are the same, or a reason is given why not."""
    monkeypatch.setattr(worker_module, "IsolatedReader", InProcess)
    monkeypatch.setattr(worker_module, "MOST_PASSED_OVER", -1)  # opens the file anew each time
    firsts = first_times(clip, SEGMENT)
    if clip.suffix in (".ts", ".avi"):
        assert firsts == []
        return
    read_by_segments(clip, firsts, SEGMENT, backwards)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pts=st.tuples(
        st.integers(0, 100_000),
        st.lists(st.one_of(st.integers(1, 50), st.integers(1, 100_000)), min_size=4, max_size=18),
    ).map(lambda drawn: list(accumulate(drawn[1], initial=drawn[0]))),
    hidden=st.integers(0, 3),
    b_frames=st.integers(0, 3),
    container=st.sampled_from(
        [(".mkv", clips.MS), (".mp4", Fraction(1, 12800)), (".mov", Fraction(1001, 30000))]
    ),
    length=st.integers(1, 5),
)
def test_any_times_are_read_from_keyframes_as_from_the_start(
    tmp_path, pts, hidden, b_frames, container, length
):
    """Any times and gaps, and frames that an edit list hides."""
    suffix, time_base = container
    if suffix != ".mkv":
        pts = [it - pts[hidden] for it in pts]
    clip = clips.make(
        tmp_path / f"in{suffix}",
        size=(32, 16),
        time_base=time_base,
        pts=pts,
        options={"bf": str(b_frames), "crf": "18", "g": "4"},
        container_options={} if suffix == ".mkv" else {"avoid_negative_ts": "disabled"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "IsolatedReader", InProcess)
        patch.setattr(worker_module, "MOST_PASSED_OVER", -1)
        read_by_segments(clip, first_times(clip, length), length, backwards=False)


def first_times(clip, length):
    """Return the times at which segments begin, by the packets of a clip."""
    with open_video(clip) as reader:
        return list(borders(reader, length))


def read_by_segments(clip, firsts, length, backwards):
    """Compare the frames of each segment with those of a reader from the start."""
    with open_video(clip) as reader:
        expected = [frame_sha256(item) for item in reader if isinstance(item, Frame)]
    order = Order(str(clip), content_sha256(clip), OPTIONS, length, "")
    assert len(firsts) == -(-len(expected) // length)
    for number in reversed(range(len(firsts))) if backwards else range(len(firsts)):
        after = firsts[number + 1] if number + 1 < len(firsts) else None
        task = Task("", order, number, "", True, firsts[number], after)
        reading = worker_module._Reading()
        first = length * number
        frames = list(reading.frames(task, first))
        found = [frame_sha256(frame) for frame in frames]
        if found != expected[first : first + length]:
            assert reading.doubt(task, [frame.pts for frame in frames]) or (
                reading.first_sha256 != expected[first]
            ), number
        else:
            assert reading.first_sha256 == expected[first]
            assert reading.next_sha256 == (expected[first + length :] or [""])[0]
            assert reading.ended == (number == len(firsts) - 1)
        reading.close()


@pytest.fixture(scope="module")
def crew(alone):
    with crew_beside(alone, OPTIONS, 1, lambda line: None) as started:
        yield started


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", SEGMENT)


def upscale(source, target, alone, crew=None, listener=None, **options):
    """Return the lines for the user."""
    listener = listener or Listener()
    options = replace(OPTIONS, existing="replace", **options)
    upscale_video_file(
        *(Job(source, target, "video"), alone.upscaler, options, alone.made_by, listener),
        crew=None if crew is None else lambda: crew,
    )
    return listener.notes


def test_the_reader_of_a_worker_starts_before_its_first_segment(tmp_path, alone):
    source = clips.make(tmp_path / "in.mp4", frames=SEGMENT, size=(32, 24))
    tiles = tiles_of(alone.upscaler, 32, 24)
    order = Order(str(source), content_sha256(source), OPTIONS, SEGMENT, tiles)
    before = children()
    start = Start("a", replace(OPTIONS, device="cpu", devices=()), 1, (READERS["video"],))
    with Worker(start) as worker:
        reader = [it for it in children() if it not in before]
        assert len(reader) == 1
        made = worker.make(Task("", order, 0, str(tmp_path / "segment.nut"), True, 0, None))
        assert (len(made.pts), made.ended) == (SEGMENT, True)
        assert [it for it in children() if it not in before] == reader
    assert children() == before


def test_segments_far_apart_are_read_by_one_process(tmp_path, alone, monkeypatch):
    """Another one would take longer to start than a segment takes a fast worker."""
    monkeypatch.setattr(worker_module, "MOST_PASSED_OVER", -1)
    source = clips.make(tmp_path / "in.mp4", frames=60, size=(32, 24), options=GOP)
    moved = tmp_path / "moved.mp4"
    firsts = first_times(source, SEGMENT)
    order = Order(str(source), content_sha256(source), OPTIONS, SEGMENT, "")
    before = children()

    def read(number):
        after = firsts[number + 1] if number + 1 < len(firsts) else None
        task = Task("", order, number, "", True, firsts[number], after)
        frames = list(reading.frames(task, SEGMENT * number))
        assert not reading.doubt(task, [frame.pts for frame in frames])
        return [frame_sha256(frame) for frame in frames]

    with open_video(source) as reader:
        expected = [frame_sha256(item) for item in reader if isinstance(item, Frame)]
    reading = worker_module._Reading()
    readers = set()
    for number in (5, 2, 8, 0, 7):
        assert read(number) == expected[SEGMENT * number :][:SEGMENT]
        readers |= {it.pid for it in children()} - {it.pid for it in before}
    assert len(readers) == 1
    shutil.copy(source, moved)  # as a file is another one on a share that is back
    moved.replace(source)
    assert read(1) == expected[SEGMENT : 2 * SEGMENT]
    reading.close()
    assert children() == before


def notes_without(notes, *words):
    return [note for note in notes if not any(word in note for word in words)]


@pytest.mark.parametrize(
    "clip", ["MP4", "transport stream", "odd times", "edit list"], indirect=True
)
def test_two_workers_make_the_bytes_of_one(tmp_path, clip, alone, crew):
    one = upscale(clip, tmp_path / "one.mkv", alone)
    two = upscale(clip, tmp_path / "two.mkv", alone, crew)
    assert (tmp_path / "two.mkv").read_bytes() == (tmp_path / "one.mkv").read_bytes()
    assert notes_without(two, "keyframes", "made by") == one
    assert any("keyframes" in note for note in two) == (clip.suffix in (".ts", ".avi"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mkv", "two.mkv"]


@pytest.mark.parametrize(
    "options",
    [
        {"dedup": "normal"},
        {"excerpt": Excerpt(0.5, 1.0)},
        {"deinterlace": True},
    ],
    ids=str,
)
def test_options_that_reach_across_frames_change_no_byte(tmp_path, alone, crew, options):
    source = clips.make(tmp_path / "in.mp4", frames=40, size=(64, 64), options=GOP)
    upscale(source, tmp_path / "one.mkv", alone, **options)
    upscale(source, tmp_path / "two.mkv", alone, crew, **options)
    assert (tmp_path / "two.mkv").read_bytes() == (tmp_path / "one.mkv").read_bytes()


@pytest.mark.parametrize(("how", "on_damage"), [("cut off", "skip"), ("holes", "conceal")])
def test_damage_is_that_of_one_reader(tmp_path, monkeypatch, alone, crew, how, on_damage):
    monkeypatch.chdir(tmp_path)
    source = clips.make(Path("in.mkv"), frames=60, audio=["eng"], options=GOP)
    content = bytearray(source.read_bytes())
    if how == "cut off":
        content = content[: len(content) * 6 // 10]
    else:
        for at in range(len(content) // 3, len(content), len(content) // 3):
            content[at : at + 400] = bytes(400)
    source.write_bytes(content)
    errors = []
    for name, workers in (("one", None), ("two", crew)):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(InputDamaged) as damaged:
            upscale(source, folder / "out.mkv", alone, workers, on_damage=on_damage)
        errors.append(str(damaged.value).replace(str(folder), ""))
    assert errors[0] == errors[1]
    (one,), (two,) = ((tmp_path / name).iterdir() for name in ("one", "two"))
    assert (one.name, one.read_bytes()) == (two.name, two.read_bytes())


def test_a_worker_that_is_killed_costs_no_byte(tmp_path, alone, crew):
    source = clips.make(tmp_path / "in.mp4", frames=120, size=(32, 24), options=GOP)
    upscale(source, tmp_path / "one.mkv", alone)

    def kill():
        kill_while_at_work(*(member._process.pid for member in crew._processes))

    for _ in range(5):  # on a busy machine it may just be without work
        notes = upscale(source, tmp_path / "two.mkv", alone, crew, Watching(2 * SEGMENT, kill))
        assert (tmp_path / "two.mkv").read_bytes() == (tmp_path / "one.mkv").read_bytes()
        if any("is made again: its worker was ended by SIGKILL" in note for note in notes):
            return
    pytest.fail("no segment was made again")


def test_a_worker_that_hangs_costs_no_byte(tmp_path, alone, crew):
    """The other one makes its segments; once awake, it takes part in the next video."""
    source = clips.make(tmp_path / "in.mp4", frames=90, size=(32, 24), options=GOP)
    upscale(source, tmp_path / "one.mkv", alone)
    hanging = crew._processes[0]._process.pid
    try:
        stop = Watching(2 * SEGMENT, lambda: os.kill(hanging, signal.SIGSTOP))
        upscale(source, tmp_path / "two.mkv", alone, crew, stop)
        assert crew.tasks(0)  # without an answer to this day
    finally:
        os.kill(hanging, signal.SIGCONT)
    upscale(source, tmp_path / "three.mkv", alone, crew)
    for name in ("two.mkv", "three.mkv"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "one.mkv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


class Away(Watching):
    """Takes a folder away after some frames, and brings it back once its loss is reported.

    With `anew`, the files of the folder that comes back have other numbers, as in a new mount.
    """

    def __init__(self, folder, at=None, *, anew=False):
        self.folder, self.place, self.anew = folder, folder.with_name("away"), anew
        super().__init__(at, lambda: folder.rename(self.place))

    def note(self, text):
        super().note(text)
        if "is away" in text:
            threading.Timer(1.0, self.bring_back).start()

    def bring_back(self):
        if self.anew:
            gone = self.place.rename(self.place.with_name("gone"))
            shutil.copytree(gone, self.place)
            shutil.rmtree(gone)
        self.place.rename(self.folder)


def test_a_folder_that_is_away_for_a_while_is_waited_for(tmp_path, alone, crew):
    """For example, a disconnected network share: the command goes on once it is back."""
    folder = tmp_path / "share"
    folder.mkdir()
    source = clips.make(folder / "in.mp4", frames=42, size=(32, 24), options=GOP)
    upscale(source, tmp_path / "whole.mkv", alone)
    notes = upscale(source, folder / "out.mkv", alone, crew, Away(folder, 2 * SEGMENT))
    assert (folder / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert [note for note in notes if "share" in note] == [
        f"in.mp4: {folder} is away; waiting up to 60 s for it"
    ]
    assert not any("is made again" in note for note in notes)
    assert {path.name for path in folder.iterdir()} == {"out.mkv", "in.mp4"}


ENDINGS = {
    "before the join": (upscale_module._Source, "refuse_changed"),
    "at the join": (join_module.Joiner, "join"),
    "before it has its name": (WorkFolder, "finish"),
}
"""Steps of the end of a video."""


def lose_at(ending, monkeypatch, lose):
    """Call `lose` before the first time that a step is taken."""
    owner, name = ENDINGS[ending]
    take_step = getattr(owner, name)

    def first_lose(*arguments, **named):
        monkeypatch.setattr(owner, name, take_step)
        lose()
        return take_step(*arguments, **named)

    monkeypatch.setattr(owner, name, first_lose)


@pytest.mark.parametrize(
    ("ending", "lost"),
    [
        *(pytest.param(ending, "all", marks=pytest.mark.children) for ending in ENDINGS),
        ("before the join", "input"),
        ("at the join", "input"),
        ("at the join", "result"),
    ],
)
def test_a_folder_that_is_away_at_the_end_is_waited_for(
    tmp_path, alone, crew, monkeypatch, ending, lost
):
    folder = tmp_path / "share"
    folder.mkdir()
    source, target = folder / "in.mp4", folder / "out.mkv"
    if lost == "input":
        target = tmp_path / "out.mkv"
    elif lost == "result":
        source = tmp_path / "in.mp4"
    clips.make(source, frames=42, size=(32, 24), options=GOP, audio=["eng"])
    upscale(source, tmp_path / "whole.mkv", alone)
    heard = Away(folder, anew=lost == "all")
    lose_at(ending, monkeypatch, heard.react)
    upscale(source, target, alone, crew, heard)
    assert target.read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert [note for note in heard.notes if "share" in note] == [
        f"in.mp4: {folder} is away; waiting up to 60 s for it"
    ]
    assert {path.name for path in tmp_path.rglob("*")} == {
        "share",
        "whole.mkv",
        "in.mp4",
        "out.mkv",
    }


@pytest.mark.parametrize("moment", ["at work", *ENDINGS])
def test_a_folder_that_stays_away_ends_the_command(tmp_path, alone, crew, monkeypatch, moment):
    """It goes on once the folder is back."""
    monkeypatch.setattr(outage, "AWAY_SECONDS", 0.3)
    folder, away = tmp_path / "share", tmp_path / "away"
    folder.mkdir()
    source = clips.make(folder / "in.mp4", frames=60, size=(32, 24), options=GOP)
    upscale(source, tmp_path / "whole.mkv", alone)
    lost = Watching(2 * SEGMENT, lambda: folder.rename(away))
    if moment in ENDINGS:
        lose_at(moment, monkeypatch, lost.react)
        lost.at = None
    with pytest.raises(OutputFailed) as failed:
        upscale(source, folder / "out.mkv", alone, crew, lost)
    found = re.fullmatch(
        rf"{folder} did not come back within 0\.3 s; (\d+) frames were in "
        rf"{folder}/out\.mkv\.partial, and its folder is gone; if it comes back, the same command "
        "goes on from there",
        str(failed.value),
    )
    assert found, failed.value
    away.rename(folder)
    notes = upscale(source, folder / "out.mkv", alone, crew)
    assert any(f"resuming after {found[1]} frames" in note for note in notes)
    assert (folder / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"in.mp4", "out.mkv"}


@pytest.mark.parametrize("then", ["alone", "by two"])
def test_a_run_goes_on_over_fewer_or_more_workers(tmp_path, alone, crew, then):
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    source = clips.make(tmp_path / "in.mp4", frames=60, size=(32, 24), options=GOP)
    upscale(source, tmp_path / "whole.mkv", alone)
    workers = (crew, None) if then == "alone" else (None, crew)
    with pytest.raises(Stop):
        upscale(source, tmp_path / "out.mkv", alone, workers[0], Watching(25, stop))
    notes = upscale(source, tmp_path / "out.mkv", alone, workers[1])
    assert any("resuming after" in note for note in notes)
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()


def test_workers_of_another_kind_are_named():
    here = {"engine": {"arithmetic": "bf16"}, "trial": "ab"}
    there = {"engine": {"arithmetic": "fp32"}, "trial": "cd"}
    lines = []
    kind, mixed = Kind(here, lines.append), Kind(here, lines.append, allow_mixed=True)
    assert kind.members({"a": here, "b": there}) == ["a"]
    said = "engine.arithmetic is fp32 instead of bf16; trial is cd instead of ab"
    assert lines == [f"worker b is of another kind and left out: {said}"]
    assert mixed.members({"b": there}) == ["b"]
    assert "may differ in their last bits (--allow-mixed)" in lines[-1]
    with pytest.raises(UsageError, match=r"fp32 instead of bf16.*no worker remains.*--allow-mixed"):
        kind.members({"b": there})


def test_a_worker_that_cannot_start_says_why(alone):
    with pytest.raises(SrganEdgeError, match="--device nonsense; possible: auto, cpu"):
        crew_beside(alone, replace(OPTIONS, devices=("cpu", "nonsense")), 1, lambda line: None)


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_worker_that_dies_at_its_start_is_started_again(tmp_path, alone, monkeypatch, deaths):
    dies = f"""import os, pathlib
died = pathlib.Path({str(tmp_path)!r})
if len(list(died.iterdir())) < {deaths}:
    (died / str(os.getpid())).touch()
    os.kill(os.getpid(), 9)
"""
    monkeypatch.setattr(processes_module, "_STARTS", dies + processes_module._STARTS)
    one = replace(OPTIONS, devices=("cpu",))
    if deaths < 3:
        with crew_beside(alone, one, 1, lambda line: None) as crew:
            assert list(crew.present) == [0]
    else:
        with pytest.raises(ResourcesExhausted, match=r"SIGKILL before it began, 3 times"):
            crew_beside(alone, one, 1, lambda line: None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cpu,"], "possible: one, or several such as cuda:0,cuda:1"),
        (["--device", "auto,cpu"], "possible: one, or several such as cuda:0,cuda:1"),
        (["--device", "cpu,cpu", "--decode", "gpu"], "possible: --decode cpu, or one device"),
        (["--allow-mixed"], "--allow-mixed with one device"),
        (
            ["--device", "cpu,cpu", "-o", "-"],
            "cpu,cpu with a stream; possible: one device, or files",
        ),
    ],
)
def test_requests_that_exclude_each_other(cli, tmp_path, arguments, said):
    clips.make(tmp_path / "in.mp4", frames=1)
    code, _, err = cli("upscale", "in.mp4", "-n", "edge-x4", *arguments)
    assert code == 2
    assert said in err


def test_steady_videos_and_single_images_are_upscaled_by_one_engine(cli, tmp_path):
    pytest.importorskip("cv2")
    before = children()
    clips.make(tmp_path / "in.mp4", frames=3, size=(32, 24))
    code, _, err = cli("upscale", "in.mp4", "-n", "edge-x4", "--device", "cpu,cpu", "--steady", "1")
    assert code == 0
    assert "one engine makes all of it; with --steady off all do" in err
    assert children() == before  # no worker was started
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code, _, err = cli("upscale", "a.png", "-n", "edge-x4", "--device", "cpu,cpu")
    assert (code, "a single image is upscaled by one engine, on cpu" in err) == (0, True)
    assert children() == before


def run(source, target, device="cpu,cpu"):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "srgan_edge", "upscale", str(source), "-o", str(target)),
            *("-n", "edge-x4", "--device", device),
        ],
        cwd=Path(__file__).resolve().parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_driver_that_is_stopped_leaves_no_process_and_goes_on(tmp_path):
    source = clips.make(tmp_path / "in.mp4", frames=200, size=(32, 24), options=GOP)
    target, work = tmp_path / "out.mkv", tmp_path / "out.mkv.partial"
    for signum, kept in ((signal.SIGINT, 2), (signal.SIGKILL, 3)):
        process = run(source, target)
        while not list(work.glob(f"segment-{kept - 1:06}.nut")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        err = stopped(process, signum)
        assert process.returncode == (130 if signum == signal.SIGINT else -signum), err
        # One that does not end within 1.5 s is ended by force, and says something else.
        assert signum == signal.SIGKILL or "frames are kept in" in err, err
    again, one = run(source, target), run(source, tmp_path / "one.mkv", "cpu")
    _, err = again.communicate()
    assert (again.returncode, one.wait()) == (0, 0), err
    assert "resuming after" in err
    assert target.read_bytes() == (tmp_path / "one.mkv").read_bytes()
