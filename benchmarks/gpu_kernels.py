"""Compare every kernel on the GPU with its reference on random bytes, and time it on 4K frames."""

import ctypes
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from srgan_edge import machine as gpu
from srgan_edge.color_lock import lock_axis
from srgan_edge.kernels import (
    color_lock,
    rgb_to_yuv420,
    source,
    tile_difference,
    tile_gather,
    tile_scatter,
    yuv420_to_rgb,
)
from srgan_edge.kernels.cuda import Argument, Cuda, Memory, Stream
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.tiling import plan_tiles

POISON = 0xA5
ROTATED_BYTES = 400_000_000
"""Memory that successive launches pass through before they repeat: no cache holds that much."""
ROUNDS, GRAPHS = 4, 10
"""Repetitions in a graph, and graphs in a series."""
BT_709 = YuvMatrix(0.2126, 0.0722, False)


@dataclass(frozen=True)
class Case:
    """One launch: its arguments and the expected content of the arrays that it writes."""

    kernel: str
    threads: int
    arguments: tuple[Any, ...]
    """Arrays, which are uploaded to the GPU, and ints."""
    expected: dict[int, np.ndarray]
    """Expected arrays, by the position of the argument."""
    in_place: int | None = None
    """Position of an array that is both read and written."""
    is_small: bool = False
    """The kernel reads no frame, so its time is meaningless."""

    @property
    def moved_bytes(self) -> int:
        """Bytes that have to be read or written at least once."""
        again = () if self.in_place is None else (self.arguments[self.in_place],)
        arrays = (*self.arguments, *again)
        return sum(it.nbytes for it in arrays if isinstance(it, np.ndarray))


def cases(width: int, height: int, seed: int) -> Iterator[Case]:
    """Yield a case for each kernel, on frames of this size with random content."""
    random = np.random.default_rng(seed)
    frame = random.integers(0, 256, (height, width, 3), np.uint8)
    size = (width, height)
    luma = random.integers(0, 256, (height, width), np.uint8)
    chroma = random.integers(0, 256, (-(-height // 2), -(-width // 2), 2), np.uint8)
    rgb = yuv420_to_rgb.yuv420_to_rgb(luma, chroma, BT_709)
    pitches = luma.strides[0], chroma.strides[0]
    arguments = (luma, pitches[0], chroma, pitches[1], _poisoned(rgb), *size, *BT_709.decoding)
    yield Case("nv12_to_rgb", yuv420_to_rgb.threads(*size), arguments, {4: rgb})
    planes = rgb_to_yuv420.rgb_to_yuv420(frame, BT_709)
    written = [_poisoned(plane) for plane in planes]
    pitches = planes[0].strides[0], planes[1].strides[0]
    arguments = (frame, *size, written[0], pitches[0], written[1], pitches[1], *BT_709.encoding)
    outputs = {3: planes[0], 5: planes[1]}
    yield Case("rgb_to_nv12", rgb_to_yuv420.threads(*size), arguments, outputs)
    plan = plan_tiles(width, height, min(128, max(16, width // 3)), 5)
    table, window = plan.table, plan.window_size
    batch = tile_gather.tile_gather(frame, table, window)
    arguments = (frame, *size, table, len(table), _poisoned(batch), *window)
    yield Case("tile_gather", tile_gather.threads(len(table), window), arguments, {5: batch})
    target = np.full((height, width, 3), POISON, np.uint8)
    joined = target.copy()
    tile_scatter.tile_scatter(batch, table, 1, joined)
    arguments = (batch, *window, table, len(table), 1, target, width)
    yield Case("tile_scatter", tile_scatter.threads(len(table), window, 1), arguments, {6: joined})
    previous = frame.copy()
    previous[height // 2, width // 2] ^= 1
    dirty = tile_difference.tile_difference(frame, previous, table, window)
    arguments = (frame, previous, width, table, len(table), *window, np.zeros_like(dirty))
    yield Case(
        "tile_difference", tile_difference.threads(len(table), window), arguments, {7: dirty}
    )
    yield from _color_lock_cases(frame, random)


def _color_lock_cases(frame: np.ndarray, random: np.random.Generator) -> Iterator[Case]:
    """Yield the cases for a frame as result of one a quarter as wide, if 4 divides its size."""
    height, width, _ = frame.shape
    scale = 1 if width % 4 or height % 4 else 4
    down, across = lock_axis(height // scale, scale), lock_axis(width // scale, scale)
    rows, columns = len(down.edges) - 1, len(across.edges) - 1
    edges = scale * across.edges
    row_blocks = np.repeat(np.arange(rows, dtype=np.int32), scale * np.diff(down.edges))
    sums = np.zeros((rows, columns, 3), np.uint32)
    high = sums.copy()
    color_lock.color_sums(frame, edges, row_blocks, high)
    arguments: tuple[Any, ...] = (frame, width, height, edges, columns, row_blocks, sums)
    threads = color_lock.sums_threads(columns, height)
    yield Case("color_sums", threads, arguments, {6: high})
    low = (high // scale**2 * random.uniform(0.9, 1.1, high.shape)).astype(np.uint32)
    arguments = (low.copy(), high.copy(), down.edges, rows, across.edges, columns, scale)
    missing = color_lock.color_missing(low, high, down.edges, across.edges, scale)
    threads = color_lock.missing_threads(columns, rows)
    expected = {0: sums, 1: sums, 7: missing}
    arguments = (*arguments, _poisoned(missing))
    yield Case("color_missing", threads, arguments, expected, is_small=True)
    shifted = frame.copy()
    color_lock.color_shift(shifted, missing, across.places, down.places)
    arguments = (frame, width, height, missing, columns, rows, across.places, down.places)
    threads = color_lock.shift_threads(width, height)
    yield Case("color_shift", threads, arguments, {0: shifted}, in_place=0)


def run(cuda: Cuda, image: bytes, case: Case, rotated_bytes: int = 0) -> list[float]:
    """Launch once and compare; then measure the time on `rotated_bytes` of arrays, if not 0.

    Returns:
        Milliseconds of one launch on arrays that are in no cache, measured twice.

    Raises:
        AssertionError: a byte differs from the reference.
    """
    stream, kernel = cuda.stream(), cuda.kernel(image, case.kernel)
    number = max(1, -(-rotated_bytes // case.moved_bytes))
    copies = [_uploaded(cuda, case, stream) for _ in range(number)]
    blocks = (-(-case.threads // source.BLOCK_THREADS),)
    launches = [
        partial(kernel, blocks, (source.BLOCK_THREADS,), values, stream) for _, values in copies
    ]
    launches[0]()
    memories, _ = copies[0]
    for place, expected in case.expected.items():
        got = np.empty_like(np.ascontiguousarray(expected))
        cuda.download(memories[place].address, got, stream)
        stream.synchronize()
        wrong = int((got.view(np.uint8) != np.ascontiguousarray(expected).view(np.uint8)).sum())
        assert wrong == 0, f"{case.kernel}: {wrong} of {got.nbytes} bytes differ from the reference"
    times = _launch_ms(cuda, stream, launches) if rotated_bytes else []
    for memories, _ in copies:
        for memory in memories.values():
            memory.close()
    return times


def copy_ms(cuda: Cuda, size_bytes: int, rotated_bytes: int = ROTATED_BYTES) -> list[float]:
    """Return the milliseconds of the driver's own copy on the GPU, measured as in `run`."""
    driver, stream = ctypes.CDLL(gpu.LIBRARY), cuda.stream()
    size = ctypes.c_size_t(size_bytes)

    def copy(target: Memory, origin: Memory) -> None:
        ends = ctypes.c_uint64(target.address), ctypes.c_uint64(origin.address)
        code = driver.cuMemcpyDtoDAsync_v2(*ends, size, ctypes.c_void_p(stream.handle))
        assert code == 0, f"the driver does not copy: CUDA error {code}"

    number = -(-rotated_bytes // (2 * size_bytes))
    pairs = [(cuda.memory(size_bytes), cuda.memory(size_bytes)) for _ in range(number)]
    times = _launch_ms(cuda, stream, [partial(copy, *pair) for pair in pairs])
    for pair in pairs:
        for memory in pair:
            memory.close()
    return times


def _uploaded(cuda: Cuda, case: Case, stream: Stream) -> tuple[dict[int, Memory], list[Argument]]:
    """Upload the arrays of a launch; return their memory by position, and all arguments."""
    memories: dict[int, Memory] = {}
    values: list[Argument] = []
    for place, argument in enumerate(case.arguments):
        if isinstance(argument, np.ndarray):
            memories[place] = cuda.memory(argument.nbytes)
            cuda.upload(argument, memories[place].address, stream)
            values.append(memories[place].address)
        else:
            values.append(np.int32(argument))
    return memories, values


def _launch_ms(cuda: Cuda, stream: Stream, launches: Sequence[Callable[[], None]]) -> list[float]:
    """Return the milliseconds of one launch in a graph of all of them, measured twice.

    Graphs are queued faster than the GPU runs them, so nothing but its work lies between two
    events.
    """
    with cuda.recording(stream) as graph:
        for launch in [*launches] * ROUNDS:
            launch()

    def series() -> float:
        events = [cuda.event() for _ in range(GRAPHS + 1)]
        events[0].record(stream)
        for event in events[1:]:
            graph.launch(stream)
            event.record(stream)
        events[-1].synchronize()
        times = [end.milliseconds_since(start) for start, end in pairwise(events)]
        return statistics.median(times) / (ROUNDS * len(launches))

    series()  # to warm up
    return [series(), series()]


def _poisoned(like: np.ndarray) -> np.ndarray:
    return np.full(like.nbytes, POISON, np.uint8).view(like.dtype).reshape(like.shape)
