"""The ncnn form computes what PyTorch does, at every scale, and is refused where it does not."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

from srgan_edge.errors import ModelRefused  # noqa: E402
from srgan_edge.export import ncnn as target  # noqa: E402
from srgan_edge.export.float_onnx import MAX_DIFFERENCE  # noqa: E402
from srgan_edge.export.ncnn import ncnn_from_checkpoint  # noqa: E402
from srgan_edge.model.checkpoint import save_checkpoint  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402

pytestmark = pytest.mark.slow

SPECS = {
    **{f"edge x{it}": ModelSpec("tiny", "edge", 6, 2, scale=it) for it in (1, 2, 3, 4, 8)},
    **{f"srresnet x{it}": ModelSpec("tiny", "srresnet", 6, 1, scale=it) for it in (2, 3)},
    "relu": ModelSpec("tiny", "edge", 6, 2, scale=2, activation="relu"),
    "batch normalization and tanh": ModelSpec("tiny", "srresnet", 6, 1, norm="batch", head="tanh"),
}


def saved(spec, path):
    torch.manual_seed(0)
    generator = generator_from_spec(spec).eval().requires_grad_(False)
    for module in generator.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.uniform_(-0.4, 1.3)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    save_checkpoint(path, generator, spec)
    return path


@pytest.mark.parametrize("name", SPECS)
def test_it_computes_what_pytorch_does(tmp_path, name):
    checkpoint = saved(SPECS[name], tmp_path / "m.safetensors")
    parity = ncnn_from_checkpoint(checkpoint, tmp_path / "m.param")
    assert parity.max_difference < MAX_DIFFERENCE / 10
    assert (tmp_path / "m.param").read_text().startswith("7767517\n")
    stated = (tmp_path / "m.json").read_text()
    assert ModelSpec.from_json(stated) == SPECS[name]
    assert json.loads(stated)["scale"] == SPECS[name].scale
    assert {it.name for it in tmp_path.iterdir()} == {
        *("m.safetensors", "m.param", "m.bin", "m.json")
    }


def test_an_int8_model_is_refused_with_the_command_for_its_source(cli, tmp_path):
    code, _, err = cli("export", "edge-int8-x4", "--ncnn", "-o", tmp_path / "m.param")
    assert code == 6 and "type: srgan-edge export edge-x4 --ncnn" in err, err


@pytest.mark.parametrize("wrong", [2e-4, np.nan])
def test_one_that_differs_is_refused_and_not_kept(tmp_path, monkeypatch, wrong):
    checkpoint = saved(SPECS["edge x2"], tmp_path / "m.safetensors")
    reference = target.torch_reference
    monkeypatch.setattr(
        target, "torch_reference", lambda path: lambda it: reference(path)(it) + np.float32(wrong)
    )
    with pytest.raises(ModelRefused, match=r"tiny in ncnn: ncnn .* where 0\.0001 is allowed"):
        ncnn_from_checkpoint(checkpoint, tmp_path / "m.param")
    assert [it.name for it in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_command_writes_three_files_and_replaces_none(cli, tmp_path):
    code, out, err = cli("export", "edge-x4", "--ncnn")
    assert code == 0, err
    assert "wrote edge-x4.ncnn.param, edge-x4.ncnn.bin and edge-x4.ncnn.json" in out
    assert "against torch fp32: max" in out
    (tmp_path / "edge-x4.ncnn.param").unlink()
    code, _, err = cli("export", "edge-x4", "-o", "edge-x4.ncnn.param")
    assert (code, "edge-x4.ncnn.bin exists; type --overwrite" in err) == (2, True)
    code, _, err = cli("export", "edge-x4", "--ncnn", "-o", "x.bin")
    assert (code, "possible: a name that ends in .param" in err) == (2, True)
