"""This machine: its memory, and its CUDA GPU, read from the driver without CUDA's toolkit."""

import ctypes
import gc
import os
import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from srgan_edge.errors import HostMemoryExhausted

LIBRARY = "libcuda.so.1"

NOT_HERE = "there is no NVIDIA GPU here, or no driver for it"
"""Error message for callers that need a GPU when `Gpu.find` returns None."""

MIN_ACTIVATION_BUDGET_BYTES = 256 << 20

_ARENA_MAX = -8
"""`M_ARENA_MAX` of malloc.h."""

_BLOCKING_SYNC = 4
"""`CU_CTX_SCHED_BLOCKING_SYNC`: a thread waiting for the GPU sleeps instead of spinning."""

_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
"""Numbers of device attributes in cuda.h."""


@dataclass(frozen=True)
class Gpu:
    """The properties of a GPU that an engine built for it depends on."""

    name: str
    multiprocessors: int
    compute_capability: str
    """For example `8.9`."""
    driver: str
    """CUDA version that the driver implements, for example `13.0`."""

    @classmethod
    def find(cls, library: str = LIBRARY) -> Self | None:
        """Return CUDA device 0, or None without a driver or a GPU."""
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
    """Return the GPU's total memory, free or used; None without a driver or such a GPU."""
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
    """Make the first GPU's primary context one that FFmpeg accepts; return False if impossible.

    FFmpeg accepts only a context with blocking synchronization. It cannot be changed once the
    context is open, for example by PyTorch.
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


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name as Linux reports it, or else its architecture."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the CPU's flags and vendor by their Linux names; empty on other systems."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = ("flags", "Features", "vendor_id")
    first = {line.split(":")[0].strip(): line.partition(":")[2] for line in reversed(lines)}
    return {word for name in names for word in first.get(name, "").split()}


@contextmanager
def without_collections() -> Iterator[None]:
    """Import libraries in the body without collecting garbage.

    What they make stays, so that collecting finds nothing, and takes a tenth of the start-up.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def installed_version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    from importlib.metadata import PackageNotFoundError, version  # takes 10 ms

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def activation_budget_bytes(device: str) -> int:
    """Return the memory that `--tile auto` allows for activations, in all slots together.

    A quarter of the GPU's total memory, or of the host memory that this process may use. It does
    not depend on what is free, so that a video is cut into the same tiles every time.
    """
    family, _, index = device.partition(":")
    memory_bytes = gpu_memory_bytes(int(index or 0)) if family == "cuda" else None
    return max(MIN_ACTIVATION_BUDGET_BYTES, (memory_bytes or host_memory_bytes()) // 4)


def host_memory_bytes(root: Path = Path("/")) -> int:
    """Return the host memory that this process may use at most, used or free.

    The smallest of the machine's memory, the limits of its control groups (containers, services)
    and `ulimit -v`. The files of control groups are read below `root`.
    """
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine_bytes, *_control_group_limits(root)]
    address_space_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space_bytes != resource.RLIM_INFINITY:
        limits.append(address_space_bytes)
    return min(limits)


def address_space_is_limited() -> bool:
    """Return True under `ulimit -v`."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def refuse_too_little(least_bytes: int) -> None:
    """Refuse to go on if `ulimit -v` leaves less address space than `least_bytes`.

    Raises:
        HostMemoryExhausted: it does.
    """
    if address_space_is_limited():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        used_bytes = pages * os.sysconf("SC_PAGE_SIZE")
        if resource.getrlimit(resource.RLIMIT_AS)[0] < used_bytes + least_bytes:
            raise HostMemoryExhausted


def address_space_was_short(least_bytes: int) -> bool:
    """Return True if `ulimit -v` ever left this process less address space than `least_bytes`."""
    if not address_space_is_limited():
        return False
    status = Path("/proc/self/status").read_text().splitlines()
    (peak_kib,) = (int(line.split()[1]) for line in status if line.startswith("VmPeak:"))
    return resource.getrlimit(resource.RLIMIT_AS)[0] < (peak_kib << 10) + least_bytes


def save_address_space() -> None:
    """Under `ulimit -v`, let all threads allocate from two arenas, as each reserves 64 MiB."""
    if address_space_is_limited():
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


def _control_group_limits(root: Path) -> Iterator[int]:
    """Yield the memory limits in bytes of this process's control groups and of those above them."""
    groups = ""
    with suppress(OSError):
        groups = (root / "proc/self/cgroup").read_text()
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            folder, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = folder / path.lstrip("/")
        for group in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # the group of another namespace, or "max"
                yield int((group / name).read_text())
            if group == folder:
                break
