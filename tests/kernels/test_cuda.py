"""The launcher and the engines that use it, through both bindings, on a driver built by g++.

Each runs in its own process, so that later CUDA users do not find the driver without a GPU.
"""

import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from srgan_edge.errors import ResourcesExhausted
from srgan_edge.kernels import cuda

HERE = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The folder of a libcuda.so.1 for LD_LIBRARY_PATH, with what pycuda wants besides."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("driver")
    sources = [HERE / "fake_driver.cpp", _missing_calls(folder)]
    options = ["-O1", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wl,-soname,libcuda.so.1"]
    output = folder / "libcuda.so.1"
    subprocess.run(["g++", *options, "-o", output, *sources, "-ldl"], check=True)
    return folder


def _missing_calls(folder):
    """The calls that pycuda is linked against, and that no check makes: they say not supported."""
    found = importlib.util.find_spec("pycuda") and importlib.util.find_spec("pycuda._driver")
    wanted = set()
    if found and shutil.which("nm") is not None:
        listed = subprocess.run(["nm", "-D", found.origin], capture_output=True, text=True)
        words = [line.split() for line in listed.stdout.splitlines()]
        wanted = {it[-1] for it in words if it[0] == "U" and re.fullmatch(r"cu[A-Z]\w*", it[-1])}
    known = (HERE / "fake_driver.cpp").read_text()
    path = folder / "missing.cpp"
    missing = sorted(name for name in wanted if f" {name}(" not in known)
    path.write_text("".join(f'extern "C" int {name}() {{ return 801; }}\n' for name in missing))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "checks"),
    [
        *product(cuda.BINDINGS, ["cuda_checks.py", "tensorrt_checks.py"]),
        ("cuda.bindings", "torch_checks.py"),
    ],
)
def test_gpu_checks_pass_on_the_fake_driver(driver, package, checks):
    if not cuda._is_installed(package):
        pytest.skip(f"{package} is not installed")
    # pycuda wants libcurand, which comes with PyTorch.
    wheels = [path for root in site.getsitepackages() for path in Path(root).glob("nvidia/*/lib")]
    environment = {
        "LD_LIBRARY_PATH": ":".join(map(str, [driver, *wheels])),
        "SRGAN_EDGE_FAKE_DRIVER": str(driver / "libcuda.so.1"),
        "SRGAN_EDGE_BINDING": package,
    }
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / checks],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env=os.environ | environment,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout


def test_a_binding_that_cannot_be_loaded_is_reported(monkeypatch):
    monkeypatch.setattr(cuda, "BINDINGS", {"pytest": "srgan_edge.kernels.absent"})
    with pytest.raises(
        ResourcesExhausted, match=r"pytest is installed but cannot be loaded .*repair"
    ):
        cuda.open_cuda()


def test_without_a_binding_the_error_names_the_package(monkeypatch):
    monkeypatch.setattr(cuda, "_is_installed", lambda package: False)
    with pytest.raises(cuda.ExtraMissing, match=r"pip install 'srgan-edge\[rtx\]'"):
        cuda.open_cuda()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Failed to dlopen libcuda.so.1", "no NVIDIA driver here; install one, or upscale with"),
        ('Function "cuInit" not found', "the NVIDIA driver is too old; update it, or upscale with"),
    ],
)
def test_a_driver_that_is_absent_or_too_old(monkeypatch, said, told):
    """The error has the form of the bindings' own."""
    bindings = pytest.importorskip("srgan_edge.kernels.cuda_bindings")

    def cuInit(flags):
        raise RuntimeError(said)

    monkeypatch.setattr(bindings.driver, "cuInit", cuInit)
    with pytest.raises(ResourcesExhausted, match=told) as refused:
        bindings.open_device()
    assert refused.value.exit_code == 7
