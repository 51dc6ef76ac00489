"""Players see the colors of a result as they were computed, in every codec and container."""

from fractions import Fraction

import av
import numpy as np
import pytest
from clips import make
from transcoding import refused, upscale

from srgan_edge.video.frame import Encoding, Frame
from srgan_edge.video.reader import VideoReader

UNTAGGED, BT709, FULL_BT709 = (2, 0, 2, 2), (1, 1, 2, 2), (1, 2, 1, 1)
"""Matrix, range, primaries, transfer; a small source without tags is taken as BT.601 (6)."""

_RATE = Fraction(1, 25)

_EVERYWHERE = [
    ("libx264", "yuv420p", ".mkv .mp4 .mov"),
    ("libx265", "yuv420p", ".mkv .mp4 .mov"),
    ("libsvtav1", "yuv420p", ".mkv .mp4"),
    ("libvpx-vp9", "yuv420p", ".mkv .mp4"),
    ("ffv1", "yuv420p", ".mkv .mp4"),
    ("mpeg4", "yuv420p", ".mkv .mp4"),
]
"""Encoder, pixel format, and the containers in which all four tags are stated."""

_WITHOUT_RANGE = [
    ("mpeg4", "yuv420p"),
    ("msmpeg4", "yuv420p"),
    ("cfhd", "yuv422p10le"),
    ("v210", "yuv422p10le"),
    ("v308", "yuv444p"),
    ("svq1", "yuv410p"),
]
"""Encoder and pixel format whose range MOV does not state: it has no word for it."""

_PAIRS = [(codec, pixels, it) for codec, pixels, where in _EVERYWHERE for it in where.split()]


def patches(path, color, frames=2):
    """Write a lossless video of four saturated patches, tagged with `color`."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
        stream.time_base = stream.codec_context.time_base = _RATE
        tagged = stream.codec_context
        tagged.colorspace, tagged.color_range, tagged.color_primaries, tagged.color_trc = color
        yuv = np.zeros((3, 64, 64), np.uint8)
        for number, values in enumerate([(90, 90, 200), (150, 60, 60), (70, 200, 110), (120,) * 3]):
            top, left = 32 * (number // 2), 32 * (number % 2)
            yuv[:, top : top + 32, left : left + 32] = np.array(values)[:, None, None]
        for pts in range(frames):
            frame = av.VideoFrame.from_ndarray(yuv, "yuv444p")
            frame.pts, frame.time_base = pts, _RATE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def shown(path):
    """Return the RGB in the middle of the patches, by what the file states."""
    with VideoReader(path, allow_8bit=True) as reader:
        pixels = next(item for item in reader if isinstance(item, Frame)).pixels
    side = len(pixels)
    middles = [side // 4, 3 * side // 4]
    return pixels[np.ix_(middles, middles)].astype(int)


def tags(path):
    with av.open(str(path)) as video:
        frame = next(video.decode(video=0))
    return (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)


@pytest.mark.parametrize("color", [UNTAGGED, BT709, FULL_BT709])
@pytest.mark.parametrize(("codec", "pixels", "suffix"), _PAIRS)
def test_a_result_states_its_colors(tmp_path, codec, pixels, suffix, color):
    source, target = patches(tmp_path / "in.mkv", color), tmp_path / f"out{suffix}"
    notes = upscale(source, target, encoding=Encoding(codec, pixel_format=pixels))
    assert tags(target) == ((6, 1, 2, 2) if color == UNTAGGED else color)
    assert np.abs(shown(target) - shown(source)).max() <= 6
    assert not any("left out" in note for note in notes)


@pytest.mark.parametrize(("codec", "pixels"), _WITHOUT_RANGE)
def test_what_players_assume_is_named_if_it_is_not_stated(tmp_path, codec, pixels):
    source, target = patches(tmp_path / "in.mkv", BT709), tmp_path / "out.mov"
    notes = upscale(source, target, encoding=Encoding(codec, pixel_format=pixels))
    assert tags(target) == (1, 0, 2, 2)
    assert any("left out: the color range (limited, which" in note for note in notes)
    assert np.abs(shown(target) - shown(source)).max() <= 6


@pytest.mark.parametrize(("codec", "pixels"), _WITHOUT_RANGE)
def test_a_full_range_that_would_be_read_as_limited_is_refused(tmp_path, codec, pixels):
    source = patches(tmp_path / "in.mkv", FULL_BT709)
    message = "its colors would be read as bt709 limited, not bt709 full"
    refused(source, tmp_path / "out.mov", message, encoding=Encoding(codec, pixel_format=pixels))


@pytest.mark.parametrize("color", [UNTAGGED, BT709, FULL_BT709])
@pytest.mark.parametrize(
    ("codec", "pixels", "suffix", "matrix", "span"),
    [
        ("mjpeg", "yuvj444p", ".mkv", 5, 2),
        ("mjpeg", "yuvj420p", ".mp4", 5, 2),
        ("mjpeg", "yuv420p", ".mov", 5, 2),
        ("libvpx", "yuv420p", ".mkv", 5, 1),
        ("magicyuv", "yuv444p", ".mov", None, 1),
    ],
)
def test_codecs_of_one_matrix_or_range_get_frames_of_it(
    tmp_path, codec, pixels, suffix, matrix, span, color
):
    """JPEG is BT.601 in full range by definition, and its decoders do not look at a container."""
    source, target = patches(tmp_path / "in.mkv", color), tmp_path / f"out{suffix}"
    upscale(source, target, encoding=Encoding(codec, pixel_format=pixels))
    asked = 6 if color == UNTAGGED else color[0]
    assert tags(target)[:2] == (matrix or asked, span)
    assert np.abs(shown(target) - shown(source)).max() <= 6


def test_a_palette_is_rgb(tmp_path):
    source, target = patches(tmp_path / "in.mkv", BT709), tmp_path / "out.mov"
    upscale(source, target, encoding=Encoding("png", pixel_format="pal8"))
    with av.open(str(target)) as video:
        assert video.streams.video[0].codec_context.colorspace == 0


def test_a_result_states_no_transparency_that_it_does_not_have(tmp_path):
    """Matroska's muxer writes AlphaMode from a tag of this name."""
    tagged = tmp_path / "in.webm"
    source = make(tmp_path / "in.mkv", codec="libvpx-vp9", options={"cpu-used": "8"})
    with av.open(str(source)) as plain, av.open(str(tagged), "w") as output:
        stream = output.add_stream_from_template(plain.streams.video[0])
        stream.metadata["alpha_mode"] = "1"
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    upscale(tagged, tmp_path / "out.mkv", encoding=Encoding("libvpx-vp9", pixel_format="yuv420p"))
    with av.open(str(tmp_path / "out.mkv")) as result:
        assert "alpha_mode" not in result.streams.video[0].metadata
    assert b"\x53\xc0\x81\x01" not in (tmp_path / "out.mkv").read_bytes()
