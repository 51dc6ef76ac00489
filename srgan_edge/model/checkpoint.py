"""Weights on disk: safetensors that carry their ModelSpec, and nothing that could run code.

`read_spec` and `read_state` refuse what the format itself lets through: huge headers, duplicate
names, tensors that are not the generator's, weights that are not finite.
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
"""The largest generator that a spec can describe has a third of this."""


def save_checkpoint(path: Path, generator: nn.Module, spec: ModelSpec) -> None:
    """Write the generator's weights (float32) and its spec to `path`, whole or not at all."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()
    }
    with torch.device("meta"):  # so that no random number of a training is used up
        expected = generator_from_spec(spec).state_dict()
    _check_state(state, expected, spec, path)
    content = safetensors.torch.save(state, metadata={METADATA_KEY: spec.to_json()})
    with replace_when_whole(path) as temporary:
        temporary.write_bytes(content)  # `save_file` would make it readable by its owner alone


def load_checkpoint(path: Path) -> tuple[nn.Module, ModelSpec]:
    """The generator in evaluation mode, float32 on the CPU, and its spec.

    Weights in float16, as unfinished ones are kept (`train/unfinished`), are widened.

    Raises:
        ModelRefused: no such file, not one of our checkpoints, or weights that do not fit its spec.
    """
    content = read_at_most(path, MAX_BYTES)  # once: what is checked is what is loaded
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
    """Exactly the generator's names and shapes, floating point, and finite everywhere."""
    odd = sorted(expected.keys() ^ state.keys())
    if odd:
        raise ModelRefused(
            f"{path}: {len(odd)} tensors missing or unknown for {spec.architecture} "
            f"{spec.blocks}x{spec.channels}: {', '.join(odd[:5])}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ModelRefused(
                f"{path}: {name} has shape {list(tensor.shape)}, "
                f"the spec asks for {list(expected[name].shape)}"
            )
        if tensor.dtype != expected[name].dtype:
            raise ModelRefused(f"{path}: {name} is {tensor.dtype}, not {expected[name].dtype}")
        if not torch.isfinite(tensor).all():
            raise ModelRefused(f"{path}: {name} holds values that are not finite")
