"""What only a CUDA GPU can show, of the tests; `make gpu` checks and measures more."""

import pytest

torch = pytest.importorskip("torch")

from srgan_edge.engines import choose_engine, open_engine  # noqa: E402
from srgan_edge.export.verify import natural_batches  # noqa: E402
from srgan_edge.models import find_model  # noqa: E402
from srgan_edge.parity import compare  # noqa: E402


@pytest.mark.gpu
def test_torch_on_cuda_equals_torch_on_the_cpu():
    """Both in FP32, without TF32: only the order of additions differs."""
    files = find_model("edge-x4")
    with (
        open_engine(choose_engine(files, "torch", "cpu")) as cpu,
        open_engine(choose_engine(files, "torch", "cuda")) as cuda,
    ):
        parity = compare(cpu.upscale, cuda.upscale, natural_batches())
    assert parity.max_levels <= 1, parity
    assert parity.psnr_db >= 60, parity
