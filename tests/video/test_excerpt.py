"""Excerpts of a video: which frames and packets, at which times, and how times are typed."""

from fractions import Fraction
from itertools import pairwise
from math import ceil

import clips
import numpy as np
import pytest

from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.video.excerpt import Excerpt, seconds_of
from srgan_edge.video.excerpt_reader import open_video
from srgan_edge.video.frame import CopiedPacket, Frame
from srgan_edge.video.reader import VideoReader

GOP = {"crf": "18", "bf": "2", "g": "20"}
KINDS = {
    "MP4": ("a.mp4", {"options": GOP}),
    "open GOPs": ("a.mkv", {"options": {**GOP, "x264-params": "open-gop=1"}}),
    "Matroska": ("a.mkv", {"options": GOP}),
    "HEVC": ("a.mp4", {"codec": "libx265", "options": {"x265-params": "keyint=20:log-level=0"}}),
    "transport stream": ("a.ts", {"options": GOP, "time_base": Fraction(1, 90000)}),
    "AVI": ("a.avi", {"codec": "mpeg4", "options": {"g": "20"}, "time_base": Fraction(1, 25)}),
    "one keyframe": ("a.mp4", {"options": {**GOP, "g": "500"}}),
    "from another time on": (
        "a.mkv",
        {"pts": [40 * n + 7000 for n in range(220)], "options": GOP, "time_base": clips.MS},
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    """A video of 220 frames in 8.8 s with audio, and all that is in it."""
    name, wanted = KINDS[request.param]
    path = tmp_path_factory.mktemp("excerpt") / name
    start = Fraction(7) if "pts" in wanted else Fraction(0)
    clips.make(path, frames=220, audio=["eng"], audio_start=start, **wanted)
    with VideoReader(path) as reader:
        items = list(reader)
        first = reader.info.start_pts
    return path, items, first


def seconds(item):
    return item.packet.pts * item.packet.time_base


@pytest.mark.parametrize(("start", "duration"), [(0.0, 1.0), (0.41, 1.0), (6.4, 1.2), (7.9, None)])
def test_the_frames_and_packets_of_a_part_from_zero_on(whole, start, duration):
    path, items, first = whole
    with open_video(path, excerpt=Excerpt(start, duration)) as reader:
        found = list(reader)
        tick = reader.info.time_base
        assert reader.info.start_pts == 0
    stop = None if duration is None else Fraction(start + duration).limit_denominator(1000)
    begin = Fraction(start).limit_denominator(1000)
    frames = [
        it
        for it in items
        if isinstance(it, Frame)
        and (it.pts - first) * tick >= begin
        and (stop is None or (it.pts - first) * tick < stop)
    ]
    got = [it for it in found if isinstance(it, Frame)]
    assert len(frames) > 20
    assert [it.pts for it in got] == [it.pts - frames[0].pts for it in frames]
    for ours, theirs in zip(got, frames, strict=True):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)

    zero = frames[0].pts * tick
    end = None if stop is None else (first + ceil(stop / tick)) * tick
    packets = [
        it
        for it in items
        if isinstance(it, CopiedPacket)
        and seconds(it) >= zero
        and (end is None or seconds(it) < end)
    ]
    got = [it for it in found if isinstance(it, CopiedPacket)]
    assert [bytes(it.packet) for it in got] == [bytes(it.packet) for it in packets]
    assert len(got) > 30
    for ours, theirs in zip(got, packets, strict=True):
        assert abs(seconds(ours) - (seconds(theirs) - zero)) <= ours.packet.time_base


@pytest.mark.parametrize("excerpt", [Excerpt(6.4, 1.2), Excerpt(0.0, 0.5, 3)], ids=["part", "3"])
def test_all_ways_of_reading_agree(whole, excerpt):
    path, _, _ = whole
    with open_video(path, excerpt=excerpt) as reader:
        items = list(reader)
    frames = [it for it in items if isinstance(it, Frame)]
    packets = [bytes(it.packet) for it in items if isinstance(it, CopiedPacket)]
    with open_video(path, excerpt=excerpt) as reader:
        scanned = list(reader.scan_packets())
        assert [it.pts for it in scanned if not isinstance(it, CopiedPacket)] == [
            it.pts for it in frames
        ]
        assert [bytes(it.packet) for it in scanned if isinstance(it, CopiedPacket)] == packets
        assert [bytes(it.packet) for it in reader.copied_packets()] == packets
    with IsolatedReader(path, excerpt=excerpt) as isolated:
        rest = list(isolated.after(5))
    assert [it.pts for it in rest] == [it.pts for it in frames[5:]]
    np.testing.assert_array_equal(rest[0].pixels, frames[5].pixels)


@pytest.mark.parametrize("excerpt", [Excerpt(0.2, 0.6), Excerpt(1.0), Excerpt(1.0, 9.0)])
def test_the_last_frame_of_a_part_is_as_long_as_it_was(tmp_path, excerpt):
    """MP4 states when its last frame ends, which a part may not reach."""
    options = {**GOP, "b_strategy": "0"}
    path = clips.make(tmp_path / "a.mp4", frames=50, options=options)
    with open_video(path, excerpt=excerpt) as reader:
        frames = [it for it in reader if isinstance(it, Frame)]
        tick = reader.info.time_base
    with open_video(path, excerpt=excerpt) as reader:
        *_, last = reader.scan_packets()
    assert (last.pts, last.duration) == (frames[-1].pts, frames[-1].duration)
    assert last.duration * tick == Fraction(1, 25)


def test_samples_are_spread_and_joined(tmp_path):
    clips.make(tmp_path / "a.mp4", frames=200, options=GOP, audio=["eng"])
    with open_video(tmp_path / "a.mp4", excerpt=Excerpt.of_sample("4x0.4s")) as reader:
        items = list(reader)
        assert reader.info.duration_seconds == pytest.approx(1.6)
    frames = [it for it in items if isinstance(it, Frame)]
    numbers = [clips.read_barcode(it.pixels) for it in frames]
    starts = [n for before, n in pairwise([-9, *numbers]) if n != before + 1]
    assert len(numbers) == 40
    assert starts == pytest.approx([20, 70, 120, 170], abs=1)
    assert [it.pts for it in frames] == [512 * n for n in range(40)]
    times = [seconds(it) for it in items if isinstance(it, CopiedPacket)]
    assert times == sorted(times)
    assert max(after - before for before, after in pairwise(times)) < 2 * Fraction(1024, 44100)


@pytest.mark.parametrize(
    ("excerpt", "said"),
    [
        (Excerpt(9.0), "no frame from 9 s on; possible: --start 0 to 0.96"),
        (Excerpt(0.0, 0.4, 3), "lasts 1.00 s, and --sample 3x0.4s is 1.2 s; type --sample 2x0.4s"),
        (Excerpt(0.0, 4, 3), "leave --sample out"),
        (Excerpt(0.965, 0.01), "no frame from 0.965 s on"),
        (Excerpt(0.41, 0.01), "from 0.41 s to 0.42 s; possible: --start 0.44 --duration 0.01"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_opened(tmp_path, excerpt, said):
    clips.make(tmp_path / "a.mp4", frames=25)
    with pytest.raises(InputRefused, match=said):
        open_video(tmp_path / "a.mp4", excerpt=excerpt)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 90), ("0:01:30.5", 90.5), ("2s", 2), (".5", 0.5), ("100:00:00", 360000)],
)
def test_times_are_typed_as_people_do(text, expected):
    assert seconds_of("--start", text) == expected


@pytest.mark.parametrize(
    "text", ["", "-1", "1:2:3:4", "1:75", "soon", "1e3", "nan", "9999999", "٣"]
)
def test_other_times_are_refused(text):
    with pytest.raises(UsageError, match="possible: seconds or h:mm:ss"):
        seconds_of("--start", text)


@pytest.mark.parametrize(
    "typed",
    [
        ("1", None, "3x2s"),
        (None, "0", None),
        (None, None, "0x2s"),
        (None, None, "3x0s"),
        (None, "1", "3x2s"),
    ],
)
def test_contradictions_are_refused(typed):
    with pytest.raises(UsageError, match="possible: "):
        Excerpt.of(*typed)


def test_audio_is_whole_where_frames_are_decoded_seconds_before_they_are_shown(tmp_path):
    path, options = tmp_path / "slides.mp4", {"bf": "8", "b_strategy": "0", "g": "250"}
    pts = [25 * n for n in range(12)]  # one a second
    clips.make(path, pts=pts, time_base=Fraction(1, 25), audio=["eng"], options=options)
    with VideoReader(path) as reader:
        starts = [seconds(item) for item in reader if isinstance(item, CopiedPacket)]
    assert starts[-1] > 9, "the clip has no such audio"
    for start, stop in ((2, 6), (0, 5), (5, 9)):
        with open_video(path, excerpt=Excerpt(start, stop - start)) as reader:
            packets = [item for item in reader if isinstance(item, CopiedPacket)]
        assert len(packets) == sum(start <= it < stop for it in starts)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "subrip"), ("a.mp4", "mov_text")])
def test_the_last_part_under_a_subtitle_that_outlasts_all_else_is_whole(tmp_path, name, codec):
    """The file states the end of the subtitle, which began before the part."""
    path = clips.make(tmp_path / name, frames=100, options=GOP, audio=["eng"], subtitles=codec,
                      subtitle_starts_ms=[300], subtitle_ms=8700)  # fmt: skip
    for excerpt, frames in ((Excerpt(3.5, None), 12), (None, 100)):
        with open_video(path, excerpt=excerpt) as reader:
            assert sum(isinstance(item, Frame) for item in reader) == frames
