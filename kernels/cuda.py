"""One CUDA GPU and the few things that are done with it, through pycuda or NVIDIA's own bindings.

Nothing else imports a binding. Both work in the primary context of device 0, which TensorRT and
PyTorch use too: objects of one are valid in the others. Nothing waits but what says so; what is put
into a stream is done in its order, later.
"""

import importlib
import importlib.util
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

Argument = int | np.generic
"""Of a kernel: an address, or a number of the type that the kernel declares."""


class Memory(Protocol):
    """Bytes on the GPU."""

    address: int

    def close(self) -> None:
        """Give them back; work in streams that uses them must have ended."""
        ...


class PinnedMemory(Protocol):
    """Bytes of this machine at a place that does not move, so that copies need no one's help."""

    array: NDArray[np.uint8]
    """uint8 [size], to be read and written here."""

    def close(self) -> None: ...


class Stream(Protocol):
    """Work that is done in its order."""

    handle: int
    """`CUstream`, as TensorRT takes it."""

    def synchronize(self) -> None:
        """Wait until all of it is done."""
        ...

    def wait_for(self, event: "Event") -> None:
        """What is put into it from now on waits, on the GPU, for a point in another stream."""
        ...


class Event(Protocol):
    """A point in a stream."""

    def record(self, stream: Stream) -> None: ...

    def synchronize(self) -> None:
        """Wait until the stream has got there, asleep: others have work for the processor."""
        ...

    def milliseconds_since(self, earlier: "Event") -> float:
        """On the GPU's clock; both must have been reached."""
        ...


class Graph(Protocol):
    """Recorded work, put into a stream as one piece."""

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
        """Put it into a stream: `blocks` of `threads` along x, y and z, missing ones being 1."""
        ...


class Cuda(Protocol):
    """The GPU. Every thread that uses it does so inside `current()`."""

    binding: str
    """The package, with its version."""

    def current(self) -> AbstractContextManager[None]:
        """Make the primary context that of this thread, as long as the body runs."""
        ...

    def memory(self, size_bytes: int) -> Memory:
        """
        Raises:
            OutOfMemory: the GPU has not that much left.
        """
        ...

    def pinned_memory(self, size_bytes: int) -> PinnedMemory: ...

    def stream(self) -> Stream: ...

    def default_stream(self) -> Stream:
        """The one that FFmpeg works in; those of `stream` do not wait for it by themselves."""
        ...

    def event(self) -> Event: ...

    def upload(self, source: NDArray[Any], target: int, stream: Stream) -> None:
        """Copy an array, pinned if it shall not wait, to an address on the GPU."""
        ...

    def download(self, source: int, target: NDArray[Any], stream: Stream) -> None: ...

    def kernel(self, image: bytes, name: str, shared_bytes: int = 0) -> Kernel:
        """A kernel of a cubin or PTX; each of its blocks gets so much shared memory besides."""
        ...

    def recording(self, stream: Stream) -> AbstractContextManager[Graph]:
        """What the body puts into the stream is recorded instead, to be launched afterwards."""
        ...


BINDINGS = {
    "pycuda": "srgan_edge.kernels.pycuda",
    "cuda.bindings": "srgan_edge.kernels.cuda_bindings",
}
"""By the package that has to be there: the module that uses it. pycuda comes first."""


def open_cuda() -> Cuda:
    """The first GPU, through the first binding that is installed.

    Raises:
        ExtraMissing: none is installed.
        ResourcesExhausted: no driver, no GPU, or a binding that cannot be loaded.
    """
    for package, module in BINDINGS.items():
        if _is_installed(package):
            try:
                binding = importlib.import_module(module)
            except ImportError as error:
                raise ResourcesExhausted(
                    f"{package} is installed and cannot be loaded ({error}); repair it, or remove "
                    "it for another binding to be taken: pip uninstall pycuda"
                ) from None
            opened: Cuda = binding.open_device()
            return opened
    raise ExtraMissing("cuda-core", "srgan-edge[rtx]", "using the GPU")


def failure_of(name: str) -> SrganEdgeError:
    """The error for a code of the driver, as `CUDA_ERROR_OUT_OF_MEMORY`."""
    words = name.removeprefix("CUDA_ERROR_").lower().replace("_", " ")
    if name == "CUDA_ERROR_OUT_OF_MEMORY":
        return OutOfMemory()
    if name in ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_DEVICES_UNAVAILABLE"):
        return ResourcesExhausted(f"no GPU to be used: {words}; srgan-edge doctor says more")
    return EngineLost(f"the GPU failed: {words}; if it says so again, restart the machine")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False
