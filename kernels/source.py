"""The CUDA sources of this folder, and what compiles them.

NVRTC compiles a source at run time, with `FOLDER` among its include paths; nvcc ahead of time, so
that the machine that runs a kernel needs no compiler. No source needs a header of CUDA.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from srgan_edge.errors import ExtraMissing, UsageError

FOLDER = Path(__file__).resolve().parent
"""Where the sources lie, and the headers that they include."""

BLOCK_THREADS = 256
"""The threads of a block, along x; `KERNEL` in portable.h promises no more."""

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "11.0", "12.0")
"""From Turing to Blackwell, Orin (8.7) and Thor (11.0) among them."""

OPTIONS = ("-std=c++17",)
"""That nvcc and NVRTC both take."""

KERNELS = {
    "nv12_to_rgb": "yuv420_to_rgb",
    "p010_to_rgb": "yuv420_to_rgb",
    "rgb_to_nv12": "rgb_to_yuv420",
    "rgb_to_p010": "rgb_to_yuv420",
    "tile_gather": "tile_gather",
    "tile_scatter": "tile_scatter",
    "tile_difference": "tile_difference",
    "color_sums": "color_lock",
    "color_missing": "color_lock",
    "color_shift": "color_lock",
    "bytes_to_half": "bytes_to_half",
    "half_to_bytes": "half_to_bytes",
}
"""By the name of a kernel: the file that has it, without its ending."""


def source_of(kernel: str) -> Path:
    """The .cu file of a kernel."""
    return FOLDER / f"{KERNELS[kernel]}.cu"


def find_nvcc() -> str | None:
    """On the PATH, or where the CUDA toolkit puts it without adding it there."""
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def compile_with_nvcc(source: Path, compute_capabilities: Iterable[str], fatbin: Path) -> str:
    """Write the machine code of a source for GPUs of each capability; returns ptxas' report.

    A fatbin loads like a cubin (`cuModuleLoadData`), which it is but for there being several. The
    report has the registers and spills of every kernel.

    Raises:
        UsageError: no nvcc, or one that knows not every capability.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise UsageError(
            "compiling kernels ahead of time needs nvcc, which is not on the PATH; possible: "
            "install the CUDA toolkit, or leave it to NVRTC: pip install 'srgan-edge[rtx]'"
        )
    numbers = [capability.replace(".", "") for capability in compute_capabilities]
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    report = ["-Xptxas=-v", "-Werror=all-warnings"]
    done = subprocess.run(
        [nvcc, "-fatbin", *OPTIONS, *report, *targets, "-o", fatbin, source],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise UsageError(f"nvcc does not compile {source.name}: {done.stderr.strip()}")
    return done.stderr


def nvrtc_digest(source: Path, compute_capability: str) -> str:
    """Of all that decides what `compile_with_nvrtc` makes: hexadecimal, to keep it under.

    Raises:
        ExtraMissing: as there.
    """
    nvrtc, digest = _nvrtc(), hashlib.sha256()
    _, *version = nvrtc.nvrtcVersion()
    digest.update(repr((version, compute_capability, OPTIONS)).encode())
    for file in (source, *sorted(FOLDER.glob("*.h"))):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def compile_with_nvrtc(source: Path, compute_capability: str) -> bytes:
    """The machine code of a source for one GPU, a cubin; needs no compiler but NVRTC.

    Raises:
        ExtraMissing: NVIDIA's bindings are not installed.
        UsageError: NVRTC does not compile it.
    """
    nvrtc = _nvrtc()
    _, program = nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], [])
    target = f"--gpu-architecture=sm_{compute_capability.replace('.', '')}"
    options = [it.encode() for it in (*OPTIONS, target, f"--include-path={FOLDER}")]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = _room(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    lines = log.decode().strip(" \0\n").splitlines()
    complaints = [line for line in lines if not line.startswith("ptxas info")]
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS or complaints:
        said = "\n".join(complaints or lines)
        raise UsageError(f"NVRTC does not compile {source.name}: {said}")
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    cubin = _room(size)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    return cubin[:size]


def _nvrtc() -> Any:  # noqa: ANN401 - a module of NVIDIA's bindings
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):  # no bindings, or bindings without NVRTC's library
        raise ExtraMissing("cuda-core", "srgan-edge[rtx]", "compiling kernels") from None
    return nvrtc


def _room(size: int) -> bytes:
    """Bytes for NVRTC to write into, as its binding wants them.

    More than one: there is only one `b" "` in a process, and it would be another one afterwards.
    """
    return bytes(max(size, 2))
