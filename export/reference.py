"""A typed graph, computed to the letter: what an engine of that graph may be compared with.

Products are summed in FP32, as tensor cores do, and every tensor is rounded to the type that the
graph gives it. A CPU runtime will not do for that: given FP16, ONNX Runtime computes in FP32
through and through. An engine that fuses kernels rounds less often than this, never more.
"""

from typing import cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from srgan_edge.pixels import Pixels


class Conv(OpRun):
    """onnx's own is in pure numpy, a hundred times slower, and sums in the type of its input."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[np.generic],
        weight: NDArray[np.generic],
        bias: NDArray[np.generic] | None = None,
        *,
        pads: list[int],
        **plain: object,
    ) -> tuple[NDArray[np.generic]]:
        shift = None if bias is None else _float32(bias)
        result = torch.conv2d(_float32(x), _float32(weight), shift, padding=pads[0])
        return (result.numpy().astype(x.dtype),)


class TypedReference:
    """`upscale` of a deployment graph in FP16 or BF16, bit by bit as the graph says."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(model, new_ops=[Conv])

    def upscale(self, batch: Pixels) -> Pixels:
        """uint8 [N, H, W, 3] -> uint8 [N, 4H, 4W, 3]."""
        (result,) = cast("list[Pixels]", self._evaluator.run(None, {"input": batch}))
        return result


def _float32(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
