"""The report describes the run, and its page in docs/ lists all its fields."""

import json
import re
from pathlib import Path

import clips
import pytest
from PIL import Image

from srgan_edge.errors import OutputFailed
from srgan_edge.jobs.report_file import ReportFile
from srgan_edge.jobs.reporters import TerminalReporter

PAGE = Path(__file__).resolve().parents[2] / "docs" / "report.md"


@pytest.fixture
def report(cli, tmp_path):
    """The report of one run over a video, a text file and an image."""
    (tmp_path / "in").mkdir()
    clips.make(tmp_path / "in/a.mp4", frames=7, size=(32, 24), audio=["eng"])
    (tmp_path / "in/b.mp4").write_text("hello")
    Image.new("RGB", (16, 12)).save(tmp_path / "in/c.png")
    code, *_ = cli("upscale", "in", "-n", "edge-x4", "-o", "out", "--report", "report.json", "-q")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["exit_code"] == code == 3
    return found


def test_every_field_is_on_the_page_and_every_field_of_the_page_is_there(report):
    described = [set(re.findall(r"^\| (`.*?) \|", table, re.M)) for table in tables(PAGE)]
    run, job, clip = (
        {name for cell in t for name in re.findall(r"`(\w+)`", cell)} for t in described
    )
    assert report.keys() == run
    video, refused, image = report["jobs"]
    assert refused.keys() == image.keys() == job
    assert video.keys() == job | clip


def test_the_numbers_are_those_of_the_files(report, tmp_path):
    video, refused, image = report["jobs"]
    assert (video["frames"], video["size"], video["exit_code"]) == (7, "128x96", 0)
    audio = clips.see_packets(tmp_path / "in/a.mp4", "audio")
    assert video["packets_copied"] == len(audio[0])
    assert video["frames_per_second"] == pytest.approx(7 / video["seconds"], rel=0.01)
    assert any("states no color matrix" in note for note in video["notes"])
    assert refused["error"].startswith("in/b.mp4 is not a video")
    assert (refused["sha256"], refused["frames"], refused["notes"]) == (None, 0, [])
    assert (image["frames"], image["size"]) == (1, "64x48")
    assert len(image["sha256"]) == 64
    assert report["made_by"]["model"]["name"] == "edge-x4"
    assert 20 < report["peak_memory_mb"] < 20_000


def test_the_saved_part_of_a_damaged_video_is_in_the_report(cli, tmp_path):
    video = clips.make(tmp_path / "in.mkv", frames=40, size=(32, 24))
    video.write_bytes(video.read_bytes()[:-2000])
    assert cli("upscale", "in.mkv", "-n", "edge-x4", "-q", "--report", "report.json")[0] == 4
    (job,) = json.loads((tmp_path / "report.json").read_text())["jobs"]
    assert job.get("saved_as") == "in_x4.partial.mkv", job["error"]
    assert 0 < job["frames"] == len(clips.see_frames(tmp_path / "in_x4.partial.mkv")) < 40
    assert "what could be decoded is in in_x4.partial.mkv" in job["error"]
    assert (job["frames_concealed"], len(job["sha256"])) == (0, 64)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    report = ReportFile(tmp_path / "none" / "report.json", TerminalReporter(quiet=True))
    with pytest.raises(OutputFailed, match=r"report\.json: .*name another place with --report"):
        report.closed([])


def fields(table):
    return {name for cell in re.findall(r"^\| (`.*?) \|", table, re.M) for name in names(cell)}


def names(cell):
    return re.findall(r"`(\w+)`", cell)


def tables(page):
    return [part for part in page.read_text().split("\n\n") if part.startswith("| field")]
