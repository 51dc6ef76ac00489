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
from srgan_edge.train.perceptual import TRUNKS, Lpips, open_measures

DEMO = Path(srgan_edge.__file__).parent / "demo" / "photo.png"
BEST = {"gmsd": 0, "haarpsi": 1, "lpips_alex": 0, "lpips_vgg": 0}
RISES_WITH_DAMAGE = {"gmsd": 1, "haarpsi": -1, "lpips_alex": 1, "lpips_vgg": 1}
FILES = {
    "lpips_alex": "alexnet_imagenet_features.safetensors",
    "lpips_vgg": "vgg16_imagenet_features.safetensors",
}
PUBLISHED = {"Set5": 0.3407, "Set14": 0.4393}
"""LPIPS on AlexNet of MATLAB's bicubic, in the comparisons of Park, Moon and Cho, CVPR 2023."""


@pytest.fixture(params=BEST)
def measured(request):
    """A metric's name, and the metric as a function of two images."""
    files = []
    if request.param in FILES:
        files = [request.getfixturevalue("shared_data") / FILES[request.param]]
    measure = open_measures([request.param], files, "cpu")[request.param]
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


def features_file(path, metric):
    """Random weights of the metric's trunk, with the names and sizes of torchvision's."""
    torch.manual_seed(0)
    shapes = TRUNKS[metric].features().state_dict()
    state = {f"features.{key}": 0.05 * torch.randn(it.shape) for key, it in shapes.items()}
    save_file(state, path)
    return path


@pytest.mark.parametrize(("net", "metric"), [("alex", "lpips_alex"), ("vgg", "lpips_vgg")])
def test_lpips_equals_that_of_torchmetrics_with_the_same_network(net, metric):
    """Compare torchmetrics' class with random convolutions, and ours with the same."""
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    theirs = _LPIPS(pretrained=True, net=net, pnet_rand=True)
    state = {
        key.partition(".")[2]: value  # slice3.10.weight is features.10.weight
        for key, value in theirs.net.state_dict().items()
    }
    ours = Lpips(TRUNKS[metric], state)
    a, b = torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64)
    with torch.inference_mode():
        expected = theirs(a, b, normalize=True).flatten()
        torch.testing.assert_close(ours(a, b), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", PUBLISHED)
def test_lpips_of_bicubic_is_the_published_one(shared_data, benchmark):
    measures = open_measures([], [shared_data / FILES["lpips_alex"]], "cpu")
    folder = shared_data / "benchmarks" / benchmark
    evaluation = evaluate_folder(bicubic_upscale(4), folder, 4, measures)
    assert evaluation.mean["lpips_alex"] == pytest.approx(PUBLISHED[benchmark], abs=0.002)


def test_a_file_adds_the_metric_that_it_serves(tmp_path):
    alex = features_file(tmp_path / "a.safetensors", "lpips_alex")
    vgg = features_file(tmp_path / "b.safetensors", "lpips_vgg")
    assert list(open_measures([], [vgg], "cpu")) == ["lpips_vgg"]
    assert list(open_measures(["gmsd", "lpips_alex"], [vgg, alex], "cpu")) == [
        "gmsd",
        "lpips_alex",
        "lpips_vgg",
    ]
    with pytest.raises(UsageError, match="a second AlexNet"):
        open_measures([], [alex, vgg, alex], "cpu")


def test_other_networks_are_refused(tmp_path):
    with pytest.raises(ModelRefused, match="No such file"):
        open_measures([], [tmp_path / "vgg16.safetensors"], "cpu")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(ModelRefused, match="not a file of weights"):
        open_measures([], [tmp_path / "text.safetensors"], "cpu")
    sizes = [(3, 2), *[(2, 2)] * 15]  # as many convolutions as VGG19 has
    state = {f"{n}.weight": torch.zeros(o, i, 3, 3) for n, (i, o) in enumerate(sizes)}
    state |= {f"{n}.bias": torch.zeros(o) for n, (_, o) in enumerate(sizes)}
    save_file(state, tmp_path / "vgg19.safetensors")
    with pytest.raises(ModelRefused, match="takes AlexNet and VGG16"):
        open_measures([], [tmp_path / "vgg19.safetensors"], "cpu")


def test_a_vgg19_is_not_taken_for_a_vgg16(tmp_path):
    """Its first convolutions have the names and sizes of a VGG16's."""
    from torchvision.models import vgg19

    with torch.device("meta"):
        shapes = vgg19().features.state_dict()
    save_file(
        {key: torch.zeros(it.shape) for key, it in shapes.items()}, tmp_path / "v.safetensors"
    )
    with pytest.raises(ModelRefused, match="takes AlexNet and VGG16"):
        open_measures([], [tmp_path / "v.safetensors"], "cpu")


@pytest.mark.parametrize("name", ["lpips_alex", "lpips_vgg", "dists"])
def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the port where nobody answers
    with pytest.raises(ResourcesExhausted) as refused:
        open_measures([name], [], "cpu")
    line = str(refused.value)
    assert line.startswith(f"--metrics {name} needs weights that are not in {tmp_path}")
    assert "could not be downloaded" in line
    assert "type --metrics offline" in line
    assert "\n" not in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(UsageError, match="--device cpu"):
        open_measures(["gmsd"], [], "cuda")
