"""Pages of videos: excerpts, times, and the files that browsers play."""

import io
from fractions import Fraction

import av
import clips
import numpy as np
import pytest
from av.video.frame import VideoFrame

from srgan_edge.compare.clips import SAMPLES, compare_videos
from srgan_edge.errors import InputRefused
from srgan_edge.evaluation import metrics
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.preview import KEY_FRAME_EVERY, preview_of

pytestmark = pytest.mark.children
WHOLE = Excerpt(0, 10)
MILLISECONDS = (0, 40, 80, 200, 240, 241, 300, 340, 380, 420, 460, 500, 540, 580, 620)
"""Starts of frames, at no constant rate."""


def clip(path, width, height, starts=MILLISECONDS, brightness=0):
    """Write a lossless clip whose frames differ in brightness."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, start in enumerate(starts):
            ramp = np.linspace(20, 120, width, dtype=np.uint8)[None, :, None]
            pixels = np.broadcast_to(ramp + 5 * number + brightness, (height, width, 3))
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = start, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def pair(tmp_path):
    return clip(tmp_path / "in.mkv", 35, 22), clip(tmp_path / "out.mkv", 70, 44)


def compared(pair, excerpt=WHOLE, models=None, original=None):
    source, *results = pair
    return compare_videos(source, results, models or {}, original, excerpt, {})


def decoded(layer):
    with av.open(io.BytesIO(layer.content)) as container:
        return [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"), frame.key_frame)
            for frame in container.decode(video=0)
        ]


def test_every_frame_is_there_at_its_time(pair):
    found = compared(pair)
    assert [layer.name for layer in found.layers] == ["input", "out.mkv"]
    assert (found.width, found.height) == (70, 44)
    assert found.times_seconds == pytest.approx([start / 1000 for start in MILLISECONDS])
    for layer in found.layers:
        frames = decoded(layer)
        assert [seconds for seconds, _, _ in frames] == pytest.approx(found.times_seconds, abs=1e-4)
        brightness = [pixels.mean() for _, pixels, _ in frames]
        assert brightness == pytest.approx([70 + 5 * n for n in range(len(frames))], abs=1.5)


def test_what_browsers_do_not_play_gets_a_stand_in_and_is_said(tmp_path):
    """HEVC of 10 bits, with the transfer of HDR (PQ)."""
    made = {"codec": "libx265", "pixel_format": "yuv420p10le", "color": (9, 1, 9, 16), "frames": 3}
    options = {"x265-params": "log-level=none"}
    source = clips.make(tmp_path / "in.mkv", **made, options=options)
    result = clips.make(tmp_path / "out.mkv", **made, options=options, size=(128, 96))
    found = compared((source, result))
    for layer, path in zip(found.layers, (source, result), strict=True):
        assert layer.facts["video"] == "hevc, yuv420p10le"
        with av.open(io.BytesIO(layer.content)) as shown:
            assert shown.streams.video[0].codec_context.name == "h264"
            assert shown.streams.video[0].pix_fmt == "yuv420p"
        assert f"{path.name}: HDR is shown as if it were BT.709" in found.notes
    assert any("H.264 at CRF" in note and "8 bits" in note for note in found.notes)


def test_odd_sizes_get_a_column_and_a_row_beyond_the_page(pair):
    found = compared(pair)
    source, result = found.layers
    assert (result.width, result.height) == (70, 44)
    assert decoded(source)[0][1].shape == (22, 36, 3)
    assert (source.width, source.height) == (72, 44)


def test_any_frame_is_near_a_key_frame(pair):
    keys = [number for number, (_, _, key) in enumerate(decoded(compared(pair).layers[1])) if key]
    assert keys == [0, KEY_FRAME_EVERY]


def test_an_excerpt_begins_and_ends_where_it_was_asked_to(pair):
    found = compared(pair, Excerpt(0.24, 0.1))
    assert found.times_seconds == pytest.approx([0, 0.001, 0.06])
    brightness = [pixels.mean() for _, pixels, _ in decoded(found.layers[1])]
    assert brightness == pytest.approx([90, 95, 100], abs=1.5)
    with pytest.raises(InputRefused, match=r"has no frame from 9 s on; possible: --start 0 to"):
        compared(pair, Excerpt(9, 1))


def test_models_make_results_of_every_frame(pair):
    def doubled(frames):
        return (frame.repeat(2, 0).repeat(2, 1) for frame in frames)

    found = compared(pair, models={"doubled": doubled})
    assert [layer.name for layer in found.layers] == ["input", "out.mkv", "doubled"]
    assert len(decoded(found.layers[2])) == len(MILLISECONDS)


def test_scores_are_means_over_the_same_frames(pair, tmp_path):
    original = clip(tmp_path / "ideal.mkv", 70, 44, brightness=3)
    found = compared(pair, original=original)
    off_by_3 = metrics.psnr_y(
        np.full((44, 70, 3), 100, np.uint8), np.full((44, 70, 3), 103, np.uint8), 2
    )
    assert found.layers[1].scores["psnr_y"] == pytest.approx(off_by_3, abs=1e-6)
    assert found.layers[2].name == "original" and len(MILLISECONDS) > SAMPLES


def test_clips_of_other_videos_are_refused(pair, tmp_path):
    shorter = clip(tmp_path / "shorter.mkv", 70, 44, MILLISECONDS[:-1])
    with pytest.raises(
        InputRefused, match=r"shorter.mkv has 14 frames in the excerpt and in.mkv 15"
    ):
        compared([pair[0], shorter])


def test_a_preview_keeps_colors_of_bt709():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    content = preview_of([(red, 0.0, 0.04)], 32, 32)
    with av.open(io.BytesIO(content)) as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, int(frame.colorspace)) == ("yuv420p", 1)
        assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - red).max() <= 3
