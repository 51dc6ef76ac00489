"""What every test may lean on: repeatable hypothesis, the GPU rule, data beside the checkout."""

import os
from collections.abc import Generator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

GPU_REQUIRED = os.environ.get("SRGAN_EDGE_REQUIRE_GPU") == "1"

# Deadlines measure the machine, and random examples fail on somebody else's branch.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_cuda():
        pytest.skip("needs a CUDA GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On a machine that must have a GPU, a GPU check that was skipped for any reason has failed."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if GPU_REQUIRED and skipped and item.get_closest_marker("gpu"):
        _path, _line, reason = report.longrepr
        report.outcome, report.longrepr = "failed", f"SRGAN_EDGE_REQUIRE_GPU=1, but: {reason}"
    return report


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Benchmarks, clips and training photos, where they lie beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data folder ../shared/data beside the checkout")
    return folder


@cache
def _has_cuda() -> bool:
    import torch  # here, because a run without GPU tests should not pay for it

    return torch.cuda.is_available()
