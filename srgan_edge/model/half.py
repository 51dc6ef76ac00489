"""The generators in FP16, rewritten for PyTorch on a GPU; every rewrite is exact.

`srgan_edge.export` rewrites the graphs of other runtimes in the same way, and its `rewrites.py` and
`precision.py` have the reasons: batch norms and the last PixelShuffle are folded into convolutions,
bytes enter as multiples of 1/256, and the part that carries the image itself (one half, or the
nearest upscale) stays in FP32.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from srgan_edge.errors import ModelRefused
from srgan_edge.model.network import (
    EdgeNet,
    ResidualBlock,
    SRResNet,
    TanhHead,
    kernel_before_shuffle,
)


class HalfDeployment(nn.Module):
    """`Deployment` with its convolutions in FP16, channels last."""

    network: nn.Sequential

    def __init__(self, generator: nn.Module) -> None:
        """Copy a generator, in FP32 and evaluation mode and not quantized, and convert the copy.

        Raises:
            ModelRefused: a weight is too large for FP16.
        """
        super().__init__()
        generator = copy.deepcopy(generator)
        self.has_tanh = isinstance(generator, TanhHead)
        if isinstance(generator, TanhHead):
            generator = generator.generator
        self.adds_nearest = isinstance(generator, EdgeNet)
        if isinstance(generator, EdgeNet):
            self.network = nn.Sequential(*generator.body, generator.tail)
            self.factor = generator.scale
        else:
            assert isinstance(generator, SRResNet), f"{type(generator).__name__} is no generator"
            self.network, self.factor = _before_last_shuffle(generator)
        self.scale = self.factor
        for part in self.network:
            if isinstance(part, nn.PixelShuffle):
                self.scale *= part.upscale_factor
        self._carry_the_image_exactly()
        self.network.half().to(memory_format=torch.channels_last)
        for name, weight in self.network.named_parameters():
            if not torch.isfinite(weight).all():
                raise ModelRefused(f"{name} holds values too large for fp16; type --fp32")

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Upscale uint8 (N, H, W, 3); return uint8 (N, sH, sW, 3) and image sums, float32 (N).

        A sum is finite if and only if no value of the image is NaN or infinite, which the bytes
        cannot show.
        """
        lr = pixels.permute(0, 3, 1, 2)  # the memory layout is channels last
        detail = self.network(lr.half() / 256)
        n, _, h, w = detail.shape
        r = self.factor
        phases = detail.view(n, 3, r * r, h, w)
        image = torch.add(self._base_levels(lr), phases, alpha=255)  # one kernel, in FP32
        if self.has_tanh:
            image = torch.tanh((image - 0.5) / 255) * 127.5 + 128
        totals = image.sum((1, 2, 3, 4))
        sr = torch.empty(n, h, r, w, r, 3, dtype=torch.uint8, device=pixels.device)
        levels = image.clamp_(0, 255.75).view(n, 3, r, r, h, w)
        sr.copy_(levels.permute(0, 4, 2, 5, 3, 1))
        return sr.view(n, h * r, w * r, 3), totals

    def _carry_the_image_exactly(self) -> None:
        """Let the network read multiples of 1/256 and return the detail without `_base_levels`.

        FP16 represents both more finely than an image in [0, 1].
        """
        first, *_, last = (part for part in self.network.modules() if isinstance(part, nn.Conv2d))
        assert last.bias is not None
        with torch.no_grad():
            first.weight.mul_(256 / 255)
            if not self.adds_nearest:
                last.bias.sub_(0.5)

    def _base_levels(self, lr: Tensor) -> Tensor:
        """Return the base that the detail is added to, in levels of 255, plus 0.5 for rounding."""
        if self.adds_nearest:
            return lr.float().unsqueeze(2) + 0.5
        return torch.full((1, 1, 1, 1, 1), 0.5 * 255 + 0.5, device=lr.device)


class LongSkip(nn.Module):
    """A trunk whose input is added to its output."""

    def __init__(self, trunk: nn.Sequential) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, features: Tensor) -> Tensor:
        return features + self.trunk(features)


def _before_last_shuffle(generator: SRResNet) -> tuple[nn.Sequential, int]:
    """Return the paper's generator rewritten so that its last PixelShuffle is the last step, which
    is left out, and the factor of that; 1 if there is none."""
    for part in generator.trunk:
        if isinstance(part, ResidualBlock):
            part.block = _without_norms(part.block)
    trunk, tail = LongSkip(_without_norms(generator.trunk)), generator.tail
    if not generator.upsample:
        return nn.Sequential(*generator.head, trunk, tail), 1
    *first_stages, deep, shuffle, prelu = generator.upsample
    assert isinstance(deep, nn.Conv2d) and isinstance(prelu, nn.PReLU) and tail.bias is not None
    assert isinstance(shuffle, nn.PixelShuffle)
    factor = shuffle.upscale_factor
    kernel = torch.from_numpy(kernel_before_shuffle(tail.weight.detach().numpy(), factor))
    outputs, inputs, side, _ = kernel.shape
    folded = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    folded.weight = nn.Parameter(kernel)
    folded.bias = nn.Parameter(tail.bias.detach().repeat_interleave(factor**2))
    prelu.weight = nn.Parameter(prelu.weight.detach().repeat_interleave(factor**2))
    return nn.Sequential(*generator.head, trunk, *first_stages, deep, prelu, folded), factor


def _without_norms(layers: nn.Sequential) -> nn.Sequential:
    """Fold each batch norm into the convolution before it."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = kept.pop()
            assert isinstance(convolution, nn.Conv2d)
            kept.append(fuse_conv_bn_eval(convolution, layer))
        else:
            kept.append(layer)
    return nn.Sequential(*kept)
