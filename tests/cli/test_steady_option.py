"""`--steady` as it is typed: on for GANs alone, in the report, and a note without OpenCV."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

from srgan_edge import Upscaler, steady
from srgan_edge.bench.subject import write_clip
from srgan_edge.errors import UsageError


@pytest.fixture
def clip(tmp_path):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (32, 48, 3), np.uint8).repeat(2, axis=0)[:32]
    write_clip(tmp_path / "in.mp4", (wide[:, n : n + 32] for n in range(3)))
    return tmp_path


def report(cli, *words):
    code, _, err = cli("upscale", "in.mp4", *words, "-o", "out.mkv", "--overwrite", "--report", "r")
    assert code == 0, err
    return json.loads(Path("r").read_text())


@pytest.mark.parametrize(
    ("words", "strength"),
    [
        (("-n", "srgan-x4"), 0.5),
        (("-n", "srgan-x4", "--steady", "off"), 0),
        (("-n", "edge-x4"), 0),
        (("-n", "edge-x4", "--steady", "0.25"), 0.25),
    ],
)
def test_auto_is_on_for_gans_and_in_the_report(cli, clip, words, strength):
    made = report(cli, *words)
    assert made["made_by"]["steady"] == strength
    assert ("opencv" in made["made_by"]) == bool(strength)
    assert not any("flicker" in note for note in made["jobs"][0]["notes"])


def test_a_note_names_the_package_that_auto_lacks(cli, clip, monkeypatch):
    monkeypatch.setattr(steady, "find_spec", lambda name: None)
    made = report(cli, "-n", "srgan-x4")
    assert made["made_by"]["steady"] == 0
    (note,) = (note for note in made["jobs"][0]["notes"] if "flicker" in note)
    assert "pip install 'srgan-edge[steady]'" in note
    assert not any("flicker" in it for it in report(cli, "-n", "edge-x4")["jobs"][0]["notes"])
    code, _, err = cli("upscale", "in.mp4", "-n", "srgan-x4", "--steady", "1", "-o", "x.mkv")
    assert code == 6
    assert "--steady 1 needs the package `cv2`" in err


def test_the_python_api_makes_the_bytes_of_the_command(cli, clip):
    report(cli, "-n", "edge-x4", "--steady", "0.5")
    with Upscaler("edge-x4", steady=0.5) as up:
        up.file(clip / "in.mp4", clip / "api.mkv")
    assert (clip / "api.mkv").read_bytes() == (clip / "out.mkv").read_bytes()
    with pytest.raises(UsageError, match=r"steady=1\.5; possible: 'auto', or from 0 to 1"):
        Upscaler("edge-x4", steady=1.5)
