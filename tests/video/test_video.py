"""Video files keep every frame once, in order and at its time, and all other streams."""

import io
import os
import random
import resource
import struct
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import clips
import numpy as np
import pytest
from clips import MS, make, see_frames, see_packets
from PIL import Image

from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError
from srgan_edge.live.writer import VideoWriter
from srgan_edge.video.convert import depth_bits
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CopiedPacket, Encoding, Frame
from srgan_edge.video.opening import MAX_PIXELS
from srgan_edge.video.reader import VideoReader

B_FRAMES = {"crf": "18", "bf": "3"}
VFR_MS = [0, 33, 66, 100, 400, 433, 1000, 1001, 1500]
FAST = Encoding(preset="ultrafast")
FONT = ("font.ttf", "application/x-truetype-font", b"glyphs")
BOTH = pytest.mark.parametrize("suffix", [".mp4", ".mkv"])


def upscale(source: Path, target: Path, encoding: Encoding = FAST, scale: int = 2) -> VideoWriter:
    """Upscale a whole video, with nearest neighbors instead of a network."""
    with VideoReader(source) as reader:
        size = (reader.info.width * scale, reader.info.height * scale)
        writer = VideoWriter(target, reader, size, encoding)
        with writer:
            for item in reader:
                if isinstance(item, CopiedPacket):
                    writer.copy(item)
                else:
                    larger = item.pixels.repeat(scale, axis=0).repeat(scale, axis=1)
                    writer.write(replace(item, pixels=larger))
    return writer


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_all(path: Path) -> list[Frame]:
    with VideoReader(path) as reader:
        return [item for item in reader if isinstance(item, Frame)]


def in_order(path: Path) -> bool:
    frames = see_frames(path)
    return [frame.number for frame in frames] == list(range(len(frames)))


# ---------------------------------------------------------------- frames and their times


@BOTH
@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({}, id="constant"),
        pytest.param({"frames": 1}, id="one frame"),
        pytest.param({"frames": 30, "options": B_FRAMES}, id="B-frames"),
        pytest.param({"time_base": MS, "pts": VFR_MS, "last_duration": 700}, id="VFR"),
        pytest.param(
            {"time_base": MS, "pts": [2000 + 40 * n for n in range(9)]}, id="starts at 2 s"
        ),
        pytest.param({"frames": 9, "size": (66, 34), "last_duration": 2048}, id="long last frame"),
    ],
)
def test_every_frame_comes_once_in_order_at_its_time(tmp_path, suffix, wanted):
    source = make(tmp_path / f"in{suffix}", **wanted)
    writer = upscale(source, tmp_path / f"out{suffix}", Encoding(options={"bf": "3"}))
    before, after = see_frames(source), see_frames(tmp_path / f"out{suffix}")
    assert [(f.number, f.start) for f in after] == [(f.number, f.start) for f in before]
    assert [f.number for f in after] == list(range(writer.frames_written))
    # MP4 stores decoding times; a frame's own duration is not in it once there are B-frames.
    if suffix == ".mkv" or "last_duration" not in wanted:
        assert after[-1].end == before[-1].end
    with av.open(str(tmp_path / f"out{suffix}")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == tuple(
            2 * side for side in clips.Clip(**wanted).size
        )


def test_the_last_frames_of_an_avi_are_as_far_apart_as_the_others(tmp_path):
    """FFmpeg states twice the rate of B-frames that it copies into an AVI; two have no time."""
    path = tmp_path / "in.avi"
    half = {"time_base": Fraction(1, 50), "stated_rate": Fraction(50), "pts": range(0, 40, 2)}
    make(path, frames=20, options=B_FRAMES, **half)
    with VideoReader(path) as reader:
        frames = list(reader)
        assert reader.notes.untimed == 2
    assert {later.pts - frame.pts for frame, later in pairwise(frames)} == {2}
    assert len(frames) == 20


def test_b_frames_at_a_variable_rate(tmp_path):
    source = make(tmp_path / "in.mkv", time_base=MS, pts=VFR_MS, options=B_FRAMES)
    upscale(source, tmp_path / "out.mp4")
    assert [f[:2] for f in see_frames(tmp_path / "out.mp4")] == [f[:2] for f in see_frames(source)]


def test_a_start_between_milliseconds_is_exact_in_mp4(tmp_path):
    ntsc = Fraction(1001, 30000)
    source = make(
        tmp_path / "in.mp4",
        time_base=ntsc,
        pts=range(1, 11),
        audio=["eng"],
        audio_start=Fraction(1, 7),
        container_options={"movie_timescale": "210000"},
    )
    upscale(source, tmp_path / "out.mp4")
    after = see_frames(tmp_path / "out.mp4")
    assert [frame.start for frame in after] == [ntsc * n for n in range(1, 11)]
    assert see_packets(tmp_path / "out.mp4", "audio") == see_packets(source, "audio")


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("suffix", [".avi", ".asf"])
def test_containers_without_presentation_times(tmp_path, suffix, codec):
    source = make(
        tmp_path / f"in{suffix}", codec=codec, time_base=Fraction(1, 25), options={"bf": "2"}
    )
    with VideoReader(source) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
        period = Fraction(1, 25) / reader.info.time_base
        assert reader.notes.nudged == 0
        assert (
            reader.notes.untimed <= 2
        )  # the last ones, which left the decoder after the last packet
    assert [clips.read_barcode(frame.pixels) for frame in frames] == list(range(12))
    assert {b.pts - a.pts for a, b in pairwise(frames)} == {period}


def test_two_frames_at_one_time_are_kept_apart(tmp_path):
    source = make(
        tmp_path / "in.mkv", codec="ffv1", options={}, time_base=MS, pts=[0, 40, 40, 80, 120]
    )
    with VideoReader(source) as reader:
        assert [item.pts for item in reader if isinstance(item, Frame)] == [0, 40, 41, 80, 120]
        assert reader.notes.nudged == 1


def test_resized_frames_show_the_same_image(tmp_path):
    source = make(tmp_path / "in.mp4", size=(64, 48))
    with (
        VideoReader(source) as reader,
        VideoWriter(tmp_path / "o.mp4", reader, (96, 72), FAST) as w,
    ):
        for item in reader:
            w.write(item)
    frames = read_all(tmp_path / "o.mp4")
    assert frames[0].pixels.shape == (72, 96, 3)
    assert in_order(tmp_path / "o.mp4")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    source = make(tmp_path / "in.mkv", audio=["eng"])
    for name in ("a.mkv", "b.mkv"):
        upscale(source, tmp_path / name, Encoding(options={"threads": "1"}))
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


# ---------------------------------------------------------------- everything else in the file


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mov_text"), (".mkv", "subrip")])
def test_audio_and_subtitles_are_copied_packet_by_packet(tmp_path, suffix, codec):
    source = make(tmp_path / f"in{suffix}", frames=20, audio=["eng", "deu"], subtitles=codec)
    target = tmp_path / f"out{suffix}"
    writer = upscale(source, target)
    for kind, streams in (("audio", 2), ("subtitle", 1)):
        assert see_packets(target, kind) == see_packets(source, kind)
        assert len(see_packets(target, kind)) == streams
    with av.open(str(target)) as video:
        kinds = [stream.type for stream in video.streams]
        assert kinds == ["video", "audio", "audio", "subtitle"]
        assert [s.language for s in list(video.streams)[1:]] == ["eng", "deu", "fra"]
    assert (writer.nudged, writer.left_out) == (0, [])


@BOTH
def test_what_the_file_says_of_itself_is_kept(tmp_path, suffix):
    wanted = {
        "metadata": {"title": "A video", "artist": "Somebody"},
        "chapters": True,
        "display": (90, True),
        "aspect": Fraction(4, 3),
        "audio": ["eng"],
    }
    source, target = make(tmp_path / f"in{suffix}", **wanted), tmp_path / f"out{suffix}"
    upscale(source, target)
    with VideoReader(source) as before, VideoReader(target) as after:
        assert after.info.display_matrix == before.info.display_matrix is not None
        assert after.info.sample_aspect_ratio == Fraction(4, 3)
        chapters = [video.container.chapters() for video in (before, after)]
        spans = [
            [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in found]
            for found in chapters
        ]
        assert spans[0] == spans[1]
        assert len(spans[0]) == 2
        metadata = {k.lower(): v for k, v in after.container.metadata.items()}
        assert (metadata["title"], metadata["artist"]) == ("A video", "Somebody")
        found = [[s.disposition for s in video.container.streams] for video in (before, after)]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("moved", "expected"),
    [((3 << 16, 64 << 16), (6 << 16, 128 << 16)), ((-5, 2**31 - 1), (-10, 2**31 - 1))],
)
def test_a_display_matrix_moves_a_larger_image_further(tmp_path, moved, expected):
    source, target = make(tmp_path / "in.mp4", display=(90, False)), tmp_path / "out.mp4"
    turned = (0, -65536, 0, 65536, 0, 0)
    content = source.read_bytes()
    whole, changed = (struct.pack(">9i", *turned, *move, 1 << 30) for move in ((0, 0), moved))
    assert content.count(whole) == 1
    source.write_bytes(content.replace(whole, changed))
    upscale(source, target)
    with VideoReader(source) as before, VideoReader(target) as after:
        assert before.info.display_matrix == (*turned, *moved, 1 << 30)
        assert after.info.display_matrix == (*turned, *expected, 1 << 30)


def test_cover_art_in_mp4(tmp_path):
    source, target = make(tmp_path / "in.mp4", cover="png"), tmp_path / "out.mp4"
    assert upscale(source, target).left_out == []
    images = []
    for path in (source, target):
        with av.open(str(path)) as video:
            best = video.streams.best("video")
            images += [bytes(p) for p in video.demux() if p.stream is not best and p.size]
    assert len(images) == 2
    assert images[0] == images[1]


def test_attachments_in_matroska(tmp_path):
    source = make(tmp_path / "in.mkv", attachment=FONT)
    upscale(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as video:
        (font,) = video.streams.attachments
        assert (font.name, font.mimetype) == ("font.ttf", "application/x-truetype-font")
        assert font.data == b"glyphs"


def test_cover_art_in_matroska(tmp_path):
    cover = make(tmp_path / "cover.mp4", cover="png")
    with av.open(str(cover)) as video:
        image = next(bytes(p) for p in video.demux() if p.stream.disposition.value == 1 << 10)
    source = make(tmp_path / "in.mkv", attachment=("cover.png", "image/png", image))
    upscale(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as video:
        assert [bytes(p) for p in video.demux(1) if p.size] == [image]
        assert video.streams[1].metadata["filename"] == "cover.png"


def test_cover_art_of_mp4_is_known_as_such_in_matroska(tmp_path):
    source = make(tmp_path / "in.mp4", cover="mjpeg")
    with av.open(str(source)) as video:
        image = next(bytes(p) for p in video.demux() if p.stream.disposition.value == 1 << 10)
    assert upscale(source, tmp_path / "out.mkv").left_out == []
    with av.open(str(tmp_path / "out.mkv")) as video:
        cover = next(it for it in video.streams if it.disposition.value == 1 << 10)
        tags = {"filename": "cover.jpg", "mimetype": "image/jpeg"}
        assert tags.items() <= cover.metadata.items()
        assert [bytes(p) for p in video.demux(cover) if p.size] == [image]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_audio_of_a_transport_stream_plays_in_another_container(tmp_path, suffix):
    source = make(tmp_path / "in.ts", time_base=Fraction(1, 90000), audio=["eng"])
    target = tmp_path / f"out{suffix}"
    upscale(source, target)
    (before,), (after,) = see_packets(source, "audio"), see_packets(target, "audio")
    tolerance = (MS if suffix == ".mkv" else Fraction(1, 44100)) / 2  # of the container's own unit
    assert all(abs(a.start - b.start) <= tolerance for a, b in zip(after, before, strict=True))
    with av.open(str(target)) as video:
        assert sum(1 for _ in video.decode(audio=0)) == len(before)


def test_what_is_left_out_is_named_before_anything_is_written(tmp_path):
    source = make(tmp_path / "in.mkv", attachment=FONT)
    with VideoReader(source) as reader:
        writer = VideoWriter(tmp_path / "out.mp4", reader, (64, 48), FAST)
    assert writer.left_out == ["attachment stream 1 (font.ttf)"]
    assert names_in(tmp_path) == ["in.mkv"]


# ---------------------------------------------------------------- formats of the output


@pytest.mark.parametrize(
    ("given", "expected"),
    [("yuv420p", "yuv420p"), ("yuv422p", "yuv422p"), ("yuv444p", "yuv444p"), ("nv12", "yuv420p")],
)
def test_chroma_keeps_its_resolution(tmp_path, given, expected):
    source = make(tmp_path / "in.mp4", pixel_format=given)
    upscale(source, tmp_path / "out.mp4")
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert reader.info.pixel_format == expected


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx265", ".mp4"), ("libsvtav1", ".mkv"), ("libvpx-vp9", ".webm")]
)
def test_other_codecs_keep_frames_and_times(tmp_path, codec, suffix):
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    source = make(tmp_path / "in.mkv", size=(128, 64), frames=8)
    upscale(source, tmp_path / f"out{suffix}", Encoding(codec, options=quiet))
    after = see_frames(tmp_path / f"out{suffix}")
    assert [f[:2] for f in after] == [f[:2] for f in see_frames(source)]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9"])
def test_no_encoder_makes_real_time_threads(tmp_path, codec):
    """SVT-AV1 does where it is run as root, and then nothing else gets that core."""
    source = make(tmp_path / "in.mkv", size=(128, 64), frames=2)
    with VideoReader(source) as reader:
        frames = list(reader)
        with VideoWriter(tmp_path / "out.mkv", reader, (128, 64), Encoding(codec)) as writer:
            for frame in frames:
                writer.write(frame)
            for thread in Path("/proc/self/task").iterdir():
                assert os.sched_getscheduler(int(thread.name)) == os.SCHED_OTHER


@pytest.mark.parametrize(
    ("name", "encoder"), [("h264", "libx264"), ("hevc", "libx265"), ("av1", "libsvtav1")]
)
def test_a_codec_by_its_own_name_is_encoded_like_by_that_of_its_encoder(
    tmp_path, capfd, name, encoder
):
    """The default quality and speed, and silence, belong to the encoder."""
    assert Encoding(name) == Encoding(encoder)
    source = make(tmp_path / "in.mkv", size=(128, 64), frames=2)
    upscale(source, tmp_path / "out.mkv", Encoding(name))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("size", "codec", "is_named"),
    [
        ((7680, 4320), "libx264", False),
        ((8194, 1024), "libx264", True),
        ((8192, 8192), "libx265", True),
        ((15360, 8640), "libsvtav1", True),
        ((15360, 8640), "ffv1", False),
    ],
)
def test_frames_that_few_players_show_are_named(tmp_path, size, codec, is_named):
    with VideoReader(make(tmp_path / "in.mkv", frames=1)) as reader:
        remarks = VideoEncoder(reader.info, size, Encoding(codec)).remarks
    assert [f"{size[0]}x{size[1]}" in line for line in remarks] == [True] * is_named


@BOTH
def test_one_or_two_frames_are_a_video_to_x265_too(tmp_path, suffix):
    """x265 takes their decoding times from memory that earlier videos left behind."""
    encoding = Encoding("libx265", preset="medium", options={"x265-params": "log-level=none"})
    for n, frames in enumerate([3, 1, 2, 1, 2, 1]):
        source = make(tmp_path / f"{n}{suffix}", size=(64, 64), frames=frames)
        upscale(source, tmp_path / f"{n}.out{suffix}", encoding)
        after = see_frames(tmp_path / f"{n}.out{suffix}")
        assert [f[:2] for f in after] == [f[:2] for f in see_frames(source)]
        with av.open(str(tmp_path / f"{n}.out{suffix}")) as video:
            packets = [packet for packet in video.demux(0) if packet.size]
        assert all(p.pts - 3 * p.duration <= p.dts <= p.pts for p in packets if p.dts is not None)


@pytest.mark.parametrize(
    ("name", "encoding", "message"),
    [
        ("out.avi", Encoding(), r"out\.avi: possible suffixes are \.mp4"),
        ("out.mp4", Encoding("libx246"), "no video codec is called libx246; did you mean libx26"),
        ("out.mp4", Encoding("aac"), "aac is not a video codec"),
        ("out.webm", Encoding(), r"out\.webm cannot hold libx264; use -o \S*out\.mkv"),
        ("out.mp4", Encoding(preset="quick"), "libx264 has no preset quick; possible: ultrafast"),
        ("out.mp4", Encoding(options={"crv": "3"}), "libx264 has no option crv"),
        ("out.mp4", Encoding("mpeg4", crf=3), "mpeg4 has no option crf"),
        ("out.mp4", Encoding(crf=99), r"libx264 has no crf 99; possible: --crf N from 0 .* to 51"),
        ("out.mp4", Encoding(options={"crf": "-1"}), "libx264 has no crf -1"),
        ("out.mp4", Encoding("h264", options={"qp": "52"}), "libx264 has no qp 52; .*-e qp=N"),
        ("out.mp4", Encoding(crf=20, options={"b": "1M"}), "--crf 20 and -e b=1M; possible: one"),
        ("out.mkv", Encoding(options={"time_base": "1/3"}), "-e time_base=1/3: the source decides"),
        ("out.mkv", Encoding(options={"color_range": "2"}), "-e color_range=2: the source decides"),
        (
            "out.mkv",
            Encoding(options={"x264-params": "bframes=2:fullrange=on"}),
            "fullrange in -e x264-params: the source decides that",
        ),
        (
            "out.mkv",
            Encoding("libx265", options={"x265-params": "colorprim=bt2020"}),
            "colorprim in -e x265-params: the source decides that",
        ),
        ("out.mkv", Encoding(options={"flags": "+pass1"}), r"-e flags=\+pass1: .* once; leave it"),
        (
            "out.mkv",
            Encoding(options={"x264-params": "dump-yuv=a"}),
            "dump-yuv in -e x264-params: frames are encoded once",
        ),
        (
            "out.mkv",
            Encoding(options={"x264-params": "bframes=2:foo=1"}),
            "libx264 ignores a part of .*: Error parsing option 'foo = 1'; correct it",
        ),
        (
            "out.mkv",
            Encoding("libx265", options={"x265-params": "preset=slow"}),
            "libx265 ignores a part of .*: Unknown option: preset; correct it",
        ),
        (
            "out.mkv",
            Encoding("libx265", options={"x265-params": "bframes=two"}),
            "Invalid value for bframes: two",
        ),
        (
            "out.mkv",
            Encoding("libsvtav1", options={"svtav1-params": "foo=1"}),
            "libsvtav1 ignores a part of .*: Error parsing option foo: 1; correct it",
        ),
        (
            "out.mkv",
            Encoding(crf=20, options={"x264-params": "qp=30"}),
            "--crf 20 and qp=30 in -e x264-params; possible: one of them",
        ),
        (
            "out.mkv",
            Encoding("libsvtav1", preset="8", options={"svtav1-params": "preset=4"}),
            "--preset 8 and preset=4 in -e svtav1-params; possible: one of them",
        ),
        (
            "out.mkv",
            Encoding(options={"crf": "20", "qp": "30"}),
            "-e crf=20 and -e qp=30; possible: one of them",
        ),
        (
            "out.mkv",
            Encoding(options={"x264-params": "bframes=2:bframes=3"}),
            "bframes is twice in -e x264-params; possible: once",
        ),
        (
            "out.mkv",
            Encoding(options={"x264-params": "crf=99"}),
            "libx264 has no crf 99",
        ),
        (
            "out.mkv",
            Encoding(options={"flags": "+ildct+ilme"}),
            r"-e flags=\+ildct\+ilme: the source",
        ),
        (
            "out.mkv",
            Encoding(options={"x264-params": "tff=1"}),
            "tff in -e x264-params: the source",
        ),
        (
            "out.mkv",
            Encoding(options={"tune": "nonsense"}),
            "does not accept -e tune=nonsense for .*; correct it, or leave it out",
        ),
        (
            "out.mkv",
            Encoding(crf=20, options={"x264-params": "keyint=10:foo"}),
            "does not accept --crf 20 -e x264-params=keyint=10:foo for .*; correct it",
        ),
        ("out.mkv", Encoding(options={"x264opts": "fullrange=on"}), "-e x264opts: .* type that"),
        ("out.mp4", Encoding("hevc", crf=52), "libx265 has no crf 52"),
        ("out.mp4", Encoding("libsvtav1", crf=64), "libsvtav1 has no crf 64"),
        ("out.mp4", Encoding("libsvtav1", preset="99"), "libsvtav1 does not accept --preset 99"),
        ("out.mp4", Encoding(pixel_format="yuv42p"), "no pixel format is called yuv42p"),
        ("out.mkv", Encoding("libsvtav1", pixel_format="yuv444p"), "libsvtav1 cannot .* yuv420p"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_written(
    tmp_path, name, encoding, message
):
    source = make(tmp_path / "in.mkv", frames=2)
    with pytest.raises(UsageError, match=message):
        upscale(source, tmp_path / name, encoding)
    assert names_in(tmp_path) == ["in.mkv"]


@pytest.mark.parametrize(
    ("codec", "key", "parameters"),
    [
        ("libx264", "x264-params", "bframes=2:aq-mode=1:qp=30"),
        ("libx264", "x264-params", "bitrate=500:vbv_maxrate=900:vbv_bufsize=900"),
        ("libx265", "x265-params", "log-level=none:no-sao=1:crf=28"),
        ("libsvtav1", "svtav1-params", "tune=0:preset=10:crf=40"),
    ],
)
def test_parameters_that_an_encoder_has_are_taken(tmp_path, codec, key, parameters):
    source = make(tmp_path / "in.mkv", frames=2)
    upscale(source, tmp_path / "out.mkv", Encoding(codec, options={key: parameters}))
    assert in_order(tmp_path / "out.mkv")


def test_a_subtitle_codec_the_container_cannot_hold(tmp_path):
    source = make(tmp_path / "in.mkv", subtitles="subrip")
    message = r"out\.mp4 cannot hold subtitle stream 1 \(\w+\); use -o \S*out\.mkv"
    with pytest.raises(UsageError, match=message):
        upscale(source, tmp_path / "out.mp4")
    assert names_in(tmp_path) == ["in.mkv"]


@pytest.mark.parametrize("name", ["in.mkv", "in.partial.mkv"])
def test_advice_names_no_input(tmp_path, name):
    source = make(tmp_path / name, subtitles="subrip")
    with pytest.raises(UsageError, match=r"use -o \S*/in-2\.mkv$"):
        upscale(source, tmp_path / "in.mp4")


def test_odd_sizes_need_full_chroma(tmp_path):
    source = make(tmp_path / "in.mkv", size=(31, 17), pixel_format="yuv444p", frames=3)
    with VideoReader(source) as reader:
        wanted = Encoding(pixel_format="yuv420p")
        # A height may not be less than that of the source.
        heights = {(31, 17): " or --height 18", (47, 27): " or --height 26", (3, 2): ""}
        for size, height in heights.items():
            with pytest.raises(UsageError, match=f" size; use --pix-fmt yuv444p{height}$"):
                VideoWriter(tmp_path / "out.mkv", reader, size, wanted)
    upscale(source, tmp_path / "out.mkv", scale=3)
    assert read_all(tmp_path / "out.mkv")[2].pixels.shape == (51, 93, 3)


def test_a_video_that_starts_before_zero_is_not_cut(tmp_path):
    """MP4 hides everything before zero. Such files exist (here: FLV's signed times)."""
    source = make(tmp_path / "in.mkv", frames=3)
    with VideoReader(source) as reader:
        reader.info = replace(reader.info, start_pts=-80)
        with pytest.raises(UsageError, match=r"starts before time zero.*use -o \S*out\.mkv"):
            VideoWriter(tmp_path / "out.mp4", reader, (64, 48), FAST)


# ---------------------------------------------------------------- refused inputs


def text(folder: Path) -> Path:
    (folder / "in.mp4").write_text("Four score and seven years ago\n" * 200)
    return folder / "in.mp4"


def empty(folder: Path) -> Path:
    (folder / "in.mp4").touch()
    return folder / "in.mp4"


def noise(folder: Path) -> Path:
    (folder / "in.mp4").write_bytes(random.Random(0).randbytes(5000))
    return folder / "in.mp4"


def playlist(folder: Path) -> Path:
    neighbor = make(folder / "neighbor.ts", time_base=Fraction(1, 90000))
    (folder / "in.mp4").write_text(f"ffconcat version 1.0\nfile {neighbor.name}\n")
    return folder / "in.mp4"


def stream_list(folder: Path) -> Path:
    neighbor = make(folder / "neighbor.ts", time_base=Fraction(1, 90000))
    (folder / "in.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{neighbor}\n#EXT-X-ENDLIST\n")
    return folder / "in.m3u8"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "in.mp4")
    return folder / "in.mp4"


def audio_only(folder: Path) -> Path:
    with av.open(str(folder / "in.mp4"), "w") as video:
        stream = video.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 44100, 0
        video.mux([*stream.encode(frame), *stream.encode(None)])
    return folder / "in.mp4"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (text, "is not a video; possible: MP4"),
        (noise, "is not a video; possible: MP4"),
        (playlist, "is not a video; possible: MP4"),
        (stream_list, "is not a video; possible: MP4"),
        (empty, "is empty"),
        (pipe, "is not a file"),
        (audio_only, "has no video stream"),
        (lambda folder: folder, "is not a file"),
        (lambda folder: folder / "missing.mp4", "cannot read .*: No such file"),
        (lambda folder: Path("/dev/zero"), "is not a file"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, source, message):
    with pytest.raises(InputRefused, match=message):
        VideoReader(source(tmp_path))


def test_a_name_with_a_colon_is_a_name(tmp_path):
    source = make(tmp_path / "plain.mp4", frames=2).rename(tmp_path / "http:a%d.mp4")
    upscale(source, tmp_path / "data:b%d.mp4")
    assert in_order(tmp_path / "data:b%d.mp4")


def test_a_frame_bomb_is_refused(tmp_path):
    side = 8200
    assert side * side > MAX_PIXELS
    with av.open(str(tmp_path / "in.avi"), "w") as video:
        stream = video.add_stream("png", rate=25, width=side, height=side, pix_fmt="gray")
        video.mux([*stream.encode(av.VideoFrame(side, side, "gray")), *stream.encode(None)])
    with pytest.raises(InputRefused, match=f"more than {MAX_PIXELS} pixels"):
        VideoReader(tmp_path / "in.avi")


def test_transparency_is_refused_unless_a_format_without_is_named(tmp_path):
    source = make(tmp_path / "in.mkv", frames=3, codec="ffv1", options={}, pixel_format="yuva420p")
    with pytest.raises(InputRefused, match=r"transparency, which.*--pix-fmt yuv420p"):
        VideoReader(source)
    with VideoReader(source, allow_opaque=True) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert [clips.read_barcode(frame.pixels) for frame in frames] == [0, 1, 2]


@pytest.mark.parametrize("pixel_format", ["bgra", "yuva444p10le", "yuva422p12le", "gbrap16le"])
def test_the_advice_for_transparency_names_a_format_and_a_codec_that_stores_it(
    tmp_path, pixel_format
):
    source = make(
        tmp_path / "in.mkv", frames=1, codec="ffv1", options={}, pixel_format=pixel_format
    )
    with pytest.raises(InputRefused) as refused, VideoReader(source):
        pass
    words = str(refused.value).rpartition(": ")[2].split()
    advised = dict(zip(words[::2], words[1::2], strict=True))
    encoding = Encoding(advised.get("-c", "libx264"), pixel_format=advised["--pix-fmt"])
    with VideoReader(source, allow_opaque=True) as reader:
        encoder = VideoEncoder(reader.info, (64, 48), encoding)
    assert depth_bits(encoder.pixel_format) >= depth_bits(pixel_format)


def test_motion_jpeg_of_a_camera(tmp_path):
    """Every frame carries EXIF as a kind of side data that PyAV has no name for."""
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side, which FFmpeg makes a display matrix of
    still = io.BytesIO()
    Image.fromarray(clips.barcode(0, (64, 48))).save(still, "JPEG", exif=exif, quality=95)
    source = tmp_path / "in.avi"
    with av.open(str(source), "w") as video:
        stream = video.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        video.start_encoding()
        packet = av.Packet(still.getvalue())
        packet.pts = packet.dts = 0
        packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
        video.mux_one(packet)
    upscale(source, tmp_path / "out.mp4")
    assert in_order(tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert next(video.decode(video=0)).rotation == -90


def test_which_formats_accept_8_bits():
    assert Encoding(pixel_format="yuv420p").accepts_8bit
    assert not Encoding(pixel_format="yuv420p10le").accepts_8bit
    assert not Encoding().accepts_8bit


# ---------------------------------------------------------------- damaged inputs

FAST_START = {"container_options": {"movflags": "+faststart"}}
LONG = {"frames": 60, "size": (128, 96), "options": {"crf": "23", "bf": "2", "g": "12"}}


@pytest.mark.parametrize(
    ("suffix", "wanted", "percent", "message"),
    [
        (".mp4", FAST_START, 99.7, "cut off, .* bytes are missing"),
        (".mp4", FAST_START, 50, "cut off, .* bytes are missing"),
        (".mp4", {"audio": ["eng"], **FAST_START}, 97, "cut off, .* bytes are missing"),
        (
            ".mp4",
            {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
            75,
            "cut off|ends",
        ),
        (".mkv", {}, 75, r"cut off, \d+ bytes are missing; ends at 1\.\d\d of 2\.40 s"),
        (".mkv", {"audio": ["eng"]}, 25, r"cut off, .*; ends at 0\.\d\d of 2\.4\d s"),
    ],
)
def test_a_cut_video_gives_what_it_has_and_is_not_a_success(
    tmp_path, suffix, wanted, percent, message
):
    source = make(tmp_path / f"in{suffix}", **LONG, **wanted)
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * percent / 100)])
    with pytest.raises(InputDamaged, match=message):
        upscale(source, tmp_path / f"out{suffix}")
    assert not (tmp_path / f"out{suffix}").exists()
    partial = tmp_path / f"out.partial{suffix}"
    numbers = [frame.number for frame in see_frames(partial)]
    assert numbers == sorted(set(numbers))
    # The frames that are still in the decoder when it meets the cut are lost with the last one.
    assert len(numbers) > 60 * percent / 100 - 16
    assert numbers[:-4] == list(range(len(numbers) - 4))


@pytest.mark.parametrize("percent", [5, 50, 95])
def test_a_video_without_its_index_is_damaged(tmp_path, percent):
    source = make(tmp_path / "in.mp4", **LONG)
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * percent / 100)])
    with pytest.raises(InputDamaged, match="cut off or its index is missing"):
        VideoReader(source)


def test_broken_bytes_in_the_middle(tmp_path):
    source = make(tmp_path / "in.mp4", **LONG)
    content = bytearray(source.read_bytes())
    middle = content.find(b"mdat") + 4000
    for place in range(middle, middle + 600, 37):
        content[place] ^= 0x55
    source.write_bytes(content)
    frames = []
    with VideoReader(source) as reader, pytest.raises(InputDamaged, match=r"at [01]\.\d\d s"):
        frames.extend(reader)
    assert len(frames) >= 40  # what can be decoded goes on behind the damage
    times = [frame.pts for frame in frames]
    assert times == sorted(times)


def test_frames_that_change_their_size(tmp_path):
    parts = [
        make(tmp_path / f"{width}.ts", time_base=Fraction(1, 90000), size=(width, 48))
        for width in (64, 80)
    ]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = []
    message = "change from 64x48 to 80x48 at"
    with VideoReader(tmp_path / "in.ts") as reader, pytest.raises(InputDamaged, match=message):
        frames.extend(reader)
    assert len(frames) == 12


def test_time_that_runs_back(tmp_path):
    part = make(tmp_path / "part.ts", time_base=Fraction(1, 90000), frames=40)
    (tmp_path / "in.ts").write_bytes(part.read_bytes() * 2)
    with pytest.raises(InputDamaged, match=r"time goes back from 1\.\d\d to 0\.\d\d s"):
        read_all(tmp_path / "in.ts")


# ---------------------------------------------------------------- whole or absent


def test_a_stopped_run_leaves_an_older_file_alone(tmp_path):
    source, target = make(tmp_path / "in.mp4", audio=["eng"]), tmp_path / "out.mp4"
    target.write_text("older")
    with VideoReader(source) as reader:
        writer = VideoWriter(target, reader, (64, 48), FAST)
        with pytest.raises(KeyboardInterrupt), writer:
            for frame in (item for item in reader if isinstance(item, Frame)):
                writer.write(frame)
                if writer.frames_written:
                    raise KeyboardInterrupt
    assert target.read_text() == "older"
    assert names_in(tmp_path) == ["in.mp4", "out.mp4"]
    assert writer.saved_as is None


def test_the_name_appears_only_when_the_file_is_whole(tmp_path):
    source, target = make(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    with VideoReader(source) as reader:
        with VideoWriter(target, reader, (64, 48), FAST) as writer:
            for item in reader:
                writer.write(item)
                assert not target.exists()
        assert target.exists()
    assert (writer.saved_as, writer.frames_written) == (target, 12)


@pytest.mark.parametrize("limit", [0, 2000, 20000])
@BOTH
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, suffix, limit):
    source = make(tmp_path / f"in{suffix}", frames=30, size=(160, 120), audio=["eng"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputFailed, match=f"cannot write .*out{suffix}"):
            upscale(source, tmp_path / f"out{suffix}", Encoding(crf=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == [source.name]


def test_a_missing_folder_is_an_error(tmp_path):
    source = make(tmp_path / "in.mp4", frames=2)
    with pytest.raises(OutputFailed, match="mkdir"):
        upscale(source, tmp_path / "missing" / "out.mp4")


def test_files_are_closed(tmp_path):
    source = make(tmp_path / "in.mp4", frames=2)
    before = len(names_in(Path("/proc/self/fd")))
    for n in range(3):
        upscale(source, tmp_path / f"{n}.mp4")
        with pytest.raises(InputRefused):
            VideoReader(tmp_path)
    assert len(names_in(Path("/proc/self/fd"))) <= before


def motion_jpeg(path: Path) -> tuple[bytes, list[bytes]]:
    """Write a video of 12 frames with the tables of cameras; return it, and its packets."""
    coding = {"codec": "mjpeg", "pixel_format": "yuvj420p", "options": {"huffman": "default"}}
    make(path, time_base=Fraction(1, 25), color=(5, 2, 2, 2), **coding)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return path.read_bytes(), packets


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
def test_a_broken_frame_of_motion_jpeg_is_damage(tmp_path, suffix):
    """Its decoder logs that, and returns the frame with a rest that is gray."""
    path = tmp_path / f"in{suffix}"
    content, packets = motion_jpeg(path)
    start = content.index(packets[5]) + packets[5].index(b"\xff\xda") + 40
    path.write_bytes(content[:start] + random.Random(1).randbytes(60) + content[start + 60 :])
    with pytest.raises(InputDamaged, match=r"a frame cannot be decoded at 0\.20 s"):
        read_all(path)
    with VideoReader(path, conceal=True) as reader:
        times = [item.pts * reader.info.time_base for item in reader]
        assert times == [Fraction(n, 25) for n in range(12)]
        assert reader.notes.damage and reader.notes.concealed == 1


SLICES = {"codec": "ffv1", "time_base": Fraction(1, 25), "size": (160, 128)}


@pytest.mark.parametrize(("suffix", "written"), [(".avi", {}), (".mkv", {"write_crc32": "0"})])
@pytest.mark.parametrize("part", ["slice", "its size", "its checksum"])
def test_a_broken_slice_of_ffv1_is_damage(tmp_path, suffix, written, part):
    """Its decoder logs that, and shows the slice of the frame before."""
    options = {"level": "3", "slices": "4"}
    path = make(tmp_path / f"in{suffix}", options=options, container_options=written, **SLICES)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    end = content.index(packets[5]) + len(packets[5])
    at = end - {"slice": 100, "its size": 7, "its checksum": 2}[part]
    path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
    with pytest.raises(InputDamaged, match=r"part of a frame is missing at 0\.20 s"):
        read_all(path)
    with VideoReader(path, conceal=True) as reader:
        assert len(list(reader)) == 12
        assert str(reader.notes.damage).startswith("part of a frame is missing at 0.20 s")


@pytest.mark.parametrize(
    "options",
    [
        {"level": "1"},
        {"level": "3", "slicecrc": "0"},
        {"level": "3", "slices": "24", "coder": "ac"},
        {"level": "4", "slicecrc": "2", "strict": "-2"},
    ],
    ids=["version 1", "without checksums", "many slices", "version 4"],
)
def test_every_version_of_ffv1_is_whole_as_it_was_written(tmp_path, options):
    assert len(read_all(make(tmp_path / "in.mkv", options=options, **SLICES))) == 12


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
def test_a_broken_frame_of_png_is_damage(tmp_path, suffix):
    """Its decoder passes over checksums that differ, unless it is asked not to."""
    path = make(
        tmp_path / f"in{suffix}", codec="png", pixel_format="rgb24", time_base=Fraction(1, 25)
    )
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    at = content.index(packets[5]) + packets[5].index(b"IEND") + 5  # of its checksum
    path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
    with pytest.raises(InputDamaged, match=r"at 0\.20 s"):
        read_all(path)


@pytest.mark.parametrize("suffix", [".avi", ".mov"])
@pytest.mark.parametrize(
    ("written", "instead"),
    [(b"\xff\xc4", b"\xff\xfe"), (b"\xff\xd9", b"\0\0"), (b"\xff\xd9", b"\xff\xff")],
    ids=["no Huffman tables", "no end", "filled up"],
)
def test_motion_jpeg_as_cameras_write_it_is_no_damage(tmp_path, suffix, written, instead):
    path = tmp_path / f"in{suffix}"
    content, packets = motion_jpeg(path)
    for packet in packets:
        assert written in packet
        content = content.replace(packet, packet.replace(written, instead))
    path.write_bytes(content)
    assert len(read_all(path)) == 12
