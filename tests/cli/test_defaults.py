"""`srgan-edge export` and `srgan-edge train`, typed with hardly anything else."""

from importlib.util import find_spec

import pytest
from command_inputs import save
from PIL import Image

from srgan_edge.cli import export as exporting
from srgan_edge.cli import train as training
from srgan_edge.model.library import DEFAULT_MODEL, find_model
from srgan_edge.train import loop

EDGE_WEIGHTS = find_model("edge-x4").file(".safetensors")


@pytest.mark.parametrize(
    ("installed", "options", "target"),
    [
        (("--tensorrt", "--rtx", "--onnx"), (), "--tensorrt"),
        (("--rtx", "--onnx"), (), "--rtx"),
        (("--onnx",), (), "--onnx"),
        (("--rtx", "--onnx"), ("--io", "float"), "--onnx"),
        (("--tensorrt", "--rtx", "--onnx"), ("-o", "x.onnx"), "--onnx"),
        (("--tensorrt", "--rtx", "--onnx"), ("-o", "x.xml"), "--openvino"),
        (("--tensorrt", "--rtx", "--onnx"), ("--compute-capability", "8.9"), "--rtx"),
        (("--onnx",), ("--bf16",), "--tensorrt"),
    ],
)
def test_export_chooses_the_best_target(cli, monkeypatch, installed, options, target):
    made = []
    monkeypatch.setattr(exporting, "_is_installed", lambda name: name in installed)
    monkeypatch.setattr(exporting, "_export_onnx", lambda *given, **_: made.append(given))
    monkeypatch.setattr(exporting, "_export_ir", lambda *given, **_: made.append(given))
    monkeypatch.setattr(exporting, "_export_engine", lambda *given, **_: made.append(given))
    monkeypatch.setattr("srgan_edge.export.engine.Target.tensorrt", lambda search: "tensorrt")
    code, out, err = cli("export", *options)
    assert code == 0, err
    assert out.startswith(f"exporting {DEFAULT_MODEL} to ")
    assert f"({target}); other targets: --" in out
    assert [given[0] for given in made] == [DEFAULT_MODEL]


def test_a_named_target_and_model_need_no_announcement(cli, monkeypatch):
    monkeypatch.setattr(exporting, "_export_onnx", lambda *given, **_: None)
    assert cli("export", "edge-x4", "--onnx") == (0, "", "")


@pytest.mark.slow
def test_export_alone_writes_something_to_run(cli):
    if find_spec("tensorrt") is not None:
        pytest.skip("an engine of TensorRT takes minutes")
    code, out, err = cli("export", "--fp16")
    assert code == 0, err
    assert "wrote srgan-x4-fp16.onnx" in out or "every convolution in fp16" in out


def test_an_output_folder_holds_the_default_name(cli, tmp_path):
    code, out, err = cli("export", "edge-x4", "--onnx", "-o", "models/")
    assert code == 0, err
    assert "wrote models/edge-x4.onnx (" in out
    assert (tmp_path / "models/edge-x4.onnx").is_file()
    code, _, err = cli("export", "edge-x4", "--onnx", "-o", "model.bin")
    assert code == 2
    assert "-o model.bin; possible: a name that ends in .onnx, or a folder (model.bin/)" in err


def test_an_engine_goes_into_a_folder(cli, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    given = ("--rtx", "--shape", "1x9x7", "--compute-capability", "8.9", "-o", "engines-here/")
    code, out, err = cli("export", "edge-x4", *given)
    assert code == 0, err
    (engine,) = (tmp_path / "engines-here").glob("*.engine")
    assert engine.name.startswith("edge-x4-fp16-1x9x7")
    assert f"file      engines-here/{engine.name} (" in out
    assert engine.with_name(f"{engine.name}.json").is_file()


@pytest.fixture
def trained(monkeypatch):
    """Replace training; what it was asked for is in the list."""
    asked = []

    def pretend(recipe, folders, run, **options):
        asked.append((recipe, folders, run, options["max_minutes"]))
        return run / f"{recipe.model.name}.safetensors"

    monkeypatch.setattr(loop, "train", pretend)
    return asked


def test_train_alone_uses_the_bundled_photographs(cli, trained):
    code, out, err = cli("train")
    assert code == 0, err
    ((recipe, folders, run, max_minutes),) = trained
    assert folders == [training.MINI_SET]
    assert (recipe.model.name, str(run), max_minutes) == ("edge-x4", "runs/first", 5)
    assert "to train for real, type: srgan-edge train --data PHOTOS/" in err.replace("\n", " ")
    assert "try it: srgan-edge upscale IMAGE -n runs/first/edge-x4.safetensors" in out


def test_train_with_photographs_is_not_limited(cli, trained, tmp_path):
    code, _, err = cli("train", "--data", ".")
    assert code == 0, err
    ((recipe, _, run, max_minutes),) = trained
    assert (recipe.model.name, str(run)) == ("srgan-x4", "runs/srgan")
    assert max_minutes == float("inf")
    assert "no -o: training into runs/srgan" in err


def test_a_recipe_needs_photographs(cli):
    code, _, err = cli("train", "--recipe", "srgan")
    assert code == 2
    assert "type: srgan-edge train --recipe srgan --data PHOTOS/" in err


def test_the_bundled_photographs_are_few_and_listed():
    photographs = sorted(training.MINI_SET.glob("*.jpg"))
    assert len(photographs) == 16
    assert sum(path.stat().st_size for path in training.MINI_SET.iterdir()) < 2_000_000
    page = (training.MINI_SET / "README.md").read_text()
    for path in photographs:
        assert f"| `{path.name}` |" in page
        with Image.open(path) as photograph:
            assert photograph.size == (384, 256)


@pytest.mark.slow
def test_a_first_run_ends_in_a_model_and_resumes(cli, tmp_path):
    few = ("--set", "pixel.steps=3", "--set", "model.channels=4")
    code, out, err = cli("train", *few)
    assert code == 0, err
    assert "wrote runs/first/edge-x4.safetensors" in out
    assert "all 3 steps are done" in cli("train", *few)[2]
    save(tmp_path / "in.png")
    assert cli("upscale", "in.png", "-n", "runs/first/edge-x4.safetensors")[0] == 0
