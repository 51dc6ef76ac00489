"""Frames of FFmpeg in the memory of a GPU: where NVDEC's lie, and room for those NVENC takes.

NVENC is told one address and one pitch, so that the chroma of a frame begins where its luma ends.
An encoder holds frames for a while, as B-frames come later; room is used again once it lets go.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Self

from av.video.frame import CudaContext, VideoFrame

from srgan_edge.engines.canvas import Planes
from srgan_edge.kernels.cuda import Cuda, Memory

_PITCH_BYTES = 256


def planes_of(frame: VideoFrame) -> Planes:
    """Return the addresses of a frame in NV12, valid as long as somebody holds the frame."""
    assert (frame.sw_format or frame.format).name == "nv12"
    luma, chroma = frame.planes
    return Planes(luma.buffer_ptr, luma.line_size, chroma.buffer_ptr, chroma.line_size)


# Memory handed to another library, by DLPack, and the word that it is not needed any more.
#
# https://dmlc.github.io/dlpack/latest/c_api.html, version 0.8: what PyAV takes.
CPU, CUDA = 1, 2
"""`DLDeviceType`."""


class FramePool:
    """Room for frames of one size; as many as are held at a time, and one more."""

    def __init__(self, cuda: Cuda, size: tuple[int, int], *, device: int = CUDA) -> None:
        """
        Args:
            size: (width, height), both even.
            device: where the memory of `cuda` is in truth.
        """
        self._cuda, self._size, self._device = cuda, size, device
        width, _ = size
        self._pitch = -(-width // _PITCH_BYTES) * _PITCH_BYTES
        self._context = CudaContext(0, primary_ctx=True) if device == CUDA else None
        self._free: list[Memory] = []
        self._all: list[Memory] = []
        self._changing = threading.RLock()  # what frees a frame may come from within

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def take(self) -> tuple[VideoFrame, Planes]:
        """A frame, and where to write it.

        Raises:
            OutOfMemory: the GPU has no room for one more.
        """
        with self._changing:
            memory = self._free.pop() if self._free else None
        if memory is None:
            height = self._size[1]
            memory = self._cuda.memory(self._pitch * height * 3 // 2)
            self._all.append(memory)
        return self._frame_in(memory)

    def close(self) -> None:
        """Give the memory back; whoever has a frame of it must not look at it any more."""
        while self._all:
            self._all.pop().close()

    def _frame_in(self, memory: Memory) -> tuple[VideoFrame, Planes]:
        width, height = self._size
        chroma = memory.address + self._pitch * height
        held = 2  # planes

        def release() -> None:
            nonlocal held
            with self._changing:
                held -= 1
                if held == 0:
                    self._free.append(memory)

        def lent(address: int, rows: int) -> object:
            return lend(address, (rows, width), self._pitch, self._device, release)

        where: dict[str, Any] = {} if self._context is None else {"cuda_context": self._context}
        frame = VideoFrame.from_dlpack(
            (lent(memory.address, height), lent(chroma, height // 2)), "nv12", **where
        )
        return frame, Planes(memory.address, self._pitch, chroma, self._pitch)


_UNSIGNED = 1


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


class _ManagedTensor(ctypes.Structure):
    pass


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_ManagedTensor._fields_ = (
    ("tensor", _Tensor),
    ("owner", ctypes.c_void_p),
    ("deleter", _DELETER),
)

_new_capsule = ctypes.pythonapi.PyCapsule_New

_new_capsule.restype = ctypes.py_object

_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

_lent: dict[int, tuple[Any, ...]] = {}
"""By the address of a tensor: what has to stay as long as somebody has it, and its `release`."""


def _take_back(address: int) -> None:
    """Called by whoever has the tensor, in a thread of theirs."""
    *_, release = _lent.pop(address)
    release()


_deleter = _DELETER(_take_back)


def lend(
    address: int,
    shape: tuple[int, int],
    pitch_bytes: int,
    device: int,
    release: Callable[[], None],
) -> object:
    """Return a capsule of a plane of uint8 samples, which has to be given to a consumer.

    Args:
        shape: rows and samples in each.
        device: `CPU` or `CUDA`, number 0.
        release: called once, when the consumer has no more need of it; must not raise.
    """
    sizes = (ctypes.c_int64 * 2)(*shape)
    strides = (ctypes.c_int64 * 2)(pitch_bytes, 1)
    tensor = _Tensor(
        address,
        _Device(device, 0),
        2,
        _DataType(_UNSIGNED, 8, 1),
        sizes,
        strides,
        0,
    )
    managed = _ManagedTensor(tensor, None, _deleter)
    at = ctypes.addressof(managed)
    _lent[at] = (managed, sizes, strides, release)
    return _new_capsule(at, b"dltensor", None)
