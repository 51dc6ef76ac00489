"""Tests that need a CUDA GPU; `make gpu` checks and measures more."""

import pytest

torch = pytest.importorskip("torch")

from srgan_edge.engines import choose_engine, open_engine  # noqa: E402
from srgan_edge.evaluation.parity import GATES, compare  # noqa: E402
from srgan_edge.export.verify import natural_batches  # noqa: E402
from srgan_edge.model.library import find_model  # noqa: E402


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torch_on_cuda_equals_torch_on_the_cpu(precision):
    """In FP32 only the order of additions differs, because TF32 is off; FP16 meets its gate."""
    files = find_model("edge-x4")
    with (
        open_engine(choose_engine(files, "torch", "cpu")) as cpu,
        open_engine(choose_engine(files, "torch", "cuda"), fp32=precision == "fp32") as cuda,
    ):
        assert cuda.info.precision == precision
        for _ in "recorded", "replayed":
            parity = compare(cpu.upscale, cuda.upscale, natural_batches())
            assert not GATES[precision].refusals(parity), parity
