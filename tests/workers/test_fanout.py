"""Segments of several workers enter the journal in order, whole and once. Workers are scripted."""

from collections import deque
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from srgan_edge.errors import (
    EngineLost,
    InputDamaged,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
)
from srgan_edge.files import sha256_of
from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.reporters import WorkerShare, shared_by
from srgan_edge.tiling import Tiling
from srgan_edge.transcode.fanout import Fanout, MadeSegment, Order, WorkerLost
from srgan_edge.transcode.recipe import Saved
from srgan_edge.transcode.work_folder import open_work_folder
from srgan_edge.video.frame import Encoding, Finding, Notes

LENGTH = 4
ORDER = Order("in.mp4", "", Options("", Encoding(), Tiling()), LENGTH, "")


class Scripted:
    """Two workers that make segments of a video of `frames` frames out of nothing.

    `script` maps (segment, attempt from 0) to what happens instead: an exception that is the
    answer, or a function of the answer that returns another one.
    """

    present = (0, 1)

    def __init__(self, frames, script=None, order=lambda queues: 0):
        self.frames, self.script, self.order = frames, script or {}, order
        self.queues, self.attempts, self.most = [deque(), deque()], {}, 0
        self.replaced, self.from_start = [], set()

    def name(self, worker):
        return f"worker {worker}"

    def tasks(self, worker):
        return self.queues[worker]

    def give(self, worker, task):
        self.queues[worker].append(task)
        self.most = max(self.most, *map(len, self.queues))

    def wait(self, seconds):
        busy = [worker for worker in (0, 1) if self.queues[worker]]
        worker = busy[self.order(busy) % len(busy)]
        task = self.queues[worker].popleft()
        attempt = self.attempts[task.number] = self.attempts.get(task.number, -1) + 1
        if not task.seeks:
            self.from_start.add(task.number)
        instead = self.script.get((task.number, attempt))
        if isinstance(instead, Exception):
            return worker, task, instead
        made = self.made(task)
        return worker, task, made if instead is None else instead(made, task)

    def replace(self, worker):
        self.replaced.append(worker)
        self.queues[worker] = deque()

    def made(self, task):
        first = task.number * LENGTH
        pts = list(range(first, min(first + LENGTH, self.frames)))
        if pts:
            Path(task.file).write_bytes(b"segment %d" % task.number)
        after = first + LENGTH
        return MadeSegment(
            number=task.number,
            pts=pts,
            durations=[1] * len(pts),
            reorder=0,
            sha256=sha256_of(Path(task.file)) if pts else "",
            first_sha256=f"frame {first}" if pts else "",
            next_sha256=f"frame {after}" if after < self.frames else "",
            ended=after >= self.frames,
            inexact="",
            damaged="",
            decoder_ended=False,
            notes=Notes(),
            saved=Saved(tiles=len(pts)),
            seconds=0.0,
        )


class Hanging(Scripted):
    """Two workers of which the second never answers; each segment takes a second."""

    now = 0.0

    def wait(self, seconds):
        if not self.queues[0]:
            assert seconds is not None, "nobody would ever answer"
            self.now += seconds
            return None
        self.now += 1.0
        return super().wait(seconds)

    def made(self, task):
        return replace(super().made(task), seconds=1.0)


def made_by(tmp_path, crew, expected=None, seeks=True, kept=0):
    """Return the segments in the journal, the outcome, and the lines for the user."""
    lines, frames = [], []
    tmp_path.mkdir(exist_ok=True)
    borders = range(0, crew.frames, LENGTH) if seeks else ()
    with open_work_folder(tmp_path / "out.mkv", {"a": "job"}) as work:
        outcome = Fanout(
            *(crew, ORDER, borders, expected, work, [work.place]),
            *(lambda: frames.append(1), lines.append),
            *([lambda: crew.now] if isinstance(crew, Hanging) else []),
        ).run()
        contents = [(path.read_bytes(), segment.pts) for path, segment in work.finished()]
        names = {path.name for path in work.path.iterdir()}
    assert not [name for name in names if "part" in name]
    assert len(frames) >= sum(len(pts) for _, pts in contents[kept:])
    return contents, outcome, lines


def whole(frames):
    return [
        (b"segment %d" % number, list(range(first, min(first + LENGTH, frames))))
        for number, first in enumerate(range(0, frames, LENGTH))
    ]


@pytest.mark.parametrize("frames", [1, LENGTH, LENGTH + 1, 50])
@pytest.mark.parametrize("expected", [None, 3, "right", 90])
@pytest.mark.parametrize("order", [lambda busy: 0, lambda busy: 1])
def test_all_segments_enter_in_order(tmp_path, frames, expected, order):
    crew = Scripted(frames, order=order)
    expected = frames if expected == "right" else expected
    contents, outcome, lines = made_by(tmp_path, crew, expected, seeks=False)
    assert contents == whole(frames)
    assert (outcome.damaged, outcome.saved.tiles, lines) == (None, frames, [])
    assert crew.most <= 2


def test_speeds_of_workers_are_a_line():
    few = [WorkerShare("1 (cpu)", 10, 5.0), WorkerShare("2 (cpu)", 12, 4.0)]
    assert shared_by(few) == "made by 2 workers: 2.0 fps by 1 (cpu), 3.0 fps by 2 (cpu)"
    many = [WorkerShare(f"node/{n}", 10 + n, 5.0) for n in (3, 0, 5, 2, 4)]
    assert shared_by(many) == "made by 5 workers, from 2.0 fps by node/0 to 3.0 fps by node/5"
    assert shared_by(few[:1]) == "made by one worker: 2.0 fps by 1 (cpu)"
    assert shared_by(few[:1], "images/s") == "made by one worker: 2.0 images/s by 1 (cpu)"


def test_a_video_of_no_frame_ends(tmp_path):
    contents, outcome, _ = made_by(tmp_path, Scripted(0), 0, seeks=False)
    assert (contents, outcome.damaged) == ([], None)


def test_what_a_worker_never_finishes_is_made_by_another(tmp_path):
    crew = Hanging(50)
    contents, outcome, lines = made_by(tmp_path, crew)
    assert contents == whole(50)
    assert (outcome.shares, lines) == ((WorkerShare("worker 0", 50, 13.0),), [])
    late = {task.number for task in crew.queues[1]}
    assert late
    assert {crew.attempts[number] for number in late} == {0}  # each was made once
    assert crew.now - 13 < 1.5 * 2  # and nobody waited longer than until they were late


def test_a_segment_that_is_made_twice_enters_once(tmp_path):
    """The second worker answers whenever the first has no work, so it loses many races."""
    contents, outcome, lines = made_by(tmp_path, Scripted(50, order=lambda busy: 0), 50)
    assert (contents, lines) == (whole(50), [])
    assert sum(share.frames for share in outcome.shares) == 50


def test_a_lost_worker_costs_its_segment_twice_at_most(tmp_path):
    lost = WorkerLost("was ended by SIGKILL")
    crew = Scripted(50, {(3, 0): lost, (3, 1): lost, (7, 0): lost})
    contents, _, lines = made_by(tmp_path, crew)
    assert contents == whole(50)
    assert len(crew.replaced) == 3
    assert sorted(lines) == [
        f"segment {n} is made again: its worker was ended by SIGKILL" for n in (3, 3, 7)
    ]
    crew = Scripted(50, {(3, n): lost for n in range(3)})
    with pytest.raises(
        ResourcesExhausted, match=r"segment 3 was begun 3 times.*was ended by SIGKILL.*goes on"
    ):
        made_by(tmp_path / "other", crew)


@pytest.mark.parametrize(
    ("error", "again", "replaced"),
    [
        (ResourcesExhausted("no memory"), True, False),
        (OutputFailed("no space"), True, False),
        (EngineLost("the GPU fell off"), True, True),
        (ModelRefused("not finite"), False, False),
    ],
)
def test_errors_that_another_worker_may_not_have_are_tried_again(tmp_path, error, again, replaced):
    crew = Scripted(30, {(2, 0): error})
    if again:
        contents, _, _ = made_by(tmp_path, crew)
        assert contents == whole(30)
    else:
        with pytest.raises(type(error), match=str(error)):
            made_by(tmp_path, crew)
    assert bool(crew.replaced) == replaced


def test_a_flipped_bit_is_found_and_the_segment_made_again(tmp_path):
    def flipped(made, task):
        content = bytearray(Path(task.file).read_bytes())
        content[3] ^= 1
        Path(task.file).write_bytes(content)
        return made

    def missing(made, task):
        Path(task.file).unlink()
        return made

    crew = Scripted(30, {(2, 0): flipped, (5, 0): missing})
    contents, _, lines = made_by(tmp_path, crew)
    assert contents == whole(30)
    assert [line.partition(":")[0] for line in lines] == [
        "segment 2 is made again",
        "segment 5 is made again",
    ]


def test_a_border_that_differs_sends_all_to_the_start_of_the_file(tmp_path):
    """Segment 3 was read from a keyframe that was none: the one before it is not trusted either."""
    other = Scripted(40, {(3, 0): lambda made, task: replace(made, first_sha256="gray")})
    contents, _, lines = made_by(tmp_path, other)
    assert contents == whole(40)
    (line,) = lines
    assert "in.mp4: cannot be read from its keyframes on (the first frame of segment 3" in line
    assert other.from_start == set(range(2, 10))


def test_workers_that_disagree_though_they_read_all_are_refused(tmp_path):
    other = Scripted(40, {(3, 0): lambda made, task: replace(made, first_sha256="gray")})
    with pytest.raises(OutputFailed, match="need the same file and the same version of PyAV"):
        made_by(tmp_path, other, 40, seeks=False)


def test_what_is_doubtful_is_read_from_the_start(tmp_path):
    crew = Scripted(40, {(4, 0): lambda made, task: replace(made, inexact="it is damaged")})
    contents, _, lines = made_by(tmp_path, crew)
    assert contents == whole(40)
    assert len(lines) == 1
    assert "it is damaged" in lines[0]


def test_damage_ends_the_video_with_what_was_decoded(tmp_path):
    damage = Notes()
    damage.damage.findings["cut off"] = Finding(Fraction(1))

    def ends(made, task):
        return replace(made, ended=True, damaged="in.mp4: damaged: cut off", notes=damage)

    contents, outcome, _ = made_by(tmp_path, Scripted(30, {(7, 0): ends}), 80, seeks=False)
    assert contents == whole(30)
    assert isinstance(outcome.damaged, InputDamaged)
    assert outcome.notes.damage


def test_the_segments_of_an_earlier_run_are_kept_and_their_border_is_checked(tmp_path):
    stopped = Scripted(40, {(5, 0): ModelRefused("stop")})
    with pytest.raises(ModelRefused):
        made_by(tmp_path, stopped)
    again = Scripted(40)
    contents, _, _ = made_by(tmp_path, again, kept=4)
    assert contents == whole(40)
    first = min(again.attempts)
    assert first >= 1
    assert not again.from_start
    with pytest.raises(ModelRefused):
        made_by(tmp_path / "b", Scripted(40, {(5, 0): ModelRefused("stop")}))
    wrong = Scripted(40, {(first, 0): lambda it, task: replace(it, first_sha256="gray")})
    contents, _, lines = made_by(tmp_path / "b", wrong, kept=4)
    assert contents == whole(40)
    assert wrong.from_start == set(range(first, 10))
    assert len(lines) == 1
