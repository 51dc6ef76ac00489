"""AVIF, JPEG 2000, PBM to PFM and TGA: read with all that their headers say, or refused."""

import io
import random
import struct
import time
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms, features

from srgan_edge.errors import InputDamaged, InputRefused, UsageError
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import refuse_unwritable, write_image

SIZE = (13, 9)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SUFFIXES = {"AVIF": ".avif", "JPEG2000": ".jp2", "PPM": ".ppm", "TGA": ".tga"}

pytestmark = pytest.mark.skipif(
    not (features.check("avif") and features.check("jpg_2000")),
    reason="this Pillow was built without AVIF or JPEG 2000",
)


def colors(width: int = SIZE[0], height: int = SIZE[1]) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([9 * x % 256, 14 * y % 256, 5 * (x + y) % 256], axis=2).astype(np.uint8)


def deep(channels: int = 3, white: int = 65535) -> np.ndarray:
    levels = np.linspace(0, white, SIZE[0] * SIZE[1] * channels)
    return levels.round().astype(np.uint16).reshape(SIZE[1], SIZE[0], channels)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (image or Image.fromarray(colors())).save(file, kind, **options)
    return file.getvalue()


def written(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"in{SUFFIXES[kind]}"
    path.write_bytes(content)
    return path


def read(path: Path) -> StillImage:
    with ImageReader(path, 1_000_000) as reader:
        return reader.rows(0, reader.height)


def notes(path: Path) -> list[str]:
    with ImageReader(path) as reader:
        return reader.notes


# Every kind of pixels


@pytest.mark.parametrize("kind", ["JPEG2000", "PPM", "TGA"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 7), (17, 5)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_lossless_formats_are_read_as_they_are(tmp_path: Path, kind: str, size, mode: str):
    image = Image.fromarray(colors(*size)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(colors(*size)[..., 2]))
    if (kind == "PPM" and mode in ("LA", "RGBA", "P")) or (
        kind == "JPEG2000" and mode in ("1", "P")
    ):
        return
    result = read(written(tmp_path, kind, encoded(kind, image)))
    expected = np.asarray(image.convert("RGBA"))
    assert np.array_equal(result.pixels, expected[..., :3])
    assert result.gray == (mode in ("1", "L", "LA"))
    assert (result.alpha is None) == (mode not in ("LA", "RGBA"))
    if result.alpha is not None:
        assert np.array_equal(result.alpha, expected[..., 3])


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 5)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_avif_is_read_close_to_what_was_written(tmp_path: Path, size, mode: str):
    image = Image.new(mode, size, {"L": 90, "RGB": (90, 120, 150)}.get(mode, (90, 120, 150, 60)))
    result = read(written(tmp_path, "AVIF", encoded("AVIF", image, quality=95)))
    expected = np.asarray(image.convert("RGBA")).astype(int)
    assert np.abs(result.pixels - expected[..., :3]).max() <= 3
    assert (result.alpha is not None) == (mode == "RGBA")
    if result.alpha is not None:
        assert np.abs(result.alpha.astype(int) - 60).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [9, 10, 12, 16])
def test_deep_gray_of_a_jpeg2000(tmp_path: Path, bits: int, suffix: str):
    levels = deep(1, 2**bits - 1)
    path = written(tmp_path, "JPEG2000", jpeg2000(levels, bits))
    expected = (levels.astype(float) * 65535 / (2**bits - 1)).round()
    assert np.abs(read(path).pixels[..., :1] - expected).max() <= 1
    write_image(tmp_path / f"out{suffix}", read(path))
    assert np.array_equal(read(tmp_path / f"out{suffix}").pixels, read(path).pixels)


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_colors_of_a_jpeg2000(tmp_path: Path, bits: int):
    levels = deep(3, 2**bits - 1)
    path = written(tmp_path, "JPEG2000", jpeg2000(levels, bits))
    expected = (levels.astype(float) * 65535 / (2**bits - 1)).round()
    assert np.abs(read(path).pixels - expected).max() <= 1


def jpeg2000(levels: np.ndarray, bits: int) -> bytes:
    """A lossless codestream of FFmpeg's with 16 bits, of which the header then states `bits`.

    A decoder adds half of the range, so that of the stated one is left out of the levels.
    """
    levels = levels + np.uint16(2**15 - 2 ** (bits - 1))
    name = "rgb48le" if levels.shape[2] == 3 else "gray16le"
    codec = av.CodecContext.create("jpeg2000", "w")
    codec.width, codec.height, codec.pix_fmt = *SIZE, name
    codec.time_base, codec.options = Fraction(1, 25), {"pred": "dwt53", "format": "j2k"}
    frame = av.VideoFrame(*SIZE, name)
    rows = np.zeros((SIZE[1], frame.planes[0].line_size // 2), "<u2")
    rows[:, : SIZE[0] * levels.shape[2]] = levels.reshape(SIZE[1], -1)
    frame.planes[0].update(rows.tobytes())
    content = b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
    stated = bytes([bits - 1, 1, 1]) * levels.shape[2]
    return content.replace(bytes([15, 1, 1]) * levels.shape[2], stated, 1)


@pytest.mark.parametrize("white", [1, 15, 100, 255, 1000, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_of_a_pnm_are_those_of_its_white(tmp_path: Path, white: int, channels: int):
    levels = deep(channels, white)
    stored = levels.astype(">u2" if white > 255 else np.uint8)
    head = b"P%d\n%d %d\n%d\n" % (5 if channels == 1 else 6, *SIZE, white)
    result = read(written(tmp_path, "PPM", head + stored.tobytes())).pixels
    highest = 65535 if white > 255 else 255
    assert result.dtype == (np.uint16 if white > 255 else np.uint8)
    assert np.abs(result - levels.astype(float) * highest / white).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P1\n# a comment\n2 1\n1 0\n", [0, 255]),
        (b"P2\n2 1\n4\n0 4\n", [0, 255]),
        (b"P3 2 1 255 1 2 3 4 5 6", [1, 4]),
        (b"P4\n2 1\n\x80", [0, 255]),
        (b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0, 1), [0, 65535]),
    ],
)
def test_other_kinds_of_pnm(tmp_path: Path, content: bytes, expected: list[int]):
    assert read(written(tmp_path, "PPM", content)).pixels[0, :, 0].tolist() == expected


# What the headers say


def boxed(name: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I", len(content) + 8) + name + content


def with_property(content: bytes, box: bytes) -> bytes:
    """Add a property to the only item of an AVIF file, and move what lies behind."""
    grown = bytearray(content)
    ipco = content.index(b"ipco") - 4
    length = int.from_bytes(content[ipco : ipco + 4])
    count, place = 0, ipco + 8
    while place < ipco + length:
        place += int.from_bytes(content[place : place + 4])
        count += 1
    grown[ipco + length : ipco + length] = box
    ipma = grown.index(b"ipma") - 4
    associations = ipma + 8 + 4 + 4 + 2  # version and flags, entries, number of the item
    grown[associations] += 1
    end = ipma + int.from_bytes(grown[ipma : ipma + 4])
    essential = 0x80 if box[4:8] in (b"irot", b"imir", b"clap") else 0
    grown[end:end] = bytes([count + 1 | essential])
    by = len(box) + 1
    for name, more in ((b"ipma", 1), (b"ipco", len(box)), (b"iprp", by), (b"meta", by)):
        at = grown.index(name) - 4
        grown[at : at + 4] = struct.pack(">I", int.from_bytes(grown[at : at + 4]) + more)
    iloc = grown.index(b"iloc") + 4
    extent = iloc + 4 + 2 + 2 + 2 + 2 + 2  # flags, sizes, items; number, data reference, extents
    assert grown[iloc] == 0 and grown[iloc + 4] == 0x44
    offset = int.from_bytes(grown[extent : extent + 4])
    grown[extent : extent + 4] = struct.pack(">I", offset + by)
    return bytes(grown)


LARGE = Image.fromarray(colors(32, 24))


def avif(*boxes: bytes) -> bytes:
    content = encoded("AVIF", LARGE, quality=100, subsampling="4:4:4")
    for box in boxes:
        content = with_property(content, box)
    return content


def crop(*numbers: int) -> bytes:
    return boxed(b"clap", struct.pack(">IIIIiIiI", *numbers))


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ((boxed(b"irot", b"\1"),), np.rot90(colors(32, 24), 1)),
        ((boxed(b"irot", b"\2"),), np.rot90(colors(32, 24), 2)),
        ((boxed(b"imir", b"\1"),), colors(32, 24)[:, ::-1]),
        ((crop(8, 1, 6, 1, -4, 1, 3, 1),), colors(32, 24)[12:18, 8:16]),
        (
            (crop(8, 1, 6, 1, -4, 1, 3, 1), boxed(b"irot", b"\1")),
            np.rot90(colors(32, 24)[12:18, 8:16], 1),
        ),
    ],
)
def test_avif_is_cropped_turned_and_mirrored(tmp_path: Path, boxes, expected):
    result = read(written(tmp_path, "AVIF", avif(*boxes)))
    assert result.pixels.shape == expected.shape
    assert np.abs(result.pixels.astype(int) - expected).max() <= 8
    write_image(tmp_path / "out.png", result)
    assert np.array_equal(read(tmp_path / "out.png").pixels, result.pixels)


@pytest.mark.parametrize("numbers", [(7, 2, 6, 1, 0, 1, 0, 1), (8, 1, 6, 1, 99, 1, 0, 1)])
def test_a_crop_through_pixels_or_outside_is_refused(tmp_path: Path, numbers):
    with pytest.raises(InputRefused, match="a crop that is not one of whole pixels"):
        ImageReader(written(tmp_path, "AVIF", avif(crop(*numbers))))


def with_colors(primaries: int, transfer: int) -> bytes:
    """Change the colors that an AVIF file states."""
    content = avif()
    at = content.index(b"nclx") + 4
    return content[:at] + struct.pack(">HH", primaries, transfer) + content[at + 4 :]


def test_hdr_of_an_avif_is_kept_in_png_alone(tmp_path: Path):
    levels = boxed(b"clli", struct.pack(">HH", 1000, 400))
    content = with_property(with_colors(9, 16), levels)
    image = read(written(tmp_path, "AVIF", content))
    assert dict(image.stated_colors) == {
        "cICP": bytes([9, 16, 0, 1]),
        "cLLI": struct.pack(">II", 10_000_000, 4_000_000),
    }
    write_image(tmp_path / "out.png", image)
    assert read(tmp_path / "out.png").stated_colors == image.stated_colors
    with pytest.raises(UsageError, match=r"JPEG cannot hold.*cICP.*write \.png"):
        refuse_unwritable(tmp_path / "out.jpg", image, 128, 96)
    assert read(written(tmp_path, "AVIF", with_colors(1, 13))).stated_colors == ()
    assert read(written(tmp_path, "AVIF", with_colors(1, 1))).stated_colors == ()


def test_profile_exif_and_pixel_shape_of_an_avif_are_kept(tmp_path: Path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    content = encoded("AVIF", LARGE, icc_profile=SRGB, exif=exif)
    image = read(written(tmp_path, "AVIF", content))
    assert image.icc_profile == SRGB and image.pixels.shape[:2] == (32, 24)
    kept = Image.Exif()
    kept.load(image.exif)
    assert (kept[0x010F], kept.get(0x0112, 1)) == ("Maker", 1)
    shape = boxed(b"pasp", struct.pack(">II", 54, 64))
    assert read(written(tmp_path, "AVIF", avif(shape))).pixel_shape == (64, 54)


def test_what_an_avif_loses_is_named(tmp_path: Path):
    path = written(tmp_path, "AVIF", encoded("AVIF", LARGE, xmp=b"<x/>"))
    assert notes(path) == ["left out: XMP"]
    path = written(tmp_path, "AVIF", avif(boxed(b"news", b"abc")))
    assert notes(path) == ["left out: what this program does not know in this AVIF: news"]
    with av.open(str(tmp_path / "in.avif"), "w", format="avif") as file:
        stream = file.add_stream("libsvtav1", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        stream.options = {"preset": "10"}
        frame = av.VideoFrame.from_ndarray(colors(64, 64), format="rgb24")
        file.mux(stream.encode(frame.reformat(format="yuv420p10le")))
        file.mux(stream.encode(None))
    assert notes(tmp_path / "in.avif") == [
        "left out: bits of a channel below the eighth, which Pillow does not decode: of 10"
    ]


def test_an_animated_avif_keeps_its_frames_and_times(tmp_path: Path):
    frames = [Image.new("RGB", (16, 16), (60 * n, 0, 0)) for n in range(3)]
    content = encoded(
        "AVIF", frames[0], save_all=True, append_images=frames[1:], duration=[40, 80, 120]
    )
    with ImageReader(written(tmp_path, "AVIF", content)) as reader:
        assert [float(second) for second in reader.seconds] == [0.04, 0.08, 0.12]
        assert any("number of plays" in note for note in reader.notes)
        for n in range(3):
            reader.seek(n)
            assert abs(int(reader.rows(0, 1).pixels[0, 0, 0]) - 60 * n) <= 3


def jp2_with(content: bytes, old: bytes, new: bytes) -> bytes:
    """Replace something in the header box of a JP2, of which the length may change."""
    at = content.index(b"jp2h") - 4
    length = int.from_bytes(content[at : at + 4]) + len(new) - len(old)
    assert old in content
    changed = content.replace(old, new, 1)
    return changed[:at] + struct.pack(">I", length) + changed[at + 4 :]


SRGB_BOX = boxed(b"colr", b"\1\0\0" + struct.pack(">I", 16))


def test_the_profile_of_a_jp2_is_kept(tmp_path: Path):
    new = boxed(b"colr", b"\2\0\0" + SRGB)
    path = written(tmp_path, "JPEG2000", jp2_with(encoded("JPEG2000"), SRGB_BOX, new))
    assert read(path).icc_profile == SRGB


def test_resolution_and_texts_of_a_jp2(tmp_path: Path):
    res = boxed(b"res ", boxed(b"resc", struct.pack(">HHHHBB", 300, 254, 200, 254, 4, 4)))
    content = jp2_with(encoded("JPEG2000"), SRGB_BOX, SRGB_BOX + res)
    path = written(tmp_path, "JPEG2000", content + boxed(b"xml ", b"<x/>"))
    assert read(path).dpi == pytest.approx((200, 300))
    assert notes(path) == ["left out: text"]


@pytest.mark.parametrize("text", ["Created by my aunt in 1990", "Kakadu park", "hello"])
def test_comments_of_a_jp2_are_named_and_encoders_not(tmp_path: Path, text: str):
    path = written(tmp_path, "JPEG2000", encoded("JPEG2000", comment=text))
    assert notes(path) == [f"left out: text: {text}"]
    assert notes(written(tmp_path, "JPEG2000", encoded("JPEG2000"))) == []


RGBA = Image.fromarray(np.dstack([colors(), colors()[..., 0]]))
JP2_REFUSED = {
    "Lab": (
        jp2_with(encoded("JPEG2000"), SRGB_BOX, boxed(b"colr", b"\1\0\0" + struct.pack(">I", 14))),
        "colors other than sRGB, gray, YCC and CMYK",
    ),
    "premultiplied": (
        encoded("JPEG2000", RGBA).replace(
            struct.pack(">HHH", 3, 1, 0), struct.pack(">HHH", 3, 2, 0)
        ),
        "premultiplied transparency",
    ),
    "other order": (
        encoded("JPEG2000", RGBA).replace(
            struct.pack(">HHHHHH", 0, 0, 1, 1, 0, 2), struct.pack(">HHHHHH", 0, 0, 2, 1, 0, 1)
        ),
        "channels in another order",
    ),
    "a fourth channel": (
        encoded("JPEG2000", RGBA).replace(
            struct.pack(">HHH", 3, 1, 0), struct.pack(">HHH", 3, 65535, 0)
        ),
        "not called opacity",
    ),
    "two sizes": (
        encoded("JPEG2000").replace(struct.pack(">II", 9, 13), struct.pack(">II", 9, 12)),
        "two sizes of one image",
    ),
}


@pytest.mark.parametrize(("content", "said"), JP2_REFUSED.values(), ids=JP2_REFUSED)
def test_a_jp2_that_would_mislead_is_refused(tmp_path: Path, content: bytes, said: str):
    with pytest.raises(InputRefused, match=said):
        ImageReader(written(tmp_path, "JPEG2000", content))


def tga(image: Image.Image, flags: int | None = None, extension: dict[int, bytes] | None = None):
    content = bytearray(encoded("TGA", image))
    content = content[: content.index(b"TRUEVISION") - 8] if b"TRUEVISION" in content else content
    if flags is not None:
        content[17] = flags
    if extension is None:
        return bytes(content)
    area = bytearray(495)
    area[:2] = struct.pack("<H", 495)
    area[494] = 3
    for place, value in extension.items():
        area[place : place + len(value)] = value
    footer = struct.pack("<II", len(content), 0) + b"TRUEVISION-XFILE.\0"
    return bytes(content + area) + footer


@pytest.mark.parametrize(
    ("flags", "turned"),
    [
        (0x00, lambda rows: rows[::-1]),
        (0x10, lambda rows: rows[::-1, ::-1]),
        (0x20, lambda rows: rows),
        (0x30, lambda rows: rows[:, ::-1]),
    ],
)
def test_rows_of_a_tga_begin_where_it_says(tmp_path: Path, flags: int, turned):
    content = bytes([0, 0, 2, *bytes(9), 13, 0, 9, 0, 24, flags])
    rows = colors()[..., ::-1].tobytes()
    assert np.array_equal(read(written(tmp_path, "TGA", content + rows)).pixels, turned(colors()))


@pytest.mark.parametrize(
    ("content", "has_alpha"),
    [
        (tga(RGBA), True),
        (tga(RGBA, flags=0x20), False),
        (tga(RGBA, extension={}), True),
        (tga(RGBA, extension={494: b"\0"}), True),  # opaque
        (tga(RGBA, extension={494: b"\1"}), False),
        (tga(RGBA, extension={494: b"\2"}), False),
    ],
)
def test_a_fourth_channel_of_a_tga_is_what_it_says(tmp_path: Path, content: bytes, has_alpha):
    path = written(tmp_path, "TGA", content)
    image = read(path)
    assert (image.alpha is not None) == has_alpha
    assert np.array_equal(np.sort(image.pixels, axis=0), np.sort(colors(), axis=0))
    assert bool(notes(path)) != has_alpha
    if not has_alpha:
        assert "does not call transparency" in notes(path)[0]


def test_statements_of_a_tga(tmp_path: Path):
    plain = Image.fromarray(colors())
    image = read(
        written(
            tmp_path,
            "TGA",
            tga(
                plain, extension={474: struct.pack("<HH", 54, 64), 478: struct.pack("<HH", 18, 10)}
            ),
        )
    )
    assert image.pixel_shape == (64, 54)
    assert image.stated_colors == (("gAMA", (55556).to_bytes(4)),)
    path = written(tmp_path, "TGA", tga(plain, extension={2: b"A. B."}))
    assert notes(path) == ["left out: text: author"]
    with pytest.raises(InputRefused, match="premultiplied transparency"):
        ImageReader(written(tmp_path, "TGA", tga(RGBA, extension={494: b"\4"})))


def test_comments_and_images_behind_a_pnm_are_named(tmp_path: Path):
    content = b"P5\n# hello\n2 1\n255\n\1\2"
    assert notes(written(tmp_path, "PPM", content)) == ["left out: text: hello"]
    assert notes(written(tmp_path, "PPM", content + content)) == [
        "left out: text: hello",
        "left out: data behind the image, such as further images: 21 bytes",
    ]
    with pytest.raises(InputRefused, match="16-bit color as text"):
        ImageReader(written(tmp_path, "PPM", b"P3 1 1 65535 1 2 3"))


# Content counts, and not the name


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_content_counts(tmp_path: Path, kind: str):
    path = tmp_path / "in.png"
    path.write_bytes(encoded(kind))
    if kind == "TGA":  # nothing but its name says what it is, or its footer
        path.write_bytes(tga(Image.fromarray(colors())))
        with pytest.raises(InputRefused, match="not a PNG"):
            ImageReader(path)
        path.write_bytes(tga(Image.fromarray(colors()), extension={}))
    assert read(path).pixels.shape == (9, 13, 3)
    other = tmp_path / f"in{SUFFIXES[kind]}"
    other.write_bytes(encoded("PNG"))
    assert np.array_equal(read(other).pixels, colors())


# Hostile files


def bombs() -> Iterator[tuple[str, bytes]]:
    jp2 = encoded("JPEG2000", no_jp2=True)
    yield "JPEG2000", jp2[:8] + struct.pack(">II", 30_000, 30_000) + jp2[16:]
    yield "PPM", b"P6 30000 30000 255 "
    yield "PPM", b"P5 99999 99999 65535 "
    yield "TGA", bytes([0, 0, 2, *bytes(9)]) + struct.pack("<HHBB", 30_000, 30_000, 24, 0)
    content = encoded("AVIF")
    at = content.index(b"ispe") + 8
    yield "AVIF", content[:at] + struct.pack(">II", 16_000, 16_000) + content[at + 8 :]


@pytest.mark.parametrize(("kind", "content"), list(bombs()))
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, kind: str, content: bytes):
    started = time.monotonic()
    with pytest.raises((InputRefused, InputDamaged), match=r"--max-pixels|header is broken"):
        ImageReader(written(tmp_path, kind, content))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_that_is_cut_short_is_damaged(tmp_path: Path, kind: str, share: float):
    noise = Image.effect_noise((60, 50), 90).convert("RGB")
    content = encoded(kind, noise)
    with pytest.raises(InputDamaged):
        read(written(tmp_path, kind, content[: int(len(content) * share)]))


@pytest.mark.parametrize(
    ("kind", "content", "error"),
    [
        ("PPM", b"P5 0 9 255 ", InputDamaged),
        ("PPM", b"P5 2 1 100 \1\xff", InputDamaged),
        ("PPM", b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0", InputRefused),
        ("PPM", b"PF\n1 1\n-1.0\n" + bytes(12), InputRefused),
        ("PPM", b"PyRGBA\n1 1\n255\n" + bytes(4), InputRefused),
        ("PPM", b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 9), InputRefused),
        ("TGA", bytes(18), InputRefused),
        ("AVIF", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), InputRefused),
        ("AVIF", encoded("AVIF")[:64], InputDamaged),
        ("JPEG2000", b"\xff\x4f\xff\x51" + bytes(40), InputDamaged),
        ("JPEG2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), InputDamaged),
    ],
)
def test_hostile_headers(tmp_path: Path, kind: str, content: bytes, error: type[Exception]):
    with pytest.raises(error):
        read(written(tmp_path, kind, content))


SEEDS = {
    "AVIF": [avif(), encoded("AVIF", RGBA), encoded("AVIF", save_all=True, append_images=[RGBA])],
    "JPEG2000": [encoded("JPEG2000"), encoded("JPEG2000", RGBA, no_jp2=True)],
    "PPM": [encoded("PPM"), b"P2 3 2 9 1 2 3 4 5 6", b"P6 2 1 999 " + bytes(12)],
    "TGA": [tga(RGBA, extension={2: b"text"}), encoded("TGA", compression="tga_rle")],
}


@pytest.mark.parametrize("kind", SUFFIXES)
def test_mutated_files_are_read_or_refused(tmp_path: Path, kind: str):
    """Several hundred changes of sound files, in no more than some seconds."""
    rng, started, done = random.Random(kind), time.monotonic(), 0
    while done < 400 and time.monotonic() - started < 6:
        content = bytearray(rng.choice(SEEDS[kind]))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(content))
            match rng.randrange(4):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    content[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff"))
                case 2:
                    del content[at : at + rng.randint(1, 40)]
                    content = content or bytearray(b"P")
                case 3:
                    content[at:at] = content[at : at + rng.randint(1, 40)]
        path = written(tmp_path, kind, bytes(content))
        try:
            with ImageReader(path, 200_000) as reader:
                reader.rows(0, reader.height)
                assert all(note.isprintable() for note in reader.notes)
        except (InputRefused, InputDamaged) as error:
            assert str(error).startswith((f"{path}: ", "cannot read")), error
        done += 1
    assert done > 50
