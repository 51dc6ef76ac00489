"""Facts that containers and codecs state beside the frames: cropping, and pixels that change."""

from fractions import Fraction

import pytest
from clips import make

from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.reporters import remarks_after
from srgan_edge.tiling import Tiling
from srgan_edge.video.frame import Encoding, Frame
from srgan_edge.video.reader import VideoReader

TICK = Fraction(1, 90000)
NO_CHECKSUMS = {"write_crc32": "0"}


def cropped(path, left):
    """A Matroska file whose DisplayUnit was replaced by PixelCropLeft."""
    make(path, frames=2, container_options=NO_CHECKSUMS)
    content = path.read_bytes()
    unit, crop = b"\x54\xb2\x81\x04", b"\x54\xcc\x81" + bytes([left])
    assert content.count(unit) == 1
    path.write_bytes(content.replace(unit, crop))
    return path


def test_cropping_by_the_container_is_named(tmp_path):
    with VideoReader(cropped(tmp_path / "in.mkv", 8)) as reader:
        [line] = reader.info.unkept
        assert line == "cropping by the player (8 left): whole frames are upscaled"
        assert (reader.info.width, reader.info.height) == (64, 48)


@pytest.mark.parametrize("codec", ["ffv1", "mpeg4", "rawvideo"])
def test_no_cropping_is_none(tmp_path, codec):
    with VideoReader(make(tmp_path / "in.mkv", frames=1, codec=codec, options={})) as reader:
        assert reader.info.unkept == ()


def test_pixels_that_change_their_shape_are_named(tmp_path):
    """As between a program in 4:3 and one in 16:9 of a broadcast."""
    parts = [
        make(
            tmp_path / f"{number}.ts",
            time_base=TICK,
            pts=[90000 * (1 + number) + 3600 * n for n in range(25)],
            aspect=aspect,
        )
        for number, aspect in enumerate((Fraction(12, 11), Fraction(16, 11)))
    ]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(source) as reader:
        assert sum(isinstance(item, Frame) for item in reader) == 50
        assert reader.info.sample_aspect_ratio == Fraction(12, 11)
        assert reader.notes.reshaped.startswith("12/11 to 16/11 at ")
        options = Options("", Encoding(), Tiling())
        remarks = list(remarks_after(reader.info, reader.notes, options, 0))
    assert any("pixel aspect ratio changes from 12/11 to 16/11" in line for line in remarks)
