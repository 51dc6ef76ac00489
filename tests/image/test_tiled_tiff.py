"""TIFFs of 16-bit colors in tiles, which FFmpeg does not know, against their samples."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from srgan_edge.errors import InputRefused
from srgan_edge.image.levels import deep_colors

RANDOM = np.random.default_rng(3)


def tiled(samples, side, *, order="<", compress=False, left_out=0):
    """A TIFF of uint16 [H, W, 3 or 4] in square tiles, filled up with zeros."""
    height, width, channels = samples.shape
    down, across = -(-height // side), -(-width // side)
    whole = np.zeros((down * side, across * side, channels), f"{order}u2")
    whole[:height, :width] = samples
    tiles = [
        whole[y : y + side, x : x + side].tobytes()
        for y in range(0, down * side, side)
        for x in range(0, across * side, side)
    ]
    tiles = [zlib.compress(tile) if compress else tile for tile in tiles][left_out:]
    content = b"".join(tiles)
    lengths = [len(tile) for tile in tiles]
    offsets = [8 + sum(lengths[:number]) for number in range(len(tiles))]
    entries = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [16] * channels),
        (259, 3, [8 if compress else 1]), (262, 3, [2]), (277, 3, [channels]), (284, 3, [1]),
        (322, 3, [side]), (323, 3, [side]), (324, 4, offsets), (325, 4, lengths),
    ]  # fmt: skip
    if channels == 4:
        entries.append((338, 3, [2]))
    directory = struct.pack(f"{order}H", len(entries))
    beside = 8 + len(content) + 2 + 12 * len(entries) + 4
    values = b""
    for tag, kind, numbers in entries:
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", beside + len(values))
            values += packed
            packed = place
        directory += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    start = struct.pack(f"{order}I", 8 + len(content))
    return magic + start + content + directory + bytes(4) + values


def decoded(path):
    with path.open("rb") as file, Image.open(path) as image:
        image.load()
        return deep_colors(path, file, image)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "deflated"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("shape", [(16, 16, 3), (37, 50, 3), (37, 50, 4), (5, 70, 3)])
def test_samples_are_those_of_the_tiles(tmp_path, shape, order, compress):
    samples = RANDOM.integers(0, 65536, shape, np.uint16)
    path = tmp_path / "in.tif"
    path.write_bytes(tiled(samples, 16, order=order, compress=compress))
    np.testing.assert_array_equal(decoded(path), samples)


def test_a_missing_tile_is_refused(tmp_path):
    path = tmp_path / "in.tif"
    samples = np.zeros((20, 20, 3), np.uint16)
    path.write_bytes(tiled(samples, 16, left_out=1))
    unsupported = pytest.raises(InputRefused, match="unsupported kind of 16-bit color; save it as")
    with path.open("rb") as file, Image.open(path) as image, unsupported:
        deep_colors(path, file, image)
