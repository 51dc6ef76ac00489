"""One CUDA GPU and the few operations that we need, through pycuda or NVIDIA's own bindings.

No other module imports a binding. Both work in the primary context of device 0, which TensorRT and
PyTorch also use: objects of one are valid in the others. Calls do not wait unless documented; work
in a stream runs later, in order.
"""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srgan_edge.errors import (
    EngineLost,
    ExtraMissing,
    OutOfMemory,
    ResourcesExhausted,
    SrganEdgeError,
)

BINDINGS = {
    "pycuda": "srgan_edge.kernels.pycuda",
    "cuda.bindings": "srgan_edge.kernels.cuda_bindings",
}
"""Modules by the package that each of them needs; pycuda comes first."""

Argument = int | np.generic
"""A kernel argument: an address, or a number of the type that the kernel declares."""


class Memory(Protocol):
    """Memory on the GPU."""

    address: int

    def close(self) -> None:
        """Free the memory; all work that uses it must have ended."""
        ...


class PinnedMemory(Protocol):
    """Page-locked host memory, which the GPU copies from and to without the CPU."""

    array: NDArray[np.uint8]
    """uint8 [size], for reading and writing on the host."""

    def close(self) -> None: ...


class Stream(Protocol):
    """A queue of GPU work that runs in order."""

    handle: int
    """`CUstream`, as TensorRT accepts it."""

    def synchronize(self) -> None:
        """Wait until all work in the stream is done."""
        ...

    def wait_for(self, event: "Event") -> None:
        """Let later work in this stream wait, on the GPU, for a point in another stream."""
        ...


class Event(Protocol):
    """A point in a stream."""

    def record(self, stream: Stream) -> None: ...

    def synchronize(self) -> None:
        """Sleep until the stream reaches the point; other threads need the CPU."""
        ...

    def milliseconds_since(self, earlier: "Event") -> float:
        """Return the time on the GPU since an earlier event; both must have been reached."""
        ...


class Graph(Protocol):
    """Recorded work that is queued as one unit."""

    def launch(self, stream: Stream) -> None: ...


class Kernel(Protocol):
    """A function that runs on the GPU."""

    def __call__(
        self,
        blocks: Sequence[int],
        threads: Sequence[int],
        arguments: Sequence[Argument],
        stream: Stream,
    ) -> None:
        """Queue the kernel: sizes of grid and blocks along x, y and z; missing ones are 1."""
        ...


class Cuda(Protocol):
    """The GPU. Every thread uses it inside `current()`."""

    binding: str
    """Name and version of the binding."""

    def current(self) -> AbstractContextManager[None]:
        """Make the primary context current in this thread while the body runs."""
        ...

    def memory(self, size_bytes: int) -> Memory:
        """Allocate memory on the GPU.

        Raises:
            OutOfMemory: the GPU is out of memory; a smaller request may succeed.
        """
        ...

    def pinned_memory(self, size_bytes: int) -> PinnedMemory: ...

    def stream(self) -> Stream: ...

    def default_stream(self) -> Stream:
        """Return the stream that FFmpeg uses; streams from `stream` do not wait for it."""
        ...

    def event(self) -> Event: ...

    def upload(self, source: NDArray[Any], target: int, stream: Stream) -> None:
        """Copy an array to an address on the GPU; asynchronous if the array is pinned."""
        ...

    def download(self, source: int, target: NDArray[Any], stream: Stream) -> None: ...

    def kernel(self, image: bytes, name: str, shared_bytes: int = 0) -> Kernel:
        """Load a kernel from a cubin or PTX; each block gets `shared_bytes` of dynamic memory."""
        ...

    def recording(self, stream: Stream) -> AbstractContextManager[Graph]:
        """Record the work that the body puts into the stream, as a graph to launch later."""
        ...


class Buffers:
    """GPU memory and pinned host memory that is freed together."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._owned: list[Memory | PinnedMemory] = []

    def memory(self, size_bytes: int) -> int:
        """Allocate memory on the GPU and return its address."""
        memory = self._cuda.memory(size_bytes)
        self._owned.append(memory)
        return memory.address

    def pinned(self, shape: Sequence[int]) -> NDArray[np.uint8]:
        """Allocate a uint8 array in pinned host memory."""
        pinned = self._cuda.pinned_memory(math.prod(shape))
        self._owned.append(pinned)
        return pinned.array.reshape(shape)

    def close(self) -> None:
        while self._owned:
            self._owned.pop().close()


def open_cuda() -> Cuda:
    """Open the first GPU through the first binding that is installed.

    Raises:
        ExtraMissing: no binding is installed.
        ResourcesExhausted: there is no driver or no GPU, or the binding cannot be loaded.
    """
    for package, module in BINDINGS.items():
        if _is_installed(package):
            try:
                binding = importlib.import_module(module)
            except ImportError as error:
                raise ResourcesExhausted(
                    f"{package} is installed but cannot be loaded ({error}); repair it, or remove "
                    "it to use another binding: pip uninstall pycuda"
                ) from None
            opened: Cuda = binding.open_device()
            return opened
    raise ExtraMissing("cuda-core", "srgan-edge[rtx]", "using the GPU")


def failure_of(name: str) -> SrganEdgeError:
    """Return the exception for a driver error such as `CUDA_ERROR_OUT_OF_MEMORY`."""
    words = name.removeprefix("CUDA_ERROR_").lower().replace("_", " ")
    if name == "CUDA_ERROR_OUT_OF_MEMORY":
        return OutOfMemory()
    if name in ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_DEVICES_UNAVAILABLE"):
        return ResourcesExhausted(f"no usable GPU: {words}; for details type: srgan-edge doctor")
    return EngineLost(f"the GPU failed: {words}; if this happens again, restart the machine")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of its parent package
        return False
