"""Check the fused kernels: every layer against cuDNN's, the whole network against its slow twin."""

from typing import Any

import torch
import torch.nn.functional as F
from gpu_engines import on_gpus_clock, repeated
from torch import Tensor

from srgan_edge.engines.fused import FusedDeployment, Layer, NoKernel, layers_of
from srgan_edge.machine import Gpu
from srgan_edge.model.half import HalfDeployment

__all__ = ["NoKernel", "against_cudnn"]

SHAPES = [(1, 1, 1), (2, 9, 5), (2, 31, 17), (3, 80, 96), (1, 270, 480)]
"""(frames, height, width); in the last one a warpgroup has several consecutive tiles."""
FARTHEST = 1e-3
"""Largest ||difference|| / ||cuDNN's|| of a layer's halves; cuDNN rounds three times."""


def against_cudnn(generator: Any, gpu: Gpu) -> dict[str, Any]:  # noqa: ANN401
    """Compare the fused network with cuDNN and time its layers.

    Raises:
        AssertionError: a layer is too far off, or an image by more than two levels.
        NoKernel: no fused kernels for this GPU.
    """
    half = HalfDeployment(generator).cuda()
    fused = FusedDeployment(half, gpu)
    levels, layers, timed = [], [], []
    with torch.inference_mode(), _poisoned():
        for shape in SHAPES:
            pixels = _squares(*shape)
            (got, totals), (expected, expected_totals) = fused(pixels), half(pixels)
            difference = (got.int() - expected.int()).abs()
            assert difference.max() <= 2, f"{shape}: {difference.max()} levels from cuDNN's"
            assert torch.allclose(totals, expected_totals, rtol=1e-3), f"{shape}: totals differ"
            levels.append(round(difference.float().mean().item(), 4))
        features = {0: fused.entry(pixels)}
        for index, (convolution, layer) in enumerate(
            zip(fused.inner, layers_of(half.network)[:-1], strict=True)
        ):
            given = features[index], features.get(layer.added)
            found = convolution.features(*given)
            expected = _by_cudnn(layer, *given)
            kept = found[..., : expected.shape[-1]].float()
            far = ((kept - expected).norm() / expected.norm()).item()
            assert far < FARTHEST, f"layer {index}: {far} from cuDNN's"
            layers.append({"from_cudnn": far})
            timed.append((convolution, layer, *given))
            features[index + 1] = found
    with torch.inference_mode():
        layers = [far | _speed(*it) for far, it in zip(layers, timed, strict=True)]
    return {"mean_levels_from_cudnn": levels, "layers": layers}


def _by_cudnn(layer: Layer, features: Tensor, added: Tensor | None) -> Tensor:
    """Compute a layer as PyTorch does, one operation after the other; float32 (N, H, W, C)."""
    source = features[..., : layer.convolution.in_channels].permute(0, 3, 1, 2)
    result = layer.convolution(source)
    if layer.factor > 1:
        result = F.pixel_shuffle(result, layer.factor)
    if layer.slopes is not None:
        result = F.prelu(result, layer.slopes)
    result = result.permute(0, 2, 3, 1)
    if added is not None:
        result = result + added[..., : result.shape[-1]]
    return result.float()


def _speed(
    convolution: Any,  # noqa: ANN401
    layer: Layer,
    features: Tensor,
    added: Tensor | None,
) -> dict[str, float]:
    """Measure microseconds per call and TFLOP/s over ten calls in a graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            convolution.features(features, added)
    times = sorted(repeated(on_gpus_clock(torch, graph.replay), seconds=0.1))
    ms = times[len(times) // 2] / 10
    n, height, width, _ = features.shape
    flop = 2 * layer.convolution.weight.numel() * n * height * width
    return {"us": round(1000 * ms, 1), "tflop_s": round(flop / ms / 1e9, 1)}


def _squares(frames: int, height: int, width: int) -> Tensor:
    """Return uint8 (N, H, W, 3) of squares of 9 px, each of one color."""
    size = (frames, -(-height // 9), -(-width // 9), 3)
    colors = torch.randint(0, 256, size, dtype=torch.uint8, device="cuda")
    larger = colors.repeat_interleave(9, 1).repeat_interleave(9, 2)
    return larger[:, :height, :width].contiguous()


class _poisoned:
    """Fill new memory, which PyTorch leaves uninitialized, with NaN or the largest number."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True

    def __exit__(self, *exception: object) -> None:
        torch.use_deterministic_algorithms(False)
