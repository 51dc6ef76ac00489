"""Video files upscaled by doubling their pixels, with everything else as the product does it."""

from dataclasses import replace

import pytest
from streams import Listener
from whole_frames import WholeFrames

from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import UsageError
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.model.library import find_model
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import upscale as video
from srgan_edge.video.frame import Encoding

OPTIONS = Options("doubler", Encoding(preset="ultrafast"), Tiling(), existing="replace")


class Doubler(WholeFrames):
    """Replaces the upscaler: repeats pixels, and counts the frames."""

    scale, slots = 2, 1
    info = EngineInfo("nearest", "cpu", "fp32", find_model("edge-x4").spec)

    def __init__(self):
        self.frames = 0

    def upscale(self, pixels):
        self.frames += 1
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


def upscale(source, target, **options):
    """Return the notes on a video that was upscaled."""
    listener = Listener()
    job = Job(source, target, "video")
    video.upscale_video_file(job, Doubler(), replace(OPTIONS, **options), {}, listener)
    return listener.notes


def refused(source, target, message, **options):
    """The job is refused before its first frame, and leaves nothing."""
    doubler = Doubler()
    job = Job(source, target, "video")
    with pytest.raises(UsageError, match=message):
        video.upscale_video_file(job, doubler, replace(OPTIONS, **options), {}, Listener())
    assert doubler.frames == 0
    assert not target.exists()
