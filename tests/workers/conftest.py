"""The driver reads and joins videos in the process of the test; workers have children."""

import pytest

from srgan_edge.jobs.plan import Options
from srgan_edge.run import open_upscaler
from srgan_edge.tiling import Tiling
from srgan_edge.video.frame import Encoding
from tests.transcode.conftest import one_process

__all__ = ["one_process"]


@pytest.fixture(scope="session")
def alone():
    """Yield the one engine whose bytes workers have to make."""
    options = Options("edge-x4", Encoding(preset="ultrafast"), Tiling(), device="cpu")
    with open_upscaler(options, lambda line: None, 1) as opened:
        yield opened
