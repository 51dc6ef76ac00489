"""The first CUDA GPU of this machine, as its driver describes it: no CUDA toolkit, no PyTorch."""

import ctypes
import importlib.metadata
from dataclasses import dataclass
from typing import Self

LIBRARY = "libcuda.so.1"

NOT_HERE = "there is no NVIDIA GPU here, or no driver for it"
"""What to say where `Gpu.find` finds none."""

_BLOCKING_SYNC = 4
"""`CU_CTX_SCHED_BLOCKING_SYNC`: who waits for the GPU sleeps."""

_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
"""Of the attributes of a device, in cuda.h."""


@dataclass(frozen=True)
class Gpu:
    """What an engine built for one GPU depends on."""

    name: str
    multiprocessors: int
    compute_capability: str
    """As `8.9`."""
    driver: str
    """The CUDA version that the driver implements, as `13.0`."""

    @classmethod
    def find(cls, library: str = LIBRARY) -> Self | None:
        """The GPU that CUDA calls number 0; None without a driver or a GPU."""
        try:
            cuda = ctypes.CDLL(library)
        except OSError:
            return None
        number, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)

        def attribute(which: int) -> int:
            cuda.cuDeviceGetAttribute(ctypes.byref(number), which, device)
            return number.value

        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
            return None
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDriverGetVersion(ctypes.byref(number))
        major, minor = divmod(number.value // 10, 100)
        return cls(
            name.value.decode(),
            attribute(_MULTIPROCESSORS),
            f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
            f"{major}.{minor}",
        )

    def __str__(self) -> str:
        return f"{self.name}, {self.multiprocessors} multiprocessors"


def gpu_memory_bytes(index: int, library: str = LIBRARY) -> int | None:
    """All of a GPU's memory, be it free or not; None without a driver or such a GPU."""
    device, size_bytes = ctypes.c_int(), ctypes.c_size_t()
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return None
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), index):
        return None
    if cuda.cuDeviceTotalMem_v2(ctypes.byref(size_bytes), device):
        return None
    return size_bytes.value


def share_primary_context(library: str = LIBRARY) -> bool:
    """Let the first GPU's primary context be one that FFmpeg takes; False if it cannot be.

    FFmpeg takes only one whose waiters sleep. Somebody may have opened it otherwise before, as
    PyTorch does.
    """
    flags, is_active = ctypes.c_uint(), ctypes.c_int()
    try:
        cuda = ctypes.CDLL(library)
        state = cuda.cuDevicePrimaryCtxGetState
        set_flags = cuda.cuDevicePrimaryCtxSetFlags_v2
    except (OSError, AttributeError):  # no driver, or one from before CUDA 11
        return False
    if cuda.cuInit(0) or state(0, ctypes.byref(flags), ctypes.byref(is_active)):
        return False
    if is_active.value:
        return flags.value == _BLOCKING_SYNC
    return bool(set_flags(0, _BLOCKING_SYNC) == 0)


def installed_version(distribution: str) -> str | None:
    """The version of a distribution as pip knows it; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


ACTIVATION_BUDGET_BYTES = 512 << 20
"""On a CPU, and the least on a GPU: see `activation_budget_bytes`."""


def activation_budget_bytes(device: str) -> int:
    """What `--tile auto` lets the network's intermediate values take, in all slots together.

    Of a GPU a quarter, however much of it is free: the same video is cut alike every time.
    """
    family, _, index = device.partition(":")
    memory_bytes = gpu_memory_bytes(int(index or 0)) if family == "cuda" else None
    return max(ACTIVATION_BUDGET_BYTES, (memory_bytes or 0) // 4)
