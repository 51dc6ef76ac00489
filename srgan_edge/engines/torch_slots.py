"""Slots of the PyTorch engine on a GPU: streams, pinned memory and recorded graphs."""

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srgan_edge.engines.base import Totals
from srgan_edge.engines.slots import CanvasSlot
from srgan_edge.errors import EngineLost, OutOfMemory
from srgan_edge.kernels.cuda import Stream
from srgan_edge.pixels import Pixels

NetworkFunction = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 (N, H, W, 3) -> uint8 (N, sH, sW, 3), and the sum of each image, float32 (N)."""

Run = Callable[[Pixels], tuple[Pixels, Totals]]
"""A `NetworkFunction` for arrays in host memory."""

ALONE = threading.RLock()
"""Held while recording a graph, allocating, or changing process-wide settings."""

_FAILURE = re.compile(r"(?:CUDA|cuDNN) error: (CU(?:DNN|BLAS)_STATUS_\w+|[^\n]+)")
"""A failure of the GPU, which PyTorch raises as a RuntimeError; any other one is a bug."""


class Slot(CanvasSlot):
    """A stream and the graphs recorded for it.

    A video has one shape, or two with a shorter last batch. A shape that comes for the first time,
    as with images of all sizes, runs without a recording.
    """

    SHAPES_RECORDED = 2
    SHAPES_REMEMBERED = 8

    def __init__(self, network: NetworkFunction, gpu: torch.device) -> None:
        self._network, self._gpu, self._stream = network, gpu, torch.cuda.Stream(gpu)
        self._met: deque[tuple[int, ...]] = deque(maxlen=self.SHAPES_REMEMBERED)
        self._recorded: dict[tuple[int, ...], Recording] = {}

    def run(self, batch: Pixels) -> tuple[Pixels, Totals]:
        """Upscale uint8 [N, H, W, 3]; a shape that repeats is recorded and replayed."""
        with torch.cuda.device(self._gpu), torch.cuda.stream(self._stream):
            recording = self._recorded.get(batch.shape)
            if recording is None and batch.shape in self._met:
                recording = self._record(batch.shape)
            if recording is not None:
                return recording.run(batch)
            self._met.append(batch.shape)
            return run_once(self._network, self._gpu, batch)

    def bound(self, shape: tuple[int, int, int], cuda: Any) -> "BoundNetwork":  # noqa: ANN401
        """Return the network on its own buffers for a shape, for a canvas of this slot."""
        return BoundNetwork(self._network, (*shape, 3), self._gpu, self._stream, cuda)

    def _record(self, shape: tuple[int, ...]) -> "Recording":
        while len(self._recorded) >= self.SHAPES_RECORDED:
            del self._recorded[next(iter(self._recorded))]
        try:
            self._recorded[shape] = Recording(self._network, shape, self._gpu, self._stream)
        except RuntimeError:  # mostly out of memory: leave more of it to a smaller shape
            self._recorded.clear()
            raise
        return self._recorded[shape]


class Recording:
    """The buffers for one shape and a CUDA graph of the network between them."""

    def __init__(
        self,
        network: NetworkFunction,
        shape: tuple[int, ...],
        gpu: torch.device,
        stream: torch.cuda.Stream,
    ) -> None:
        self._stream, self._graph = stream, torch.cuda.CUDAGraph()
        self._source = torch.zeros(shape, dtype=torch.uint8, device=gpu)
        with exact_convolutions():
            network(self._source)  # the first run loads and allocates, which cannot be recorded
            stream.synchronize()
            # Other slots keep replaying their graphs: only this thread must do nothing else.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._target, self._totals = network(self._source)
        self._here = pinned_like(self._source)

    def run(self, batch: Pixels) -> tuple[Pixels, Totals]:
        """Copy a batch to the GPU, replay the graph and copy the results back."""
        np.copyto(self._here.numpy(), batch)
        self._source.copy_(self._here, non_blocking=True)
        self._graph.replay()
        # The caller keeps the pinned result. Pinning takes as long as a copy would, but PyTorch's
        # pool reuses what callers drop.
        results = [pinned_like(tensor) for tensor in (self._target, self._totals)]
        for here, there in zip(results, (self._target, self._totals), strict=True):
            here.copy_(there, non_blocking=True)
        self._stream.synchronize()
        result, totals = (tensor.numpy() for tensor in results)
        return result, totals


class TorchGraph:
    """A graph recorded by PyTorch for one stream, as a `kernels.cuda.Graph`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        self._graph, self._stream = graph, stream

    def launch(self, stream: Stream) -> None:
        assert stream.handle == self._stream.cuda_stream, "it was recorded for another stream"
        with torch.cuda.stream(self._stream):
            self._graph.replay()


class BoundNetwork:
    """A network between two fixed addresses on the GPU, as a `canvas.Network`."""

    def __init__(
        self,
        network: NetworkFunction,
        shape: tuple[int, ...],
        gpu: torch.device,
        stream: torch.cuda.Stream,
        cuda: Any,  # noqa: ANN401 - the `Cuda` that also wraps streams of others
    ) -> None:
        self._network, self._gpu, self._stream, self._cuda = network, gpu, stream, cuda
        self.stream: Stream = cuda.stream_at(stream.cuda_stream)
        with self._in_stream():
            self._source = torch.zeros(shape, dtype=torch.uint8, device=gpu)
            self._target, self._totals = network(self._source)
        stream.synchronize()

    @property
    def source(self) -> int:
        """Address of the network's input."""
        return self._source.data_ptr()

    @property
    def target(self) -> int:
        """Address of the network's output."""
        return self._target.data_ptr()

    def put(self) -> None:
        """Queue the work that upscales `source` into `target`."""
        with self._in_stream():
            result, totals = self._network(self._source)
            self._target.copy_(result)
            self._totals.copy_(totals)

    def take_totals(self, totals: Totals) -> None:
        """Queue a copy of the totals of the last `put` to pinned memory."""
        self._cuda.download(self._totals.data_ptr(), totals, self.stream)

    def recorded(self, put: Callable[[], None]) -> TorchGraph:
        """Record the work that `put` queues as a graph with its own memory."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._gpu),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            put()
        return TorchGraph(graph, self._stream)

    def wait(self) -> None:
        """Wait until all work in the stream is done."""
        self._stream.synchronize()

    @contextmanager
    def _in_stream(self) -> Iterator[None]:
        with (
            torch.inference_mode(),
            torch.cuda.device(self._gpu),
            torch.cuda.stream(self._stream),
            exact_convolutions(),
        ):
            yield


def run_once(
    network: NetworkFunction, device: torch.device, batch: Pixels
) -> tuple[Pixels, Totals]:
    """Upscale uint8 [N, H, W, 3] on a device without recording anything."""
    pixels = torch.from_numpy(np.require(batch, requirements="W")).to(device)
    with exact_convolutions():
        result, totals = network(pixels)
    return result.contiguous().cpu().numpy(), totals.cpu().numpy()


def pinned_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Forbid cuDNN's TF32 and its benchmark mode while the body runs.

    By default, cuDNN computes float32 convolutions in TF32, which is not the precision in `info`.
    Its benchmark mode would give each slot, and each run, different last bits. Both settings are
    process-wide, so one thread at a time holds them.
    """
    with ALONE, torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        yield


@contextmanager
def translated_failures() -> Iterator[None]:
    """Translate PyTorch's errors of the GPU into ours."""
    try:
        yield
    except RuntimeError as error:
        failure = _FAILURE.search(str(error))
        what = failure[1] if failure else ""
        # A recording that runs out of memory fails again, with another error, when it is ended.
        memory = any(isinstance(it, torch.OutOfMemoryError) for it in (error, error.__context__))
        if memory or what.startswith("out of memory") or what.endswith("_ALLOC_FAILED"):
            raise OutOfMemory from error
        if not what:
            raise
        raise EngineLost(
            f"the GPU failed: {what}; if this happens again, restart the machine"
        ) from error
