"""Packed values come back equal, and invalid records raise an error."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srgan_edge.image.still import StillImage
from srgan_edge.isolation.wire import Duration, Heap, Ticks, pack, unpack
from srgan_edge.video.frame import VideoInfo

COUNTS = st.integers(0, 2**40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
)


@dataclass(frozen=True)
class Everything:
    number: int
    ratio: Fraction | None
    kind: Literal["a", "b"]
    names: tuple[str, ...]
    pair: tuple[float, bool]
    options: dict[str, int]
    raw: bytes | None
    samples: npt.NDArray[np.uint8 | np.uint16]


def sent(value):
    heap = Heap()
    record = pack(value, heap)
    memory = memoryview(bytearray(heap.size))
    heap.write(memory)
    return unpack(type(value), record, memory)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (0, 3, 3)])
def test_images_come_back(shape):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, shape, np.uint8)
    before = StillImage(pixels[::-1], pixels[..., 0], True, b"profile", None, (72.0, 300.5))
    after = sent(before)
    assert np.array_equal(after.pixels, before.pixels)
    assert np.array_equal(after.alpha, before.alpha)
    assert (after.gray, after.icc_profile, after.exif, after.dpi) == (
        (True, b"profile", None, (72.0, 300.5))
    )


@given(COUNTS, st.sampled_from(["uint8", "uint16"]), st.binary(max_size=9))
def test_every_type_comes_back(number, dtype, raw):
    value = Everything(
        number, Fraction(-2, 3), "b", ("x", ""), (0.5, True), {"k": 3}, raw,
        np.arange(6, dtype=dtype),
    )  # fmt: skip
    back = sent(value)
    assert np.array_equal(back.samples, value.samples)
    assert back.samples.dtype == dtype
    fields = ("number", "ratio", "kind", "names", "pair", "options", "raw")
    assert [getattr(back, f) for f in fields] == [getattr(value, f) for f in fields]


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        (int, -1),
        (int, 2**40 + 1),
        (Ticks, 2**61 + 1),
        (Duration, -1),
        (float, 1e300),
        (str, "\x1b[2J"),
        (str, "\u202e"),
        (str, "x" * 2001),
        (dict[str, int], {"\n": 1}),
        (Fraction, [1, 2**31]),
        (Fraction, [2**63, 1]),
        (tuple[int, ...], [1] * 10_001),
        (int, True),
        (int, 1.0),
        (int, 2**63),
        (bool, 1),
        (str, None),
        (float, float("nan")),
        (Fraction, [1, 0]),
        (Fraction, [1, -2]),
        (Fraction, [1]),
        (bytes, [0, 17]),
        (bytes, [16, 1]),
        (bytes, [-1, 1]),
        (bytes, [1, -1]),
        (tuple[int, int], [1]),
        (tuple[int, ...], {"0": 1}),
        (dict[str, int], [["a", 1]]),
        (Literal["a"], ["a"]),
        (npt.NDArray[np.uint8], [0, "object", [1]]),
        (npt.NDArray[np.uint8], [0, "uint16", [1]]),
        (npt.NDArray[np.uint8], [0, "uint8", [17]]),
        (npt.NDArray[np.uint8], [0, "uint8", [-1, -1]]),
        (npt.NDArray[np.uint8], [0, "uint8", [2**32, 2**32]]),
        (npt.NDArray[np.uint8], [0, "uint8", [1] * 5]),
        (npt.NDArray[np.uint8], [0, ["uint8"], [1]]),
        (Everything, {"number": 1}),
        (Everything, 7),
    ],
)
def test_records_of_another_type_are_rejected(kind, record):
    with pytest.raises(ValueError, match="unexpected"):
        unpack(kind, record, memoryview(bytearray(16)))


INFO = {
    "width": 64,
    "height": 48,
    "time_base": [1, 25],
    "start_pts": 0,
    "average_rate": [25, 1],
    "duration_seconds": 1.0,
    "frames_stated": None,
    "codec": "h264",
    "bit_rate": None,
    "pixel_format": "yuv420p",
    "color": {"matrix": 1, "full_range": False, "primaries": 2, "transfer": 2, "assumed": []},
    "hdr": {"display": None, "light_levels": [1000, 400]},
    "unkept": [],
    "sample_aspect_ratio": None,
    "display_matrix": [1] * 9,
    "interlaced": False,
    "states_length": True,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"width": 2**16, "height": 2**11},
        {"time_base": [1, 2**31]},
        {"time_base": [0, 1]},
        {"average_rate": [2**60, 1]},
        {"average_rate": [1, 2**60]},
        {"sample_aspect_ratio": [2**50, 3]},
        {"display_matrix": [2**40] * 9},
        {"display_matrix": [1] * 8},
        {"duration_seconds": 1e308},
        {"frames_stated": 0},
        {"start_pts": -(2**62)},
        {"codec": "x" * 30_000},
        {"bit_rate": -1},
        {"bit_rate": 2**41},
        {"codec": "\x1b[2J"},
        {"pixel_format": "cuda"},
        {"pixel_format": "gbrpf32le"},
        {"color": INFO["color"] | {"primaries": 2**40}},
        {"color": INFO["color"] | {"transfer": -7}},
        {"color": INFO["color"] | {"matrix": 99}},
        {"color": INFO["color"] | {"matrix": 0, "assumed": ["matrix"]}},
        {"hdr": {"display": None, "light_levels": [-5, 1]}},
        {"unkept": ["\n"]},
        {"surprise": 1},
    ],
)
def test_facts_that_no_decoder_has_are_rejected(changes):
    assert unpack(VideoInfo, INFO).width == 64
    with pytest.raises(ValueError, match="unexpected"):
        unpack(VideoInfo, INFO | changes)


@pytest.mark.parametrize(
    "kind", [VideoInfo, StillImage, Everything], ids=lambda kind: kind.__name__
)
@given(JSON)
def test_any_json_is_a_value_or_an_error(kind, record):
    with pytest.raises(ValueError, match="unexpected"):
        unpack(kind, record)


def test_values_that_cannot_be_sent_are_a_bug():
    with pytest.raises(TypeError, match="set cannot be sent"):
        pack({1}, Heap())
    with pytest.raises(TypeError, match="cannot be received"):
        unpack(set, [1])


def test_texts_are_made_printable_and_cut():
    assert sent("\x1b[2J" + "x" * 3000) == r"\x1b[2J" + "x" * 1993
