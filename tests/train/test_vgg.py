"""VGG features: names of layers, normalization, and refusals."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from training import natural, write_vgg  # noqa: E402

from srgan_edge.errors import ModelRefused, ResourcesExhausted, UsageError  # noqa: E402
from srgan_edge.train.vgg import VggFeatures, vgg_convolutions  # noqa: E402


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    return write_vgg(tmp_path_factory.mktemp("vgg") / "vgg11.safetensors")


def image(height=37, width=50):
    pixels = natural(np.random.default_rng(1), height, width)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("before_relu", [False, True])
def test_layers_are_those_of_torchvision(before_relu):
    """Compare with torchvision's own VGG19, with random weights, cut by hand."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    whole = torchvision.models.vgg19().features.eval()
    convolutions = [(m.weight.data, m.bias.data) for m in whole if isinstance(m, torch.nn.Conv2d)]
    vgg = VggFeatures(convolutions, ("conv2_2", "conv5_4"), before_relu)
    normalized = (image() - vgg.mean) / vgg.std
    cut = {"conv2_2": 8, "conv5_4": 35}  # the modules up to and with the convolution
    for layer, deviation, ours in zip(cut, vgg.deviations, vgg(image()), strict=True):
        # Its ReLUs are in place: cutting before one shows what has not been through it.
        end = cut[layer] if before_relu else cut[layer] + 1
        with torch.no_grad():
            theirs = whole[:end](normalized.clone())
        assert torch.allclose(ours, theirs / deviation, atol=1e-4), layer


def test_features_vary_by_about_one_in_every_network(vgg_file, tmp_path):
    louder = {name: 30 * tensor for name, tensor in load_file(vgg_file).items()}
    save_file(louder, tmp_path / "louder.safetensors")
    for path in (vgg_file, tmp_path / "louder.safetensors"):
        vgg = VggFeatures(vgg_convolutions(path), ("conv1_1", "conv3_2"), True)
        for layer in vgg(image(180, 240)):
            assert 0.2 < layer.var((0, 2, 3)).mean().sqrt() < 5


def test_keys_with_and_without_prefix_and_pickles_are_read(vgg_file, tmp_path):
    bare = {name.removeprefix("features."): t for name, t in load_file(vgg_file).items()}
    bare["classifier.0.weight"] = torch.zeros(2, 2)
    torch.save(bare, tmp_path / "bare.pth")
    for ours, theirs in zip(
        vgg_convolutions(vgg_file), vgg_convolutions(tmp_path / "bare.pth"), strict=True
    ):
        assert torch.equal(ours[0], theirs[0])


def test_an_unknown_layer_is_refused_with_a_suggestion(vgg_file):
    with pytest.raises(UsageError, match=r"VGG11 has no such layer.*conv5_2"):
        VggFeatures(vgg_convolutions(vgg_file), ("conv5_4",), False)


def test_files_without_a_vgg_are_refused(vgg_file, tmp_path):
    with pytest.raises(ModelRefused, match="No such file"):
        vgg_convolutions(tmp_path / "missing.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ModelRefused, match="not a file of weights"):
        vgg_convolutions(tmp_path / "junk.pth")
    some = dict(list(load_file(vgg_file).items())[:6])
    save_file(some, tmp_path / "some.safetensors")
    with pytest.raises(ModelRefused, match="3 convolutions"):
        vgg_convolutions(tmp_path / "some.safetensors")


def test_torchvisions_weights_come_from_its_own_cache_or_cost_a_line(monkeypatch, tmp_path):
    """The real download code must report a missing network, not hang."""
    pytest.importorskip("torchvision")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ResourcesExhausted, match="--vgg-weights"):
        vgg_convolutions(None)


def test_gradients_reach_the_image_and_not_the_network(vgg_file):
    vgg = VggFeatures(vgg_convolutions(vgg_file), ("conv2_1",), False)
    seen = image().requires_grad_()
    vgg(seen)[0].sum().backward()
    assert seen.grad.abs().max() > 0
    assert all(not p.requires_grad for p in vgg.parameters())
