"""Every loss alone reaches the generator, and is zero, or minimal, where it should be."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training import natural, write_vgg  # noqa: E402

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.model.network import SRResNet  # noqa: E402
from srgan_edge.train import losses  # noqa: E402
from srgan_edge.train.discriminator import build_discriminator  # noqa: E402
from srgan_edge.train.vgg import VggFeatures, vgg_convolutions  # noqa: E402

F = torch.nn.functional


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    return write_vgg(tmp_path_factory.mktemp("vgg") / "vgg11.safetensors")


def features(vgg_file, before_relu):
    return VggFeatures(vgg_convolutions(vgg_file), ("conv2_1", "conv4_2"), before_relu)


def crops(seed, side):
    random = np.random.default_rng(seed)
    pixels = np.stack([natural(random, side, side) for _ in range(2)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


def perceptual(distance, before_relu):
    def loss(sr, hr, lr, vgg_file):
        vgg = features(vgg_file, before_relu)
        return losses.perceptual(vgg(sr), vgg(hr), (0.5, 1.0), distance)

    return loss


def adversarial(kind, discriminator):
    def loss(sr, hr, lr, vgg_file):
        torch.manual_seed(1)
        network = build_discriminator(discriminator, 32, 4).requires_grad_(False)
        return losses.generator_adversarial(network(hr), network(sr), kind)

    return loss


TERMS = {
    "l1": lambda sr, hr, lr, vgg_file: F.l1_loss(sr, hr),
    "mse": lambda sr, hr, lr, vgg_file: F.mse_loss(sr, hr),
    "consistency": lambda sr, hr, lr, vgg_file: losses.consistency(sr, lr),
    "grid": lambda sr, hr, lr, vgg_file: losses.grid(sr, hr, 4),
    "spectrum": lambda sr, hr, lr, vgg_file: losses.spectrum(sr, hr),
    "total variation": lambda sr, hr, lr, vgg_file: losses.total_variation(sr),
    "perceptual, mse after": perceptual("mse", False),
    "perceptual, l1 before": perceptual("l1", True),
    "perceptual, cosine after": perceptual("cosine", False),
    "vanilla, paper": adversarial("vanilla", "paper"),
    "vanilla, unet": adversarial("vanilla", "unet"),
    "relativistic, paper": adversarial("relativistic", "paper"),
    "relativistic, unet": adversarial("relativistic", "unet"),
}


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_reaches_the_first_layer_of_the_generator(term, vgg_file):
    torch.manual_seed(0)
    generator = SRResNet(4, 1, "none")
    lr, hr = crops(1, 8), crops(2, 32)
    loss = TERMS[term](generator(lr), hr, lr, vgg_file)
    assert loss.shape == ()
    loss.backward()
    gradient = generator.head[0].weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0, term


@pytest.mark.parametrize("term", ["l1", "mse", "perceptual, mse after", "perceptual, l1 before"])
def test_content_losses_are_zero_only_for_equal_images(term, vgg_file):
    hr, other = crops(2, 32), crops(3, 32)
    assert TERMS[term](hr, hr, None, vgg_file) == 0
    assert TERMS[term](other, hr, None, vgg_file) > 0


def test_the_cosine_of_equal_images_is_one_but_for_rounding(vgg_file):
    hr, other = crops(2, 32), crops(3, 32)
    distance = TERMS["perceptual, cosine after"]
    assert distance(hr, hr, None, vgg_file) == pytest.approx(0, abs=1e-6)
    assert distance(other, hr, None, vgg_file) > 1e-3


def test_windows_are_shifted_over_every_phase_of_the_vgg():
    y, x = torch.meshgrid(torch.arange(48), torch.arange(40), indexing="ij")
    place = torch.stack([y, x])[None]
    windows = [losses.shifted_window(place, step) for step in range(300)]
    assert {window.shape for window in windows} == {(1, 2, 32, 24)}
    corners = [tuple(window[0, :, 0, 0].tolist()) for window in windows]
    assert set(corners[:256]) == {(top, left) for top in range(16) for left in range(16)}
    assert corners[256:] == corners[: 300 - 256]
    small = losses.shifted_window(place[..., :16, :20], 255)
    assert small.shape == (1, 2, 16, 16)
    assert small[0, :, 0, 0].tolist() == [0, 4]


def test_the_reduction_is_the_bicubic_of_the_benchmarks():
    photo = natural(np.random.default_rng(4), 52, 36)
    reduced = losses.bicubic_reduced(torch.from_numpy(photo).permute(2, 0, 1)[None].float(), 4)
    difference = reduced[0].permute(1, 2, 0).numpy() - bicubic.resize(photo, 13, 9)
    assert np.abs(difference).max() <= 1.1  # that one rounds between its passes, and at the end


def test_consistency_sees_a_cast_and_not_an_invented_texture():
    hr = crops(5, 32)
    lr = losses.bicubic_reduced(hr, 4)
    checkers = 0.2 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2 - 0.5)
    assert losses.consistency(hr, lr) < 1e-6
    assert losses.consistency(hr + checkers, lr) < 2e-3
    assert losses.consistency(hr + 0.02, lr) == pytest.approx(0.02, abs=1e-4)


def test_spectrum_sees_meshes_and_not_where_texture_lies():
    torch.manual_seed(0)
    hr, other = (0.5 + 0.05 * torch.randn(3, 1, 96, 96).repeat(1, 3, 1, 1) for _ in range(2))
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    mesh = 0.2 * torch.sin(2 * torch.pi * x / 3.3) * torch.sin(2 * torch.pi * y / 3.3)
    assert losses.spectrum(hr, hr) == 0
    assert 2 * losses.spectrum(other, hr) < losses.spectrum(hr + mesh, hr)
    assert losses.spectrum(0.5 + 0.1 * (hr - 0.5), hr) > 1  # and texture that is missing
    noise = 0.05 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    in_color = noise - noise.mean(1, keepdim=True)  # which leaves brightness as it was
    assert losses.spectrum(hr + in_color, hr) > 2 * losses.spectrum(other, hr)


@pytest.mark.parametrize("period", [2, 4])
def test_grid_sees_repeated_errors_but_neither_texture_nor_a_cast(period):
    hr = crops(5, 64)
    diagonal = torch.arange(64)[:, None] + torch.arange(64)
    checkers = 0.02 * ((diagonal % period < period / 2).float() - 0.5)
    texture = 0.02 * (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) - 0.5)
    assert losses.grid(hr + checkers, hr, 4) == pytest.approx(0.01, rel=0.01)
    assert losses.grid(hr + texture, hr, 4) < 0.001
    assert losses.grid(hr + 0.02, hr, 4) < 1e-6
    assert losses.grid(hr[..., :16, :16] + 0.02, hr[..., :16, :16], 4) < 1e-6


@pytest.mark.parametrize("kind", ["vanilla", "relativistic"])
def test_the_two_sides_pull_in_opposite_directions(kind):
    real, fake = torch.full((2, 1), 2.0), torch.full((2, 1), -2.0)
    assert losses.discriminator_adversarial(real, fake, kind) < 0.2
    assert losses.discriminator_adversarial(fake, real, kind) > 1.5
    assert losses.generator_adversarial(real, fake, kind) > 1.5
    assert losses.generator_adversarial(fake, real, kind) < 0.2


def test_the_vanilla_loss_is_binary_cross_entropy_with_logits():
    torch.manual_seed(2)
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    bce = F.binary_cross_entropy_with_logits
    judge = (bce(real, torch.ones(5, 1)) + bce(fake, torch.zeros(5, 1))) / 2
    assert torch.allclose(losses.discriminator_adversarial(real, fake, "vanilla"), judge)
    forger = bce(fake, torch.ones(5, 1))
    assert torch.allclose(losses.generator_adversarial(real, fake, "vanilla"), forger)


def test_a_certain_discriminator_still_has_a_gradient_in_half_precision():
    fake = torch.full((2, 1), -60.0, dtype=torch.bfloat16, requires_grad=True)
    losses.generator_adversarial(fake, fake, "vanilla").backward()
    assert (fake.grad < -0.1).all()


def test_total_variation_counts_edges():
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert losses.total_variation(flat) == 0
    half = flat.clone()
    half[..., 4:] = 1.0
    assert losses.total_variation(half) == pytest.approx(0.5 / 7)
