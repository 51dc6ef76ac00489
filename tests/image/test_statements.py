"""Every statement of a header is honored, kept, named or refused, as the table says."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from images import chunk
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin
from PIL.ExifTags import IFD

from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.statements import STATEMENTS, Fate
from srgan_edge.image.still import StillImage
from srgan_edge.image.tiff import TiffWriter
from srgan_edge.image.writer import left_out_by, refuse_unwritable, write_image

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "images.md"
SIZE = (13, 9)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def colors() -> np.ndarray:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.stack([9 * x, 14 * y, 5 * (x + y)], axis=2).astype(np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(colors())).save(file, kind, **options)
    return file.getvalue()


def png(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    content = encoded("PNG", image)
    return content[:33] + b"".join(chunks) + content[33:]


def jpeg(*segments: tuple[int, bytes], behind: bytes = b"") -> bytes:
    content = encoded("JPEG")
    more = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments
    )
    return content[:2] + more + content[2:] + behind


def profile_in(*parts: tuple[int, int]) -> bytes:
    """A JPEG with pieces of a profile, numbered so, of so many."""
    step = -(-len(SRGB) // max(count for _, count in parts))
    pieces = {n: SRGB[(n - 1) * step : n * step] for n, _ in parts}
    return jpeg(*((0xE2, b"ICC_PROFILE\0" + bytes([n, count]) + pieces[n]) for n, count in parts))


def tiff(tags: dict[int, object], image: Image.Image | None = None, **options) -> bytes:
    table = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        kind, table[tag] = value if isinstance(value, tuple) and len(value) == 2 else (None, value)
        if kind is not None:
            table.tagtype[tag] = kind
    return encoded("TIFF", image, tiffinfo=table, **options)


def riff(content: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    more = b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    body = content[8:] + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(extension: bytes = b"", *, ratio: int = 0) -> bytes:
    content = bytearray(encoded("GIF", Image.fromarray(colors()).quantize(16)))
    content[12] = ratio
    start = 13 + (3 << (content[10] & 7) + 1)
    return bytes(content[:start]) + extension + bytes(content[start:])


def bmp(space: bytes, ends: bytes = bytes(36), gammas: bytes = bytes(12), profile: bytes = b""):
    """A BMP of version 5."""
    rows = b"".join(row[:, ::-1].tobytes().ljust(40, b"\0") for row in colors()[::-1])
    start = 14 + 124 + len(rows)
    header = struct.pack("<IiiHHIIiiII", 124, *SIZE, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    header += bytes(16) + space + ends + gammas + struct.pack("<I", 4)
    header += struct.pack("<III", 124 + len(rows), len(profile), 0)
    return b"BM" + struct.pack("<IHHI", start, 0, 0, 138) + header + rows + profile


def written(folder: Path, content: bytes) -> Path:
    path = folder / "in"
    path.write_bytes(content)
    return path


def read(path: Path) -> StillImage:
    with ImageReader(path) as reader:
        return reader.rows(0, reader.height)


def notes(path: Path) -> list[str]:
    with ImageReader(path) as reader:
        return reader.notes


NAMED = {
    "significant bits": (
        png(chunk(b"sBIT", bytes([5, 6, 5]))),
        "number of significant bits: 5, 6, 5",
    ),
    "background": (
        png(chunk(b"bKGD", bytes(6)), image=Image.fromarray(colors()).convert("RGBA")),
        "background color",
    ),
    "texts": (
        png(chunk(b"tEXt", b"Author\0A. B."), chunk(b"iTXt", b"Title\0\0\0\0\0T")),
        "text: Author, Title",
    ),
    "PNG XMP": (png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")), "XMP"),
    "unknown chunk": (png(chunk(b"neWs")), "what this program does not know in this PNG: neWs"),
    "unknown critical chunk": (png(chunk(b"NeWS")), "does not know in this PNG: NeWS"),
    "stereo": (png(chunk(b"sTER", b"\1")), "stereo layout: 1"),
    "comment": (jpeg((0xFE, b"hello")), "text: hello"),
    "gain map by ISO": (jpeg((0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")), "gain map (ISO"),
    "IPTC": (jpeg((0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\2ab")), "IPTC"),
    "credentials": (jpeg((0xEB, b"JP\0\1\0\0\0\1")), "content credentials"),
    "unknown segment": (jpeg((0xE7, b"Maker data")), "know in this JPEG: APP7 Maker data"),
    "motion photo": (jpeg(behind=b"\0\0\0\x18ftypmp42" + bytes(9)), "the video of a motion photo"),
    "depth map": (
        jpeg((0xE1, b'http://ns.adobe.com/xap/1.0/\0<x GDepth:Format="RangeInverse"/>')),
        "the depth map",
    ),
    "data behind": (jpeg(behind=b"PK\3\4" * 9), "data behind the image: 36 bytes"),
    "further JPEG": (jpeg(behind=encoded("JPEG")), "previews and gain maps behind the image"),
    "TIFF IPTC": (tiff({33723: b"\x1c\2\5\0\1a"}), "IPTC"),
    "layers": (tiff({37724: (7, b"Adobe")}), "Photoshop's layers"),
    "GeoTIFF": (tiff({33550: (12, (1.0, 1.0, 0.0))}), "place on the map (GeoTIFF): 1 1 0"),
    "no data": (tiff({42113: (2, "-9999")}), "level that means no data (GDAL): -9999"),
    "unknown tag": (tiff({65000: (3, 7)}), "does not know in this TIFF: tag 65000"),
    "extra samples": (
        tiff({}, Image.fromarray(np.dstack([colors(), colors()[..., :1]]), "RGBA")).replace(
            struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 0, 0)
        ),
        "samples that are neither color nor transparency",
    ),
    "WebP chunk": (
        riff(encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"), (b"NEWS", b"abc")),
        "know in this WEBP: NEWS",
    ),
    "GIF comment": (gif(b"!\xfe\5hello\0"), "text: hello"),
    "GIF plain text": (gif(b"!\x01\x0c" + bytes(12) + b"\2hi\0"), "plain text, which is drawn"),
    "GIF profile": (gif(b"!\xff\x0bICCRGBG1012\1a\0"), "color profile, which browsers ignore"),
    "GIF application": (gif(b"!\xff\x0bNEWAPPLI1.0\1a\0"), "know in this GIF: NEWAPPLI1.0"),
    "user input": (gif(b"!\xf9\4\2\0\0\0\0"), "frames that wait for the user"),
    "linked profile": (bmp(b"KNIL"), "color profile in another file"),
    "behind a PNG": (encoded("PNG") + b"payload", "data behind the image: 7 bytes"),
    "behind a BMP": (encoded("BMP") + b"payload", "data behind the image: 7 bytes"),
    "behind a BMP and its profile": (
        bmp(b"DEBM", profile=SRGB) + b"payload",
        "data behind the image: 7 bytes",
    ),
    "behind an AVIF": (encoded("AVIF") + b"payload", "data behind the image: 7 bytes"),
    "behind a JPEG 2000": (
        encoded("JPEG2000") + b"payload of another",
        "data behind the image: 18 bytes",
    ),
    "box of an AVIF": (encoded("AVIF") + b"\0\0\0\x0cnewsabcd", "not know in this AVIF: news"),
    "profile without a part": (profile_in((1, 2)), "color profile, of which a part is missing"),
    "profile twice": (profile_in((1, 1), (1, 1)), "color profile, of which a part is missing or"),
}


@pytest.mark.parametrize(("content", "said"), NAMED.values(), ids=NAMED)
def test_what_is_left_out_is_named(tmp_path: Path, content: bytes, said: str):
    path = written(tmp_path, content)
    assert read(path).pixels.shape == (SIZE[1], SIZE[0], 3)
    assert [line for line in notes(path) if line.startswith("left out:") and said in line]


SILENT = {
    "all bits": png(chunk(b"sBIT", bytes([8, 8, 8]))),
    "background of opaque": png(chunk(b"bKGD", bytes(6))),
    "time": png(chunk(b"tIME", bytes(7))),
    "thumbnail": jpeg((0xE0, b"JFXX\0\x10")),
    "padding": jpeg(behind=bytes(99)),
    "square pixels": gif(ratio=49),
    "halftone": tiff({321: (3, (0, 255))}),
    "sRGB": bmp(b"BGRs"),
    "plain": encoded("WEBP"),
    "AVIF": encoded("AVIF", quality=90),
    "JPEG 2000": encoded("JPEG2000"),
    "padded PNG": encoded("PNG") + bytes(99),
    "padded BMP": encoded("BMP") + bytes(2),
    "BMP whose length is not stated": encoded("BMP").replace(
        struct.pack("<I", len(encoded("BMP"))), bytes(4), 1
    ),
    "profile in two parts": profile_in((2, 2), (1, 2)),
}


@pytest.mark.parametrize("content", SILENT.values(), ids=SILENT)
def test_what_changes_nothing_is_no_line(tmp_path: Path, content: bytes):
    assert notes(written(tmp_path, content)) == []


CMYK = Image.fromarray(colors()).convert("CMYK")
RAW_DNG = {50706: (1, b"\1\4\0\0")}
REFUSED = {
    "reduced copy": (tiff({254: (4, 1)}), "reduced copy"),
    "camera raw": (tiff(RAW_DNG | {254: (4, 0)}), "raw data of a camera"),
    "proxy": (tiff({351: (3, 1)}), "in another file"),
    "other inks": (tiff({332: (3, 2)}, CMYK), "inks other than"),
    "dot range": (tiff({336: (3, (16, 235))}, CMYK), "do not begin at 0"),
    "black and white": (
        tiff({532: (5, (16.0, 235.0) * 3)}),
        "black and white that are not the lowest",
    ),
    "signed": (
        tiff({339: (3, 2)}, Image.fromarray(colors()[..., 0])).replace(
            struct.pack("<HHII", 339, 3, 1, 1), struct.pack("<HHII", 339, 3, 1, 2)
        ),
        "signed or complex",
    ),
    "12-bit JPEG": (jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "8 bits"),
    "iPhone PNG": (png()[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + png()[8:], "of an iPhone"),
    "JPEG in a BMP": (
        bmp(b"BGRs")[:30] + struct.pack("<I", 4) + bmp(b"BGRs")[34:],
        "BMP for printers",
    ),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_mislead_is_refused(tmp_path: Path, content: bytes, said: str):
    with pytest.raises(InputRefused, match=f"{said}.*possible:"):
        ImageReader(written(tmp_path, content))


PRIMARIES = {318: (5, P3[:2]), 319: (5, P3[2:])}


def curve(exponent: float) -> tuple[int, ...]:
    return tuple((np.linspace(0, 1, 256) ** exponent * 65535).round().astype(int).tolist())


def test_primaries_of_a_tiff_are_kept_in_tiff_and_png(tmp_path: Path):
    image = read(written(tmp_path, tiff(PRIMARIES)))
    write_image(tmp_path / "out.tif", image)
    write_image(tmp_path / "out.png", image)
    with Image.open(tmp_path / "out.tif") as out:
        assert [float(x) for x in (*out.tag_v2[318], *out.tag_v2[319])] == pytest.approx(P3)
    with Image.open(tmp_path / "out.png") as out:
        assert out.info["chromaticity"] == pytest.approx(P3)
    with pytest.raises(UsageError, match=r"cHRM.*write \.png"):
        refuse_unwritable(tmp_path / "out.jpg", image, 52, 36)


def test_a_transfer_function_is_kept_in_tiff_alone(tmp_path: Path):
    image = read(written(tmp_path, tiff({301: (3, curve(1.0))})))
    write_image(tmp_path / "out.tif", image)
    with Image.open(tmp_path / "out.tif") as out:
        assert out.tag_v2[301] == curve(1.0)
    with pytest.raises(UsageError, match=r"TransferFunction.*write \.tif"):
        refuse_unwritable(tmp_path / "out.png", image, 52, 36)
    usual = read(written(tmp_path, tiff({301: (3, curve(2.2))})))
    refuse_unwritable(tmp_path / "out.png", usual, 52, 36)  # nearly that of sRGB


def test_adobe_rgb_of_a_camera_is_kept_where_exif_is(tmp_path: Path):
    exif = Image.Exif()
    exif[IFD.Exif] = {0xA001: 0xFFFF, IFD.Interop: {1: "R03", 2: b"0100"}}
    image = read(written(tmp_path, encoded("JPEG", exif=exif)))
    for suffix in (".jpg", ".png", ".webp", ".tif"):
        write_image(tmp_path / f"out{suffix}", image)
        again = read(tmp_path / f"out{suffix}")
        assert dict(again.stated_colors)["EXIF InteropIndex"] == b"R03", suffix
    for suffix in (".bmp", ".gif"):
        with pytest.raises(UsageError, match=r"EXIF InteropIndex.*write \.png"):
            refuse_unwritable(tmp_path / f"out{suffix}", image, 52, 36)


def test_a_profile_in_a_bmp_is_kept(tmp_path: Path):
    assert read(written(tmp_path, bmp(b"DEBM", profile=SRGB))).icc_profile == SRGB
    assert notes(written(tmp_path, bmp(b"DEBM", profile=b"no"))) == [
        "left out: color profile: unreadable"
    ]


def test_calibrated_rgb_of_a_bmp_becomes_chunks(tmp_path: Path):
    # Columns of the matrix from sRGB to CIE XYZ.
    xyz = [(0.4124, 0.2126, 0.0193), (0.3576, 0.7152, 0.1192), (0.1805, 0.0722, 0.9505)]
    ends = np.array([[round(x * 2**30) for x in end] for end in xyz], "<i4").tobytes()
    gammas = np.array([1.8 * 2**16] * 3, "<u4").tobytes()
    stated = dict(read(written(tmp_path, bmp(bytes(4), ends, gammas))).stated_colors)
    points = [number / 1e5 for number in struct.unpack(">8I", stated["cHRM"])]
    assert points == pytest.approx((0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06), abs=2e-3)
    assert int.from_bytes(stated["gAMA"]) == 55556
    assert read(written(tmp_path, bmp(bytes(4)))).stated_colors == ()


@pytest.mark.parametrize(
    "content",
    [
        png(chunk(b"pHYs", struct.pack(">IIB", 64, 54, 0))),
        jpeg().replace(b"JFIF\0\1\1\0\0\1\0\1", b"JFIF\0\1\1\0\0\x40\0\x36"),
        tiff({282: (5, 64.0), 283: (5, 54.0), 296: (3, 1)}),
        gif(ratio=54 - 15),
    ],
    ids=["PNG", "JPEG", "TIFF", "GIF"],
)
def test_the_shape_of_a_pixel_is_kept(tmp_path: Path, content: bytes):
    image = read(written(tmp_path, content))
    assert image.pixel_shape == (64, 54)
    for suffix in (".png", ".jpg", ".tif"):
        write_image(tmp_path / f"out{suffix}", image)
        across, down = read(tmp_path / f"out{suffix}").pixel_shape
        assert across / down == pytest.approx(64 / 54)
        assert read(tmp_path / f"out{suffix}").dpi is None
    assert list(left_out_by(tmp_path / "out.webp", image)) == [
        "pixels that are not square: WEBP cannot state it"
    ]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_dots_per_inch_turn_with_the_image(tmp_path: Path, kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read(written(tmp_path, encoded(kind, dpi=(100, 200), exif=exif)))
    expected = (100, 200) if orientation == 1 else (200, 100)
    assert image.dpi == pytest.approx(expected, abs=0.1)
    for suffix in (".png", ".tif", ".jpg", ".webp", ".bmp"):
        write_image(tmp_path / f"out{suffix}", image)
        assert read(tmp_path / f"out{suffix}").dpi == pytest.approx(expected, abs=0.1), suffix
    assert list(left_out_by(tmp_path / "out.webp", image)) == []


def exif_of_resolutions(across: float, down: float | None, unit: int | None) -> bytes:
    """A segment for a JPEG."""
    tags = {0x010F: "Maker", 0x011A: across, 0x011B: down, 0x0128: unit}
    exif = Image.Exif()
    exif.update({tag: value for tag, value in tags.items() if value is not None})
    return b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")


NO_JFIF, WIDE = (b"JFIF\0", b"none\0"), (b"JFIF\0\1\1\0\0\1\0\1", b"JFIF\0\1\1\0\0\2\0\1")


@pytest.mark.parametrize(
    ("jfif", "resolutions", "dpi", "shape"),
    [
        (NO_JFIF, (204.0, 98.0, 2), (204, 98), None),
        (NO_JFIF, (204.0, 98.0, None), (204, 98), None),  # inches are the default
        (NO_JFIF, (100.0, 50.0, 3), (254, 127), None),
        (NO_JFIF, (2.0, 1.0, 1), None, (2, 1)),
        (NO_JFIF, (None, None, None), None, None),
        (WIDE, (None, None, None), None, (2, 1)),
        (WIDE, (72.0, 72.0, 2), None, (2, 1)),
        (WIDE, (300.0, 150.0, 2), (300, 150), None),
        (WIDE, (2.0, 1.0, 1), None, (2, 1)),
    ],
)
def test_a_jpeg_keeps_the_dots_and_shape_of_its_exif(tmp_path: Path, jfif, resolutions, dpi, shape):
    content = jpeg((0xE1, exif_of_resolutions(*resolutions))).replace(*jfif)
    image = read(written(tmp_path, content))
    assert (image.dpi, image.pixel_shape) == (dpi, shape)
    write_image(tmp_path / "out.tif", image)
    again = read(tmp_path / "out.tif")
    assert (again.dpi, again.pixel_shape) == (dpi, shape)


TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("turn", TRANSPOSED)
def test_deep_colors_of_a_turned_tiff_are_upright(tmp_path: Path, turn: int):
    with (tmp_path / "in").open("wb") as file:
        writer = TiffWriter(file, SIZE, 3, 16, tags={0x0112: (turn,)})
        writer.write(colors().astype(np.uint16) * 257)
        writer.finish()
    upright = np.asarray(Image.fromarray(colors()).transpose(TRANSPOSED[turn]))
    assert np.array_equal(read(tmp_path / "in").pixels, upright.astype(np.uint16) * 257)


def test_premultiplied_gray_of_a_tiff(tmp_path: Path):
    levels = np.dstack([np.full((2, 3), 64, np.uint8), np.full((2, 3), 128, np.uint8)])
    content = tiff({338: 1}, Image.fromarray(levels, "LA")).replace(
        struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0)
    )
    image = read(written(tmp_path, content))
    assert image.gray and (image.alpha == 128).all()
    assert np.abs(image.pixels.astype(int) - 128).max() <= 1


def test_exif_that_counts_pixels_of_the_old_image_is_dropped(tmp_path: Path):
    exif = Image.Exif()
    exif[0x010F], exif[0xC4A5] = "Maker", b"PrintIM"
    exif[IFD.Exif] = {
        **{0xA002: 13, 0x9214: (1, 2, 3, 4), 0xA20E: 99.0, 0x9102: 3.0},  # counts of pixels
        ExifTags.Base.ExposureTime: 0.5,
    }
    path = written(tmp_path, encoded("JPEG", exif=exif))
    kept = Image.Exif()
    kept.load(read(path).exif)
    assert set(kept.get_ifd(IFD.Exif)) == {ExifTags.Base.ExposureTime}
    assert notes(path) == ["left out: EXIF tags: PrintImageMatching"]


def row_of(kind: str, fate: Fate) -> str:
    names = [name for name, it in STATEMENTS[kind].items() if it.fate is fate]
    return f"| {kind} | {fate.value} | {', '.join(names)} |" if names else ""


@pytest.mark.parametrize("kind", STATEMENTS)
@pytest.mark.parametrize("fate", Fate)
def test_the_page_lists_every_statement(kind: str, fate: Fate):
    assert row_of(kind, fate) in PAGE.read_text()


@pytest.mark.parametrize(
    "make",
    [
        lambda: png(chunk(b"tEXt", b"\x1b[31m\0x")),
        lambda: jpeg((0xFE, b"\x1b[31m\n")),
        lambda: gif(b"!\xfe\5\x1b[31m\0"),
        lambda: png(*[chunk(b"tEXt", b"%d\0x" % n) for n in range(300)]),
    ],
)
def test_notes_are_short_and_printable(tmp_path: Path, make: Callable[[], bytes]):
    (line,) = notes(written(tmp_path, make()))
    assert line.isprintable() and len(line) < 200


def test_a_profile_stays_what_the_colors_mean(tmp_path: Path):
    """A profile counts before primaries, in a TIFF as in a PNG."""
    image = read(written(tmp_path, tiff(PRIMARIES, icc_profile=SRGB)))
    refuse_unwritable(tmp_path / "out.jpg", image, 52, 36)
    assert image.icc_profile == SRGB
