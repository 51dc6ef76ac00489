"""Images decoded in a child process: the same rows, and every way in which the child can fail."""

import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, features
from processes import children

from srgan_edge.errors import InputDamaged, InputRefused, ResourcesExhausted
from srgan_edge.image.reader import ImageReader
from srgan_edge.isolation import sandbox
from srgan_edge.isolation.images import ImageProcess

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 255, (7 + number, 5, 4), np.uint8)
        Image.fromarray(pixels, "RGBA").save(tmp_path / f"{number}.png", icc_profile=b"x" * 99)
    frames = [Image.fromarray(np.roll(pixels, n, 0)) for n in range(3)]
    frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:], duration=40)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    rgba = Image.fromarray(pixels, "RGBA")
    for suffix in ("jp2", "tga", *(["avif"] if features.check("avif") else [])):
        rgba.save(tmp_path / f"more.{suffix}")
        whole = (tmp_path / f"more.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "deep.ppm").write_bytes(b"P6 2 7 999 " + bytes(range(84)))
    (tmp_path / "bad.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def same_rows(reader, other, start, stop):
    ours, theirs = reader.rows(start, stop), other.rows(start, stop)
    assert ours.pixels.dtype == theirs.pixels.dtype
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert (ours.alpha is None) == (theirs.alpha is None)
    assert ours.alpha is None or np.array_equal(ours.alpha, theirs.alpha)
    for name in ("gray", "icc_profile", "exif", "dpi"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_rows_facts_and_refusals_are_those_of_the_reader(folder):
    with ImageProcess() as images:
        for path in sorted(folder.iterdir()):
            try:
                expected = ImageReader(path)
            except (InputRefused, InputDamaged) as error:
                with pytest.raises(type(error)) as same:
                    images.open(path)
                assert str(same.value) == str(error)
                continue
            with expected, images.open(path) as reader:
                for name in ("width", "height", "frames", "plays", "seconds", "notes"):
                    assert getattr(reader, name) == getattr(expected, name)
                assert reader.is_transparent == expected.is_transparent
                for frame in range(expected.frames):
                    if expected.frames > 1:
                        reader.seek(frame)
                        expected.seek(frame)
                    same_rows(reader, expected, 0, 0)
                    same_rows(reader, expected, 2, 5)
                    same_rows(reader, expected, 0, expected.height)
    assert children() == []


def test_a_link_leads_to_its_image_and_not_to_a_device(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link.png").symlink_to(folder / "1.png")
    (elsewhere / "zero.png").symlink_to("/dev/zero")
    with ImageProcess() as images:
        with images.open(elsewhere / "link.png") as reader:
            assert reader.height == 8
        with pytest.raises(InputRefused, match="not a regular file"):
            images.open(elsewhere / "zero.png")


@pytest.mark.skipif(sandbox.landlock_version() < 1, reason="a kernel without Landlock")
def test_nothing_beside_an_image_can_be_read(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(ImageProcess, "entry", "misbehaving:image_looks_around")
    (folder / "key.txt").write_text("secret")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link.png").symlink_to(folder / "key.txt")
    with ImageProcess() as images:
        for path in (folder / "1.png", elsewhere / "link.png"):
            with images.open(path) as image:
                assert image.notes == []


def test_images_of_many_folders(folder):
    paths = []
    for number in range(100):
        paths.append(folder / f"{number:0200}" / "a.png")
        paths[-1].parent.mkdir()
        paths[-1].write_bytes((folder / "1.png").read_bytes())
    with ImageProcess() as images, images.open(paths[77]) as reader:
        assert reader.height == 8


def test_an_animation_of_many_frames(tmp_path):
    """Their durations alone are more than a message holds."""
    frames = [Image.new("L", (1, 1), n % 2 * 255) for n in range(12_000)]
    frames[0].save(tmp_path / "long.gif", save_all=True, append_images=frames[1:], duration=30)
    with ImageProcess() as images, images.open(tmp_path / "long.gif") as reader:
        assert reader.seconds == [Fraction(3, 100)] * 12_000


def test_limits_are_those_of_the_reader(folder):
    with ImageProcess(max_pixels=40) as images:
        images.open(folder / "1.png")
        with pytest.raises(InputRefused, match="45 pixels, and 40 is the limit"):
            images.open(folder / "2.png")
        with pytest.raises(InputRefused, match="would become 4000 pixels, and 640 is the limit"):
            images.open(folder / "1.png", enlargement=10)


def test_an_image_that_exceeds_the_memory_limit_is_damaged(folder):
    Image.new("RGB", (9000, 9000)).save(folder / "large.png")
    message = r"large\.png: damaged: the decoder needs more than the 64 MiB it may have"
    with ImageProcess(memory_bytes=64 << 20) as images:
        with pytest.raises(InputDamaged, match=message):
            images.open(folder / "large.png")
        with images.open(folder / "1.png") as reader:
            assert reader.width == 5


LIES = [
    "crash",
    *(f"lie_of_{it}" for it in ("size", "frames", "notes", "rows")),
    *(f"lie_of_{it}" for it in ("alpha", "exif", "dpi", "colors")),
]


@pytest.mark.parametrize("name", LIES)
def test_a_child_that_crashes_or_lies_costs_one_image(folder, monkeypatch, name):
    monkeypatch.setattr(ImageProcess, "entry", f"misbehaving:image_{name}")
    message = r"1\.png: damaged: the decoder (crashed|broke its protocol)"
    with (
        ImageProcess() as images,
        pytest.raises(InputDamaged, match=message),
    ):
        images.open(folder / "1.png").rows(0, 2)


def test_no_other_child_is_started_to_close_an_image(folder, monkeypatch):
    monkeypatch.setattr(ImageProcess, "entry", "misbehaving:image_lie_of_rows")
    with ImageProcess() as images:
        with (
            pytest.raises(InputDamaged, match="broke its protocol"),
            images.open(folder / "1.png") as reader,
        ):
            reader.rows(0, 2)
        assert children() == []


def test_many_small_images_cost_little(folder):
    with ImageProcess() as images:
        images.open(folder / "0.png")
        started = time.monotonic()
        for _ in range(100):
            with images.open(folder / "1.png") as reader:
                reader.rows(0, 8)
        assert time.monotonic() - started < 4


def test_a_decoder_that_the_kernel_kills_is_a_lack_of_memory(folder):
    with ImageProcess() as images:
        with images.open(folder / "1.png") as image:
            (child,) = children()
            child.kill()
            with pytest.raises(
                ResourcesExhausted, match=r"1.png: the process that read it was killed"
            ):
                image.rows(0, 1)
        with images.open(folder / "1.png") as image:  # the next image has a decoder again
            assert image.rows(0, 1).height == 1
