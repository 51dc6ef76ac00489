"""The GPU as its driver describes it, asked of a library that a C compiler makes here; memory."""

import gc
import resource
import shutil
import subprocess

import pytest

from srgan_edge.machine import Gpu, host_memory_bytes, without_collections

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 7 ? "NVIDIA Thor" : "another", length);
    return 0;
}
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 16 ? 20 : which == 75 ? 11 : which == 76 ? 0 : -1;
    return 0;
}
"""


@pytest.fixture
def driver(tmp_path):
    """Compile a libcuda whose cuInit returns a number."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def driver(init):
        source, library = tmp_path / "cuda.c", tmp_path / f"libcuda{init}.so"
        source.write_text(DRIVER.replace("INIT", str(init)))
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
        return str(library)

    return driver


def test_a_gpu_is_described(driver):
    gpu = Gpu.find(driver(init=0))
    assert gpu == Gpu("NVIDIA Thor", 20, "11.0", "13.1")
    assert str(gpu) == "NVIDIA Thor, 20 multiprocessors"


def test_a_driver_that_does_not_start_has_no_gpu(driver):
    assert Gpu.find(driver(init=100)) is None


def test_without_a_driver_there_is_no_gpu(tmp_path):
    assert Gpu.find(str(tmp_path / "libcuda.so.1")) is None


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": "1000\n"}, 1000),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "3000\n"}, 3000),
        ("0::/a/b\n", {"a/b/memory.max": "2000\n", "a/memory.max": "3000\n"}, 2000),
        ("0::/../elsewhere\n", {"memory.max": "4000\n"}, 4000),
        (
            "5:cpu:/x\n4:memory:/x\n0::/\n",
            {"memory/x/memory.limit_in_bytes": "5000\n", "cpu/x/memory.limit_in_bytes": "1\n"},
            5000,
        ),
        ("", {}, None),
    ],
)
def test_memory_is_that_of_the_innermost_limit(tmp_path, groups, files, limit):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    unlimited = host_memory_bytes(tmp_path / "nowhere")
    assert unlimited > 100 << 20
    assert host_memory_bytes(tmp_path) == (limit or unlimited)


def test_a_limit_on_addresses_limits_memory(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (7000, 9000))
    assert host_memory_bytes() == 7000


def test_garbage_is_collected_again_after_the_body():
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled()
