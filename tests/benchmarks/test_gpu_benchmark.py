"""`make gpu` without a GPU: it runs from a bare checkout and reports no check as passed."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

from srgan_edge.engines.torch import TorchEngine  # noqa: E402
from srgan_edge.errors import ExtraMissing  # noqa: E402
from srgan_edge.machine import Gpu  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint  # noqa: E402
from srgan_edge.model.library import find_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ["av", "openvino", "safetensors", "onnxscript", "onnx_ir", "onnxruntime", "torchvision"]
"""Packages that a GPU machine rented for an hour may lack."""
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_engines  # noqa: E402

no_gpu = pytest.mark.skipif(Gpu.find() is not None, reason="there is a GPU")


def run_script(out, **variables):
    program = f"import runpy, sys; sys.modules |= dict.fromkeys({ABSENT})\n"
    program += f"sys.argv = ['gpu.py', '--out', {str(out)!r}]\n"
    program += "sys.path.insert(0, 'benchmarks')\n"
    program += "runpy.run_path('benchmarks/gpu.py', run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": "."} | variables
    environment = {k: v for k, v in environment.items() if k != "SRGAN_EDGE_FAKE_DRIVER"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@no_gpu
@pytest.mark.parametrize(("required", "code"), [("0", 0), ("1", 1)])
def test_without_a_gpu_everything_is_not_run(tmp_path, required, code):
    done = run_script(tmp_path / "a.json", SRGAN_EDGE_REQUIRE_GPU=required)
    assert done.returncode == code, done.stderr
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["gpu"] is None
    checks = {check["name"]: check["status"] for check in record["checks"]}
    assert set(checks.values()) == {"not run"}
    for engine in gpu_engines.NAMES:
        for model in ("srgan-x4", "edge-x4"):
            assert f"{engine} against torch fp32 on the CPU, {model}" in checks
            for size in ("480x270", "640x360", "1280x720", "1920x1080"):
                assert f"latency of {engine}, {model}, {size}" in checks
                assert f"latency of {model}, {size}" in checks
    assert {"replays of torch fp16", "10,000 frames through three slots"} < checks.keys()
    assert len(checks) == len(record["checks"]), "two checks have one name"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", gpu_engines.NAMES)
def test_missing_engines_are_not_run(name):
    """Each engine is missing separately, as on a machine whose GPU it does not support."""
    if name == "tensorrt_rtx fp16":
        pytest.skip("TensorRT-RTX builds without a GPU")
    absent = (gpu_engines.NotRun, ExtraMissing)
    with pytest.raises(absent, match=r"torch finds no GPU|not installed|no \w+Provider"):
        gpu_engines.open_engine(name, "edge-x4", (32, 32))


@pytest.mark.parametrize("model", ["edge-x4", "srgan-x4"])
def test_weights_are_read_without_safetensors(model):
    generator, spec = gpu_engines.generator_of(model)
    expected, expected_spec = load_checkpoint(find_model(model).file(".safetensors"))
    assert spec == expected_spec
    state = expected.state_dict()
    assert all(torch.equal(state[name], value) for name, value in generator.state_dict().items())
    assert not generator.training


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The checks' engines on the CPU; they are wrong after `wrong` calls."""

    class Engine(TorchEngine):
        wrong = 1 << 30

        def upscale(self, batch):
            Engine.wrong -= 1
            return super().upscale(batch) + np.uint8(3 * (Engine.wrong < 0))

    def open_engine(name, model, size, slots=1):
        return Engine.from_generator(*gpu_engines.generator_of(model))

    monkeypatch.setattr(gpu_engines, "open_engine", open_engine)
    return Engine


def test_an_engine_within_its_gate_passes_and_one_beyond_fails(on_the_cpu):
    assert gpu_engines.parity("torch fp32", "edge-x4").endswith(
        "fp32: max 0 of 255, mean 0.00000, inf dB"
    )
    on_the_cpu.wrong = 8
    with pytest.raises(AssertionError, match=r"fp32: max 3 of 255"):
        gpu_engines.parity("torch fp32", "edge-x4")


def test_replays_are_compared_byte_by_byte(on_the_cpu):
    assert "100 calls" in gpu_engines.replays("torch fp16", "edge-x4")
    on_the_cpu.wrong = 50
    with pytest.raises(AssertionError, match=r"call 46: different bytes"):
        gpu_engines.replays("torch fp16", "edge-x4")


def test_a_video_is_compared_and_its_memory_watched(on_the_cpu, monkeypatch):
    with gpu_engines.open_engine("", "edge-x4", (16, 12)) as engine:
        found = gpu_engines.soak(engine, (16, 12), 1500)
        assert found["frames"] == 1500
        sizes = iter(range(0, 1 << 40, 1 << 20))
        monkeypatch.setattr(gpu_engines, "_resident_bytes", lambda: next(sizes))
        with pytest.raises(AssertionError, match="the process grew by"):
            gpu_engines.soak(engine, (16, 12), 100)
        monkeypatch.setattr(gpu_engines, "_resident_bytes", lambda: 0)
        monkeypatch.setattr(gpu_engines, "_gpu_bytes", lambda: next(sizes))
        with pytest.raises(AssertionError, match="bytes more of the GPU"):
            gpu_engines.soak(engine, (16, 12), 100)
        on_the_cpu.wrong = 40
        with pytest.raises(AssertionError, match=r"frame 32 differs from its first result"):
            gpu_engines.soak(engine, (16, 12), 100)


def test_latencies_are_percentiles(on_the_cpu):
    found = gpu_engines.end_to_end("torch fp32", "edge-x4", (16, 12))
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert found["calls"] >= 5


def test_a_rate_is_that_of_the_published_network():
    gpu = runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))
    record = gpu["Record"]()
    record.figures["ceilings"] = {"matmul_tflop_s": 100.0}
    found = gpu["_rate"](record, "srgan-x4", 480, 270, 10.0)
    assert found == {"tflop_s": 57.5, "of_matmul": 0.575}  # 2 * 2,218,176 * 480 * 270 in 10 ms
