"""The discriminators, which exist during training only and are never released.

Both return logits, never probabilities: the loss uses them in FP32, where no sigmoid saturates.
"""

import math
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PaperDiscriminator(nn.Module):
    """Ledig et al. 2017 (arXiv 1609.04802, figure 4): eight convolutions, two dense layers.

    Batch normalization in all convolutions but the first, LeakyReLU 0.2, no pooling. The paper's
    dense layer of 1024 reads the 6x6 features of a 96 px crop; here, those of any crop.
    """

    def __init__(self, crop_px: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for factor, stride in [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)]:
            layers += [
                nn.Conv2d(width, factor * channels, 3, stride, padding=1),
                nn.BatchNorm2d(factor * channels),
                nn.LeakyReLU(0.2),
            ]
            width = factor * channels
        self.features = nn.Sequential(*layers)
        side = math.ceil(crop_px / 16)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(width * side**2, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 1), whether each crop (N, 3, crop_px, crop_px) in [0, 1] is real."""
        return self.head(self.features(images))


class UNetDiscriminator(nn.Module):
    """A U-Net with spectral normalization: one logit per pixel (Real-ESRGAN, arXiv 2107.10833).

    Three halvings, three bilinear doublings with skips, at any size. It judges detail locally, so
    the generator learns what is wrong and where.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels, 8 * channels]
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(wide, wider, 4, 2, padding=1, bias=False))
            for wide, wider in pairwise(widths)
        )
        self.up = nn.ModuleList(
            spectral_norm(nn.Conv2d(wider, wide, 3, padding=1, bias=False))
            for wider, wide in pairwise(reversed(widths))
        )
        self.last = nn.Sequential(
            spectral_norm(nn.Conv2d(channels, channels, 3, padding=1, bias=False)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels, channels, 3, padding=1, bias=False)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 1, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 1, H, W), whether each pixel of (N, 3, H, W) in [0, 1] is real."""
        x = F.leaky_relu(self.first(images), 0.2)
        skips = []
        for convolution in self.down:
            skips.append(x)
            x = F.leaky_relu(convolution(x), 0.2)
        for convolution in self.up:
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = F.leaky_relu(convolution(x), 0.2) + skip
        return self.last(x)


def build_discriminator(
    kind: Literal["paper", "unet"], crop_px: int, channels: int
) -> PaperDiscriminator | UNetDiscriminator:
    return PaperDiscriminator(crop_px, channels) if kind == "paper" else UNetDiscriminator(channels)
