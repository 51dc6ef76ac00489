"""How PyTorch runs a network in slots: streams, pinned memory and recorded graphs."""

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
from srgan_edge.engines.canvas import Canvas
from srgan_edge.errors import EngineLost, OutOfMemory
from srgan_edge.kernels.cuda import Cuda, Stream
from srgan_edge.kernels.launch import Kernels
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan

Network = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 (N, H, W, 3) -> uint8 (N, sH, sW, 3), and the sum of each image, float32 (N)."""

Run = Callable[[Pixels], tuple[Pixels, Totals]]
"""The same for arrays of this machine."""


class Slot:
    """A stream, and what it has recorded: a video has one shape, or two with a shorter last batch.

    What comes for the first time, as images of all sizes do, is computed without a recording.
    """

    SHAPES_RECORDED = 2
    SHAPES_REMEMBERED = 8

    def __init__(self, network: Network, gpu: torch.device) -> None:
        self._network, self._gpu, self._stream = network, gpu, torch.cuda.Stream(gpu)
        self._met: deque[tuple[int, ...]] = deque(maxlen=self.SHAPES_REMEMBERED)
        self._recorded: dict[tuple[int, ...], Recording] = {}
        self._canvas: Canvas | None = None

    def run(self, batch: Pixels) -> tuple[Pixels, Totals]:
        with torch.cuda.device(self._gpu), torch.cuda.stream(self._stream):
            recording = self._recorded.get(batch.shape)
            if recording is None and batch.shape in self._met:
                recording = self._record(batch.shape)
            if recording is not None:
                return recording.run(batch)
            self._met.append(batch.shape)
            return computed(self._network, self._gpu, batch)

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
            with ALONE:  # other slots may only go on with what they have recorded
                bound = Bound(self._network, shape, self._gpu, self._stream, cuda)
                self._canvas = Canvas(cuda, kernels, bound, *wanted, scale)
        return self._canvas

    def close(self) -> None:
        """Give the memory of the canvas back; PyTorch sees to all else."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def _record(self, shape: tuple[int, ...]) -> "Recording":
        while len(self._recorded) >= self.SHAPES_RECORDED:
            del self._recorded[next(iter(self._recorded))]
        try:
            self._recorded[shape] = Recording(self._network, shape, self._gpu, self._stream)
        except RuntimeError:  # out of memory above all, of which a smaller shape shall have more
            self._recorded.clear()
            raise
        return self._recorded[shape]


class Recording:
    """One shape's buffers, and the work between them as a CUDA graph with memory of its own."""

    def __init__(
        self,
        network: Network,
        shape: tuple[int, ...],
        gpu: torch.device,
        stream: torch.cuda.Stream,
    ) -> None:
        self._stream, self._graph = stream, torch.cuda.CUDAGraph()
        self._source = torch.zeros(shape, dtype=torch.uint8, device=gpu)
        with exact_convolutions():
            network(self._source)  # the first time it loads and allocates, which is not recorded
            stream.synchronize()
            # Other slots go on with what they have recorded: only this thread must do nothing else.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._target, self._totals = network(self._source)
        self._here = pinned_like(self._source)

    def run(self, batch: Pixels) -> tuple[Pixels, Totals]:
        np.copyto(self._here.numpy(), batch)
        self._source.copy_(self._here, non_blocking=True)
        self._graph.replay()
        # The caller keeps the result where it arrives. Pinning takes as long as a copy would, but
        # PyTorch's pool keeps what callers drop.
        results = [pinned_like(tensor) for tensor in (self._target, self._totals)]
        for here, there in zip(results, (self._target, self._totals), strict=True):
            here.copy_(there, non_blocking=True)
        self._stream.synchronize()
        result, totals = (tensor.numpy() for tensor in results)
        return result, totals


class Graph:
    """A recording of PyTorch's, for its own stream."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        self._graph, self._stream = graph, stream

    def launch(self, stream: Stream) -> None:
        assert stream.handle == self._stream.cuda_stream, "it was recorded for another stream"
        with torch.cuda.stream(self._stream):
            self._graph.replay()


class Bound:
    """The network from one place of the GPU's memory to another: what a canvas is made around."""

    def __init__(
        self,
        network: Network,
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
        return Graph(graph, self._stream)

    def wait(self) -> None:
        """Until the stream has done all that was put into it."""
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


def pinned_like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def computed(network: Network, device: torch.device, batch: Pixels) -> tuple[Pixels, Totals]:
    pixels = torch.from_numpy(np.require(batch, requirements="W")).to(device)
    with exact_convolutions():
        result, totals = network(pixels)
    return result.contiguous().cpu().numpy(), totals.cpu().numpy()


ALONE = threading.RLock()
"""Of who records, allocates, or has something said to the whole process."""


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Left alone, cuDNN computes float32 convolutions in TF32, which is not what `info` says.

    That is said to the whole process, so that one thread at a time may. Nor is cuDNN let measure
    which kernel is the fastest: each slot, and each run, would have other last bits.
    """
    with ALONE, torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        yield


FAILURE = re.compile(r"(?:CUDA|cuDNN) error: (CU(?:DNN|BLAS)_STATUS_\w+|[^\n]+)")
"""In what PyTorch raises as a RuntimeError; another one is a bug."""


@contextmanager
def failures_told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        failure = FAILURE.search(str(error))
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
