"""Steadied streams: every frame in its order, and none that waits for a dropped one."""

import clips
import pytest

pytest.importorskip("cv2")

from streams import Doubler, as_format, upscale


def numbers_in(tmp_path, content):
    path = tmp_path / "got.nut"
    path.write_bytes(content)
    return [frame.number for frame in clips.see_frames(path)]


def test_a_steadied_stream_has_every_frame_in_its_order(tmp_path):
    source = as_format(clips.make(tmp_path / "in.mkv", frames=12), "nut")
    result, _, got = upscale(source, "nut", Doubler(slots=3), steady=0.5)
    assert result.frames == 12
    assert numbers_in(tmp_path, got) == list(range(12))


@pytest.mark.timeout(60)
def test_a_frame_that_is_dropped_keeps_no_other_one_waiting(tmp_path):
    source = as_format(clips.make(tmp_path / "in.mkv", frames=40), "nut")
    result, listener, got = upscale(
        source, "nut", Doubler(seconds=0.05, slots=2), steady=0.5, live=True
    )
    shown = numbers_in(tmp_path, got)
    assert result.frames_dropped > 0
    assert shown == sorted(set(shown))
    assert len(shown) + result.frames_dropped == 40
    assert not any("stead" in note for note in listener.notes)
