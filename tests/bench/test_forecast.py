"""`srgan-edge plan`: what it knows, what it says it cannot know, and which model it names."""

import json
import os
import resource
import subprocess
import sys
import time

import clips
import numpy as np
import pytest
from PIL import Image

from srgan_edge import steady
from srgan_edge.bench import forecast, workload
from srgan_edge.bench.forecast import Forecast, Samples, part_of, samples_of
from srgan_edge.bench.subject import write_clip
from srgan_edge.cli.plan import _pick
from srgan_edge.jobs.plan import Options
from srgan_edge.tiling import Tiling
from srgan_edge.video.frame import Encoding

OPTIONS = Options("edge-x4", Encoding(), Tiling(joined=True))


def plan(cli, *arguments):
    code, out, err = cli("plan", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_video_is_planned_with_every_model_that_was_named(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=150, size=(96, 64), audio=["eng"])
    found = plan(cli, "in.mp4", "-n", "edge-x4,srgan-x4")
    quick, crisp = found["models"]
    assert [quick["model"], crisp["model"]] == ["edge-x4", "srgan-x4"]
    for one in (quick, crisp):
        assert (one["width"], one["height"]) == (384, 256)
        assert one["seconds"] > 150 / one["per_second"]
        assert one["memory_bytes"] > 50e6
    assert crisp["cpu_seconds"] > 5 * quick["cpu_seconds"]
    assert cli("upscale", "in.mp4", "-n", "edge-x4", "-o", "out.mp4")[0] == 0
    size = (tmp_path / "out.mp4").stat().st_size
    assert quick["result_bytes"] == pytest.approx(size, rel=0.3)


def test_a_size_is_that_of_a_run_though_its_frames_grow(cli, tmp_path, monkeypatch):
    """Whole frames or parts of them: both know how an encoder's frames grow within a segment."""
    base = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    calm = np.asarray(Image.fromarray(base).resize((24, 16)).resize((96, 64), Image.BICUBIC))
    frames = [np.roll(calm, -(number // 2), axis=1) for number in range(150)]
    write_clip(tmp_path / "in.mp4", frames)
    assert cli("upscale", "in.mp4", "-n", "edge-x4", "-o", "out.mp4")[0] == 0
    size = (tmp_path / "out.mp4").stat().st_size
    monkeypatch.setattr(forecast, "LEAST_CPU_SECONDS", 30.0)  # all frames, however busy the machine
    too_many = 10**9
    for fewest, for_one, measured in (
        (6, 2, "30 frames"),
        (too_many, 2, "1 frame"),
        (too_many, too_many, "parts of"),
    ):
        monkeypatch.setattr(forecast, "FEWEST_FRAMES", fewest)
        monkeypatch.setattr(forecast, "FRAMES_FOR_ONE", for_one)
        [one] = plan(cli, "in.mp4", "-n", "edge-x4")["models"]
        assert measured in one["measured"]
        assert one["result_bytes"] == pytest.approx(size, rel=0.3)


@pytest.mark.parametrize("fewest", [1, 10**9], ids=["frames", "parts"])
def test_steadying_a_gan_is_counted(cli, tmp_path, monkeypatch, fewest):
    """`upscale` steadies GANs on a CPU, which took a sixth of the CPU time of `srgan-x4`."""
    pytest.importorskip("cv2")
    base = np.random.default_rng(2).integers(0, 256, (12, 16, 3), np.uint8)
    calm = np.asarray(Image.fromarray(base).resize((64, 48), Image.BICUBIC))
    write_clip(tmp_path / "in.mp4", [np.roll(calm, -number, axis=1) for number in range(60)])
    mixed = steady.mixed

    def slowly_mixed(*arguments):
        began = time.thread_time()
        while time.thread_time() < began + 0.2:
            pass
        return mixed(*arguments)

    monkeypatch.setattr(steady, "mixed", slowly_mixed)
    monkeypatch.setattr(forecast, "FEWEST_FRAMES", fewest)
    quick, crisp = plan(cli, "in.mp4", "-n", "edge-x4,srgan-x4")["models"]
    assert quick["cpu_seconds"] < 0.1 < crisp["cpu_seconds"]


def test_the_time_for_a_frame_is_that_of_a_run(tmp_path):
    """By CPU time, which other work on these cores changes least: half to twice, never a unit."""
    clips.make(tmp_path / "in.mp4", frames=100, size=(192, 128))

    def cpu_of(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "srgan_edge", *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    [one] = json.loads(cpu_of("plan", "in.mp4", "-n", "edge-x4", "--json")[0])["models"]
    common = ("upscale", "in.mp4", "-n", "edge-x4", "--overwrite", "-o", "out.mp4")
    whole, short = cpu_of(*common)[1], cpu_of(*common, "--duration", "0.04")[1]
    ratio = one["cpu_seconds"] / ((whole - short) / 99)
    print(f"CPU time of a frame: announced {ratio:.2f} times that of the run")
    assert 0.5 < ratio < 2


def test_what_cannot_be_known_is_said(cli, tmp_path):
    clips.make(tmp_path / "in.mkv", frames=60)
    content = (tmp_path / "in.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    clips.make(tmp_path / "live.mkv", frames=60, container_options={"live": "1"})
    [one] = plan(cli, "live.mkv", "-n", "edge-x4")["models"]
    assert (one["seconds"], one["result_bytes"]) == (None, None)
    assert one["per_second"] > 0
    said = plan(cli, "live.mkv", "-n", "edge-x4")["not_known"]
    assert any("does not state its length" in line for line in said)
    code, out, _ = cli("plan", "live.mkv", "-n", "edge-x4")
    assert (code, "not known" in out) == (0, True)
    assert plan(cli, "cut.mkv", "-n", "edge-x4")["models"][0]["per_second"] > 0
    (tmp_path / "bad.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    code, _, err = cli("plan", "bad.mp4")
    assert (code, "nothing can be measured" in err) == (3, True)


@pytest.mark.parametrize(
    "name, options", [("in.mkv", {}), ("in.mp4", {"movflags": "+faststart"})], ids=["MKV", "MP4"]
)
def test_a_video_that_was_cut_off_is_measured_up_to_there(cli, tmp_path, name, options):
    """Its stated length, over which samples would be spread, lies behind its end."""
    coding = {"g": "25", "bf": "2"}
    clip = clips.make(tmp_path / name, frames=150, options=coding, container_options=options)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    found = plan(cli, name, "-n", "edge-x4")
    assert found["models"][0]["per_second"] > 0
    assert any("is damaged (cut off" in line for line in found["not_known"])


def test_images_are_counted_with_their_pixels(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "LOOK_SECONDS", 600.0)
    (tmp_path / "photos").mkdir()
    for name, size in [("a.png", (60, 40)), ("b.jpg", (100, 50))]:
        pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "c.png").write_bytes(b"no image")
    found = plan(cli, "photos", "-n", "edge-x4", "--deadline", "2h")
    assert (found["images"], found["unit"]) == (3, "megapixel")
    assert found["megapixels"] == pytest.approx(0.0074)
    assert found["pick"] == "edge-x4"
    assert any("c.png" in line for line in found["not_known"])


def test_an_unknown_model_and_two_wishes_are_refused_before_measuring(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=3)
    for arguments, said in [
        (("-n", "edge-4x"), "did you mean"),
        (("--fps", "9", "--deadline", "2h"), "--fps 9 and --deadline 2h; possible: one of them"),
        (("--deadline", "soon"), "--deadline soon; possible: "),
        (("--height", "10"), "less than the source"),
    ]:
        code, _, err = cli("plan", "in.mp4", *arguments)
        assert (code, said in err) == (2, True), err


def test_what_can_be_read_only_once_is_refused_with_what_to_do(cli, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.mkv")
    for name in ("-", "pipe", "pipe.mkv", "rtsp://camera/1"):
        code, _, err = cli("plan", name)
        assert (code, f"{name} can be read only once" in err) == (3, True), err
        assert "to a file, and name that" in err


SLOW = Forecast("srgan-x4", unit_seconds=2.0, seconds=7200.0)
QUICK = Forecast("edge-x4", unit_seconds=0.05, seconds=180.0)
LOSSY = Forecast("edge-real-x4", unit_seconds=0.06, seconds=200.0)
BROKEN = Forecast("other", failed="no engine")


@pytest.mark.parametrize(
    ("wish", "pick", "why"),
    [
        ((None, None), "edge-real-x4", "take edge-real-x4 (h264 of few bits)"),
        ((0.4, None), "edge-real-x4", "for 0.4 frames a second take edge-real-x4"),
        ((18.0, None), "edge-x4", "-n edge-x4"),
        ((30.0, None), None, "no model manages 30 frames a second here; the fastest, edge-x4"),
        ((None, 190.0), "edge-x4", "for 3 min take edge-x4"),
        ((None, 10.0), None, "takes 3 min"),
    ],
)
def test_the_model_to_take(wish, pick, why):
    found, line = _pick([QUICK, LOSSY, SLOW, BROKEN], "edge-real-x4", "h264 of few bits", *wish)
    assert (found, why in line) == (pick, True), line


def test_a_crisper_model_is_taken_where_there_is_time_for_it():
    found = _pick([QUICK, SLOW], "edge-x4", "a video on a CPU", None, 9000.0)
    assert found[0] == "srgan-x4"


def test_samples_come_from_three_places(tmp_path):
    clips.make(tmp_path / "in.mp4", frames=200)
    samples = samples_of(tmp_path / "in.mp4", OPTIONS)
    assert isinstance(samples, Samples)
    numbers = [[clips.read_barcode(it.pixels) for it in part] for part in samples.parts]
    assert [len(part) for part in numbers] == [48, 48, 48]
    assert [part[0] for part in numbers] == pytest.approx([10, 76, 143], abs=2)


def test_a_part_has_the_shape_of_the_whole():
    image = np.zeros((100, 300, 3), np.uint8)
    assert part_of(image, 10_000).shape == (57, 160, 3)
    assert part_of(image, 1).shape == (16, 16, 3)
    assert part_of(image, 10**9).shape == image.shape
