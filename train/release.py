"""Release the weights of a finished run, and blend two released models.

Blending is network interpolation (Wang et al. 2018, arXiv 1809.00219, section 3.4), one control
between fidelity and texture: a GAN's weights started at its pixel model's, so the weights between
them are a generator too, without further training.
"""

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from srgan_edge.errors import ModelRefused, UsageError, printable
from srgan_edge.files import is_taken
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint
from srgan_edge.model.spec import ModelSpec, Training
from srgan_edge.train.batches import draw_crops
from srgan_edge.train.photos import PhotoPack
from srgan_edge.train.recipe import Recipe
from srgan_edge.train.session import Session
from srgan_edge.train.validation import GRID_STEP, sample_grid

SAME = (
    *("architecture", "channels", "blocks", "scale", "norm", "head", "activation"),
    "quantized_from",
)
"""Fields of the spec in which two blended generators must agree."""


def calibration_images(photos: PhotoPack, recipe: Recipe) -> Iterator[Tensor]:
    """Yield 512 LR crops, made as the recipe makes them, that no step of the run uses."""
    for index in range(0, 512, 8):
        crops = draw_crops(photos, recipe, recipe.data.seed, GRID_STEP, range(index, index + 8))
        yield crops.lr.cpu().float() / 255


def release(session: Session, path: Path, folders: list[Path], init: Path | None) -> None:
    """Write the averaged weights with their provenance, and the report of the run."""
    scores = {}
    if session.validation is not None:
        validation, phase = session.validation, session.phase
        scores = {
            "bicubic": validation.bicubic_scores(phase),
            session.recipe.model.name: validation.scores(session.state.average, phase),
        }
    spec = _released_spec(session, folders, init, scores)
    known = _spec_of_same_weights(path, session.state.average)
    if known is not None:
        spec = _updated(known, spec)
    save_checkpoint(path, session.state.average, spec)
    report = path.with_name("report.md")
    if known is not None and is_taken(report):
        session.say(f"kept {report}; remove it to have it written again")
        return
    if find_spec("matplotlib") is None:
        session.say("no report: its curves need matplotlib; type: pip install matplotlib")
        return
    from srgan_edge.train.log import write_report

    grid = sample_grid(session.photos, session.recipe, session.state.average)
    write_report(path.parent, session.recipe, spec, scores, session.photos.left_out, grid)


def blend_checkpoints(
    pixel: Path, gan: Path, alpha: float, out: Path, *, overwrite: bool = True
) -> ModelSpec:
    """Write (1 - alpha) * `pixel` + alpha * `gan` to `out`; returns its spec.

    Args:
        overwrite: replace a file that appears at `out` in the meantime.

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
            raise ModelRefused(
                f"{pixel.name} has {field} {one!r}, {gan.name} {other!r}; blend models of one kind"
            )
    if our_spec.norm == "batch":
        raise ModelRefused(
            f"{pixel.name} has batch normalization, whose running statistics belong to its own "
            "weights and do not fit a mixture; blend models without it"
        )
    state = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        state[name].lerp_(tensor, alpha)
    spec = dataclasses.replace(
        their_spec,
        name=printable(out.stem),
        halo_px=None,  # measured for other weights
        training=Training(
            recipe=f"{1 - alpha:g} {our_spec.name} + {alpha:g} {their_spec.name}",
            data=_joined(our_spec, their_spec),
            steps=0,
        ),
    )
    save_checkpoint(out, ours, spec, overwrite=overwrite)
    return spec


def _spec_of_same_weights(path: Path, average: nn.Module) -> ModelSpec | None:
    """Return the spec in an earlier release of the same weights; None if there is none."""
    try:
        earlier, spec = load_checkpoint(path)
    except ModelRefused:
        return None
    theirs, ours = earlier.state_dict(), average.state_dict()
    same = theirs.keys() == ours.keys() and all(
        torch.equal(theirs[name], tensor.cpu()) for name, tensor in ours.items()
    )
    return spec if same else None


def _updated(known: ModelSpec, spec: ModelSpec) -> ModelSpec:
    """Return the spec of an earlier release, with what was measured since; its scores are added."""
    assert spec.training is not None
    training = known.training or spec.training
    scores = training.scores | spec.training.scores
    return dataclasses.replace(known, training=dataclasses.replace(training, scores=scores))


def _released_spec(
    session: Session,
    folders: list[Path],
    init: Path | None,
    scores: dict[str, dict[str, float]],
) -> ModelSpec:
    """Return the spec of the recipe's model with its provenance."""
    recipe, photos, state = session.recipe, session.photos, session.state
    device = session.processes.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = f"{torch.get_num_threads()} threads"
    count = len({photo.path for photo in photos.photos})
    names = ", ".join(folder.name for folder in folders)
    start = "" if init is None else f" from {init.stem}"
    training = Training(
        recipe=printable(f"{recipe.name}{start}"),
        data=printable(f"{names}: {count} photographs, {photos.megapixels:.0f} megapixels"),
        steps=state.step,
        hardware=f"{where}, {threads}, {session.precision}, {state.seconds / 60:.0f} minutes",
        scores=_psnr_of(session, scores),
    )
    return dataclasses.replace(recipe.model, training=training)


def _psnr_of(session: Session, scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the PSNR by the name of the benchmark, as the spec states it."""
    if session.validation is None:
        return {}
    psnr = scores[session.recipe.model.name]["psnr_y"]
    return {printable(session.validation.folder.name): round(psnr, 3)}


def _joined(*specs: ModelSpec) -> str:
    known = dict.fromkeys(spec.training.data for spec in specs if spec.training is not None)
    return "; ".join(known) or "not stated"
