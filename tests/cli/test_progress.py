"""The progress of a run, as a terminal and a log show it."""

import json

import pytest
from command_inputs import EDGE, save
from terminal import in_terminal, lines_shown

LONG = "a-name-of-eighty-characters-" * 3
TILES = ("-t", "64", "--batch", "7")  # without a batch they would be joined


@pytest.fixture
def photos(tmp_path):
    """A large photograph with a long name, and one that is no image."""
    save(tmp_path / "photos" / f"{LONG}.png", 400, 300)
    (tmp_path / "photos/bad.png").write_text("no image")
    save(tmp_path / "photos/c.png")
    return tmp_path


@pytest.mark.slow
def test_a_folder_of_long_names_shows_place_bar_and_tiles(photos):
    lines = lines_shown(in_terminal(photos, "upscale", "photos", "-n", EDGE, *TILES))
    bars = [line for line in lines if line.startswith("1 of 3") and "━━━" in line]
    assert any(line.endswith("35/35 tiles") or "35/35 tiles  " in line for line in bars), lines
    assert len({line.partition("/35 tiles")[0] for line in bars if "/35 tiles" in line}) > 1
    assert not any("1/1" in line for line in lines)
    assert any("1 of 3 failed" in line for line in lines)


def test_a_log_ends_with_a_summary_of_the_failures(cli, photos):
    (photos / "photos/d.mp4").write_text("no video")
    code, out, err = cli("upscale", "photos", "-n", EDGE)
    assert (code, out) == (3, "")
    *_, title, image, video = err.splitlines()
    assert title == "2 of 4 failed:"
    assert image.startswith("exit 3: photos/bad.png: not a PNG")
    assert video.startswith("exit 3: photos/d.mp4 is not a video")
    assert cli("upscale", "photos", "-n", EDGE, "-q", "-o", "other")[2].count("\n") == 2


def test_events_count_tiles_and_jobs(cli, photos, monkeypatch):
    monkeypatch.setattr("srgan_edge.jobs.reporters.JsonReporter.PROGRESS_SECONDS", 0)
    arguments = (f"photos/{LONG}.png", "photos/c.png", "-n", EDGE, *TILES, "-o", "out")
    code, out, _ = cli("upscale", *arguments, "--json-events")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["jobs"] == 2
    tiles = [event["tiles"] for event in events if event.get("tiles_expected") == 35]
    assert sorted(set(tiles)) == list(range(0, 36, 7))
    assert tiles == sorted(tiles)


def test_a_name_is_shown_as_it_is(cli, tmp_path):
    save(tmp_path / "a:cat:[b].png")
    assert "a:cat:[b]_x4.png" in cli("upscale", "a:cat:[b].png", "-n", EDGE)[2]
