"""Engines that run in slots on a GPU: the part that TensorRT and PyTorch have in common."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

from srgan_edge.engines.base import Closing, EngineInfo, Idle
from srgan_edge.engines.canvas import Canvas, Network
from srgan_edge.kernels.cuda import Cuda
from srgan_edge.kernels.launch import Kernels
from srgan_edge.model.passport import Shape
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan


class CanvasSlot:
    """A slot that keeps its canvas until a different one is needed."""

    canvas: Canvas | None = None

    def close_canvas(self) -> None:
        if self.canvas is not None:
            self.canvas.close()
            self.canvas = None


S = TypeVar("S", bound=CanvasSlot)


class SlotEngine(Closing, Generic[S]):
    """An engine that upscales whole frames on the GPU, each in the canvas of an idle slot."""

    info: EngineInfo
    cuda: Cuda
    """The GPU, in the context that FFmpeg shares."""
    takes_frames = True
    _kernels: Kernels
    _idle: Idle[S]

    def upscale(self, batch: Pixels) -> Pixels:
        """Upscale a batch, as described in `base.Engine`."""
        raise NotImplementedError

    def upscale_frame(
        self, frame: Pixels, plan: TilePlan, batch: int, *, lock_colors: bool = False
    ) -> Pixels:
        """Return the same bytes as `tiling.upscale_tiled`, computed entirely on the GPU.

        Args:
            lock_colors: also apply `color_lock.locked` to the result.

        Raises:
            UsageError, OutOfMemory, EngineLost, NotFinite: as `upscale`.
            KernelsMissing: the kernels do not run on this GPU.
        """
        if len(plan.tiles) == 1 and not lock_colors:
            return self.upscale(frame[None])[0]
        with self.slot() as slot:
            return self.canvas(slot, plan, batch, lock_colors=lock_colors).upscale_pixels(frame)

    @contextmanager
    def slot(self) -> Iterator[S]:
        """Lend an idle slot to this thread alone, in the GPU's context; wait for one if needed."""
        with self._idle.one() as slot, self.cuda.current(), self._failures():
            yield slot

    @contextmanager
    def all_slots(self) -> Iterator[list[S]]:
        """Lend all slots, in the GPU's context, once none is in use."""
        with self._idle.all() as slots, self.cuda.current(), self._failures():
            yield slots

    def canvas(self, slot: S, plan: TilePlan, batch: int, *, lock_colors: bool = False) -> Canvas:
        """Return the slot's canvas for frames cut by `plan`, `batch` tiles at a time.

        Raises:
            OutOfMemory: the GPU is out of memory.
            KernelsMissing: the kernels do not run on this GPU.
        """
        width, height = plan.window_size
        shape = self._shape_for(min(batch, len(plan.tiles)), height, width)
        wanted = (plan, shape[0], lock_colors)
        if slot.canvas is None or not slot.canvas.is_for(*wanted):
            slot.close_canvas()
            scale = self.info.spec.scale
            with self._network(slot, shape) as network:
                slot.canvas = Canvas(self.cuda, self._kernels, network, *wanted, scale)
        return slot.canvas

    def _shape_for(self, frames: int, height: int, width: int) -> Shape:
        """Return the input shape in which the network runs such a batch."""
        return frames, height, width

    def _network(self, slot: S, shape: Shape) -> AbstractContextManager[Network]:
        """Prepare the slot's network for a shape; a canvas is made within the body."""
        raise NotImplementedError

    def _failures(self) -> AbstractContextManager[None]:
        """Translate errors of the runtime into ours."""
        return nullcontext()


GpuEngine = SlotEngine[Any]
