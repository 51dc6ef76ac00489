"""What a decoder that was taken over can still ask of the kernel."""

import ctypes
import errno
import os
import platform
import re
import socket
import time
from pathlib import Path

import psutil
import pytest

from srgan_edge.isolation import sandbox
from srgan_edge.isolation.child import Child, ChildFailed
from srgan_edge.isolation.system_calls import (
    _ALLOW,
    _KILL,
    _REFUSE,
    ARCHITECTURES,
    NUMBERS,
    filter_program,
    is_available,
    keep_to_decoding,
)

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
FILTERED = pytest.mark.skipif(
    platform.machine() not in ARCHITECTURES or ctypes.sizeof(ctypes.c_void_p) != 8,
    reason="no filter for this machine",
)


def verdict(machine, name, *arguments, writes=False, architecture=None, number=None):
    """Run the filter as the kernel does, in a process with the number 77."""
    which = list(ARCHITECTURES).index(machine)
    known = NUMBERS[name][which] if number is None else number
    data = {0: known, 4: architecture or ARCHITECTURES[machine]}
    for place, argument in enumerate(arguments):
        data[16 + 8 * place] = argument & 0xFFFFFFFF
        data[20 + 8 * place] = argument >> 32
    program = filter_program(machine, 77, writes=writes)
    at, value = 0, 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        match code:
            case 0x20:
                value = data[constant]
            case 0x15:
                at += if_true if value == constant else if_false
            case 0x45:
                at += if_true if value & constant else if_false
            case 0x06:
                return {_ALLOW: True, _REFUSE: False, _KILL: "kill"}[constant]


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_arguments_decide(machine):
    def allowed(name, *arguments, writes=False):
        return verdict(machine, name, *arguments, writes=writes)

    assert allowed("read", 3, 0, 0) is True
    assert allowed("clone", 0x3D0F00) is True  # a thread of glibc
    assert allowed("clone", 0x11) is False  # a process: SIGCHLD
    assert allowed("clone", 0x10000011) is False  # a user namespace
    assert allowed("kill", 77, 9) is True
    assert allowed("kill", 76, 9) is False
    assert allowed("kill", 0xFFFFFFFFFFFFFFFF, 9) is False
    assert allowed("tgkill", 76, 76, 6) is False
    assert allowed("prlimit64", 0, 7, 0, 0x7FFF00000000) is True
    assert allowed("prlimit64", 0, 7, 0x7FFF00000000, 0) is False
    assert allowed("prlimit64", 76, 7, 0, 0x7FFF00000000) is False
    assert allowed("fcntl", 3, 3) is True
    assert allowed("fcntl", 3, 8, 76) is False  # F_SETOWN
    assert allowed("ioctl", 0, 0x5412, 0) is False  # TIOCSTI
    assert allowed("prctl", 1, 0) is False  # PR_SET_PDEATHSIG
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_RDWR | os.O_TMPFILE):
        assert allowed("openat", 0, 0, flags) is False
        assert allowed("openat", 0, 0, flags, writes=True) is True
    assert allowed("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) is True
    assert verdict(machine, "", number=425) is False  # io_uring_setup
    assert verdict(machine, "read", architecture=0x40000003) == "kill"  # 32-bit x86


def test_only_who_joins_may_write():
    for name in ("write", "ftruncate", "unlinkat", "renameat2"):
        number = NUMBERS[name][0]
        assert verdict("x86_64", name, number=number) is False
        assert verdict("x86_64", name, number=number, writes=True) is True


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_numbers_are_those_of_the_kernel(machine):
    if not HEADERS[machine].exists():
        pytest.skip("no headers of this kernel")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", HEADERS[machine].read_text())
    numbers = {name: int(number) for name, number in found}
    if machine == "aarch64":
        numbers["newfstatat"] = numbers.pop("fstatat")
    which = list(ARCHITECTURES).index(machine)
    assert {name: both[which] for name, both in NUMBERS.items()} == {
        name: numbers.get(name) for name in NUMBERS
    }


def test_other_machines_have_no_filter(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not is_available()
    assert not keep_to_decoding()


@FILTERED
@pytest.mark.slow
def test_nothing_but_decoding_is_left(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("secret")
    before = mine.stat()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "service"))
        server.listen()
        request = {"file": str(mine), "service": str(tmp_path / "service")}
        with Child("misbehaving:attack_the_kernel", request, 512 << 20, []) as child:
            answers = child.receive(20)
    if sandbox.landlock_version() < 1:
        answers.pop("read another")
    assert set(answers.values()) <= {errno.ENOSYS, errno.EACCES, errno.EPERM}, answers
    after = mine.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True])
def test_the_end_of_a_child_is_that_of_its_group(ends):
    """Where no filter forbids it, a child that was taken over can leave another one behind."""
    with Child("misbehaving_unfiltered:leave_another", {"ends": ends}, 512 << 20, []) as child:
        other = psutil.Process(child.receive(20)["left"])
        if ends:
            with pytest.raises(ChildFailed):  # the other one keeps the socket open
                child.receive(0.5)
    deadline = time.monotonic() + 20
    while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
