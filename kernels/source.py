"""The CUDA sources of this folder, and their compilation by NVRTC at run time.

`FOLDER` is an include path. No source needs a header of CUDA.
"""

import hashlib
from pathlib import Path
from typing import Any

from srgan_edge.errors import ExtraMissing, UsageError

FOLDER = Path(__file__).resolve().parent
"""Folder of the sources and the headers that they include."""

BLOCK_THREADS = 256
"""Threads per block, along x; `KERNEL` in portable.h allows no more."""

COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "11.0", "12.0")
"""From Turing to Blackwell, Orin (8.7) and Thor (11.0) among them."""

OPTIONS = ("-std=c++17",)
"""Options of the compiler, for all sources."""

KERNELS = {
    "nv12_to_rgb": "yuv420_to_rgb",
    "rgb_to_nv12": "rgb_to_yuv420",
    "tile_gather": "tile_gather",
    "tile_scatter": "tile_scatter",
    "tile_difference": "tile_difference",
    "color_sums": "color_lock",
    "color_missing": "color_lock",
    "color_shift": "color_lock",
}
"""The source file of each kernel, without its suffix."""


def source_of(kernel: str) -> Path:
    return FOLDER / f"{KERNELS[kernel]}.cu"


def nvrtc_digest(source: Path, compute_capability: str) -> str:
    """Return a hexadecimal digest of everything that determines `compile_with_nvrtc`'s result.

    Raises:
        ExtraMissing: NVIDIA's bindings are not installed.
    """
    nvrtc, digest = _nvrtc(), hashlib.sha256()
    _, *version = nvrtc.nvrtcVersion()
    digest.update(repr((version, compute_capability, OPTIONS)).encode())
    for file in (source, *sorted(FOLDER.glob("*.h"))):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def compile_with_nvrtc(source: Path, compute_capability: str) -> bytes:
    """Compile a source to machine code for one GPU, a cubin; NVRTC is the only compiler needed.

    Raises:
        ExtraMissing: NVIDIA's bindings are not installed.
        UsageError: NVRTC rejects the source.
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
    """Return a bytes object for NVRTC to write into, as its binding requires.

    It has at least 2 bytes: Python shares one object for each single byte, and NVRTC would change
    it for the whole process.
    """
    return bytes(max(size, 2))
