"""Frames of 9 to 16 bits: every kind of colors within one code of the standard, both ways."""

import av
import numpy as np
import pytest

from srgan_edge.video.color import BT709, RGB, SMPTE170M, ColorDescription, unclipped_rgb
from srgan_edge.video.convert import (
    DECODE_FLAGS,
    Converter,
    DeepDecoder,
    DeepEncoder,
    color_options,
    depth_bits,
    is_readable,
    is_writable,
    with_depth,
)
from tests.video.test_color import blocks, middles, yuv_from_rgb

BT2020 = 9
SCHEMES = [
    pytest.param(ColorDescription(matrix, full), id=f"{name}-{'full' if full else 'limited'}")
    for matrix, name in ((SMPTE170M, "601"), (BT709, "709"), (BT2020, "2020"))
    for full in (False, True)
]
DEEP = [
    f"{family}{bits}le" for family in ("yuv420p", "yuv422p", "yuv444p") for bits in (10, 12, 16)
]
CORNERS = [(r, g, b) for r in (0, 1) for g in (0, 1) for b in (0, 1)]


def some_rgb():
    """float64 [64, 3] in 0..1: the corners of the cube, then anything."""
    return np.vstack([CORNERS, np.random.default_rng(3).random((56, 3))])


def codes_of(rgb, color, bits):
    """The exact codes, not rounded, of [N, 3] in 0..1."""
    if color.matrix == RGB:
        return rgb * (2**bits - 1)
    codes = yuv_from_rgb(rgb * 255, color.matrix, color.full_range, bits)
    return codes.clip(0, 2**bits - 1)


def frame_of(samples, pixel_format):
    """A frame with exactly these samples, integers [H, W, 1 or 3]; RGB in this order."""
    height, width, count = samples.shape
    frame = av.VideoFrame(width, height, pixel_format)
    order = (1, 2, 0) if frame.format.is_rgb else range(count)
    for plane, channel in zip(frame.planes, order, strict=False):
        step_y, step_x = height // plane.height, width // plane.width
        rows = np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)
        rows[:, : plane.width] = samples[::step_y, ::step_x, channel]
    return frame


def samples_of(frame):
    """[H, W, 1 or 3], chroma repeated; RGB in this order."""
    height, width = frame.height, frame.width
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    planes = [
        np.frombuffer(memoryview(p), dtype).reshape(p.height, -1)[:, : p.width]
        for p in frame.planes
    ]
    full = [p.repeat(height // len(p), 0).repeat(width // p.shape[1], 1) for p in planes]
    return np.stack([full[n] for n in (2, 0, 1)] if frame.format.is_rgb else full, -1)


def decoded(samples, pixel_format, color):
    height, width, _ = samples.shape
    return DeepDecoder(pixel_format, (width, height), color)(frame_of(samples, pixel_format))


@pytest.mark.parametrize("pixel_format", [*DEEP, "yuv420p9le", "yuv440p10le", "yuv422p14le"])
@pytest.mark.parametrize("color", SCHEMES)
def test_a_decoded_frame_is_within_half_a_level_of_16_bits(color, pixel_format):
    bits = depth_bits(pixel_format)
    codes = np.round(codes_of(some_rgb(), color, bits))
    deep = decoded(blocks(codes, np.uint16), pixel_format, color)
    expected = (unclipped_rgb(codes, color, bits) * 257).clip(0, 65535)
    assert np.abs(middles(deep) - expected).max() < 0.6


@pytest.mark.parametrize("pixel_format", [*DEEP, "yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("color", SCHEMES)
def test_a_written_frame_is_within_a_code(color, pixel_format):
    bits, rgb = depth_bits(pixel_format), some_rgb()
    deep = blocks(np.round(rgb * 65535), np.uint16)
    height, width, _ = deep.shape
    frame = DeepEncoder((width, height), pixel_format, (width, height), color)(deep)
    error = middles(samples_of(frame)) - codes_of(rgb, color, bits)
    # To 8 bits libswscale dithers; and to 16, rgb had been rounded itself.
    assert np.abs(error).max() < {8: 0.8, 16: 1.1}.get(bits, 0.6)


@pytest.mark.parametrize("pixel_format", [name for name in DEEP if depth_bits(name) < 16])
@pytest.mark.parametrize("color", SCHEMES)
def test_codes_come_back_as_they_were(color, pixel_format):
    bits = depth_bits(pixel_format)
    codes = np.round(codes_of(some_rgb(), color, bits))
    deep = decoded(blocks(codes, np.uint16), pixel_format, color)
    height, width, _ = deep.shape
    frame = DeepEncoder((width, height), pixel_format, (width, height), color)(deep)
    colors = np.logical_and(deep > 0, deep < 65535).all(axis=-1)  # none was clipped
    error = samples_of(frame).astype(int) - blocks(codes, int)
    assert colors.mean() > 0.5
    assert not middles(error * colors[..., None]).any()


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_rgb_codes_come_back_as_they_were(bits):
    color, pixel_format = ColorDescription(RGB, True), f"gbrp{bits}le"
    codes = np.random.default_rng(0).integers(0, 2**bits, (33, 17, 3))
    deep = decoded(codes, pixel_format, color)
    assert np.abs(deep - codes * 65535 / (2**bits - 1)).max() < 0.51
    frame = DeepEncoder((17, 33), pixel_format, (17, 33), color)(deep)
    assert np.array_equal(samples_of(frame), codes)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("full_range", [False, True])
def test_gray_has_the_range_it_says(bits, full_range):
    color, pixel_format = ColorDescription(BT709, full_range), with_depth("gray", bits)
    levels = np.linspace(0, 1, 64)[:, None].repeat(3, 1)
    deep = blocks(np.round(levels * 65535), np.uint16)
    height, width, _ = deep.shape
    frame = DeepEncoder((width, height), pixel_format, (width, height), color)(deep)
    codes = middles(samples_of(frame))[:, 0]
    assert np.abs(codes - codes_of(levels, color, bits)[:, 0]).max() < (0.6 if bits < 16 else 1.1)
    if bits > 8:
        again = DeepDecoder(pixel_format, (width, height), color)(frame)
        assert np.abs(again - deep.astype(float)).max() * 2**bits / 65535 < 0.7
        assert (again == again[..., :1]).all()


@pytest.mark.parametrize(
    ("pixel_format", "plain"),
    [
        *(("p010le", "yuv420p10le"), ("p210le", "yuv422p10le"), ("p012le", "yuv420p12le")),
        *(("p410le", "yuv444p10le"), ("y210le", "yuv422p10le"), ("yuv420p10be", "yuv420p10le")),
        *(("yuv444p12be", "yuv444p12le"), ("gray10be", "gray10le"), ("ya16be", "gray16le")),
        *(("rgb48le", "gbrp16le"), ("rgb48be", "gbrp16le"), ("rgba64be", "gbrp16le")),
        *(("gbrp12be", "gbrp12le"), ("yuva422p10le", "yuv422p10le")),
        *(("yuva444p10le", "yuv444p10le"), ("yuva420p10le", "yuv420p10le")),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
def test_another_layout_of_the_same_samples_is_the_same_image(pixel_format, plain, full_range):
    is_rgb = plain.startswith("gbr")
    color = ColorDescription(RGB if is_rgb else BT2020, full_range or is_rgb)
    bits = depth_bits(plain)
    codes = blocks(np.random.default_rng(1).integers(0, 2**bits, (64, 3)), np.uint16)
    frame = frame_of(codes[..., :1] if "gray" in plain else codes, plain)
    size = (frame.width, frame.height)
    told = color_options("in", color) + color_options("out", color)
    packed = Converter((plain, *size), (pixel_format, *size), DECODE_FLAGS, told)(frame)
    expected = DeepDecoder(plain, size, color)(frame)
    assert np.array_equal(DeepDecoder(pixel_format, size, color)(packed), expected)


@pytest.mark.parametrize("pixel_format", ["gbrap10le", "yuva444p12le"])
def test_alpha_is_left_out(pixel_format):
    is_rgb = pixel_format.startswith("gbr")
    color = ColorDescription(RGB if is_rgb else BT709, is_rgb)
    codes = np.random.default_rng(1).integers(0, 1024, (12, 20, 3))
    plain = pixel_format.replace("a", "", 1)
    deep = decoded(codes, pixel_format, color)  # its alpha is whatever the memory held
    assert np.array_equal(deep, decoded(codes, plain, color))


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv444p10le", "gbrp12le", "gray10le"])
@pytest.mark.parametrize("full_range", [False, True])
def test_another_size_shows_the_same_colors(pixel_format, full_range):
    is_rgb = pixel_format.startswith("gbr")
    color = ColorDescription(RGB if is_rgb else BT709, full_range or is_rgb)
    rgb = some_rgb() if "gray" not in pixel_format else some_rgb()[:, :1].repeat(3, 1)
    deep = blocks(np.round(rgb * 65535), np.uint16)
    height, width, _ = deep.shape
    size = (width * 3 // 2, height * 3 // 2)
    frame = DeepEncoder((width, height), pixel_format, size, color)(deep)
    assert (frame.width, frame.height) == size
    codes = codes_of(rgb, color, depth_bits(pixel_format))
    got = middles(samples_of(frame), 24)
    assert np.abs(got - codes[:, : got.shape[1]]).max() < 0.7


def test_which_formats_are_taken():
    neither = ["grayf32le", "gbrpf32le", "xyz12le", "bayer_rggb16le", "x2rgb10le", "rgb24"]
    unwritable = ["p410le", "rgb48le", "gbrap10le", "yuva420p10le", "gray10be"]
    assert not any(map(is_readable, [*neither, "yuv420p"]))
    assert not any(map(is_writable, [*neither, *unwritable]))
