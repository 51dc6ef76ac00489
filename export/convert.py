"""Convert foreign weights, a pickled state dict, to our checkpoints.

The keys of foreign generators differ, their layers do not: convolutions, batch norms and PReLUs in
the order of the forward pass. They are matched by that order and by shape, so SRResNet and SRGAN
generators of most repositories fit without a table of names, and so do SRVGGNetCompact models of
Real-ESRGAN, which are our edge network. A layer that does not fit is named and refused.
"""

import json
import os
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from srgan_edge.errors import ModelRefused
from srgan_edge.isolation.calls import Remote
from srgan_edge.isolation.calls import serve as serve_calls
from srgan_edge.isolation.child import ChildFailed, Parent
from srgan_edge.model.checkpoint import save_checkpoint
from srgan_edge.model.network import generator_from_spec
from srgan_edge.model.spec import Head, ModelSpec, Norm

WRAPPERS = ("params_ema", "params", "ema", "state_dict", "model_state_dict", "generator", "model")
"""Keys under which training programs store the weights; averaged weights come first."""

MEMORY_BYTES = 8 << 30
"""Memory that the process that reads the pickle may map beyond PyTorch itself."""

SECONDS = 300.0
"""Longest time to read a pickle; one that contains itself would take forever."""

MAX_VALUES = 1 << 28
"""Most numbers in all tensors: a pickle of a kilobyte can state any shape."""


@dataclass(frozen=True)
class Layer:
    """One convolution, batch norm or PReLU."""

    name: str
    kind: str
    tensors: dict[str, Tensor]

    def __str__(self) -> str:
        shapes = ", ".join(f"{leaf} {list(t.shape)}" for leaf, t in self.tensors.items())
        return f"{self.name} ({self.kind}: {shapes})"


def checkpoint_from_pickle(path: Path, out: Path, name: str, head: Head = "linear") -> ModelSpec:
    """Convert a `.pth` file of a x4 generator to a `.safetensors` checkpoint; returns its spec.

    Args:
        head: `tanh` if the foreign generator ends in (tanh(x) + 1) / 2, which its keys do not show.

    Raises:
        ModelRefused: the file contains more than tensors, or its layers are not those of one of our
            generators; the message names the first that differ.
    """
    layers = layers_of(state_from_pickle(path))
    spec = spec_from_layers(layers, name, head, path)
    generator = generator_from_spec(spec)
    _fill(generator, layers, path)
    save_checkpoint(out, generator, spec)
    return spec


def state_from_pickle(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a pickle with `weights_only`, in a child process.

    `weights_only` has been broken before (CVE-2025-32434, CVE-2026-24747): the child can read that
    file, write to a temporary folder and do nothing else, and whatever becomes of it, the file is
    refused.
    """
    if not path.is_file():
        raise ModelRefused(f"{path}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        tensors = Path(folder) / "tensors.safetensors"
        with Remote(
            "srgan_edge.export.convert:serve",
            [path],
            MEMORY_BYTES,
            SECONDS,
            writable=Path(folder),
            reports=(ModelRefused,),
        ) as reader:
            try:
                reader.call(bool, "read", os.fspath(path.absolute()), os.fspath(tensors))
            except ChildFailed as failure:
                raise _not_weights(path, f"reading it {failure}") from failure
            except ModelRefused as refusal:
                raise _not_weights(path, str(refusal)) from refusal
        if tensors.is_symlink() or not tensors.is_file():
            raise _not_weights(path, "its reader wrote no file")
        with safetensors.safe_open(tensors, "pt") as file:
            # safetensors sorts its tensors, but layers are matched by their original order.
            return {key: file.get_tensor(key) for key in json.loads(file.metadata()["order"])}


def layers_of(state: dict[str, Tensor]) -> list[Layer]:
    """Return the layers of a state dict in its order, which is that of the forward pass."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        prefix, _, leaf = key.removeprefix("module.").rpartition(".")
        modules[prefix][leaf] = tensor
    return [Layer(prefix, _kind(tensors), tensors) for prefix, tensors in modules.items()]


def spec_from_layers(layers: list[Layer], name: str, head: Head, path: Path) -> ModelSpec:
    """Guess the generator of these layers from their number and the first kernel."""
    convolutions = [layer for layer in layers if layer.kind == "conv"]
    if len(convolutions) < 3:
        raise ModelRefused(f"{path}: {len(convolutions)} convolutions; not a generator")
    channels, _, kernel, _ = convolutions[0].tensors["weight"].shape
    if kernel == 9:
        norm: Norm = "batch" if any(layer.kind == "batchnorm" for layer in layers) else "none"
        blocks = (len(convolutions) - 5) // 2  # all but head, trunk's end, two stages, tail
        return ModelSpec(name, "srresnet", channels, max(blocks, 1), norm=norm, head=head)
    return ModelSpec(name, "edge", channels, len(convolutions) - 2, head=head)


@torch.no_grad()
def _fill(generator: nn.Module, layers: list[Layer], path: Path) -> None:
    """Copy the foreign layers in order; a missing bias becomes zero, one slope serves for all."""
    ours = layers_of(generator.state_dict())
    for mine, theirs in zip_longest(ours, layers):
        if mine is None or theirs is None or not _fits(mine, theirs):
            raise ModelRefused(
                f"{path}: does not fit any generator of ours: it has {theirs or 'nothing'} where "
                f"{mine or 'nothing'} is expected"
            )
        for leaf, tensor in mine.tensors.items():
            tensor.copy_(theirs.tensors.get(leaf, torch.zeros(())))


def _fits(mine: Layer, theirs: Layer) -> bool:
    if mine.kind != theirs.kind or theirs.tensors.keys() - mine.tensors.keys():
        return False
    one_slope = mine.kind == "prelu" and theirs.tensors["weight"].numel() == 1
    return one_slope or mine.tensors["weight"].shape == theirs.tensors["weight"].shape


def _kind(tensors: dict[str, Tensor]) -> str:
    if "running_mean" in tensors:
        return "batchnorm"
    dimensions = tensors["weight"].ndim if "weight" in tensors else 0
    return {4: "conv", 1: "prelu"}.get(dimensions, "unknown layer")


def serve(parent: Parent, _: object) -> None:
    """Run in the child, the only process that touches the pickle."""
    serve_calls(parent, {"read": _read_pickle})


def _read_pickle(path: str, tensors: str) -> bool:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        depth = 0
        while wrapper := next((key for key in WRAPPERS if isinstance(state.get(key), dict)), None):
            state, depth = state[wrapper], depth + 1
            if depth > len(WRAPPERS):
                raise ValueError("it contains itself")
        odd = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if odd:
            raise ValueError(f"{odd[0]!r} is not a tensor")
        values = sum(value.numel() for value in state.values())
        if values > MAX_VALUES:
            raise ValueError(f"{values} numbers, and {MAX_VALUES} is the limit")
        dense = {key: value.to_dense().contiguous().clone() for key, value in state.items()}
        safetensors.torch.save_file(dense, tensors, metadata={"order": json.dumps(list(dense))})
    except MemoryError:
        raise  # the parent knows how much there was
    except Exception as error:
        said = str(error).splitlines() or [""]
        raise ModelRefused(f"{type(error).__name__}: {said[0]}") from error
    return True


def _not_weights(path: Path, why: str) -> ModelRefused:
    return ModelRefused(f"{path}: not a plain file of weights: {why}")
