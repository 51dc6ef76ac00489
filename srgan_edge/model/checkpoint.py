"""Checkpoints: safetensors files with a ModelSpec, which cannot run code.

Loading refuses what the format itself allows: huge headers, duplicate names, tensors that do not
belong to the generator, and weights that are not finite.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from srgan_edge.errors import ExtraMissing, ModelRefused
from srgan_edge.files import read_at_most, replace_when_whole
from srgan_edge.model.library import safetensors_spec
from srgan_edge.model.network import generator_from_spec
from srgan_edge.model.spec import METADATA_KEY, ModelSpec

try:
    import safetensors.torch
    from safetensors import SafetensorError
except ImportError:
    raise ExtraMissing(
        "safetensors", "srgan-edge[train]", "reading or writing a checkpoint"
    ) from None


MAX_BYTES = 1 << 30
"""Size limit; the largest generator that a spec can describe has a third of it."""


def save_checkpoint(
    path: Path, generator: nn.Module, spec: ModelSpec, *, overwrite: bool = True
) -> None:
    """Write the generator's weights (float32) and its spec to `path`, whole or not at all.

    Args:
        overwrite: as in `replace_when_whole`.
    """
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()
    }
    with torch.device("meta"):  # does not consume random numbers of the training
        expected = generator_from_spec(spec).state_dict()
    _check_state(state, expected, spec, path)
    content = safetensors.torch.save(state, metadata={METADATA_KEY: spec.to_json()})
    with replace_when_whole(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)  # `save_file` makes a file that only its owner can read


def load_checkpoint(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Return the generator, in evaluation mode and float32 on the CPU, and its spec.

    Weights in float16, as in unfinished models (`train/unfinished`), are widened.

    Raises:
        ModelRefused: there is no such file, it is not one of our checkpoints, or its weights do not
            match its spec.
    """
    content = read_at_most(path, MAX_BYTES)  # read once, so that the bytes checked are those loaded
    spec = safetensors_spec(path, content)
    try:
        state = safetensors.torch.load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelRefused(f"{path}: damaged checkpoint: {error}") from None
    state = {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in state.items()
    }
    generator = generator_from_spec(spec)
    _check_state(state, generator.state_dict(), spec, path)
    generator.load_state_dict(state)
    return generator.eval().requires_grad_(False), spec


def _check_state(
    state: dict[str, Tensor], expected: dict[str, Tensor], spec: ModelSpec, path: Path
) -> None:
    """Refuse tensors whose names, shapes or types differ from the generator's, or not finite."""
    odd = sorted(expected.keys() ^ state.keys())
    if odd:
        raise ModelRefused(
            f"{path}: {len(odd)} tensors missing or unknown for {spec.architecture} "
            f"{spec.blocks}x{spec.channels}: {', '.join(odd[:5])}"
        )
    for name, wanted in expected.items():  # in the order of the layers, whatever the file's
        tensor = state[name]
        if tensor.shape != wanted.shape:
            raise ModelRefused(
                f"{path}: {name} has shape {list(tensor.shape)}, "
                f"the spec requires {list(wanted.shape)}"
            )
        if tensor.dtype != wanted.dtype:
            raise ModelRefused(f"{path}: {name} is {tensor.dtype}, not {wanted.dtype}")
        if not torch.isfinite(tensor).all():
            raise ModelRefused(f"{path}: {name} holds values that are not finite")
