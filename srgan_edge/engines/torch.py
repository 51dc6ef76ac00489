"""PyTorch: on a CPU the reference, against which the others are measured; on a GPU in FP16.

There the convolutions are cuDNN's, or on Hopper our own, with all that follows them; `info` tells.

On a GPU each slot has a stream, and for each shape that comes again it has buffers on both sides of
the bus and a CUDA graph of the network, so that a call is four entries into a queue. Frames that
are cut, or whose colors are locked, have a `Canvas` there.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from srgan_edge.engines.base import EngineInfo, Idle, Totals, finite
from srgan_edge.engines.cache import machine_code
from srgan_edge.engines.canvas import Canvas
from srgan_edge.engines.fused import FusedDeployment, NoKernel, nvidia_bindings
from srgan_edge.engines.torch_slots import Network, Run, Slot, computed, failures_told
from srgan_edge.errors import (
    EngineLost,
    ExtraMissing,
    OutOfMemory,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.kernels.cuda import Cuda
from srgan_edge.kernels.launch import Kernels
from srgan_edge.machine import Gpu, share_primary_context
from srgan_edge.model.half import HalfDeployment
from srgan_edge.model.network import Deployment
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan


class TorchEngine:
    """`Deployment` in float32; on a GPU `HalfDeployment`, unless `fp32` forbids it."""

    takes_frames = False

    def __init__(
        self, path: Path, device: str = "cpu", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.safetensors` checkpoint onto `device` (`cpu`, `cuda`, `cuda:1`).

        FP32 and one slot on a CPU in any case: the reference need not be fast. A model in INT8 is
        computed in FP32, on the values that its bytes stand for.

        Raises:
            ModelRefused: not one of our checkpoints, or a weight is too large for FP16.
            UsageError: PyTorch finds no such GPU.
            OutOfMemory: the GPU has too little for the weights.
        """
        from srgan_edge.model.checkpoint import load_checkpoint  # which needs safetensors

        generator, spec = load_checkpoint(path)
        if device == "cpu":
            self._compute_where_it_is(generator, spec)
        else:
            self._compute_on(_gpu_of(device), generator, spec, fp32, slots)

    @classmethod
    def from_generator(cls, generator: nn.Module, spec: ModelSpec) -> Self:
        """An engine around a generator in memory, in FP32 and where it is; it is not copied."""
        engine = cls.__new__(cls)
        engine._compute_where_it_is(generator, spec)
        return engine

    @classmethod
    def on_gpu(
        cls,
        generator: nn.Module,
        spec: ModelSpec,
        device: str = "cuda",
        *,
        fp32: bool = False,
        slots: int = 1,
    ) -> Self:
        """The engine that a file of that generator would make; it is copied."""
        engine = cls.__new__(cls)
        engine._compute_on(_gpu_of(device), copy.deepcopy(generator), spec, fp32, slots)
        return engine

    def _compute_on(
        self, gpu: torch.device, generator: nn.Module, spec: ModelSpec, fp32: bool, slots: int
    ) -> None:
        is_half = not fp32 and not spec.quantized_from
        share_primary_context()  # with FFmpeg, for videos
        with failures_told():
            if is_half:
                network, kernels = _fused(HalfDeployment(generator).to(gpu), gpu)
            else:
                network, kernels = _Summed(generator).to(gpu), "cuDNN"
            self._slots = Idle([Slot(network, gpu) for _ in range(slots)])
        self._run: Run = self._in_a_slot
        here = Gpu.find() if gpu.index == 0 else None  # our launcher is for the first GPU
        if here is not None:
            # PyTorch brings the bindings along, but the driver may be older than they are.
            with suppress(ExtraMissing, ResourcesExhausted):
                self.cuda = cast(Cuda, nvidia_bindings())
                self._kernels = Kernels(self.cuda, here.compute_capability, machine_code)
                self.takes_frames = True
        self._info(spec, gpu, "fp16" if is_half else "fp32", slots, kernels)

    def _compute_where_it_is(self, generator: nn.Module, spec: ModelSpec) -> None:
        device = next(generator.parameters()).device
        self._run = partial(computed, _Summed(generator), device)
        self._info(spec, device, "fp32", slots=1)

    def _info(
        self,
        spec: ModelSpec,
        device: torch.device,
        precision: str,
        slots: int,
        kernels: str = "",
    ) -> None:
        name = f"torch {torch.__version__}" + (f" with {kernels}" if kernels else "")
        self.info = EngineInfo(name, str(device), precision, spec, slots)

    @torch.inference_mode()
    def upscale(self, batch: Pixels) -> Pixels:
        with failures_told():
            result, totals = self._run(batch)
        return finite(result, totals)

    def upscale_frame(
        self, frame: Pixels, plan: TilePlan, batch: int, *, lock_colors: bool = False
    ) -> Pixels:
        """As `tiling.upscale_tiled`, but cut and put together on the GPU, and locked if asked for.

        Raises:
            OutOfMemory, EngineLost, NotFinite: as `upscale`.
            KernelsMissing: the kernels for it cannot be had here.
        """
        if len(plan.tiles) == 1 and not lock_colors:
            return self.upscale(frame[None])[0]
        with self.slot() as slot:
            return self.canvas(slot, plan, batch, lock_colors=lock_colors).upscale_pixels(frame)

    @contextmanager
    def slot(self) -> Iterator["Slot"]:
        """One that is idle, for this thread alone, in the context of the GPU; waits for one."""
        with self._slots.one() as slot, self.cuda.current(), failures_told():
            yield slot

    @contextmanager
    def all_slots(self) -> Iterator[list["Slot"]]:
        """All of them, which nobody uses meanwhile."""
        with self._slots.all() as slots, self.cuda.current(), failures_told():
            yield slots

    def canvas(
        self, slot: "Slot", plan: TilePlan, batch: int, *, lock_colors: bool = False
    ) -> Canvas:
        """The slot's room for frames that are cut by `plan`, `batch` tiles at a time."""
        wanted = (plan, min(batch, len(plan.tiles)), lock_colors)
        return slot.canvas(self.cuda, self._kernels, *wanted, self.info.spec.scale)

    def close(self) -> None:
        del self._run
        if self.takes_frames:
            with suppress(EngineLost), self.all_slots() as slots:  # of a lost GPU, nothing is left
                for slot in slots:
                    slot.close()

    def _in_a_slot(self, batch: Pixels) -> tuple[Pixels, Totals]:
        with self._slots.one() as slot:
            return slot.run(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Summed(nn.Module):
    """`Deployment`, and the sum of each image before it is clamped."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.deployment = Deployment(generator)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        image = self.deployment.image(pixels)
        return self.deployment.rounded(image), image.sum((1, 2, 3))


def _fused(half: HalfDeployment, gpu: torch.device) -> tuple[Network, str]:
    """The same network by kernels of our own, where there are such, and whose kernels it has."""
    here = Gpu.find() if gpu.index == 0 else None  # kernels are for the first GPU
    try:
        if here is not None:
            fused = FusedDeployment(half, here)
            fused(torch.zeros((1, 1, 1, 3), dtype=torch.uint8, device=gpu))
            torch.cuda.synchronize(gpu)
            return fused, "fused kernels"
    except OutOfMemory:
        raise
    except (NoKernel, ExtraMissing, UsageError, ResourcesExhausted):
        pass  # another GPU or network, no compiler, or a driver that is older than it
    return half, "cuDNN"


def _gpu_of(device: str) -> torch.device:
    _, _, number = device.partition(":")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not (number or "0").isdecimal() or int(number or 0) >= found:
        raise UsageError(
            f"--device {device}, but PyTorch finds {found} GPUs; possible: "
            f"{', '.join(['cpu', *(f'cuda:{index}' for index in range(found))])}"
        )
    return torch.device("cuda", int(number or 0))
