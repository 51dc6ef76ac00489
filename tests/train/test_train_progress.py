"""The progress of a training from its first second on, and the cost of Ctrl-C before a step."""

import signal

import pytest

torch = pytest.importorskip("torch")

from terminal import in_terminal, lines_shown  # noqa: E402
from training import TINY, tiny_recipe, write_photos  # noqa: E402

from srgan_edge.cli import progress as shown  # noqa: E402
from srgan_edge.engines.torch import TorchEngine  # noqa: E402
from srgan_edge.errors import Interrupted  # noqa: E402
from srgan_edge.train.loop import train  # noqa: E402
from srgan_edge.train.photo_files import read_photo  # noqa: E402
from srgan_edge.train.session import Progress  # noqa: E402

TAUGHT = ("data.teacher=edge-x4", "pixel.steps=4")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("SRGAN_EDGE_TEACHERS", str(tmp_path / "teachers"))
    return write_photos(tmp_path / "photos")


def test_packing_and_the_teacher_count_photographs(photos, tmp_path):
    seen = []
    recipe = tiny_recipe("srresnet", *TAUGHT)
    train(recipe, [photos], tmp_path / "run", on_preparation=lambda *now: seen.append(now))
    assert seen == [
        *(("packing photographs", done, 5) for done in range(6)),
        *(("teacher", done, 3) for done in range(4)),
    ]


def test_steps_are_shown_between_those_that_are_logged(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_edge.train.session.SECONDS_BETWEEN_STEPS_SHOWN", 0)
    logged, others = [], []
    recipe = tiny_recipe("srresnet", "pixel.steps=6", "run.log_every_steps=4")
    train(recipe, [photos], tmp_path / "run", on_progress=logged.append, on_step=others.append)
    assert [now.step for now in logged] == [4]
    assert [now.step for now in others] == [1, 2, 3, 5, 6]
    assert not any(now.values for now in others)
    assert all(now.steps_per_second > 0 for now in others)


@pytest.mark.parametrize("work", ["packing photographs", "teacher"])
def test_ctrl_c_before_the_first_step_costs_the_image_at_hand(photos, tmp_path, monkeypatch, work):
    monkeypatch.setattr("srgan_edge.train.packing.FILES_BETWEEN_SYNCS", 1)
    calls, recipe = [], tiny_recipe("srresnet", *TAUGHT)
    compute = TorchEngine.upscale
    monkeypatch.setattr(
        TorchEngine, "upscale", lambda self, lr: calls.append(lr.shape) or compute(self, lr)
    )

    def stop(now, done, total):
        if (now, done) == (work, 2):
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted, match="the same command goes on from there") as stopped:
        train(recipe, [photos], tmp_path / "run", on_preparation=stop)
    assert stopped.value.exit_code == 130
    assert len(calls) == (2 if work == "teacher" else 0)
    read = []
    monkeypatch.setattr(
        "srgan_edge.train.packing.read_photo",
        lambda path, crop_px: read.append(path.name) or read_photo(path, crop_px),
    )
    train(recipe, [photos], tmp_path / "run")
    assert sum(batch == 1 for batch, *_ in calls) == 3  # each photograph once, in both runs
    assert len(read) == (0 if work == "teacher" else 3)


def test_without_a_terminal_there_is_a_line_a_minute(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    with shown.live_line() as live:
        for work in ("packing photographs", "teacher"):
            for done in range(4):
                now[0] += 25
                live.show_preparation(work, done, 3)
        for step in range(1, 12):
            now[0] += 25
            values = {"loss": 0.25, "l1": 0.25} if step % 4 == 0 else {}
            live.show(Progress("pixel", step, 11, 2.0, values, 31.0))
    assert capsys.readouterr().err.splitlines() == [
        "packing photographs 0/3",
        "packing photographs 3/3",
        "teacher 0/3",
        "teacher 3/3",
        "pixel 3/11  2.0 steps/s",
        "pixel 6/11  31.00 dB  loss 0.2500  2.0 steps/s",
        "pixel 9/11  31.00 dB  loss 0.2500  2.0 steps/s",
        "pixel 11/11  31.00 dB  loss 0.2500  2.0 steps/s",
    ]


@pytest.mark.slow
def test_a_terminal_shows_the_work_before_the_first_step(photos, tmp_path):
    changes = [f"--set={change}" for change in (*TINY, *TAUGHT)]
    command = ("train", "--recipe", "srresnet", "--data", "photos", "-o", "run", *changes)
    lines = lines_shown(in_terminal(tmp_path, *command, OMP_NUM_THREADS="1"))
    bars = [line for line in lines if "━" in line]
    for work, count in [("teacher", "/3"), ("pixel", "/4")]:  # five files are packed in no time
        assert any(line.startswith(work) and count in line for line in bars), lines
