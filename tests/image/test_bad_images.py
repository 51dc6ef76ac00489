"""Every kind of bad, hostile or rare image, from the command line to the disk.

Whatever the input, the result is whole or absent, an older result of that name stays until there
is a new one, the input is never touched, and no other file is left behind.
"""

import io
import os
import signal
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from images import SIGNATURE, chunk, cmyk_profile, png
from PIL import Image, ImageCms

from srgan_edge.cli import main
from srgan_edge.image.opening import RESULT_SUFFIXES

pytestmark = pytest.mark.slow

SIZE = (13, 9)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run `srgan-edge upscale` with the fast model in a folder of its own: (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["srgan-edge", "upscale", "-n", "edge-x4", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def colors(width: int = SIZE[0], height: int = SIZE[1]) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([9 * x, 14 * y, 5 * (x + y)], axis=2).astype(np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(colors())).save(buffer, kind, **options)
    return buffer.getvalue()


def flipped(content: bytes, share: float) -> bytes:
    broken = bytearray(content)
    broken[int(len(broken) * share)] ^= 0xFF
    return bytes(broken)


def tiled_tiff(side: int) -> bytes:
    """A gray image of `SIZE` in one tile, whose pixels are of no matter."""
    tags = [
        (256, SIZE[0]), (257, SIZE[1]), (258, 8), (259, 8), (262, 1), (277, 1), (322, side),
        (323, side), (324, 200), (325, 10),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0\b\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return content.ljust(200, b"\0") + zlib.compress(bytes(100))


def mode(name: str) -> Image.Image:
    return Image.fromarray(colors()).convert("L").convert(name)


def several(kind: str, **options) -> bytes:
    others = [Image.fromarray(255 - colors())]
    return encoded(kind, save_all=True, append_images=others, **options)


def exif(orientation: int) -> bytes:
    table = Image.Exif()
    table[0x0112], table[0x010F] = orientation, "Maker"
    table[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    return table.tobytes()


def bomb(side: int) -> bytes:
    rows = zlib.compress(bytes((1 + side // 8) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND")


def palette(**options) -> bytes:
    return encoded("PNG", Image.fromarray(colors()).quantize(16), **options)


def deep(color_type: int, channels: int) -> bytes:
    values = np.random.default_rng(channels).integers(0, 65536, (9, 13, channels)).astype(">u2")
    return png(*SIZE, 16, color_type, b"".join(b"\0" + row.tobytes() for row in values))


def rgba(alpha: np.ndarray | int) -> bytes:
    return encoded(
        "PNG",
        Image.fromarray(np.dstack([colors(), np.broadcast_to(alpha, SIZE[::-1])]).astype(np.uint8)),
    )


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    content: bytes | Callable[[], bytes]
    code: int = 0
    message: str = ""
    """A part of the text on stderr."""
    mode: str = ""
    """Mode of the result, as Pillow names it."""
    size: tuple[int, int] = SIZE
    """Size of the upright input."""
    options: tuple[str, ...] = ()
    name: str = "in.png"


CASES = {
    "empty file": Case(b"", 3, "empty file (0 bytes)"),
    "random bytes": Case(np.random.default_rng(0).bytes(5000), 3, "not a PNG"),
    "first half of a PNG": Case(encoded("PNG")[: len(encoded("PNG")) // 2], 4, "cut short"),
    "first half of a JPEG": Case(
        encoded("JPEG")[: len(encoded("JPEG")) // 2], 4, "cut short", name="in.jpg"
    ),
    "PNG without IEND": Case(encoded("PNG")[:-12], message="end mark (IEND) is missing"),
    "PNG with a flipped byte": Case(flipped(encoded("PNG"), 0.7), 4, "broken"),
    # A JPEG has no checksum: a flipped byte among its pixels cannot be detected.
    "JPEG with a flipped byte": Case(flipped(encoded("JPEG", quality=95), 0.8), name="in.jpg"),
    "bomb of 900 million pixels": Case(lambda: bomb(30_000), 3, "type --max-pixels 900000000"),
    "bomb of 144 million pixels": Case(lambda: bomb(12_000), 3, "100000000 is the limit"),
    "bomb, and a lower limit": Case(
        lambda: bomb(1000), 3, "999999 is the limit", options=("--max-pixels", "999999")
    ),
    "zTXt bomb": Case(
        png(1, 1, 8, 0, b"\0\0", b"zTXtkey\0\0" + zlib.compress(bytes(20_000_000))),
        3,
        "inflates beyond the limit",
    ),
    "iCCP bomb": Case(
        png(1, 1, 8, 0, b"\0\0", b"iCCPkey\0\0" + zlib.compress(bytes(20_000_000))),
        3,
        "inflates beyond the limit",
    ),
    "result too large": Case(
        encoded("PNG"), 3, "type --max-pixels 183", options=("--max-pixels", "182", "-s", "5")
    ),
    "result too large, before decoding": Case(
        encoded("PNG")[: len(encoded("PNG")) // 2],
        3,
        "would become 2925 pixels, and 1872 is the limit",
        options=("--max-pixels", "117", "-s", "5"),
    ),
    "width 0": Case(png(0, 9, 8, 0, b""), 4, "header is broken"),
    "more rows than there are": Case(png(13, 90, 8, 0, bytes(14 * 9)), 4, "rows are missing"),
    "more strips than there are": Case(
        encoded("TIFF").replace(
            struct.pack("<HHII", 257, 4, 1, 9), struct.pack("<HHII", 257, 4, 1, 90)
        ),
        4,
        "rows are missing",
        name="in.tif",
    ),
    "1x1": Case(encoded("PNG", Image.fromarray(colors(1, 1))), size=(1, 1)),
    "1x500": Case(encoded("PNG", Image.fromarray(colors(1, 500))), size=(1, 500)),
    "2x2": Case(encoded("PNG", Image.fromarray(colors(2, 2))), size=(2, 2)),
    "16-bit RGB": Case(deep(2, 3), mode="RGB 16"),
    "16-bit gray": Case(deep(0, 1), mode="I;16"),
    "16-bit gray with alpha": Case(deep(4, 2), mode="RGBA 16"),
    "16-bit RGBA": Case(deep(6, 4), mode="RGBA 16"),
    "16-bit RGB to JPEG": Case(deep(2, 3), 2, "JPEG cannot hold", options=("-o", "in_x4.jpg")),
    "gray": Case(encoded("PNG", mode("L")), mode="L"),
    "1 bit": Case(encoded("PNG", mode("1")), mode="L"),
    "gray with alpha": Case(encoded("PNG", mode("LA")), mode="LA"),
    "palette": Case(palette(), mode="RGB"),
    "palette, one color transparent": Case(palette(transparency=3), mode="RGBA"),
    "CMYK JPEG": Case(encoded("JPEG", mode("CMYK")), message="CMYK", mode="RGB", name="in.jpg"),
    "CMYK by its profile": Case(
        encoded("JPEG", mode("CMYK"), icc_profile=cmyk_profile()),
        message="CMYK becomes sRGB by its color profile",
        mode="RGB",
        name="in.jpg",
    ),
    "32-bit integers": Case(
        encoded("TIFF", mode("I")), message="65535 white", mode="I;16", name="in.tif"
    ),
    "floating point": Case(
        encoded("TIFF", Image.fromarray(np.full((9, 13), 0.5, np.float32))),
        message="1.0 white",
        mode="I;16",
        name="in.tif",
    ),
    "floating point, not a number": Case(
        encoded("TIFF", Image.fromarray(np.full((9, 13), np.nan, np.float32))),
        3,
        "not finite",
        name="in.tif",
    ),
    "GIF whose second frame is 65535x65535": Case(
        several("GIF")
        .replace(b",\0\0\0\0" + struct.pack("<2H", *SIZE), b",\0\0\0\0" + b"\xff" * 4)
        .replace(b",\0\0\0\0" + b"\xff" * 4, b",\0\0\0\0" + struct.pack("<2H", *SIZE), 1),
        3,
        "frame 2 reaches beyond the image",
        name="in.gif",
    ),
    "TIFF of one tile of 65520x65520": Case(
        tiled_tiff(65520), 3, "tiles of 4292870400 pixels in an image of 13x9", name="in.tif"
    ),
    "TIFF whose tile has a text as its width": Case(
        tiled_tiff(16).replace(struct.pack("<HHI", 322, 4, 1), struct.pack("<HHI", 322, 2, 4)),
        4,
        "broken or cut short",
        name="in.tif",
    ),
    "BMP of Windows CE": Case(
        encoded("BMP")[:30] + b"\6" + encoded("BMP")[31:],
        3,
        "a way of other systems",
        name="in.bmp",
    ),
    "BigTIFF, highest bytes first": Case(
        b"MM\0+\0\b" + bytes(9) + b"\x10" + bytes(60), 3, "highest bytes first", name="in.tif"
    ),
    "LAB": Case(encoded("TIFF", Image.new("LAB", SIZE)), 3, "LAB colors", name="in.tif"),
    "alpha 0": Case(rgba(0), mode="RGBA"),
    "alpha 255": Case(rgba(255), mode="RGBA"),
    "alpha to JPEG": Case(rgba(254), 2, "JPEG cannot hold", options=("-o", "in_x4.jpg")),
    "alpha 255 to JPEG": Case(rgba(255), mode="RGB", options=("-o", "in_x4.jpg")),
    **{
        f"orientation {turn}": Case(
            encoded("JPEG", exif=exif(turn)), size=SIZE if turn < 5 else SIZE[::-1], name="in.jpg"
        )
        for turn in range(1, 9)
    },
    "ICC profile": Case(encoded("PNG", icc_profile=SRGB)),
    "ICC garbage": Case(encoded("PNG", icc_profile=b"x" * 99), message="color profile: unreadable"),
    "XMP of 5 MB": Case(encoded("WEBP", xmp=bytes(5_000_000)), message="left out: XMP"),
    "maker notes": Case(encoded("JPEG", exif=exif(1)), name="in.jpg"),
    "animated GIF": Case(several("GIF"), name="in.gif"),
    "animated WebP": Case(several("WEBP"), name="in.webp"),
    "animated PNG": Case(several("PNG")),
    "animation to JPEG": Case(
        several("WEBP"), 2, "2 frames of an animation", options=("-o", "in_x4.jpg")
    ),
    "TIFF of two pages": Case(several("TIFF"), 3, "holds 2 images", name="in.tif"),
    "PostScript": Case(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 3, "not a PNG"),
    "PDF": Case(b"%PDF-1.7\n1 0 obj\n", 3, "not a PNG"),
    "SVG": Case(b"<svg xmlns='http://www.w3.org/2000/svg'/>", 3, "not a PNG"),
    "HTML": Case(b"<!doctype html><title>404</title>", 3, "not a PNG"),
    "icon": Case(encoded("ICO"), 3, "not a PNG"),
    "FITS": Case(b"SIMPLE  =                    T".ljust(2880), 3, "not a PNG"),
    "AVIF": Case(encoded("AVIF"), mode="RGB", name="in.avif"),
    "first half of an AVIF": Case(
        encoded("AVIF")[: len(encoded("AVIF")) // 2], 4, "broken", name="in.avif"
    ),
    "HEIC": Case(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), 3, "magick heic:"),
    "JPEG 2000 with alpha": Case(encoded("JPEG2000", mode("LA")), mode="LA", name="in.jp2"),
    "first half of a JPEG 2000": Case(
        encoded("JPEG2000")[: len(encoded("JPEG2000")) // 2], 4, "broken", name="in.jp2"
    ),
    "bomb of a PPM": Case(b"P6 30000 30000 255 ", 3, "--max-pixels 900000000", name="in.ppm"),
    "PPM of 16 bits": Case(b"P6 13 9 65535 " + bytes(702), mode="RGB 16", name="in.ppm"),
    "PPM of 16 bits to JPEG": Case(
        b"P6 13 9 65535 " + bytes(702),
        2,
        "JPEG cannot hold",
        options=("-o", "in_x4.jpg"),
        name="in.ppm",
    ),
    "TGA": Case(encoded("TGA", mode("L")), mode="L", name="in.tga"),
    "TGA cut short": Case(encoded("TGA")[:99], 4, "broken", name="in.tga"),
    "JPEG with a ZIP behind it": Case(encoded("JPEG") + b"PK\3\4" * 50, name="in.jpg"),
    "PNG called .jpg": Case(encoded("PNG"), name="in.jpg"),
    "name with a newline": Case(encoded("PNG"), name="in\n.png"),
    "broken, and a name that paints": Case(b"", 3, r"\x1b[31m.png: empty", name="in\x1b[31m.png"),
    "name with a percent": Case(encoded("PNG"), name="in%d.png"),
    "name that is not UTF-8": Case(encoded("PNG"), name=os.fsdecode(b"in\xff.png")),
    "name of 255 bytes": Case(
        encoded("PNG"), name="i" * 251 + ".png", options=("-o", "o" * 251 + ".png")
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_table(cli, tmp_path: Path, case: Case):
    content = case.content if isinstance(case.content, bytes) else case.content()
    source = tmp_path / case.name
    source.write_bytes(content)
    suffix = RESULT_SUFFIXES.get(source.suffix, source.suffix)
    stem = source.stem if suffix == source.suffix else source.name
    target = tmp_path / f"{stem}_x4{suffix}"
    if "-o" in case.options:
        target = tmp_path / case.options[-1]
    code, err = cli(case.name, *case.options)
    assert (code, case.message in err) == (case.code, True), err
    assert target.exists() == (code == 0)
    if code:
        assert err.count("error:") == 1 and "\x1b" not in err, err
        target.write_bytes(b"older")
        assert cli(case.name, *case.options, "--overwrite")[0] == code
        assert target.read_bytes() == b"older"
    else:
        assert_whole(target, case)
    assert source.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}


def assert_whole(target: Path, case: Case) -> None:
    width, height = case.size
    with Image.open(target) as image:
        image.load()
        assert image.size == (4 * width, 4 * height)
        if case.mode:
            bits = target.read_bytes()[24] if image.format == "PNG" else 8
            assert image.mode + (" 16" if bits == 16 and image.mode != "I;16" else "") == case.mode
        if "exif" in image.info:
            assert image.getexif()[0x0112] == 1
        if case.content == CASES["alpha 255"].content and image.mode == "RGBA":
            assert np.asarray(image)[..., 3].min() == 255


@pytest.mark.parametrize("side", [127, 128, 129, 255, 257])
def test_sizes_around_a_tile(cli, tmp_path: Path, side: int):
    Image.fromarray(colors(side, 130)).save(tmp_path / "in.png")
    for tile in ("0", "128"):
        assert cli("in.png", "--tile", tile, "--fp32", "-o", f"{tile}.png")[0] == 0
    whole, tiled = (np.asarray(Image.open(tmp_path / f"{t}.png"), int) for t in ("0", "128"))
    assert whole.shape == (520, 4 * side, 3)
    assert np.abs(whole - tiled).max() <= 1


def test_a_name_with_a_leading_dash(cli, tmp_path: Path):
    (tmp_path / "-in.png").write_bytes(encoded("PNG"))
    assert cli("--", "-in.png")[0] == 0
    assert (tmp_path / "-in_x4.png").exists()


def test_anything_but_a_regular_file_is_refused_at_once(cli, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    for name, message in [
        ("fifo.png", "not a regular file"),
        ("socket.png", "check the name and rights"),
        ("zero.png", "not a regular file"),
        ("gone.png", "no such file"),
    ]:
        code, err = cli(name)
        assert code == 3 and message in err, err
    (tmp_path / "folder.png").mkdir()
    assert cli("folder.png")[0] == 3


def test_a_link_to_an_image_is_that_image(cli, tmp_path: Path):
    (tmp_path / "in.png").write_bytes(encoded("PNG"))
    (tmp_path / "link.png").symlink_to("in.png")
    assert cli("link.png")[0] == 0
    assert (tmp_path / "link_x4.png").exists() and (tmp_path / "link.png").is_symlink()


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_the_result_is_never_the_input(cli, tmp_path: Path, link):
    (tmp_path / "in.png").write_bytes(encoded("PNG"))
    if link:
        link("in.png", "out.png")
    code, err = cli("in.png", "-o", "out.png" if link else "in.png", "--overwrite")
    assert code == 2 and "is the input itself" in err
    assert (tmp_path / "in.png").read_bytes() == encoded("PNG")


def test_where_the_result_cannot_be(cli, tmp_path: Path):
    (tmp_path / "in.png").write_bytes(encoded("PNG"))
    (tmp_path / "file").touch()
    assert cli("in.png", "-o", "file/out.png")[0] == 5
    assert cli("in.png", "-o", "/proc/out.png")[0] == 5
    (tmp_path / "out.png").write_bytes(b"older")
    code, err = cli("in.png", "-o", "out.png")
    assert code == 2 and "--overwrite" in err
    assert (tmp_path / "out.png").read_bytes() == b"older"
