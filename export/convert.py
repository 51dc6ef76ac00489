"""Convert foreign weights, a pickled state dict, to our checkpoints.

The keys of foreign generators differ, their layers do not: convolutions, batch norms and PReLUs in
the order of the forward pass. They are matched by that order and by shape, so SRResNet and SRGAN
generators of most repositories fit without a table of names, and so do SRVGGNetCompact models of
Real-ESRGAN, which are our edge network. A layer that does not fit is named and refused.
"""

import dataclasses
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from srgan_edge import bicubic
from srgan_edge.errors import ModelRefused, UsageError, quoted
from srgan_edge.evaluation.metrics import psnr_y
from srgan_edge.export.verify import PHOTO, least_psnr_db
from srgan_edge.files import open_model, read_at_most, scratch_folder
from srgan_edge.image.reader import read_pixels
from srgan_edge.isolation.calls import Remote
from srgan_edge.isolation.calls import serve as serve_calls
from srgan_edge.isolation.child import ChildFailed, Parent
from srgan_edge.model.checkpoint import MAX_BYTES, save_checkpoint
from srgan_edge.model.library import MAX_HEADER_BYTES, MAX_TENSORS
from srgan_edge.model.network import Deployment, generator_from_spec
from srgan_edge.model.spec import MAX_SCALE, Head, ModelSpec, Norm
from srgan_edge.pixels import Pixels

AVERAGED = ("params_ema", "model_ema", "generator_ema", "g_ema", "ema")
"""Keys under which training programs store averaged weights, which are taken first."""

WRAPPERS = (*AVERAGED, "params", "state_dict", "model_state_dict", "generator", "model")

MOST_WRAPPERS = 8
"""Limit on wrappers within each other; a pickle may even contain itself."""

MEMORY_BYTES = 8 << 30
"""Memory that the process that reads the pickle may map beyond PyTorch itself."""

SECONDS = 300.0
"""Longest time to read a pickle."""

OUR_EPSILON = 1e-5
EPSILONS = (OUR_EPSILON, 1e-3, 0.8)
"""Numbers that programs add to the variance of a batch normalization; files do not hold them."""

_SIDE_PX = 176
"""Side of the photograph that is reduced and upscaled again."""

CLEAR_GAIN_DB = 0.5
"""Least gain of other options that puts those which were not typed in doubt."""


class DoesNotFit(ModelRefused):
    """The weights are those of another architecture, which may be converted to ONNX."""


@dataclass(frozen=True)
class Layer:
    """One convolution, batch norm or PReLU."""

    name: str
    kind: str
    tensors: dict[str, Tensor]

    def __str__(self) -> str:
        shapes = ", ".join(f"{leaf} {list(t.shape)}" for leaf, t in self.tensors.items())
        return f"{self.name} ({self.kind}: {shapes})"


@dataclass(frozen=True)
class Weights:
    """The state dict in a file, in its order."""

    state: dict[str, Tensor]
    taken: str = ""
    """Key in the file under which it lies."""
    others: tuple[str, ...] = ()
    """Keys of other weights beside it."""


def checkpoint_from_pickle(
    path: Path,
    out: Path,
    name: str,
    head: Head | None = None,
    *,
    epsilon: float | None = None,
    weights: str | None = None,
    licence: str | None = None,
    overwrite: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> ModelSpec:
    """Convert the weights of a generator to a `.safetensors` checkpoint; returns its spec.

    The result upscales a photograph first; what it makes of it must be about as near to the
    original as bicubic interpolation.

    Args:
        head: `tanh` if the foreign generator ends in (tanh(x) + 1) / 2, which its keys do not show.
        epsilon: what its batch normalizations add to the variance.
        weights: key of the weights, if the file has several.
        licence: of the weights; None: unknown.
        overwrite: replace a file that appears at `out` in the meantime.

    Raises:
        UsageError: `weights` is not in the file, or `epsilon` not a positive number.
        DoesNotFit: its layers are not those of one of our generators; the message names the first
            that differ.
        ModelRefused: the file contains more than tensors, or they compute no image.
    """
    if epsilon is not None and not 0 < epsilon <= 1:
        raise UsageError(f"--bn-epsilon {epsilon:g}; possible: above 0, to 1")
    found = read_weights(path, weights)
    if found.taken and (found.others or weights):
        say(f"took {found.taken}; beside it: {', '.join(found.others) or 'nothing'}")
    layers = layers_of(found.state)
    generator, spec = converted(layers, name, head or "linear", epsilon or OUR_EPSILON, path)
    if spec.activation == "relu":
        say("its activations have no weights: taken for ReLU")
    _refuse_implausible(path, layers, generator, spec, head, epsilon)
    spec = dataclasses.replace(spec, licence=licence or spec.licence)
    save_checkpoint(out, generator, spec, overwrite=overwrite)
    return spec


def converted(
    layers: list[Layer], name: str, head: Head, epsilon: float, path: Path
) -> tuple[nn.Module, ModelSpec]:
    """Return one of our generators with these layers.

    Raises:
        ModelRefused: they do not fit.
    """
    try:
        spec = spec_from_layers(layers, name, head, path)
    except DoesNotFit:
        raise
    except ModelRefused as refusal:
        raise DoesNotFit(f"{path}: does not fit any generator of ours: {refusal}") from None
    with torch.device("meta"):  # widths of strangers must not cost memory before they fit
        _fit(layers_of(generator_from_spec(spec).state_dict()), layers, path)
    generator = generator_from_spec(spec)
    _fill(generator, layers, epsilon, path)
    return generator.eval().requires_grad_(False), spec


def _refuse_implausible(
    path: Path,
    layers: list[Layer],
    generator: nn.Module,
    spec: ModelSpec,
    head: Head | None,
    epsilon: float | None,
) -> None:
    """Refuse weights that compute no image, or a better one with options that were not typed."""
    side = spec.scale * (_SIDE_PX // spec.scale)
    original = read_pixels(PHOTO)[:side, :side]
    small = bicubic.resize(original, side // spec.scale, side // spec.scale)
    least = least_psnr_db(small, original)
    reached = _psnr_of(generator, small, original)
    heads: tuple[Head, ...] = (head,) if head else ("linear", "tanh")
    epsilons: tuple[float, ...] = (OUR_EPSILON,)
    if spec.norm == "batch":
        epsilons = (epsilon,) if epsilon else EPSILONS
    options = {}
    for other_head in heads:
        for other in epsilons:
            network, _ = converted(layers, spec.name, other_head, other, path)
            options[other_head, other] = _psnr_of(network, small, original)
    best = max(options, key=lambda chosen: options[chosen])
    if options[best] >= max(least, reached + CLEAR_GAIN_DB):
        words = f"--head {best[0]}" + (f" --bn-epsilon {best[1]:g}" if spec.norm == "batch" else "")
        raise ModelRefused(
            f"{path}: a photograph upscaled by it has {reached:.1f} dB, and with other options "
            f"{options[best]:.1f} dB; type: srgan-edge convert {quoted(path)} {words}"
        )
    if not reached >= least:
        raise ModelRefused(
            f"{path}: the layers fit, but a photograph upscaled by them has {reached:.1f} dB where "
            f"{least:.1f} dB are the least: another architecture, value range or order of layers"
        )


def _psnr_of(generator: nn.Module, small: Pixels, original: Pixels) -> float:
    image = Deployment(generator).eval()
    with torch.inference_mode():
        result = image(torch.from_numpy(small[None].copy()))[0].numpy()
    return psnr_y(result, original)


def read_weights(path: Path, weights: str | None = None) -> Weights:
    """Read the state dict in a file of safetensors, or in a pickle in a child process.

    `weights_only` has been broken before (CVE-2025-32434, CVE-2026-24747): the child can read that
    file, write to a temporary folder and do nothing else, and whatever becomes of it, the file is
    refused.
    """
    open_model(path).close()  # refuse now what is no file
    if path.suffix == ".safetensors":
        return Weights(_safetensors_state(path))
    with scratch_folder() as folder:
        file = folder / "tensors.safetensors"
        with Remote(
            "srgan_edge.export.convert:serve",
            [path],
            MEMORY_BYTES,
            SECONDS,
            writable=folder,
            reports=(ModelRefused, UsageError),
        ) as reader:
            words = os.fspath(path.absolute()), os.fspath(file), weights or ""
            try:
                found = reader.call(_Found, "read", *words)
            except ChildFailed as failure:
                raise _not_weights(path, f"reading it {failure}") from failure
            except ModelRefused as refusal:
                raise _not_weights(path, str(refusal)) from refusal
            except UsageError as refusal:
                raise UsageError(f"{path}: {refusal}") from refusal
        if file.is_symlink() or not file.is_file():
            raise _not_weights(path, "its reader wrote no file")
        state = safetensors.torch.load(read_at_most(file, MAX_BYTES + MAX_HEADER_BYTES))
    # safetensors sorts its tensors, but layers are matched by their original order.
    return Weights({key: state[key] for key in found.order}, found.taken, found.others)


@dataclass(frozen=True)
class _Found:
    """The weights in a pickle, whose tensors the child wrote to a file."""

    order: tuple[str, ...]
    """Names of the tensors."""
    taken: str
    """Keys under which they lay, with dots between them."""
    others: tuple[str, ...]
    """Keys of other weights beside them."""


def _not_weights(path: Path, reason: str) -> ModelRefused:
    return ModelRefused(f"{path}: not a plain file of weights: {reason}")


def _safetensors_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors in the order of the numbers in their names; the file's is alphabetical."""
    try:
        state = safetensors.torch.load(read_at_most(path, MAX_BYTES))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelRefused(f"{path}: damaged safetensors: {error}") from None

    def natural(key: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", key.removesuffix("weight"))
        return [(int(part[:18]), "") if part.isdecimal() else (0, part) for part in parts]

    return {key: state[key] for key in sorted(state, key=natural)}


def layers_of(state: dict[str, Tensor]) -> list[Layer]:
    """Return the layers of a state dict in its order, which is that of the forward pass."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        prefix, _, leaf = key.removeprefix("module.").rpartition(".")
        modules[prefix][leaf] = tensor
    return [Layer(prefix, _kind(tensors), tensors) for prefix, tensors in modules.items()]


def spec_from_layers(layers: list[Layer], name: str, head: Head, path: Path) -> ModelSpec:
    """Guess the generator of these layers from their number, the first kernel and the widths."""
    convolutions = [layer for layer in layers if layer.kind == "conv"]
    if len(convolutions) < 3:
        raise DoesNotFit(f"{path}: {len(convolutions)} convolutions; not a generator")
    channels, _, kernel, _ = convolutions[0].tensors["weight"].shape
    if kernel == 9:
        norm: Norm = "batch" if any(layer.kind == "batchnorm" for layer in layers) else "none"
        shapes = [layer.tensors["weight"].shape for layer in convolutions[1:]]
        stages = [math.isqrt(shape[0] // channels) for shape in shapes if shape[0] > channels]
        scale = min(max(1, math.prod(stages)), MAX_SCALE)
        # All but the head, the end of the trunk, the stages and the tail.
        blocks = max((len(convolutions) - 3 - len(stages)) // 2, 1)
        return ModelSpec(name, "srresnet", channels, blocks, scale=scale, norm=norm, head=head)
    scale = min(max(1, math.isqrt(convolutions[-1].tensors["weight"].shape[0] // 3)), MAX_SCALE)
    slopes = any(layer.kind == "prelu" for layer in layers)
    return ModelSpec(
        *(name, "edge", channels, len(convolutions) - 2),
        scale=scale,
        head=head,
        activation="prelu" if slopes else "relu",
    )


@torch.no_grad()
def _fill(generator: nn.Module, layers: list[Layer], epsilon: float, path: Path) -> None:
    """Copy the foreign layers in order; a missing bias becomes zero, one slope serves for all.

    A batch normalization without weights has those that change nothing.
    """
    for mine, theirs in _fit(layers_of(generator.state_dict()), layers, path):
        for leaf, tensor in mine.tensors.items():
            neutral = torch.ones(()) if leaf == "weight" else torch.zeros(())
            tensor.copy_(theirs.tensors.get(leaf, neutral))
            if leaf == "running_var":
                tensor += epsilon - OUR_EPSILON


def _fit(ours: list[Layer], layers: list[Layer], path: Path) -> list[tuple[Layer, Layer]]:
    """Pair the layers; the first two that differ are refused."""
    pairs = []
    for mine, theirs in zip_longest(ours, layers):
        if mine is None or theirs is None or not _fits(mine, theirs):
            raise DoesNotFit(
                f"{path}: does not fit any generator of ours: it has {theirs or 'nothing'} where "
                f"{mine or 'nothing'} is expected"
            )
        pairs.append((mine, theirs))
    return pairs


def _fits(mine: Layer, theirs: Layer) -> bool:
    if mine.kind != theirs.kind or theirs.tensors.keys() - mine.tensors.keys():
        return False
    one_slope = mine.kind == "prelu" and theirs.tensors["weight"].numel() == 1
    shapes = {leaf: tensor.shape for leaf, tensor in theirs.tensors.items()}
    same = all(
        tensor.shape == shapes.get(leaf, tensor.shape) for leaf, tensor in mine.tensors.items()
    )
    needed = "running_mean" if mine.kind == "batchnorm" else "weight"
    return one_slope or (same and needed in shapes)


def _kind(tensors: dict[str, Tensor]) -> str:
    if "running_mean" in tensors:
        return "batchnorm"
    dimensions = tensors["weight"].ndim if "weight" in tensors else 0
    return {4: "conv", 1: "prelu"}.get(dimensions, "unknown layer")


def serve(parent: Parent, _: object) -> None:
    """Run in the child, the only process that touches the pickle."""
    serve_calls(parent, {"read": _read_pickle})


def _read_pickle(path: str, tensors: str, wanted: str) -> _Found:
    try:
        dense, taken, others = state_in(Path(path), wanted)
        safetensors.torch.save_file(dense, tensors)
        return _Found(tuple(dense), ".".join(taken), tuple(others))
    except (MemoryError, UsageError):
        raise  # the parent knows how much memory there was
    except Exception as error:
        raise ModelRefused(f"{type(error).__name__}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the line that says why; torch's first ones advise to run the code in the file."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("Unsupported", "Trying to load"))]
    return next(iter(telling or lines), "")[:200]


def state_in(path: Path, wanted: str) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return the weights in a file, the keys that lead to them, and keys of others beside them.

    For a child process: a pickle is read here.
    """
    if path.suffix == ".safetensors":
        return _safetensors_state(path), [], []
    state = torch.load(path, map_location="cpu", weights_only=True)
    state, taken, others = _unwrapped(state, wanted)
    odd = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"{str(odd[0])[:80]!r} is not a tensor")
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > MAX_BYTES or len(state) > MAX_TENSORS:
        raise ValueError(f"{len(state)} tensors of {size} bytes; at most {MAX_BYTES} bytes")
    dense = {key: value.to_dense().contiguous().clone() for key, value in state.items()}
    return dense, taken, others


def _unwrapped(state: Any, wanted: str) -> tuple[Any, list[str], list[str]]:  # noqa: ANN401
    """Return the innermost record of weights, the keys that lead to it, and keys of others."""
    taken: list[str] = []
    others: list[str] = []
    while keys := [key for key in state if isinstance(state[key], dict)]:
        known = [key for key in WRAPPERS if key in keys]
        if len(taken) == MOST_WRAPPERS:
            raise ValueError(f"more than {MOST_WRAPPERS} records within each other")
        if wanted in keys:
            chosen = wanted
        elif wanted and not taken:
            raise UsageError(f"--weights {wanted}; possible: {', '.join(map(str, keys))}")
        elif known and (len(known) == 1 or known[0] in AVERAGED):
            chosen = known[0]
        elif known:
            raise UsageError(f"it has {', '.join(known)}; type --weights {known[0]}")
        else:
            break
        others += [str(key) for key in known if key != chosen]
        taken.append(chosen)
        state = state[chosen]
    return state, taken, others
