"""INT8: convolutions whose inputs and weights are bytes, and their scales.

The first and the last convolution stay in floating point: they carry the image itself and are a
small part of the work. Quantization is symmetric about zero, with one scale per input and one per
output channel of the weights, since TensorRT supports no other INT8 convolutions.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = "input_scale"
"""Name of the scale in the state of a convolution."""

HEADROOM = 1.25
"""Ratio between the largest representable input and the largest one in the calibration images.

Letters cause larger values in the last layers than photographs, and clipping is visible there: for
`edge-x4` this headroom halves the error on black letters and costs 0.015 dB on Set5.
"""


class Int8Conv2d(nn.Conv2d):
    """A convolution of bytes, simulated in floating point on the values that they represent.

    Gradients pass through the rounding but not through the clipping, so training continues with
    rounded weights (Jacob et al. 2018, arXiv 1712.05877, section 3).
    """

    input_scale: Tensor
    """Value of one step of an input byte; a scalar that is not trained."""

    @classmethod
    def take_over(cls, convolution: nn.Conv2d) -> None:
        """Turn a convolution into one of bytes and keep its weights."""
        convolution.__class__ = cls
        convolution.register_buffer(SCALE, torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        rounded = torch.fake_quantize_per_tensor_affine(
            x.float(), self.input_scale, zero, -128, 127
        )
        scales = weight_scales(self.weight)
        weight = torch.fake_quantize_per_channel_affine(
            self.weight, scales, zero.expand(len(scales)), 0, -127, 127
        )
        return F.conv2d(rounded, weight, self.bias, padding=self.padding)


def weight_scales(weight: Tensor) -> Tensor:
    """Return the scales [O] at which the largest weight of each output channel is 127 steps."""
    largest = weight.detach().abs().amax((1, 2, 3))
    return torch.where(largest > 0, largest, 1) / 127


def bytes_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize weights [O, C, k, k] to int8; also return the scale of each output channel."""
    scales = weight_scales(weight)
    steps = (weight.detach() / scales[:, None, None, None]).round()
    return steps.to(torch.int8), scales


def inner_convolutions(generator: nn.Module) -> dict[str, nn.Conv2d]:
    """Return all convolutions except the first and the last, by name."""
    convolutions = {
        name: part for name, part in generator.named_modules() if isinstance(part, nn.Conv2d)
    }
    return dict(list(convolutions.items())[1:-1])


@torch.inference_mode()
def quantized_state(generator: nn.Module, images: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the state of the INT8 form of a generator in floating point.

    The scale of an input maps its largest value on any of the images, times `HEADROOM`, to 127
    steps. Clipping the largest values costs more than finer steps gain, even on photographs:
    `edge-x4` keeps 49 dB without headroom, but 37 dB with the scales of least squared error.

    All channels of an input share its scale, so that a faint one would have few steps: first they
    are made equally strong, where that leaves the network what it is.

    Args:
        images: float [N, 3, H, W] in [0, 1], typical of the images to upscale: values that these
            do not reach may be clipped later.
    """
    largest = {
        name: torch.zeros(convolution.in_channels)
        for name, convolution in inner_convolutions(generator).items()
    }

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        channels = inputs[0].abs().amax((0, 2, 3)).float().cpu()
        largest[name] = torch.maximum(largest[name], channels)

    hooks = [
        generator.get_submodule(name).register_forward_pre_hook(partial(watch, name))
        for name in largest
    ]
    for image in images:
        generator(image)
    for hook in hooks:
        hook.remove()
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    for first, second in _in_a_row(generator):
        if second in largest:
            _equalize(state, first, second, largest[second])
    scales = {f"{name}.{SCALE}": HEADROOM * of.amax() / 127 for name, of in largest.items()}
    return state | scales


def _in_a_row(generator: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of all two convolutions with nothing but a ReLU or PReLU between them."""
    for name, sequence in generator.named_modules():
        if isinstance(sequence, nn.Sequential):
            parts = list(sequence.named_children())
            for (first, one), (_, bend), (second, other) in zip(
                parts, parts[1:], parts[2:], strict=False
            ):
                convolutions = isinstance(one, nn.Conv2d) and isinstance(other, nn.Conv2d)
                if convolutions and isinstance(bend, (nn.ReLU, nn.PReLU)):
                    yield f"{name}.{first}".strip("."), f"{name}.{second}".strip(".")


def _equalize(state: dict[str, Tensor], first: str, second: str, largest: Tensor) -> None:
    """Make the channels between two convolutions as strong as the strongest of them.

    One convolution multiplies and the other divides by the same positive numbers, which a ReLU or
    PReLU lets pass (Nagel et al. 2019, arXiv 1906.04721, section 4.1). Weights have a scale for
    each output channel, so that the first one loses nothing.

    Args:
        largest: [C], the largest value of each channel; one that is zero everywhere stays.
    """
    weakness = torch.where(largest > 0, largest / largest.amax(), 1)
    state[f"{first}.weight"] /= weakness[:, None, None, None]
    state[f"{first}.bias"] /= weakness
    state[f"{second}.weight"] *= weakness[:, None, None]
