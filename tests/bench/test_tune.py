"""`srgan-edge tune`: what it takes, where it keeps it, and when `upscale` uses it."""

import json
import re
import time
from contextlib import contextmanager
from dataclasses import replace

import clips
import numpy as np
import pytest

from srgan_edge.bench import tune as tuning
from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import OutputFailed
from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.reporters import TerminalReporter
from srgan_edge.model.library import find_model
from srgan_edge.tiling import Tiling, plan_tiles
from srgan_edge.tuning import Circumstances, Setting, Tuning, tuning_path
from srgan_edge.video.frame import Encoding

OPTIONS = Options("edge-x4", Encoding(), Tiling(joined=True))
ONE_CALL = Setting(32, 1, False)


@pytest.fixture
def tuned(cli, tmp_path):
    """A clip of 120 frames, and a tuning for its size; the cache is that of the command."""
    clips.make(tmp_path / "in.mp4", frames=120)
    here = Circumstances.of(find_model("edge-x4"))
    tuning = Tuning(64, 48, here, ONE_CALL, 1.4)
    tuning.save(tuning_path("edge-x4", 64, 48))
    return tuning


def upscale(cli, *arguments):
    code, _, err = cli("upscale", "in.mp4", "-n", "edge-x4", "-o", "out.mkv", *arguments)
    return code, err


def test_upscale_uses_it_and_says_so_in_one_line(cli, tuned, tmp_path):
    code, err = upscale(cli, "--report", "report.json")
    assert code == 0
    lines = [line for line in err.splitlines() if "tuned" in line]
    assert lines == [
        "in.mp4: tile 32, 1 call at once, 1.40 times as fast as the default when it was tuned; "
        "--no-tune leaves it out"
    ]
    assert json.loads((tmp_path / "report.json").read_text())["made_by"]["tile"] == 32
    for arguments in (["--no-tune"], ["--tile", "0"], ["--fp32"], ["--duration", "0.1", "-t", "0"]):
        code, err = upscale(cli, "--overwrite", *arguments)
        assert (code, "tuned" in err) == (0, False), err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: {"cores": 999}, r"is ignored: cores was 999 and is \d+; type: srgan-edge tune"),
        (lambda it: {"model_sha256": "0"}, "is ignored: the model was another one; type: "),
        (lambda it: {"version": "1.0"}, "is ignored: version was 1.0 and is"),
        (
            lambda it: {"engine": "torch", "version": ""},
            "is ignored: engine was torch and is openvino; type",
        ),
    ],
)
def test_a_file_of_other_circumstances_is_ignored_with_one_line(cli, tuned, change, said):
    other = replace(tuned.circumstances, **change(tuned))
    replace(tuned, circumstances=other).save(tuning_path("edge-x4", 64, 48))
    code, err = upscale(cli, "--duration", "0.1")
    assert code == 0
    [line] = [line for line in err.splitlines() if "tuning-edge-x4-64x48.json" in line]
    assert "--size 64x48" in line
    assert re.search(said, line)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"\xff\xfe", b"[" * 9999, b'{"width": 64, "height": 48}', b'"tile"'],
)
def test_a_damaged_file_is_ignored_with_one_line(cli, tuned, content):
    tuning_path("edge-x4", 64, 48).write_bytes(content)
    code, err = upscale(cli, "--duration", "0.1")
    assert code == 0
    assert len([line for line in err.splitlines() if "is damaged and ignored" in line]) == 1


@pytest.mark.parametrize("values", [{"tile": 5}, {"tile": -1}, {"slots": 0}, {"slots": 10**6}])
def test_impossible_values_are_damage(cli, tuned, values):
    path = tuning_path("edge-x4", 64, 48)
    record = json.loads(path.read_text())
    record["setting"] |= values
    path.write_text(json.dumps(record))
    code, err = upscale(cli, "--duration", "0.1")
    assert (code, "is damaged and ignored" in err) == (0, True)


def test_a_resumed_run_keeps_what_it_began_with(cli, tuned, tmp_path, monkeypatch):
    assert upscale(cli)[0] == 0
    once = (tmp_path / "out.mkv").read_bytes()
    (tmp_path / "out.mkv").unlink()
    with stopping_after(monkeypatch, 90):
        assert upscale(cli)[0] == 5
    tuning_path("edge-x4", 64, 48).unlink()
    code, err = upscale(cli)
    assert (code, "resuming after" in err) == (0, True), err
    assert (tmp_path / "out.mkv").read_bytes() == once

    (tmp_path / "out.mkv").unlink()
    with stopping_after(monkeypatch, 90):
        assert upscale(cli)[0] == 5
    tuned.save(tuning_path("edge-x4", 64, 48))
    code, err = upscale(cli)
    assert (code, "resuming after" in err, "tuned" in err) == (0, True, False), err


@contextmanager
def stopping_after(monkeypatch, frames):
    done = []
    with monkeypatch.context() as patched:

        def frame_done(self):
            done.append(0)
            if len(done) == frames:
                raise OutputFailed("stopped")

        patched.setattr(TerminalReporter, "frame_done", frame_done)
        yield


def test_the_command_keeps_what_it_found(cli, tmp_path):
    code, out, err = cli("tune", "edge-x4", "--size", "48x32", "--seconds", "2", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["trials"][0]["tile"] == "auto"
    kept = json.loads((tmp_path / "engines" / "tuning-edge-x4-48x32.json").read_text())
    assert kept["setting"] == {key: found["best"][key] for key in ("tile", "slots", "fp32")}
    for arguments, said in [
        (("--size", "9x9"), "possible: 32x32"),
        (("--seconds", "0"), "possible: 1 to 3600"),
    ]:
        code, _, err = cli("tune", *arguments)
        assert (code, said in err) == (2, True)


class Paced:
    """An upscaler that takes as long as its setting says."""

    def __init__(self, setting, seconds):
        spec = find_model("edge-x4").spec
        self.info = EngineInfo("paced", "cpu", "fp32", spec, setting.slots)
        self.slots, self._seconds = setting.slots, seconds
        self._setting = setting

    def plan(self, width, height):
        tile = 0 if self._setting.tile == "auto" else self._setting.tile
        return plan_tiles(width, height, tile, 8), 1

    def upscale(self, pixels):
        time.sleep(self._seconds)
        return np.zeros_like(pixels)


def paced(seconds_of):
    @contextmanager
    def opened(setting, options):
        yield Paced(setting, seconds_of(setting))

    return opened


def test_the_fastest_setting_is_taken(monkeypatch):
    def seconds_of(setting):
        return 0.004 * setting.slots if setting.tile == 128 else 0.02 * setting.slots

    monkeypatch.setattr(tuning, "_opened", paced(seconds_of))
    found = tuning.tune(OPTIONS, 320, 180, 3.0)
    assert found.best.tile == 128
    assert found.times_default > 2


def test_the_default_stays_where_nothing_is_faster(monkeypatch):
    monkeypatch.setattr(tuning, "_opened", paced(lambda setting: 0.05 * setting.slots))
    monkeypatch.setattr(tuning, "WORTH", 1.5)  # machines pause
    found = tuning.tune(OPTIONS, 320, 180, 2.0)
    assert (found.best, found.times_default) == (Setting.default(), 1.0)


@pytest.mark.parametrize(
    ("fps", "wins"),
    [
        ([3, 3, 3, 3, 3], True),
        ([1, 3, 3, 3, 3], True),
        ([1, 1, 3, 3, 3], False),  # a median of 1.5 by pauses of the machine
        ([1, 3], False),
        ([3, 3], True),
        ([2, 2.1, 2.1, 2.1, 2.1, 2, 2, 2], False),
    ],
)
def test_a_setting_wins_only_if_it_is_faster_in_three_of_four_turns(fps, wins):
    default = tuning.Trial(Setting.default(), fps=[2.0] * len(fps))
    other = tuning.Trial(Setting(128, 1, False), fps=fps)
    setting, times = tuning.decided(default, [other])
    assert (setting, times) == ((other.setting, 1.5) if wins else (default.setting, 1.0))


def test_what_there_is_no_time_for_is_counted(monkeypatch):
    monkeypatch.setattr(tuning, "_opened", paced(lambda setting: 0.3))
    found = tuning.tune(OPTIONS, 320, 180, 1.0)
    assert found.skipped > 0
    assert found.trials[0].setting == Setting.default()


def test_a_cache_that_cannot_be_written_names_what_names_another(cli, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(tmp_path / "file/cache"))
    monkeypatch.setenv("SRGAN_EDGE_MIXTURES", str(tmp_path / "file/mixtures"))
    clips.make(tmp_path / "in.mp4", frames=1)
    for command, variable in (
        (("tune", "--size", "32x32", "--seconds", "1"), "SRGAN_EDGE_CACHE"),
        (("upscale", "in.mp4", "-n", "srgan-x4", "--fidelity", "0.5"), "SRGAN_EDGE_MIXTURES"),
    ):
        code, _, err = cli(*command)
        assert code == 5 and f"name another place with {variable}" in err, err
