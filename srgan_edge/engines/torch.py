"""PyTorch: on a CPU the reference, against which the others are measured; on a GPU in FP16.

There the convolutions are cuDNN's, or on Hopper our own, with all that follows them; `info` tells.

On a GPU each slot has a stream, and for each shape that comes again it has buffers on both sides of
the bus and a CUDA graph of the network, so that a call is four entries into a queue. Frames that
are cut, or whose colours are locked, have a `Canvas` there.
"""

import copy
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from srgan_edge.engines.base import EngineInfo, Totals, finite
from srgan_edge.engines.canvas import Canvas
from srgan_edge.engines.fused import FusedDeployment, NoKernel, nvidia_bindings
from srgan_edge.engines.idle import Idle
from srgan_edge.engines.machine_code import machine_code
from srgan_edge.errors import (
    EngineLost,
    ExtraMissing,
    OutOfMemory,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.half import HalfDeployment
from srgan_edge.kernels.cuda import Cuda, Graph, Stream
from srgan_edge.kernels.launch import Kernels
from srgan_edge.machine import Gpu, share_primary_context
from srgan_edge.model import Deployment
from srgan_edge.pixels import Pixels
from srgan_edge.spec import ModelSpec
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
        from srgan_edge.checkpoint import load_checkpoint  # which needs safetensors

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
        share_primary_context()  # with FFmpeg, for films
        with _failures_told():
            if is_half:
                network, kernels = _fused(HalfDeployment(generator).to(gpu), gpu)
            else:
                network, kernels = _Summed(generator).to(gpu), "cuDNN"
            self._slots = Idle([_Slot(network, gpu) for _ in range(slots)])
        self._run: _Run = self._in_a_slot
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
        self._run = partial(_computed, _Summed(generator), device)
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
        with _failures_told():
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
    def slot(self) -> Iterator["_Slot"]:
        """One that is idle, for this thread alone, in the context of the GPU; waits for one."""
        with self._slots.one() as slot, self.cuda.current(), _failures_told():
            yield slot

    @contextmanager
    def all_slots(self) -> Iterator[list["_Slot"]]:
        """All of them, which nobody uses meanwhile."""
        with self._slots.all() as slots, self.cuda.current(), _failures_told():
            yield slots

    def canvas(
        self, slot: "_Slot", plan: TilePlan, batch: int, *, lock_colors: bool = False
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


_Network = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 (N, H, W, 3) -> uint8 (N, sH, sW, 3), and the sum of each picture, float32 (N)."""
_Run = Callable[[Pixels], tuple[Pixels, Totals]]
"""The same for arrays of this machine."""


class _Summed(nn.Module):
    """`Deployment`, and the sum of each picture before it is clamped."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.deployment = Deployment(generator)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        picture = self.deployment.picture(pixels)
        return self.deployment.rounded(picture), picture.sum((1, 2, 3))


def _fused(half: HalfDeployment, gpu: torch.device) -> tuple[_Network, str]:
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


class _Slot:
    """A stream, and what it has recorded: a film has one shape, or two with a shorter last batch.

    What comes for the first time, as pictures of all sizes do, is computed without a recording.
    """

    SHAPES_RECORDED = 2
    SHAPES_REMEMBERED = 8

    def __init__(self, network: _Network, gpu: torch.device) -> None:
        self._network, self._gpu, self._stream = network, gpu, torch.cuda.Stream(gpu)
        self._met: deque[tuple[int, ...]] = deque(maxlen=self.SHAPES_REMEMBERED)
        self._recorded: dict[tuple[int, ...], _Recording] = {}
        self._canvas: Canvas | None = None

    def run(self, batch: Pixels) -> tuple[Pixels, Totals]:
        with torch.cuda.device(self._gpu), torch.cuda.stream(self._stream):
            recording = self._recorded.get(batch.shape)
            if recording is None and batch.shape in self._met:
                recording = self._record(batch.shape)
            if recording is not None:
                return recording.run(batch)
            self._met.append(batch.shape)
            return _computed(self._network, self._gpu, batch)

    def canvas(
        self,
        cuda: Cuda,
        kernels: Kernels,
        plan: TilePlan,
        batch: int,
        lock_colors: bool,
        scale: int,
    ) -> Canvas:
        """Room for frames that are cut by `plan`, kept until something else comes.

        Raises:
            OutOfMemory: it does not fit.
        """
        wanted = (plan, batch, lock_colors)
        if self._canvas is None or not self._canvas.is_for(*wanted):
            self.close()
            width, height = plan.window_size
            shape = (batch, height, width, 3)
            with _ALONE:  # other slots may only go on with what they have recorded
                bound = _Bound(self._network, shape, self._gpu, self._stream, cuda)
                self._canvas = Canvas(cuda, kernels, bound, *wanted, scale)
        return self._canvas

    def close(self) -> None:
        """Give the memory of the canvas back; PyTorch sees to all else."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def _record(self, shape: tuple[int, ...]) -> "_Recording":
        while len(self._recorded) >= self.SHAPES_RECORDED:
            del self._recorded[next(iter(self._recorded))]
        try:
            self._recorded[shape] = _Recording(self._network, shape, self._gpu, self._stream)
        except RuntimeError:  # out of memory above all, of which a smaller shape shall have more
            self._recorded.clear()
            raise
        return self._recorded[shape]


class _Recording:
    """One shape's buffers, and the work between them as a CUDA graph with memory of its own."""

    def __init__(
        self,
        network: _Network,
        shape: tuple[int, ...],
        gpu: torch.device,
        stream: torch.cuda.Stream,
    ) -> None:
        self._stream, self._graph = stream, torch.cuda.CUDAGraph()
        self._source = torch.zeros(shape, dtype=torch.uint8, device=gpu)
        with _exact_convolutions():
            network(self._source)  # the first time it loads and allocates, which is not recorded
            stream.synchronize()
            # Other slots go on with what they have recorded: only this thread must do nothing else.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._target, self._totals = network(self._source)
        self._here = _pinned_like(self._source)

    def run(self, batch: Pixels) -> tuple[Pixels, Totals]:
        np.copyto(self._here.numpy(), batch)
        self._source.copy_(self._here, non_blocking=True)
        self._graph.replay()
        # The caller keeps the result where it arrives. Pinning takes as long as a copy would, but
        # PyTorch's pool keeps what callers drop.
        results = [_pinned_like(tensor) for tensor in (self._target, self._totals)]
        for here, there in zip(results, (self._target, self._totals), strict=True):
            here.copy_(there, non_blocking=True)
        self._stream.synchronize()
        result, totals = (tensor.numpy() for tensor in results)
        return result, totals


class _Bound:
    """The network from one place of the GPU's memory to another: what a canvas is made around."""

    def __init__(
        self,
        network: _Network,
        shape: tuple[int, ...],
        gpu: torch.device,
        stream: torch.cuda.Stream,
        cuda: Any,  # noqa: ANN401 - of `Cuda`, the one that knows streams of others
    ) -> None:
        self._network, self._gpu, self._stream, self._cuda = network, gpu, stream, cuda
        self.stream: Stream = cuda.stream_at(stream.cuda_stream)
        with self._in_stream():
            self._source = torch.zeros(shape, dtype=torch.uint8, device=gpu)
            self._target, self._totals = network(self._source)
        stream.synchronize()

    @property
    def source(self) -> int:
        """Address of what the network reads."""
        return self._source.data_ptr()

    @property
    def target(self) -> int:
        """Address of what it writes."""
        return self._target.data_ptr()

    def put(self) -> None:
        """`source` into `target`: into the stream."""
        with self._in_stream():
            result, totals = self._network(self._source)
            self._target.copy_(result)
            self._totals.copy_(totals)

    def take_totals(self, totals: Totals) -> None:
        """Those of what was put last, into pinned memory: into the stream."""
        self._cuda.download(self._totals.data_ptr(), totals, self.stream)

    def recorded(self, put: Callable[[], None]) -> Graph:
        """What `put` does as one graph, with memory of its own."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._gpu),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            put()
        return _Graph(graph, self._stream)

    def wait(self) -> None:
        """Until the stream has done all that was put into it."""
        self._stream.synchronize()

    @contextmanager
    def _in_stream(self) -> Iterator[None]:
        with (
            torch.inference_mode(),
            torch.cuda.device(self._gpu),
            torch.cuda.stream(self._stream),
            _exact_convolutions(),
        ):
            yield


class _Graph:
    """A recording of PyTorch's, for its own stream."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        self._graph, self._stream = graph, stream

    def launch(self, stream: Stream) -> None:
        assert stream.handle == self._stream.cuda_stream, "it was recorded for another stream"
        with torch.cuda.stream(self._stream):
            self._graph.replay()


def _pinned_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def _computed(network: _Network, device: torch.device, batch: Pixels) -> tuple[Pixels, Totals]:
    pixels = torch.from_numpy(np.require(batch, requirements="W")).to(device)
    with _exact_convolutions():
        result, totals = network(pixels)
    return result.contiguous().cpu().numpy(), totals.cpu().numpy()


_ALONE = threading.RLock()
"""Of who records, allocates, or has something said to the whole process."""


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Left alone, cuDNN computes float32 convolutions in TF32, which is not what `info` says.

    That is said to the whole process, so that one thread at a time may. Nor is cuDNN let measure
    which kernel is the fastest: each slot, and each run, would have other last bits.
    """
    with _ALONE, torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        yield


_FAILURE = re.compile(r"(?:CUDA|cuDNN) error: (CU(?:DNN|BLAS)_STATUS_\w+|[^\n]+)")
"""In what PyTorch raises as a RuntimeError; another one is a bug."""


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        failure = _FAILURE.search(str(error))
        what = failure[1] if failure else ""
        # A recording that runs out of memory fails once more, otherwise, as it is ended.
        memory = any(isinstance(it, torch.OutOfMemoryError) for it in (error, error.__context__))
        if memory or what.startswith("out of memory") or what.endswith("_ALLOC_FAILED"):
            raise OutOfMemory from error
        if not what:
            raise
        raise EngineLost(
            f"the GPU failed: {what}; if it says so again, restart the machine"
        ) from error


def _gpu_of(device: str) -> torch.device:
    _, _, number = device.partition(":")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not (number or "0").isdecimal() or int(number or 0) >= found:
        raise UsageError(
            f"--device {device}, but PyTorch finds {found} GPUs; possible: "
            f"{', '.join(['cpu', *(f'cuda:{index}' for index in range(found))])}"
        )
    return torch.device("cuda", int(number or 0))
