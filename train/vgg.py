"""VGG features: torchvision's VGG19, or the convolutions of any VGG in a local file.

Inputs are RGB in [0, 1]; this module applies the ImageNet normalization.

Note: the features of different VGGs, and of different layers, differ by orders of magnitude. The
paper divides its own by 12.75, to bring the loss to the scale of a pixel loss (section 3.2). Here
each layer is divided by its standard deviation over a photograph, so that a recipe's weights mean
the same for every VGG: a distance of 1 is one standard deviation of the features.
"""

import difflib
import re
from pathlib import Path

import torch
from torch import Tensor, nn

import srgan_edge
from srgan_edge.errors import ModelRefused, ResourcesExhausted, UsageError
from srgan_edge.files import open_model
from srgan_edge.image.reader import read_pixels

REFERENCE_PHOTO = Path(srgan_edge.__file__).parent / "demo" / "photo.png"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NETWORKS = {8: (1, 1, 2, 2, 2), 10: (2, 2, 2, 2, 2), 13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}
"""Convolutions before each pooling, by how many there are: VGG11, 13, 16 and 19 (Simonyan and
Zisserman 2015, arXiv 1409.1556, table 1)."""


class VggFeatures(nn.Module):
    """A frozen VGG that computes features phi(i, j) of images (N, 3, H, W), RGB in [0, 1]."""

    mean: Tensor
    std: Tensor
    deviations: Tensor
    """Standard deviation of each of `layers` over `REFERENCE_PHOTO`, all channels together."""

    def __init__(
        self, convolutions: list[tuple[Tensor, Tensor]], layers: tuple[str, ...], before_relu: bool
    ) -> None:
        """Build the network up to the last of `layers`.

        Args:
            convolutions: weight and bias of each 3x3 convolution, in order.
            layers: `conv{i}_{j}`, the j-th convolution before the i-th pooling.
            before_relu: take features before the activation, else after it.

        Raises:
            UsageError: the network has no such layer.
        """
        super().__init__()
        names = _layer_names(convolutions)
        for layer in layers:
            if layer not in names:
                near = difflib.get_close_matches(layer, names, n=1)[0]
                raise UsageError(
                    f"perceptual.layers names {layer}, but this VGG{len(names) + 3} has no such "
                    f"layer; type for example --set 'perceptual.layers=[\"{near}\"]'"
                )
        self.layers, self.before_relu = layers, before_relu
        last = max(names.index(layer) for layer in layers)
        self.names = names[: last + 1]
        self.convolutions = nn.ModuleList(_convolution(*pair) for pair in convolutions[: last + 1])
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.register_buffer("deviations", torch.ones(len(layers)))
        self.requires_grad_(False).eval()
        photo = torch.from_numpy(read_pixels(REFERENCE_PHOTO)).permute(2, 0, 1)[None] / 255
        self.deviations = torch.stack([f.var((0, 2, 3)).mean().sqrt() for f in self(photo)])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return (N, C, H / 2^(i-1), W / 2^(i-1)) for each of `layers`, in their order."""
        with torch.autocast(images.device.type, enabled=False):
            x = (images - self.mean) / self.std
        features: dict[str, Tensor] = {}
        stage = 1
        for name, convolution in zip(self.names, self.convolutions, strict=True):
            if (now := int(name[4])) != stage:
                x, stage = nn.functional.max_pool2d(x, 2), now
            before = convolution(x)
            x = torch.relu(before)
            features[name] = before if self.before_relu else x
        layers = zip(self.layers, self.deviations, strict=True)
        return [features[layer].float() / deviation for layer, deviation in layers]


def vgg_convolutions(weights: Path | None) -> list[tuple[Tensor, Tensor]]:
    """Return the convolutions of a local VGG, or of torchvision's VGG19, downloaded once.

    Args:
        weights: `.safetensors` or `.pth` with the keys of `torchvision.models.vgg*().features`,
            with or without the prefix `features.`; fully connected layers are ignored.

    Raises:
        ModelRefused: the file is missing, damaged, or holds no VGG.
        ResourcesExhausted: torchvision could not download its weights.
    """
    state = _torchvision_vgg19() if weights is None else read_weights(weights)
    source = "torchvision's VGG19" if weights is None else str(weights)
    pattern = re.compile(r"(?:features\.)?(\d+)\.weight")
    numbers = sorted(
        (int(match[1]), key)
        for key, tensor in state.items()
        if (match := pattern.fullmatch(key)) and tensor.ndim == 4
    )
    found = [
        (state[key].float(), state[key.removesuffix("weight") + "bias"].float())
        for _, key in numbers
        if key.removesuffix("weight") + "bias" in state
    ]
    if len(found) not in NETWORKS or any(weight.shape[2:] != (3, 3) for weight, _ in found):
        raise ModelRefused(
            f"{source}: found {len(found)} 3x3 convolutions named as in VGG's `features`; "
            f"a VGG has {', '.join(map(str, NETWORKS))}"
        )
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` or `.pth` file by their names.

    Raises:
        ModelRefused: the file is missing or is no such file.
    """
    open_model(path).close()  # refuse now what is no file
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # each reader raises its own exceptions
        why = type(error).__name__  # torch's own text advises to run the code in the file
        raise ModelRefused(
            f"{path}: not a file of weights ({why}); possible: a .safetensors, or a .pth of tensors"
        ) from None


def _layer_names(convolutions: list[tuple[Tensor, Tensor]]) -> list[str]:
    stages = enumerate(NETWORKS[len(convolutions)], start=1)
    return [f"conv{i}_{j}" for i, count in stages for j in range(1, count + 1)]


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
    convolution.weight.data, convolution.bias.data = weight, bias  # type: ignore[union-attr]
    return convolution


def _torchvision_vgg19() -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights

    try:
        return dict(VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
    except OSError as error:
        raise ResourcesExhausted(
            f"torchvision's VGG19 weights could not be downloaded ({error}); "
            "name a local VGG with --vgg-weights FILE"
        ) from None
