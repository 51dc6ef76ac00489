"""The generators: how they start, and what stays exact when they train in BF16."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402

SPECS = [
    ModelSpec("srresnet", "srresnet", 16, 2),
    ModelSpec("edge", "edge", 8, 2),
    ModelSpec("relu", "edge", 16, 2, activation="relu"),
]
NAMES = [spec.name for spec in SPECS]


def smooth(height, width):
    torch.manual_seed(0)
    return F.interpolate(torch.rand(1, 3, 4, 4), (height, width), mode="bicubic").clamp(0.1, 0.9)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_an_untrained_generator_enlarges_already(spec):
    torch.manual_seed(1)
    lr = smooth(13, 18)
    sr = generator_from_spec(spec)(lr)
    assert sr.shape == (1, 3, 52, 72)
    enlarged = F.interpolate(lr, scale_factor=4, mode="bilinear")
    inner = (..., slice(8, -8), slice(8, -8))  # the paper's network pads with black
    assert (sr - enlarged)[inner].abs().mean() < 0.05


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_bf16_leaves_the_image_no_cast(spec):
    """Its roundings must not add up: SRResNet wholly in BF16 came out one level too dark."""
    torch.manual_seed(1)
    generator = generator_from_spec(spec)
    lr = smooth(24, 24)
    with torch.no_grad():
        exact = generator(lr)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = generator(lr)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).mean().abs() < 0.02 / 255
    assert (rounded - exact).abs().max() < 4 / 255


def test_head_and_tail_see_no_bf16():
    generator = generator_from_spec(SPECS[0])
    seen = {}
    for name in ("head", "upsample", "tail"):
        getattr(generator, name).register_forward_hook(
            lambda part, given, out, name=name: seen.update({name: out.dtype})
        )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        generator(smooth(8, 8))
    assert seen == {"head": torch.float32, "upsample": torch.bfloat16, "tail": torch.float32}


def test_features_of_the_relu_network_live_at_the_start():
    torch.manual_seed(3)
    features = smooth(24, 24)
    for layer in generator_from_spec(ModelSpec("relu", "edge", 16, 8, activation="relu")).body:
        features = layer(features)
        if isinstance(layer, torch.nn.ReLU):
            assert (features.amax((0, 2, 3)) > 0).float().mean() > 0.7


@pytest.mark.parametrize("activation", ["prelu", "relu"])
@pytest.mark.parametrize("blocks", [3, 4, 7])
def test_a_deeper_network_takes_over_the_function(activation, blocks):
    torch.manual_seed(4)
    spec = ModelSpec("edge", "edge", 8, 3, activation=activation, scale=2)
    shallow, deep = generator_from_spec(spec), generator_from_spec(replace(spec, blocks=blocks))
    deep.take_over(shallow)
    lr = torch.rand(1, 3, 11, 6)
    assert torch.allclose(deep(lr), shallow(lr), atol=1e-6)
    F.mse_loss(deep(lr), torch.rand(1, 3, 22, 12)).backward()
    assert all(it.weight.grad.abs().sum() > 0 for it in deep.body if hasattr(it, "weight"))
