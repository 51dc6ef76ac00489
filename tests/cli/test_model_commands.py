"""The commands around models: info, doctor, eval, compare, export, quantize, verify."""

import json
import re
import shutil

import numpy as np
import pytest
from command_inputs import EDGE, save
from PIL import Image

from srgan_edge.model.library import bundled_models, find_model
from srgan_edge.model.spec import ModelSpec


def test_info_describes_models_and_files(cli):
    code, out, _ = cli("info", "--json")
    assert code == 0
    assert [spec["name"] for spec in json.loads(out)] == list(bundled_models())
    code, out, _ = cli("info", EDGE)
    assert "receptive radius" in out
    assert f"   files             {EDGE}\n" in out
    assert cli("info", "nothing")[0] == 2


def test_doctor_runs_every_engine(cli):
    code, out, _ = cli("doctor", "--json")
    findings = {(f["group"], f["name"]): f for f in json.loads(out)}
    assert code == 0, out
    assert findings["engines", "openvino"]["status"] == "ok"
    assert "self-test" in findings["engines", "openvino"]["detail"]
    assert findings["models", "edge-x4"]["status"] == "ok"
    assert "openvino" in cli("doctor")[1]


def test_eval_scores_models_and_the_baseline(cli, tmp_path):
    for name, size in [("HR", (128, 96)), ("LRx4", (32, 24))]:
        save(tmp_path / "bench" / name / "a.png", *size)
    code, out, _ = cli("eval", "bench", "--bicubic", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["benchmarks"]["bench"]["mean"]["psnr_y"] > 20
    assert "PSNR-Y" in cli("eval", "bench")[1]
    assert cli("eval", tmp_path)[0] == 3
    (tmp_path / "bench/HR/b.png").symlink_to("gone.png")
    code, _, err = cli("eval", "bench")
    assert code == 3 and "bench/HR/b.png: not a file; only HR images may be there" in err


def test_a_score_that_is_infinite_is_null_in_json(cli, tmp_path):
    for name, size in [("HR", (64, 64)), ("LRx4", (16, 16))]:
        save(tmp_path / "bench" / name / "a.png", *size)
    shutil.copytree(tmp_path / "bench/HR", tmp_path / "results/bench")
    code, out, err = cli("eval", "bench", "--results", "same=results", "--json")
    assert code == 0, err
    assert "Infinity" not in out
    assert json.loads(out)["benchmarks"]["bench"]["mean"]["psnr_y"] is None


def test_compare_writes_both_images_side_by_side(cli, tmp_path):
    save(tmp_path / "in.png")
    cli("upscale", "in.png")
    code, _, err = cli("compare", "in.png", "in_x4.png", "--crop", "10,10,60,40", "-o", "both.png")
    assert code == 0, err
    assert Image.open("both.png").width > 2 * 208


@pytest.mark.slow
def test_train_export_upscale_and_eval_follow_each_other(cli, tmp_path):
    """The three verbs on a tiny scale: photographs to weights to ONNX to an image."""
    for number in range(2):
        save(tmp_path / "photos" / f"{number}.png", 64, 48)
    tiny = ["pixel.steps=3", "data.crop_px=32", "data.batch=1", "model.channels=4"]
    settings = [part for value in tiny for part in ("--set", value)]
    arguments = ("train", "--recipe", "edge", "--data", "photos", "-o", "run", *settings)
    code, out, err = cli(*arguments)
    assert code == 0, err
    assert "wrote run/edge-x4.safetensors" in out
    code, out, err = cli("export", "run/edge-x4.safetensors", "--onnx", "-o", "tiny.onnx")
    assert code == 0, err
    assert "openvino" in out
    assert all(int(levels) <= 1 for levels in re.findall(r"max (\d+) of 255", out))
    decibels = [float(value) for value in re.findall(r"(\S+) dB", out)]
    assert decibels
    assert min(decibels) >= 60
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-n", "tiny.onnx")[0] == 0
    assert cli("upscale", "in.png", "-n", "run/edge-x4.safetensors", "-o", "b.png")[0] == 0
    first, second = (np.asarray(Image.open(name)) for name in ("in_x4.png", "b.png"))
    assert np.abs(first.astype(int) - second).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--onnx", "--rtx"], "--onnx and --rtx; possible: one of them at a time"),
        (["--rtx", "--fp16", "--bf16"], "--fp16 and --bf16; possible: one of them"),
        (["--rtx", "--tile", "0"], "--tile 0; possible: 1 or more"),
        (["--rtx", "--io", "float"], "--io float with --rtx; possible: with --onnx"),
        (["--triton", "models", "--onnx"], "--onnx and --triton; possible: one of them at a time"),
        (
            ["--triton", "models", "-o", "x"],
            "-o with --triton; possible: with --onnx or --openvino",
        ),
        (["--onnx", "--bf16"], "--bf16 with --onnx; possible: with --tensorrt or --rtx"),
        (
            ["--openvino", "--fp16"],
            "--fp16 with --openvino; possible: with --onnx or --tensorrt or",
        ),
        (["--onnx", "--io", "float", "--fp16"], "--io float and --fp16; possible: one of them"),
        (["--openvino", "--batch", "2"], "--batch with --openvino; possible: with --tensorrt or"),
        (["--rtx", "--workspace", "512"], "--workspace with --rtx; possible: with --tensorrt"),
        (["--tensorrt", "--compute-capability", "8.9"], "possible: with --rtx"),
        (["--onnx", "-o", "x.engine"], "-o x.engine; possible: a name that ends in .onnx"),
        (["--ncnn", "--io", "float"], "--io float with --ncnn; possible: with --onnx"),
        (["--openvino", "-o", "x.bin"], "-o x.bin; possible: a name that ends in .xml"),
    ],
)
def test_an_export_that_contradicts_itself_is_refused(cli, options, message):
    code, _, err = cli("export", "edge-x4", *options)
    assert code == 2
    assert message in err


@pytest.mark.slow
def test_openvinos_own_form_computes_the_same(cli):
    openvino = pytest.importorskip("openvino")
    code, out, err = cli("export", "edge-x4", "--openvino")
    assert code == 0, err
    assert "wrote edge-x4.xml and edge-x4.bin\n  openvino against torch fp32: max " in out
    model = openvino.Core().read_model("edge-x4.xml")
    spec = ModelSpec.from_json(model.get_rt_info(["srgan_edge", "spec"]).astype(str))
    assert spec == find_model("edge-x4").spec


@pytest.mark.slow
def test_a_float_onnx_is_for_other_programs(cli, tmp_path):
    code, out, err = cli("export", "edge-x4", "--onnx", "--io", "float")
    assert code == 0, err
    assert "wrote edge-x4-float.onnx (" in out
    assert re.search(r"openvino \S+ against torch fp32: max \d\.\de-0[6-9] of 1\n", out)
    save(tmp_path / "in.png")
    code, _, err = cli("upscale", "in.png", "-n", "edge-x4-float.onnx")
    assert code == 6
    assert "the float form of edge-x4" in err
    assert "type: srgan-edge export MODEL --onnx" in err


@pytest.mark.slow
def test_a_model_is_added_to_a_triton_repository(cli, tmp_path):
    code, out, err = cli("export", "edge-x4", "--triton", "models")
    assert code == 0, err
    assert "openvino" in out
    assert f"wrote models/edge-x4; type: tritonserver --model-repository {tmp_path}/models" in out
    assert cli("upscale", save(tmp_path / "in.png"), "-n", "models/edge-x4/1/model.onnx")[0] == 0
    code, _, err = cli("export", "edge-x4", "--triton", "models")
    assert code == 2
    assert "models/edge-x4 exists; type --overwrite to replace its files, or name another" in err
    assert cli("export", "edge-x4", "--triton", "models", "--overwrite")[0] == 0
    code, _, err = cli("export", "none.engine", "--triton", "models")
    assert code == 6
    assert "none.engine has no passport" in err


def test_an_engine_is_exported_without_a_gpu(cli):
    pytest.importorskip("tensorrt_rtx")
    options = (
        "--rtx",
        "--fp16",
        "--shape",
        "1x9x7",
        "--compute-capability",
        "8.9",
        "-o",
        "e.engine",
    )
    code, out, _ = cli("export", "edge-x4", *options)
    assert code == 0
    assert "every convolution in fp16; built for 1x9x7" in out
    assert "file      e.engine (" in out


def test_the_halo_of_a_bundled_model_is_not_overwritten(cli, tmp_path):
    before = find_model("edge-x4").file(".safetensors").read_bytes()
    code, _, err = cli("verify-tiles", "in.png", "-n", "edge-x4", "--write")
    assert code == 2
    assert "edge-x4 is bundled, and its halo measured; copy " in err
    (tmp_path / "link.safetensors").symlink_to(find_model("edge-x4").file(".safetensors"))
    code, _, err = cli("verify-tiles", "in.png", "-n", "link.safetensors", "--write")
    assert code == 2 and "is bundled" in err
    assert find_model("edge-x4").file(".safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_halo_is_measured_where_there_is_a_seam_and_written_into_the_file_itself(cli, tmp_path):
    weights = tmp_path / "m.safetensors"
    shutil.copy(find_model("edge-x4").file(".safetensors"), weights)
    (tmp_path / "link.safetensors").symlink_to(weights.name)
    before = weights.read_bytes()
    verify = ("verify-tiles", "-n", "link.safetensors", "--write")
    save(tmp_path / "small.png", 36, 20)
    code, _, err = cli(*verify, "small.png")
    assert code == 3 and "no image has a side of 37 px, and so a seam" in err
    assert weights.read_bytes() == before
    save(tmp_path / "in.png", 60, 50)
    code, _, err = cli(*verify, "in.png")
    assert code == 0, err
    assert (tmp_path / "link.safetensors").is_symlink()
    assert find_model(str(weights)).spec.halo_px > 0


def test_quantizing_into_the_model_itself_is_refused(cli, tmp_path):
    shutil.copy(find_model("edge-x4").file(".safetensors"), tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()
    for name, message in [("m.safetensors", "is an input itself"), ("m.onnx", "ends in .safeten")]:
        code, _, err = cli("quantize", "m.safetensors", "--data", ".", "-o", name)
        assert code == 2
        assert message in err
    assert (tmp_path / "m.safetensors").read_bytes() == before


def test_verify_says_what_to_compare_with(cli):
    code, _, err = cli("verify", EDGE)
    assert code == 2
    assert "has no checkpoint to compare with; type --against" in err


def test_verify_refuses_a_model_that_no_engine_runs(cli, tmp_path):
    shutil.copy(find_model("edge-x4").file(".safetensors"), tmp_path / "m.safetensors")
    code, out, err = cli("verify", "m.safetensors")
    assert (code, out) == (6, "")
    assert "m has no .onnx file, only m.safetensors; type: srgan-edge export m.safetensors" in err


@pytest.mark.slow
def test_the_error_of_a_halo_is_drawn(cli, tmp_path):
    pytest.importorskip("matplotlib")
    save(tmp_path / "in.png", 52, 44)
    code, out, err = cli("verify-tiles", "in.png", "-n", "edge-x4", "--plot", "halo.png")
    assert code == 0, err
    assert "wrote halo.png" in out
    with Image.open(tmp_path / "halo.png") as plot:
        assert plot.size[0] > 600
        assert len(plot.convert("RGB").getcolors(1 << 20)) > 20
    code, _, err = cli("verify-tiles", "in.png", "-n", "edge-x4", "--plot", "no/halo.png")
    assert code == 5


def test_an_engine_is_not_taken_for_a_model(cli, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    (tmp_path / "a.engine").write_bytes(b"vtrt")
    code, _, err = cli("upscale", "in.png", "-n", "a.engine")
    assert code == 6
    assert "a.engine has no passport (a.engine.json)" in err
