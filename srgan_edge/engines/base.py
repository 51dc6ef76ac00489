"""What every engine promises, and nothing else: no files."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from srgan_edge.errors import ModelRefused
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan


@dataclass(frozen=True)
class EngineInfo:
    """What is running, as it would be reported to a stranger."""

    name: str
    """Runtime and its version, for example `openvino 2026.4.1`."""
    device: str
    """Where it runs, for example `cpu` or `cuda:0`."""
    precision: str
    """Arithmetic of the convolutions in floating point: `fp32`, `tf32`, `bf16` or `fp16`."""
    spec: ModelSpec
    """The generator it runs."""
    slots: int = 1
    """How many calls of `upscale` may run at once, each in a thread of its own."""
    fixed_shape: tuple[int, int, int] | None = None
    """Frames, height and width of the only input there is, of which fewer frames may come; None:
    any shape."""

    @property
    def arithmetic(self) -> str:
        """`int8 + bf16` if some convolutions are in INT8 and the others in BF16; else `bf16`."""
        return f"int8 + {self.precision}" if self.spec.quantized_from else self.precision


class Engine(Protocol):
    """One generator, ready to run in one runtime on one device."""

    @property
    def info(self) -> EngineInfo:
        """What is running."""
        ...

    def upscale(self, batch: Pixels) -> Pixels:
        """uint8 [N, H, W, 3] -> uint8 [N, sH, sW, 3], s being `info.spec.scale`.

        N, H and W may be any size from 1 up and may change from call to call, but for an engine of
        a fixed shape; calls with one shape are the fast ones. The result belongs to the caller: no
        later call changes it.

        Raises:
            OutOfMemory: the device has too little memory; less may do.
            EngineLost: the device failed; another engine may do.
            NotFinite: some of the images hold values that are NaN or infinite, as those in FP16
                do that grew beyond 65504. Engines in other precisions, all of which reach as far as
                FP32, need not look for that.
        """
        ...

    def close(self) -> None:
        """Free the runtime's memory. The engine cannot be used afterwards."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


@runtime_checkable
class FrameEngine(Engine, Protocol):
    """An engine that also cuts frames, and puts them together, where it upscales them."""

    @property
    def takes_frames(self) -> bool:
        """Whether it does so on the device it is on."""
        ...

    def upscale_frame(
        self, frame: Pixels, plan: TilePlan, batch: int, *, lock_colors: bool = False
    ) -> Pixels:
        """What `tiling.upscale_tiled` does with `upscale`: the same bytes, with fewer copies.

        With `lock_colors`, what `color_lock.locked` then makes of them.

        Raises:
            OutOfMemory: the device has no room for whole frames.
            KernelsMissing: those that this needs cannot be had; `upscale` does without.
        """
        ...


class NotFinite(ModelRefused):
    """Images of a batch hold values that are no numbers, which as bytes are black or white."""

    def __init__(self, result: Pixels, frames: Sequence[int]) -> None:
        """
        Args:
            result: uint8 [N, sH, sW, 3]; what is not among `frames` is as it should be.
            frames: which of them are not, from 0.
        """
        super().__init__(f"{len(frames)} of {len(result)} images are not finite; type --fp32")
        self.result, self.frames = result, frames


Totals = NDArray[np.float32]
"""float32 [N]: the sum of all values that the network made of each image, before any clamp.

It is finite if and only if all of them are: such sums stay far below FP32's limit.
"""


def finite(result: Pixels, totals: Totals) -> Pixels:
    """`result` itself, uint8 [N, sH, sW, 3].

    Raises:
        NotFinite: for some of the images, by their totals.
    """
    frames = np.flatnonzero(~np.isfinite(totals))
    if frames.size:
        raise NotFinite(result, frames.tolist())
    return result


# The slots of an engine that nobody uses at the moment.
S = TypeVar("S")


class Idle(Generic[S]):
    """Hands out slots, each to one thread at a time; who finds none waits."""

    def __init__(self, slots: list[S]) -> None:
        self._all, self._idle = slots, list(slots)
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[S]:
        """A slot for this thread alone."""
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
        """Every slot, once nobody uses any; whoever wants one waits meanwhile."""
        with self._changed:
            while len(self._idle) < len(self._all):
                self._changed.wait()
            yield self._all
