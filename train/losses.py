"""The losses, each a mean in FP32, for images RGB in [0, 1].

`perceptual` compares features that `vgg.py` extracted; the weights of the sum are the recipe's.
Each of them alone reaches the generator, as `tests/train/test_losses.py` proves: reference
implementations exist whose perceptual or adversarial term has no gradient at all.
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


def perceptual(
    sr: list[Tensor], hr: list[Tensor], weights: tuple[float, ...], distance: Distance
) -> Tensor:
    """Weighted distance of VGG features, a list of (N, C, H, W) each.

    mse: the paper's equation 5. cosine: one minus the cosine of the channels at each place, half of
    what LPIPS sums before its learned weights (Zhang et al. 2018, arXiv 1801.03924): it compares
    which features there are, not how strong they are, so that contrast cannot drown texture.
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


VGG_STRIDE_PX = 16
"""Of the features before the last pooling."""


def shifted_window(images: Tensor, step: int) -> Tensor:
    """A window of `images` whose place differs at each of 256 steps.

    (N, C, H, W) -> (N, C, H - 16, W - 16), or less taken off where less than 16 px would be left.

    Note: a VGG pools, and a generator enlarges, on a grid. Where the two always meet in the same
    way, the loss likes some columns better than their neighbors, and the generator paints the
    grid: after 1,000 steps it lay over every lawn. Shifts of both images, as in E-LPIPS (Kettunen
    et al. 2019, arXiv 1906.03973), average that out; the habit itself is for `grid`.
    """
    whole = images.shape[2:]
    height, width = (max(side - VGG_STRIDE_PX, min(side, VGG_STRIDE_PX)) for side in whole)
    down, right = divmod(step % VGG_STRIDE_PX**2, VGG_STRIDE_PX)
    top, left = min(down, whole[0] - height), min(right, whole[1] - width)
    return images[..., top : top + height, left : left + width]


def total_variation(sr: Tensor) -> Tensor:
    """Mean absolute difference of neighbors (Aly and Dubois 2005), (N, 3, H, W) -> ()."""
    horizontal = (sr[..., 1:] - sr[..., :-1]).abs().mean()
    return horizontal + (sr[..., 1:, :] - sr[..., :-1, :]).abs().mean()


def consistency(sr: Tensor, lr: Tensor) -> Tensor:
    """L1 between `sr`, reduced again, and the `lr` it came from: what keeps colors where they are.

    (N, 3, sH, sW) and (N, 3, H, W) -> (). A generator may invent what the bicubic removed, but
    nothing else: LR-PSNR of GANs is some 40 dB, of the better ones 50 dB (SROOE, CVPR 2023).
    """
    return F.l1_loss(bicubic_reduced(sr, sr.shape[-1] // lr.shape[-1]), lr)


GRID_WINDOW = 8
"""Side of the windows in which a pattern has to persist, in repetitions."""


def grid(sr: Tensor, hr: Tensor, scale: int) -> Tensor:
    """Mean amplitude of what repeats every `scale` px in the error: checkerboards, dots, meshes.

    (N, 3, sH, sW) twice -> (). Each of the scale² sub-pixels has its own weights in a PixelShuffle,
    which a perceptual loss lets drift apart. The error is averaged over windows, for each sub-pixel
    by itself: texture averages out, and what differs between the sub-pixels' means is a grid.
    """
    error = F.pixel_unshuffle(sr - hr, scale)
    side = min(GRID_WINDOW, *error.shape[2:])
    means = F.avg_pool2d(error, side, stride=max(1, side // 2)).unflatten(1, (3, scale**2))
    return (means - means.mean(2, keepdim=True)).abs().mean()


SPECTRUM_BINS = 16
"""From no to half a cycle a pixel."""


def spectrum(sr: Tensor, hr: Tensor) -> Tensor:
    """By how much the strength of detail of each size differs, in powers of e.

    (N, 3, H, W) twice -> (). The radially averaged power spectra of both brightnesses, crop by
    crop, as logarithms: it sees neither where texture lies nor which way it runs, so that a
    generator is free to invent, but a mesh, whatever its period, is a peak that no photograph has.
    """
    with torch.autocast(sr.device.type, enabled=False):
        ours, real = (_radial_spectrum(pictures.float().mean(1)) for pictures in (sr, hr))
        return (ours - real)[:, 1:].abs().mean()  # without the mean and the slowest changes


def _radial_spectrum(planes: Tensor) -> Tensor:
    """(N, H, W) -> (N, SPECTRUM_BINS): logarithms of mean power, a level's noise in 255 added."""
    height, width = planes.shape[1:]
    windows = [torch.hann_window(side, device=planes.device) for side in (height, width)]
    window = windows[0][:, None] * windows[1]
    centred = (planes - planes.mean((1, 2), keepdim=True)) * window
    power = torch.fft.rfft2(centred).abs().square() / window.square().sum()
    down = torch.fft.fftfreq(height, device=planes.device)
    across = torch.fft.rfftfreq(width, device=planes.device)
    radius = torch.hypot(down[:, None], across)
    number = (2 * SPECTRUM_BINS * radius).long().flatten()
    inside = number < SPECTRUM_BINS
    which = F.one_hot(number[inside], SPECTRUM_BINS).to(power)
    means = power.flatten(1)[:, inside] @ which / which.sum(0)
    return torch.log(means + 1 / 255**2)


def bicubic_reduced(images: Tensor, scale: int) -> Tensor:
    """`srgan_edge.bicubic.resize` by 1 / `scale`, differentiable and without rounding.

    (N, 3, H, W) -> (N, 3, H / scale, W / scale) in FP32. Every output sample has the same taps, so
    that it is one strided convolution along each side; `scale` is even.
    """
    reach = 2 * scale
    taps = bicubic.keys_cubic((np.arange(-reach, reach) + 0.5) / scale)
    kernel = torch.from_numpy(taps / taps.sum()).to(images.device, torch.float32)
    channels = images.shape[1]
    down = kernel.view(1, -1, 1).expand(channels, 1, -1, 1)
    across = kernel.view(1, 1, -1).expand(channels, 1, 1, -1)
    with torch.autocast(images.device.type, enabled=False):
        x = F.pad(images.float(), [reach - scale // 2] * 4, mode="replicate")
        x = F.conv2d(x, down, stride=(scale, 1), groups=channels)
        return F.conv2d(x, across, stride=(1, scale), groups=channels)


def generator_adversarial(real: Tensor, fake: Tensor, kind: AdversarialLoss) -> Tensor:
    """What the generator pays while its images are not taken for real.

    vanilla: -log D(G(x)) (paper, equation 6). relativistic: the average form of Jolicoeur-Martineau
    2018 (arXiv 1807.00734), in which the real ones shall also look less real than the fakes.

    Args:
        real, fake: logits of any one shape; only relativistic reads `real`.
    """
    if kind == "vanilla":
        return F.softplus(-fake.float()).mean()
    real, fake = _relative(real, fake)
    return (F.softplus(real).mean() + F.softplus(-fake).mean()) / 2


def discriminator_adversarial(real: Tensor, fake: Tensor, kind: AdversarialLoss) -> Tensor:
    """Binary cross-entropy of the discriminator, half for the real crops and half for the fakes.

    softplus(-x) is the cross-entropy of logit x for `real`, softplus(x) that for `fake`.
    """
    if kind == "relativistic":
        real, fake = _relative(real, fake)
    return (F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()) / 2


def _relative(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    real, fake = real.float(), fake.float()
    return real - fake.mean(), fake - real.mean()
