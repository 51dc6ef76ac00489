"""The generators in FP16 as a GPU runs them: PyTorch's own arithmetic, here on a CPU."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from srgan_edge.evaluation.parity import GATES, compare  # noqa: E402
from srgan_edge.export.verify import natural_batches  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint  # noqa: E402
from srgan_edge.model.half import HalfDeployment  # noqa: E402
from srgan_edge.model.library import find_model  # noqa: E402
from srgan_edge.model.network import Deployment, generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402

SPECS = {
    "edge": ModelSpec("edge", "edge", 6, 3),
    "edge-tanh": ModelSpec("edge-tanh", "edge", 6, 1, head="tanh"),
    "edge-relu": ModelSpec("edge-relu", "edge", 6, 3, activation="relu"),
    "srresnet": ModelSpec("srresnet", "srresnet", 8, 2),
    "paper": ModelSpec("paper", "srresnet", 8, 2, norm="batch"),
    "tanh": ModelSpec("tanh", "srresnet", 8, 1, head="tanh"),
}


def generator_of(spec):
    torch.manual_seed(5)
    generator = generator_from_spec(spec).eval().requires_grad_(False)
    for module in generator.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.uniform_(-0.4, 1.3)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return generator


@torch.inference_mode()
def upscaled(network, batch):
    result = network(torch.from_numpy(np.array(batch)))
    return (result[0] if isinstance(result, tuple) else result).numpy()


@pytest.mark.parametrize("name", SPECS)
def test_the_rewrites_are_exact(name, monkeypatch):
    """In FP32, but for the order of additions."""
    generator = generator_of(SPECS[name])
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    with monkeypatch.context() as patch:
        for kind in (torch.nn.Module, torch.Tensor):
            patch.setattr(kind, "half", kind.float)
        full = HalfDeployment(generator)
        for shape in [(1, 1, 1, 3), (2, 3, 2, 3), (3, 17, 31, 3)]:
            batch = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
            one, other = (upscaled(network, batch) for network in (Deployment(generator), full))
            assert one.shape == other.shape
            assert (one != other).mean() < 1e-3
            assert np.abs(one.astype(int) - other).max() <= 1
    assert all(torch.equal(before[key], value) for key, value in generator.state_dict().items())


@pytest.mark.parametrize(
    "name", ["edge-x4", *(pytest.param(n, marks=pytest.mark.slow) for n in ("srgan-x4",))]
)
def test_shipped_models_pass_the_gate_of_fp16(name):
    generator, _ = load_checkpoint(find_model(name).file(".safetensors"))
    reference, half = Deployment(generator), HalfDeployment(generator)
    crops = [batch[:, :96, :100] for batch in natural_batches()]
    parity = compare(
        lambda batch: upscaled(reference, batch), lambda batch: upscaled(half, batch), crops
    )
    assert not GATES["fp16"].refusals(parity), parity
