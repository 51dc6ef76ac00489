"""Our CUDA kernels as machine code: compiled by NVRTC once, and kept beside the engines."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from srgan_edge.engine_cache import EngineCache
from srgan_edge.errors import ModelRefused, OutputFailed
from srgan_edge.files import replace_when_whole
from srgan_edge.kernels.source import compile_with_nvrtc, nvrtc_digest


@cache
def machine_code(source: Path, compute_capability: str) -> bytes:
    """What `compile_with_nvrtc` makes of a source: of the convolutions that takes seconds.

    Where nothing can be kept it is compiled each time, to the same bytes.

    Raises:
        ExtraMissing, UsageError: as there.
    """
    digest = nvrtc_digest(source, compute_capability)
    try:
        path = EngineCache().machine_code_path(source.stem, digest)
    except (OutputFailed, ModelRefused):
        return compile_with_nvrtc(source, compute_capability)
    if path.is_file():
        return path.read_bytes()
    image = compile_with_nvrtc(source, compute_capability)
    with suppress(OutputFailed), replace_when_whole(path) as temporary:
        temporary.write_bytes(image)
    return image
