"""Fused kernels for GPUs of the Hopper generation: one kernel per convolution and what follows it.

PyTorch and cuDNN spend more than half of the time between convolutions, on biases, PReLU, sums and
PixelShuffle: each reads and writes all features once more. The fused kernels avoid that. `half.py`
is the specification: the same network with the same weights.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srgan_edge.engines.cache import machine_code
from srgan_edge.errors import ExtraMissing
from srgan_edge.kernels.convolution import FORMS, packed
from srgan_edge.kernels.source import FOLDER
from srgan_edge.machine import Gpu
from srgan_edge.model.half import HalfDeployment, LongSkip
from srgan_edge.model.network import ResidualBlock

if TYPE_CHECKING:  # the bindings are optional
    from srgan_edge.kernels.cuda_bindings import CudaBindings

COMPUTE_CAPABILITY = "9.0"
"""The GPU generation whose tensor cores `SOURCE` is written for."""

SOURCE = FOLDER / "convolution.cu"

_FEATURES = {
    (3, 64, 9, 1): "convolve_8_to_64_by_9",
    (64, 64, 3, 1): "convolve_64_to_64_by_3",
    (64, 256, 3, 1): "convolve_64_to_64_by_3",
    (64, 256, 3, 2): "convolve_64_to_256_by_3",
    (3, 24, 3, 1): "convolve_8_to_32_by_3",
    (24, 24, 3, 1): "convolve_32_to_32_by_3",
    (3, 32, 3, 1): "convolve_8_to_32_by_3",
    (32, 32, 3, 1): "convolve_32_to_32_by_3",
}
_IMAGES = {
    (256, 12, 5, 1): "image_of_256_by_5",
    (24, 48, 3, 1): "image_of_32_by_3",
    (32, 48, 3, 1): "image_of_32_by_3",
}
"""Kernel names by (input channels, output channels, side, factor of the PixelShuffle)."""


class FusedDeployment:
    """`HalfDeployment` in our own kernels; biases and the image are in FP32."""

    def __init__(self, half: HalfDeployment, gpu: Gpu) -> None:
        """Pack the weights and compile the kernels for `gpu`, which holds `half`.

        Raises:
            NoKernel: a layer or this GPU has no kernel.
            ExtraMissing: the compiler or the CUDA bindings are not installed.
        """
        if gpu.compute_capability != COMPUTE_CAPABILITY or half.has_tanh:
            raise NoKernel
        if half.scale % 4:
            raise NoKernel  # the last kernel writes rows in words of 4 bytes
        *inner, last = layers_of(half.network)
        library = _Library(nvidia_bindings(), gpu)
        self.inner = [_Convolution(library, layer, _FEATURES) for layer in inner]
        self._last = _Convolution(library, last, _IMAGES)
        self._adds_nearest = half.adds_nearest
        if not half.adds_nearest:
            self._last.biases.add_(0.5)  # `HalfDeployment` leaves it out for the sake of FP16
        device = self._last.biases.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the kernels do not wait for the weights

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `HalfDeployment`: uint8 (N, H, W, 3) -> uint8 (N, sH, sW, 3), float32 (N)."""
        pixels = pixels.contiguous()  # kernels only get addresses
        features = {0: self.entry(pixels)}
        for number, convolution in enumerate(self.inner):
            added = None if convolution.added is None else features[convolution.added]
            made = convolution.features(features[number], added)
            later = {it.added for it in self.inner[number + 1 :]}
            features = {it: kept for it, kept in features.items() if it in later}
            features[number + 1] = made
        return self._last.image(made, pixels if self._adds_nearest else None)

    @staticmethod
    def entry(pixels: Tensor) -> Tensor:
        """Convert uint8 (N, H, W, 3) to half (N, H, W, 8): multiples of 1/256, padded by zeros."""
        return F.pad(pixels.half() / 256, (0, 5)).contiguous()


class NoKernel(Exception):
    """No fused kernel fits; PyTorch's own kernels run instead."""


@dataclass(frozen=True)
class Layer:
    """A convolution and the operations that its kernel includes."""

    convolution: nn.Conv2d
    slopes: Tensor | None = None
    """Slopes of PReLU; those of ReLU are zero."""
    factor: int = 1
    """Factor of the PixelShuffle."""
    added: int | None = None
    """Number of the features added to the result; 0 is the input of the first layer."""


def layers_of(network: nn.Sequential, before: int = 0) -> list[Layer]:
    """Return the layers of a network in order; `before` layers precede it.

    Raises:
        NoKernel: the network has another operation, or one after a sum.
    """
    layers: list[Layer] = []
    for part in network:
        given = before + len(layers)
        if isinstance(part, nn.Conv2d):
            layers.append(Layer(part))
        elif isinstance(part, nn.PixelShuffle | nn.PReLU | nn.ReLU):
            if not layers or layers[-1].added is not None:
                raise NoKernel
            if isinstance(part, nn.PixelShuffle):
                layers[-1] = replace(layers[-1], factor=part.upscale_factor)
            else:
                slopes = part.weight if isinstance(part, nn.PReLU) else torch.zeros(1)
                layers[-1] = replace(layers[-1], slopes=slopes)
        elif not isinstance(part, LongSkip | ResidualBlock):
            raise NoKernel
        else:
            inside = part.trunk if isinstance(part, LongSkip) else part.block
            layers += layers_of(inside, given)
            layers[-1] = replace(layers[-1], added=given)
    return layers


def nvidia_bindings() -> "CudaBindings":
    """Open NVIDIA's bindings: they accept PyTorch's streams, pycuda does not; PyTorch has them."""
    try:
        from srgan_edge.kernels.cuda_bindings import open_device
    except ImportError:
        raise ExtraMissing("cuda-core", "srgan-edge[gpu]", "compiling kernels") from None
    return open_device()


class _Library:
    """The kernels of `convolution.cu` on one GPU."""

    def __init__(self, cuda: "CudaBindings", gpu: Gpu) -> None:
        self.cuda, self.multiprocessors = cuda, gpu.multiprocessors
        self._image = machine_code(SOURCE, f"{gpu.compute_capability}a")
        self._kernels: dict[str, Any] = {}

    def kernel(self, name: str) -> Any:  # noqa: ANN401 - a kernel of the bindings
        if name not in self._kernels:
            shared_bytes = FORMS[name].shared_bytes
            with self.cuda.current():
                kernel = self.cuda.overlapping_kernel(self._image, name, shared_bytes)
            self._kernels[name] = kernel
        return self._kernels[name]


class _Convolution:
    """One layer's kernel, and its weights in the order that the kernel reads."""

    def __init__(
        self, library: _Library, layer: Layer, names: dict[tuple[int, int, int, int], str]
    ) -> None:
        convolution = layer.convolution
        outputs, inputs, side, _ = convolution.weight.shape
        name = names.get((inputs, outputs, side, layer.factor))
        if name is None:
            raise NoKernel
        self._library, self._kernel = library, library.kernel(name)
        self._form, self.added = FORMS[name], layer.added
        order = _order(outputs, self._form.factor)
        weight, device = convolution.weight.detach()[order], convolution.weight.device
        self._weights = torch.from_numpy(packed(weight.cpu().numpy(), self._form)).to(device)
        self._blocks = len(self._weights)
        padding = self._blocks * self._form.outputs - outputs
        assert convolution.bias is not None
        self.biases = F.pad(convolution.bias.detach().float()[order], (0, padding))
        slopes = torch.ones(outputs) if layer.slopes is None else layer.slopes.detach().float()
        slopes = slopes.repeat(outputs // len(slopes)).to(device)
        self._slopes = F.pad(slopes, (0, padding))

    def features(self, source: Tensor, added: Tensor | None) -> Tensor:
        """Compute half (N, H, W, C) -> half (N, fH, fW, O), plus `added`."""
        n, height, width, _ = source.shape
        factor = self._form.factor
        channels = self._blocks * self._form.outputs // factor**2
        target = source.new_empty(n, height * factor, width * factor, channels)
        self._launch(source, target, added=added)
        return target

    def image(self, source: Tensor, pixels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute half (N, H, W, C) -> uint8 (N, fH, fW, 3), plus `pixels`, and float32 (N)."""
        n, height, width, _ = source.shape
        factor = self._form.factor
        size = (n, height * factor, width * factor, 3)
        assert 3 * factor * width % 4 == 0, "rows of the image are written in words of 4 bytes"
        target = torch.empty(size, dtype=torch.uint8, device=source.device)
        totals = torch.zeros(n, device=source.device)
        self._launch(source, target, pixels=pixels, totals=totals)
        return target, totals

    def _launch(
        self,
        source: Tensor,
        target: Tensor,
        added: Tensor | None = None,
        pixels: Tensor | None = None,
        totals: Tensor | None = None,
    ) -> None:
        n, height, width, _ = source.shape
        form, library = self._form, self._library
        tensors = (
            *(source, self._weights, self.biases, self._slopes),
            *(added, target, pixels, totals),
        )
        addresses = (0 if it is None else it.data_ptr() for it in tensors)
        grid = form.grid(n, width, height, library.multiprocessors, self._blocks)
        threads = (form.groups * form.group_threads,)
        sizes = (np.int32(it) for it in (n, height, width))
        with library.cuda.current():
            stream = library.cuda.stream_at(torch.cuda.current_stream().cuda_stream)
            self._kernel(grid, threads, (*addresses, *sizes), stream)


def _order(outputs: int, factor: int) -> Tensor:
    """Return the channel order of the kernels: by pixel, then color (PixelShuffle: by color)."""
    return torch.arange(outputs).view(-1, factor**2).T.reshape(-1)
