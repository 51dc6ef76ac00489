"""Recognize a float super-resolution graph of another program by its shapes.

It has one image in, [N, 3, H, W] or luma [N, 1, H, W], and one out, scale times larger; which sizes
it takes is found by inferring the shapes at several. Nothing is computed: the graph runs only after
it was wrapped and checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from srgan_edge.errors import ModelRefused
from srgan_edge.export.wrapper import Sizes
from srgan_edge.files import read_at_most
from srgan_edge.model.foreign_graph import why_not_plain_inside
from srgan_edge.model.onnx_file import MAX_BYTES, parsed
from srgan_edge.model.onnx_graph import fix_sizes, inputs_of
from srgan_edge.model.spec import MAX_SCALE, MAX_WINDOW_PX

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)

_HALF, _FULL = TensorProto.FLOAT16, TensorProto.FLOAT


@dataclass(frozen=True)
class FoundGraph:
    """A float graph, as its shapes describe it."""

    scale: int
    is_luma: bool
    """It has one channel."""
    architecture: str = "ONNX"


def float_graph_of(path: Path) -> tuple[onnx.ModelProto, FoundGraph, Sizes]:
    """Return the graph in FP32, its facts and the sizes it takes.

    Raises:
        ModelRefused: it is not one image in and one image out, or does more than compute.
    """
    model = parsed(path, read_at_most(path, MAX_BYTES))
    images = inputs_of(model.graph)
    if len(images) != 1 or len(model.graph.output) != 1:
        raise ModelRefused(
            f"{path}: has {len(images)} inputs and {len(model.graph.output)} outputs; possible: "
            "one image in, one out"
        )
    tensor = images[0].type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type not in (_FULL, _HALF) or len(dims) != 4 or dims[1] not in (0, 1, 3):
        raise ModelRefused(
            f"{path}: its input is not an image, float [N, 3, H, W] in [0, 1], or luma "
            "[N, 1, H, W]; such are what most programs export"
        )
    if reason := why_not_plain_inside(model):
        raise ModelRefused(f"{path}: {reason}, which no network for images needs")
    model = _in_full_precision(model)
    height, width = dims[2:]
    is_luma = dims[1] == 1
    channels = 1 if is_luma else 3
    if height or width:
        scale, sizes = _of_window(path, model, channels, height, width)
    else:
        scale, sizes = _of_any_size(path, model, channels)
    return model, FoundGraph(scale, is_luma), sizes


def _of_window(
    path: Path, model: onnx.ModelProto, channels: int, height: int, width: int
) -> tuple[int, Sizes]:
    if height != width or height > MAX_WINDOW_PX:
        raise ModelRefused(
            f"{path}: takes {width or 'any'}x{height or 'any'} only; possible: any size, or "
            f"squares of up to {MAX_WINDOW_PX} px; export it again with free sizes"
        )
    scale = _scale_at(model, channels, height, width)
    if scale is None:
        raise ModelRefused(f"{path}: its result is not the image, 1 to {MAX_SCALE} times as large")
    return scale, Sizes(1, 1, height)


def _of_any_size(path: Path, model: onnx.ModelProto, channels: int) -> tuple[int, Sizes]:
    for multiple in _MULTIPLES:
        steps = [multiple * side for side in (17, 19)], [multiple * side for side in (16, 23)]
        scales = {_scale_at(model, channels, *sides) for sides in steps}
        if len(scales) == 1 and (scale := scales.pop()) is not None:
            return scale, Sizes(multiple, multiple)
    raise ModelRefused(
        f"{path}: its result is not the image, 1 to {MAX_SCALE} times as large, or its shapes "
        "cannot be inferred; export it again with a fixed size, such as 1x3x128x128"
    )


def _scale_at(model: onnx.ModelProto, channels: int, height: int, width: int) -> int | None:
    """Return how many times larger the result is for one size; None: it has another form."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    fix_sizes(fixed.graph, (1, channels, height, width))
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        return None
    made = [dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim]
    scale = made[2] // height if len(made) == 4 else 0
    fits = 1 <= scale <= MAX_SCALE and made == [1, channels, scale * height, scale * width]
    return scale if fits else None


def _in_full_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its weights and casts in FP32: CPUs compute FP16 in it anyway."""
    for tensor in model.graph.initializer:
        _widen(tensor)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == _HALF:
            value.type.tensor_type.elem_type = _FULL
    for attribute in _attributes(model):
        if attribute.HasField("t"):
            _widen(attribute.t)
        if attribute.name == "to" and attribute.i == _HALF:
            attribute.i = _FULL
    return model


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _HALF:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for node in model.graph.node:
        yield from node.attribute
