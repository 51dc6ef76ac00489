"""The interface of every engine, and the helpers that engines share; nothing here reads files."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from srgan_edge.errors import (
    ModelRefused,
    SrganEdgeError,
    UsageError,
    lacks_memory,
    printable,
)
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan

AFTER_FORK = (
    "this process was forked from one that had used an engine, whose threads it lacks, and would "
    "hang; start processes by 'spawn', or fork before the first use"
)


@dataclass(frozen=True)
class EngineInfo:
    """The runtime, device and precision in use, as reported to the user."""

    name: str
    """Runtime and version, for example `openvino 2026.4.1`."""
    device: str
    """Device, for example `cpu` or `cuda:0`."""
    precision: str
    """Arithmetic of the convolutions in floating point: `fp32`, `tf32`, `bf16` or `fp16`."""
    spec: ModelSpec
    """The generator it runs."""
    slots: int = 1
    """Number of `upscale` calls that may run at once, each in its own thread."""
    fixed_shape: tuple[int, int, int] | None = None
    """Frames, height and width of the only input accepted (fewer frames are allowed); None: any
    shape."""

    @property
    def arithmetic(self) -> str:
        """Precision as shown to the user: `bf16`, or `int8 + bf16` for a quantized model."""
        return f"int8 + {self.precision}" if self.spec.quantized_from else self.precision


class Engine(Protocol):
    """One generator, ready to run in one runtime on one device."""

    @property
    def info(self) -> EngineInfo:
        """The runtime, device and precision in use."""
        ...

    def upscale(self, batch: Pixels) -> Pixels:
        """Upscale uint8 [N, H, W, 3] to uint8 [N, sH, sW, 3], where s is `info.spec.scale`.

        N, H and W may have any size from 1 up and may change from call to call, except for an
        engine with a fixed shape. Repeated shapes are fastest. The result belongs to the caller: no
        later call changes it.

        Raises:
            OutOfMemory: the device is out of memory; a smaller request may succeed.
            EngineLost: the device failed; another engine may work.
            NotFinite: some images hold NaN or infinite values, as FP16 produces beyond 65504.
                Engines in other precisions need not check: their range is that of FP32.
        """
        ...

    def close(self) -> None:
        """Free the runtime's memory; the engine cannot be used afterwards."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


@runtime_checkable
class FrameEngine(Engine, Protocol):
    """An engine that also cuts frames into tiles and joins the results on its own device."""

    @property
    def takes_frames(self) -> bool:
        """True if the engine can do so on the device it runs on."""
        ...

    def upscale_frame(
        self, frame: Pixels, plan: TilePlan, batch: int, *, lock_colors: bool = False
    ) -> Pixels:
        """Return the same bytes as `tiling.upscale_tiled`, with fewer copies.

        Args:
            lock_colors: also apply `color_lock.locked` to the result.

        Raises:
            OutOfMemory: the device is out of memory for whole frames.
            KernelsMissing: the kernels do not run on this GPU; `upscale` works without them.
        """
        ...


class NotFinite(ModelRefused):
    """Some images of a batch hold NaN or infinite values, which become black or white bytes."""

    def __init__(self, result: Pixels, frames: Sequence[int]) -> None:
        """Keep the batch and the numbers of its bad images.

        Args:
            result: uint8 [N, sH, sW, 3]; images that are not in `frames` are correct.
            frames: numbers of the images that are not finite, from 0.
        """
        super().__init__(f"{len(frames)} of {len(result)} images are not finite; type --fp32")
        self.result, self.frames = result, frames


Totals = NDArray[np.float32]
"""float32 [N]: for each image, the sum of the network's output values before any clamp.

A sum is finite if and only if all of its values are: such sums stay far below FP32's limit.
"""

S = TypeVar("S")


def in_window(
    batch: Pixels, window_px: int, scale: int, upscale: Callable[[Pixels], Pixels]
) -> Pixels:
    """Upscale uint8 [N, h, w, 3], h and w up to `window_px`, on a graph that takes one window only.

    What a window lacks at the right and at the bottom repeats the last pixels.

    Raises:
        UsageError: the images are larger than the window.
        NotFinite: as `upscale` does.
    """
    _, height, width, _ = batch.shape
    if max(height, width) > window_px:
        raise UsageError(
            f"the model takes {window_px}x{window_px} and no more, got {width}x{height}; "
            "leave out --tile and --shape"
        )
    margins = ((0, 0), (0, window_px - height), (0, window_px - width), (0, 0))
    padded = np.pad(batch, margins, mode="edge")
    result = np.empty((len(batch), scale * height, scale * width, 3), np.uint8)
    bad = []
    for index in range(len(batch)):
        try:
            whole = upscale(padded[index : index + 1])
        except NotFinite as error:
            whole = error.result
            bad.append(index)
        result[index] = whole[0, : scale * height, : scale * width]
    if bad:
        raise NotFinite(result, bad)
    return result


@contextmanager
def graph_failures_refused(spec: ModelSpec, runtime: str) -> Iterator[None]:
    """Translate what a runtime raises on a CPU while it runs a graph.

    Files are checked before, but a runtime may still find that sizes or types do not fit.

    Raises:
        ModelRefused: for any error but our own, and a lack of memory, which passes.
    """
    try:
        yield
    except SrganEdgeError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = printable((lines or [repr(error)])[-1][:300])
        raise ModelRefused(f"{runtime} cannot run the graph of {spec.name}: {why}") from error


class Closing:
    """A context manager whose exit calls `close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


def finite(result: Pixels, totals: Totals) -> Pixels:
    """Return `result`, uint8 [N, sH, sW, 3], unchanged.

    Raises:
        NotFinite: the totals of some images are not finite.
    """
    frames = np.flatnonzero(~np.isfinite(totals))
    if frames.size:
        raise NotFinite(result, frames.tolist())
    return result


class Idle(Generic[S]):
    """A pool that lends each slot to one thread at a time; a thread waits for a free slot."""

    def __init__(self, slots: list[S]) -> None:
        self._all, self._idle = slots, list(slots)
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[S]:
        """Lend a slot to this thread alone."""
        with self._changed:
            while not self._idle:
                self._changed.wait()
            slot = self._idle.pop()
        try:
            yield slot
        finally:
            with self._changed:
                self._idle.append(slot)
                self._changed.notify_all()

    @contextmanager
    def all(self) -> Iterator[list[S]]:
        """Lend all slots once none is in use; other threads wait meanwhile."""
        with self._changed:
            while len(self._idle) < len(self._all):
                self._changed.wait()
            yield self._all
