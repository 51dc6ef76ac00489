"""Broken, odd and hostile videos, each with the expected outcome. This list only grows.

Every row is a whole run of the command line over an older result, which is either replaced by a
whole video or left as it was. The input never changes.
"""

import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import MS, barcode, make, see_frames, see_packets

from srgan_edge.errors import InputDamaged, SrganEdgeError
from srgan_edge.video.frame import FrameTime
from srgan_edge.video.reader import VideoReader

pytestmark = pytest.mark.slow

TS = {"time_base": Fraction(1, 90000)}
FAST_START = {"container_options": {"movflags": "+faststart"}}
FRAGMENTED = {"container_options": {"movflags": "frag_keyframe+empty_moov"}}
LONG: dict[str, Any] = {"frames": 40, "size": (64, 48), "options": {"bf": "2", "g": "12"}}
NO_B_FRAMES = {"options": {"bf": "0", "g": "12"}}
FFV1: dict[str, Any] = {"codec": "ffv1", "options": {"g": "1"}}
NO_CHECKSUMS = {"container_options": {"write_crc32": "0"}}
AVI = {"codec": "mpeg4", "time_base": Fraction(1, 25)}

OLDER = b"an older result"
CONCEAL = ["--on-damage", "conceal"]


@dataclass(frozen=True)
class Row:
    """One video and its expected outcome."""

    name: str
    make: Callable[[Path], object]
    """Writes the video to a path."""
    code: int
    """Exit code."""
    says: str = ""
    """A pattern that stderr matches."""
    shows: Sequence[int] | None = None
    """The numbers of the frames in the result; None: there is no result."""
    partial: bool = False
    """The result is at NAME.partial.EXT, and the older one still there."""
    suffix: str = ".mkv"
    to: str | None = None
    """Suffix of the result; None: the same."""
    options: Sequence[str] = ()


def video(**wanted):
    return lambda path: make(path, **wanted)


def cut(percent, unit=1, **wanted):
    """The first part of a file, in whole units of bytes."""

    def write(path):
        content = make(path, **LONG | wanted).read_bytes()
        path.write_bytes(content[: len(content) * percent // 100 // unit * unit])

    return write


def broken(numbers, **wanted):
    """A video in which these packets, in the order of the file, are noise."""

    def write(path):
        make(path, **LONG | wanted)
        with av.open(str(path)) as container:
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        content = path.read_bytes()
        for number in numbers:
            noise = random.Random(number).randbytes(len(packets[number]))
            content = content.replace(packets[number], noise)
        path.write_bytes(content)

    return write


def joined(*parts):
    """Transport streams one after the other, as `cat` joins them."""

    def write(path):
        part_path = path.with_suffix(".part.ts")
        contents = [make(part_path, **TS | part).read_bytes() for part in parts]
        part_path.unlink()
        path.write_bytes(b"".join(contents))

    return write


def remuxed(change, **wanted):
    """A video whose packets were changed before they were written."""

    def write(path):
        plain = make(path.with_suffix(".plain.mkv"), **wanted)
        with av.open(str(plain)) as source, av.open(str(path), "w") as target:
            streams = [target.add_stream_from_template(s, opaque=True) for s in source.streams]
            for number, packet in enumerate(p for p in source.demux() if p.size):
                packet.stream = streams[packet.stream_index]
                target.mux_one(change(number, packet))
        plain.unlink()

    return write


def retimed(kind, later_ms, **wanted):
    """An MKV in which some packets of one kind are later than before: no muxer writes that."""

    def write(path):
        make(path, **NO_CHECKSUMS, **wanted)
        with av.open(str(path)) as container:
            packets = [bytes(p) for p in container.demux() if p.size and p.stream.type == kind]
        content = bytearray(path.read_bytes())
        for number, ms in later_ms.items():
            at = content.index(packets[number]) - 3  # of a SimpleBlock: time, flags, payload
            (time,) = struct.unpack_from(">h", content, at)
            struct.pack_into(">h", content, at, time + ms)
        path.write_bytes(content)

    return write


def not_to_be_shown(number, packet):
    """Frame 5 of VP8 becomes a reference that is not shown (RFC 6386, section 9.1)."""
    if number != 5:
        return packet
    content = bytearray(packet)
    content[0] &= ~0x10
    hidden = av.Packet(bytes(content))
    hidden.stream, hidden.time_base = packet.stream, packet.time_base
    hidden.pts = hidden.dts = packet.pts
    return hidden


def several_videos(*sizes):
    """One file with a video stream of each size."""

    def write(path):
        with av.open(str(path), "w") as container:
            streams = [container.add_stream("libx264", rate=25) for _ in sizes]
            for stream, size in zip(streams, sizes, strict=True):
                (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
            container.start_encoding()
            for stream, size in zip(streams, sizes, strict=True):
                for number in range(5):
                    frame = av.VideoFrame.from_ndarray(barcode(number, size))
                    frame.pts, frame.time_base = number, Fraction(1, 25)
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))

    return write


def with_timecode(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        (stream.width, stream.height), stream.pix_fmt = (64, 48), "yuv420p"
        stream.metadata["timecode"] = "01:00:00:00"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(barcode(number, (64, 48)))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        audio = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        audio.sample_rate, audio.pts = 44100, 0
        container.mux([*stream.encode(audio), *stream.encode(None)])


def raw_h264(path):
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux([*stream.encode(av.VideoFrame(64, 48)), *stream.encode(None)])


AT_2_S = [2000 + 40 * n for n in range(9)]
AT_MINUS_HALF_S = [-6400 + 512 * n for n in range(20)]  # its edit list hides the first 13
AROUND_2_TO_33 = [2**33 - 3600 * 6 + 3600 * n for n in range(12)]
EVERYTHING: dict[str, Any] = {
    "audio": ["eng", "deu", "fra", "ita", "jpn", "spa", "nld", "pol"],
    "subtitles": "ass",
    "chapters": True,
    "attachment": ("font.ttf", "application/x-truetype-font", b"glyphs"),
    "frames": 10,
}
CUT_OFF = r"cut off, \d+ bytes are missing"

ROWS = [
    # ------------------------------------------------------------ cut off
    Row("V1: MP4 without an index", cut(50), 4, "cut off or its index is missing", suffix=".mp4"),
    Row("V2: MP4", cut(80, **FAST_START), 4, CUT_OFF, range(26), True, ".mp4"),
    Row("V2: MOV", cut(80, **FAST_START), 4, CUT_OFF, range(26), True, ".mov"),
    Row("V3: MKV", cut(80), 4, CUT_OFF + r"; ends at 1\.16 of 1\.60 s", range(29), True),
    Row("V3: MKV, in the first frame", cut(30), 4, "cut off"),
    Row("V3: MKV, behind the last frame", cut(99), 4, CUT_OFF, range(40), True),
    Row("V4: fragments", cut(80, **FRAGMENTED), 4, CUT_OFF, range(28), True, ".mp4"),
    Row("V4: fragments, in a header", cut(76, **FRAGMENTED), 4, CUT_OFF, range(28), True, ".mp4"),
    Row("V5: TS, in a packet", cut(70, **TS | NO_B_FRAMES), 4,
        r"cut off, \d+ bytes of the last packet are missing", range(28), True, ".ts", ".mkv"),
    Row("V5: TS does not tell", cut(70, unit=188, **TS | NO_B_FRAMES), 0, "", range(28), False,
        ".ts", ".mkv"),
    Row("AVI", cut(80, **AVI), 4, CUT_OFF, range(22), True, ".avi", ".mkv"),
    Row("cut off is not concealed", cut(80), 4, CUT_OFF, range(29), True, options=CONCEAL),
    # ------------------------------------------------------------ broken
    Row("V6: MP4", broken([20], **FFV1), 4, r"a frame cannot be decoded at 0\.80 s",
        [*range(20), *range(21, 40)], True, ".mkv"),
    Row("V6: concealed", broken([20], **FFV1), 4, r"0\.80 s.*; 1 of 40 frames show",
        [*range(20), 19, *range(21, 40)], options=CONCEAL),
    Row("V7: first", broken([0], **FFV1), 4, r"a frame cannot be decoded at 0\.00 s",
        range(1, 40), True, ".mkv"),
    Row("V7: first, concealed", broken([0, 1], **FFV1), 4,
        r"0\.00 s and 1 more.*2 of 40 frames show",
        [2, 2, *range(2, 40)], options=CONCEAL),
    Row("last, concealed", broken([38, 39], **FFV1), 4, r"1\.52 s and 1 more.*2 of 40 frames show",
        [*range(38), 37, 37], options=CONCEAL),
    Row("nothing to conceal", video(frames=5), 0, "", range(5), options=CONCEAL),
    Row("nothing left", broken(range(40), **FFV1), 4, "cannot be decoded at 0.00 s and 39 more",
        options=CONCEAL),
    # ------------------------------------------------------------ changes on the way
    Row("V15: 1000 frames a second", video(time_base=MS, pts=range(300), size=(32, 16)), 0, "",
        [n % 256 for n in range(300)]),
    Row("V16: size", joined({"frames": 10}, {"frames": 5, "size": (80, 48)}), 4,
        r"change from 64x48.* to 80x48.* at 0\.\d\d s", range(10), True, ".ts", ".mkv"),
    Row("V17: pixel format", joined({"frames": 10}, {"frames": 5, "pixel_format": "yuv422p"}), 0,
        "colors change from yuv420p, .* to yuv422p", [*range(10), *range(5)], False, ".ts",
        ".mkv"),
    Row("V17: matrix", joined({"frames": 10}, {"frames": 5, "color": (1, 1, 1, 1)}), 0,
        "colors change from yuv420p, .* to yuv420p, ", [*range(10), *range(5)], False, ".ts",
        ".mkv"),
    # ------------------------------------------------------------ times
    Row("V18: gaps", video(time_base=MS, pts=[0, 1, 2, 80, 3280, 3281]), 0, "", range(6)),
    Row("V19: B-frames, open", video(frames=30, options={"bf": "4", "x264-params": "open-gop=1"}),
        0, "", range(30)),
    Row("V21: no container", raw_h264, 3, "is not a video; possible: MP4", suffix=".mp4",
        to=".mkv"),
    Row("V21: AVI without times", video(**AVI, options={"bf": "2"}), 0,
        "1 frames had no time and were spaced by their period", range(12), False, ".avi", ".mkv"),
    Row("V22: audio", retimed("audio", {3: -23, 9: -23}, audio=["eng"], frames=25), 0, "",
        range(25)),
    Row("V22: audio that steps back", retimed("audio", {9: -60}, audio=["eng"], frames=25), 0,
        "1 frames or packets shared a time", range(25)),
    Row("V22: frames that step back", retimed("video", {3: -60}, **FFV1), 0,
        "1 frames or packets shared a time", range(12)),
    Row("V22: frames of another recording", retimed("video", {30: -1100}, **FFV1 | {"frames": 40}),
        4, r"time goes back from 1\.16 to 0\.10 s", range(30), True),
    Row("V22: frames", video(**FFV1, time_base=MS, pts=[0, 40, 40, 80]), 0,
        "1 frames or packets shared a time", range(4)),
    Row("V23: from 2 s on, audio later",
        video(time_base=MS, pts=AT_2_S, audio=["eng"], audio_start=Fraction(3)), 0, "", range(9)),
    Row("V23: audio first", video(time_base=MS, pts=AT_2_S, audio=["eng"]), 0, "", range(9)),
    Row("V23: edit list", video(pts=AT_MINUS_HALF_S, audio=["eng"], audio_start=Fraction(-1, 2),
        container_options={"avoid_negative_ts": "disabled"}), 0, "", range(13, 20), False, ".mp4"),
    Row("V24: the clock of TS wraps", video(**TS, pts=AROUND_2_TO_33, audio=["eng"],
        audio_start=Fraction(AROUND_2_TO_33[0], 90000)), 0, "", range(12), False, ".ts", ".mkv"),
    Row("V25: one frame", video(frames=1), 0, "", [0]),
    Row("V25: one frame in MP4", video(frames=1), 0, "", [0], False, ".mp4"),
    Row("V25: no frames", no_frames, 4, "damaged"),
    Row("V25: no frames in AVI", no_frames, 4, "none of its frames", None, False, ".avi", ".mkv"),
    Row("V25: audio only", audio_only, 3, "has no video stream"),
    Row("three hours without an image", video(time_base=MS, pts=[0, 40, 10_000_000]), 0, "",
        range(3)),
    Row("hidden frames of VP8", remuxed(not_to_be_shown, codec="libvpx", options={}), 0, "",
        [*range(5), *range(6, 12)]),
    # ------------------------------------------------------------ streams
    Row("V27: timecode in MOV", with_timecode, 0, r"\A(?!.*left out)", range(5), False, ".mov"),
    Row("V27: timecode in MKV", with_timecode, 0, r"left out: data stream 1 \(timecode\)", range(5),
        False, ".mov", ".mkv"),
    Row("V26: cover art", video(cover="png", frames=5), 0, "", range(5), False, ".mp4"),
    Row("V26: two videos", several_videos((32, 24), (64, 48)), 0,
        r"left out: video stream \d \(h264\)", range(5)),
    Row("V27: everything", video(**EVERYTHING), 0, "", range(10)),
    Row("V27: everything, in another container", video(**EVERYTHING), 2,
        r"out\.mp4 cannot hold subtitle stream 9 \(ssa\); use -o \S*out\.mkv", to=".mp4"),
    *(
        Row(f"V28: {codec} in MP4", video(subtitles=codec, frames=3), 2,
            rf"out\.mp4 cannot hold subtitle stream 1 \({name}\); use -o \S*out\.mkv", to=".mp4")
        for codec, name in (("subrip", "srt"), ("hdmv_pgs_subtitle", "pgssub"))
    ),
    Row("V28: text of MP4 in MKV", video(subtitles="mov_text", frames=3), 2,
        r"out\.mkv cannot hold subtitle stream 1 \(mov_text\); use -o \S*out\.mp4", None, False,
        ".mp4", ".mkv"),
    Row("V28: AAC in WebM", video(audio=["eng"], frames=3), 2, r"out\.webm cannot hold",
        to=".webm", options=["-c", "libvpx-vp9"]),
    # ------------------------------------------------------------ images
    Row("V29: odd, full chroma", video(size=(97, 63), pixel_format="yuv444p", frames=3), 0, "",
        range(3)),
    Row("V29: odd result", video(size=(66, 34), frames=3), 2,
        "yuv420p cannot store 99x51 pixels, an odd size; use --pix-fmt yuv444p",
        options=["-s", "1.5"]),
    *(
        Row(f"V32: turned by {degrees}{' and mirrored' * mirrored}",
            video(display=(degrees, mirrored), frames=2), 0, "", range(2), False, ".mp4")
        for degrees, mirrored in ((90, False), (180, False), (270, True), (0, True))
    ),
    Row("V33: oblong pixels", video(aspect=Fraction(4, 3), frames=2), 0, "", range(2)),
    Row("V34: interlaced", video(frames=4, options={"x264-params": "tff=1"}), 0,
        "interlaced; its fields are upscaled together", range(4)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_comes_of_a_bad_video(cli, tmp_path, row):
    source, target = tmp_path / f"in{row.suffix}", tmp_path / f"out{row.to or row.suffix}"
    partial = target.with_name(f"out.partial{target.suffix}")
    row.make(source)
    target.write_bytes(OLDER)
    given = source.read_bytes()
    arguments = (source.name, "-o", target.name, "--overwrite", "-n", "edge-x4", *row.options)
    code, _, said = cli("upscale", *arguments)
    assert code == row.code, said
    assert re.search(row.says, said, re.DOTALL), said
    assert source.read_bytes() == given
    assert (target.read_bytes() != OLDER) == (row.shows is not None and not row.partial)
    assert partial.is_file() == row.partial
    assert {path.name for path in tmp_path.iterdir()} <= {source.name, target.name, partial.name}
    if row.shows is not None:
        result = partial if row.partial else target
        assert [frame.number for frame in see_frames(result)] == list(row.shows)
        if code == 0:
            assert_nothing_moved(source, result)


def assert_nothing_moved(source, result):
    """Compare times to a millisecond, since some frames are nudged; `test_video_times` is exact."""
    before, after = see_times(source), see_times(result)
    shift = after[0] - before[0]
    assert all(abs(a - b - shift) <= MS for a, b in zip(after, before, strict=True))
    if source.suffix == ".ts":
        return  # its audio has headers that no other container keeps
    for kind in ("audio", "subtitle"):
        assert [[packet.digest for packet in stream] for stream in see_packets(result, kind)] == [
            [packet.digest for packet in stream] for stream in see_packets(source, kind)
        ]


def see_times(path):
    with VideoReader(path) as reader:
        return [
            item.pts * reader.info.time_base
            for item in reader.scan()
            if isinstance(item, FrameTime)
        ]


# ---------------------------------------------------------------- damage anywhere

ANYWHERE = [
    pytest.param(suffix, wanted, id=f"{suffix} {name}")
    for suffix, name, wanted in (
        (".mp4", "faststart", FAST_START),
        (".mp4", "fragments", FRAGMENTED),
        (".mov", "faststart", FAST_START),
        (".mkv", "H.264", {}),
        (".mkv", "FFV1", FFV1),
        (".mkv", "VP9", {"codec": "libvpx-vp9", "options": {}} | NO_CHECKSUMS),
        (".webm", "VP9", {"codec": "libvpx-vp9", "options": {}}),
        (".avi", "MPEG-4", AVI | {"options": {}}),
    )
]


def read(path, **options):
    """Return the times of all frames, and whether the reader found no damage."""
    times = []
    try:
        with VideoReader(path, **options) as reader:
            for item in reader.scan():
                if isinstance(item, FrameTime):
                    times.append(item.pts)
            return times, not reader.notes.damage and not reader.notes.doubtful
    except SrganEdgeError:
        return times, False


@pytest.mark.parametrize(("suffix", "wanted"), ANYWHERE)
def test_no_cut_goes_unnoticed(tmp_path, suffix, wanted):
    whole = make(tmp_path / f"whole{suffix}", **LONG | wanted)
    content = whole.read_bytes()
    assert read(whole)[1]
    for percent in range(1, 100):
        part = tmp_path / f"part{suffix}"
        part.write_bytes(content[: len(content) * percent // 100])
        assert not read(part)[1], f"cut at {percent} %"


@pytest.mark.parametrize(("suffix", "wanted"), ANYWHERE)
def test_no_flip_changes_the_number_of_frames_unnoticed(tmp_path, suffix, wanted):
    whole = make(tmp_path / f"whole{suffix}", **LONG | wanted)
    content = whole.read_bytes()
    # Nothing secures the index of MP4, which is a hundredth of a video.
    start = content.rindex(b"mdat") if suffix in (".mp4", ".mov") else 0
    for seed in range(80):
        chance = random.Random(seed)
        flipped = bytearray(content)
        for _ in range(1 + seed % 5):
            flipped[chance.randrange(start, len(content))] ^= 1 << chance.randrange(8)
        part = tmp_path / f"part{suffix}"
        part.write_bytes(flipped)
        times, is_content = read(part)
        assert not is_content or len(times) == LONG["frames"], f"seed {seed}"


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mp4", "libx264"),
        (".mp4", "libx265"),
        (".mkv", "libx264"),
        (".mkv", "mpeg4"),
        (".webm", "libvpx"),
        (".webm", "libvpx-vp9"),
        (".mkv", "libsvtav1"),
        (".mkv", "ffv1"),
    ],
)
def test_concealed_the_frames_stay_as_many_and_at_their_times(tmp_path, suffix, codec):
    """Any kind of damage inside of packets."""
    options = {
        "libx264": LONG["options"],
        "libx265": {"x265-params": "log-level=none"},
        "libsvtav1": {"svtav1-params": "keyint=12"},
    }
    whole = make(
        tmp_path / f"whole{suffix}", **LONG | {"codec": codec, "options": options.get(codec, {})}
    )
    times, _ = read(whole)
    content = whole.read_bytes()
    with av.open(str(whole)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size > 8]
    for seed in range(25):
        chance = random.Random(seed)
        damaged = bytearray(content)
        for packet in chance.sample(packets, 1 + seed % 4):
            start = content.index(packet)
            for _ in range(1 + seed % 6):
                damaged[start + chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
        part = tmp_path / f"part{suffix}"
        part.write_bytes(damaged)
        found, _ = read(part, conceal=True)
        assert found == times, f"seed {seed}"


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_video_that_goes_away_while_it_is_read_is_damaged(tmp_path, suffix):
    source = make(tmp_path / f"in{suffix}", **LONG)
    with VideoReader(source) as reader:
        source.unlink()
        with pytest.raises(InputDamaged, match="cannot be read again: No such file"):
            list(reader)
