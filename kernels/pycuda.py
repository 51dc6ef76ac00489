"""The GPU through pycuda, which is compiled during its installation and does not support graphs.

Graphs use five calls of the driver itself. Kernels are loaded as cubin or PTX: to compile sources,
pycuda would need nvcc on the machine that runs them.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycuda
import pycuda.driver as driver
from numpy.typing import NDArray

from srgan_edge.errors import SrganEdgeError
from srgan_edge.kernels.cuda import Argument, failure_of

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL."""
NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream."""


def open_device() -> "PyCuda":
    """Open the first GPU.

    Raises:
        ResourcesExhausted: there is no driver or no GPU.
    """
    with _own_errors():
        driver.init()
        # Not `autoinit`, which creates its own context instead of the one that TensorRT uses.
        return PyCuda(driver.Device(0).retain_primary_context())


class PyCuda:
    """`Cuda` through `pycuda.driver`."""

    def __init__(self, context: Any) -> None:  # noqa: ANN401 - an object of pycuda
        self._context = context
        self._library = ctypes.CDLL("libcuda.so.1")
        self.binding = f"pycuda {pycuda.VERSION_TEXT}"

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            with _own_errors():
                yield
        finally:
            self._context.pop()

    def memory(self, size_bytes: int) -> "_Memory":
        return _Memory(size_bytes)

    def pinned_memory(self, size_bytes: int) -> "_PinnedMemory":
        return _PinnedMemory(size_bytes)

    def stream(self) -> "_Stream":
        return _Stream(driver.Stream(NON_BLOCKING))

    def default_stream(self) -> "_Stream":
        return _Stream(None)

    def event(self) -> "_Event":
        return _Event()

    def upload(self, source: NDArray[Any], target: int, stream: "_Stream") -> None:
        driver.memcpy_htod_async(target, source, stream.stream)

    def download(self, source: int, target: NDArray[Any], stream: "_Stream") -> None:
        driver.memcpy_dtoh_async(target, source, stream.stream)

    def kernel(self, image: bytes, name: str, shared_bytes: int = 0) -> "_Kernel":
        return _Kernel(driver.module_from_buffer(image), name, shared_bytes)

    @contextmanager
    def recording(self, stream: "_Stream") -> Iterator["_Graph"]:
        graph = _Graph(self._library)
        self._ask("cuStreamBeginCapture_v2", ctypes.c_void_p(stream.handle), THREAD_LOCAL)
        recorded = ctypes.c_void_p()
        try:
            yield graph
        finally:  # or the stream would record forever
            handle = ctypes.c_void_p(stream.handle)
            self._ask("cuStreamEndCapture", handle, ctypes.byref(recorded))
        self._ask(
            "cuGraphInstantiateWithFlags",
            ctypes.byref(graph.executable),
            recorded,
            ctypes.c_ulonglong(0),
        )
        self._ask("cuGraphDestroy", recorded)

    def _ask(self, call: str, *arguments: Any) -> None:  # noqa: ANN401 - of ctypes
        ask(self._library, call, *arguments)


class _Memory:
    def __init__(self, size_bytes: int) -> None:
        with _own_errors():  # translated here, so that callers can request less
            self._allocation = driver.mem_alloc(size_bytes)
        self.address = int(self._allocation)

    def close(self) -> None:
        self._allocation.free()


class _PinnedMemory:
    def __init__(self, size_bytes: int) -> None:
        with _own_errors():
            self.array: NDArray[np.uint8] = driver.pagelocked_empty(size_bytes, np.uint8)

    def close(self) -> None:
        self.array.base.free()  # type: ignore[union-attr]


class _Stream:
    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - an object of pycuda
        self.stream = stream
        self.handle: int = 0 if stream is None else stream.handle

    def synchronize(self) -> None:
        if self.stream is None:  # pycuda can only wait for all streams at once
            driver.Context.synchronize()
        else:
            self.stream.synchronize()

    def wait_for(self, event: "_Event") -> None:
        self.stream.wait_for_event(event.event)


class _Event:
    def __init__(self) -> None:
        self.event = driver.Event(driver.event_flags.BLOCKING_SYNC)  # see cuda_bindings.py

    def record(self, stream: _Stream) -> None:
        self.event.record(stream.stream)

    def synchronize(self) -> None:
        self.event.synchronize()

    def milliseconds_since(self, earlier: "_Event") -> float:
        return float(self.event.time_since(earlier.event))


class _Graph:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.executable = ctypes.c_void_p()

    def launch(self, stream: _Stream) -> None:
        ask(self._library, "cuGraphLaunch", self.executable, ctypes.c_void_p(stream.handle))


class _Kernel:
    def __init__(self, module: Any, name: str, shared_bytes: int) -> None:  # noqa: ANN401 - of pycuda
        self._module = module  # unloads itself when collected
        self._function, self._shared_bytes = module.get_function(name), shared_bytes
        if shared_bytes:
            most = driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._function.set_attribute(most, shared_bytes)

    def __call__(
        self,
        blocks: Sequence[int],
        threads: Sequence[int],
        arguments: Sequence[Argument],
        stream: _Stream,
    ) -> None:
        values = [np.uint64(it) if isinstance(it, int) else it for it in arguments]
        self._function(
            *values,
            grid=(*blocks, 1, 1)[:3],
            block=(*threads, 1, 1)[:3],
            stream=stream.stream,
            shared=self._shared_bytes,
        )


def ask(library: ctypes.CDLL, call: str, *arguments: Any) -> None:  # noqa: ANN401 - of ctypes
    """Call a function of the driver.

    Raises:
        OutOfMemory, ResourcesExhausted, EngineLost: the call failed.
    """
    if code := getattr(library, call)(*arguments):
        name = ctypes.c_char_p()
        library.cuGetErrorName(code, ctypes.byref(name))
        raise failure_of((name.value or b"CUDA_ERROR_UNKNOWN").decode())


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except driver.Error as error:
        raise _failure(error) from None


def _failure(error: Exception) -> SrganEdgeError:
    """Translate an error of pycuda, which only has texts for all but memory: `cuX failed: ...`."""
    if isinstance(error, driver.MemoryError):
        return failure_of("CUDA_ERROR_OUT_OF_MEMORY")
    words = str(error).partition("failed: ")[2] or str(error)
    if "no CUDA-capable device" in words or "no device" in words:
        return failure_of("CUDA_ERROR_NO_DEVICE")
    return failure_of(f"CUDA_ERROR_{words}")
