"""The GPU as its driver describes it, asked of a library that a C compiler makes here."""

import shutil
import subprocess

import pytest

from srgan_edge.machine import Gpu

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
