"""Training, in the two phases of the paper: fit the pixels, then play against a discriminator.

Read `train`, `pixel_phase` and `adversarial_phase` from top to bottom. The same command resumes a
run: networks, optimizers, average and counters come from its newest checkpoint, and crops are a
function of (seed, step, index). The moving average of the weights is released.
"""

import math
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srgan_edge.errors import InputRefused, Interrupted, UsageError
from srgan_edge.model.network import TrainableReLU
from srgan_edge.signals import stop_signals
from srgan_edge.train import losses
from srgan_edge.train.batches import Batch
from srgan_edge.train.log import RunLog
from srgan_edge.train.optimizer import Precision
from srgan_edge.train.photo_files import photo_paths
from srgan_edge.train.prepare import begin, identity_of, open_photos, open_vgg
from srgan_edge.train.processes import join_processes
from srgan_edge.train.recipe import AdversarialPhase, Phase, PixelPhase, Recipe
from srgan_edge.train.release import release
from srgan_edge.train.run_folder import RunFolder, lock_run_folder, refuse_run_folder
from srgan_edge.train.session import TIME_IS_UP, Progress, Session
from srgan_edge.train.state import TrainingState
from srgan_edge.train.validation import Validation


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
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_preparation: Callable[[str, int, int], None] = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train `recipe` on the photographs below `folders`; returns the path of the released weights.

    Args:
        run: folder for checkpoints, log and the released weights; made if missing. If it contains a
            checkpoint of this recipe, the run continues from there.
        validation: benchmark folder, scored during the run.
        init: weights to start from, in place of the pixel phase if an adversarial one follows.
        vgg_weights: a local VGG for the perceptual loss, instead of torchvision's VGG19.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        max_minutes: stop cleanly after this time; the same command resumes the run.
        on_progress: called at every step that is logged.
        on_step: called at most once a second between them, without values.
        on_preparation: called before the first step with the name of the work on photographs, and
            how many of how many are done.
        say: called with lines for the user, for example if a checkpoint could not be written.

    Raises:
        InputRefused: no usable photograph, or `validation` is not a benchmark folder.
        UsageError: `run` contains the state of another recipe, or files that the run would replace
            and that no run made, or it lies in a folder that the run reads.
        ModelRefused: `init` or the teacher is not a checkpoint, or has another architecture.
        OutputFailed: `run` cannot be written, or another process trains into it.
        ResourcesExhausted: training diverges with any crops, or VGG19 cannot be downloaded.
        Interrupted: a signal of `STOPPING` arrived; the current step was finished and saved.
    """
    deadline = time.monotonic() + 60 * max_minutes
    if (original := recipe.model.quantized_from) and init is None:
        raise UsageError(f"{recipe.model.name} is an INT8 form; type --init {original} too")
    if init is not None and recipe.adversarial.steps:
        recipe = recipe.adversarial_alone()
    if validation is not None and not (validation / "HR").is_dir():
        raise InputRefused(f"{validation}: no folder HR/ in it, which a benchmark has")
    if not [path for folder in folders for path in photo_paths(folder)]:  # before any download
        raise InputRefused(f"{', '.join(map(str, folders))}: no photograph in it or below it")
    with ExitStack() as stack:
        processes = stack.enter_context(join_processes(device))
        folder = RunFolder(run)
        if processes.first:
            read = [validation, init, vgg_weights]
            read_places = [*folders, *(place for place in read if place is not None)]
            refuse_run_folder(run, f"{recipe.model.name}.safetensors", read_places)
            folder = stack.enter_context(lock_run_folder(run))
        precision = precision_on(processes.device, recipe)
        vgg = open_vgg(recipe, vgg_weights, processes)
        photos = open_photos(recipe, folders, run, processes, say, on_preparation)
        state = TrainingState.start(
            recipe.model, recipe.data.seed, precision, processes, recipe.pixel.optimizer
        )
        identity = identity_of(recipe, photos, init, vgg_weights)
        begin(state, recipe, identity, folder, init, photos, precision, processes)
        if state.step:
            done = state.step >= recipe.steps
            say(f"all {recipe.steps} steps are done" if done else f"resuming at step {state.step}")
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
            validation=None
            if validation is None
            else Validation(validation, recipe, vgg, processes.device),
            deadline=deadline,
            signals=signals,
            on_progress=on_progress,
            on_step=on_step,
            say=say,
        )

        # By default cuDNN computes FP32 as TF32, and sums in any order.
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
    learn_only(state.generator, phase.parts)
    slope = leak_into(state.generator) if phase.leak else None
    generator = compiled(session, state.generator)
    while session.goes_on(until_step=phase.steps):
        if slope is not None:
            slope.fill_(leak_at(state.step, phase))
        batch = session.batch()
        with session.autocast():
            sr = generator(batch.lr).float()
            terms = content_losses(sr, batch, phase, session)
        loss = weighted_sum(terms, phase)
        norm = state.optimizer.minimize(loss, phase.learning_rate * schedule_at(state.step, phase))
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
    learn_only(state.generator, phase.parts)
    generator = compiled(session, state.generator)
    discriminator = compiled(session, opponent.discriminator)
    while session.goes_on(until_step=first_step + phase.steps):
        step = state.step - first_step
        batch = session.batch()
        with session.autocast():
            sr = generator(batch.lr).float()

        # The discriminator learns to tell this batch's images from real ones.
        opponent.discriminator.requires_grad_(True)
        with session.autocast():
            real, fake = discriminator(batch.hr), discriminator(sr.detach())
        verdict = losses.discriminator_adversarial(real, fake, phase.adversarial_loss)
        judge_norm = opponent.optimizer.minimize(
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
        norm = state.optimizer.minimize(loss, phase.learning_rate * schedule_at(step, phase))

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
    """Return every loss of the phase but the adversarial one, by the name of its weight."""
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
        clean = session.recipe.data.degradation == "bicubic"
        terms["consistency"] = losses.consistency(
            sr, batch.lr if clean else losses.bicubic_reduced(batch.hr, session.recipe.model.scale)
        )
    if phase.grid:
        terms["grid"] = losses.grid(sr, batch.hr, session.recipe.model.scale)
    if phase.spectrum:
        terms["spectrum"] = losses.spectrum(sr, batch.hr)
    return terms


def learn_only(generator: nn.Module, parts: Collection[str]) -> None:
    """Let gradients reach only these parts of the generator; none named: all of them."""
    for name, part in generator.named_children():
        part.requires_grad_(not parts or name in parts)


def compiled(session: Session, network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network compiled as `run.compile` demands, sharing its weights."""
    mode = session.recipe.run.compile
    if mode == "none":
        return network
    if mode == "inductor":
        return torch.compile(network)
    replayed = torch.compile(network, mode="reduce-overhead")
    return lambda images: replayed(images).clone()  # the next replay overwrites its output


def weighted_sum(
    terms: dict[str, Tensor], phase: Phase, weights: dict[str, float] | None = None
) -> Tensor:
    """Return the sum of all terms times their weights in `weights`, or else in the phase."""
    given = weights or {}
    weighted = [term * given.get(name, getattr(phase, name)) for name, term in terms.items()]
    return torch.stack(weighted).sum()


def schedule_at(step: int, phase: Phase) -> float:
    """Return the factor of all learning rates: linear warm-up, then the phase's decay.

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


def leak_into(generator: nn.Module) -> Tensor:
    """Return the slope below zero that each ReLU of a generator has from now on in training."""
    slope = torch.zeros((), device=next(generator.parameters()).device)
    for layer in generator.modules():
        if isinstance(layer, TrainableReLU):
            layer.slope = slope
    return slope


def leak_at(step: int, phase: PixelPhase) -> float:
    """Return the slope of ReLU below zero: a line from `leak` to zero at seven tenths.

    Note: a slope that stayed for half of the steps and was then zero at once did as well in 3,000
    steps, but harmed a run of 11,000, which had come to depend on it: 30.4 dB on Set5 where 31.1
    were usual.
    """
    return phase.leak * max(0.0, 1 - step / (0.7 * phase.steps))


def adversarial_weight_at(step: int, phase: AdversarialPhase) -> float:
    """Return the weight of the adversarial loss, which rises linearly over `ramp_steps`."""
    ramp = min(1.0, step / phase.ramp_steps) if phase.ramp_steps else 1.0
    return phase.adversarial * ramp


def precision_on(device: torch.device, recipe: Recipe) -> Precision:
    """Return the recipe's precision, with `auto` resolved for this device."""
    if recipe.run.precision != "auto":
        return recipe.run.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"
