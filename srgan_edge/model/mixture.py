"""Mix the weights of two models of which one was trained from the other, by a number from 0 to 1.

Both have one graph, so that a mixture of their weights is a model of the same speed. Unlike
`srgan-edge blend`, this needs no PyTorch: it mixes the deployment ONNX of both.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.files import cache_folder, output_failed, replace_when_whole
from srgan_edge.model.library import ModelFiles, bundled_models, find_model
from srgan_edge.model.onnx_file import OnnxFile, read_onnx
from srgan_edge.model.spec import METADATA_KEY, Training

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Knob:
    """An option whose number mixes a model with another one."""

    option: str
    possible: str
    """The numbers that the option takes, and what they mean."""
    itself_at: Literal[0, 1]
    """The number at which the model is used as it is; the other end is its partner."""
    partners: dict[str, str]
    """Model -> the model that it shares a past and a graph with."""

    def number(self, text: str) -> float:
        """Parse what is typed after the option.

        Raises:
            UsageError: not a number.
        """
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{self.option} {text}; possible: {self.possible}") from None


FIDELITY = Knob(
    *("--fidelity", "from 0 (texture) to 1 (fidelity), or auto"),
    itself_at=0,
    partners={"srgan-x4": "srresnet-x4"},
)
DENOISE = Knob(
    *("--denoise", "from 0 (noise and artifacts are kept) to 1 (removed)"),
    itself_at=1,
    partners={"srgan-real-x4": "srgan-x4"},
)

CACHE_VARIABLE = "SRGAN_EDGE_MIXTURES"
"""Environment variable that names another folder than `~/.cache/srgan-edge/mixtures`."""


def mixed_model(model: str, knob: Knob, number: float) -> str:
    """Return what names the mixture for `find_model`: the path of its file, or a bundled model.

    Raises:
        SrganEdgeError: the same errors as `mixture`.
    """
    mixed = mixture(model, knob, number)
    return mixed.name if mixed.name in bundled_models() else str(mixed.file(".onnx"))


def mixture(model: str, knob: Knob, number: float) -> ModelFiles:
    """Return a model between a model and its partner.

    It is written to the cache, under a name that its weights determine.

    Raises:
        UsageError: `number` is not from 0 to 1, or the model has no partner.
        ModelRefused: the two are not of one kind.
        OutputFailed: the cache cannot be written.
    """
    if not 0 <= number <= 1:
        raise UsageError(f"{knob.option} {number:g}; possible: {knob.possible}")
    if model not in knob.partners:
        possible = " or ".join(f"-n {name}" for name in knob.partners)
        raise UsageError(f"{knob.option} with -n {model}; possible: {possible}")
    itself, partner = find_model(model), find_model(knob.partners[model])
    share = abs(number - knob.itself_at)
    if share in (0, 1):
        return partner if share else itself
    name = f"{model}-{knob.option.lstrip('-')}-{number:g}"
    ours, theirs = (read_onnx(it.file(".onnx")) for it in (itself, partner))
    content = _mixed(ours, theirs, share, name).SerializeToString(deterministic=True)
    digest = hashlib.sha256(content).hexdigest()
    folder = cache_folder(CACHE_VARIABLE, "mixtures")
    path = folder / f"{name}-{digest[:12]}.onnx"
    if not path.is_file() or path.read_bytes() != content:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_failed(path, error, CACHE_VARIABLE) from error
        with replace_when_whole(path, option=CACHE_VARIABLE) as partial:
            partial.write_bytes(content)
    return ModelFiles(path.stem, {".onnx": path})


def _mixed(itself: OnnxFile, partner: OnnxFile, share: float, name: str) -> "ModelProto":
    from onnx import ModelProto, numpy_helper

    mixed, other = (ModelProto.FromString(file.content) for file in (itself, partner))
    if [str(node) for node in mixed.graph.node] != [str(node) for node in other.graph.node]:
        raise ModelRefused(
            f"{itself.spec.name} and {partner.spec.name} have different graphs; "
            "possible: models of one kind"
        )
    theirs = {tensor.name: numpy_helper.to_array(tensor) for tensor in other.graph.initializer}
    for tensor in mixed.graph.initializer:
        a, b = numpy_helper.to_array(tensor), theirs[tensor.name]
        if a.dtype == np.float32 and a.shape == b.shape:
            weights = a + np.float32(share) * (b - a)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        elif not np.array_equal(a, b):
            raise ModelRefused(f"{tensor.name} of the two models does not fit a mixture")
    spec = replace(
        itself.spec,
        name=name,
        halo_px=None,  # measured for other weights
        training=Training(
            recipe=f"{1 - share:g} {itself.spec.name} + {share:g} {partner.spec.name}",
            data=itself.spec.training.data if itself.spec.training else "",
            steps=0,
        ),
    )
    for entry in mixed.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = spec.to_json()
    return mixed
