"""The losses, each a mean in FP32, for RGB images in [0, 1].

`perceptual` compares features that `vgg.py` extracts; the recipe sets the weights of the sum.
`tests/train/test_losses.py` proves that each loss reaches the generator: there are reference
implementations whose perceptual or adversarial term has no gradient at all.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from srgan_edge import bicubic

Distance = Literal["mse", "l1", "cosine"]
AdversarialLoss = Literal["vanilla", "relativistic"]

VGG_STRIDE_PX = 16
"""Stride of the features before the last pooling."""
GRID_WINDOW = 8
"""Side of the windows in which a pattern has to persist, in repetitions."""


def perceptual(
    sr: list[Tensor], hr: list[Tensor], weights: tuple[float, ...], distance: Distance
) -> Tensor:
    """Return the weighted distance of VGG features, a list of (N, C, H, W) each.

    mse: the paper's equation 5. cosine: one minus the cosine of the channels at each place, half of
    what LPIPS sums before its learned weights (Zhang et al. 2018, arXiv 1801.03924): it compares
    which features are present, not how strong they are, so contrast cannot drown texture.
    """
    measure = _DISTANCES[distance]
    layers = zip(weights, sr, hr, strict=True)
    return sum((w * measure(a.float(), b.float()) for w, a, b in layers), start=sr[0].new_zeros(()))


def _cosine_distance(sr: Tensor, hr: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(sr, hr, dim=1).mean()


_DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "cosine": _cosine_distance,
}


def shifted_window(images: Tensor, step: int) -> Tensor:
    """Return a window of `images` whose position differs at each of 256 steps.

    (N, C, H, W) -> (N, C, H - 16, W - 16), or a larger window where less than 16 px would be left.

    Note: a VGG pools, and a generator enlarges, on a grid. If the two grids are always aligned in
    the same way, the loss prefers some columns to their neighbors, and the generator paints the
    grid: after 1,000 steps it covered every lawn. Shifting both images, as in E-LPIPS (Kettunen
    et al. 2019, arXiv 1906.03973), averages that out; `grid` penalizes the pattern itself.
    """
    whole = images.shape[2:]
    height, width = (max(side - VGG_STRIDE_PX, min(side, VGG_STRIDE_PX)) for side in whole)
    down, right = divmod(step % VGG_STRIDE_PX**2, VGG_STRIDE_PX)
    top, left = min(down, whole[0] - height), min(right, whole[1] - width)
    return images[..., top : top + height, left : left + width]


def total_variation(sr: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbors (Aly and Dubois 2005) of (N, 3, H, W)."""
    horizontal = (sr[..., 1:] - sr[..., :-1]).abs().mean()
    return horizontal + (sr[..., 1:, :] - sr[..., :-1, :]).abs().mean()


def consistency(sr: Tensor, lr: Tensor) -> Tensor:
    """Return the L1 distance between `sr`, reduced again, and its `lr`, which preserves colors.

    (N, 3, sH, sW) and (N, 3, H, W) -> (). `lr` has to be undamaged: where the generator sees a
    damaged one, the photograph reduced. A generator may invent what bicubic interpolation
    removed, but nothing else: the LR-PSNR of GANs is about 40 dB, of the better ones 50 dB (SROOE,
    CVPR 2023).
    """
    return F.l1_loss(bicubic_reduced(sr, sr.shape[-1] // lr.shape[-1]), lr)


def grid(sr: Tensor, hr: Tensor, scale: int) -> Tensor:
    """Return the mean amplitude of errors that repeat every `scale` px, such as checkerboards.

    (N, 3, sH, sW) twice -> (). Each of the scale² sub-pixels has its own weights in a PixelShuffle,
    and a perceptual loss lets them drift apart. The error is averaged over windows, separately for
    each sub-pixel: texture averages out, and differences between the sub-pixels' means are a grid.
    """
    error = F.pixel_unshuffle(sr - hr, scale)
    side = min(GRID_WINDOW, *error.shape[2:])
    means = F.avg_pool2d(error, side, stride=max(1, side // 2)).unflatten(1, (3, scale**2))
    return (means - means.mean(2, keepdim=True)).abs().mean()


SPECTRUM_BINS = 16
"""Rings between 0 and 0.5 cycles per pixel."""


def spectrum(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean difference of two log power spectra, in nepers.

    (N, 3, H, W) twice -> (). The spectra of brightness and of both differences of colors are
    averaged over rings, crop by crop. They show neither where texture lies nor its direction, so
    the generator is free to invent; but a mesh of any period is a peak that no photograph has.
    Without the differences, noise in colors takes its place.
    """
    with torch.autocast(sr.device.type, enabled=False):
        ours, real = (_radial_spectrum(_planes(images.float())) for images in (sr, hr))
        return (ours - real)[:, 1:].abs().mean()  # without the mean and the slowest changes


def _planes(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (3N, H, W): brightness, R - G and B - G."""
    red, green, blue = images.unbind(1)
    return torch.cat([images.mean(1), red - green, blue - green])


def _radial_spectrum(planes: Tensor) -> Tensor:
    """(N, H, W) -> (N, SPECTRUM_BINS): log of the mean power plus that of one level of noise."""
    height, width = planes.shape[1:]
    windows = [torch.hann_window(side, device=planes.device) for side in (height, width)]
    window = windows[0][:, None] * windows[1]
    centered = (planes - planes.mean((1, 2), keepdim=True)) * window
    power = torch.fft.rfft2(centered).abs().square() / window.square().sum()
    down = torch.fft.fftfreq(height, device=planes.device)
    across = torch.fft.rfftfreq(width, device=planes.device)
    radius = torch.hypot(down[:, None], across)
    number = (2 * SPECTRUM_BINS * radius).long().flatten()
    inside = number < SPECTRUM_BINS
    which = F.one_hot(number[inside], SPECTRUM_BINS).to(power)
    means = power.flatten(1)[:, inside] @ which / which.sum(0)
    return torch.log(means + 1 / 255**2)


def bicubic_reduced(images: Tensor, scale: int) -> Tensor:
    """Resize like `srgan_edge.bicubic.resize` by 1 / `scale`, differentiably and without rounding.

    (N, 3, H, W) -> (N, 3, H / scale, W / scale) in FP32. Every output sample has the same taps, so
    one strided convolution along each side suffices. The middle of a sample lies on a pixel if
    `scale` is odd, and between two if it is even.
    """
    first = -2 * scale + (1 if scale % 2 else 0.5)
    taps = bicubic.keys_cubic(np.arange(first, 2 * scale) / scale)
    kernel = torch.from_numpy(taps / taps.sum()).to(images.device, torch.float32)
    channels = images.shape[1]
    down = kernel.view(1, -1, 1).expand(channels, 1, -1, 1)
    across = kernel.view(1, 1, -1).expand(channels, 1, 1, -1)
    with torch.autocast(images.device.type, enabled=False):
        x = F.pad(images.float(), [(len(taps) - scale) // 2] * 4, mode="replicate")
        x = F.conv2d(x, down, stride=(scale, 1), groups=channels)
        return F.conv2d(x, across, stride=(1, scale), groups=channels)


def generator_adversarial(real: Tensor, fake: Tensor, kind: AdversarialLoss) -> Tensor:
    """Return the generator's adversarial loss.

    vanilla: -log D(G(x)) (paper, equation 6). relativistic: the average form of Jolicoeur-Martineau
    2018 (arXiv 1807.00734), in which real crops should also look less real than the fakes.

    Args:
        real, fake: logits of any one shape; only relativistic reads `real`.
    """
    if kind == "vanilla":
        return F.softplus(-fake.float()).mean()
    real, fake = _relative(real, fake)
    return (F.softplus(real).mean() + F.softplus(-fake).mean()) / 2


def discriminator_adversarial(real: Tensor, fake: Tensor, kind: AdversarialLoss) -> Tensor:
    """Return the discriminator's binary cross-entropy, half for real crops and half for fakes.

    softplus(-x) is the cross-entropy of logit x for `real`, softplus(x) that for `fake`.
    """
    if kind == "relativistic":
        real, fake = _relative(real, fake)
    return (F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()) / 2


def _relative(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    real, fake = real.float(), fake.float()
    return real - fake.mean(), fake - real.mean()
