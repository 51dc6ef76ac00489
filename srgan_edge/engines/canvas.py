"""A frame and its upscaled result in GPU memory, and the tiles between them.

`tiling.upscale_tiled`, which does the same in host memory, is the specification. Here everything is
one graph, so that nothing between two tiles waits for Python.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from srgan_edge.engines.base import Totals, finite
from srgan_edge.engines.gpu_color_lock import GpuColorLock
from srgan_edge.kernels import rgb_to_yuv420, tile_gather, tile_scatter, yuv420_to_rgb
from srgan_edge.kernels.cuda import Argument, Buffers, Cuda, Graph, Stream
from srgan_edge.kernels.launch import Kernels, ints
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan


class Network(Protocol):
    """A network with its own buffers and stream, for example a slot of the TensorRT engine."""

    stream: Stream

    @property
    def source(self) -> int:
        """Address of the input, uint8 [N, H, W, 3]."""
        ...

    @property
    def target(self) -> int:
        """Address of the output, uint8 [N, sH, sW, 3]."""
        ...

    def put(self) -> None:
        """Queue the work that upscales `source` into `target`."""
        ...

    def take_totals(self, totals: Totals) -> None:
        """Queue a copy of the totals of the last `put` to pinned memory."""
        ...

    def recorded(self, put: Callable[[], None]) -> Graph | None:
        """Record the work that `put` queues as a graph; return None if that is impossible."""
        ...

    def wait(self) -> None:
        """Wait until all work in the stream is done."""
        ...


class Planes(NamedTuple):
    """Addresses and row sizes of a frame in NV12, the format of NVDEC and NVENC."""

    luma: int
    luma_pitch: int
    """Bytes from row to row."""
    chroma: int
    chroma_pitch: int

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The planes as parameters of the kernels."""
        return (self.luma, *ints(self.luma_pitch), self.chroma, *ints(self.chroma_pitch))


class Canvas:
    """Buffers and a graph for frames of one size in one slot."""

    def __init__(
        self,
        cuda: Cuda,
        kernels: Kernels,
        network: Network,
        plan: TilePlan,
        batch: int,
        lock_colors: bool,
        scale: int,
    ) -> None:
        """Allocate the buffers and record the graph.

        Args:
            network: set to `batch` windows of the plan.
            lock_colors: apply `color_lock.locked` to every result.

        Raises:
            OutOfMemory: the GPU is out of memory.
            KernelsMissing: the kernels do not run on this GPU.
        """
        self._cuda, self._kernels, self._network = cuda, kernels, network
        self.plan, self._batch, self._scale = plan, batch, scale
        self._lock_colors = lock_colors
        self._lock: GpuColorLock | None = None
        self._arrived = cuda.event()
        self._buffers = Buffers(cuda)
        self._pinned: tuple[Pixels, Pixels] | None = None
        try:
            self._allocate()
        except BaseException:
            self.close()
            raise

    def load_conversions(self) -> None:
        """Compile the kernels of `upscale_planes` before the first frame.

        Raises:
            KernelsMissing: the kernels do not run on this GPU.
        """
        for name in ("nv12_to_rgb", "rgb_to_nv12"):
            self._kernels.load(name)

    def is_for(self, plan: TilePlan, batch: int, lock_colors: bool) -> bool:
        """Return True if the canvas was made with these arguments."""
        same = plan is self.plan and batch == self._batch
        return same and lock_colors == self._lock_colors

    def upscale(self) -> None:
        """Queue the work that upscales `frame` into `result`."""
        if self._graph is None:
            self._put()
        else:
            self._graph.launch(self._network.stream)

    def upscale_pixels(self, frame: Pixels) -> Pixels:
        """Upscale uint8 [H, W, 3] to uint8 [sH, sW, 3], with one copy in each direction.

        Raises:
            NotFinite: some tiles are not finite.
        """
        if self._pinned is None:
            height, width, _ = frame.shape
            larger = (self._scale * height, self._scale * width, 3)
            self._pinned = self._buffers.pinned(frame.shape), self._buffers.pinned(larger)
        here, back = self._pinned
        here[:] = frame
        self._cuda.upload(here, self.frame, self._network.stream)
        self.upscale()
        self._cuda.download(self.result, back, self._network.stream)
        self._network.wait()
        self._refuse_not_finite()
        return back.copy()

    def upscale_planes(self, source: Planes, target: Planes, matrix: YuvMatrix) -> None:
        """Upscale a frame in NV12 into one of `scale` times its size, all on the GPU.

        Args:
            source: complete once the default stream reaches its current end; no longer needed
                when this returns.
            target: in the same matrix and range.

        Raises:
            NotFinite: some tiles are not finite.
        """
        width, height = self.plan.width, self.plan.height
        larger = (self._scale * width, self._scale * height)
        self._arrived.record(self._cuda.default_stream())
        self._network.stream.wait_for(self._arrived)
        self._launch(
            "nv12_to_rgb",
            yuv420_to_rgb.threads(width, height),
            *(*source.arguments, self.frame, *ints(width, height, *matrix.decoding)),
        )
        self.upscale()
        self._launch(
            "rgb_to_nv12",
            rgb_to_yuv420.threads(*larger),
            *(self.result, *ints(*larger), *target.arguments, *ints(*matrix.encoding)),
        )
        self._network.wait()
        self._refuse_not_finite()

    def close(self) -> None:
        """Free the memory."""
        if self._lock is not None:
            self._lock.close()
        self._buffers.close()

    def _allocate(self) -> None:
        network, plan = self._network, self.plan
        self.frame, self.result = network.source, network.target
        """Addresses of uint8 [H, W, 3] and [sH, sW, 3]."""
        calls = -(-len(plan.tiles) // self._batch)
        totals = self._buffers.pinned((4 * calls * self._batch,)).view(np.float32)
        self._totals = totals.reshape(calls, self._batch)
        self._is_cut = len(plan.tiles) > 1
        if self._is_cut:
            frame_bytes = 3 * plan.width * plan.height
            self.frame = self._buffers.memory(frame_bytes)
            self.result = self._buffers.memory(frame_bytes * self._scale**2)
            table = self._buffers.pinned((plan.table.nbytes,))
            table[:] = plan.table.view(np.uint8).ravel()
            self._table = self._buffers.memory(table.nbytes)
            for name in ("tile_gather", "tile_scatter"):
                self._kernels.load(name)
            self._cuda.upload(table, self._table, network.stream)
        if self._lock_colors:
            size = plan.width, plan.height
            self._lock = GpuColorLock(self._cuda, self._kernels, size, self._scale, network.stream)
        self._put()  # the first run is slower and must not be recorded
        network.wait()
        self._graph = network.recorded(self._put)

    def _put(self) -> None:
        self._put_tiles()
        if self._lock is not None:
            self._lock.put(self.frame, self.result)

    def _put_tiles(self) -> None:
        network, plan = self._network, self.plan
        if not self._is_cut:
            network.put()
            network.take_totals(self._totals[0])
            return
        count, window = len(plan.tiles), plan.window_size
        for first in range(0, count, self._batch):
            taken = min(self._batch, count - first)
            tiles = self._table + first * plan.table.strides[0]
            size = ints(plan.width, plan.height)
            self._launch(
                "tile_gather",
                tile_gather.threads(taken, window),
                *(self.frame, *size, tiles, *ints(taken), network.source, *ints(*window)),
            )
            network.put()
            network.take_totals(self._totals[first // self._batch])
            self._launch(
                "tile_scatter",
                tile_scatter.threads(taken, window, self._scale),
                *(network.target, *ints(*window), tiles, *ints(taken, self._scale)),
                *(self.result, *ints(plan.width)),
            )

    def _launch(self, name: str, threads: int, *arguments: Any) -> None:  # noqa: ANN401
        self._kernels.launch(name, threads, arguments, self._network.stream)

    def _refuse_not_finite(self) -> None:
        count = len(self.plan.tiles)
        finite(np.empty((count, 0), np.uint8), self._totals.ravel()[:count])
