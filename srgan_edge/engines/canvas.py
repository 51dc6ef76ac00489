"""A frame and its upscaled self in the memory of a GPU, and the tiles on the way between them.

What `tiling.upscale_tiled` does in this machine's memory, which is the specification. All of it
is one graph, so that nothing between two tiles waits for Python.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from srgan_edge.engines.base import EngineInfo, Totals, finite
from srgan_edge.engines.gpu_color_lock import GpuColorLock
from srgan_edge.kernels import rgb_to_yuv420, tile_gather, tile_scatter, yuv420_to_rgb
from srgan_edge.kernels.cuda import Cuda, Graph, Stream
from srgan_edge.kernels.launch import Kernels
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan


class Network(Protocol):
    """A network that is ready to run on buffers of its own: a slot of the TensorRT engine."""

    stream: Stream

    @property
    def source(self) -> int:
        """Address of uint8 [N, H, W, 3]."""
        ...

    @property
    def target(self) -> int:
        """Address of uint8 [N, sH, sW, 3]."""
        ...

    def put(self) -> None:
        """`source` into `target`: into the stream."""
        ...

    def take_totals(self, totals: Totals) -> None:
        """Those of what was put last: into the stream."""
        ...

    def recorded(self, put: Callable[[], None]) -> Graph | None:
        """What `put` puts into the stream as a graph; None: that cannot be recorded."""
        ...

    def wait(self) -> None:
        """Until all that is in the stream is done."""
        ...


class Planes(NamedTuple):
    """A frame in 4:2:0 as NVDEC gives it and NVENC takes it: NV12 or P010."""

    luma: int
    """Address."""
    luma_pitch: int
    """Bytes from row to row."""
    chroma: int
    chroma_pitch: int
    name: str
    """`nv12` or `p010`, as in the names of the kernels."""

    @property
    def bits(self) -> int:
        return 8 if self.name == "nv12" else 10


class Canvas:
    """Room for one frame size in one slot."""

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
        """
        Args:
            network: set to windows of the plan, `batch` of them.
            lock_colors: what `color_lock.locked` does to a result is done to it here.

        Raises:
            OutOfMemory: there is no room.
            KernelsMissing: the kernels cannot be had here.
        """
        self._cuda, self._kernels, self._network = cuda, kernels, network
        self.plan, self._batch, self._scale = plan, batch, scale
        self._lock_colors = lock_colors
        self._lock: GpuColorLock | None = None
        self._arrived = cuda.event()
        self._buffers: list[Any] = []
        self._pinned: tuple[Pixels, Pixels] | None = None
        try:
            self._make_room()
        except BaseException:
            self.close()
            raise

    def _make_room(self) -> None:
        network, plan = self._network, self.plan
        self.frame, self.result = network.source, network.target
        """Addresses of uint8 [H, W, 3] and [sH, sW, 3]."""
        calls = -(-len(plan.tiles) // self._batch)
        totals = self._pinned_bytes(4 * calls * self._batch).view(np.float32)
        self._totals = totals.reshape(calls, self._batch)
        self._is_cut = len(plan.tiles) > 1
        if self._is_cut:
            pixels = plan.width * plan.height
            self.frame, self.result = (
                self._memory(3 * pixels),
                self._memory(3 * pixels * self._scale**2),
            )
            table = self._pinned_bytes(plan.table.nbytes)
            table[:] = plan.table.view(np.uint8).ravel()
            self._table = self._memory(table.nbytes)
            for name in ("tile_gather", "tile_scatter"):
                self._kernels.load(name)
            self._cuda.upload(table, self._table, network.stream)
        if self._lock_colors:
            size = plan.width, plan.height
            self._lock = GpuColorLock(self._cuda, self._kernels, size, self._scale, network.stream)
        self._put()  # the first time it is slower, and must not be recorded
        network.wait()
        self._graph = network.recorded(self._put)

    def load_conversions(self) -> None:
        """Have what `upscale_planes` launches compiled before the first frame.

        Raises:
            KernelsMissing: as above.
        """
        for name in ("nv12_to_rgb", "rgb_to_nv12"):  # and with each, that of P010
            self._kernels.load(name)

    def is_for(self, plan: TilePlan, batch: int, lock_colors: bool) -> bool:
        """Whether it was made of these."""
        same = plan is self.plan and batch == self._batch
        return same and lock_colors == self._lock_colors

    def upscale(self) -> None:
        """`frame` into `result`: into the stream."""
        if self._graph is None:
            self._put()
        else:
            self._graph.launch(self._network.stream)

    def upscale_pixels(self, frame: Pixels) -> Pixels:
        """uint8 [H, W, 3] -> uint8 [sH, sW, 3]: there and back, each once.

        Raises:
            NotFinite: for some of the tiles.
        """
        if self._pinned is None:
            height, width, _ = frame.shape
            larger = (self._scale * height, self._scale * width, 3)
            here, back = (self._pinned_bytes(math.prod(it)) for it in (frame.shape, larger))
            self._pinned = here.reshape(frame.shape), back.reshape(larger)
        here, back = self._pinned
        here[:] = frame
        self._cuda.upload(here, self.frame, self._network.stream)
        self.upscale()
        self._cuda.download(self.result, back, self._network.stream)
        self._network.wait()
        self._refuse_what_is_not_finite()
        return back.copy()

    def upscale_planes(self, source: Planes, target: Planes, matrix: YuvMatrix) -> None:
        """A frame in 4:2:0 into one of `scale` times its size, without leaving the GPU.

        Args:
            source: whole when the default stream has got to where it is now; not needed any more
                when this returns.
            target: of the same matrix and range.

        Raises:
            NotFinite: for some of the tiles.
        """
        width, height, scale = self.plan.width, self.plan.height, self._scale
        self._arrived.record(self._cuda.default_stream())
        self._network.stream.wait_for(self._arrived)
        self._kernels.launch(
            f"{source.name}_to_rgb",
            yuv420_to_rgb.threads(width, height),
            (
                *_in_order(source),
                self.frame,
                *_ints(width, height, *matrix.decoding(source.bits)),
            ),
            self._network.stream,
        )
        self.upscale()
        self._kernels.launch(
            f"rgb_to_{target.name}",
            rgb_to_yuv420.threads(scale * width, scale * height),
            (
                self.result,
                *_ints(scale * width, scale * height),
                *_in_order(target),
                *_ints(*matrix.encoding(target.bits)),
            ),
            self._network.stream,
        )
        self._network.wait()
        self._refuse_what_is_not_finite()

    def close(self) -> None:
        """Give the memory back."""
        if self._lock is not None:
            self._lock.close()
        while self._buffers:
            self._buffers.pop().close()

    def _refuse_what_is_not_finite(self) -> None:
        count = len(self.plan.tiles)
        finite(np.empty((count, 0), np.uint8), self._totals.ravel()[:count])

    def _put(self) -> None:
        self._put_tiles()
        if self._lock is not None:
            self._lock.put(self.frame, self.result)

    def _put_tiles(self) -> None:
        if not self._is_cut:
            self._network.put()
            self._network.take_totals(self._totals[0])
            return
        count, stream = len(self.plan.tiles), self._network.stream
        width, window = self.plan.width, self.plan.window_size
        row_bytes = self.plan.table.strides[0]
        for first in range(0, count, self._batch):
            taken = min(self._batch, count - first)
            tiles = self._table + first * row_bytes
            self._kernels.launch(
                "tile_gather",
                tile_gather.threads(taken, window),
                (
                    self.frame,
                    *_ints(width, self.plan.height),
                    tiles,
                    *_ints(taken),
                    self._network.source,
                    *_ints(*window),
                ),
                stream,
            )
            self._network.put()
            self._network.take_totals(self._totals[first // self._batch])
            self._kernels.launch(
                "tile_scatter",
                tile_scatter.threads(taken, window, self._scale),
                (
                    self._network.target,
                    *_ints(*window),
                    tiles,
                    *_ints(taken, self._scale),
                    self.result,
                    *_ints(width),
                ),
                stream,
            )

    def _memory(self, size_bytes: int) -> int:
        memory = self._cuda.memory(size_bytes)
        self._buffers.append(memory)
        return memory.address

    def _pinned_bytes(self, size_bytes: int) -> NDArray[np.uint8]:
        pinned = self._cuda.pinned_memory(size_bytes)
        self._buffers.append(pinned)
        return pinned.array


def _in_order(planes: Planes) -> tuple[int | np.int32, ...]:
    """As kernels take them."""
    return (
        planes.luma,
        np.int32(planes.luma_pitch),
        planes.chroma,
        np.int32(planes.chroma_pitch),
    )


def _ints(*values: int) -> tuple[np.int32, ...]:
    return tuple(map(np.int32, values))


class GpuEngine(Protocol):
    """An engine whose slots have a `Canvas`: TensorRT's, and PyTorch's on a GPU."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def cuda(self) -> Cuda:
        """In the context that FFmpeg shares."""
        ...

    def slot(self) -> AbstractContextManager[Any]:
        """One that is idle, for this thread alone, in the context of the GPU; waits for one."""
        ...

    def all_slots(self) -> AbstractContextManager[list[Any]]:
        """All of them, which nobody uses meanwhile."""
        ...

    def canvas(
        self,
        slot: Any,  # noqa: ANN401 - of that engine
        plan: TilePlan,
        batch: int,
        *,
        lock_colors: bool,
    ) -> Canvas:
        """The slot's room for frames that are cut by `plan`, `batch` tiles at a time."""
        ...
