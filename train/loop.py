"""Training, in the two phases of the paper: fit the pixels, then play against a discriminator.

Read `train`, `pixel_phase` and `adversarial_phase` from top to bottom. Resuming is the same command
again: networks, optimisers, average and counters come back from the run's newest checkpoint, and
crops are a function of (seed, step, index). What is released is the moving average of the weights.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import InputRefused, Interrupted, ModelRefused, UsageError
from srgan_edge.files import sha256_of
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint
from srgan_edge.model.library import find_model
from srgan_edge.model.quantization import quantized_state
from srgan_edge.model.spec import ModelSpec, Training
from srgan_edge.signals import stop_signals
from srgan_edge.train import losses
from srgan_edge.train.optimiser import Precision
from srgan_edge.train.photos import PhotoPack
from srgan_edge.train.processes import Processes, join_processes
from srgan_edge.train.recipe import AdversarialPhase, Phase, Recipe
from srgan_edge.train.run_folder import RunFolder, lock_run_folder
from srgan_edge.train.run_log import RunLog
from srgan_edge.train.session import (
    GRID_STEP,
    TIME_IS_UP,
    Batch,
    Progress,
    Session,
    draw_crops,
)
from srgan_edge.train.state import TrainingState
from srgan_edge.train.vgg import VggFeatures, vgg_convolutions


def train(
    recipe: Recipe,
    folders: list[Path],
    run: Path,
    *,
    validation: Path | None = None,
    init: Path | None = None,
    vgg_weights: Path | None = None,
    device: str = "auto",
    max_minutes: float = math.inf,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train `recipe` on the photographs below `folders`; returns the weights it released.

    Args:
        run: folder for checkpoints, log and the released weights; made if missing. If it holds a
            checkpoint of this recipe, the run goes on from there.
        validation: folder with `HR/` and `LRx4/`, scored during the run.
        init: weights to start from, in place of the pixel phase if an adversarial one follows.
        vgg_weights: a local VGG for the perceptual loss, instead of torchvision's VGG19.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        max_minutes: stop cleanly after so long; the same command later goes on.
        say: takes lines that the user should read, such as a checkpoint that could not be written.

    Raises:
        InputRefused: no usable photograph, or a validation folder that is none.
        UsageError: `run` holds the state of another recipe.
        ModelRefused: `init` or the teacher is no checkpoint, or one of another architecture.
        OutputFailed: `run` cannot be written, or another process trains into it.
        ResourcesExhausted: training diverges whatever the crops, or VGG19 cannot be downloaded.
        Interrupted: SIGINT or SIGTERM; the step at hand was finished, and saved.
    """
    deadline = time.monotonic() + 60 * max_minutes
    if (original := recipe.model.quantized_from) and init is None:
        raise UsageError(f"{recipe.model.name} is an INT8 form; type --init {original} too")
    if init is not None and recipe.adversarial.steps:
        recipe = recipe.adversarial_alone()
    if validation is not None and not (validation / "HR").is_dir():
        raise InputRefused(
            f"{validation}: no folder HR/ in it; a benchmark has HR/ and LRx4/ in it"
        )
    with ExitStack() as stack:
        processes = stack.enter_context(join_processes(device))
        folder = RunFolder(run)
        if processes.first:
            folder = stack.enter_context(lock_run_folder(run))
        precision = precision_on(processes.device, recipe)
        vgg = open_vgg(recipe, vgg_weights, processes)
        photos = open_photos(recipe, folders, run, processes, say)
        state = TrainingState.start(recipe.model, recipe.data.seed, precision, processes)
        identity = identity_of(recipe, photos, init, vgg_weights)
        begin(state, recipe, identity, folder, init, photos, precision, processes)
        if state.step:
            done = state.step >= recipe.steps
            say(
                f"all {recipe.steps} steps are done" if done else f"going on from step {state.step}"
            )
        signals = stack.enter_context(stop_signals())
        session = Session(
            recipe=recipe,
            identity=identity,
            state=state,
            photos=photos,
            vgg=vgg,
            precision=precision,
            processes=processes,
            folder=folder,
            log=stack.enter_context(RunLog(run, state.step, say)) if processes.first else None,
            validation=validation,
            deadline=deadline,
            signals=signals,
            on_progress=on_progress,
            say=say,
        )

        # Left alone, cuDNN computes what is called FP32 in TF32, and sums in any order.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            pixel_phase(session)
            adversarial_phase(session)

        session.save(must=True)
        if session.stopped > 0:
            raise Interrupted(
                session.stopped, f"step {state.step} is saved; the same command goes on from there"
            )
        if session.stopped == TIME_IS_UP:
            say(f"time is up after step {state.step}; the same command goes on from there")
        released = run / f"{recipe.model.name}.safetensors"
        if processes.first:
            release(session, released, folders, init)
        return released


def pixel_phase(session: Session) -> None:
    """Fit the generator to the pixels: SRResNet (paper, section 2.2.1)."""
    state, phase = session.state, session.recipe.pixel
    generator = session.compiled(state.generator)
    while session.goes_on(until_step=phase.steps):
        batch = session.batch()
        with session.autocast():
            sr = generator(batch.lr).float()
            terms = content_losses(sr, batch, phase, session)
        loss = weighted_sum(terms, phase)
        norm = state.optimiser.minimise(loss, phase.learning_rate * schedule_at(state.step, phase))
        session.end_step({"generator": norm}, {"loss": loss, **terms})


def adversarial_phase(session: Session) -> None:
    """Generator against discriminator, one update each (paper, equations 2 and 3)."""
    recipe, state, phase = session.recipe, session.state, session.recipe.adversarial
    first_step = recipe.pixel.steps
    if not phase.steps or session.stopped:
        return
    opponent = state.opponent
    if opponent is None:
        opponent = state.meet_opponent(recipe, session.precision, session.processes)
        session.save()  # a rollback must not lead back into the other phase
    generator = session.compiled(state.generator)
    discriminator = session.compiled(opponent.discriminator)
    while session.goes_on(until_step=first_step + phase.steps):
        step = state.step - first_step
        batch = session.batch()
        with session.autocast():
            sr = generator(batch.lr).float()

        # The discriminator learns to tell this batch's pictures from real ones.
        opponent.discriminator.requires_grad_(True)
        with session.autocast():
            real, fake = discriminator(batch.hr), discriminator(sr.detach())
        verdict = losses.discriminator_adversarial(real, fake, phase.adversarial_loss)
        judge_norm = opponent.optimiser.minimise(
            verdict, phase.discriminator_learning_rate * schedule_at(step, phase)
        )

        # The generator learns from what the discriminator knows now.
        opponent.discriminator.requires_grad_(False)
        with session.autocast():
            terms = content_losses(sr, batch, phase, session)
            fooled = discriminator(sr)
            if phase.adversarial_loss == "relativistic":
                real = discriminator(batch.hr)
        terms["adversarial"] = losses.generator_adversarial(
            real.detach(), fooled, phase.adversarial_loss
        )
        loss = weighted_sum(terms, phase, {"adversarial": adversarial_weight_at(step, phase)})
        norm = state.optimiser.minimise(loss, phase.learning_rate * schedule_at(step, phase))

        session.end_step(
            {"generator": norm, "discriminator": judge_norm},
            {
                "loss": loss,
                **terms,
                "discriminator": verdict,
                "D(real)": torch.sigmoid(real.float()).mean(),
                "D(fake)": torch.sigmoid(fake.float()).mean(),
            },
        )


def content_losses(sr: Tensor, batch: Batch, phase: Phase, session: Session) -> dict[str, Tensor]:
    """Every loss of the phase but the adversarial one, by the name of its weight."""
    terms: dict[str, Tensor] = {}
    if phase.l1:
        terms["l1"] = F.l1_loss(sr, batch.hr)
    if phase.mse:
        terms["mse"] = F.mse_loss(sr, batch.hr)
    if phase.distillation:
        assert batch.taught is not None
        terms["distillation"] = F.l1_loss(sr, batch.taught)
    if phase.perceptual:
        assert session.vgg is not None
        perceptual = session.recipe.perceptual
        ours, theirs = sr, batch.hr
        if perceptual.shifted:
            ours, theirs = (losses.shifted_window(it, session.state.step) for it in (ours, theirs))
        with torch.no_grad():
            real = session.vgg(theirs)
        terms["perceptual"] = losses.perceptual(
            session.vgg(ours), real, perceptual.layer_weights, perceptual.distance
        )
    if phase.total_variation:
        terms["total_variation"] = losses.total_variation(sr)
    if phase.consistency:
        terms["consistency"] = losses.consistency(sr, batch.lr)
    if phase.grid:
        terms["grid"] = losses.grid(sr, batch.hr, session.recipe.model.scale)
    return terms


def weighted_sum(
    terms: dict[str, Tensor], phase: Phase, weights: dict[str, float] | None = None
) -> Tensor:
    """The loss: each term times its weight in the phase, or in `weights` if it is there."""
    given = weights or {}
    weighted = [term * given.get(name, getattr(phase, name)) for name, term in terms.items()]
    return torch.stack(weighted).sum()


def schedule_at(step: int, phase: Phase) -> float:
    """What learning rates are multiplied by: linear warm-up, then the phase's decay.

    `step` counts within the phase.
    """
    warm_up = min(1.0, (step + 1) / phase.warmup_steps) if phase.warmup_steps else 1.0
    if phase.decay == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * step / phase.steps))
    elif phase.decay == "halfway":
        decay = 1.0 if 2 * step < phase.steps else 0.1
    else:
        decay = 1.0
    return warm_up * decay


def adversarial_weight_at(step: int, phase: AdversarialPhase) -> float:
    """A straight line from zero over `ramp_steps`."""
    ramp = min(1.0, step / phase.ramp_steps) if phase.ramp_steps else 1.0
    return phase.adversarial * ramp


def precision_on(device: torch.device, recipe: Recipe) -> Precision:
    """What the recipe's precision means on this device."""
    if recipe.run.precision != "auto":
        return recipe.run.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def open_photos(
    recipe: Recipe,
    folders: list[Path],
    run: Path,
    processes: Processes,
    say: Callable[[str], None],
) -> PhotoPack:
    """The photographs, decoded once by the first process, with the teacher's pictures if any."""

    def open_pack() -> PhotoPack:
        pack = PhotoPack.open(
            folders,
            run / "photos",
            crop_px=recipe.data.crop_px,
            scale=recipe.model.scale,
            reduced=recipe.data.reduced,
        )
        if recipe.data.teacher:
            checkpoint = find_model(recipe.data.teacher).file(".safetensors")
            with TorchEngine(checkpoint, str(processes.device), fp32=True) as teacher:
                halo_px = teacher.info.spec.receptive_radius_px
                pack = pack.add_teacher(teacher.upscale, digest_of(checkpoint), halo_px=halo_px)
        return pack

    if processes.first:
        pack = open_pack()
        if pack.left_out:
            say(f"{len(pack.left_out)} files left out, named in {run / 'left_out.txt'}")
        (run / "left_out.txt").write_text("".join(f"{line}\n" for line in pack.left_out))
    processes.wait()
    if not processes.first:
        pack = open_pack()
    if processes.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(processes.device)
        if pack.bytes < free / 3:
            return pack.to(processes.device)
    return pack


def open_vgg(recipe: Recipe, weights: Path | None, processes: Processes) -> VggFeatures | None:
    """The VGG of the recipe's perceptual loss; None if no phase has one."""
    if not any(phase.perceptual for phase in recipe.phases.values()):
        return None
    perceptual = recipe.perceptual
    if not processes.first:
        processes.wait()  # the first one downloads it for all
    vgg = VggFeatures(vgg_convolutions(weights), perceptual.layers, perceptual.before_relu)
    if processes.first:
        processes.wait()
    return vgg.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def identity_of(
    recipe: Recipe, photos: PhotoPack, init: Path | None, vgg_weights: Path | None
) -> dict[str, str]:
    """Everything that decides the weights, by name: a run resumes only where all of it agrees."""
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
    """Put the state where the run goes on: at its newest checkpoint, at `init`, or at the start.

    Raises:
        UsageError: the checkpoint belongs to another recipe, start or set of photographs.
        ModelRefused: `init` is of another architecture.
    """
    if (found := folder.newest()) is not None:
        record, path = found
        if record["identity"] != identity:
            raise UsageError(
                f"{path} belongs to another run; train into another folder, or remove it:"
                f"{_difference(record['identity'], identity)}"
            )
        state.restore(record, recipe, precision, processes)
        return
    if init is None:
        return
    weights = weights_to_start_from(init, recipe, photos)
    for network in (state.generator, state.average):
        network.load_state_dict(weights)


def weights_to_start_from(init: Path, recipe: Recipe, photos: PhotoPack) -> dict[str, Tensor]:
    """Those of a checkpoint; if the recipe makes its INT8 form, with scales from the photographs.

    Raises:
        ModelRefused: the checkpoint is of another architecture, or of another model than the
            recipe's INT8 form.
    """
    generator, spec = load_checkpoint(init)
    for field in ("architecture", "channels", "blocks", "norm", "head", "scale"):
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
        return quantized_state(generator, calibration_pictures(photos, recipe))
    return generator.state_dict()


def calibration_pictures(photos: PhotoPack, recipe: Recipe) -> Iterator[Tensor]:
    """512 LR crops of the photographs, as the recipe makes them; no step of the run sees them."""
    for index in range(0, 512, 8):
        crops = draw_crops(photos, recipe, recipe.data.seed, GRID_STEP, range(index, index + 8))
        yield crops.lr.cpu().float() / 255


def release(session: Session, path: Path, folders: list[Path], init: Path | None) -> None:
    """Write the averaged weights with their provenance, and the report of the run."""
    scores = {}
    if session.validation is not None:
        scores = {
            "bicubic": session.bicubic_scores(),
            session.recipe.model.name: session.validation_scores(),
        }
    spec = released_spec(session, folders, init, scores)
    save_checkpoint(path, session.state.average, spec)
    if find_spec("matplotlib") is None:
        session.say("no report: its curves need matplotlib; type: pip install matplotlib")
        return
    from srgan_edge.train.run_report import write_report

    write_report(
        path.parent, session.recipe, spec, scores, session.photos.left_out, session.sample_grid()
    )


def released_spec(
    session: Session,
    folders: list[Path],
    init: Path | None,
    scores: dict[str, dict[str, float]],
) -> ModelSpec:
    """The recipe's model with its provenance filled in."""
    recipe, photos, state = session.recipe, session.photos, session.state
    device = session.processes.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = f"{torch.get_num_threads()} threads"
    count = len({photo.path for photo in photos.photos})
    names = ", ".join(folder.name for folder in folders)
    start = "" if init is None else f" from {init.stem}"
    training = Training(
        recipe=f"{recipe.name}{start}",
        data=f"{names}: {count} photographs, {photos.megapixels:.0f} megapixels",
        steps=state.step,
        hardware=f"{where}, {threads}, {session.precision}, {state.seconds / 60:.0f} minutes",
        scores={}
        if session.validation is None
        else {session.validation.name: round(scores[recipe.model.name]["psnr_y"], 3)},
    )
    return dataclasses.replace(recipe.model, training=training)


def digest_of(path: Path) -> str:
    """The start of a file's SHA-256, in hexadecimal."""
    if not path.is_file():
        raise ModelRefused(f"{path}: no such file")
    return sha256_of(path)[:12]


def _difference(there: dict[str, str], here: dict[str, str]) -> str:
    return "".join(
        f"\n  {name}: there {there.get(name, 'absent')}, here {here.get(name, 'absent')}"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    )
