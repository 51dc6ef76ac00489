"""The metrics that need PyTorch: contracts, LPIPS against torchmetrics' own, the calibration."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

import srgan_edge
from srgan_edge.errors import ModelRefused, ResourcesExhausted, UsageError
from srgan_edge.evaluation.evaluate import evaluate_folder
from srgan_edge.evaluation.metrics import Undefined
from srgan_edge.evaluation.systems import Pair, bicubic_upscale
from srgan_edge.train.perceptual import LpipsVgg, open_measures

DEMO = Path(srgan_edge.__file__).parent / "demo" / "photo.png"
BEST = {"gmsd": 0, "haarpsi": 1, "lpips_vgg16_hed": 0}
RISES_WITH_DAMAGE = {"gmsd": 1, "haarpsi": -1, "lpips_vgg16_hed": 1}


@pytest.fixture(params=BEST)
def measured(request):
    """A metric's name, and the metric as a function of two images."""
    weights = None
    if request.param == "lpips_vgg16_hed":
        weights = request.getfixturevalue("shared_data") / "vgg16_hed_features.safetensors"
    measure = open_measures([request.param], weights, "cpu")[request.param]
    return request.param, lambda a, b: measure(a, pair_of(b))


def pair_of(hr):
    return Pair(Path("bench"), "a.png", hr[::4, ::4], hr)


def photo(radius=0.0):
    image = Image.open(DEMO).convert("RGB").crop((60, 60, 156, 140))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))


def test_equal_images_have_the_best_value(measured):
    name, measure = measured
    assert measure(photo(), photo()) == pytest.approx(BEST[name], abs=1e-4)


def test_the_order_does_not_matter(measured):
    _, measure = measured
    assert measure(photo(), photo(1)) == pytest.approx(measure(photo(1), photo()), rel=1e-4)


def test_more_blur_is_worse(measured):
    name, measure = measured
    values = [RISES_WITH_DAMAGE[name] * measure(photo(radius), photo()) for radius in (0, 1, 2, 4)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05


def test_an_image_below_32_pixels_has_no_value(measured):
    _, measure = measured
    assert np.isfinite(measure(photo()[:32, :32], photo(1)[:32, :32]))
    with pytest.raises(Undefined, match="32x32 pixels, not 40x31"):
        measure(photo()[:31, :40], photo(1)[:31, :40])


def test_gray_and_read_only_images_are_fine(measured):
    _, measure = measured
    gray = np.repeat(photo()[..., :1], 3, axis=2)
    gray.flags.writeable = False
    assert np.isfinite(measure(gray, gray))


def test_lpips_equals_that_of_torchmetrics_with_the_same_network(tmp_path):
    """Compare torchmetrics' class with random convolutions, and ours on a file of them."""
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    theirs = _LPIPS(pretrained=True, net="vgg", pnet_rand=True)
    state = {
        key.partition(".")[2]: value.contiguous()  # slice3.10.weight is features.10.weight
        for key, value in theirs.net.state_dict().items()
    }
    save_file(state, tmp_path / "vgg16.safetensors")
    ours = LpipsVgg(tmp_path / "vgg16.safetensors")
    a, b = torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64)
    with torch.inference_mode():
        expected = theirs(a, b, normalize=True).flatten()
        torch.testing.assert_close(ours(a, b), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_lpips_of_bicubic_calibration(shared_data):
    """A metric that scores the baseline differently scores every model differently."""
    weights = shared_data / "vgg16_hed_features.safetensors"
    measures = open_measures(["lpips_vgg16_hed"], weights, "cpu")
    folder = shared_data / "benchmarks" / "Set5"
    evaluation = evaluate_folder(bicubic_upscale(4), folder, 4, measures)
    assert evaluation.mean["lpips_vgg16_hed"] == pytest.approx(0.129, abs=0.002)


def test_only_a_vgg16_is_accepted(tmp_path):
    with pytest.raises(ModelRefused, match="no such file"):
        open_measures(["lpips_vgg16_hed"], tmp_path / "vgg16.safetensors", "cpu")
    sizes = [(3, 2), *[(2, 2)] * 15]  # as many as VGG19 has
    state = {f"{n}.weight": torch.zeros(o, i, 3, 3) for n, (i, o) in enumerate(sizes)}
    state |= {f"{n}.bias": torch.zeros(o) for n, (_, o) in enumerate(sizes)}
    save_file(state, tmp_path / "vgg19.safetensors")
    with pytest.raises(ModelRefused, match=r"16 convolutions; .* the 13 of VGG16"):
        open_measures(["lpips_vgg16_hed"], tmp_path / "vgg19.safetensors", "cpu")


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the port where nobody answers
    with pytest.raises(ResourcesExhausted) as refused:
        open_measures([name], None, "cpu")
    line = str(refused.value)
    assert line.startswith(f"--metrics {name} needs weights that are not in {tmp_path}")
    assert "could not be downloaded" in line
    assert "type --metrics offline" in line
    assert "\n" not in line


@pytest.mark.slow
def test_lpips_takes_alexnet_from_the_cache(tmp_path, monkeypatch):
    """Random weights under torchvision's name in the cache are not downloaded again."""
    from torchvision.models import AlexNet_Weights, alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    path = tmp_path / "hub" / "checkpoints" / Path(AlexNet_Weights.DEFAULT.url).name
    path.parent.mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), path)
    measure = open_measures(["lpips"], None, "cpu")["lpips"]
    path.unlink()  # 244 MB
    assert measure(photo(), pair_of(photo())) == pytest.approx(0, abs=1e-6)
    assert 0 < measure(photo(1), pair_of(photo())) < measure(photo(4), pair_of(photo()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(UsageError, match="--device cpu"):
        open_measures(["gmsd"], None, "cuda")
