"""Every kernel on the GPU: equal to its reference on random bytes, and how fast on frames of 4K."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from srgan_edge.kernels import (
    bytes_to_half,
    half_to_bytes,
    rgb_to_yuv420,
    source,
    tile_difference,
    tile_gather,
    tile_scatter,
    yuv420_to_rgb,
)
from srgan_edge.kernels.cuda import Cuda
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.tiling import plan_tiles

POISON = 0xA5
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

    @property
    def moved_bytes(self) -> int:
        """What has to be read or written at least once."""
        return sum(it.nbytes for it in self.arguments if isinstance(it, np.ndarray))


def cases(width: int, height: int, seed: int) -> Iterator[Case]:
    """All nine on frames of that size, with random content."""
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
    halves, pixels = bytes_to_half.bytes_to_half(frame[None]), width * height
    arguments = (frame, _poisoned(halves), 1, pixels)
    yield Case("bytes_to_half", bytes_to_half.threads(1, pixels), arguments, {1: halves})
    noise = random.uniform(-0.1, 1.1, (1, 3, height, width)).astype(np.float16)
    back = half_to_bytes.half_to_bytes(noise)
    arguments = (noise, _poisoned(back), 1, pixels)
    yield Case("half_to_bytes", half_to_bytes.threads(1, pixels), arguments, {1: back})


def run(cuda: Cuda, image: bytes, case: Case, repeats: int = 0) -> list[float]:
    """Launch once and compare; then `repeats` times more, each timed, in milliseconds.

    Raises:
        AssertionError: another byte than the reference's.
    """
    stream, kernel = cuda.stream(), cuda.kernel(image, case.kernel)
    memories, values = {}, []
    for place, argument in enumerate(case.arguments):
        if isinstance(argument, np.ndarray):
            memories[place] = cuda.memory(argument.nbytes)
            cuda.upload(argument, memories[place].address, stream)
            values.append(memories[place].address)
        else:
            values.append(np.int32(argument))
    blocks = -(-case.threads // source.BLOCK_THREADS)

    def launch() -> None:
        kernel((blocks,), (source.BLOCK_THREADS,), values, stream)

    launch()
    for place, expected in case.expected.items():
        got = np.empty_like(np.ascontiguousarray(expected))
        cuda.download(memories[place].address, got, stream)
        stream.synchronize()
        wrong = int((got.view(np.uint8) != np.ascontiguousarray(expected).view(np.uint8)).sum())
        assert wrong == 0, f"{case.kernel}: {wrong} of {got.nbytes} bytes differ from the reference"
    times = []
    for _ in range(repeats):
        start, end = cuda.event(), cuda.event()
        start.record(stream)
        launch()
        end.record(stream)
        end.synchronize()
        times.append(end.milliseconds_since(start))
    for memory in memories.values():
        memory.close()
    return times


def copy_ceiling_gb_s(cuda: Cuda, image: bytes, size_bytes: int) -> float:
    """What the simplest kernel reaches: `tile_gather` of one tile that is the whole frame."""
    width, height = 4096, size_bytes // (3 * 4096)
    frame = np.zeros((height, width, 3), np.uint8)
    table = plan_tiles(width, height, 0, 0).table
    arguments = (frame, width, height, table, 1, _poisoned(frame[None]), width, height)
    threads = tile_gather.threads(1, (width, height))
    times = run(cuda, image, Case("tile_gather", threads, arguments, {5: frame[None]}), 30)
    return 2 * frame.nbytes / np.median(times) / 1e6


def _poisoned(like: np.ndarray) -> np.ndarray:
    return np.full(like.nbytes, POISON, np.uint8).view(like.dtype).reshape(like.shape)
