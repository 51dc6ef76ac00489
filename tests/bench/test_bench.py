"""`bench` measures what it says: engines whose speed is known, processes that fail, its output."""

import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from srgan_edge.bench.ceiling import gflops
from srgan_edge.bench.results import ModelResult, Row, Spread, percentile
from srgan_edge.bench.subject import CLIP_FRAMES, FRAMES, Subject, demo_frames, write_clip
from srgan_edge.bench.worker import CEILING, REFERENCE, Candidate, Ready, Worker, WorkerFailed
from srgan_edge.engines import KINDS
from srgan_edge.model.library import find_model
from srgan_edge.video.frame import Frame
from srgan_edge.video.reader import VideoReader

EDGE = str(find_model("edge-x4").file(".onnx"))

DELAY_SECONDS = 0.03


class Slow:
    """An engine of a known delay, which computes nothing and so needs no core."""

    def __init__(self, delay_seconds):
        self.delay_seconds, self.calls, self.at_once, self._now = delay_seconds, 0, 0, 0
        self._lock = threading.Lock()

    def upscale(self, frame):
        with self._lock:
            self.calls += 1
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        time.sleep(self.delay_seconds)
        with self._lock:
            self._now -= 1
        return frame.repeat(4, axis=0).repeat(4, axis=1)


def subject(delay_seconds=DELAY_SECONDS, slots=3):
    engine = Slow(delay_seconds)
    frames = [np.full((6, 8, 3), level, np.uint8) for level in range(FRAMES)]
    return Subject(engine.upscale, engine.upscale, slots, frames), engine


def test_latency_is_the_time_of_single_frames():
    """No call can be shorter than the delay, and none runs beside another."""
    measured, engine = subject()
    times = measured.latency(10 * DELAY_SECONDS)
    assert min(times) >= DELAY_SECONDS
    assert engine.at_once == 1
    assert len(times) == engine.calls
    assert len(measured.latency(0)) == 1, "one frame however short the time"


def test_throughput_is_that_of_all_slots():
    measured, engine = subject()
    fps, _ = measured.throughput(20 * DELAY_SECONDS, 3 / DELAY_SECONDS)
    assert engine.at_once == 3
    assert engine.calls == 60
    assert fps <= 3 / DELAY_SECONDS, "faster than its delay allows"
    single = 1 / np.median(measured.latency(10 * DELAY_SECONDS))
    assert fps > 1.5 * single, "the slots did not overlap"


def test_cpu_time_does_not_count_waiting():
    """An engine that sleeps needs no CPU time, however busy the machine is."""
    measured, _ = subject()
    fps, cpu_seconds = measured.throughput(20 * DELAY_SECONDS, 3 / DELAY_SECONDS)
    assert cpu_seconds < 0.5 / fps


def test_speed_ups_are_ratios_within_a_turn():
    """Half the delay is twice the speed, though the machine is slower in the second turn."""
    slow, fast = (Row(Candidate("m", name), name) for name in ("slow", "fast"))
    for drift in (1, 3):
        for row, delay_seconds in ((slow, 2 * DELAY_SECONDS), (fast, DELAY_SECONDS)):
            measured, _ = subject(drift * delay_seconds, slots=1)
            fps, _ = measured.throughput(8 * drift * DELAY_SECONDS, 1 / delay_seconds)
            row.fps.append(fps)
    result = ModelResult("m", [fast, slow], {})
    assert result.reference is slow, "without PyTorch the slowest row is the reference"
    assert 1.4 < result.speed_up(fast).low <= result.speed_up(fast).high < 2.8
    assert result.speed_up(slow) == Spread(1, 1, 1)
    fast.is_reference = True
    assert result.reference is fast


def test_percentiles_are_by_nearest_rank():
    values = [3.0, 1.0, 2.0, 4.0]
    assert [percentile(values, p) for p in (0, 25, 50, 75, 76, 99, 100)] == [1, 1, 2, 3, 4, 4, 4]
    assert percentile([5.0], 50) == 5


def test_operations_and_their_share_of_the_ceiling():
    ready = Ready("e 1", "cpu", "fp32", "fp32", 1, 1, 1.0, gflop_per_frame=2.0, peak_mb=1)
    row = Row(Candidate("m", "e"), "e", ready, fps=[9, 10, 30])
    result = ModelResult("m", [row], {"fp32": [80, 10, 40]})
    assert result.gflops(row) == 20
    assert result.ceiling_share(row) == 0.5
    row.ready = Ready("e 1", "cpu", "int8 + fp32", "fp32", 1, 1, 1.0, 2.0, 1)
    assert result.ceiling_share(row) is None, "INT8 has another ceiling"
    assert gflops(lambda: time.sleep(0.02), 10**9, 0.1) <= 50


def test_the_clip_has_the_frames_that_were_asked_for(tmp_path):
    frames = demo_frames(64, 48)
    assert len(frames) == FRAMES and len({frame.tobytes() for frame in frames}) == FRAMES
    write_clip(tmp_path / "in.mp4", iter(frames[: CLIP_FRAMES[0]]))
    with VideoReader(tmp_path / "in.mp4") as reader:
        shown = [item.pixels for item in reader if isinstance(item, Frame)]
    assert len(shown) == CLIP_FRAMES[0]
    assert all(np.abs(a.astype(int) - b).mean() < 8 for a, b in zip(shown, frames, strict=False))


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Candidate("nothing", "openvino"), "no model 'nothing'"),
        (Candidate(EDGE, "tensorrt", "cuda"), "edge-x4 has no .engine file"),
        (Candidate("fp32", CEILING, "nowhere"), "nowhere"),
    ],
)
def test_a_candidate_that_fails_says_why_in_a_line(candidate, reason):
    with Worker(candidate, 32, 32) as worker, pytest.raises(WorkerFailed, match=reason) as failed:
        worker.until_ready()
    assert "\n" not in str(failed.value)


@pytest.mark.slow
def test_the_command_measures_every_installed_engine(cli, tmp_path):
    code, out, err = cli("bench", "--size", "48x32", "--seconds", "1", "--plot", "p.png", "--json")
    assert code == 0, err
    (model,) = json.loads(out)["models"]
    rows = {row["label"]: row for row in model["rows"]}
    assert model["reference"] == "torch eager fp32"
    installed = {k.name for k in KINDS.values() if k.installed and k.suffix == ".onnx"}
    engines = {row["candidate"]["engine"] for row in rows.values()}
    assert engines == {REFERENCE, *installed}
    for label, row in rows.items():
        assert row["failed"] is None, label
        assert row["cold_start_seconds"] > 0 and row["ready"]["peak_mb"] > 20, label
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["end_to_end_fps"] and row["clip_frames"] >= CLIP_FRAMES[0], label
    assert rows["torch eager fp32"]["speed_up"]["median"] == 1
    assert set(model["ceiling_gflops"]) == {row["ready"]["precision"] for row in rows.values()}
    with Image.open(tmp_path / "p.png") as drawn:
        assert drawn.width > 600


@pytest.mark.slow
def test_a_plot_shows_any_name_of_a_model(cli, tmp_path):
    name = os.fsdecode(b"caf\xe9 $\\frac{$.onnx")
    shutil.copy(find_model("edge-x4").file(".onnx"), tmp_path / name)
    short = ("--size", "32x32", "--seconds", "1", "--rounds", "1", "-t", "auto")
    code, _, err = cli("bench", name, "--plot", "p.png", "--engine", "onnxruntime", *short)
    assert code == 0, err
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.slow
def test_without_pytorch_the_slowest_is_the_reference(cli, monkeypatch):
    monkeypatch.setattr(
        type(KINDS["torch"]), "installed", property(lambda kind: kind.name == "openvino")
    )
    code, out, err = cli("bench", "--size", "48x32", "--seconds", "1", "--rounds", "1")
    assert code == 0, err
    assert "(the slowest: PyTorch was not measured)" in out
    assert "openvino" in out and "torch eager" not in out


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--size", "big"], "possible: width and height in pixels, such as 640x360"),
        (["--size", "8x8"], "possible: 32x32 to 4096x4096"),
        (["--tile", "3"], "--tile 3 is too small"),
        (["--rounds", "0"], "possible: 1 to 1000"),
        (["--seconds", "0"], "possible: 1 to 86400"),
        (["--plot", "bars.jpg"], "possible: a name that ends in .png"),
        (["--engine", "tensorflow"], "possible: openvino, onnxruntime, torch, tensorrt"),
        (["edg-x4"], "did you mean 'edge-x4'"),
        (["--engine", "openvino", "--device", "cuda"], "openvino runs on cpu, not on 'cuda'"),
        (["--device", "gpu"], "--device gpu; possible: auto, cpu, cuda, cuda:1"),
        (["--device", "cpu,cpu"], "--device cpu,cpu; possible: auto, cpu"),
        (["--device", "rtx"], "on 'rtx': possible with --engine onnxruntime"),
    ],
)
def test_what_cannot_be_measured_is_refused(cli, options, advice):
    code, _, err = cli("bench", *options)
    assert code == 2
    assert advice in err


def test_an_engine_that_was_asked_for_and_cannot_run_is_refused(cli, monkeypatch):
    code, _, err = cli("bench", "--engine", "openvino", "--engine", "tensorrt")
    assert code == 2 and "--engine tensorrt runs on cuda, not on 'cpu'" in err
    monkeypatch.setattr(
        type(KINDS["torch"]), "installed", property(lambda kind: kind.name != "onnxruntime")
    )
    code, _, err = cli("bench", "--engine", "onnxruntime")
    assert code == 6 and "pip install 'srgan-edge[onnx]'" in err
