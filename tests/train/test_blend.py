"""Blending two generators: the ends, the middle, and models that do not mix."""

import pytest

torch = pytest.importorskip("torch")

from typer.testing import CliRunner  # noqa: E402

from srgan_edge.cli import app  # noqa: E402
from srgan_edge.errors import ModelRefused, UsageError  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec, Training  # noqa: E402
from srgan_edge.train.release import blend_checkpoints  # noqa: E402


@pytest.fixture
def models(tmp_path):
    """A pixel model, a GAN model, and models that each differ in a field that must agree."""
    specs = {
        "pixel": ModelSpec("pixel", "srresnet", 4, 1, training=Training("srresnet", "some", 3)),
        "gan": ModelSpec("gan", "srresnet", 4, 1, halo_px=9),
        "deep": ModelSpec("deep", "srresnet", 4, 2),
        "normed": ModelSpec("normed", "srresnet", 4, 1, norm="batch"),
    }
    for number, (name, spec) in enumerate(specs.items()):
        torch.manual_seed(number)
        save_checkpoint(tmp_path / f"{name}.safetensors", generator_from_spec(spec), spec)
    return lambda name: tmp_path / f"{name}.safetensors"


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_every_weight_lies_on_the_line(models, alpha):
    spec = blend_checkpoints(models("pixel"), models("gan"), alpha, models("mixed"))
    states = [load_checkpoint(models(name))[0].state_dict() for name in ("pixel", "gan", "mixed")]
    for name, tensor in states[2].items():
        wanted = (1 - alpha) * states[0][name] + alpha * states[1][name]
        assert torch.allclose(tensor, wanted, atol=1e-7), name
    assert spec == load_checkpoint(models("mixed"))[1]
    assert (spec.name, spec.halo_px) == ("mixed", None)
    assert spec.training.recipe == f"{1 - alpha:g} pixel + {alpha:g} gan"
    assert spec.training.data == "some"


@pytest.mark.parametrize(
    ("other", "said"), [("deep", "blocks 1, deep.safetensors 2"), ("normed", "norm 'none'")]
)
def test_another_architecture_is_refused(models, other, said):
    with pytest.raises(ModelRefused, match=said):
        blend_checkpoints(models("pixel"), models(other), 0.5, models("mixed"))
    assert not models("mixed").exists()


def test_running_statistics_do_not_mix(models):
    with pytest.raises(ModelRefused, match="batch normalization"):
        blend_checkpoints(models("normed"), models("normed"), 0.5, models("mixed"))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_beyond_the_ends_is_refused(models, alpha):
    with pytest.raises(UsageError, match="--alpha"):
        blend_checkpoints(models("pixel"), models("gan"), alpha, models("mixed"))


def test_the_command_names_its_result_after_the_second(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["blend", "pixel.safetensors", "gan.safetensors"])
    assert done.exit_code == 0, done.output
    assert "wrote gan-0.8.safetensors: 0.2 pixel + 0.8 gan" in done.output
    spec = load_checkpoint(models("gan-0.8"))[1]
    assert (spec.name, spec.architecture) == ("gan-0.8", "srresnet")
