"""What every test may lean on: repeatable hypothesis, the GPU rule, data beside the checkout."""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest
from processes import children

from srgan_edge.cli import main
from srgan_edge.signals import STOPPING
from srgan_edge.video.encoder import keeping_priority

GPU_REQUIRED = os.environ.get("SRGAN_EDGE_REQUIRE_GPU") == "1"

# Deadlines measure the machine, and random examples fail on somebody else's branch.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


# Whoever runs the tests may ignore signals, as `&` in a script does; commands would, too.
for heeded in STOPPING:
    if signal.getsignal(heeded) is signal.SIG_IGN:
        signal.signal(heeded, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Small inputs from public bug reports, where they lie beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip("needs the inputs in ../shared/cases beside the checkout")
    return folder


@cache
def _has_cuda() -> bool:
    import torch  # here, because a run without GPU tests should not pay for it

    return torch.cuda.is_available()


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run `srgan-edge` in this process, in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(tmp_path / "engines"))
    handlers = {number: signal.getsignal(number) for number in STOPPING}

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["srgan-edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """Clips that a test encodes with SVT-AV1 as root would make this a real-time process."""
    with keeping_priority():
        yield


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left() -> Iterator[None]:
    """A child that outlives what it was made for would outlive the command of a user, too."""
    yield
    assert children() == []
