"""The discriminators: shapes at any crop, the paper's layers, spectral norms."""

import pytest

torch = pytest.importorskip("torch")

from srgan_edge.train.discriminator import (  # noqa: E402
    PaperDiscriminator,
    UNetDiscriminator,
    build_discriminator,
)


def test_the_papers_layers_at_the_papers_crop():
    network = PaperDiscriminator(96, 64)
    convolutions = [m for m in network.features if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [m.stride[0] for m in convolutions] == [1, 2, 1, 2, 1, 2, 1, 2]
    norms = [m for m in network.features if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 7
    assert network.head[1].weight.shape == (1024, 512 * 6 * 6)
    assert not any(isinstance(m, torch.nn.Sigmoid) for m in network.modules())


@pytest.mark.parametrize("crop_px", [16, 32, 36, 100, 132])
@pytest.mark.parametrize("kind", ["paper", "unet"])
def test_any_crop_that_is_a_multiple_of_the_scale(kind, crop_px):
    network = build_discriminator(kind, crop_px, 4)
    logits = network(torch.rand(2, 3, crop_px, crop_px))
    assert logits.shape == ((2, 1) if kind == "paper" else (2, 1, crop_px, crop_px))
    assert logits.isfinite().all()


def test_spectral_norms_are_one():
    torch.manual_seed(0)
    network = UNetDiscriminator(4)
    crops = torch.rand(1, 3, 16, 16)
    for _ in range(60):  # power iterations
        network(crops)
    normed = [m for m in network.modules() if hasattr(m, "parametrizations")]
    assert len(normed) == 8
    for layer in normed:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert largest == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", ["paper", "unet"])
def test_a_discriminator_learns_to_tell_noise_from_smoothness(kind):
    torch.manual_seed(0)
    network = build_discriminator(kind, 32, 4)
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(30):
        real, fake = torch.rand(4, 3, 1, 1).expand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
        softplus = torch.nn.functional.softplus
        loss = softplus(-network(real)).mean() + softplus(network(fake)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 1.0  # indifference is 1.39
