"""Write model repositories for Triton Inference Server: configuration and version of each model.

The fields are documented at https://docs.nvidia.com/deeplearning/triton-inference-server/, "Model
Configuration". The format is protobuf text, short enough to be written without that package.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from srgan_edge.errors import ModelRefused, quoted
from srgan_edge.export.onnx import deployment_graph
from srgan_edge.export.verify import prove_onnx
from srgan_edge.files import folder_when_whole
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.onnx_file import TOTALS
from srgan_edge.model.passport import Profile, passport_path, read_engine
from srgan_edge.model.spec import ModelSpec

MAX_BATCH = 4
"""Images of one size that the server may put into one call; 4 is its own default. The memory grows
with each: `srgan-x4` at 1920x1080 has 8 GB in one tensor per image."""

PLAN_MODULE = "tensorrt"
"""The runtime whose plans the server's backend loads."""

CONFIG = "config.pbtxt"
"""The file that every model of a repository has."""

ANY = -1
"""A size that each request may choose."""


def write_onnx_repository(
    checkpoint: Path, folder: Path, say: Callable[[str], None], *, overwrite: bool = False
) -> Path:
    """Add the deployment ONNX of a `.safetensors` checkpoint to a model repository.

    Args:
        folder: the repository, made if missing.
        say: called with one line for the user for each runtime in which the ONNX is compared.
        overwrite: replace the model if the repository has it.

    Returns:
        The folder of the model, named like the model in its spec.

    Raises:
        ModelRefused: the checkpoint is not one of ours, its name is not valid for a server, or the
            ONNX differs from it.
        UsageError: the model already exists there, and may not be replaced.
        OutputFailed: it cannot be written.
    """
    generator, spec = load_checkpoint(checkpoint)
    path = folder / _server_name(spec)
    with folder_when_whole(path, "--triton", CONFIG, [checkpoint], overwrite=overwrite) as partial:
        model = partial / "1" / "model.onnx"
        model.parent.mkdir()
        model.write_bytes(deployment_graph(generator, spec).SerializeToString(deterministic=True))
        prove_onnx(checkpoint, model, say)
        (partial / CONFIG).write_text(onnx_config(path.name))
    return path


def write_plan_repository(engine: Path, folder: Path, *, overwrite: bool = False) -> Path:
    """Add an engine of TensorRT, with its passport, to a model repository.

    Args:
        folder: the repository, made if missing.
        overwrite: replace the model if the repository has it.

    Returns:
        The folder of the model, named like the model in its spec with `-tensorrt` appended.

    Raises:
        ModelRefused: the engine has no passport, does not match it, is for another runtime than
            TensorRT, or its name is not valid for a server.
        UsageError: the model already exists there, and may not be replaced.
        OutputFailed: it cannot be written.
    """
    plan, passport = read_engine(engine)
    if passport.key.module != PLAN_MODULE:
        source = quoted(passport.source)
        raise ModelRefused(
            f"{engine} is an engine of {passport.key.module}, and Triton loads only those of "
            f"{PLAN_MODULE}; type: srgan-edge export {source} --tensorrt, on its GPU, "
            f"or: srgan-edge export {source} --triton {quoted(folder)}, for the ONNX"
        )
    path = folder / f"{_server_name(passport.spec)}-tensorrt"
    read = [engine, passport_path(engine)]
    with folder_when_whole(path, "--triton", CONFIG, read, overwrite=overwrite) as partial:
        model = partial / "1" / "model.plan"
        model.parent.mkdir()
        model.write_bytes(plan)
        passport_path(model).write_text(passport.to_json())
        config = plan_config(path.name, passport.key.profile, passport.spec.scale)
        (partial / CONFIG).write_text(config)
    return path


def onnx_config(name: str) -> str:
    """Return the configuration of a deployment ONNX, which joins waiting images of one size.

    The batch is not among the sizes: with `max_batch_size` the server prepends it.
    """
    sizes = (ANY, ANY, 3)
    return (
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f"{_tensor('input', 'input', 'TYPE_UINT8', sizes)}"
        f"{_tensor('output', 'output', 'TYPE_UINT8', sizes)}"
        "dynamic_batching { }\n"
    )


def plan_config(name: str, profile: Profile, scale: int) -> str:
    """Return the configuration of an engine, which accepts only the shapes of its profile.

    The batch is one of the sizes, and the server joins nothing: an engine for four tiles cannot run
    three.
    """
    frames, height, width = (
        low if low == high else ANY
        for low, high in zip(profile.smallest, profile.largest, strict=True)
    )
    larger = (side if side == ANY else side * scale for side in (height, width))
    return (
        f'name: "{name}"\n'
        'platform: "tensorrt_plan"\n'
        "max_batch_size: 0\n"
        f"{_tensor('input', 'input', 'TYPE_UINT8', (frames, height, width, 3))}"
        f"{_tensor('output', 'output', 'TYPE_UINT8', (frames, *larger, 3))}"
        f"{_tensor('output', TOTALS, 'TYPE_FP32', (frames,))}"
        "instance_group [ { count: 1, kind: KIND_GPU } ]\n"
    )


def _tensor(side: str, name: str, data_type: str, sizes: Sequence[int]) -> str:
    """Return one line; several lines of one side form a list."""
    dims = ", ".join(map(str, sizes))
    return f'{side} [ {{ name: "{name}", data_type: {data_type}, dims: [ {dims} ] }} ]\n'


def _server_name(spec: ModelSpec) -> str:
    """Return the model's name, which must be valid as a folder, in URLs, and as a string."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name) is None:
        raise ModelRefused(
            f"the model is called {spec.name!r}; Triton accepts letters, digits, '.', '_' and '-'; "
            "train or convert it under such a name"
        )
    return spec.name
