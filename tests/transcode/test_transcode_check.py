"""Every difference between a video and its result is found, and equal ones show none."""

from fractions import Fraction

import av
import pytest
from clips import MS, make

from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.transcode.check import differences
from srgan_edge.transcode.record import Timeline, VideoRecord
from srgan_edge.video.reader import VideoReader

PTS = [0, 40, 80, 130, 160, 200, 280, 360]
VIDEO = {
    "time_base": MS,
    "pts": PTS,
    "audio": ["eng"],
    "chapters": True,
    "aspect": Fraction(4, 3),
    "display": (90, False),
}


def compare(tmp_path, suffix, changes):
    before = make(tmp_path / f"in{suffix}", **VIDEO)
    after = make(tmp_path / f"out{suffix}", **(VIDEO | changes))
    return differences(VideoRecord.of(before), VideoRecord.of(after))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"codec": "mpeg4", "size": (128, 96), "options": {"bf": "2"}}, []),
        ({"pts": PTS[:-1], "last_duration": 120}, ["7 frames instead of 8"]),
        ({"pts": [0, 40, 80, 120, 160, 200, 280, 360]}, ["frame 3 is -10.0 ms late"]),
        ({"audio": []}, ["0 instead of 1 streams of audio and subtitles"]),
        ({"audio": ["eng", "deu"]}, ["2 instead of 1 streams of audio and subtitles"]),
        ({"chapters": False}, ["0 chapters instead of 2, or other titles"]),
        ({"aspect": Fraction(5, 4)}, ["pixel aspect ratio 5/4 instead of 4/3"]),
        ({"display": (180, False)}, ["rotated or mirrored differently"]),
        ({"display": (90, True)}, ["rotated or mirrored differently"]),
    ],
)
def test_differences_are_named(tmp_path, suffix, changes, found):
    assert compare(tmp_path, suffix, changes) == found


def test_late_audio_is_named(tmp_path):
    found = compare(tmp_path, ".mkv", {"audio_start": Fraction(1, 10)})
    assert any("audio aac 0 is +100.0 ms late" in line for line in found)


def test_a_longer_frame_is_named_if_the_container_stores_durations(tmp_path):
    found = compare(tmp_path, ".mkv", {"last_duration": 90, "audio": []})
    assert "frame 7 is shown +50.0 ms longer" in found


@pytest.mark.parametrize("damage", ["drop", "flip", "shift"])
def test_one_changed_packet_is_named(tmp_path, damage):
    before, after = make(tmp_path / "in.mkv", **VIDEO), tmp_path / "out.mkv"
    with av.open(str(before)) as source, av.open(str(after), "w") as target:
        streams = {s.index: target.add_stream_from_template(s, opaque=True) for s in source.streams}
        target.set_chapters(source.chapters())
        for stream in source.streams:
            streams[stream.index].disposition = stream.disposition
        streams[0].set_display_rotation(90)
        audio = 0
        for packet in source.demux():
            if not packet.size:
                continue
            packet.stream = streams[packet.stream_index]
            if packet.stream.type == "audio":
                audio += 1
                if audio == 5 and damage == "drop":
                    continue
                if audio == 5 and damage == "flip":
                    content = bytearray(bytes(packet))
                    content[-2] ^= 1
                    other = av.Packet(bytes(content))
                    other.stream, other.time_base = packet.stream, packet.time_base
                    other.pts, other.dts, other.duration = packet.pts, packet.dts, packet.duration
                    packet = other
                if audio == 5 and damage == "shift":
                    packet.pts += 7
                    packet.dts += 7
            target.mux_one(packet)
    (found,) = differences(VideoRecord.of(before), VideoRecord.of(after))
    assert {
        "drop": "packets instead of",
        "flip": "audio aac: the content of packets differs",
        "shift": "audio aac 4 is +7.0 ms late",
    }[damage] in found


def test_a_result_that_was_cut_is_damaged(tmp_path):
    video = make(tmp_path / "out.mp4", frames=30, container_options={"movflags": "faststart"})
    video.write_bytes(video.read_bytes()[:-300])
    with pytest.raises(InputDamaged, match="cut off"):
        VideoRecord.of(video)


def test_a_day_of_frames_is_compared_to_the_tick():
    base = Fraction(1, 90000)
    line = Timeline(base)
    for pts in (0, 86_400 * 90_000):
        line.add(pts, 3000)
    assert line.starts_seconds()[1] == 86_400
    assert len(line) == 2


def test_a_result_may_be_larger_than_an_input(tmp_path):
    path = make(tmp_path / "out.mkv", frames=1, size=(8208, 8192), options={"preset": "ultrafast"})
    with pytest.raises(InputRefused, match="more than"):
        VideoReader(path)
    assert len(VideoRecord.of(path).frames) == 1
