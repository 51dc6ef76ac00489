"""Export to ncnn, which phones and small boards run: `.param`, `.bin`, and the spec beside them.

pnnx converts the float ONNX. The result computes in FP32 what PyTorch does, or it is refused; one
conversion serves every size. srgan-edge itself does not run it.
"""

import subprocess
from pathlib import Path

import ncnn
import numpy as np
import pnnx

from srgan_edge.errors import ModelRefused
from srgan_edge.export.float_onnx import (
    MAX_DIFFERENCE,
    FloatParity,
    Floats,
    Run,
    float_onnx_from_checkpoint,
    max_difference,
    torch_reference,
)
from srgan_edge.export.verify import natural_batches
from srgan_edge.files import replace_when_whole, scratch_folder

INPUT, OUTPUT = "in0", "out0"
"""Names of the image before and after: float32 [3, H, W] to [3, sH, sW], RGB in [0, 1]."""

_TRACED_PX = 64
"""Size for which pnnx simplifies the graph; the result takes any, and is the same for any."""

_SECONDS = 600


def files_beside(param: Path) -> tuple[Path, Path]:
    """Return the paths of the weights and of the spec, for that of the `.param`."""
    return param.with_suffix(".bin"), param.with_suffix(".json")


def ncnn_from_checkpoint(checkpoint: Path, path: Path, *, overwrite: bool = True) -> FloatParity:
    """Write the ncnn form of a `.safetensors` checkpoint; returns its difference from PyTorch.

    Args:
        path: path of the `.param`; weights and spec go into a `.bin` and a `.json` beside it.
        overwrite: replace files that appear there in the meantime.

    Raises:
        ModelRefused: the checkpoint is not one of ours, in INT8, cannot be converted, or ncnn
            computes something else; nothing is kept.
        OutputFailed: the files cannot be written.
    """
    bin_path, json_path = files_beside(path)
    with scratch_folder() as folder:
        spec = float_onnx_from_checkpoint(checkpoint, folder / "model.onnx", "--ncnn")
        made = _converted(folder)
        difference = max_difference(torch_reference(checkpoint), _loaded(*made), natural_batches())
        parity = FloatParity(f"ncnn {ncnn.__version__}", difference)
        if not difference <= MAX_DIFFERENCE:  # NaN is no pass
            raise ModelRefused(
                f"{spec.name} in ncnn: {parity}, where {MAX_DIFFERENCE:g} is allowed"
            )
        contents = {path: made[0].read_bytes(), bin_path: made[1].read_bytes()}
    contents[json_path] = (spec.to_json() + "\n").encode()
    with (
        replace_when_whole(json_path, overwrite=overwrite) as json_file,
        replace_when_whole(bin_path, overwrite=overwrite) as bin_file,
        replace_when_whole(path, overwrite=overwrite) as param_file,
    ):
        json_file.write_bytes(contents[json_path])
        bin_file.write_bytes(contents[bin_path])
        param_file.write_bytes(contents[path])
    return parity


def _converted(folder: Path) -> tuple[Path, Path]:
    """Convert `model.onnx` in a folder; returns the `.param` and the `.bin`."""
    shape = f"inputshape=[1,3,{_TRACED_PX},{_TRACED_PX}]f32"
    try:
        done = subprocess.run(
            [pnnx.EXEC_PATH, "model.onnx", "fp16=0", shape],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelRefused(f"pnnx does not run here: {error}") from None
    param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if done.returncode or not param.is_file() or not weights.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        raise ModelRefused(f"pnnx cannot convert it (exit code {done.returncode}): {last}")
    return param, weights


def _loaded(param: Path, weights: Path) -> Run:
    """Load a network in ncnn, in FP32 on the CPU: float32 [N, 3, H, W] to [N, 3, sH, sW]."""
    network = ncnn.Net()
    for lossy in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, lossy, False)
    if network.load_param(str(param)) or network.load_model(str(weights)):
        raise ModelRefused("ncnn cannot load what pnnx made")

    def one(image: Floats) -> Floats:
        with network.create_extractor() as extractor:
            extractor.input(INPUT, ncnn.Mat(image))  # which borrows the array
            failed, result = extractor.extract(OUTPUT)
            if failed:
                raise ModelRefused("ncnn cannot compute what pnnx made")
            return np.array(result)

    return lambda batch: np.stack([one(image) for image in batch])
