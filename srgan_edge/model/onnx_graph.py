"""Inputs, sizes and weights of ONNX graphs, as every check of them reads them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto, ValueInfoProto

FLOAT, UINT8, FLOAT16, BFLOAT16 = 1, 2, 10, 16

_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}
"""Item sizes by TensorProto.DataType: float, uint8, int8, int32, int64, bool, float16, double,
bfloat16."""


def inputs_of(graph: "GraphProto") -> "list[ValueInfoProto]":
    """Return the inputs that are not weights; older exporters list the weights among them."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def fix_sizes(graph: "GraphProto", sizes: Sequence[int]) -> None:
    """Give the only input these sizes, and forget all that was stated of other values."""
    (image,) = inputs_of(graph)
    for dim, size in zip(image.type.tensor_type.shape.dim, sizes, strict=True):
        dim.dim_value = size
    del graph.value_info[:]
    for output in graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()


def why_no_weight(tensor: "TensorProto") -> str | None:
    """Return why weights are not all inside the file, finite, in their stated size; or None."""
    import numpy as np

    name = tensor.name
    if tensor.external_data or tensor.data_location:
        return f"the weights {name!r} are in another file"
    item_bytes, dims = _ITEM_BYTES.get(tensor.data_type), list(tensor.dims)
    stated = item_bytes is not None and all(dim >= 0 for dim in dims)
    if item_bytes is None or not stated or len(tensor.raw_data) != math.prod(dims) * item_bytes:
        return f"the weights {name!r} are not {dims} values of a known type, in raw bytes"
    exponents = {FLOAT: ("<u4", 0x7F800000), 11: ("<u8", 0x7FF << 52)}
    exponents |= {FLOAT16: ("<u2", 0x7C00), BFLOAT16: ("<u2", 0x7F80)}
    if tensor.data_type in exponents:
        kind, mask = exponents[tensor.data_type]
        bits = np.frombuffer(tensor.raw_data, kind)
        if ((bits & bits.dtype.type(mask)) == mask).any():
            return f"the weights {name!r} hold values that are not finite"
    return None
