"""INT8: convolutions whose input and weights are bytes, and the scales that make them so.

All convolutions but the first and the last: those two carry the image itself, and are a small
part of the work. Symmetric about zero, with one scale for an input and one for each output channel
of the weights, since TensorRT knows no other INT8 convolutions.
"""

from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = "input_scale"
"""What the state calls it."""
HEADROOM = 1.25
"""By how much an input may be larger than on any image that its scale was measured on. Lettering
drives the last layers further than photographs do, and what is cut off there is seen: for `edge-x4`
this halves the error on black letters and costs 0.015 dB on Set5."""


class Int8Conv2d(nn.Conv2d):
    """A convolution of bytes, computed in floating point on the values that they stand for.

    To gradients the rounding is not there, though its limits are, so that training goes on with
    rounded weights (Jacob et al. 2018, arXiv 1712.05877, section 3).
    """

    input_scale: Tensor
    """What one step of an input byte stands for; a scalar, not trained."""

    @classmethod
    def take_over(cls, convolution: nn.Conv2d) -> None:
        """Make a convolution one of bytes; its weights stay."""
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
    """[O, C, k, k] -> [O]: with it, the largest weight of each output channel is 127 steps."""
    largest = weight.detach().abs().amax((1, 2, 3))
    return torch.where(largest > 0, largest, 1) / 127


def bytes_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[O, C, k, k] -> the same as int8, and the scale of each output channel."""
    scales = weight_scales(weight)
    steps = (weight.detach() / scales[:, None, None, None]).round()
    return steps.to(torch.int8), scales


def inner_convolutions(generator: nn.Module) -> dict[str, nn.Conv2d]:
    """All but the first and the last, by name."""
    convolutions = {
        name: part for name, part in generator.named_modules() if isinstance(part, nn.Conv2d)
    }
    return dict(list(convolutions.items())[1:-1])


@torch.inference_mode()
def quantized_state(generator: nn.Module, images: Iterable[Tensor]) -> dict[str, Tensor]:
    """The state of the INT8 form of a generator in floating point.

    An input's scale lets the largest value it has on any of the images, times `HEADROOM`, be 127
    steps. To cut off the largest ones costs more than finer steps bring, on photographs already:
    `edge-x4` keeps 49 dB without headroom, and 37 dB with the scales of the least squared error.

    Args:
        images: float [N, 3, H, W] in [0, 1], of the kind that it shall enlarge. Real ones: what
            they do not show, the bytes do not hold.
    """
    convolutions = inner_convolutions(generator)
    largest = {name: torch.zeros(()) for name in convolutions}

    def watch(name: str, _: nn.Module, inputs: tuple[Tensor]) -> None:
        largest[name] = torch.maximum(largest[name], inputs[0].abs().amax().float().cpu())

    hooks = [
        convolution.register_forward_pre_hook(partial(watch, name))
        for name, convolution in convolutions.items()
    ]
    for image in images:
        generator(image)
    for hook in hooks:
        hook.remove()
    scales = {f"{name}.{SCALE}": HEADROOM * value / 127 for name, value in largest.items()}
    return generator.state_dict() | scales
