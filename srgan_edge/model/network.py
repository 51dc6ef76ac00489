"""The generators in PyTorch: the paper's, and a small one for the CPU of an edge device.

Both map RGB (N, 3, H, W), float in [0, 1], to RGB (N, 3, sH, sW). The output is not clamped: a
clamp has no gradient where it acts, so it belongs to deployment (`Deployment`), not to training.
`checkpoint.py` reads and writes weight files.
"""

from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from srgan_edge.model.quantization import Int8Conv2d, inner_convolutions
from srgan_edge.model.spec import Activation, ModelSpec, Norm

Number = TypeVar("Number", bound=np.generic)


class ResidualBlock(nn.Module):
    """conv - (BN) - PReLU - conv - (BN), plus the input (Ledig et al. 2017, figure 4)."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *_conv3x3(channels, norm), nn.PReLU(channels), *_conv3x3(channels, norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class SRResNet(nn.Module):
    """The SRGAN generator of Ledig et al. 2017 (arXiv 1609.04802, figure 4).

    9x9 head, residual blocks, a 3x3 convolution and a long skip, sub-pixel stages, 9x9 tail. The
    paper's x4 has two stages of factor 2; x3 has one of factor 3, and x1 none. `norm="batch"` is
    the paper's; without it nothing depends on running statistics.

    Note: no path of the paper's graph carries the image past the network, so with random initial
    weights the first thousands of steps only learn to copy. Our initial weights upscale bilinearly,
    with small residual branches: 300 steps of 8 crops reached 29.06 dB on Set5; PyTorch's default
    initialization reached 26.37 dB.
    """

    def __init__(
        self, channels: int, blocks: int, norm: Norm, stages: tuple[int, ...] = (2, 2)
    ) -> None:
        """
        Args:
            stages: factors of the sub-pixel stages, whose product is the scale.
        """
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU(channels))
        self.trunk = nn.Sequential(
            *(ResidualBlock(channels, norm) for _ in range(blocks)), *_conv3x3(channels, norm)
        )
        self.upsample = nn.Sequential(
            *(part for factor in stages for part in _subpixel_stage(channels, factor))
        )
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)
        self._start_as_bilinear()

    @torch.no_grad()
    def _start_as_bilinear(self) -> None:
        """Let the first feature maps carry R, G and B; all others contribute little at first."""
        stages = [
            (convolution, shuffle.upscale_factor)
            for convolution, shuffle in pairwise(self.upsample)
            if isinstance(shuffle, nn.PixelShuffle)
        ]
        for stage, factor in stages:
            _start_as_nearest(stage, factor)
        blocks = [part.block for part in self.trunk if isinstance(part, ResidualBlock)]
        for quiet in (*(block[-1] for block in blocks), self.trunk[-1], self.tail):
            for parameter in quiet.parameters():
                parameter.mul_(0.1)
        for color in range(min(3, self.tail.in_channels)):
            for convolution in (self.head[0], self.tail):
                _carry(convolution, color, color, F.pad(torch.ones(1, 1), (4, 4, 4, 4)))
            for stage, factor in stages:
                neighbors = _bilinear_taps(factor)
                for phase in range(factor**2):  # PixelShuffle: row by row
                    taps = torch.outer(neighbors[phase // factor], neighbors[phase % factor])
                    _carry(stage, color, factor**2 * color + phase, taps)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale (N, 3, H, W) in [0, 1] to (N, 3, sH, sW), not clamped.

        Under autocast, head and tail stay in FP32: they carry the image itself, which BF16 only
        resolves to one level of 255. A generator trained that way has a color cast in FP32
        (measured: one level too dark).
        """
        with torch.autocast(lr.device.type, enabled=False):
            features = self.head(lr)
        detail = self.upsample(features + self.trunk(features))
        with torch.autocast(lr.device.type, enabled=False):
            return self.tail(detail.to(lr.dtype))


class TrainableReLU(nn.ReLU):
    """ReLU that may leak below zero while it is trained, and never in evaluation.

    A feature that no input passes has no gradient, and is lost. In `edge-l-x4` as it was first
    released, 100 of 416 were.
    """

    slope: Tensor | None = None
    """Slope below zero in training, a scalar; None: 0."""

    def forward(self, x: Tensor) -> Tensor:
        if self.slope is None or not self.training:
            return super().forward(x)
        if x.is_cuda or torch.compiler.is_compiling():  # a number would be read once, for ever
            return torch.lerp(super().forward(x), x, self.slope.to(x.dtype))
        return F.leaky_relu(x, self.slope.item())  # in a third of the time


class EdgeNet(nn.Module):
    """A plain stack of 3x3 convolutions in LR space, one PixelShuffle, plus the nearest upscale.

    The inference form of the compact networks that win on phones (ABPN, arXiv 2105.09750; ETDS,
    CVPR 2023): the runtime only sees Conv, PReLU or ReLU, Add and DepthToSpace. The network only
    has to learn the difference from nearest-neighbor upscaling, which is also most robust in low
    precision.
    """

    def __init__(
        self, channels: int, blocks: int, activation: Activation = "prelu", scale: int = 4
    ) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = []
        width = 3
        for _ in range(blocks + 1):
            bend = TrainableReLU() if activation == "relu" else nn.PReLU(channels, init=0.1)
            layers += [nn.Conv2d(width, channels, 3, padding=1), bend]
            width = channels
        self.body = nn.Sequential(*layers)
        self.tail = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        for layer in [*self.body, self.tail]:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.tail.weight.mul_(0.1)  # begin close to the nearest upscale
            if activation == "relu":
                self._start_as_identity()
                self.tail.weight.mul_(0.5)

    def _start_as_identity(self) -> None:
        """Each convolution inside hands on what it is given, and adds little to it.

        Note: with ReLU and a random start, features die: after 4,000 steps of Muon, 31 of 32 in
        each of the first layers were zero everywhere. From here 250 steps reached 29.76 dB on Set5
        where the random start reached 29.27 dB.
        """
        for layer in self.body:
            if isinstance(layer, nn.Conv2d) and layer.in_channels == layer.out_channels:
                layer.weight.mul_(0.3)
                layer.weight[:, :, 1, 1] += torch.eye(layer.out_channels)

    @torch.no_grad()
    def take_over(self, shallower: "EdgeNet") -> None:
        """Become the function of one that has fewer blocks: those between hand on what they get.

        What follows an activation is not negative where it is ReLU, so that ReLU leaves it as it
        is, and so does PReLU whose slopes are 1 (Net2DeeperNet, arXiv 1511.05641).
        """
        given, mine = list(shallower.body), list(self.body)
        last, deepest = len(given) // 2 - 1, len(mine) // 2 - 1
        place_of = {round(index * deepest / last): index for index in range(last + 1)}
        for place, (convolution, bend) in enumerate(zip(mine[::2], mine[1::2], strict=True)):
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            if (index := place_of.get(place)) is not None:
                convolution.load_state_dict(given[2 * index].state_dict())
                bend.load_state_dict(given[2 * index + 1].state_dict())
                continue
            nn.init.dirac_(convolution.weight)
            nn.init.zeros_(convolution.bias)
            if isinstance(bend, nn.PReLU):
                nn.init.ones_(bend.weight)
        self.tail.load_state_dict(shallower.tail.state_dict())

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale (N, 3, H, W) in [0, 1] to (N, 3, sH, sW), not clamped."""
        detail = self.tail(self.body(lr))
        if self.scale == 1:
            return detail + lr
        nearest = F.interpolate(lr, scale_factor=float(self.scale), mode="nearest")
        return F.pixel_shuffle(detail, self.scale) + nearest


class TanhHead(nn.Module):
    """Map the output to (tanh(x) + 1) / 2, the convention of some foreign SRGANs."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, lr: Tensor) -> Tensor:
        return (torch.tanh(self.generator(lr)) + 1) / 2


class Deployment(nn.Module):
    """The computation of every engine, and the specification of the exported ONNX graph.

    uint8 (N, H, W, 3) -> uint8 (N, sH, sW, 3): scale to [0, 1], generate, clamp, round half up.
    Rounding is +0.5 and truncation, since a cast truncates in every runtime; the clamp comes
    first, since a cast wraps. Both casts are at the ends of the graph: TensorRT accepts uint8
    nowhere else.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, pixels: Tensor) -> Tensor:
        return self.rounded(self.image(pixels))

    def image(self, pixels: Tensor) -> Tensor:
        """Upscale uint8 (N, H, W, 3) to float32 (N, 3, sH, sW), neither clamped nor rounded."""
        lr = pixels.float().permute(0, 3, 1, 2) * (1 / 255)
        sr: Tensor = self.generator(lr).float()
        return sr

    def rounded(self, image: Tensor) -> Tensor:
        """Clamp and round float32 (N, 3, sH, sW) to uint8 (N, sH, sW, 3)."""
        levels = image.clamp(0, 1) * 255 + 0.5
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def generator_from_spec(spec: ModelSpec) -> nn.Module:
    """Return a newly initialized generator, in training mode and float32 on the CPU."""
    generator: nn.Module
    if spec.architecture == "edge":
        generator = EdgeNet(spec.channels, spec.blocks, spec.activation, spec.scale)
    else:
        generator = SRResNet(spec.channels, spec.blocks, spec.norm, spec.stages)
    if spec.quantized_from:
        for convolution in inner_convolutions(generator).values():
            Int8Conv2d.take_over(convolution)
    return TanhHead(generator) if spec.head == "tanh" else generator


def kernel_before_shuffle(kernel: NDArray[Number], factor: int) -> NDArray[Number]:
    """Rewrite a convolution after PixelShuffle(f) as a convolution before it.

    The kernel [O, C, k, k], k odd, becomes [f² O, f² C, k', k']. Row f i + a of the result reads
    rows f i + a + d of the shuffled image, |d| <= k // 2: row i + (a + d) // f of the image before,
    in sub-pixel (a + d) % f. Channels are in PixelShuffle's order: channel, sub-pixel row, column.
    """
    outputs, channels, side, _ = kernel.shape
    reach = side // 2
    folded_reach = -(-reach // factor)
    folded_side = 2 * folded_reach + 1
    f = factor
    folded = np.zeros((outputs, f, f, channels, f, f, folded_side, folded_side), kernel.dtype)
    for a, b in np.ndindex(f, f):
        for row, column in np.ndindex(side, side):
            i, p = divmod(a + row - reach, f)
            j, q = divmod(b + column - reach, f)
            taps = kernel[:, :, row, column]
            folded[:, a, b, :, p, q, i + folded_reach, j + folded_reach] = taps
    return folded.reshape(f * f * outputs, f * f * channels, folded_side, folded_side)


def _conv3x3(channels: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, padding=1)
    return [convolution, nn.BatchNorm2d(channels)] if norm == "batch" else [convolution]


def _subpixel_stage(channels: int, factor: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, factor**2 * channels, 3, padding=1),
        nn.PixelShuffle(factor),
        nn.PReLU(channels),
    ]


def _bilinear_taps(factor: int) -> Tensor:
    """Return the weights of a pixel and its two neighbors for each sub-pixel: [factor, 3]."""
    offset = (torch.arange(factor) + 0.5) / factor - 0.5
    return torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], dim=1)


def _carry(convolution: nn.Module, source: int, target: int, taps: Tensor) -> None:
    """Make one output map of a convolution a filtered copy of one input map."""
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    convolution.weight[target] = 0
    convolution.weight[target, source] = taps
    convolution.bias[target] = 0


def _start_as_nearest(convolution: nn.Module, factor: int) -> None:
    """Initialize all sub-pixels alike, to avoid a checkerboard (ICNR, arXiv 1707.02937)."""
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    with torch.no_grad():
        for parameter in (convolution.weight, convolution.bias):
            one_phase = parameter[:: factor**2].clone()
            parameter.copy_(one_phase.repeat_interleave(factor**2, dim=0))
