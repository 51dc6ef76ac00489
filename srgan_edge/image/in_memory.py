"""Images as Python programs hold them: PIL, NumPy, PyTorch and PyAV. Unpack them, and pack results.

What PIL images say of their pixels is in `pil`.
Neither PyTorch nor PyAV is imported here: whoever passes one of their images has done that.
"""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from srgan_edge.depth import deepened, shown_to_network
from srgan_edge.errors import UsageError
from srgan_edge.image.pil import unpacked_pil
from srgan_edge.image.still import Network, Samples, StillImage, enlarged, joined
from srgan_edge.image.writer import samples
from srgan_edge.pixels import Pixels

if TYPE_CHECKING:
    import torch
    from av.video.frame import VideoFrame

    AnyImage: TypeAlias = Image.Image | Samples | torch.Tensor | VideoFrame

ImageT = TypeVar("ImageT", bound="AnyImage")
"""An image of any kind that `unpacked` accepts."""

Pack: TypeAlias = Callable[[list[StillImage]], Any]
"""Makes an image of the caller's kind from what became of the unpacked ones."""

_POSSIBLE = "a PIL image, a NumPy array, a PyTorch tensor or a PyAV video frame"
_CHANNELS = (1, 3, 4)
_WHITE = 65535


class FrameNetwork(Network, Protocol):
    """A network that also accepts whole frames, which some engines upscale faster."""

    def upscale(self, frame: Pixels) -> Pixels:
        """uint8 [H, W, 3] -> uint8 [sH, sW, 3]."""
        ...


def unpacked(image: Any) -> tuple[list[StillImage], Pack]:  # noqa: ANN401 - checked here
    """Return copies of the images in `image`, and a function that packs results as the same kind.

    Raises:
        UsageError: another type, shape, channel count, number type or value range; an empty image.
        InputRefused, InputDamaged: a PIL image whose file cannot be kept exactly, or decoded.
    """
    if isinstance(image, Image.Image):
        return _unpacked_pil(image)
    if isinstance(image, np.ma.MaskedArray):
        raise UsageError("got a masked array, whose mask cannot be kept; type image.filled()")
    if isinstance(image, np.ndarray):
        return _unpacked_array(np.asarray(image))  # of a matrix, rows would be matrices
    torch, av = sys.modules.get("torch"), sys.modules.get("av")
    if torch is not None and isinstance(image, torch.Tensor):
        return _unpacked_tensor(image)
    if av is not None and isinstance(image, av.VideoFrame):
        return _unpacked_frame(image)
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        raise UsageError(f"got a path; possible: {_POSSIBLE}; for files type up.file({path!r})")
    raise UsageError(f"got {type(image).__name__}; possible: {_POSSIBLE}")


def upscaled(still: StillImage, network: FrameNetwork) -> StillImage:
    """Return the image `scale` times larger: the pixels that `enlarged` yields in stripes."""
    if still.alpha is not None:
        size = network.scale * still.width, network.scale * still.height
        return joined(list(enlarged(still, network, *size)))
    if not still.is_deep:
        return replace(still, pixels=network.upscale(still.pixels.astype(np.uint8, copy=False)))
    deep = still.pixels.astype(np.uint16, copy=False)
    return replace(still, pixels=deepened(deep, network.upscale(shown_to_network(deep))))


def _still(values: Samples) -> StillImage:
    """Copy [H, W, C], with C from 1 to 4 as in `samples`."""
    channels = values.shape[2]
    if 0 in values.shape:
        raise UsageError(f"the image is empty: {values.shape[1]}x{values.shape[0]} pixels")
    colors = values[..., :3] if channels > 2 else values[..., :1].repeat(3, axis=2)
    alpha = np.array(values[..., -1], order="C") if channels in (2, 4) else None
    return StillImage(np.array(colors, order="C"), alpha, gray=channels < 3)


def _values(still: StillImage) -> Samples:
    return samples(still, with_alpha=still.alpha is not None)


def _unpacked_pil(image: Image.Image) -> tuple[list[StillImage], Pack]:
    still, packed = unpacked_pil(image)
    return [still], lambda stills: packed(_values(stills[0]))


def _unpacked_array(array: "np.ndarray[Any, Any]") -> tuple[list[StillImage], Pack]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        advice = ""
        if array.ndim == 4:
            advice = "; pass one image at a time, or all of them to up.frames(images)"
        elif array.ndim == 3 and array.shape[0] in _CHANNELS:
            advice = "; type numpy.moveaxis(image, 0, -1)"
        raise UsageError(
            f"got an array of shape {list(array.shape)}; possible: [H, W], [H, W, 1], [H, W, 3] "
            f"and [H, W, 4]{advice}"
        )
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        advice = ""
        if array.dtype.kind == "f":
            advice = "; for values in [0, 1] type numpy.rint(image * 65535).astype(numpy.uint16)"
        raise UsageError(f"got an array of {array.dtype}; possible: uint8 and uint16{advice}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)

    def pack(stills: list[StillImage]) -> Samples:
        values = _values(stills[0])
        return values[..., 0] if array.ndim == 2 else values

    return [_still(native if array.ndim == 3 else native[..., None])], pack


def _unpacked_tensor(tensor: "torch.Tensor") -> tuple[list[StillImage], Pack]:
    import torch

    shape, dtype = list(tensor.shape), tensor.dtype
    if tensor.is_meta:
        raise UsageError(
            "got a tensor on the meta device, which has no values; possible: one made with "
            "device='cpu', or on a GPU"
        )
    if tensor.layout != torch.strided:
        raise UsageError(
            f"got a tensor of {tensor.layout}; possible: dense ones; type tensor.to_dense()"
        )
    if tensor.ndim not in (3, 4) or shape[-3] not in _CHANNELS:
        raise UsageError(
            f"got a tensor of shape {shape}; possible: [C, H, W] and [N, C, H, W] with 1, 3 or 4 "
            "channels"
        )
    if 0 in shape:
        raise UsageError(f"got an empty tensor, of shape {shape}")
    images = tensor.detach().reshape(-1, *shape[-3:]).movedim(1, -1)
    if dtype != torch.uint8:
        if not dtype.is_floating_point:
            raise UsageError(f"got a tensor of {dtype}; possible: torch.uint8, floats in [0, 1]")
        low, high = (float(end) for end in images.float().aminmax())
        if not (low >= 0 and high <= 1):  # nor are comparisons with NaN true
            advice = "tensor.clamp(0, 1)"
            if math.isnan(low):
                advice = "tensor.nan_to_num().clamp(0, 1)"
            raise UsageError(
                f"got a tensor of values from {low:g} to {high:g}; possible: floats from 0 to 1; "
                f"type {advice}"
            )
        images = (images.float() * _WHITE).round().int()
    arrays = images.cpu().numpy()
    arrays = arrays if dtype == torch.uint8 else arrays.astype(np.uint16)

    def pack(stills: list[StillImage]) -> "torch.Tensor":
        values = np.stack([np.moveaxis(_values(still), -1, 0) for still in stills])
        result = torch.from_numpy(values)
        if dtype != torch.uint8:
            result = result.float() / _WHITE
        result = result.to(dtype).to(tensor.device)
        return result if len(shape) == 4 else result[0]

    return [_still(array) for array in arrays], pack


def _unpacked_frame(frame: "VideoFrame") -> tuple[list[StillImage], Pack]:
    components = frame.format.components
    if any(component.bits > 8 or component.is_alpha for component in components):
        raise UsageError(
            f"got a video frame in {frame.format.name}; possible: 8 bits without transparency; "
            "for files type up.file(path), which keeps more, or pass frame.to_ndarray(...)"
        )

    def pack(stills: list[StillImage]) -> "VideoFrame":
        result = type(frame).from_ndarray(stills[0].pixels, format="rgb24")
        result.pts = frame.pts
        if frame.time_base is not None:  # a frame of no file has none
            result.time_base = frame.time_base
        return result

    return [_still(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))], pack
