"""The driver reads and joins videos in the process of the test; workers have children."""

from tests.transcode.conftest import one_process

__all__ = ["one_process"]
