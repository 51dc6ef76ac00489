"""Deep and HDR videos are read, upscaled and written without loss."""

import re
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import make, see_frames

from srgan_edge.color_lock import locked
from srgan_edge.depth import deepened, shown_to_network
from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.jobs.plan import Options
from srgan_edge.live.writer import VideoWriter
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import segments
from srgan_edge.video.color import BT709, SMPTE170M, ColorDescription
from srgan_edge.video.frame import CopiedPacket, Encoding, Frame
from srgan_edge.video.reader import VideoReader
from tests.transcode.test_transcode import upscale as upscale_video_file
from tests.video.test_color import blocks, middles
from tests.video.test_frame_conversion import codes_of, frame_of, samples_of, some_rgb

BT2020 = 9
PQ, HLG = 16, 18
LOSSLESS = {
    "ffv1": {},
    "libx264": {"qp": "0", "preset": "ultrafast"},
    "libx265": {"x265-params": "lossless=1:log-level=none", "preset": "ultrafast"},
}
DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
HDR10 = {
    "x265-params": f"lossless=1:master-display={DISPLAY}:max-cll=1000,400:log-level=none",
    "preset": "ultrafast",
}


def write(path, frames, codec="ffv1", color=(BT709, 1, 2, 2), options=None):
    """A video of these frames, 25 a second."""
    with av.open(str(path), "w") as video:
        stream = video.add_stream(codec, rate=25, options=options or LOSSLESS[codec])
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = frames[0].format.name
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            video.mux(stream.encode(frame))
        video.mux(stream.encode(None))
    return path


def upscale(source, target, encoding, scale=1, **allowed):
    """Upscale a whole video, with nearest neighbors instead of a network."""
    with VideoReader(source, **allowed) as reader:
        size = (reader.info.width * scale, reader.info.height * scale)
        with VideoWriter(target, reader, size, encoding) as writer:
            for item in reader:
                if isinstance(item, CopiedPacket):
                    writer.copy(item)
                else:
                    larger = item.pixels.repeat(scale, 0).repeat(scale, 1)
                    deep = None if item.deep is None else deepened(item.deep, larger)
                    writer.write(replace(item, pixels=larger, deep=deep))
    return writer


def first_frame(path):
    with av.open(str(path)) as video:
        return next(video.decode(video=0))


def tags(frame):
    return frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc


def side_data(frame):
    return {
        data.type.name: bytes(memoryview(data))
        for data in frame.side_data
        if data.type.name in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    }


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize(("codec", "bits"), [("libx264", 10), ("libx265", 10), ("libx265", 12)])
@pytest.mark.parametrize(
    ("matrix", "color_range"), [(SMPTE170M, 1), (BT709, 1), (BT709, 2), (BT2020, 1), (BT2020, 2)]
)
def test_color_bars_go_through_unchanged(tmp_path, codec, bits, chroma, matrix, color_range):
    """Depth, chroma and tags as in the input by default; every color to the code."""
    color = ColorDescription(matrix, color_range == 2)
    rgb = 0.1 + 0.8 * some_rgb()  # inside RGB after rounding, so that nothing is clipped
    codes = np.round(codes_of(rgb, color, bits))
    name = f"yuv{chroma}p{bits}le"
    given = (matrix, color_range, 9, 14)
    source = write(tmp_path / "in.mkv", [frame_of(blocks(codes, np.uint16), name)], color=given)
    upscale(source, tmp_path / "out.mkv", Encoding(codec, options=LOSSLESS[codec]))
    frame = first_frame(tmp_path / "out.mkv")
    assert (frame.format.name, tags(frame)) == (name, given)
    assert np.array_equal(middles(samples_of(frame)), middles(blocks(codes, np.uint16)))


@pytest.mark.parametrize(
    ("given", "codec", "stored"),
    [
        ("gray10le", "libx264", "yuv420p10le"),
        ("gray12le", "libx265", "yuv420p12le"),
        ("yuv420p9le", "libx264", "yuv420p10le"),
        ("yuv440p10le", "libx264", "yuv444p10le"),
        ("gbrp10le", "libx264", "yuv444p10le"),
        ("gbrp12le", "libx265", "yuv444p12le"),
        ("yuv422p14le", "ffv1", "yuv422p16le"),
        ("rgb48le", "ffv1", "yuv444p16le"),
    ],
)
def test_the_format_is_the_usual_one_with_all_of_the_input(tmp_path, given, codec, stored):
    source = make(tmp_path / "in.mkv", codec="ffv1", options={}, pixel_format=given, frames=2)
    upscale(source, tmp_path / "out.mkv", Encoding(codec, options=LOSSLESS[codec]), scale=2)
    assert first_frame(tmp_path / "out.mkv").format.name == stored


@pytest.mark.parametrize(
    "named", ["gbrp10le", "gray10le", "yuv444p12le", "yuv420p", "yuvj420p", "gray"]
)
def test_a_named_format_is_obeyed(tmp_path, named):
    """Use gray levels, which every format can store: 0.2, 0.5 and 0.8 of white."""
    color = ColorDescription(BT709, False)
    rgb = np.array([0.2, 0.5, 0.8, 0.5] * 16)[:, None].repeat(3, 1)
    codes = np.round(codes_of(rgb, color, 10))
    source = write(tmp_path / "in.mkv", [frame_of(blocks(codes, np.uint16), "yuv420p10le")])
    encoding = Encoding("libx265", pixel_format=named, options=LOSSLESS["libx265"])
    upscale(source, tmp_path / "out.mkv", encoding, allow_8bit=encoding.accepts_8bit)
    assert first_frame(tmp_path / "out.mkv").format.name == named
    with VideoReader(tmp_path / "out.mkv") as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
    assert np.abs(middles(frame.pixels) - rgb * 255).max() <= 1


@pytest.mark.parametrize("name", ["yuv420p10le", "yuv422p12le", "gray10le", "gbrp10le"])
def test_odd_sizes(tmp_path, name):
    size = (97, 63)
    source = make(
        tmp_path / "in.mkv", codec="ffv1", options={}, pixel_format=name, frames=2, size=size
    )
    upscale(source, tmp_path / "out.mkv", Encoding("libx265"), scale=4)
    frame = first_frame(tmp_path / "out.mkv")
    assert (frame.width, frame.height) == (4 * 97, 4 * 63)
    assert [seen.number for seen in see_frames(tmp_path / "out.mkv")] == [0, 1]
    if "420" in name:
        with pytest.raises(UsageError, match="an odd size; use --pix-fmt yuv444p10le or "):
            upscale(source, tmp_path / "out.mkv", Encoding(), scale=1)


def test_a_codec_that_cannot_store_the_depth_is_refused_with_one_that_can(tmp_path):
    source = make(
        tmp_path / "in.mkv", codec="ffv1", options={}, pixel_format="yuv422p12le", frames=1
    )
    for codec in ("libx264", "libsvtav1"):
        message = f"{codec} cannot store yuv422p12le; possible: -c libx265 or --pix-fmt yuv420p"
        with pytest.raises(UsageError, match=message):
            upscale(source, tmp_path / "out.mkv", Encoding(codec))
    with pytest.raises(UsageError, match="libx265 cannot store yuva420p; possible: --pix-fmt"):
        upscale(source, tmp_path / "out.mkv", Encoding("libx265", pixel_format="yuva420p"))


def test_a_ten_bit_slope_keeps_its_steps(tmp_path):
    """A dark slope of 100 codes over 400 pixels: 8 bits have 25 levels for it, and show bands."""
    luma = 200 + np.arange(400) // 4
    codes = np.stack([luma, np.full(400, 512), np.full(400, 512)], -1)[None].repeat(32, 0)
    source = write(tmp_path / "in.mkv", [frame_of(codes, "yuv420p10le")])
    steps = {}
    for name in ("yuv420p10le", "yuv420p"):
        encoding = Encoding(pixel_format=name, options=LOSSLESS["libx264"])
        target = tmp_path / f"{name}.mkv"
        upscale(source, target, encoding, scale=4, allow_8bit=encoding.accepts_8bit)
        row = samples_of(first_frame(target))[64, :, 0].astype(int)
        steps[name] = len(np.unique(row)), np.diff(row).max()
    assert steps["yuv420p10le"] == (100, 1)
    assert steps["yuv420p"][0] <= 26


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_hdr_metadata_is_carried(tmp_path, codec, suffix):
    """HDR metadata as a decoder reports it: exact with x264 and x265, rounded with SVT-AV1."""
    pq = (BT2020, 1, 9, PQ)
    image = frame_of(np.full((64, 128, 3), 512), "yuv420p10le")
    source = write(tmp_path / "in.mkv", [image] * 3, "libx265", pq, HDR10)
    target = tmp_path / f"out{suffix}"
    own = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    writer = upscale(
        source, target, Encoding(codec, preset="ultrafast" if "x26" in codec else "12", options=own)
    )
    before, after = first_frame(source), first_frame(target)
    assert (after.format.name, tags(after)) == ("yuv420p10le", pq)
    assert writer.left_out == []
    with VideoReader(source) as given, VideoReader(target) as got:
        assert got.info.hdr.light_levels == given.info.hdr.light_levels == (1000, 400)
        wanted, found = given.info.hdr.display, got.info.hdr.display
    assert (wanted.brightest, wanted.darkest) == (1000, Fraction(1, 200))
    if codec != "libsvtav1":
        assert side_data(after) == side_data(before) != {}
    for name in ("red", "green", "blue", "white"):
        pairs = zip(getattr(found, name), getattr(wanted, name), strict=True)
        assert all(abs(a - b) < Fraction(1, 50000) for a, b in pairs)
    assert abs(found.darkest - wanted.darkest) < Fraction(1, 10000)
    assert abs(found.brightest - wanted.brightest) < Fraction(1, 100)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_segments_of_an_hdr_video_join_to_one(tmp_path, codec, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", 5)
    pq, codes = (BT2020, 1, 9, PQ), np.full((64, 128, 3), 512)
    images = []
    for number in range(12):
        codes[..., 0] = 300 + np.arange(128) // 2 + number
        images.append(frame_of(codes, "yuv420p10le"))
    source = write(tmp_path / "in.mkv", images, "libx265", pq, HDR10)
    encoding = Encoding(codec, options=LOSSLESS[codec])
    target = tmp_path / "out.mp4"
    upscale_video_file(source, target, options=Options("nearest", encoding, Tiling()))
    with av.open(str(target)) as joined:
        frames = list(joined.decode(video=0))
    assert side_data(frames[0]) == side_data(first_frame(source)) != {}
    assert {tags(frame) for frame in frames} == {pq}
    for number, frame in enumerate(frames):
        luma = samples_of(frame)[64, :, 0].astype(int)
        assert len(np.unique(luma)) == 64
        assert abs(luma.mean() - 331.5 - number) < 1
    assert len(frames) == 12


def test_hdr_metadata_that_a_codec_cannot_store_is_named(tmp_path):
    image = frame_of(np.full((64, 128, 3), 512), "yuv420p10le")
    source = write(tmp_path / "in.mkv", [image], "libx265", (BT2020, 1, 9, PQ), HDR10)
    writer = upscale(source, tmp_path / "out.mkv", Encoding("ffv1"))
    (line,) = writer.left_out
    assert line.startswith("mastering display and light levels: ffv1 cannot store them; -c libx264")


@pytest.mark.parametrize(
    ("codec", "suffix", "name"),
    [
        ("libx264", ".mov", "yuv420p10le"),
        ("libx265", ".mov", "yuv420p12le"),
        ("libsvtav1", ".mp4", "yuv420p10le"),
        ("prores_ks", ".mov", "yuv422p10le"),
        ("ffv1", ".mkv", "yuv444p16le"),
    ],
)
def test_every_codec_stores_the_tags(tmp_path, codec, suffix, name):
    color = (BT2020, 1, 9, HLG)
    source = make(tmp_path / "in.mkv", codec="ffv1", options={}, pixel_format=name, color=color)
    upscale(source, tmp_path / f"out{suffix}", Encoding(codec), scale=2)
    frame = first_frame(tmp_path / f"out{suffix}")
    assert (frame.format.name, tags(frame)) == (name, color)


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("bits", [8, 10])
def test_hdr_brightness_is_carried_as_stored(tmp_path, transfer, bits):
    color = (BT2020, 1, 9, transfer)
    name = "yuv420p10le" if bits == 10 else "yuv420p"
    source = make(tmp_path / "in.mkv", pixel_format=name, color=color, frames=2)
    upscale(source, tmp_path / "out.mkv", Encoding())
    frame = first_frame(tmp_path / "out.mkv")
    assert (frame.format.name, tags(frame)) == (name, color)


def join(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_tags_that_change_are_followed_and_said_once(tmp_path):
    """Two recordings in one transport stream: the same colors, stored in two ways."""
    parts = []
    for matrix, name in ((SMPTE170M, "yuv420p"), (BT709, "yuv444p"), (SMPTE170M, "yuv420p")):
        part = tmp_path / f"{len(parts)}.ts"
        parts.append(
            make(
                part,
                time_base=Fraction(1, 90000),
                pts=[3600 * n + 18000 * len(parts) for n in range(5)],
                pixel_format=name,
                color=(matrix, 1, 2, 2),
            )
        )
    source = join(tmp_path / "in.ts", *parts)
    with VideoReader(source) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
        assert reader.notes.recolored.startswith("yuv420p, smpte170m limited")
        assert "to yuv444p, bt709 limited" in reader.notes.recolored
    assert len(frames) == 15
    for first, second in zip(frames[:5], frames[5:10], strict=True):
        assert np.abs(first.pixels.astype(int) - second.pixels).mean() < 2


def test_more_bits_than_the_output_has_are_not_dropped_in_silence(tmp_path):
    parts = [
        make(
            tmp_path / f"{name}.ts",
            time_base=Fraction(1, 90000),
            pts=[3600 * n + start for n in range(5)],
            pixel_format=name,
        )
        for name, start in (("yuv420p", 0), ("yuv420p10le", 18000))
    ]
    source = join(tmp_path / "in.ts", *parts)
    message = r"more than 8 bits from .* s on; type --pix-fmt yuv420p10le to keep them"
    with pytest.raises(UsageError, match=message):
        upscale(source, tmp_path / "a.mkv", Encoding())
    for name in ("yuv420p", "yuv420p10le"):
        encoding = Encoding(pixel_format=name)
        upscale(source, tmp_path / "b.mkv", encoding, allow_8bit=encoding.accepts_8bit)
        assert first_frame(tmp_path / "b.mkv").format.name == name


def test_a_format_that_cannot_be_read_is_refused(tmp_path):
    source = make(
        tmp_path / "in.mkv",
        codec="ffv1",
        options={"strict": "-2"},
        pixel_format="gbrpf32le",
        frames=1,
    )
    with pytest.raises(InputRefused, match="pixel format gbrpf32le; possible: Y'CbCr, RGB or gray"):
        VideoReader(source)


def test_the_network_is_shown_the_nearest_8_bits(tmp_path):
    source = make(tmp_path / "in.mkv", pixel_format="yuv420p10le", frames=2)
    with VideoReader(source) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
    assert np.array_equal(frame.pixels, shown_to_network(frame.deep))
    with VideoReader(source, allow_8bit=True) as reader:
        assert next(item for item in reader if isinstance(item, Frame)).deep is None


def dolby_vision_metadata():
    """A unit of type 62 that leaves all colors as they are (ETSI GS CCM 001, its syntax 5.3)."""

    def ue(number):  # Exp-Golomb
        digits = f"{number + 1:b}"
        return "0" * (len(digits) - 1) + digits

    coefficient = 23
    header = f"{25:08b}{2:06b}{18:011b}{1:04b}{0:04b}1000{ue(coefficient)}010"
    depths = f"{ue(2)}{ue(2)}{ue(4)}00000100"  # of base, enhancement and result, less 8
    pivots = 3 * (ue(0) + f"{0:010b}{1023:010b}")
    line = ue(0) + ue(0) + "0" + ue(0) + "0" * coefficient + ue(1) + "0" * coefficient
    bits = header + depths + 3 * ue(0) + pivots + 2 * ue(0) + 3 * line
    bits += "0" * (-len(bits) % 8)
    content = int(bits, 2).to_bytes(len(bits) // 8) + bytes(4) + b"\x80"  # nobody checks the sum
    escaped = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", content)
    return b"\0\0\0\1\x7c\x01" + escaped


def write_dolby_vision(path, color):
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx265", rate=25, options=LOSSLESS["libx265"])
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        frame = frame_of(np.full((64, 128, 3), 512), "yuv420p10le")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        for coded in [*stream.encode(frame), *stream.encode(None)]:
            packet = av.Packet(bytes(coded) + dolby_vision_metadata())
            packet.pts = packet.dts = 0
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            video.mux_one(packet)
    assert "DOVI_RPU_BUFFER" in [data.type.name for data in first_frame(path).side_data]
    return path


def test_dolby_vision_over_hdr10_is_named_as_left_out(tmp_path):
    source = write_dolby_vision(tmp_path / "in.ts", (BT2020, 1, 9, PQ))
    writer = upscale(source, tmp_path / "out.mkv", Encoding())
    assert writer.left_out == ["Dolby Vision metadata"]
    assert tags(first_frame(tmp_path / "out.mkv")) == (BT2020, 1, 9, PQ)


def test_dolby_vision_that_is_all_there_is_is_refused(tmp_path):
    """Profile 5: without its metadata, faces are green."""
    source = write_dolby_vision(tmp_path / "in.ts", (2, 2, 2, 2))
    with pytest.raises(InputRefused, match=r"Dolby Vision of profile 5.* convert it to HDR10"):
        VideoReader(source)


def test_depth_survives_a_network_whose_colors_are_locked():
    """Red is six levels too high: what was a ten-bit slope is one again."""
    deep = (13000 + 64 * (np.arange(400) // 4)).astype(np.uint16)
    deep = deep[None, :, None].repeat(48, 0).repeat(3, 2)
    seen = shown_to_network(deep)
    reddened = seen.repeat(4, 0).repeat(4, 1) + np.array([6, 0, 0], np.uint8)
    loose, held = deepened(deep, reddened), deepened(deep, locked(seen, reddened))
    assert len(np.unique(loose[96, :, 0])) < 30
    for channel in range(3):
        row = held[96, :, channel].astype(int)
        assert np.abs(row[8:-8] - np.repeat(deep[0, :, channel], 4)[8:-8]).max() < 64
        assert np.abs(np.diff(row)).max() < 64
