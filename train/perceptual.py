"""Perceptual metrics for `srgan-edge eval`, which need PyTorch.

They compare whole images, borders included, RGB in [0, 1]. The networks of LPIPS and DISTS are
those of their authors' papers. Those of LPIPS come from a local file, or like that of DISTS from
torchvision, which downloads them once.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import piq
import torch
from torch import Tensor, nn
from torchvision import models

from srgan_edge.errors import ModelRefused, ResourcesExhausted, UsageError
from srgan_edge.evaluation import metrics
from srgan_edge.evaluation.evaluate import Measure
from srgan_edge.evaluation.systems import Pair
from srgan_edge.pixels import Pixels
from srgan_edge.train.processes import resolved_device
from srgan_edge.train.vgg import IMAGENET_MEAN, IMAGENET_STD, read_weights

SMALLEST_PX = 32
"""Shortest side that leaves a pixel at the coarsest scale of every metric here."""

T = TypeVar("T")

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps two images [1, 3, H, W] in [0, 1] to one number."""


@dataclass(frozen=True)
class Trunk:
    """A network of torchvision whose features LPIPS compares."""

    name: str
    build: Callable[[], nn.Module]
    weights: models.WeightsEnum
    layers: tuple[int, ...]
    """Indices in `features` of the five ReLUs after which features are taken."""
    heads: str
    """Name of the authors' file of heads in torchmetrics."""

    def features(self) -> nn.Sequential:
        """Return its convolutions without weights; the classifier is never allocated."""
        with torch.device("meta"):
            features = self.build().features
        assert isinstance(features, nn.Sequential)
        return features


TRUNKS = {
    "lpips_alex": Trunk(
        "AlexNet",
        models.alexnet,
        models.AlexNet_Weights.IMAGENET1K_V1,
        (1, 4, 7, 9, 11),
        "alex.pth",
    ),
    "lpips_vgg": Trunk(
        "VGG16", models.vgg16, models.VGG16_Weights.IMAGENET1K_V1, (3, 8, 15, 22, 29), "vgg.pth"
    ),
}
"""Metric -> its trunk. Papers on super-resolution report the one on AlexNet."""


def open_measures(
    names: Iterable[str], files: Sequence[Path] = (), device: str = "auto"
) -> dict[str, Measure]:
    """Return perceptual metrics of `evaluate.METRICS` by name.

    Args:
        names: any of gmsd, haarpsi, lpips_alex, lpips_vgg and dists.
        files: weights of trunks of LPIPS, in place of torchvision's downloads; the metrics that
            they serve are returned too.
        device: `auto` (CUDA where available) or a device of torch, such as `cpu` or `cuda:1`.

    Raises:
        UsageError: CUDA was requested and torch sees none, or two files are of one network.
        ModelRefused: a file holds neither an AlexNet nor a VGG16.
        ResourcesExhausted: weights could not be downloaded.
    """
    place = torch.device(resolved_device(device))
    local: dict[str, Mapping[str, Tensor]] = {}
    for file in files:
        metric, state = _read_trunk(file)
        if metric in local:
            raise UsageError(f"{file}: a second {TRUNKS[metric].name}; name one")
        local[metric] = state
    wanted = dict.fromkeys([*names, *local])
    return {name: _measure(_distance(name, local.get(name), place), place) for name in wanted}


class Lpips(nn.Module):
    """LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924, eq. 1).

    Distances between normalized features after the ReLU, weighted by channel with the authors'
    learned weights, averaged over the image and added up over five layers. The input is normalized
    as for ImageNet: the authors' `ScalingLayer` does so for values in [-1, 1].

    Published for bicubic interpolation: 0.3407 on Set5 and 0.4393 on Set14, on AlexNet.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Trunk, state: Mapping[str, Tensor]) -> None:
        """Build it from the weights of `features`, named as in torchvision."""
        super().__init__()
        self.features = trunk.features()
        self.features.load_state_dict(state, assign=True)
        self.layers, heads = trunk.layers, _heads(trunk)
        self.heads = nn.ParameterList(heads)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return [N] for two batches [N, 3, H, W] in [0, 1]; 0 for equal images."""
        layers = zip(self._compared(a), self._compared(b), self.heads, strict=True)
        return torch.stack([_weighted(x, y, head) for x, y, head in layers]).sum(0)

    def _compared(self, images: Tensor) -> list[Tensor]:
        x, found = (images - self.mean) / self.std, []
        for number, layer in enumerate(self.features[: self.layers[-1] + 1]):
            x = layer(x)
            if number in self.layers:
                found.append(x)
        return found


def _weighted(x: Tensor, y: Tensor, head: Tensor) -> Tensor:
    squares = (_unit(x) - _unit(y)) ** 2
    return (squares * head).sum(1).mean((1, 2))


def _unit(features: Tensor) -> Tensor:
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


def _heads(trunk: Trunk) -> list[Tensor]:
    """Return [1, C, 1, 1] for each of five layers from the authors' file in torchmetrics."""
    package = importlib.util.find_spec("torchmetrics")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "functional" / "image" / "lpips_models" / trunk.heads
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{layer}.model.1.weight"] for layer in range(len(trunk.layers))]


def _read_trunk(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the metric that the weights in a file serve, and those of `features` in float32."""
    state = {key.removeprefix("features."): value for key, value in read_weights(file).items()}
    for metric, trunk in TRUNKS.items():
        expected = trunk.features().state_dict()
        found = {key: value.float() for key, value in state.items() if key in expected}
        convolutions = [key for key, value in state.items() if value.ndim == 4]
        if {key: value.shape for key, value in found.items()} == {
            key: value.shape for key, value in expected.items()
        } and len(convolutions) == len(expected) // 2:
            return metric, found
    raise ModelRefused(
        f"{file}: not the features of torchvision's AlexNet or VGG16; "
        f"--feature-weights takes {' and '.join(trunk.name for trunk in TRUNKS.values())}"
    )


def _distance(name: str, local: Mapping[str, Tensor] | None, device: torch.device) -> Distance:
    match name:
        case "gmsd":
            return piq.gmsd  # Xue et al. 2014, arXiv 1308.3052
        case "haarpsi":
            return piq.haarpsi  # Reisenhofer et al. 2018, arXiv 1607.06140
        case "dists":
            network: nn.Module = _downloaded(name, _dists)
        case _:
            trunk = TRUNKS[name]
            state = local or _downloaded(name, lambda: _torchvisions(trunk))
            network = Lpips(trunk, state)
    return network.to(device)


def _downloaded(name: str, load: Callable[[], T]) -> T:
    """Return what `load` makes of weights that torchvision downloads and verifies by hash."""
    try:
        return load()
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        local = ", with --feature-weights FILE for LPIPS on local networks"
        raise ResourcesExhausted(
            f"--metrics {name} needs weights that are not in {cache} and could not be downloaded "
            f"({error}); type --metrics offline{local}"
        ) from None


def _torchvisions(trunk: Trunk) -> dict[str, Tensor]:
    state = trunk.weights.get_state_dict(progress=True, check_hash=True)
    prefix = "features."
    return {key.removeprefix(prefix): it for key, it in state.items() if key.startswith(prefix)}


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
