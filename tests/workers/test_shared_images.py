"""Several workers make the images of one engine, whoever dies; a bad one costs only itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import clips
import numpy as np
import pytest
from killing import kill_while_at_work
from PIL import Image
from processes import stopped

from srgan_edge.errors import (
    EngineLost,
    InputDamaged,
    InputRefused,
    OutputFailed,
    ResourcesExhausted,
    ResultAppeared,
    UsageError,
)
from srgan_edge.files import sha256_of
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Heard
from srgan_edge.run import do_job
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import outage
from srgan_edge.transcode.fanout import WorkerLost, tiles_of
from srgan_edge.video.frame import Encoding
from srgan_edge.workers.answers import answer_of
from srgan_edge.workers.crew import crew_beside
from srgan_edge.workers.images import Asked, ImageFanout, MadeChunk, MadeImage

OPTIONS = Options("edge-x4", Encoding(), Tiling(), device="cpu", devices=("cpu", "cpu"))
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1.0
"""Time that a scripted worker takes for an image."""


class Recorder(Heard):
    """Remembers outcomes in their order."""

    def __init__(self, on_done=None):
        super().__init__()
        self.outcomes, self.counts, self.on_done = [], [], on_done

    def images_done(self, done, total):
        self.counts.append((done, total))
        if self.on_done:
            self.on_done(done)

    def ended(self, outcome):
        self.outcomes.append(outcome)


class Scripted:
    """Two workers that make results out of nothing.

    `script` maps (image, try from 0) to the error that is its answer, to a function that is called
    with its order, or to "killed": then the worker dies with all that it has.
    """

    present = (0, 1)

    def __init__(self, upscaler, script=None, hanging=()):
        self.script, self.hanging = script or {}, hanging
        self.tiles = tiles_of(upscaler, 8, 8)
        self.queues, self.tried, self.replaced, self.sizes = [deque(), deque()], {}, [], []
        self.now = 0.0

    def name(self, worker):
        return f"worker {worker}"

    def tasks(self, worker):
        return self.queues[worker]

    def give(self, worker, task):
        self.queues[worker].append(task)
        self.sizes.append(len(task.images))

    def replace(self, worker):
        self.replaced.append(worker)
        self.queues[worker].clear()

    def wait(self, seconds):
        busy = [worker for worker in (0, 1) if self.queues[worker] and worker not in self.hanging]
        if not busy:
            assert seconds is not None, "nobody would ever answer"
            self.now += seconds
            return None
        worker = max(busy, key=lambda it: len(self.queues[it]))
        task = self.queues[worker].popleft()
        self.now += SECONDS * len(task.images)
        answers = []
        for order in task.images:
            number = self.tried[order.number] = self.tried.get(order.number, -1) + 1
            instead = self.script.get((order.number, number))
            if instead == "killed":
                return worker, task, WorkerLost("was ended by SIGKILL")
            if instead == "absent":
                answers.append("")
                continue
            answers.append(answer_of(lambda o=order, i=instead: self.made(o, i)).decode())
        return worker, task, MadeChunk(answers)

    def made(self, order, instead):
        if isinstance(instead, Exception):
            raise instead
        with Path(order.file).open("r+b") as file:
            file.write(b"result %d" % order.number)
        sha256 = sha256_of(Path(order.file))
        if instead:
            instead(order)
        return MadeImage(8, 8, 1, "32x32", self.tiles, 0, sha256, [], SECONDS)


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "in").mkdir()
    return [image(tmp_path, number) for number in range(40)]


def image(tmp_path, number):
    source = tmp_path / "in" / f"{number}.png"
    source.write_bytes(b"image %d" % number)
    return Asked(Job(source, tmp_path / "out" / f"{number}.png", "image"), [f"note {number}"])


def made_by(alone, crew, asked, reporter=None, **options):
    options = replace(OPTIONS, **options)
    clock = (lambda: crew.now,) if isinstance(crew, Scripted) else ()
    reporter = reporter or Recorder()
    fanout = ImageFanout(lambda: crew, asked, alone.upscaler, options, reporter, *clock)
    outcomes = fanout.run()
    assert outcomes == reporter.outcomes
    assert [outcome.job for outcome in outcomes] == [it.job for it in asked]
    return reporter


def errors(heard):
    return {n: outcome.error for n, outcome in enumerate(heard.outcomes) if outcome.error}


def results(asked):
    folder = asked[0].job.target.parent
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def names(numbers):
    return sorted(f"{number}.png" for number in numbers)


def test_images_are_told_of_in_order_and_handed_out_in_chunks(alone, asked):
    crew = Scripted(alone.upscaler)
    heard = made_by(alone, crew, asked)
    assert errors(heard) == {}
    assert results(asked) == names(range(40))
    for number, it in enumerate(asked):
        assert it.job.target.read_bytes() == b"result %d" % number
    assert heard.notes[:-1] == [f"note {number}" for number in range(40)]
    assert heard.notes[-1].startswith("made by 2 workers: 1.0 images/s by worker ")
    assert heard.counts[0] == (0, 40)
    assert heard.counts[-1] == (40, 40)
    assert crew.sizes[0] > 1
    assert crew.sizes[-1] == 1  # so that all workers end at once


def test_a_killed_worker_costs_nothing_and_a_deadly_image_only_itself(alone, asked):
    deadly = {(17, n): "killed" for n in range(3)}
    crew = Scripted(alone.upscaler, {(3, 0): "killed", **deadly})
    heard = made_by(alone, crew, asked)
    (found,) = errors(heard).items()
    assert found[0] == 17
    assert isinstance(found[1], ResourcesExhausted)
    assert "17.png was begun 3 times, and each time its worker was ended by SIG" in str(found[1])
    assert results(asked) == names(set(range(40)) - {17})
    assert len(crew.replaced) == 4
    assert "3.png is made again: its worker was ended by SIGKILL" in heard.notes


def test_a_worker_that_hangs_costs_no_image(alone, asked):
    crew = Scripted(alone.upscaler, hanging=(1,))
    heard = made_by(alone, crew, asked)
    assert errors(heard) == {}
    assert results(asked) == names(range(40))


def test_errors_that_another_worker_may_not_have_are_tried_again(alone, asked):
    script = {
        (2, 0): ResourcesExhausted("no memory"),
        (5, 0): OutputFailed("no space"),
        (7, 0): EngineLost("the GPU fell off"),
        (9, 0): InputDamaged("it is damaged"),
        (11, 0): lambda order: Path(order.file).write_bytes(b"other bytes"),
        (13, 0): "absent",
    }
    crew = Scripted(alone.upscaler, script)
    heard = made_by(alone, crew, asked)
    assert {n: str(error) for n, error in errors(heard).items()} == {9: "it is damaged"}
    assert results(asked) == names(set(range(40)) - {9})
    assert len(crew.replaced) == 1
    assert {n for n, tries in crew.tried.items() if tries} >= {2, 5, 7, 11, 13}
    assert crew.tried[9] == 0


def test_an_image_that_nobody_can_read_is_refused(alone, asked):
    crew = Scripted(alone.upscaler, {(4, n): "absent" for n in range(9)})
    (refused,) = errors(made_by(alone, crew, asked)).values()
    assert isinstance(refused, InputRefused)
    assert "4.png is not on the node of a worker, or was changed; put it on a folder" in str(
        refused
    )


@pytest.mark.parametrize("existing", ["refuse", "keep", "replace"])
def test_results_that_exist(alone, asked, existing):
    (old, new), folder = (asked[1].job.target, asked[2].job.target), asked[0].job.target.parent
    folder.mkdir()
    old.write_bytes(b"old")
    appears = {(2, 0): lambda order: new.write_bytes(b"new")}
    heard = made_by(alone, Scripted(alone.upscaler, appears), asked, existing=existing)
    assert results(asked) == names(range(40))
    assert old.read_bytes() == (b"result 1" if existing == "replace" else b"old")
    assert new.read_bytes() == (b"result 2" if existing == "replace" else b"new")
    assert [heard.outcomes[n].skipped for n in (1, 2)] == [existing == "keep"] * 2
    kinds = {number: type(error) for number, error in errors(heard).items()}
    assert kinds == ({1: UsageError, 2: ResultAppeared} if existing == "refuse" else {})


def test_an_end_in_the_middle_leaves_whole_results_alone(alone, asked):
    class Stop(Exception):
        pass

    def stop(done):
        if done > 10:
            raise Stop

    with pytest.raises(Stop):
        made_by(alone, Scripted(alone.upscaler), asked, Recorder(stop))
    kept = results(asked)
    assert 10 < len(kept) < 40
    assert set(kept) <= set(names(range(40)))
    missing = replace(OPTIONS, existing="keep")
    crew = Scripted(alone.upscaler)
    ImageFanout(lambda: crew, asked, alone.upscaler, missing, Recorder()).run()
    assert len(crew.tried) == 40 - len(kept)
    assert results(asked) == names(range(40))


def test_a_folder_of_which_nothing_could_be_made_is_not_left(alone, asked):
    script = {(number, 0): InputDamaged("damaged") for number in range(40)}
    heard = made_by(alone, Scripted(alone.upscaler, script), asked)
    assert len(errors(heard)) == 40
    assert not asked[0].job.target.parent.exists()


# Two processes, each with an engine on the CPU


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return images of several kinds, two of them damaged."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for number in range(10):
        pixels = rng.integers(0, 256, (9 + number, 14, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    pixels = Image.fromarray(rng.integers(0, 256, (12, 13, 4), np.uint8))
    pixels.save(folder / os.fsdecode(b"caf\xe9.webp"), lossless=True)
    pixels.convert("L").save(folder / "gray.jpg")
    frames = [Image.new("P", (9, 8), number) for number in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=40)
    whole = (folder / "3.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "none.png").write_bytes(b"no image")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def crew(alone):
    with crew_beside(alone, OPTIONS, 1, lambda line: None) as started:
        yield started


def jobs_for(photos, folder):
    return [Asked(Job(path, folder / path.name, "image")) for path in photos]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def by_one(photos, alone, tmp_path_factory):
    """Return what one engine makes: the files, and the outcomes."""
    folder, heard = tmp_path_factory.mktemp("one"), Recorder()
    with ImageProcess() as process:
        for it in jobs_for(photos, folder):
            heard.ended(do_job(it.job, alone, process, OPTIONS, heard))
    return contents(folder), heard


def as_by_one(heard, folder, by_one):
    files, one = by_one
    assert contents(folder) == files
    for made, expected in zip(heard.outcomes, one.outcomes, strict=True):
        facts = [(it.frames, it.size, it.tiles_redone, type(it.error)) for it in (made, expected)]
        assert facts[0] == facts[1]
        assert str(made.error) == str(expected.error)


def test_two_workers_make_the_images_of_one(tmp_path, photos, alone, crew, by_one):
    heard = made_by(alone, crew, jobs_for(photos, tmp_path))
    as_by_one(heard, tmp_path, by_one)
    assert len(errors(heard)) == 2
    assert {outcome.worker for outcome in heard.outcomes} == {"1 (cpu)", "2 (cpu)", ""}
    assert sorted(heard.notes[:-1]) == sorted(by_one[1].notes)


def test_a_worker_that_is_killed_costs_no_image(tmp_path, photos, alone, crew, by_one):
    killed = []

    def kill(done):
        if not killed:
            killed.extend(member._process.pid for member in crew._processes)
            kill_while_at_work(*killed)

    heard = made_by(alone, crew, jobs_for(photos, tmp_path), Recorder(kill))
    as_by_one(heard, tmp_path, by_one)
    assert crew._processes[0]._process.pid != killed[0]
    assert any("is made again: its worker was ended by SIGKILL" in note for note in heard.notes)


class Losing(Recorder):
    """Takes a folder away after two images, and may bring it back."""

    def __init__(self, folder, *, comes_back):
        super().__init__()
        self.folder, self.away, self.comes_back = folder, folder.with_name("away"), comes_back

    def images_done(self, done, total):
        if done >= 2 and not self.away.exists() and not self.notes_of_loss:
            self.folder.rename(self.away)

    def note(self, text):
        super().note(text)
        if text in self.notes_of_loss and self.comes_back:
            threading.Timer(0.5, self.away.rename, [self.folder]).start()

    @property
    def notes_of_loss(self):
        return [note for note in self.notes if "is away" in note]


@pytest.mark.parametrize("which", ["in", "out"])
def test_a_folder_that_is_away_for_a_while_is_waited_for(
    tmp_path, photos, alone, crew, by_one, which
):
    """For example, a disconnected network share that holds the images or their results."""
    folder = tmp_path / which
    shutil.copytree(photos[0].parent, tmp_path / "in")
    heard = Losing(folder, comes_back=True)
    copies = [tmp_path / "in" / path.name for path in photos]
    made_by(alone, crew, jobs_for(copies, tmp_path / "out"), heard)
    assert contents(tmp_path / "out") == by_one[0]
    assert len(errors(heard)) == 2
    assert heard.notes_of_loss == [f"{folder} is away; waiting up to 60 s for it"]
    assert not any("is made again" in note for note in heard.notes)


def test_a_folder_that_stays_away_is_waited_for_once(
    tmp_path, photos, alone, crew, by_one, monkeypatch
):
    """Its images end with errors, and those of other folders are made."""
    monkeypatch.setattr(outage, "AWAY_SECONDS", 0.3)
    folder = tmp_path / "in"
    shutil.copytree(photos[0].parent, folder)
    heard = Losing(folder, comes_back=False)
    copies = [folder / path.name for path in photos]
    out, other = tmp_path / "out", tmp_path / "other"
    jobs = zip(jobs_for(copies, out), jobs_for(photos, other), strict=True)
    made_by(alone, crew, [job for pair in jobs for job in pair], heard)
    assert contents(other) == by_one[0]
    assert not out.exists() or contents(out).items() < by_one[0].items()
    assert heard.notes_of_loss == [f"{folder} is away; waiting up to 0.3 s for it"]


def test_a_folder_of_images_and_videos(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_edge.jobs.reporters.JsonReporter.PROGRESS_SECONDS", 0)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "c.png", "deep/d.png"):
        Image.new("RGB", (8, 9), len(name)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no image")
    clips.make(tmp_path / "in" / "b.mp4", frames=3, size=(32, 24))
    made = {}
    for device in ("cpu", "cpu,cpu"):
        code, out, err = cli(
            *("upscale", "in", "-o", device, "-n", "edge-x4", "--device", device),
            *("--preset", "ultrafast", "--report", "report.json", "--json-events"),
        )
        assert code == 3, err
        report = json.loads((tmp_path / "report.json").read_text())
        made[device] = {Path(it["source"]).name: it for it in report["jobs"]}
        files = {it for it in (tmp_path / device).rglob("*") if it.is_file()}
        assert {str(it.relative_to(tmp_path / device)) for it in files} == {
            *("a_x4.png", "b_x4.mp4", "c_x4.png", "deep/d_x4.png")
        }
    events = [json.loads(line) for line in out.splitlines()]
    progress = [it for it in events if it["event"] == "progress"]
    assert [it["images"] for it in progress if "images" in it][-1] == 4
    assert all(it["images_expected"] == 4 for it in progress if "images" in it)
    for unit in ("images", "frames"):
        *_, speeds = [it["workers"] for it in progress if unit in it and "workers" in it]
        assert speeds.keys() <= {"1 (cpu)", "2 (cpu)"}
        assert all(speeds.values())
    one, two = made["cpu"], made["cpu,cpu"]
    assert one.keys() == two.keys()
    for name in one:
        for key in ("exit_code", "size", "frames", "sha256", "model", "error"):
            assert one[name][key] == two[name][key]
    assert {two[name].get("worker") for name in ("a.png", "c.png", "d.png")} <= {
        *("1 (cpu)", "2 (cpu)")
    }
    again, _, err = cli(
        *("upscale", "in", "-o", "cpu,cpu", "-n", "edge-x4", "--device", "cpu,cpu"),
        *("--skip-existing",),
    )
    assert again == 3
    assert err.count("kept") == 4


@pytest.mark.slow
def test_ctrl_c_ends_the_command_soon_and_leaves_nothing_half_done(tmp_path):
    rng = np.random.default_rng(3)
    (tmp_path / "in").mkdir()
    for number in range(300):
        pixels = rng.integers(0, 256, (60, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    command = [sys.executable, "-m", "srgan_edge", "upscale", str(tmp_path / "in"), "-n", "edge-x4"]
    command += ["-o", str(tmp_path / "out"), "--device", "cpu,cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while len(list((tmp_path / "out").glob("*_x4.png"))) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    err = stopped(process, signal.SIGINT)
    assert process.returncode == 130, err
    left = list((tmp_path / "out").iterdir())
    assert all(path.name.endswith("_x4.png") for path in left), left
    for path in left:
        with Image.open(path) as whole:
            whole.load()
