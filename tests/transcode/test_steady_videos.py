"""Steadied videos: the same bytes however often a run is stopped, and nothing at all when off."""

import clips
import numpy as np
import pytest

pytest.importorskip("cv2")

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
from killing import kill_again_and_again
from streams import Listener
from whole_frames import Death, Dying

import srgan_edge
from srgan_edge import steady
from srgan_edge.bench.subject import write_clip
from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import HostMemoryExhausted
from srgan_edge.evaluation.temporal import pan_flicker
from srgan_edge.image.reader import read_pixels
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.model.library import find_model
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import segments
from srgan_edge.transcode import upscale as video
from srgan_edge.video.frame import Encoding

PHOTO = Path(srgan_edge.__file__).parent / "demo" / "photos" / "cobblestone-hill.jpg"
LOSSLESS = Encoding(crf=0, preset="ultrafast", pixel_format="yuv444p")
OPTIONS = Options("noisy", LOSSLESS, Tiling(), existing="replace", steady=0.5)
SEGMENT = 5


class Noisy(Dying):
    """Doubles pixels and draws other noise on every frame, which its content determines."""

    info = EngineInfo("noisy", "cpu", "fp32", find_model("edge-x4").spec)

    def doubled(self, pixels):
        large = pixels.repeat(2, axis=0).repeat(2, axis=1).astype(np.int16)
        noise = np.random.default_rng(int(pixels.sum())).integers(-9, 10, large.shape)
        return (large + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", SEGMENT)


@pytest.fixture(scope="module")
def pan(tmp_path_factory):
    photo = read_pixels(PHOTO)[:48]
    path = tmp_path_factory.mktemp("pan") / "in.mp4"
    write_clip(path, (photo[:, 2 * n : 2 * n + 64] for n in range(17)))
    return path


def upscale(source, target, dies_at=None, **changes):
    listener = Listener()
    done = video.upscale_video_file(
        *(Job(source, target, "video"), Noisy(dies_at), replace(OPTIONS, **changes), {}),
        listener,
    )
    return done, listener.notes


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def flicker(frames):
    """Mean flicker of a pan by 4 px of the result."""
    return np.mean([pan_flicker(before, now, 4) for before, now in pairwise(frames[2:])])


def test_a_video_flickers_less_and_says_no_more(tmp_path, pan):
    _, notes = upscale(pan, tmp_path / "steady.mkv")
    _, notes_when_off = upscale(pan, tmp_path / "off.mkv", steady=0.0)
    assert notes == notes_when_off
    steady_frames, off = frames_of(tmp_path / "steady.mkv"), frames_of(tmp_path / "off.mkv")
    np.testing.assert_array_equal(steady_frames[0], off[0])
    assert flicker(steady_frames) < 0.6 * flicker(off)


@pytest.mark.parametrize("dies_at", [2, SEGMENT + 1, 2 * SEGMENT, 16])
def test_a_steadied_video_that_died_resumes_to_the_same_bytes(tmp_path, pan, dies_at):
    upscale(pan, tmp_path / "whole.mkv")
    with pytest.raises(Death):
        upscale(pan, tmp_path / "out.mkv", dies_at)
    done, _ = upscale(pan, tmp_path / "out.mkv")
    assert done.frames_resumed % SEGMENT == 0
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mkv", "whole.mkv"]


def test_no_seam_where_segments_meet(tmp_path, pan):
    """A segment begins with the last frame of the one before, so its first frame is steadied."""
    upscale(pan, tmp_path / "short.mkv")
    segments.SEGMENT_FRAMES = 48  # restored by the fixture
    upscale(pan, tmp_path / "long.mkv")
    pairs = zip(frames_of(tmp_path / "short.mkv"), frames_of(tmp_path / "long.mkv"), strict=True)
    for short, long in pairs:
        np.testing.assert_array_equal(short, long)


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_lost_state_costs_frames_and_no_byte(tmp_path, pan, harm):
    upscale(pan, tmp_path / "whole.mkv")
    with pytest.raises(Death):
        upscale(pan, tmp_path / "out.mkv", 16)
    states = sorted((tmp_path / "out.mkv.partial").glob("state-*"))
    assert 1 <= len(states) <= 2  # of two segments or three
    if harm == "missing":
        states[-1].unlink()
    else:
        states[-1].write_bytes(states[-1].read_bytes()[:-1])
    done, notes = upscale(pan, tmp_path / "out.mkv")
    assert done.frames_resumed == SEGMENT * int(states[-1].name[-6:])
    assert any("its state is missing or has changed" in note for note in notes)
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()


def test_another_strength_is_refused_with_how_to_start_over(tmp_path, pan):
    job = Job(pan, tmp_path / "out.mkv", "video")
    with pytest.raises(Death):
        video.upscale_video_file(job, Noisy(12), OPTIONS, {"steady": 0.5}, Listener())
    with pytest.raises(Exception, match=r"steady was 0\.5 and is 0\.25.*--restart"):
        video.upscale_video_file(job, Noisy(), OPTIONS, {"steady": 0.25}, Listener())


def test_a_state_that_does_not_fit_is_refused_before_the_first_frame(tmp_path, pan, monkeypatch):
    monkeypatch.setattr(steady, "host_memory_bytes", lambda: 1 << 10)
    upscaler = Noisy()
    job = Job(pan, tmp_path / "out.mkv", "video")
    with pytest.raises(HostMemoryExhausted, match="--steady off"):
        video.upscale_video_file(job, upscaler, OPTIONS, {}, Listener())
    assert upscaler.seen == 0
    assert list(tmp_path.iterdir()) == []


VIDEOS = {
    "one frame": {"frames": 1},
    "variable rate": {
        "time_base": clips.MS,
        "pts": [0, 33, 66, 100, 400, 433, 1000, 1001, 1500],
        "last_duration": 70,
    },
    "10 bit": {"pixel_format": "yuv420p10le", "codec": "libx265", "options": {"crf": "12"}},
    "interlaced": {"options": {"crf": "18", "flags": "+ildct", "x264-params": "tff=1"}},
    "smaller than a search": {"size": (16, 8)},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_videos_of_any_kind(tmp_path, name):
    source = clips.make(tmp_path / "in.mkv", **VIDEOS[name])
    done, _ = upscale(source, tmp_path / "out.mkv", encoding=Encoding(preset="ultrafast"))
    assert done.frames == len(clips.see_frames(source))


def test_deinterlaced_and_scaled_to_a_fraction(tmp_path, pan):
    done, _ = upscale(pan, tmp_path / "out.mkv", deinterlace=True, outscale=1.5)
    assert (done.frames, done.size) == (17, (96, 72))


@pytest.mark.slow
def test_kills_change_no_byte_of_a_steadied_video(tmp_path):
    source = clips.make(tmp_path / "in.mp4", frames=120, audio=["eng"])
    done = kill_again_and_again(source, tmp_path / "out.mkv", kills=6, seed=3, steady=0.5)
    assert done.kills == 6
    assert done.resumed > 0
