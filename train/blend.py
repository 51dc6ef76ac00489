"""One knob between fidelity and texture: a point on the line from a pixel model to its GAN model.

Network interpolation (Wang et al. 2018, arXiv 1809.00219, section 3.4): the GAN's weights started
at the pixel model's, so what lies between them is a generator too. It costs nothing to train.
"""

import dataclasses
from pathlib import Path

from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint
from srgan_edge.model.spec import ModelSpec, Training

SAME = ("architecture", "channels", "blocks", "scale", "norm", "head", "quantized_from")
"""What two generators must agree in."""


def blend_checkpoints(pixel: Path, gan: Path, alpha: float, out: Path) -> ModelSpec:
    """Write (1 - alpha) * `pixel` + alpha * `gan` to `out`; returns its spec.

    Raises:
        UsageError: `alpha` is not in [0, 1].
        ModelRefused: the two differ in architecture, or hold running statistics.
        OutputFailed: `out` cannot be written.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"--alpha {alpha}; possible: 0 (the first model) to 1 (the second)")
    (ours, our_spec), (theirs, their_spec) = load_checkpoint(pixel), load_checkpoint(gan)
    for field in SAME:
        if (one := getattr(our_spec, field)) != (other := getattr(their_spec, field)):
            raise ModelRefused(f"{pixel.name} has {field} {one!r}, {gan.name} {other!r}")
    if our_spec.norm == "batch":
        raise ModelRefused(
            f"{pixel.name}: batch normalisation; its running statistics belong to its own weights, "
            "and say nothing of a mixture's"
        )
    state = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        state[name].lerp_(tensor, alpha)
    spec = dataclasses.replace(
        their_spec,
        name=out.stem,
        halo_px=None,  # measured for other weights
        training=Training(
            recipe=f"{1 - alpha:g} {our_spec.name} + {alpha:g} {their_spec.name}",
            data=_joined(our_spec, their_spec),
            steps=0,
        ),
    )
    save_checkpoint(out, ours, spec)
    return spec


def _joined(*specs: ModelSpec) -> str:
    known = dict.fromkeys(spec.training.data for spec in specs if spec.training is not None)
    return "; ".join(known) or "not stated"
