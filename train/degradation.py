"""Random degradation of training crops: blur, resizing, noise and JPEG, on their device.

This is the first-order model of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3.1), in
its order, ending with the exact bicubic interpolation of the benchmarks. A batch is computed at
once. Each crop has its own sizes, so a resize is a pair of matrices per crop, and a canvas holds
the largest result.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from srgan_edge.errors import UsageError
from srgan_edge.train.jpeg import MCU_PX, jpeg, round_up_half
from srgan_edge.train.photos import Crops, PhotoPack

_LIMITS = {"blur_sigma": (0.0, 20.0), "jpeg_quality": (1.0, 100.0), "resize_range": (0.1, 8.0)}
"""Limits on the ends of each range; ranges not listed are limited to 0..255. Sizes bound the
canvas, sigmas the kernel."""

_STREAM = 1
"""Separates these random draws from those that place the crops with the same seed and step."""

_DRAWS = (
    *("blur", "sigma", "other_sigma", "anisotropic", "angle", "resize", "size", "filter"),
    *("noise", "poisson", "strength", "gray", "jpeg", "quality", "noise_seed"),
)
"""Random numbers in [0, 1) drawn for each crop, used or not."""

_Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps the distance in input pixels, [B, new, old], and old size over new, [B, 1, 1], to a
weight."""


@dataclass(frozen=True)
class RealDegradation:
    """The probability of each degradation and the range of its strength, drawn uniformly.

    Defaults are those of Real-ESRGAN's first stage unless a field notes a choice of ours.
    """

    blur_probability: float = 0.8
    """In [0, 1], like every probability here. Our choice; Real-ESRGAN always blurs, if slightly."""
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    """Sigma of the Gaussian in HR pixels, 0 to 20."""
    anisotropic_probability: float = 0.4
    """Share of blurred crops that have two sigmas, at any angle, instead of one."""
    resize_probability: float = 1.0
    """Area, bilinear or bicubic, equally likely; the latter two alias. A crop that is not resized
    keeps the HR size, and so does the canvas of its whole batch, which takes twice the time."""
    resize_range: tuple[float, float] = (0.6, 2.0)
    """Side of the image that receives noise and JPEG, relative to the LR side; 0.1 to 8, uniform in
    its logarithm. Real-ESRGAN goes up to 6, but from such sizes the final reduction removes most
    of both."""
    noise_probability: float = 0.8
    """Our choice; Real-ESRGAN always adds noise."""
    noise_sigma: tuple[float, float] = (1.0, 30.0)
    """Sigma of Gaussian noise in levels, 0 to 255."""
    poisson_probability: float = 0.5
    """Share of noisy crops whose noise grows with the square root of the level instead."""
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    """Sigma at level L is this times sqrt(L), in levels; 1 is Poisson noise of L events."""
    gray_noise_probability: float = 0.4
    """Share of noisy crops with the same noise in all three channels."""
    jpeg_probability: float = 0.9
    """Our choice; Real-ESRGAN always compresses."""
    jpeg_quality: tuple[float, float] = (30.0, 95.0)
    """libjpeg's quality, 1 to 100, rounded; chroma has half resolution (4:2:0)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability"):
                possible, fits = "0 to 1", 0 <= value <= 1
            else:
                lowest, highest = _LIMITS.get(field.name, (0.0, 255.0))
                possible = f"two numbers, not falling, from {lowest:g} to {highest:g}"
                fits = len(value) == 2 and lowest <= value[0] <= value[1] <= highest
            if not fits:
                raise UsageError(f"degradation.{field.name} is {value}; possible: {possible}")

    @property
    def blur_radius_px(self) -> int:
        """Radius of the kernel in HR pixels: three sigmas hold 99.7 % of a Gaussian."""
        return math.ceil(3 * self.blur_sigma[1]) if self.blur_probability else 0

    def margin_px(self, scale: int) -> int:
        """Margin that `degrade` needs around a crop, in HR pixels, a multiple of the scale.

        It covers the blur, and three LR pixels for each of two cubic kernels at the LR size.
        """
        return scale * (math.ceil(self.blur_radius_px / scale) + 6)


def real_crops(
    pack: PhotoPack,
    degradation: RealDegradation,
    seed: int,
    step: int,
    indices: Sequence[int],
    *,
    candidates: int = 1,
) -> Crops:
    """Return `pack.crops` with degraded LR instead of merely reduced LR.

    HR and teacher are the same pixels as there: a teacher's SR is that of the clean LR.
    """
    margin_px = degradation.margin_px(pack.scale)
    wide = pack.crops(seed, step, indices, margin_px=margin_px, candidates=candidates)
    lr = degrade(wide.hr, degradation, pack.scale, seed, step, indices)
    teacher = None if wide.teacher is None else _without_margin(wide.teacher, margin_px)
    return Crops(
        _without_margin(lr, margin_px // pack.scale),
        _without_margin(wide.hr, margin_px),
        teacher,
    )


@torch.no_grad()
def degrade(
    hr: Tensor,
    degradation: RealDegradation,
    scale: int,
    seed: int,
    step: int,
    indices: Sequence[int],
) -> Tensor:
    """Degrade uint8 [B, 3, H, W] to uint8 [B, 3, H / scale, W / scale].

    H and W are multiples of the scale. The result for a crop depends only on (seed, step, index),
    not on the rest of the batch; only the noise differs between kinds of devices. Edges are
    replicated.
    """
    height, width = hr.shape[2:]
    assert height % scale == width % scale == 0, f"{width}x{height} is no multiple of {scale}"
    # A row does not depend on the number of rows.
    rows = np.random.default_rng((seed, step, _STREAM)).random((max(indices) + 1, len(_DRAWS)))
    rows = rows[np.asarray(indices)]
    drawn = dict(zip(_DRAWS, torch.from_numpy(rows.T.copy()).to(hr.device), strict=True))
    noise_seeds = [int(row[-1] * 2**53) for row in rows]  # all bits of a float64 in [0, 1)

    with torch.autocast(hr.device.type, enabled=False):  # bf16 cannot tell 255 levels apart
        levels = hr.float()
        sizes = torch.tensor([height, width], device=hr.device).repeat(len(hr), 1)
        if degradation.blur_probability:
            levels = _blur(levels, degradation, drawn)
        if degradation.resize_probability:
            levels, sizes = _resize(levels, degradation, drawn, scale)
        if degradation.noise_probability:
            levels = _add_noise(levels, degradation, drawn, noise_seeds)
        if degradation.jpeg_probability:
            levels = _compress(levels, degradation, drawn)
        return _reduce(levels, sizes, height // scale, width // scale)


def _blur(levels: Tensor, degradation: RealDegradation, drawn: dict[str, Tensor]) -> Tensor:
    radius, tiny = degradation.blur_radius_px, 1e-3  # a sigma that leaves the middle alone
    off = drawn["blur"] >= degradation.blur_probability
    sigma = _between(drawn["sigma"], degradation.blur_sigma)
    other_sigma = _between(drawn["other_sigma"], degradation.blur_sigma)
    other_sigma = torch.where(
        drawn["anisotropic"] < degradation.anisotropic_probability, other_sigma, sigma
    )
    angle = math.pi * drawn["angle"][:, None, None]

    offset = torch.arange(-radius, radius + 1, device=levels.device, dtype=torch.float64)
    y, x = offset[:, None], offset[None, :]
    along = (angle.cos() * x + angle.sin() * y) / _each(sigma.masked_fill(off, 0).clamp(tiny), 3)
    across = (angle.cos() * y - angle.sin() * x) / _each(
        other_sigma.masked_fill(off, 0).clamp(tiny), 3
    )
    kernel = torch.exp(-(along**2 + across**2) / 2)
    kernel = (kernel / kernel.sum((1, 2), keepdim=True)).float()
    # Each crop has its own kernel, so the batch takes the place of the channels.
    padded = F.pad(levels, (radius,) * 4, mode="replicate").transpose(0, 1)
    return F.conv2d(padded, kernel[:, None], groups=len(kernel)).transpose(0, 1)


def _resize(
    levels: Tensor, degradation: RealDegradation, drawn: dict[str, Tensor], scale: int
) -> tuple[Tensor, Tensor]:
    """Return the canvas, sides multiples of `MCU_PX`, and each crop's size on it, int64 [B, 2].

    A crop lies in the corner of the canvas, and its last row and column are repeated beyond it.
    """
    low, high = degradation.resize_range
    old = torch.tensor(levels.shape[2:], device=levels.device)
    factor = low * (high / low) ** drawn["size"] / scale
    new = round_up_half(factor[:, None] * old).long().clamp(min=1)
    new = torch.where(_each(drawn["resize"] < degradation.resize_probability, 2), new, old)
    largest = high / scale
    if degradation.resize_probability < 1:
        largest = max(largest, 1.0)
    canvas = [MCU_PX * math.ceil((largest * side + 1) / MCU_PX) for side in levels.shape[2:]]
    kernel = _area_bilinear_or_bicubic((3 * drawn["filter"]).long())
    reach = math.ceil(max(2.0, scale / low / 2)) + 1
    vertical, horizontal = (
        _resize_matrix(
            old[axis].expand(len(new)), new[:, axis], length, canvas[axis], kernel, reach
        )
        for axis, length in enumerate(levels.shape[2:])
    )
    levels = vertical.float()[:, None] @ levels @ horizontal.float()[:, None].mT
    return levels.clamp(0, 255), new


def _add_noise(
    levels: Tensor, degradation: RealDegradation, drawn: dict[str, Tensor], seeds: list[int]
) -> Tensor:
    """Add Gaussian or Poisson noise.

    Poisson noise is approximated by normal noise of its variance (Foi et al. 2008), which differs
    in the blacks.
    """
    off = drawn["noise"] >= degradation.noise_probability
    poisson = drawn["poisson"] < degradation.poisson_probability
    sigma = _between(drawn["strength"], degradation.noise_sigma).masked_fill(off | poisson, 0)
    root = _between(drawn["strength"], degradation.poisson_scale).masked_fill(off | ~poisson, 0)
    gray = _each(drawn["gray"] < degradation.gray_noise_probability, 4)

    generator = torch.Generator(levels.device)
    field = torch.empty_like(levels)
    for one, seed in zip(field, seeds, strict=True):
        one.normal_(generator=generator.manual_seed(seed))
    field = torch.where(gray, field[:, :1], field)
    luma = levels.mul(levels.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    signal = torch.where(gray, luma, levels).clamp(min=0)
    variance = _each(sigma.float(), 4) ** 2 + _each(root.float(), 4) ** 2 * signal
    return (levels + variance.sqrt() * field).clamp(0, 255)


def _compress(levels: Tensor, degradation: RealDegradation, drawn: dict[str, Tensor]) -> Tensor:
    on = drawn["jpeg"] < degradation.jpeg_probability
    quality = round_up_half(_between(drawn["quality"], degradation.jpeg_quality))
    return torch.where(_each(on, 4), jpeg(levels, quality), levels)


def _reduce(levels: Tensor, sizes: Tensor, height: int, width: int) -> Tensor:
    """Reduce each crop on the canvas to uint8 [B, 3, height, width] as `bicubic.resize` does.

    It works in float64 too, because a GPU may compute float32 in TF32, which has ten bits.
    """
    vertical, horizontal = (
        _resize_matrix(
            sizes[:, axis],
            torch.full_like(sizes[:, axis], new_length),
            length,
            new_length,
            _matlab_bicubic,
            reach=math.ceil(2 * max(1.0, length / new_length)) + 1,
        )
        for axis, (length, new_length) in enumerate(
            zip(levels.shape[2:], (height, width), strict=True)
        )
    )
    tall = round_up_half(vertical[:, None] @ levels.double()).clamp(0, 255)
    reduced = round_up_half(tall @ horizontal[:, None].mT).clamp(0, 255)
    return reduced.to(torch.uint8)


def _resize_matrix(
    size: Tensor, new_size: Tensor, length: int, new_length: int, kernel: _Kernel, reach: int
) -> Tensor:
    """Return float64 [B, new_length, length], which resizes each crop from `size` to `new_size`.

    Samples beyond `size` must repeat the last one, and so will those beyond `new_size`. The kernel
    reads at most `reach` samples beyond the ends, which are replicated.
    """
    ratio = (size / new_size.double())[:, None]
    index = torch.arange(new_length, device=size.device).minimum(new_size[:, None] - 1)
    center = (index + 0.5) * ratio - 0.5
    position = torch.arange(-reach, length + reach, device=size.device)
    weight = kernel(center[:, :, None] - position, ratio[:, :, None])
    weight = weight / weight.sum(2, keepdim=True)
    matrix = weight[:, :, reach:-reach].clone()
    matrix[:, :, 0] += weight[:, :, :reach].sum(2)
    matrix[:, :, -1] += weight[:, :, -reach:].sum(2)
    return matrix


def _area_bilinear_or_bicubic(method: Tensor) -> _Kernel:
    """Return OpenCV's kernels, with a = -0.75 for bicubic; `method`, int64 [B], is 0, 1 or 2."""

    def kernel(distance: Tensor, ratio: Tensor) -> Tensor:
        half = ratio.clamp(min=1) / 2
        area = torch.minimum(distance + 0.5, half) - torch.maximum(distance - 0.5, -half)
        linear = torch.where(_each(method == 0, 3), area, 1 - distance.abs()).clamp(min=0)
        return torch.where(_each(method == 2, 3), _cubic(distance, -0.75), linear)

    return kernel


def _matlab_bicubic(distance: Tensor, ratio: Tensor) -> Tensor:
    """The kernel of `bicubic.resize`, widened when shrinking."""
    return _cubic(distance / ratio.clamp(min=1), -0.5)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """The cubic kernel of Keys 1981, zero from 2 on."""
    x = distance.abs().clamp(max=2)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x <= 1, near, far)


def _between(drawn: Tensor, ends: tuple[float, float]) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * drawn


def _each(values: Tensor, dimensions: int) -> Tensor:
    """[B] -> [B, 1, ...]."""
    return values.view(-1, *[1] * (dimensions - 1))


def _without_margin(wide: Tensor, margin: int) -> Tensor:
    return wide[:, :, margin : wide.shape[2] - margin, margin : wide.shape[3] - margin]
