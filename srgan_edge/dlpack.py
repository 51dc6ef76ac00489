"""Memory handed to another library, by DLPack, and the word that it is not needed any more.

https://dmlc.github.io/dlpack/latest/c_api.html, version 0.8: what PyAV takes.
"""

import ctypes
from collections.abc import Callable
from typing import Any

CPU, CUDA = 1, 2
"""`DLDeviceType`."""
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
    sample_bytes: int,
    device: int,
    release: Callable[[], None],
) -> object:
    """A capsule of a plane of unsigned samples, which has to be given to a consumer.

    Args:
        shape: rows and samples in each.
        device: `CPU` or `CUDA`, number 0.
        release: called once, when the consumer has no more need of it; must not raise.
    """
    sizes = (ctypes.c_int64 * 2)(*shape)
    strides = (ctypes.c_int64 * 2)(pitch_bytes // sample_bytes, 1)
    tensor = _Tensor(
        address,
        _Device(device, 0),
        2,
        _DataType(_UNSIGNED, 8 * sample_bytes, 1),
        sizes,
        strides,
        0,
    )
    managed = _ManagedTensor(tensor, None, _deleter)
    at = ctypes.addressof(managed)
    _lent[at] = (managed, sizes, strides, release)
    return _new_capsule(at, b"dltensor", None)
