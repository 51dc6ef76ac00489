"""Colors follow the specification, and files keep them to within one level."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest

from srgan_edge.errors import InputRefused
from srgan_edge.live.writer import VideoWriter
from srgan_edge.video.color import (
    BT470BG,
    BT709,
    MATRICES,
    RGB,
    SMPTE170M,
    ColorDescription,
    rgb_from_yuv,
    unclipped_rgb,
)
from srgan_edge.video.frame import Encoding, Frame
from srgan_edge.video.reader import VideoReader

BT2020 = 9
BLOCK = 16  # pixels: the middle of a block is beyond the reach of chroma interpolation
LOSSLESS = {"libx264": {"qp": "0", "preset": "ultrafast"}, "ffv1": {}}
SCHEMES = [(matrix, full) for matrix in (BT709, SMPTE170M, BT2020) for full in (False, True)]


def yuv_from_rgb(rgb, matrix, full_range, bits=8):
    """Apply H.273, equations 44 to 49: the inverse of the code under test."""
    step = 2 ** (bits - 8)
    _, k_red, k_blue = MATRICES[matrix]
    red, green, blue = np.moveaxis(rgb / 255.0, -1, 0)
    luma = k_red * red + (1 - k_red - k_blue) * green + k_blue * blue
    chroma = np.stack([(blue - luma) / (2 - 2 * k_blue), (red - luma) / (2 - 2 * k_red)], -1)
    if full_range:
        scaled = np.concatenate([luma[..., None], chroma], -1) * (2**bits - 1)
        return (scaled + np.array([0, 128, 128]) * step).clip(0, 2**bits - 1)
    return np.concatenate([luma[..., None] * 219 + 16, chroma * 224 + 128], -1) * step


def blocks(colors, dtype=np.uint8):
    """[N, 3] -> [H, W, 3]: one block for each color."""
    rows = np.array(colors, dtype).reshape(-1, 8, 3)
    return rows.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)


def middles(pixels, block=BLOCK):
    return pixels[block // 2 :: block, block // 2 :: block].reshape(-1, pixels.shape[-1])


def write_planes(path, yuv, pixel_format, matrix, color_range, codec="libx264"):
    """A lossless video of one frame with exactly these samples, [H, W, 3]."""
    height, width, _ = yuv.shape
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, samples in zip(frame.planes, np.moveaxis(yuv, -1, 0), strict=False):
        step_y, step_x = height // plane.height, width // plane.width
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = samples[::step_y, ::step_x]
        plane.update(rows.tobytes())
    with av.open(str(path), "w") as video:
        stream = video.add_stream(codec, rate=25, options=LOSSLESS[codec])
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = color_range
        video.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def read_planes(path):
    """The samples of the first frame: [H, W] for each plane."""
    with av.open(str(path)) as video:
        frame = next(video.decode(video=0))
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width]
            for plane in frame.planes
        ]
    return frame, planes


def first_frame(path):
    with VideoReader(path) as reader:
        return reader.info, next(item for item in reader if isinstance(item, Frame))


# Colors as the standards print them: red, green, blue, white, black.
PRINTED = {
    (BT709, False): [
        (63, 102, 240),
        (173, 42, 26),
        (32, 240, 118),
        (235, 128, 128),
        (16, 128, 128),
    ],
    (SMPTE170M, False): [(81, 90, 240), (145, 54, 34), (41, 240, 110), (235, 128, 128), (16,) * 3],
    (SMPTE170M, True): [
        (76, 85, 255),
        (150, 44, 21),
        (29, 255, 107),
        (255, 128, 128),
        (0, 128, 128),
    ],
}


@pytest.mark.parametrize(("scheme", "codes"), PRINTED.items())
def test_the_specification_knows_the_printed_codes(scheme, codes):
    codes = [*codes[:4], (codes[4][0], 128, 128)]
    rgb = rgb_from_yuv(np.array(codes, np.uint8), ColorDescription(*scheme))
    primaries = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
    assert np.abs(rgb.astype(int) - primaries).max() <= 2  # the codes are rounded


@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
def test_the_specification_inverts_the_standard(matrix, full_range):
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3))
    color = ColorDescription(matrix, full_range)
    back = unclipped_rgb(yuv_from_rgb(rgb, matrix, full_range), color)
    inside = yuv_from_rgb(rgb, matrix, full_range).max(-1) < 255  # full-range chroma ends at 255
    assert np.abs(back - rgb)[inside].max() < 1e-9


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
def test_a_decoded_frame_is_within_one_level(tmp_path, matrix, full_range, pixel_format):
    rgb = np.random.default_rng(1).integers(0, 256, (64, 3))
    yuv = blocks(np.round(yuv_from_rgb(rgb, matrix, full_range)))
    path = write_planes(tmp_path / "a.mkv", yuv, pixel_format, matrix, 2 if full_range else 1)
    info, frame = first_frame(path)
    assert (info.color.matrix, info.color.full_range, info.color.assumed) == (
        matrix,
        full_range,
        (),
    )
    expected = unclipped_rgb(middles(yuv), info.color).clip(0, 255)
    assert np.abs(middles(frame.pixels) - expected).max() <= 0.6


def test_blue_beyond_what_swscale_can_add_stays_blue(tmp_path):
    colors = [(255, 255, 128), (250, 250, 120), (16, 128, 128), (235, 240, 110)] * 4
    yuv = blocks(colors)
    path = write_planes(tmp_path / "a.mkv", yuv, "yuv444p", BT709, 1)
    info, frame = first_frame(path)
    assert np.array_equal(middles(frame.pixels), rgb_from_yuv(middles(yuv), info.color))
    assert middles(frame.pixels)[0, 2] == 255


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
def test_a_written_frame_is_within_one_level(tmp_path, matrix, full_range, pixel_format):
    source = write_planes(
        tmp_path / "in.mkv",
        blocks([(99, 128, 128)] * 64),
        "yuv444p",
        matrix,
        2 if full_range else 1,
    )
    rgb = np.random.default_rng(2).integers(0, 256, (64, 3))
    target = tmp_path / "out.mkv"
    encoding = Encoding(pixel_format=pixel_format, options=LOSSLESS["libx264"])
    rewrite(source, target, encoding, pixels=blocks(rgb))
    frame, planes = read_planes(target)
    assert (frame.colorspace, frame.color_range) == (matrix, 2 if full_range else 1)
    height, width = planes[0].shape
    samples = [
        plane.repeat(height // plane.shape[0], 0).repeat(width // plane.shape[1], 1)
        for plane in planes
    ]
    error = np.stack(samples, -1) - yuv_from_rgb(blocks(rgb), matrix, full_range)
    assert np.abs(middles(error)).max() < 0.8  # libswscale dithers what it reduces to 8 bits
    inner = error.reshape(-1, BLOCK, error.shape[1] // BLOCK, BLOCK, 3)[:, 4:12, :, 4:12]
    assert np.abs(inner.mean((0, 1, 2, 3))).max() < 0.1  # no cast


def rewrite(source: Path, target: Path, encoding: Encoding, pixels=None, size=None):
    """Read `source` and write it, or `pixels` for each of its frames, to `target`."""
    with VideoReader(source) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
        height, width, _ = (frames[0].pixels if pixels is None else pixels).shape
        with VideoWriter(target, reader, size or (width, height), encoding) as writer:
            for frame in frames:
                writer.write(frame if pixels is None else replace(frame, pixels=pixels))


def test_chroma_lies_on_the_left_luma_sample(tmp_path):
    """H.264 puts chroma there; libswscale by default assumes half a pixel further right.

    A red slope shows it: rounding averages out, a shift does not.
    """
    color, slope = ColorDescription(BT709, False), 0.37  # levels a pixel, so that rounding varies
    yuv = np.full((32, 256, 3), 120.0)
    yuv[..., 2] = 80 + slope * np.arange(256)
    red = unclipped_rgb(yuv, color)
    path = write_planes(tmp_path / "in.mkv", np.round(yuv), "yuv420p", BT709, 1)
    _, frame = first_frame(path)
    inner = np.s_[:, 32:-32, 0]
    red_slope = red[0, 1, 0] - red[0, 0, 0]
    assert abs((frame.pixels - red)[inner].mean() / red_slope) < 0.1  # pixels

    encoding = Encoding(pixel_format="yuv420p", options=LOSSLESS["libx264"])
    rewrite(path, tmp_path / "out.mkv", encoding, pixels=np.round(red).astype(np.uint8))
    _, (_, _, chroma) = read_planes(tmp_path / "out.mkv")
    assert abs((chroma - yuv[::2, ::2, 2])[:, 16:-16].mean() / slope) < 0.1


@pytest.mark.parametrize(("height", "matrix"), [(48, SMPTE170M), (576, BT470BG), (720, BT709)])
def test_an_untagged_matrix_follows_the_height_and_is_written_down(tmp_path, height, matrix):
    source = clips.make(tmp_path / "in.mp4", frames=2, size=(16, height))
    with VideoReader(source) as reader:
        assert reader.info.color == ColorDescription(matrix, False, assumed=("matrix", "range"))
    rewrite(source, tmp_path / "out.mp4", Encoding())
    frame, _ = read_planes(tmp_path / "out.mp4")
    assert (frame.colorspace, frame.color_range) == (matrix, 1)
    assert (frame.color_primaries, frame.color_trc) == (2, 2)


def test_all_four_tags_are_carried(tmp_path):
    source = clips.make(tmp_path / "in.mkv", frames=2, color=(BT2020, 1, 9, 14))
    rewrite(source, tmp_path / "out.mkv", Encoding())
    frame, _ = read_planes(tmp_path / "out.mkv")
    tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    assert tags == (BT2020, 1, 9, 14)


@pytest.mark.parametrize("tagged", [True, False])
def test_full_range_by_its_name_is_full_range(tmp_path, tagged):
    yuv = blocks([(value, 128, 128) for value in (0, 5, 128, 255)] * 2)
    path = write_planes(tmp_path / "a.mkv", yuv, "yuvj420p", 2, 2 if tagged else 0)
    info, frame = first_frame(path)
    assert info.color.full_range
    assert middles(frame.pixels)[:4].tolist() == [[v] * 3 for v in (0, 5, 128, 255)]


@pytest.mark.parametrize(
    ("color_range", "expected"), [(1, [0, 131, 255, 255]), (2, [16, 128, 235, 250])]
)
def test_gray_obeys_its_range(tmp_path, color_range, expected):
    yuv = blocks([(value, 128, 128) for value in (16, 128, 235, 250)] * 2)
    path = write_planes(tmp_path / "a.mkv", yuv, "gray", 2, color_range, codec="ffv1")
    info, frame = first_frame(path)
    assert info.pixel_format == "gray"
    values = middles(frame.pixels)[:4]
    assert np.abs(values[:, 0].astype(int) - expected).max() <= 1
    assert (values == values[:, :1]).all()


def test_rgb_streams_pass_unchanged(tmp_path):
    source = clips.make(
        tmp_path / "in.mkv", frames=2, codec="ffv1", options={}, pixel_format="bgr0"
    )
    info, frame = first_frame(source)
    assert (info.color.matrix, info.color.full_range) == (RGB, True)
    assert np.array_equal(frame.pixels, clips.barcode(0, (64, 48)))
    rewrite(source, tmp_path / "out.mkv", Encoding(codec="ffv1", pixel_format="bgr0"))
    _, again = first_frame(tmp_path / "out.mkv")
    assert np.array_equal(again.pixels, frame.pixels)
    rewrite(source, tmp_path / "yuv.mkv", Encoding())
    assert first_frame(tmp_path / "yuv.mkv")[0].pixel_format == "yuv444p"


def test_an_unknown_matrix_is_refused(tmp_path):
    source = clips.make(tmp_path / "in.mkv", frames=2, color=(8, 1, 1, 1))
    with pytest.raises(InputRefused, match=r"color matrix 8 .*bt709"):
        VideoReader(source)


@pytest.mark.parametrize(("codec", "suffix"), [("rawvideo", ".avi"), ("png", ".mov")])
def test_a_palette_is_rgb(tmp_path, codec, suffix):
    """FFmpeg does not mark it so; its palette was once taken for a plane of chroma."""
    source = tmp_path / f"in{suffix}"
    rng = np.random.default_rng(1)
    indices = rng.integers(0, 256, (32, 48), np.uint8)
    palette = rng.integers(0, 256, (256, 4), np.uint8)
    palette[:, 0] = 255
    with av.open(str(source), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "pal8"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray((indices, palette), "pal8")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with VideoReader(source) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
        assert reader.info.color.matrix == RGB
    assert len(frames) == 3
    assert np.array_equal(frames[0].pixels, palette[indices][..., 1:])


def test_black_and_white_is_read(tmp_path):
    bits = np.random.default_rng(2).integers(0, 2, (16, 32), np.uint8)
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "monob"
        frame = av.VideoFrame(32, 16, "monob")
        plane = frame.planes[0]
        rows = np.zeros((16, plane.line_size), np.uint8)
        rows[:, :4] = np.packbits(bits, axis=1)
        plane.update(rows.tobytes())
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        output.mux([*stream.encode(frame), *stream.encode(None)])
    with VideoReader(source) as reader:
        [frame] = [item for item in reader if isinstance(item, Frame)]
    assert np.array_equal(frame.pixels, np.repeat(bits[..., None] * 255, 3, axis=2))
