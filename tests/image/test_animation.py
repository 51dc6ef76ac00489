"""Animations stay animations: every frame, its duration, and the number of repetitions."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from images import SIGNATURE, chunk, png
from PIL import Image, ImageDraw

from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError
from srgan_edge.image.animation import animation_file
from srgan_edge.image.reader import ImageReader
from srgan_edge.image.still import StillImage, enlarged, joined
from srgan_edge.image.writer import refuse_unwritable
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler
from tests.test_upscaler import Nearest

SUFFIXES = [".gif", ".webp", ".png"]
DELAYS_MS = [50, 70, 1200, 100]
SECONDS = [Fraction(delay, 1000) for delay in DELAYS_MS]


def frames(transparent: bool) -> list[Image.Image]:
    """A square in four places and colors, on a transparent or blue background."""
    made = []
    for place, color in enumerate(["red", "lime", "white", "black"]):
        image = Image.new("RGBA", (24, 16), (0, 0, 0, 0) if transparent else "blue")
        ImageDraw.Draw(image).rectangle((1 + 5 * place, 3, 7 + 5 * place, 11), fill=color)
        made.append(image if transparent else image.convert("RGB"))
    return made


def save(path: Path, images: list[Image.Image], **options) -> Path:
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], **options, **lossless)
    return path


def seen(path: Path) -> list[np.ndarray]:
    """uint8 [H, W, 4] of every frame, as a program that shows it would."""
    with Image.open(path) as image:
        composed = []
        for frame in range(image.n_frames):
            image.seek(frame)
            composed.append(np.asarray(image.convert("RGBA")))
    return composed


def upscale(source: Path, target: Path) -> ImageReader:
    upscaler = FrameUpscaler(Nearest(), Tiling(tile=0))
    with ImageReader(source) as reader:
        size = 4 * reader.width, 4 * reader.height
        like = reader.rows(0, 0)
        with animation_file(target, like, size, reader.seconds, reader.plays) as write:
            for frame in range(reader.frames):
                reader.seek(frame)
                write(joined(list(enlarged(reader, upscaler, *size))))
    return reader


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_every_frame_and_its_time(tmp_path: Path, source: str, target: str, transparent: bool):
    originals = frames(transparent)
    disposal = {".gif": {"disposal": 2}, ".png": {"disposal": 1}}.get(source, {})
    path = save(tmp_path / f"in{source}", originals, duration=DELAYS_MS, loop=3, **disposal)
    result = tmp_path / f"out{target}"
    before = upscale(path, result)
    with ImageReader(result) as after:
        assert after.frames == 4
        assert after.seconds == before.seconds == SECONDS
        assert after.plays == before.plays == 3 + (source == ".gif")
        assert (after.width, after.height) == (96, 64)
    for original, frame in zip(originals, seen(result), strict=True):
        expected = np.asarray(original.convert("RGBA").resize((96, 64), Image.Resampling.NEAREST))
        inside = np.s_[2::4, 2::4]  # away from the edges that interpolation of alpha moves
        visible = expected[inside][..., 3:] > 0
        apart = np.abs(frame[inside].astype(int) - expected[inside])
        assert apart[..., 3].max() <= (0 if target == ".gif" else 45)
        assert (apart[..., :3] * visible).max() <= (24 if target == ".webp" else 0)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("plays", [0, 1, 2, 7])
def test_how_often_it_is_played(tmp_path: Path, suffix: str, plays: int):
    pixels = [np.full((3, 5, 3), level, np.uint8) for level in (0, 99, 255)]
    path = tmp_path / f"out{suffix}"
    with animation_file(path, StillImage(pixels[0]), (5, 3), [Fraction(1, 10)] * 3, plays) as write:
        for each in pixels:
            write(StillImage(each))
    with ImageReader(path) as reader:
        assert reader.plays == plays


def test_times_of_a_gif_are_rounded_without_a_drift(tmp_path: Path):
    seconds = [Fraction(1, 30)] * 30
    with animation_file(
        tmp_path / "out.gif", StillImage(np.zeros((3, 5, 3), np.uint8)), (5, 3), seconds, 0
    ) as write:
        for level in range(30):
            write(StillImage(np.full((3, 5, 3), level, np.uint8)))
    with ImageReader(tmp_path / "out.gif") as reader:
        assert reader.frames == 30 and sum(reader.seconds) == 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_equal_frames_are_joined_and_last_as_long(tmp_path: Path, suffix: str):
    path = tmp_path / f"out{suffix}"
    pixels = StillImage(np.full((3, 5, 3), 99, np.uint8))
    with animation_file(path, pixels, (5, 3), [Fraction(1, 10)] * 4, 1) as write:
        for image in (pixels, pixels, pixels, StillImage(np.zeros((3, 5, 3), np.uint8))):
            write(image)
    with ImageReader(path) as reader:
        assert sum(reader.seconds) == Fraction(4, 10)


def test_equal_frames_of_a_png_are_frames(tmp_path: Path):
    pixels = StillImage(np.full((3, 5, 3), 99, np.uint8))
    with animation_file(tmp_path / "out.png", pixels, (5, 3), SECONDS, 1) as write:
        for _ in SECONDS:
            write(pixels)
    with ImageReader(tmp_path / "out.png") as reader:
        assert reader.seconds == SECONDS


def test_what_a_gif_leaves_of_the_previous_frame_stays_visible(tmp_path: Path):
    """A GIF whose second frame is a small patch, laid over the first."""
    first = Image.new("P", (8, 6))
    first.putpalette([0, 0, 255, 255, 0, 0])
    patch = first.copy()
    patch.putpixel((3, 2), 1)
    path = save(tmp_path / "in.gif", [first, patch], duration=100, disposal=1)
    upscale(path, tmp_path / "out.png")
    second = seen(tmp_path / "out.png")[1]
    assert second[2, 2].tolist() == [0, 0, 255, 255] and second[10, 14].tolist() == [255, 0, 0, 255]


def gif(path: Path, places: list[tuple[int, int]], disposal: int) -> Path:
    """Write a GIF of 8x6 with red frames of 4x3 at (left, top), and no transparent color."""
    still = io.BytesIO()
    frame = Image.new("P", (4, 3), 1)
    frame.putpalette([0, 0, 255, 255, 0, 0])
    frame.save(still, "GIF", optimize=False)
    content = still.getvalue()
    at = content.index(b"\x2c" + struct.pack("<4H", 0, 0, 4, 3))
    colors = 3 << (content[10] % 8 + 1)
    head = content[:6] + struct.pack("<2H", 8, 6) + content[10 : 13 + colors]
    body = b""
    for left, top in places:
        control = b"\x21\xf9\x04" + bytes([disposal << 2, 10, 0, 0, 0])
        body += control + b"\x2c" + struct.pack("<4H", left, top, 4, 3) + content[at + 9 : -1]
    path.write_bytes(head + body + b";")
    return path


@pytest.mark.parametrize("places", [[(2, 1)], [(2, 1), (0, 0)]])
@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_what_no_frame_of_a_gif_paints_is_transparent_as_in_browsers(
    tmp_path: Path, places: list[tuple[int, int]], disposal: int
):
    painted = np.zeros((6, 8), bool)
    with ImageReader(gif(tmp_path / "in.gif", places, disposal)) as reader:
        for number, (left, top) in enumerate(places):
            if len(places) > 1:
                reader.seek(number)
            before = painted.copy()
            painted[top : top + 3, left : left + 4] = True
            shown = reader.rows(0, 6)
            assert shown.alpha is not None
            assert (shown.alpha == np.where(painted, 255, 0)).all()
            assert (shown.pixels[painted] == (255, 0, 0)).all()
            if disposal > 1:
                painted = before


def test_a_gif_whose_frames_fill_it_is_opaque(tmp_path: Path):
    path = save(tmp_path / "in.gif", frames(transparent=False), duration=100, disposal=2)
    with ImageReader(path) as reader:
        assert not reader.is_transparent


def test_colors_may_begin_with_the_second_frame(tmp_path: Path):
    images = [Image.new("L", (8, 6), 99), Image.new("RGB", (8, 6), "red")]
    path = save(tmp_path / "in.gif", images, duration=100)
    upscale(path, tmp_path / "out.png")
    assert [frame[9, 9, :3].tolist() for frame in seen(tmp_path / "out.png")] == [
        [99, 99, 99],
        [255, 0, 0],
    ]


def test_the_still_image_for_other_programs_is_not_a_frame(tmp_path: Path):
    images = frames(transparent=False)
    path = tmp_path / "in.png"
    images[0].save(path, save_all=True, default_image=True, append_images=images[1:], duration=90)
    with ImageReader(path) as reader:
        assert reader.frames == 3
        reader.seek(0)
        assert np.array_equal(reader.rows(0, 16).pixels, np.asarray(images[1]))
        assert reader.notes == ["left out: the still image for programs that show no animation"]


def test_one_frame_beside_the_still_image_is_the_image(tmp_path: Path):
    images = frames(transparent=False)[:2]
    path = tmp_path / "in.png"
    images[0].save(path, save_all=True, default_image=True, append_images=images[1:], duration=90)
    with ImageReader(path) as reader:
        assert reader.frames == 1
        assert np.array_equal(reader.rows(0, 16).pixels, np.asarray(images[1]))
        assert reader.notes == ["left out: the still image for programs that show no animation"]


@pytest.mark.parametrize(
    ("suffix", "seconds", "advice"),
    [(".gif", 656, ".png or .webp"), (".gif", 16778, ".png"), (".webp", 16778, ".png")],
)
def test_what_is_advised_for_long_frames_holds_them(tmp_path, suffix, seconds, advice):
    like, times = StillImage(np.zeros((1, 1, 3), np.uint8)), [Fraction(seconds)]
    with pytest.raises(UsageError, match=rf"; write {advice}$"):
        refuse_unwritable(tmp_path / f"out{suffix}", like, 4, 4, frames=2, seconds=times)
    for possible in advice.split(" or "):
        refuse_unwritable(tmp_path / f"out{possible}", like, 4, 4, frames=2, seconds=times)


def test_no_format_holds_frames_of_a_day(tmp_path: Path):
    like, times = StillImage(np.zeros((1, 1, 3), np.uint8)), [Fraction(86_400)]
    with pytest.raises(UsageError, match="no other format shows it longer; shorten the frame"):
        refuse_unwritable(tmp_path / "out.png", like, 4, 4, frames=2, seconds=times)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_animation_is_damaged(tmp_path: Path, suffix: str):
    path = save(tmp_path / f"in{suffix}", frames(transparent=False), duration=90)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - len(whole) // 4])
    with pytest.raises(InputDamaged):
        ImageReader(path)


def test_a_gif_that_ends_before_its_next_frame_is_damaged_and_without_its_end_is_named(
    tmp_path: Path,
):
    path = save(tmp_path / "in.gif", frames(transparent=False), duration=90)
    whole = path.read_bytes()
    control, mark = whole.rindex(b"!\xf9\x04"), "the end mark (trailer) is missing"
    for end in range(control + 1, control + 9):
        path.write_bytes(whole[:end])
        with pytest.raises(InputDamaged):
            ImageReader(path)
    for content, found in [(whole, 4), (whole[:-1], 4), (whole[:control] + bytes(99), 3)]:
        path.write_bytes(content)
        with ImageReader(path) as reader:
            assert reader.frames == found
            assert any(mark in note for note in reader.notes) == (content != whole)


@pytest.mark.parametrize("stated", [0, 1, 3, 5])
def test_a_png_that_misstates_its_frames_is_damaged(tmp_path: Path, stated: int):
    path = save(tmp_path / "in.png", frames(transparent=False), duration=90)
    control = [chunk(b"acTL", struct.pack(">II", count, 0)) for count in (4, stated)]
    assert control[0] in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(*control))
    with pytest.raises(InputDamaged):
        ImageReader(path)


def test_all_frames_together_have_a_limit(tmp_path: Path):
    path = save(tmp_path / "in.gif", frames(transparent=False), duration=90)
    with pytest.raises(InputRefused, match=r"24x16 in 4 frames.*type --max-pixels 1536"):
        ImageReader(path, max_pixels=1535)
    ImageReader(path, max_pixels=1536).__exit__()


def test_formats_collected_in_memory_have_a_limit(tmp_path: Path):
    like = StillImage(np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(OutputFailed, match=r"write \.png$"):
        refuse_unwritable(tmp_path / "out.gif", like, 4000, 4000, frames=20)
    refuse_unwritable(tmp_path / "out.png", like, 4000, 4000, frames=20)


def test_sixteen_bits_in_frames_are_refused(tmp_path: Path):
    still = png(1, 1, 16, 0, b"\0\0\0")
    control = struct.pack(">IIIIHHBB", 1, 1, 0, 0, 1, 10, 0, 0)
    both = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">I", 0) + control)
    header_end = len(SIGNATURE) + 25
    more = chunk(b"fcTL", struct.pack(">I", 1) + control) + chunk(b"fdAT", struct.pack(">I", 2))
    content = still[:header_end] + both + still[header_end:-12] + more + still[-12:]
    (tmp_path / "in.png").write_bytes(content)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    with pytest.raises(InputRefused, match="an animation with 16 bits per channel"):
        ImageReader(tmp_path / "in.png")
