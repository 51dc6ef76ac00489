"""Drop a process's rights before it reads an untrusted file: memory, files, network, outliving us.

All of these kernel limits work without privileges: resource limits (setrlimit(2)), death with the
parent (prctl(2)) and, where the kernel has them, Landlock
(https://docs.kernel.org/userspace-api/landlock.html) and seccomp (`system_calls`). The process can
then read only the files that it was given and its own libraries; it can write to nothing, run
nothing, connect to nothing and leave nothing behind.
"""

import ctypes
import os
import re
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

MAX_OPEN_FILES = 64

MORE_THREADS = 4096
"""Threads that may be added to those of the whole machine, of whatever user."""

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE_FILE, _REMOVE_FILE, _MAKE_REGULAR, _TRUNCATE = 1 << 1, 1 << 5, 1 << 8, 1 << 14
_IN_FOLDER = _READ_FILE | _READ_DIR
_IN_WRITABLE = _IN_FOLDER | _WRITE_FILE | _REMOVE_FILE | _MAKE_REGULAR | _TRUNCATE  # no links
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
        (resource.RLIMIT_NPROC, _threads_of_the_machine() + MORE_THREADS),
    ]:
        _, hard = resource.getrlimit(limit)
        lowest = (
            min(value, hard) if resource.RLIM_INFINITY not in (value, hard) else max(value, hard)
        )
        resource.setrlimit(limit, (lowest, lowest))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def keep_to_files(
    files: Iterable[int], folder: int | None = None, writable: int | None = None
) -> bool:
    """Give up the network and the file system, except for reading some files and Python itself.

    The arguments are descriptors, so that no name can lead elsewhere in the meantime; any will do,
    also one opened with `O_PATH`.

    Args:
        files: may be read.
        folder: everything in it may be read.
        writable: regular files in it may be made, read, changed and removed, and nothing else.

    Returns False, and does nothing, if the kernel has no Landlock.
    """
    version = landlock_version()
    if version < 1:
        return False
    known = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    # Version 1 covers files, version 4 TCP, version 6 signals and sockets to other processes.
    size = 8 if version < 4 else 16 if version < 6 else 24
    handled = struct.pack("=QQQ", known, 0b11, 0b11)[:size]
    ruleset = _libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if ruleset < 0:
        return False
    try:
        for file in files:
            _allow(ruleset, file, _READ_FILE)
        if folder is not None:
            _allow(ruleset, folder, _IN_FOLDER)
        if writable is not None:
            _allow(ruleset, writable, _IN_WRITABLE & known)
            _allow_path(ruleset, Path("/proc/self/task"))  # an encoder's threads are looked up
        for path in _libraries():
            _allow_path(ruleset, path)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(_libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def landlock_version() -> int:
    """Return the version of the kernel's Landlock ABI; below 1 if it has none or it is off."""
    ask_version = 1
    return int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ask_version))


def _allow(ruleset: int, descriptor: int, rights: int) -> None:
    rule = struct.pack("=Qi", rights, descriptor)
    _libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)


def _allow_path(ruleset: int, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a missing path needs no rule
    try:
        _allow(ruleset, descriptor, _READ_FILE | (_READ_DIR if path.is_dir() else 0))
    finally:
        os.close(descriptor)


def _libraries() -> set[Path]:
    """Return the folders that Python and the loader may still load from.

    `sys.path` is not among them, as it may contain the working folder; nor is `sys.prefix`, as
    somebody's environment may be made in a folder of other things.
    """
    specs = (getattr(module, "__spec__", None) for module in list(sys.modules.values()))
    packages = (
        spec.submodule_search_locations or () for spec in specs if isinstance(spec, ModuleSpec)
    )
    installed = {
        sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    folders = {*installed, *(entry for path in packages for entry in path)}
    mapped = re.findall(r"(/.*\.so[\d.]*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    beside = {Path(library).parent for library in mapped}
    return {*beside, *map(Path, folders), Path("/etc/ld.so.cache")}


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _threads_of_the_machine() -> int:
    """Return the number of threads of all users; the kernel limits those of one."""
    _, _, _, threads, _ = Path("/proc/loadavg").read_text().split()
    return int(threads.partition("/")[2])
