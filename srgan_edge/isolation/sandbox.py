"""Drop a process's rights before it reads an untrusted file: memory, files, network, outliving us.

All of these kernel limits work without privileges: resource limits (setrlimit(2)), death with the
parent (prctl(2)) and, where the kernel has it, Landlock
(https://docs.kernel.org/userspace-api/landlock.html). The process can then read only that file and
its own libraries; it can write to nothing, run nothing and connect to nothing.
"""

import ctypes
import os
import re
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MAX_OPEN_FILES = 64

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_RULE_PATH_BENEATH = 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of file access rights that each version of the Landlock ABI knows."""

_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent_id: int) -> None:
    """Let the kernel kill this process when the thread that started it ends.

    `parent_id` is the parent's process ID; the parent may have ended before this is called.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_id:
        os.kill(os.getpid(), signal.SIGKILL)


def limit_resources(memory_bytes: int, *, writes: bool = False) -> None:
    """Allow `memory_bytes` more address space than now, few open files, and no writing to them.

    If memory runs out all the same, the kernel kills this process before others.
    """
    address_space = _mapped_bytes() + memory_bytes
    for limit, value in [
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, resource.RLIM_INFINITY if writes else 0),
        (resource.RLIMIT_CORE, 0),
    ]:
        _, hard = resource.getrlimit(limit)
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowest, lowest))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def keep_to_files(readable: Iterable[Path], writable: Path | None = None) -> bool:
    """Give up the network and the file system, except for reading `readable` and Python itself.

    Everything stays allowed in the folder `writable`. Returns False, and does nothing, if the
    kernel has no Landlock.
    """
    version = landlock_version()
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    # Version 1 covers files, version 4 TCP, version 6 signals and sockets to other processes.
    size = 8 if version < 4 else 16 if version < 6 else 24
    handled = struct.pack("=QQQ", rights, 0b11, 0b11)[:size]
    ruleset = _libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if ruleset < 0:
        return False
    try:
        for path in {*readable, *_libraries()}:
            _allow(ruleset, path, _READ_FILE | (_READ_DIR if path.is_dir() else 0))
        if writable is not None:
            _allow(ruleset, writable, rights)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(_libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock ABI; below 1 if it has none or it is off."""
    ask_version = 1
    return int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ask_version))


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a missing path needs no rule
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        _libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _libraries() -> set[Path]:
    """Return the folders that Python and the loader may still load from.

    `sys.path` is not among them, as it may contain the working folder.
    """
    packages = (getattr(module, "__path__", ()) for module in list(sys.modules.values()))
    folders = {sys.prefix, sys.base_prefix, *(entry for path in packages for entry in path)}
    mapped = re.findall(r"(/.*\.so[\d.]*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    beside = {Path(library).parent for library in mapped}
    return {*beside, *map(Path, folders), Path("/etc/ld.so.cache")}


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
