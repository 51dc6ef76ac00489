"""The first CUDA GPU of this machine, as its driver describes it: no CUDA toolkit, no PyTorch."""

import ctypes
from dataclasses import dataclass
from typing import Self

LIBRARY = "libcuda.so.1"
NOT_HERE = "there is no NVIDIA GPU here, or no driver for it"
"""What to say where `Gpu.find` finds none."""

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
