"""Videos with their grain: as much as the source has, and the same bytes however often stopped."""

from dataclasses import replace

import av
import numpy as np
import pytest
from streams import Listener
from whole_frames import Death, Dying

from srgan_edge.bench.subject import write_clip
from srgan_edge.engines.base import EngineInfo
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.model.library import find_model
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import segments
from srgan_edge.transcode import upscale as video
from srgan_edge.video.frame import Encoding

LOSSLESS = Encoding(crf=0, preset="ultrafast", pixel_format="yuv444p")
OPTIONS = Options("smoothing", LOSSLESS, Tiling(), existing="replace", steady=0.0, grain=True)


class Smoothing(Dying):
    """Doubles pixels, and leaves nothing of them but their mean."""

    info = EngineInfo("smoothing", "cpu", "fp32", find_model("edge-x4").spec)

    def doubled(self, pixels):
        height, width, _ = pixels.shape
        return np.full((2 * height, 2 * width, 3), round(pixels.mean()), np.uint8)


@pytest.fixture
def grainy(tmp_path):
    def frame(number):
        grain = np.random.default_rng(number).normal(110, 8, (96, 96, 1))
        return np.repeat(np.rint(grain).clip(0, 255).astype(np.uint8), 3, axis=2)

    write_clip(tmp_path / "in.mp4", (frame(number) for number in range(9)))
    return tmp_path / "in.mp4"


def upscale(source, target, dies_at=None, **changes):
    options = replace(OPTIONS, **changes)
    return video.upscale_video_file(
        Job(source, target, "video"), Smoothing(dies_at), options, {}, Listener()
    )


def lumas(path):
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.to_ndarray(format="rgb24").astype(float).mean(axis=2) for frame in frames]


def test_every_frame_has_the_grain_of_its_source(tmp_path, grainy):
    upscale(grainy, tmp_path / "grain.mkv")
    upscale(grainy, tmp_path / "off.mkv", grain=False)
    for source, grained, off in zip(
        lumas(grainy), lumas(tmp_path / "grain.mkv"), lumas(tmp_path / "off.mkv"), strict=True
    ):
        assert off.var() == 0
        assert 0.9 < grained.var() / source.var() < 1.1


@pytest.mark.parametrize("steady", [0.0, 0.5])
def test_a_video_that_died_resumes_to_the_same_grain(tmp_path, grainy, monkeypatch, steady):
    if steady:
        pytest.importorskip("cv2")
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 4)
    upscale(grainy, tmp_path / "whole.mkv", steady=steady)
    with pytest.raises(Death):
        upscale(grainy, tmp_path / "out.mkv", 7, steady=steady)
    done = upscale(grainy, tmp_path / "out.mkv", steady=steady)
    assert done.frames_resumed == 4
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
