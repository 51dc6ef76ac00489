"""Kernels: references that mean what they say, and CUDA sources that equal them bit for bit.

A C++ compiler builds the sources as they are, and every thread runs on the CPU, one after another,
with checks for undefined behavior: a misaligned access, a number that leaves its 32 bits.
"""

import ctypes
import mmap
import re
import shutil
import subprocess

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srgan_edge.color_lock import lock_axis, locked
from srgan_edge.engines.cache import machine_code
from srgan_edge.errors import UsageError
from srgan_edge.kernels import (
    color_lock,
    rgb_to_yuv420,
    source,
    tile_difference,
    tile_gather,
    tile_scatter,
    yuv420_to_rgb,
)
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.tiling import plan_tiles, upscale_tiled
from srgan_edge.video.color import MATRICES, ColorDescription, unclipped_rgb
from srgan_edge.video.convert import DECODE_FLAGS, Converter, color_options
from tests.video.test_color import yuv_from_rgb

CXX = shutil.which("g++") or shutil.which("c++")
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
CHECKS = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
CXX_OPTIONS = ["-std=c++17", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC"]
SOURCES = sorted(set(source.KERNELS.values()))
POISON = 0xA5
PAGE = mmap.PAGESIZE

SCHEMES = [(matrix, full_range) for matrix in MATRICES for full_range in (False, True)]
SIZES = [(1, 1), (2, 1), (1, 2), (3, 3), (16, 2), (17, 4), (31, 7), (32, 6), (50, 5), (84, 9)]
"""(width, height): one more or less than a thread does, rows aligned to 16, 4 and 1 bytes."""


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Calls a kernel for each of its threads, backwards: no GPU promises an order."""
    if CXX is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("kernels") / "kernels.so"
    sources = [source.FOLDER / f"{name}.cu" for name in SOURCES]
    subprocess.run(
        [CXX, *CXX_OPTIONS, *WARNINGS, *CHECKS, "-o", path, "-x", "c++", *sources], check=True
    )
    library = ctypes.CDLL(str(path))
    current = ctypes.c_int.in_dll(library, "current_thread")

    def launch(kernel, threads, *arguments):
        function = getattr(library, kernel)
        blocks = -(-threads // source.BLOCK_THREADS)
        values = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int(a)
            for a in arguments
        ]
        for thread in reversed(range(blocks * source.BLOCK_THREADS)):
            current.value = thread
            function(*values)

    return launch


class Placed:
    """An array whose memory begins `offset` bytes after 16 aligned ones, among poison.

    With no offset it ends where a page begins that nobody may read: going further ends the tests.
    """

    def __init__(self, array, offset=None):
        array = np.ascontiguousarray(array)
        pages = -(-array.nbytes // PAGE) + 2
        self._memory = mmap.mmap(-1, pages * PAGE)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        end = (pages - 1) * PAGE
        protected = ctypes.CDLL(None).mprotect(
            ctypes.c_void_p(self._bytes.ctypes.data + end), ctypes.c_size_t(PAGE), 0
        )
        assert protected == 0
        self._bytes = self._bytes[:end]
        self._bytes[:] = POISON
        first = end - array.nbytes if offset is None else PAGE // 2 + offset
        self._place = slice(first, first + array.nbytes)
        self.array = self._bytes[self._place].view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def assert_rest_untouched(self):
        rest = self._bytes.copy()
        rest[self._place] = POISON
        assert (rest == POISON).all()


def poisoned(shape, dtype=np.uint8, offset=None):
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return Placed(np.full(nbytes, POISON, np.uint8).view(dtype).reshape(shape), offset)


def with_pitch(plane, gap):
    """[H, ...] -> [H, row and `gap` samples more], poisoned."""
    rows = plane.reshape(len(plane), -1)
    pitched = np.full(rows.nbytes + len(rows) * gap * rows.itemsize, POISON, np.uint8)
    pitched = pitched.view(rows.dtype).reshape(len(rows), -1)
    pitched[:, : rows.shape[1]] = rows
    return pitched


def samples(rng, shape):
    """Random bytes; extremes come more often than by chance."""
    codes = rng.integers(0, 256, shape)
    codes = np.where(rng.random(shape) < 0.1, rng.choice([0, 255], shape), codes)
    return codes.astype(np.uint8)


def frame_420(rng, width, height):
    shape = (-(-height // 2), -(-width // 2), 2)
    return samples(rng, (height, width)), samples(rng, shape)


def yuv_matrix(matrix, full_range):
    _, k_red, k_blue = MATRICES[matrix]
    return YuvMatrix(k_red, k_blue, full_range)


# YUV to RGB


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_yuv420_to_rgb_is_its_reference(run, width, height):
    rng = np.random.default_rng(width)
    for offset, gap, scheme in [(0, 16 - width % 16, 0), (None, 0, 1), (4, 6, 2), (6, 3, 5)]:
        luma, chroma = frame_420(rng, width, height)
        matrix = yuv_matrix(*SCHEMES[scheme])
        pitched = with_pitch(luma, gap), with_pitch(chroma, gap)
        placed = [Placed(plane, offset) for plane in pitched]
        rgb = poisoned((height, width, 3), offset=offset)
        run(
            "nv12_to_rgb",
            yuv420_to_rgb.threads(width, height),
            *(placed[0].array, pitched[0].shape[1]),
            *(placed[1].array, pitched[1].shape[1]),
            *(rgb.array, width, height),
            *matrix.decoding,
        )
        expected = yuv420_to_rgb.yuv420_to_rgb(luma, chroma, matrix)
        np.testing.assert_array_equal(rgb.array, expected)
        rgb.assert_rest_untouched()


@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
@pytest.mark.parametrize("code", ["least", "most", "random"])
def test_no_code_leaves_32_bits(run, matrix, full_range, code):
    luma, chroma = frame_420(np.random.default_rng(0), 16, 2)
    if code != "random":
        luma[:], chroma[:] = (0 if code == "least" else 255,) * 2
    scheme = yuv_matrix(matrix, full_range)
    rgb = np.empty((2, 16, 3), np.uint8)
    pitches = luma.strides[0], chroma.strides[0]
    run(
        "nv12_to_rgb",
        yuv420_to_rgb.threads(16, 2),
        *(luma, pitches[0], chroma, pitches[1], rgb, 16, 2, *scheme.decoding),
    )
    expected = yuv420_to_rgb.yuv420_to_rgb(luma, chroma, scheme)
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
def test_rgb_is_within_rounding_of_the_standard(matrix, full_range):
    luma, chroma = frame_420(np.random.default_rng(1), 65, 47)
    exact = interpolated(luma, chroma)
    exact = unclipped_rgb(exact, ColorDescription(matrix, full_range)).clip(0, 255)
    rgb = yuv420_to_rgb.yuv420_to_rgb(luma, chroma, yuv_matrix(matrix, full_range))
    assert np.abs(rgb - exact).max() < 0.52


def interpolated(luma, chroma):
    """float64 [H, W, 3]: chroma sample (i, j) lies at luma row 2i + 0.5, column 2j."""
    height, width = luma.shape
    rows = ((np.arange(height) - 0.5) / 2).clip(0, len(chroma) - 1)
    columns = (np.arange(width) / 2).clip(0, chroma.shape[1] - 1)
    return np.stack(
        [luma, *(bilinear(chroma[..., channel], rows, columns) for channel in range(2))], axis=-1
    )


def bilinear(plane, rows, columns):
    height, width = plane.shape
    across = np.stack([np.interp(columns, np.arange(width), row) for row in plane])
    return np.stack([np.interp(rows, np.arange(height), column) for column in across.T], axis=-1)


@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
def test_rgb_is_that_of_the_software_path(matrix, full_range):
    """`VideoReader` converts with libswscale, which rounds in between."""
    rng = np.random.default_rng(2)
    luma = rng.integers(60, 180, (48, 64), np.uint8)
    chroma = rng.integers(100, 156, (24, 32, 2), np.uint8)
    frame = av.VideoFrame.from_ndarray(
        np.concatenate([luma, chroma.reshape(24, 64)]), format="nv12"
    )
    color = ColorDescription(matrix, full_range)
    size, told = (64, 48), color_options("in", color)
    convert = Converter(("nv12", *size), ("rgb24", *size), DECODE_FLAGS, told)
    rgb = yuv420_to_rgb.yuv420_to_rgb(luma, chroma, yuv_matrix(matrix, full_range))
    difference = np.abs(convert(frame).to_ndarray().astype(int) - rgb)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


# RGB to YUV


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_rgb_to_yuv420_is_its_reference(run, width, height):
    rng = np.random.default_rng(width)
    for offset, gap, scheme in [(0, 16 - width % 16, 0), (None, 0, 1), (4, 6, 2), (6, 3, 5)]:
        rgb = samples(rng, (height, width, 3))
        matrix = yuv_matrix(*SCHEMES[scheme])
        planes = rgb_to_yuv420.rgb_to_yuv420(rgb, matrix)
        expected = [with_pitch(plane, gap) for plane in planes]
        luma, chroma = (poisoned(plane.shape, offset=offset) for plane in expected)
        run(
            "rgb_to_nv12",
            rgb_to_yuv420.threads(width, height),
            *(Placed(rgb, offset).array, width, height),
            *(luma.array, expected[0].strides[0], chroma.array, expected[1].strides[0]),
            *matrix.encoding,
        )
        for plane, codes in zip((luma, chroma), expected, strict=True):
            np.testing.assert_array_equal(plane.array, codes)
            plane.assert_rest_untouched()


@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
def test_codes_are_within_rounding_of_the_standard(matrix, full_range):
    rgb = samples(np.random.default_rng(3), (37, 51, 3))
    luma, chroma = rgb_to_yuv420.rgb_to_yuv420(rgb, yuv_matrix(matrix, full_range))
    padded = np.pad(rgb.astype(float), ((0, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[0::2] + padded[1::2]) / 2
    means = (rows[:, 0:-2:2] + 2 * rows[:, 1:-1:2] + rows[:, 2::2]) / 4
    exact_luma = yuv_from_rgb(rgb, matrix, full_range)[..., 0]
    exact_chroma = yuv_from_rgb(means, matrix, full_range)[..., 1:]
    assert np.abs(luma - exact_luma).max() < 0.52
    inside = exact_chroma < chroma.max()  # full-range chroma ends half a code before its span
    assert np.abs(chroma - exact_chroma)[inside].max() < 0.52


@pytest.mark.parametrize(("matrix", "full_range"), SCHEMES)
def test_gray_has_no_color_there_and_back(matrix, full_range):
    gray = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    scheme = yuv_matrix(matrix, full_range)
    luma, chroma = rgb_to_yuv420.rgb_to_yuv420(gray, scheme)
    assert (chroma == 128).all()
    back = yuv420_to_rgb.yuv420_to_rgb(luma, chroma, scheme)
    assert (back[..., 0] == back[..., 1]).all() and (back[..., 0] == back[..., 2]).all()
    assert np.abs(back.astype(int) - gray).max() <= (0 if full_range else 1)
    assert back[0, 0, 0] == 0 and back[-1, -1, 0] == 255


# Tiles


def nearest(batch, scale):
    return batch.repeat(scale, axis=1).repeat(scale, axis=2)


tilings = st.tuples(
    st.integers(1, 75), st.integers(1, 40), st.sampled_from([0, 16, 21, 32]), st.integers(0, 9)
)
offsets = st.one_of(st.none(), st.integers(0, 15))
scales = st.sampled_from([1, 2, 3, 4, 8])


@given(tilings, scales)
def test_gathered_and_scattered_is_what_the_runtime_does(tiling, scale):
    plan = plan_tiles(*tiling)
    frame = np.random.default_rng(4).integers(0, 256, (plan.height, plan.width, 3), np.uint8)
    expected = upscale_tiled(lambda batch: nearest(batch, scale), frame, plan, scale, 3)
    batch = tile_gather.tile_gather(frame, plan.table, plan.window_size)
    result = np.full_like(expected, POISON)
    tile_scatter.tile_scatter(nearest(batch, scale), plan.table, scale, result)
    np.testing.assert_array_equal(result, expected)


@given(tilings, offsets, offsets, st.randoms(use_true_random=False))
def test_tile_gather_is_its_reference(run, tiling, frame_offset, batch_offset, random):
    plan = plan_tiles(*tiling)
    frame = np.random.default_rng(5).integers(0, 256, (plan.height, plan.width, 3), np.uint8)
    table = plan.table[random.sample(range(len(plan.tiles)), random.randint(1, len(plan.tiles)))]
    expected = tile_gather.tile_gather(frame, table, plan.window_size)
    batch = poisoned(expected.shape, offset=batch_offset)
    run(
        "tile_gather",
        tile_gather.threads(len(table), plan.window_size),
        *(Placed(frame, frame_offset).array, plan.width, plan.height, table, len(table)),
        *(batch.array, *plan.window_size),
    )
    np.testing.assert_array_equal(batch.array, expected)
    batch.assert_rest_untouched()


@given(tilings, scales, offsets, offsets, st.randoms(use_true_random=False))
def test_tile_scatter_is_its_reference(run, tiling, scale, batch_offset, frame_offset, random):
    plan = plan_tiles(*tiling)
    table = plan.table[random.sample(range(len(plan.tiles)), random.randint(1, len(plan.tiles)))]
    width, height = plan.window_size
    shape = (len(table), scale * height, scale * width, 3)
    batch = np.random.default_rng(6).integers(0, 256, shape, np.uint8)
    frame = poisoned((scale * plan.height, scale * plan.width, 3), offset=frame_offset)
    expected = frame.array.copy()
    tile_scatter.tile_scatter(batch, table, scale, expected)
    run(
        "tile_scatter",
        tile_scatter.threads(len(table), plan.window_size, scale),
        *(Placed(batch, batch_offset).array, *plan.window_size, table, len(table), scale),
        *(frame.array, plan.width),
    )
    np.testing.assert_array_equal(frame.array, expected)
    frame.assert_rest_untouched()


def difference(run, frame, previous, plan, offset, previous_offset):
    count = len(plan.tiles)
    dirty = Placed(np.zeros(count, np.uint8))
    run(
        "tile_difference",
        tile_difference.threads(count, plan.window_size),
        *(Placed(frame, offset).array, Placed(previous, previous_offset).array, plan.width),
        *(plan.table, count, *plan.window_size, dirty.array),
    )
    dirty.assert_rest_untouched()
    return dirty.array


@given(tilings, offsets, offsets, st.integers(0, 3), st.randoms(use_true_random=False))
def test_tile_difference_is_its_reference(run, tiling, offset, other_offset, changes, random):
    plan = plan_tiles(*tiling)
    previous = np.random.default_rng(7).integers(0, 256, (plan.height, plan.width, 3), np.uint8)
    frame = previous.copy()
    for _ in range(changes):
        frame.reshape(-1)[random.randrange(frame.size)] ^= 1 << random.randrange(8)
    expected = tile_difference.tile_difference(frame, previous, plan.table, plan.window_size)
    found = difference(run, frame, previous, plan, offset, other_offset)
    np.testing.assert_array_equal(found, expected)


# The color lock


@given(
    *(st.integers(1, 70), st.integers(1, 50), scales),
    *(st.integers(-255, 255), offsets, st.randoms(use_true_random=False)),
)
def test_the_color_lock_is_its_reference(run, width, height, scale, shift, offset, random):
    """Step by step; and all three are what the runtime does."""
    rng = np.random.default_rng(random.randrange(1 << 30))
    source = rng.integers(0, 256, (height, width, 3), np.uint8)
    noise = rng.integers(-40, 41, (scale * height, scale * width, 3))
    result = (nearest(source[None], scale)[0] + noise + shift).clip(0, 255).astype(np.uint8)
    down, across = lock_axis(height, scale), lock_axis(width, scale)
    rows, columns = len(down.edges) - 1, len(across.edges) - 1
    row_blocks = np.repeat(np.arange(rows, dtype=np.int32), np.diff(down.edges))
    sums, expected_sums = [], []
    for rgb, factor in ((source, 1), (result, scale)):
        edges, blocks = factor * across.edges, row_blocks.repeat(factor)
        expected = np.zeros((rows, columns, 3), np.uint32)
        placed = Placed(expected)
        color_lock.color_sums(rgb, edges, blocks, expected)
        run(
            "color_sums",
            color_lock.sums_threads(columns, len(rgb)),
            *(Placed(rgb, offset).array, rgb.shape[1], len(rgb), Placed(edges).array, columns),
            *(Placed(blocks).array, placed.array),
        )
        np.testing.assert_array_equal(placed.array, expected)
        placed.assert_rest_untouched()
        sums.append(placed.array)
        expected_sums.append(expected)
    missing = poisoned((rows, columns, 3), np.int32)
    run(
        "color_missing",
        color_lock.missing_threads(columns, rows),
        *(*sums, Placed(down.edges).array, rows, Placed(across.edges).array, columns, scale),
        missing.array,
    )
    expected = color_lock.color_missing(*expected_sums, down.edges, across.edges, scale)
    np.testing.assert_array_equal(missing.array, expected)
    missing.assert_rest_untouched()
    assert not any(it.any() for it in (*sums, *expected_sums)), "sums are left for the next frame"
    shifted = Placed(result, offset)
    run(
        "color_shift",
        color_lock.shift_threads(scale * width, scale * height),
        *(shifted.array, scale * width, scale * height, missing.array, columns, rows),
        *(Placed(across.places).array, Placed(down.places).array),
    )
    expected = result.copy()
    color_lock.color_shift(expected, missing.array, across.places, down.places)
    np.testing.assert_array_equal(shifted.array, expected)
    shifted.assert_rest_untouched()
    np.testing.assert_array_equal(expected, locked(source, result))


@pytest.mark.parametrize("width", [48, 37])
def test_no_byte_can_change_unseen(run, width):
    plan = plan_tiles(width, 2, 16, 3)
    previous = np.zeros((2, width, 3), np.uint8)
    for place in range(previous.size):
        frame = previous.copy()
        frame.reshape(-1)[place] = 1
        x = place // 3 % width
        seen_by = [tile.window_x.start <= x < tile.window_x.stop for tile in plan.tiles]
        assert difference(run, frame, previous, plan, 0, 0).tolist() == seen_by


# Sources


def test_every_kernel_is_listed_beside_its_reference():
    found = {
        (kernel, path.stem)
        for path in source.FOLDER.glob("*.cu")
        for kernel in re.findall(r"^KERNEL (\w+)", path.read_text(), re.MULTILINE)
    }
    assert found == set(source.KERNELS.items())
    assert all(source.source_of(kernel).with_suffix(".py").is_file() for kernel in source.KERNELS)


OLDEST, *NEWER = source.COMPUTE_CAPABILITIES


@pytest.mark.parametrize(
    "capability", [OLDEST, *(pytest.param(newer, marks=pytest.mark.slow) for newer in NEWER)]
)
@pytest.mark.parametrize("name", SOURCES)
def test_compiles_with_nvrtc(name, capability):
    pytest.importorskip("cuda.bindings.nvrtc")
    cubin = source.compile_with_nvrtc(source.FOLDER / f"{name}.cu", capability)
    assert [bytes([code])[0] for code in range(256)] == list(range(256))  # not written into
    assert cubin.startswith(b"\x7fELF")
    assert all(kernel.encode() in cubin for kernel, file in source.KERNELS.items() if file == name)


def test_errors_of_nvrtc_are_reported(tmp_path):
    pytest.importorskip("cuda.bindings.nvrtc")
    (tmp_path / "bad.cu").write_text('extern "C" __global__ void bad() { undeclared = 1; }')
    with pytest.raises(UsageError, match=r"NVRTC does not compile bad\.cu: .*undeclared"):
        source.compile_with_nvrtc(tmp_path / "bad.cu", "8.9")


def test_machine_code_is_kept_as_long_as_it_is_of_the_same_source(monkeypatch, tmp_path):
    pytest.importorskip("cuda.bindings.nvrtc")
    compiled = []

    def compile_source(path, compute_capability):
        compiled.append(path.name)
        return source.compile_with_nvrtc(path, compute_capability)

    monkeypatch.setattr("srgan_edge.engines.cache.compile_with_nvrtc", compile_source)
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(tmp_path / "cache"))
    path, made = tmp_path / "scale.cu", []
    for text in ("int", "int", "long", "int"):
        path.write_text(f'extern "C" __global__ void scale({text}* x) {{ *x *= 2; }}')
        machine_code.cache_clear()  # as another process would have it
        made.append(machine_code(path, "8.9"))
    assert made[0] == made[1] == made[3] != made[2]
    assert compiled == ["scale.cu"] * 2
    machine_code.cache_clear()
    monkeypatch.setenv("SRGAN_EDGE_CACHE", "/proc/absent")
    assert machine_code(path, "8.9") == made[0], "without a place for it, it is made each time"
