"""`-n auto`: the model that fits device, kind and compression, and what is said about it."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from PIL import Image

from srgan_edge import Upscaler, run
from srgan_edge.image.coding import Coding
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs import estimate
from srgan_edge.jobs.estimate import Estimated, shown
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import JsonReporter
from srgan_edge.model.library import bundled_models
from srgan_edge.suited import AUTO, coding_of_video, suited_to, suited_to_job
from srgan_edge.tiling import Tiling
from srgan_edge.video.endpoint import Address, InputPipe
from srgan_edge.video.frame import Encoding

CLEAN, LOSSY = Coding("PNG", False), Coding("JPEG of quality 60", True)
OPTIONS = Options(AUTO, Encoding(), Tiling())


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_model_follows_compression_then_device(kind):
    exact = "edge-l-real-x4" if kind == "image" else "edge-real-x4"
    assert suited_to(kind, LOSSY, on_gpu=False).model == exact
    crisp = "srgan-real-x4" if kind == "image" else "edge-real-x4"
    assert suited_to(kind, LOSSY, on_gpu=True).model == crisp
    exact = "edge-l-x4" if kind == "image" else "edge-x4"
    assert suited_to(kind, CLEAN, on_gpu=False).model == exact
    assert suited_to(kind, CLEAN, on_gpu=True).model == "srgan-x4"


def test_every_model_that_may_be_taken_is_bundled():
    taken = {
        suited_to("image", coding, on_gpu=on_gpu).model
        for coding in (CLEAN, LOSSY)
        for on_gpu in (False, True)
    }
    assert taken <= bundled_models().keys()


@pytest.mark.parametrize(("crf", "is_lossy"), [("8", False), ("38", True)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_is_lossy_by_its_bits_a_pixel(tmp_path, crf, is_lossy, suffix):
    """Matroska states no bit rate: that of the file counts."""
    size = (192, 144)
    path = clips.make(tmp_path / f"in{suffix}", frames=30, size=size, options={"crf": crf})
    with IsolatedReader(path) as reader:
        info = reader.info
    file_bits_per_px = 8 * path.stat().st_size / (30 * 192 * 144)
    assert 0.5 * file_bits_per_px < info.bits_per_px <= 1.05 * file_bits_per_px
    info = replace(info, bit_rate=int(info.bit_rate * (20 if not is_lossy else 1)))
    assert coding_of_video(info).is_lossy is is_lossy


def test_each_codec_has_its_threshold(tmp_path):
    path = clips.make(tmp_path / "in.mp4", frames=2)
    with IsolatedReader(path) as reader:
        info = replace(reader.info, width=100, height=100, average_rate=Fraction(10))
    at_012 = {
        codec: coding_of_video(replace(info, codec=codec, bit_rate=12_000)).is_lossy
        for codec in ("h264", "hevc", "vp9", "av1", "theora")
    }
    assert at_012 == {"h264": True, "hevc": False, "vp9": True, "av1": False, "theora": True}
    unknown = coding_of_video(replace(info, bit_rate=None))
    assert unknown == Coding("h264 of unknown bit rate", False)


def test_sources_that_cannot_be_looked_at_first():
    with ImageProcess() as images:

        def of(inlet):
            return suited_to_job(Job(Path("x"), Path("y.mkv"), "video", inlet), OPTIONS, images)

        assert of(InputPipe()).model == "edge-x4"
        assert of(Address("rtsp://camera/1")).model == "edge-real-x4"
        missing = Job(Path("missing.png"), Path("y.png"), "image")
        assert suited_to_job(missing, OPTIONS, images).model == "edge-l-x4"


def test_one_command_takes_a_model_for_each_file(cli, tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8)
    for name, quality in (("a.png", None), ("b.jpg", 60), ("c.jpg", 95)):
        Image.fromarray(pixels).save(tmp_path / name, **({"quality": quality} if quality else {}))
    code, _, err = cli("upscale", "a.png", "b.jpg", "c.jpg", "-o", "out/", "--report", "r.json")
    assert code == 0, err
    assert "b.jpg: upscaled by edge-l-real-x4 (JPEG of quality 60); -n NAME takes another" in err
    record = json.loads((tmp_path / "r.json").read_text())
    models = [job["model"]["name"] for job in record["jobs"]]
    assert models == ["edge-l-x4", "edge-l-real-x4", "edge-l-x4"]
    for name, model in zip(("a_x4.png", "b_x4.jpg", "c_x4.jpg"), models, strict=True):
        source = name.replace("_x4", "")
        assert cli("upscale", source, "-n", model, "-o", f"own-{name}")[0] == 0
        assert (tmp_path / f"own-{name}").read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.children
def test_a_video_that_was_begun_keeps_its_model(cli, tmp_path, monkeypatch):
    """The first run is one of `srgan-x4`; the second, without `-n`, goes on with it."""
    clips.make(tmp_path / "in.mp4", frames=20, size=(32, 32))
    monkeypatch.setattr("srgan_edge.transcode.segments.SEGMENT_FRAMES", 8)
    whole = cli("upscale", "in.mp4", "-n", "srresnet-x4", "-o", "whole.mp4")
    assert whole[0] == 0, whole[2]

    class Stopped(BaseException):
        pass

    done = 0

    def stop(self):
        nonlocal done
        done += 1
        if done > 12:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr("srgan_edge.jobs.reporters.TerminalReporter.frame_done", stop)
        with pytest.raises(Stopped):
            cli("upscale", "in.mp4", "-n", "srresnet-x4", "-o", "out.mp4")
    assert (tmp_path / "out.mp4.partial").is_dir()
    code, _, err = cli("upscale", "in.mp4", "-o", "out.mp4")
    assert code == 0, err
    assert "upscaled by srresnet-x4 (as in the run that is resumed)" in err
    assert "resuming after 8 frames" in err
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_the_api_chooses_like_the_command(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "b.jpg", quality=50)
    with Upscaler() as up, Upscaler("edge-l-x4") as exact:
        assert up.scale == 4
        np.testing.assert_array_equal(up(pixels), exact(pixels))
        report = up.file(tmp_path / "b.jpg")
        assert report.made_by["model"]["name"] == "edge-l-real-x4"
        assert "b.jpg: upscaled by edge-l-real-x4 (JPEG of quality 50)" in report.notes
        assert up.file(tmp_path / "b.jpg", tmp_path / "c.jpg").sha256 == report.sha256


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (3000, "x.mp4: about 10 frames a second, done in 5 min; -n srgan-x4 is crisper and takes "),
        (60, None),
        (None, None),
    ],
)
def test_speed_is_announced_once_it_is_measured(monkeypatch, capsys, frames, said):
    clock = Clock()
    monkeypatch.setattr(estimate, "time", clock)
    reporter = Estimated(JsonReporter(), "srgan-x4", 30)
    reporter.started(Job(Path("x.mp4"), Path("y.mp4"), "video"), frames)
    for _ in range(40):
        clock.now += 0.1
        reporter.frame_done()
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert len(notes) == (said is not None)
    if said:
        assert notes[0] == f"{said}about 2 h 30 min here"


def test_durations_are_shown_as_people_say_them():
    seconds = [0.4, 40, 99, 180, 4200, 7200, 100_000, 300_000]
    shown_as = ["0 s", "40 s", "99 s", "3 min", "70 min", "2 h", "27 h 50 min", "3 days"]
    assert [shown(it) for it in seconds] == shown_as


def test_nothing_is_looked_at_for_a_model_that_was_named(cli, tmp_path, monkeypatch):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    monkeypatch.delattr(run, "suited_to_job")
    assert cli("upscale", "a.png", "-n", "edge-x4")[0] == 0
