"""Transport streams: missing packets, joined recordings, gaps, and clocks that start over."""

import re
from fractions import Fraction
from itertools import pairwise

import av
import pytest
from clips import make

from srgan_edge.errors import InputDamaged
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.video import transport
from srgan_edge.video.frame import CopiedPacket, Frame
from srgan_edge.video.reader import VideoReader
from srgan_edge.video.transport import examined

TICK = Fraction(1, 90000)
PACKET = 188


def recording(path, start_seconds=0.0, frames=40):
    """A transport stream with one AAC track that starts at a time."""
    start = round(start_seconds * 90000)
    return make(
        path,
        time_base=TICK,
        pts=[start + 3600 * number for number in range(frames)],
        audio=["eng"],
        audio_start=Fraction(start, 90000),
        options={"bf": "0", "g": "10"},
    )


def packets_of(path, stride=PACKET):
    content = path.read_bytes()
    return [content[at : at + stride] for at in range(0, len(content), stride)]


def pid(packet):
    return (packet[-187] & 0x1F) << 8 | packet[-186]


def pids_of(path):
    with av.open(str(path)) as container:
        return {stream.type: stream.id for stream in container.streams}


def without(path, wanted_pid, number, count=1, stride=PACKET):
    """Remove packets of one stream, from one in the middle on."""
    packets = packets_of(path, stride)
    places = [place for place, packet in enumerate(packets) if pid(packet) == wanted_pid]
    for place in reversed(places[number : number + count]):
        del packets[place]
    path.write_bytes(b"".join(packets))


def read(path, **options):
    """Return the reader after it was read, its frames, and the error at its end."""
    with VideoReader(path, **options) as reader:
        items, error = [], None
        try:
            for item in reader:
                items.append(item)
        except InputDamaged as damage:
            error = str(damage)
    return reader, items, error


def test_a_whole_recording_has_no_holes(tmp_path):
    source = recording(tmp_path / "in.ts")
    reader, items, error = read(source)
    assert error is None
    assert sum(isinstance(item, Frame) for item in items) == 40
    assert (reader.notes.gaps, reader.notes.doubtful) == (0, 0)
    assert not reader.info.states_length


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("m2ts", [False, True])
def test_a_missing_packet_is_damage(tmp_path, kind, m2ts):
    source = recording(tmp_path / ("in.m2ts" if m2ts else "in.ts"), 5)
    without(source, pids_of(source)[kind], 12, stride=192 if m2ts else PACKET)
    [hole] = examined(source, pids_of(source).values()).holes
    _, items, error = read(source)
    assert "damaged: packets of the transport stream are missing at " in error
    first = next(item for item in items if isinstance(item, Frame))
    assert 0 <= hole.seconds - float(first.pts * TICK) + 1.5 <= 2  # the clock is ahead of frames
    reader, _, error = read(source, conceal=True)
    assert error is None
    assert "transport stream" in str(reader.notes.damage)


def test_a_child_process_tells_of_a_missing_packet(tmp_path):
    """The clock of this recording is no short fraction of a second."""
    source = recording(tmp_path / "in.ts", 5.123)
    without(source, pids_of(source)["video"], 30)
    [hole] = examined(source, pids_of(source).values()).holes
    assert float(hole.seconds) % 0.125
    with IsolatedReader(source, conceal=True) as reader:
        assert sum(isinstance(item, Frame) for item in reader) >= 39
        assert "packets of the transport stream are missing" in str(reader.notes.damage)


def test_a_hole_in_a_stream_that_is_not_used_is_none(tmp_path):
    source = recording(tmp_path / "in.ts")
    without(source, 17, 2)  # names of services
    assert read(source)[2] is None


def test_joined_recordings_lack_nothing(tmp_path):
    parts = [recording(tmp_path / f"{n}.ts", 5 + 1.6 * n) for n in range(3)]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    reader, items, error = read(tmp_path / "in.ts")
    assert error is None
    assert sum(isinstance(item, Frame) for item in items) == 120
    assert reader.notes.gaps == 0


def test_a_join_in_the_middle_of_things_is_known_by_its_clock(tmp_path):
    """What was cut off elsewhere begins with no table of programs."""
    parts = [recording(tmp_path / f"{n}.ts", 5 + 60 * n) for n in range(2)]
    tail = packets_of(parts[1])
    video = pids_of(parts[1])["video"]
    begins = [n for n, packet in enumerate(tail) if pid(packet) == video][15]
    content = parts[0].read_bytes() + b"".join(p for p in tail[begins:] if pid(p) != 0)
    (tmp_path / "in.ts").write_bytes(content)
    assert examined(tmp_path / "in.ts", pids_of(parts[0]).values()).holes == []


def test_a_gap_is_named(tmp_path):
    parts = [recording(tmp_path / f"{n}.ts", 5 + 90 * n, frames=25) for n in range(2)]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    reader, items, error = read(tmp_path / "in.ts")
    assert error is None
    times = [float(item.pts * TICK) for item in items if isinstance(item, Frame)]
    assert len(times) == 50
    begins, ends = times[24] + 0.04, times[25]
    assert (reader.notes.gaps, reader.notes.first_gap) == (1, f"{begins:.2f} to {ends:.2f} s")


def test_an_earlier_recording_behind_a_later_one_is_none_of_its_packets(tmp_path):
    """FFmpeg takes that for a clock that starts over, and adds 26.5 hours."""
    parts = [recording(tmp_path / f"{n}.ts", start, frames=25) for n, start in enumerate((90, 5))]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    _, items, error = read(tmp_path / "in.ts")
    assert re.search(r"damaged: time goes back to (4\.9\d|5\.0\d) s at 9\d\.\d\d s", error)
    frames = [item for item in items if isinstance(item, Frame)]
    audio = [item.packet for item in items if isinstance(item, CopiedPacket)]
    assert len(frames) == 25
    assert max(packet.pts * packet.time_base for packet in audio) < 93
    with VideoReader(tmp_path / "in.ts") as reader:
        copied = [item.packet for item in reader.copied_packets()]
    assert max(packet.pts * packet.time_base for packet in copied) < 93


def test_a_recording_that_comes_twice_is_read_once(tmp_path):
    """Its clock starts at the same time again, which FFmpeg takes for nothing."""
    once = recording(tmp_path / "once.ts", frames=75).read_bytes()
    (tmp_path / "in.ts").write_bytes(2 * once)
    with VideoReader(tmp_path / "once.ts") as reader:
        audio = [bytes(item.packet) for item in reader.copied_packets()]
    _, items, error = read(tmp_path / "in.ts")
    assert re.search(r"damaged: time goes back (from \d\.\d\d )?to \d\.\d\d s", error)
    assert sum(isinstance(item, Frame) for item in items) == 75
    with VideoReader(tmp_path / "in.ts") as reader:
        assert [bytes(item.packet) for item in reader.copied_packets()] == audio


def test_audio_that_two_recordings_share_is_heard_once(tmp_path):
    first = recording(tmp_path / "0.ts", 5, frames=50)
    second = recording(tmp_path / "1.ts", 7, frames=50)
    (tmp_path / "in.ts").write_bytes(first.read_bytes() + second.read_bytes())
    reader, items, error = read(tmp_path / "in.ts")
    assert error is None
    assert sum(isinstance(item, Frame) for item in items) == 100
    audio = [it.packet.pts * it.packet.time_base for it in items if isinstance(it, CopiedPacket)]
    steps = [later - earlier for earlier, later in pairwise(audio)]
    assert reader.notes.overlapping > 0
    assert min(steps) > -Fraction(1, 80)


def test_a_clock_that_really_starts_over_goes_on(tmp_path):
    source = recording(tmp_path / "in.ts", 2**33 / 90000 - 2)
    reader, items, error = read(source)
    assert error is None
    assert sum(isinstance(item, Frame) for item in items) == 40
    assert reader.notes.gaps == 0


@pytest.mark.parametrize("missing", [1, 100, 187])
def test_a_file_that_ends_within_a_packet_is_cut_off(tmp_path, missing):
    source = recording(tmp_path / "in.ts")
    source.write_bytes(source.read_bytes()[:-missing])
    assert examined(source, []).bytes_missing == missing
    assert f"cut off, {missing} bytes of the last packet are missing" in read(source)[2]


@pytest.mark.parametrize("stride", [188, 192])
@pytest.mark.parametrize("shift", [0, -100, 77, 500])
def test_a_place_that_is_no_packet_hides_no_hole(tmp_path, stride, shift):
    """Zeros over packets, in place or with bytes lost or added, so that all others have moved."""
    source = recording(tmp_path / ("in.ts" if stride == PACKET else "in.m2ts"))
    pids, content = pids_of(source), source.read_bytes()
    packets = packets_of(source, stride)
    places = [number for number, packet in enumerate(packets) if pid(packet) == pids["video"]]
    at = places[len(places) // 2] * stride
    source.write_bytes(content[:at] + bytes(4 * stride + shift) + content[at + 4 * stride :])
    assert examined(source, pids.values()).holes
    assert examined(source, pids.values()).bytes_missing == 0
    assert "packets of the transport stream are missing at " in read(source)[2]


def test_bytes_between_packets_are_no_hole(tmp_path):
    source = recording(tmp_path / "in.ts")
    packets = packets_of(source)
    half = len(packets) // 2
    source.write_bytes(b"".join(packets[:half]) + bytes(500) + b"".join(packets[half:]))
    assert examined(source, pids_of(source).values()) == ([], 0)
    source.write_bytes(b"".join(packets) + b"\0\1junk" * 50)
    assert examined(source, pids_of(source).values()) == ([], 0)


@pytest.mark.parametrize("zeros", [60_000, 70_000, 300_000])
def test_zeros_of_any_length_are_passed_over(tmp_path, zeros):
    """FFmpeg gives up after 64 KiB: recorders reserve space, and power cuts leave it empty."""
    source = recording(tmp_path / "in.ts")
    content = source.read_bytes()
    source.write_bytes(content + bytes(zeros))
    _, items, error = read(source)
    assert (error, sum(isinstance(item, Frame) for item in items)) == (None, 40)
    at = len(content) // PACKET // 2 * PACKET
    source.write_bytes(content[:at] + bytes(zeros) + content[at:])
    _, items, error = read(source)
    assert (error, sum(isinstance(item, Frame) for item in items)) == (None, 40)
    source.write_bytes(content[:at] + bytes(zeros) + content[at + 8 * PACKET :])
    assert "packets of the transport stream are missing at " in read(source)[2]


@pytest.mark.parametrize(("frames", "named"), [(24, False), (30, True)])
def test_frames_before_the_first_keyframe_are_named(tmp_path, frames, named):
    source = make(
        tmp_path / "in.ts", time_base=TICK, pts=[90000 + 3600 * n for n in range(frames + 10)],
        options={"bf": "0", "g": str(frames), "keyint_min": str(frames), "sc_threshold": "0"},
    )  # fmt: skip
    pids, packets = pids_of(source), packets_of(source)
    second = [
        number for number, it in enumerate(packets) if pid(it) == pids["video"] and it[1] & 0x40
    ][1]
    tables = [it for it in packets[:second] if pid(it) != pids["video"]]
    source.write_bytes(b"".join(tables + packets[second:]))
    reader, items, error = read(source)
    assert error is None
    assert sum(isinstance(item, Frame) for item in items) == 10
    begins, ends = (float(1 + Fraction(n, 25)) for n in (1, frames))
    expected = f"{begins:.2f} to {ends:.2f} s (before its first keyframe)" if named else ""
    assert (reader.notes.gaps, reader.notes.first_gap) == (int(named), expected)


def test_a_stream_of_nothing_but_holes_is_read_to_its_end(tmp_path, monkeypatch):
    """Packets are found again wherever the parts end in which the file is read."""
    monkeypatch.setattr(transport, "_PACKETS_AT_A_TIME", 7)
    source = recording(tmp_path / "in.ts")
    packets, pids = packets_of(source), pids_of(source)
    expected = examined(source, pids.values())
    for every in (5, 6, 13):
        parts = [part + bytes(9) * (n % every == 0) for n, part in enumerate(packets)]
        source.write_bytes(b"".join(parts))
        assert examined(source, pids.values()) == expected
    source.write_bytes(b"".join(packets[:8]) + bytes(50_000) + b"".join(packets[8:]))
    assert examined(source, pids.values()) == expected
