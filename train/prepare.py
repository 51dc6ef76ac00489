"""Prepare a training run: its photographs, VGG, identity and first state."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from srgan_edge.errors import Interrupted, ModelRefused, UsageError, printable
from srgan_edge.files import replace_when_whole
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.network import EdgeNet, generator_from_spec
from srgan_edge.model.quantization import quantized_state
from srgan_edge.train.derived import add_sources, add_teacher
from srgan_edge.train.optimizer import Precision
from srgan_edge.train.photos import PhotoPack
from srgan_edge.train.processes import Processes
from srgan_edge.train.recipe import Recipe
from srgan_edge.train.release import calibration_images
from srgan_edge.train.run_folder import RunFolder
from srgan_edge.train.sources import source_of, sources_name
from srgan_edge.train.state import TrainingState
from srgan_edge.train.teachers import digest_of, open_teachers
from srgan_edge.train.vgg import VggFeatures, vgg_convolutions

_DIFFERENCES_NAMED = 4


@contextmanager
def _naming_the_resume() -> Iterator[None]:
    """Tell a user who stops the preparation that nothing of it is lost."""
    try:
        yield
    except Interrupted as stopped:
        raise Interrupted(stopped.signum, "the same command goes on from there") from None


@_naming_the_resume()
def open_photos(
    recipe: Recipe,
    folders: list[Path],
    run: Path,
    processes: Processes,
    say: Callable[[str], None],
    on_preparation: Callable[[str, int, int], None],
) -> PhotoPack:
    """Return the photographs, decoded once by the first process, with any teacher's images.

    Args:
        on_preparation: called with the name of the work, and how many of how many files are done.

    Raises:
        Interrupted: the same command goes on with the work.
    """

    def open_pack() -> PhotoPack:
        pack = PhotoPack.open(
            folders,
            run / "photos",
            crop_px=recipe.data.crop_px,
            scale=recipe.model.scale,
            reduced=recipe.data.reduced,
            on_progress=partial(on_preparation, "packing photographs"),
        )
        if recipe.data.degradation == "sources":
            say("making the sources of this run, once; if interrupted, it resumes where it stopped")
            pack = add_sources(
                pack,
                partial(source_of, scale=recipe.model.scale, sources=recipe.sources),
                sources_name(recipe.sources),
                recipe.sources.variants,
                recipe.data.seed,
                on_progress=partial(on_preparation, "making sources"),
            )
        if recipe.data.teacher:
            scale, device = recipe.model.scale, processes.device
            with open_teachers(recipe.data.teacher, scale, device) as teacher:
                pack = add_teacher(
                    pack,
                    teacher.upscale,
                    teacher.name,
                    halo_px=teacher.halo_px,
                    on_progress=partial(on_preparation, "teacher"),
                )
        return pack

    if processes.first:
        pack = open_pack()
        if pack.left_out:
            say(f"{len(pack.left_out)} files left out, named in {run / 'left_out.txt'}")
        with replace_when_whole(run / "left_out.txt") as temporary:
            lines = "".join(f"{printable(line)}\n" for line in pack.left_out)
            temporary.write_text(lines, encoding="utf-8")
    processes.wait()
    if not processes.first:
        pack = open_pack()
    if processes.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(processes.device)
        if pack.bytes < free / 3:
            return pack.to(processes.device)
    return pack


def open_vgg(recipe: Recipe, weights: Path | None, processes: Processes) -> VggFeatures | None:
    """Return the VGG of the recipe's perceptual loss; None if no phase has one."""
    if not any(phase.perceptual for phase in recipe.phases.values()):
        return None
    perceptual = recipe.perceptual
    if not processes.first:
        processes.wait()  # the first process downloads it for all
    vgg = VggFeatures(vgg_convolutions(weights), perceptual.layers, perceptual.before_relu)
    if processes.first:
        processes.wait()
    return vgg.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def identity_of(
    recipe: Recipe, photos: PhotoPack, init: Path | None, vgg_weights: Path | None
) -> dict[str, str]:
    """Return everything that determines the weights, by name; a run resumes only if all agree."""
    decides = {
        name: value
        for name, value in recipe.flat.items()
        if not name.startswith("run.") or name in ("run.precision", "run.skips_before_rollback")
    }
    return decides | {
        "photographs": f"{photos.megapixels:.1f} megapixels, {photos.key[:12]}",
        "--init": "none" if init is None else digest_of(init),
        "--vgg-weights": "none" if vgg_weights is None else digest_of(vgg_weights),
    }


def begin(
    state: TrainingState,
    recipe: Recipe,
    identity: dict[str, str],
    folder: RunFolder,
    init: Path | None,
    photos: PhotoPack,
    precision: Precision,
    processes: Processes,
) -> None:
    """Set the state to the run's newest checkpoint, to `init`, or leave it at the start.

    Raises:
        UsageError: the checkpoint belongs to another recipe, start or set of photographs.
        ModelRefused: `init` is of another architecture.
    """
    if (found := folder.newest()) is not None:
        record, path = found
        if record["identity"] != identity:
            raise UsageError(
                f"{path} belongs to another run ({_difference(record['identity'], identity)}); "
                f"choose another folder with -o, or delete {folder.path} to start over"
            )
        state.restore(record, recipe, precision, processes)
        return
    if init is None:
        return
    weights = _weights_to_start_from(init, recipe, photos)
    for network in (state.generator, state.average):
        network.load_state_dict(weights)


def _weights_to_start_from(init: Path, recipe: Recipe, photos: PhotoPack) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, with scales from the photographs for an INT8 recipe.

    Those of an `edge` network with fewer blocks become those of the recipe's, to the same function.
    """
    generator, spec = load_checkpoint(init)
    has_fewer = spec.blocks < recipe.model.blocks and not spec.quantized_from
    if isinstance(generator, EdgeNet) and has_fewer:
        spec = dataclasses.replace(spec, blocks=recipe.model.blocks)
        deeper = generator_from_spec(spec)
        assert isinstance(deeper, EdgeNet)
        deeper.take_over(generator)
        generator = deeper
    for field in ("architecture", "channels", "blocks", "norm", "head", "activation", "scale"):
        if (got := getattr(spec, field)) != (wanted := getattr(recipe.model, field)):
            raise ModelRefused(
                f"{init} has {field} {got!r}, the recipe {wanted!r}; "
                f"type --set model.{field}={got}, or start from another checkpoint"
            )
    original = recipe.model.quantized_from
    if spec.quantized_from != original and (spec.quantized_from or spec.name != original):
        what = f"the INT8 form of {spec.quantized_from!r}" if spec.quantized_from else spec.name
        made = f"the INT8 form of {original!r}" if original else "a model in floating point"
        raise ModelRefused(f"{init} is {what}, the recipe makes {made}; start from another one")
    if original and not spec.quantized_from:
        return quantized_state(generator, calibration_images(photos, recipe))
    return generator.state_dict()


def _difference(there: dict[str, str], here: dict[str, str]) -> str:
    """Name the first differences between two identities, all in one line."""
    found = [
        f"{name}: there {there.get(name, 'absent')}, here {here.get(name, 'absent')}"
        for name in there | here
        if there.get(name) != here.get(name)
    ]
    more = len(found) - _DIFFERENCES_NAMED
    return "; ".join(found[:_DIFFERENCES_NAMED] + ([f"and {more} more"] if more > 0 else []))
