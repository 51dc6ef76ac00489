"""PyTorch: on a CPU, the reference that other engines are measured against; on a GPU, in FP16.

On a GPU the kernels are cuDNN's or, on Hopper, our own fused ones; `info.name` has which. Each slot
has a stream and, for each shape that repeats, buffers on the host and on the GPU and a CUDA graph
of the network: a call puts four entries into a queue. Frames that are cut into tiles, or whose
colors are locked, use a `Canvas`.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from srgan_edge.engines.base import EngineInfo, Idle, Totals, finite
from srgan_edge.engines.cache import machine_code
from srgan_edge.engines.fused import FusedDeployment, NoKernel, nvidia_bindings
from srgan_edge.engines.slots import SlotEngine
from srgan_edge.engines.torch_slots import (
    ALONE,
    BoundNetwork,
    NetworkFunction,
    Run,
    Slot,
    run_once,
    translated_failures,
)
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
from srgan_edge.model.passport import Shape
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels


class TorchEngine(SlotEngine[Slot]):
    """`Deployment` in float32; on a GPU `HalfDeployment`, unless `fp32` forbids it."""

    takes_frames = False

    def __init__(
        self, path: Path, device: str = "cpu", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.safetensors` checkpoint onto `device` (`cpu`, `cuda`, `cuda:1`).

        A CPU always computes in FP32 with one slot: the reference need not be fast. A model in INT8
        is computed in FP32, on the values that its bytes represent.

        Raises:
            ModelRefused: the file is not one of our checkpoints, or a weight exceeds FP16.
            UsageError: PyTorch does not find this GPU.
            OutOfMemory: the GPU is out of memory for the weights.
        """
        from srgan_edge.model.checkpoint import load_checkpoint  # needs safetensors

        generator, spec = load_checkpoint(path)
        if device == "cpu":
            self._compute_where_it_is(generator, spec)
        else:
            self._compute_on(_gpu_of(device), generator, spec, fp32, slots)

    @classmethod
    def from_generator(cls, generator: nn.Module, spec: ModelSpec) -> Self:
        """Wrap a generator in memory without copying it; it runs in FP32 on its current device."""
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
        """Return the same engine as from a file of this generator; the generator is copied."""
        engine = cls.__new__(cls)
        engine._compute_on(_gpu_of(device), copy.deepcopy(generator), spec, fp32, slots)
        return engine

    def _compute_on(
        self, gpu: torch.device, generator: nn.Module, spec: ModelSpec, fp32: bool, slots: int
    ) -> None:
        is_half = not fp32 and not spec.quantized_from
        share_primary_context()  # with FFmpeg, for videos
        with translated_failures():
            if is_half:
                network, kernels = _fused(HalfDeployment(generator).to(gpu), gpu)
            else:
                network, kernels = _Summed(generator).to(gpu), "cuDNN"
            self._idle = Idle([Slot(network, gpu) for _ in range(slots)])
        self._run: Run = self._in_a_slot
        here = Gpu.find() if gpu.index == 0 else None  # our launcher only supports the first GPU
        if here is not None:
            # PyTorch installs the bindings, but the driver may be too old for them.
            with suppress(ExtraMissing, ResourcesExhausted):
                self.cuda = cast(Cuda, nvidia_bindings())
                self._kernels = Kernels(self.cuda, here.compute_capability, machine_code)
                self.takes_frames = True
        self._info(spec, gpu, "fp16" if is_half else "fp32", slots, kernels)

    def _compute_where_it_is(self, generator: nn.Module, spec: ModelSpec) -> None:
        device = next(generator.parameters()).device
        self._run = partial(run_once, _Summed(generator), device)
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
        with translated_failures():
            result, totals = self._run(batch)
        return finite(result, totals)

    def close(self) -> None:
        del self._run
        if self.takes_frames:
            # A lost GPU has no memory to free.
            with suppress(EngineLost), self.all_slots() as slots:
                for slot in slots:
                    slot.close_canvas()

    def _in_a_slot(self, batch: Pixels) -> tuple[Pixels, Totals]:
        with self._idle.one() as slot:
            return slot.run(batch)

    @contextmanager
    def _network(self, slot: Slot, shape: Shape) -> Iterator[BoundNetwork]:
        with ALONE:  # meanwhile, other slots only replay what they have recorded
            yield slot.bound(shape, self.cuda)

    def _failures(self) -> AbstractContextManager[None]:
        return translated_failures()


class _Summed(nn.Module):
    """`Deployment`, plus the sum of each image before the clamp."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.deployment = Deployment(generator)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        image = self.deployment.image(pixels)
        return self.deployment.rounded(image), image.sum((1, 2, 3))


def _fused(half: HalfDeployment, gpu: torch.device) -> tuple[NetworkFunction, str]:
    """Return the network in our fused kernels if they support it, and the kernels' name."""
    here = Gpu.find() if gpu.index == 0 else None  # the kernels only support the first GPU
    try:
        if here is not None:
            fused = FusedDeployment(half, here)
            fused(torch.zeros((1, 1, 1, 3), dtype=torch.uint8, device=gpu))
            torch.cuda.synchronize(gpu)
            return fused, "fused kernels"
    except OutOfMemory:
        raise
    except (NoKernel, ExtraMissing, UsageError, ResourcesExhausted):
        pass  # another GPU or network, no compiler, or a driver too old for it
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
