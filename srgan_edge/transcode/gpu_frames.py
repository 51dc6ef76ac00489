"""FFmpeg frames in GPU memory: those that NVDEC returns, and memory for those that NVENC takes.

NVENC takes one address and one pitch, so the chroma of a frame begins where its luma ends. An
encoder holds frames for a while, as B-frames are coded later; their memory is reused once it lets
go of them. PyAV takes frames by DLPack 0.8, https://dmlc.github.io/dlpack/latest/c_api.html.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Self

from av.video.frame import CudaContext, VideoFrame

from srgan_edge.engines.canvas import Planes
from srgan_edge.kernels.cuda import Cuda, Memory

CPU, CUDA = 1, 2
"""Devices in DLPack, `DLDeviceType`."""

_UNSIGNED = 1  # `DLDataTypeCode`
_PITCH_BYTES = 256
_PLANES = 2


def planes_of(frame: VideoFrame) -> Planes:
    """Return the addresses and pitches of a frame in NV12, valid as long as the frame exists."""
    assert (frame.sw_format or frame.format).name == "nv12"
    luma, chroma = frame.planes
    return Planes(luma.buffer_ptr, luma.line_size, chroma.buffer_ptr, chroma.line_size)


class FramePool:
    """GPU memory for frames of one size: for as many as are in use at a time, and one more."""

    def __init__(self, cuda: Cuda, size: tuple[int, int], *, device: int = CUDA) -> None:
        """
        Args:
            size: (width, height), both even.
            device: device of the memory of `cuda`: `CUDA`, or `CPU` in tests without a GPU.
        """
        self._cuda, self._size, self._device = cuda, size, device
        width, _ = size
        self._pitch = -(-width // _PITCH_BYTES) * _PITCH_BYTES
        self._context = CudaContext(0, primary_ctx=True) if device == CUDA else None
        self._free: list[Memory] = []
        self._all: list[Memory] = []
        self._changing = threading.RLock()  # releasing a frame may re-enter it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def take(self) -> tuple[VideoFrame, Planes]:
        """Return a frame, and the addresses to write its pixels to.

        Raises:
            OutOfMemory: the GPU is out of memory.
        """
        with self._changing:
            memory = self._free.pop() if self._free else None
        if memory is None:
            height = self._size[1]
            memory = self._cuda.memory(self._pitch * height * 3 // 2)
            self._all.append(memory)
        return self._frame_in(memory)

    def close(self) -> None:
        """Free the memory; frames that still exist must not be read any more."""
        while self._all:
            self._all.pop().close()

    def _frame_in(self, memory: Memory) -> tuple[VideoFrame, Planes]:
        width, height = self._size
        chroma = memory.address + self._pitch * height
        held = _PLANES

        def release() -> None:
            nonlocal held
            with self._changing:
                held -= 1
                if held == 0:
                    self._free.append(memory)

        def plane(address: int, rows: int) -> object:
            return _lend(address, (rows, width), self._pitch, self._device, release)

        where: dict[str, Any] = {} if self._context is None else {"cuda_context": self._context}
        frame = VideoFrame.from_dlpack(
            (plane(memory.address, height), plane(chroma, height // 2)), "nv12", **where
        )
        return frame, Planes(memory.address, self._pitch, chroma, self._pitch)


def _lend(
    address: int,
    shape: tuple[int, int],
    pitch_bytes: int,
    device: int,
    release: Callable[[], None],
) -> object:
    """Return a DLPack capsule of a plane of uint8 samples; it has to be passed to a consumer.

    Args:
        shape: number of rows, and of samples in each.
        device: `CPU` or `CUDA`, number 0.
        release: called once, when the consumer no longer needs the plane; must not raise.
    """
    sizes = (ctypes.c_int64 * 2)(*shape)
    strides = (ctypes.c_int64 * 2)(pitch_bytes, 1)
    data_type = _DataType(_UNSIGNED, 8, 1)
    tensor = _Tensor(address, _Device(device, 0), len(shape), data_type, sizes, strides, 0)
    managed = _ManagedTensor(tensor, None, _deleter)
    at = ctypes.addressof(managed)
    _lent[at] = (managed, sizes, strides, release)
    return _new_capsule(at, b"dltensor", None)


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("dimensions", ctypes.c_int32),
        ("data_type", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("owner", ctypes.c_void_p), ("deleter", _DELETER))


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

_lent: dict[int, tuple[Any, ...]] = {}
"""Objects to keep alive while a tensor is in use, and its `release`, by the tensor's address."""


def _take_back(address: int) -> None:
    """Run when the consumer releases a tensor, in one of the consumer's threads."""
    *_, release = _lent.pop(address)
    release()


_deleter = _DELETER(_take_back)
