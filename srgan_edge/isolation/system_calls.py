"""The system calls that are left to a process that reads untrusted files (seccomp(2)).

Landlock (`sandbox`) limits which files can be opened and, from newer kernels on, TCP. A process
could still change modes and times of the user's files, connect to UNIX sockets, reach the network
by MPTCP, or leave another process behind. So everything that decoding does not need is answered
as by a kernel that lacks it (ENOSYS): libraries are prepared for that, and new system calls of
future kernels are not there either.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Machine -> AUDIT_ARCH of linux/audit.h."""

_READING = (
    *("read", "pread64", "readv", "preadv", "lseek", "close", "dup", "fadvise64", "fcntl", "ioctl"),
    *("fstat", "newfstatat", "statx", "stat", "lstat", "access", "faccessat", "faccessat2"),
    *("getdents64", "getcwd", "readlink", "readlinkat", "open", "openat"),
    *("poll", "ppoll", "select", "pselect6"),
    *("sendto", "recvfrom", "sendmsg", "recvmsg"),  # on the one socket there is: none can be made
    *("brk", "mmap", "munmap", "mprotect", "mremap", "madvise"),
    *("clone", "futex", "set_robust_list", "rseq", "set_tid_address", "membarrier", "gettid"),
    *("sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "getcpu"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("tgkill", "kill", "exit", "exit_group", "prctl", "prlimit64"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time"),
    *("getpid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getrandom", "getrusage"),
    *("uname", "sysinfo", "times"),
)

_WRITING = (
    *("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2"),
)

NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "access": (21, None),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "clone": (56, 220),
    "close": (3, 57),
    "dup": (32, 23),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fadvise64": (221, 223),
    "fallocate": (285, 47),
    "fcntl": (72, 25),
    "fdatasync": (75, 83),
    "fstat": (5, 80),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "futex": (202, 98),
    "getcpu": (309, 168),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "lseek": (8, 62),
    "lstat": (6, None),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "open": (2, None),
    "openat": (257, 56),
    "poll": (7, None),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "prlimit64": (302, 261),
    "pselect6": (270, 72),
    "pwrite64": (18, 68),
    "pwritev": (296, 70),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_yield": (24, 124),
    "select": (23, None),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "sigaltstack": (131, 132),
    "stat": (4, None),
    "statx": (332, 291),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "time": (201, None),
    "times": (100, 153),
    "uname": (63, 160),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "write": (1, 64),
    "writev": (20, 66),
}
"""System call -> its number on x86_64 and on aarch64; None: it does not exist there."""

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ACTION_AVAILABLE, _FILTER_FLAG_TSYNC = 1, 2, 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # of 32-bit words
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.ENOSYS, 0x80000000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # in seccomp_data

Instruction = tuple[int, int, int, int]
"""Code, places to jump ahead if true and if false, and constant."""


@dataclass(frozen=True)
class Condition:
    """A condition on half of an argument."""

    argument: int
    values: tuple[int, ...] = ()
    """The argument is one of these, if there are any."""
    without: int = 0
    """None of these bits may be set."""
    needs: int = 0
    """This bit must be set."""
    upper: bool = False
    """The upper 32 bits are meant, which the kernel ignores in numbers, but not in addresses."""


_CLONE_THREAD = 0x10000
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FCNTL = (0, 1, 2, 3, 4, 1030)  # duplicate a descriptor, get and set its flags
_IOCTL = (0x5401, 0x5451)  # is it a terminal? close it in programs
_PRCTL = (15, 16, 0x53564D41)  # names of threads and of memory


def conditions(process_id: int, *, writes: bool) -> dict[str, tuple[Condition, ...]]:
    """Return what the arguments of the system calls must be that are not allowed without."""
    reads = () if writes else (Condition(2, without=_CHANGES),)
    return {
        "clone": (Condition(0, needs=_CLONE_THREAD),),  # a thread, but no process
        "kill": (Condition(0, values=(process_id,)),),
        "tgkill": (Condition(0, values=(process_id,)),),
        "prlimit64": (  # ask, but set nothing
            Condition(0, values=(0, process_id)),
            Condition(2, values=(0,)),
            Condition(2, values=(0,), upper=True),
        ),
        "fcntl": (Condition(1, values=_FCNTL),),  # and no owner, to whom signals would be sent
        "ioctl": (Condition(1, values=_IOCTL),),
        "prctl": (Condition(0, values=_PRCTL),),  # the child still dies with its parent
        "openat": reads,
        "open": tuple(Condition(1, without=one.without) for one in reads),
    }


def is_available() -> bool:
    """Return True if `keep_to_decoding` works on this machine."""
    machine = platform.machine()
    if machine not in _SECCOMP or struct.calcsize("P") != 8:
        return False
    action = ctypes.c_uint32(_REFUSE & 0x7FFF0000)
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.syscall(
        _SECCOMP[machine], _ACTION_AVAILABLE, ctypes.c_ulong(0), ctypes.byref(action)
    )
    return bool(answer == 0)


def keep_to_decoding(*, writes: bool = False) -> bool:
    """Give up every system call that decoding does not need; with `writes`, nor writing a file.

    Holds for all threads of this process, and for good. Returns False, and does nothing, on other
    machines than `ARCHITECTURES`, and if the kernel refuses the filter.
    """
    if not is_available():
        return False
    machine = platform.machine()
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in filter_program(machine, os.getpid(), writes=writes)
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    number, flags = _SECCOMP[machine], ctypes.c_ulong(_FILTER_FLAG_TSYNC)
    return bool(libc.syscall(number, _SET_MODE_FILTER, flags, header) == 0)


def filter_program(machine: str, process_id: int, *, writes: bool) -> list[Instruction]:
    """Return the filter as instructions of classic BPF (linux/filter.h).

    A call by the table of another architecture, such as that of 32-bit programs, kills.
    """
    which = list(ARCHITECTURES).index(machine)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    on_arguments = conditions(process_id, writes=writes)
    for name in (*_READING, *(_WRITING if writes else ())):
        number = NUMBERS[name][which]
        if number is not None:
            answer = [*_checks(on_arguments.get(name, ())), (_RETURN, 0, 0, _ALLOW)]
            program += [(_JUMP_EQUAL, 0, len(answer), number), *answer]
    return [*program, (_RETURN, 0, 0, _REFUSE)]


def _checks(wanted: tuple[Condition, ...]) -> Iterator[Instruction]:
    """Yield instructions that refuse the call unless every condition holds."""
    refuse: Instruction = (_RETURN, 0, 0, _REFUSE)
    for one in wanted:
        yield (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * one.argument + 4 * one.upper)
        for left, value in zip(range(len(one.values), 0, -1), one.values, strict=True):
            yield (_JUMP_EQUAL, left, 0, value)
        if one.values:
            yield refuse
        if one.without:
            yield from [(_JUMP_ANY_BIT, 0, 1, one.without), refuse]
        if one.needs:
            yield from [(_JUMP_ANY_BIT, 1, 0, one.needs), refuse]
