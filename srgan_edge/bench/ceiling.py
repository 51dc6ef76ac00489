"""The machine's ceiling: how many operations a second a large matrix product reaches.

A network can hardly be faster. It is measured in the same run, in turns with the candidates, so
that a machine that slows down slows down both.
"""

import time
from collections.abc import Callable

import numpy as np

SIDE = 1024
"""Rows and columns of the matrices on a CPU; on a GPU they are eight times as long."""

Product = Callable[[], None]


def matrix_product(precision: str, device: str) -> tuple[Product, int]:
    """Return a function that multiplies two matrices, and its number of operations.

    Args:
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
    """
    if device.partition(":")[0] != "cpu":
        return _on_gpu(precision, device)
    import openvino
    from openvino import opset13

    from srgan_edge.engines.openvino import shared_core

    left = opset13.parameter([SIDE, SIDE], np.float32)
    right = opset13.parameter([SIDE, SIDE], np.float32)
    model = openvino.Model([opset13.matmul(left, right, False, False)], [left, right])
    hint = {"bf16": "bf16", "fp16": "f16"}.get(precision, "f32")
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    request = compiled.create_infer_request()
    rng = np.random.default_rng(0)
    for tensor in request.input_tensors:
        tensor.data[:] = rng.standard_normal((SIDE, SIDE), np.float32)

    def multiply() -> None:
        request.start_async()
        request.wait()

    return multiply, 2 * SIDE**3


def gflops(product: Product, operations: int, seconds: float) -> float:
    """Repeat a product for about `seconds`; return billions of operations a second."""
    runs, started = 0, time.perf_counter()
    while runs == 0 or time.perf_counter() - started < seconds:
        product()
        runs += 1
    return runs * operations / (time.perf_counter() - started) / 1e9


def _on_gpu(precision: str, device: str) -> tuple[Product, int]:
    import torch

    side = 8 * SIDE
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    left, right = (torch.randn((side, side), device=device).to(kind) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    def multiply() -> None:
        torch.matmul(left, right)
        torch.cuda.synchronize()

    return multiply, 2 * side**3
