"""What small images have suffered on their way: blur, resizing, noise and JPEG, at random.

This is the first-order model of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3.1), in
its order, with the exact benchmark bicubic at the end. A batch is computed at once on the device of
its crops. Each crop has sizes of its own, so a resize is a pair of matrices for each, and a canvas
holds the largest result.
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
"""Of a range's ends; the others go from 0 to 255. Sizes bound the canvas, sigmas the kernel."""

_STREAM = 1
"""Keeps these draws apart from those that place the crops, whose seed and step are the same."""

_DRAWS = (
    *("blur", "sigma", "other_sigma", "anisotropic", "angle", "resize", "size", "filter"),
    *("noise", "poisson", "strength", "gray", "jpeg", "quality", "noise_seed"),
)
"""What is drawn for each crop, whether it will be used or not; in [0, 1)."""

_Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Weight by distance in input pixels, [B, new, old], and old size over new, [B, 1, 1]."""


@dataclass(frozen=True)
class RealDegradation:
    """How often each degradation happens, and the range its strength is drawn from, uniformly.

    Defaults are those of Real-ESRGAN's first stage unless said otherwise.
    """

    blur_probability: float = 0.8
    """In [0, 1], like every probability here. Chosen; Real-ESRGAN always blurs, if but a little."""
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    """Of the Gaussian, in HR pixels, 0 to 20."""
    anisotropic_probability: float = 0.4
    """Of the blurred: two sigmas, at any angle, instead of one."""
    resize_probability: float = 1.0
    """By area, bilinear or bicubic, equally likely, the latter two with their aliasing. What is not
    resized has the HR's size, and so has the canvas of the whole batch then: twice the time."""
    resize_range: tuple[float, float] = (0.6, 2.0)
    """Side of the image that gets noise and JPEG, over the LR's; 0.1 to 8, uniform in its
    logarithm. Real-ESRGAN goes on to 6, but from there the last reduction takes most of both away
    again."""
    noise_probability: float = 0.8
    """Chosen; Real-ESRGAN's noise is always there."""
    noise_sigma: tuple[float, float] = (1.0, 30.0)
    """Of Gaussian noise, in levels, 0 to 255."""
    poisson_probability: float = 0.5
    """Of the noisy: noise that grows with the square root of the level instead."""
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    """Sigma at level L is this times sqrt(L), in levels; 1 is Poisson noise of L events."""
    gray_noise_probability: float = 0.4
    """Of the noisy: the same noise in all three channels."""
    jpeg_probability: float = 0.9
    """Chosen; Real-ESRGAN always compresses."""
    jpeg_quality: tuple[float, float] = (30.0, 95.0)
    """As libjpeg counts it, 1 to 100, rounded; colors at half resolution (4:2:0)."""

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
        """Of the kernel, in HR pixels: three sigmas hold 99.7 % of a Gaussian."""
        return math.ceil(3 * self.blur_sigma[1]) if self.blur_probability else 0

    def margin_px(self, scale: int) -> int:
        """What to show `degrade` around a crop, in HR pixels, a multiple of the scale.

        The reach of the blur, and three LR pixels for each of two cubic kernels at the LR's size.
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
    """`pack.crops`, but with LR that was degraded instead of only reduced.

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
    """uint8 [B, 3, H, W] -> uint8 [B, 3, H / scale, W / scale]; H and W multiples of the scale.

    What happens to a crop is a function of (seed, step, index) alone, whatever else is in the
    batch; only the noise is another on another kind of device. Edges are replicated.
    """
    height, width = hr.shape[2:]
    assert height % scale == width % scale == 0, f"{width}x{height} is no multiple of {scale}"
    # A row does not depend on how many rows there are.
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
    # Each crop has a kernel of its own, so the batch takes the place of the channels.
    padded = F.pad(levels, (radius,) * 4, mode="replicate").transpose(0, 1)
    return F.conv2d(padded, kernel[:, None], groups=len(kernel)).transpose(0, 1)


def _resize(
    levels: Tensor, degradation: RealDegradation, drawn: dict[str, Tensor], scale: int
) -> tuple[Tensor, Tensor]:
    """The canvas, sides multiples of `MCU_PX`, and the size of each crop on it, int64 [B, 2].

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
    """Poisson noise as normal noise of its variance (Foi et al. 2008): it differs in the blacks."""
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
    """uint8 [B, 3, height, width] of each crop on the canvas, as `bicubic.resize` makes it.

    In float64 like that, because for float32 a GPU may be set to TF32 and its ten bits.
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
    """float64 [B, new_length, length]: each crop's first `size` samples to `new_size` of them.

    Samples beyond `size` must repeat its last one, and those beyond `new_size` will. `reach` is at
    least how far the kernel reads beyond the ends, which are replicated.
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
    """Each crop by its own: 0, 1 or 2, int64 [B]. As OpenCV's, so the bicubic has a = -0.75."""

    def kernel(distance: Tensor, ratio: Tensor) -> Tensor:
        half = ratio.clamp(min=1) / 2
        area = torch.minimum(distance + 0.5, half) - torch.maximum(distance - 0.5, -half)
        linear = torch.where(_each(method == 0, 3), area, 1 - distance.abs()).clamp(min=0)
        return torch.where(_each(method == 2, 3), _cubic(distance, -0.75), linear)

    return kernel


def _matlab_bicubic(distance: Tensor, ratio: Tensor) -> Tensor:
    """Widened when shrinking, as `bicubic.resize` does it."""
    return _cubic(distance / ratio.clamp(min=1), -0.5)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys 1981; zero from 2 on."""
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
