"""Every kernel on the GPU: equal to its reference on random bytes, and how fast on frames of 4K."""

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
    bytes_to_half,
    color_lock,
    half_to_bytes,
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
"""What one launch after the other goes through before it comes back: no cache holds that much."""
ROUNDS, GRAPHS = 4, 10
"""So often in a graph, and so many graphs in a series."""
BT_709 = YuvMatrix(0.2126, 0.0722, False)


@dataclass(frozen=True)
class Case:
    """One launch: its arguments, some of them arrays that it writes, and what they hold then."""

    kernel: str
    threads: int
    arguments: tuple[Any, ...]
    """Arrays, which go to the GPU, and ints."""
    expected: dict[int, np.ndarray]
    """By the place of an argument."""
    in_place: int | None = None
    """An array that is read and written."""
    is_small: bool = False
    """It goes through no frame, and its time says nothing."""

    @property
    def moved_bytes(self) -> int:
        """What has to be read or written at least once."""
        again = () if self.in_place is None else (self.arguments[self.in_place],)
        arrays = (*self.arguments, *again)
        return sum(it.nbytes for it in arrays if isinstance(it, np.ndarray))


def cases(width: int, height: int, seed: int) -> Iterator[Case]:
    """All of them on frames of that size, with random content."""
    random = np.random.default_rng(seed)
    frame = random.integers(0, 256, (height, width, 3), np.uint8)
    size = (width, height)
    for bits, dtype, name in [(8, np.uint8, "nv12"), (10, np.uint16, "p010")]:
        shape = (-(-height // 2), -(-width // 2), 2)
        top = np.iinfo(dtype).max
        luma = random.integers(0, top, (height, width), dtype, endpoint=True)
        chroma = random.integers(0, top, shape, dtype, endpoint=True)
        rgb = yuv420_to_rgb.yuv420_to_rgb(luma, chroma, BT_709)
        pitches = luma.strides[0], chroma.strides[0]
        arguments = (luma, pitches[0], chroma, pitches[1], _poisoned(rgb), *size)
        threads = yuv420_to_rgb.threads(*size)
        decoding = BT_709.decoding(bits)
        yield Case(f"{name}_to_rgb", threads, (*arguments, *decoding), {4: rgb})
        planes = rgb_to_yuv420.rgb_to_yuv420(frame, BT_709, bits)
        written = [_poisoned(plane) for plane in planes]
        pitches = planes[0].strides[0], planes[1].strides[0]
        arguments = (frame, *size, written[0], pitches[0], written[1], pitches[1])
        threads = rgb_to_yuv420.threads(*size)
        encoding = BT_709.encoding(bits)
        outputs = {3: planes[0], 5: planes[1]}
        yield Case(f"rgb_to_{name}", threads, (*arguments, *encoding), outputs)
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
    halves, pixels = bytes_to_half.bytes_to_half(frame[None]), width * height
    arguments = (frame, _poisoned(halves), 1, pixels)
    yield Case("bytes_to_half", bytes_to_half.threads(1, pixels), arguments, {1: halves})
    noise = random.uniform(-0.1, 1.1, (1, 3, height, width)).astype(np.float16)
    back = half_to_bytes.half_to_bytes(noise)
    arguments = (noise, _poisoned(back), 1, pixels)
    yield Case("half_to_bytes", half_to_bytes.threads(1, pixels), arguments, {1: back})


def _color_lock_cases(frame: np.ndarray, random: np.random.Generator) -> Iterator[Case]:
    """For that frame as a result, of one a quarter as wide where four divides its size."""
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
    """Launch once and compare; then take the time, if it shall go through so many bytes.

    Returns:
        Milliseconds of one launch on arrays that are in no cache, taken twice.

    Raises:
        AssertionError: another byte than the reference's.
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
    """Milliseconds of the driver's own copy of so many bytes on the GPU, taken as `run` does."""
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
    """Memory for the arrays of a launch, by their places, and what its kernel is given."""
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
    """Milliseconds of one of them, by the graph that holds all, one after the other; taken twice.

    Graphs are put into the stream faster than the GPU gets through them, so that between two
    events there is nothing but its work.
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
