"""Mix the weights of a GAN with those of the model it was trained from: texture against fidelity.

Both have one graph, so that a mixture of their weights is a model of the same speed. Unlike
`srgan-edge blend`, this needs no PyTorch: it mixes the deployment ONNX of both.
"""

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.files import cache_folder, output_failed, replace_when_whole
from srgan_edge.model.library import ModelFiles, bundled_models, find_model
from srgan_edge.model.onnx_file import OnnxFile, read_onnx
from srgan_edge.model.spec import METADATA_KEY, Training

if TYPE_CHECKING:
    from onnx import ModelProto

FAITHFUL = {"srgan-x4": "srresnet-x4"}
"""GAN -> the model that it was trained from."""

POSSIBLE = "possible: from 0 (texture) to 1 (fidelity), or auto"

CACHE_VARIABLE = "SRGAN_EDGE_MIXTURES"
"""Environment variable that names another folder than `~/.cache/srgan-edge/mixtures`."""


def fidelity_from_text(text: str) -> float:
    """Parse what is typed after `--fidelity`, apart from `auto`.

    Raises:
        UsageError: not a number.
    """
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--fidelity {text}; {POSSIBLE}") from None


def mixed_model(model: str, fidelity: float) -> str:
    """Return what names the mixture for `find_model`: the path of its file, or a bundled model.

    Raises:
        SrganEdgeError: the same errors as `mixture`.
    """
    mixed = mixture(model, fidelity)
    return mixed.name if mixed.name in bundled_models() else str(mixed.file(".onnx"))


def mixture(model: str, fidelity: float) -> ModelFiles:
    """Return a model between a GAN, at 0, and the one that it was trained from, at 1.

    It is written to the cache, under a name that its weights determine.

    Raises:
        UsageError: `fidelity` is not from 0 to 1, or the model has no other one to be mixed with.
        ModelRefused: the two are not of one kind.
        OutputFailed: the cache cannot be written.
    """
    if not 0 <= fidelity <= 1:
        raise UsageError(f"--fidelity {fidelity:g}; {POSSIBLE}")
    if model not in FAITHFUL:
        possible = " or ".join(f"-n {name}" for name in FAITHFUL)
        raise UsageError(f"--fidelity with -n {model}; possible: {possible}")
    textured, faithful = find_model(model), find_model(FAITHFUL[model])
    if fidelity in (0, 1):
        return faithful if fidelity else textured
    ours, theirs = (read_onnx(it.file(".onnx")) for it in (textured, faithful))
    content = _mixed(ours, theirs, fidelity).SerializeToString(deterministic=True)
    digest = hashlib.sha256(content).hexdigest()
    folder = cache_folder(CACHE_VARIABLE, "mixtures")
    path = folder / f"{_name(model, fidelity)}-{digest[:12]}.onnx"
    if not path.is_file() or path.read_bytes() != content:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_failed(path, error, CACHE_VARIABLE) from error
        with replace_when_whole(path, option=CACHE_VARIABLE) as partial:
            partial.write_bytes(content)
    return ModelFiles(path.stem, {".onnx": path})


def _mixed(textured: OnnxFile, faithful: OnnxFile, fidelity: float) -> "ModelProto":
    from onnx import ModelProto, numpy_helper

    mixed, other = (ModelProto.FromString(file.content) for file in (textured, faithful))
    if [str(node) for node in mixed.graph.node] != [str(node) for node in other.graph.node]:
        raise ModelRefused(
            f"{textured.spec.name} and {faithful.spec.name} have different graphs; "
            "possible: models of one kind"
        )
    theirs = {tensor.name: numpy_helper.to_array(tensor) for tensor in other.graph.initializer}
    for tensor in mixed.graph.initializer:
        a, b = numpy_helper.to_array(tensor), theirs[tensor.name]
        if a.dtype == np.float32 and a.shape == b.shape:
            weights = a + np.float32(fidelity) * (b - a)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        elif not np.array_equal(a, b):
            raise ModelRefused(f"{tensor.name} of the two models does not fit a mixture")
    spec = replace(
        textured.spec,
        name=_name(textured.spec.name, fidelity),
        halo_px=None,  # measured for other weights
        training=Training(
            recipe=f"{1 - fidelity:g} {textured.spec.name} + {fidelity:g} {faithful.spec.name}",
            data=textured.spec.training.data if textured.spec.training else "",
            steps=0,
        ),
    )
    for entry in mixed.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = spec.to_json()
    return mixed


def _name(model: str, fidelity: float) -> str:
    return f"{model}-fidelity-{fidelity:g}"
