"""The GPU through NVIDIA's own bindings, which come with cuda-core and as wheels."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from cuda.bindings import driver
from numpy.typing import NDArray

from srgan_edge.errors import ResourcesExhausted
from srgan_edge.kernels.cuda import Argument, failure_of

_Sizes = tuple[int, int, int]
_NO_DRIVER = "no NVIDIA driver here; install one"


def open_device() -> "CudaBindings":
    """Open the first GPU.

    Raises:
        ResourcesExhausted: there is no driver or no GPU.
    """
    try:
        _ask(driver.cuInit(0))
        device = _ask(driver.cuDeviceGet(0))
        return CudaBindings(_ask(driver.cuDevicePrimaryCtxRetain(device)))
    except RuntimeError as error:  # raised if the driver, or a function of it, is missing
        is_old = str(error).startswith("Function ")
        missing = "the NVIDIA driver is too old; update it" if is_old else _NO_DRIVER
        raise ResourcesExhausted(
            f"{missing}, or upscale with another engine; to list them type: srgan-edge doctor"
        ) from None


class CudaBindings:
    """`Cuda` through `cuda.bindings.driver`, mostly one call per method."""

    def __init__(self, context: Any) -> None:  # noqa: ANN401 - a handle of the bindings
        self._context = context
        self.binding = f"cuda-bindings {version('cuda-bindings')}"

    @contextmanager
    def current(self) -> Iterator[None]:
        _ask(driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            _ask(driver.cuCtxPopCurrent())

    def memory(self, size_bytes: int) -> "_Memory":
        return _Memory(size_bytes)

    def pinned_memory(self, size_bytes: int) -> "_PinnedMemory":
        return _PinnedMemory(size_bytes)

    def stream(self) -> "_Stream":
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING  # does not wait for the default stream
        return _Stream(int(_ask(driver.cuStreamCreate(flags))))

    def default_stream(self) -> "_Stream":
        return _Stream(0)

    def stream_at(self, handle: int) -> "_Stream":
        """Wrap a stream that belongs to the caller; it is not destroyed here."""
        return _Stream(handle)

    def event(self) -> "_Event":
        return _Event()

    def upload(self, source: NDArray[Any], target: int, stream: "_Stream") -> None:
        _ask(driver.cuMemcpyHtoDAsync(target, source.ctypes.data, source.nbytes, stream.handle))

    def download(self, source: int, target: NDArray[Any], stream: "_Stream") -> None:
        _ask(driver.cuMemcpyDtoHAsync(target.ctypes.data, source, target.nbytes, stream.handle))

    def kernel(self, image: bytes, name: str, shared_bytes: int = 0) -> "_Kernel":
        return _Kernel(image, name, shared_bytes)

    def overlapping_kernel(self, image: bytes, name: str, shared_bytes: int) -> "_Kernel":
        """Load a kernel that starts while the previous one ends; the kernel itself has to wait.

        It needs compute capability 9.0 or higher: `griddepcontrol` in PTX.
        """
        return _OverlappingKernel(image, name, shared_bytes)

    @contextmanager
    def recording(self, stream: "_Stream") -> Iterator["_Graph"]:
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        graph = _Graph()
        _ask(driver.cuStreamBeginCapture(stream.handle, mode))
        try:
            yield graph
        finally:  # or the stream would record forever
            recorded = _ask(driver.cuStreamEndCapture(stream.handle))
        graph.executable = _ask(driver.cuGraphInstantiate(recorded, 0))
        _ask(driver.cuGraphDestroy(recorded))


class _Memory:
    def __init__(self, size_bytes: int) -> None:
        self.address = int(_ask(driver.cuMemAlloc(size_bytes)))

    def close(self) -> None:
        _ask(driver.cuMemFree(self.address))


class _PinnedMemory:
    def __init__(self, size_bytes: int) -> None:
        self._address = int(_ask(driver.cuMemHostAlloc(size_bytes, 0)))
        content = (ctypes.c_uint8 * size_bytes).from_address(self._address)
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(content)

    def close(self) -> None:
        _ask(driver.cuMemFreeHost(self._address))


class _Stream:
    def __init__(self, handle: int) -> None:
        self.handle = handle

    def synchronize(self) -> None:
        _ask(driver.cuStreamSynchronize(self.handle))

    def wait_for(self, event: "_Event") -> None:
        _ask(driver.cuStreamWaitEvent(self.handle, event.event, 0))


class _Event:
    def __init__(self) -> None:
        # A waiting thread sleeps: FFmpeg needs the CPU cores.
        flags = driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC
        self.event = _ask(driver.cuEventCreate(flags))

    def record(self, stream: _Stream) -> None:
        _ask(driver.cuEventRecord(self.event, stream.handle))

    def synchronize(self) -> None:
        _ask(driver.cuEventSynchronize(self.event))

    def milliseconds_since(self, earlier: "_Event") -> float:
        return float(_ask(driver.cuEventElapsedTime(earlier.event, self.event)))


class _Graph:
    executable: Any = None

    def launch(self, stream: _Stream) -> None:
        _ask(driver.cuGraphLaunch(self.executable, stream.handle))


class _Kernel:
    def __init__(self, image: bytes, name: str, shared_bytes: int) -> None:
        module = _ask(driver.cuModuleLoadData(image))
        self._function = _ask(driver.cuModuleGetFunction(module, name.encode()))
        self._shared_bytes = shared_bytes
        if shared_bytes:
            most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _ask(driver.cuFuncSetAttribute(self._function, most, shared_bytes))

    def __call__(
        self,
        blocks: Sequence[int],
        threads: Sequence[int],
        arguments: Sequence[Argument],
        stream: _Stream,
    ) -> None:
        values = [_as_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(it) for it in values))
        self._put(_three(blocks), _three(threads), stream.handle, ctypes.addressof(pointers))

    def _put(self, blocks: _Sizes, threads: _Sizes, stream: int, arguments: int) -> None:
        shared = self._shared_bytes
        _ask(driver.cuLaunchKernel(self._function, *blocks, *threads, shared, stream, arguments, 0))


class _OverlappingKernel(_Kernel):
    def _put(self, blocks: _Sizes, threads: _Sizes, stream: int, arguments: int) -> None:
        may_begin = driver.CUlaunchAttribute()
        which = driver.CUlaunchAttributeID
        may_begin.id = which.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        may_begin.value.programmaticStreamSerializationAllowed = 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = blocks
        config.blockDimX, config.blockDimY, config.blockDimZ = threads
        config.sharedMemBytes, config.hStream = self._shared_bytes, stream
        config.attrs, config.numAttrs = [may_begin], 1
        _ask(driver.cuLaunchKernelEx(config, self._function, arguments, 0))


def _three(sizes: Sequence[int]) -> _Sizes:
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def _as_c(argument: Argument) -> Any:  # noqa: ANN401 - of ctypes
    """Convert an argument: a plain int is an address; numpy's scalars have a size."""
    if isinstance(argument, int):
        return ctypes.c_uint64(argument)
    kind: Any = np.ctypeslib.as_ctypes_type(argument.dtype)  # type: ignore[arg-type]
    return kind(argument.item())


def _ask(answer: tuple[Any, ...]) -> Any:  # noqa: ANN401 - whatever the call gives
    """Return the result of a driver call without its error code, or raise the error."""
    code, *result = answer
    if code != driver.CUresult.CUDA_SUCCESS:
        raise failure_of(code.name)
    return result[0] if result else None
