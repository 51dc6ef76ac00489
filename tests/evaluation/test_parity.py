"""Differences between results, the gates they have to pass, and `verify`."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from srgan_edge.engines.base import EngineInfo
from srgan_edge.evaluation.parity import GATES, Differences, Gate, Parity, Verdict, compare
from srgan_edge.model.library import find_model

EQUAL = Parity(0, 0, 0.0, 0.0, float("inf"))


def random_pairs(seed):
    random = np.random.default_rng(seed)
    for shape in [(1, 1, 1, 3), (2, 5, 7, 3), (31, 40, 3)]:
        one = random.integers(0, 256, shape, np.uint8)
        noise = random.normal(0, 3, shape)
        yield one, np.clip(one + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_counted_differences_are_those_of_all_values_at_once(seed):
    pairs = list(random_pairs(seed))
    counted = Differences()
    for one, other in pairs:
        counted.add(one, other)
    both = (np.concatenate([p[side].ravel().astype(float) for p in pairs]) for side in (0, 1))
    levels = np.abs(np.subtract(*both))
    parity = counted.parity
    assert parity.max_levels == levels.max()
    assert parity.p999_levels == np.quantile(levels, 0.999, method="inverted_cdf")
    assert parity.mean_levels == pytest.approx(levels.mean())
    assert parity.differing == pytest.approx((levels > 0).mean())
    assert parity.psnr_db == pytest.approx(10 * np.log10(255**2 / (levels**2).mean()))


def test_equal_results_differ_by_nothing():
    batch = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    assert compare(np.copy, np.copy, [batch, batch]) == EQUAL


def test_black_and_white_are_255_apart():
    batch = np.zeros((1, 2, 2, 3), np.uint8)
    parity = compare(lambda b: b + 255, np.copy, [batch])
    assert (parity.max_levels, parity.p999_levels, parity.psnr_db) == (255, 255, 0.0)


def test_two_shapes_are_a_bug():
    with pytest.raises(AssertionError, match=r"\(2, 2, 3\) is not \(2, 1, 3\)"):
        Differences().add(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 1, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"psnr_db": 59.94}, "59.9 dB where 60 are needed"),
        ({"max_levels": 3}, "max 3 where 2 are allowed"),
        ({"mean_levels": 0.11}, "mean 0.110 where 0.1 is allowed"),
    ],
)
def test_a_gate_names_what_misses_it(change, phrase):
    gate = Gate(60, 2, 0.1)
    at_the_edge = Parity(2, 2, 0.1, 0.1, 60.0)
    assert gate.refusals(at_the_edge) == []
    assert gate.refusals(dataclasses.replace(at_the_edge, **change)) == [phrase]


def test_comparing_needs_no_matplotlib():
    """Exports check their parity where the training extra is not installed."""
    loaded = "import sys, srgan_edge.evaluation.parity; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


def test_lower_precisions_have_wider_gates():
    assert GATES["fp32"].min_psnr_db > GATES["fp16"].min_psnr_db > GATES["bf16"].min_psnr_db


def verdict(**change):
    info = EngineInfo("openvino", "cpu", "fp32", find_model("edge-x4").spec)
    return dataclasses.replace(Verdict(info, EQUAL, EQUAL, {"Set5": 0.01}), **change)


def test_a_verdict_looks_at_tiles_and_benchmarks_too():
    assert verdict().refusals == []
    seams = dataclasses.replace(EQUAL, max_levels=2)
    assert verdict(tiled=seams).refusals == ["tiles differ by 2 where 1 is allowed"]
    assert verdict(psnr_y_loss_db={"Set5": 0.3}).refusals == [
        "Set5 loses 0.300 dB where 0.02 is allowed"
    ]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from srgan_edge.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["srgan-edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_verify_passes_a_bundled_model(run):
    code, out, err = run("verify", "edge-x4", "--fp32", "--json")
    assert code == 0, err
    for record in json.loads(out):
        assert record["precision"] == "fp32"
        assert record["refusals"] == []
        assert record["parity"]["max_levels"] <= 1
    code, out, _ = run("verify", "edge-x4", "--engine", "openvino", "--fp32")
    assert code == 0
    assert "passed" in out


def test_verify_refuses_an_onnx_that_computes_something_else(run, monkeypatch, tmp_path):
    import onnx
    from onnx import numpy_helper

    from srgan_edge.model.library import ModelFiles

    files = find_model("edge-x4")
    model = onnx.load(files.file(".onnx"))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("tail.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.01, bias.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    wrong = ModelFiles("edge-x4", {**files.files, ".onnx": tmp_path / "wrong.onnx"})
    monkeypatch.setattr("srgan_edge.model.library.find_model", lambda name: wrong)
    code, out, err = run("verify", "edge-x4", "--engine", "onnxruntime", "--fp32")
    assert code == 6
    assert "missed" in out
    assert "onnxruntime" in err and "dB where 80 are needed" in err


def test_the_reference_is_not_compared_with_itself(run):
    code, _, err = run("verify", "edge-x4", "--engine", "torch")
    assert code == 2
    assert "--engine torch; possible: openvino, onnxruntime" in err
