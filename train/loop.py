"""The training loop: pixels first; the adversarial phase of the paper takes its place after it.

Read `train` from top to bottom. Resuming is the same command again: weights, optimiser, average and
step come back from `RUN/state.pt`, and since a batch is a function of (seed, step) nothing else has
to. What is released is the moving average of the weights, never the last step's.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from srgan_edge.atomic import replace_when_whole
from srgan_edge.checkpoint import save_checkpoint
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.evaluate import evaluate_folder
from srgan_edge.model import generator_from_spec
from srgan_edge.spec import ModelSpec, Training
from srgan_edge.train.data import PhotoSet
from srgan_edge.train.recipe import PixelPhase, Recipe

PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss}


@dataclass(frozen=True)
class Progress:
    """What the terminal shows while a run goes on."""

    step: int
    steps: int
    loss: float
    steps_per_second: float
    psnr_y: float | None
    """Latest validation, in dB; None before the first or without a validation folder."""


@dataclass
class TrainingState:
    """All that changes from step to step, and so all that a checkpoint must hold."""

    generator: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def start(cls, spec: ModelSpec, seed: int, device: torch.device) -> "TrainingState":
        torch.manual_seed(seed)
        generator = generator_from_spec(spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = generator_from_spec(spec).to(device)
        average.load_state_dict(generator.state_dict())
        average.eval().requires_grad_(False)
        optimiser = torch.optim.Adam(generator.parameters(), betas=(0.9, 0.99), fused=True)
        return cls(generator, average, optimiser)

    def save(self, path: Path, recipe: Recipe) -> None:
        record = {
            "recipe": repr(recipe),
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with replace_when_whole(path) as temporary:
            torch.save(record, temporary)

    def resume(self, path: Path, recipe: Recipe) -> None:
        record = torch.load(path, map_location="cpu", weights_only=True)
        if record["recipe"] != repr(recipe):
            raise UsageError(
                f"{path} belongs to another recipe; train into another folder, or remove it.\n"
                f"  there: {record['recipe']}\n  here:  {recipe!r}"
            )
        self.generator.load_state_dict(record["generator"])
        self.average.load_state_dict(record["average"])
        self.optimiser.load_state_dict(record["optimiser"])
        self.step, self.seconds = record["step"], record["seconds"]


def train(
    recipe: Recipe,
    folders: list[Path],
    run: Path,
    *,
    validation: Path | None = None,
    device: str = "cpu",
    max_minutes: float = math.inf,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train `recipe` on the photographs below `folders`; returns the checkpoint it released.

    Args:
        run: folder for state, logs and the released checkpoint; made if missing. If it holds the
            state of this recipe, the run goes on from there.
        validation: folder with `HR/` and `LRx4/`; PSNR-Y on it is logged during the run.
        max_minutes: stop cleanly after so long; the same command later goes on.

    Raises:
        InputRefused: no usable photograph.
        UsageError: `run` holds the state of another recipe.
    """
    torch_device = torch.device(device)
    state = TrainingState.start(recipe.model, recipe.data.seed, torch_device)
    state_path = run / "state.pt"
    if state_path.exists():
        state.resume(state_path, recipe)
    photos = PhotoSet(folders, recipe.data.crop_px, recipe.model.scale)
    if validation is not None and not (validation / "HR").is_dir():
        raise InputRefused(
            f"{validation}: no folder HR/ in it; give a benchmark with HR/ and LRx4/"
        )
    run.mkdir(parents=True, exist_ok=True)
    (run / "left_out.txt").write_text("".join(f"{line}\n" for line in photos.left_out))

    with SummaryWriter(run, purge_step=state.step) as log:
        pixel_phase(state, recipe, photos, run, validation, max_minutes, log, on_progress)
        # The adversarial phase goes here: it starts from `state.generator` as the pixel phase left
        # it, adds a discriminator and its optimiser to the state, and has a loop of its own.

    scores = {} if validation is None else {validation.name: validate(state, recipe, validation)}
    spec = released_spec(recipe, photos, folders, state, scores, torch_device)
    released = run / f"{spec.name}.safetensors"
    save_checkpoint(released, state.average, spec)
    return released


def pixel_phase(
    state: TrainingState,
    recipe: Recipe,
    photos: PhotoSet,
    run: Path,
    validation: Path | None,
    max_minutes: float,
    log: SummaryWriter,
    on_progress: Callable[[Progress], None],
) -> None:
    """Fit the generator to the pixels until `recipe.pixel.steps`, or until time is up."""
    phase, device = recipe.pixel, next(state.generator.parameters()).device
    pixel_loss, half = PIXEL_LOSSES[phase.loss], uses_bf16(recipe, device)
    started = last_time = time.monotonic()
    seconds_before, last_step = state.seconds, state.step
    psnr_y = None

    while state.step < phase.steps and (time.monotonic() - started) < 60 * max_minutes:
        # one step
        learning_rate = learning_rate_at(state.step, phase)
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate
        lr, hr = (
            crops.to(device, non_blocking=True).to(memory_format=torch.channels_last).float() / 255
            for crops in photos.batch(recipe.data.seed, state.step, recipe.data.batch)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            sr = state.generator(lr)
        loss = pixel_loss(sr.float(), hr)
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        state.step += 1
        update_average(state.average, state.generator, state.step, phase.ema_decay)

        # log
        if state.step % recipe.run.log_every_steps == 0:
            now = time.monotonic()
            speed = (state.step - last_step) / (now - last_time)
            last_step, last_time = state.step, now
            log.add_scalar("loss/pixel", loss.item(), state.step)
            log.add_scalar("learning_rate", learning_rate, state.step)
            log.add_scalar("steps_per_second", speed, state.step)
            on_progress(Progress(state.step, phase.steps, loss.item(), speed, psnr_y))

        # validate
        if validation is not None and state.step % recipe.run.validate_every_steps == 0:
            psnr_y = validate(state, recipe, validation)
            log.add_scalar(f"psnr_y/{validation.name}", psnr_y, state.step)

        # save
        if state.step % recipe.run.checkpoint_every_steps == 0:
            state.seconds = seconds_before + time.monotonic() - started
            state.save(run / "state.pt", recipe)

    state.seconds = seconds_before + time.monotonic() - started
    state.save(run / "state.pt", recipe)


def uses_bf16(recipe: Recipe, device: torch.device) -> bool:
    """Whether the recipe's precision means BF16 autocast on this device."""
    if recipe.run.precision != "auto":
        return recipe.run.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def learning_rate_at(step: int, phase: PixelPhase) -> float:
    """Linear warm-up, then half a cosine down to zero at the last step."""
    warm_up = min(1.0, (step + 1) / phase.warmup_steps)
    return phase.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / phase.steps))


@torch.no_grad()
def update_average(average: nn.Module, generator: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the weights; it follows faster while there is little past."""
    decay = min(decay, (1 + step) / (10 + step))
    ours, theirs = average.state_dict(), generator.state_dict()
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            tensor.lerp_(theirs[name], 1 - decay)
        else:
            tensor.copy_(theirs[name])


def validate(state: TrainingState, recipe: Recipe, validation: Path) -> float:
    """Mean PSNR-Y in dB of the averaged weights over a benchmark folder."""
    with TorchEngine.from_generator(state.average, recipe.model) as engine:
        return evaluate_folder(engine.upscale, validation, recipe.model.scale).mean.psnr_y


def released_spec(
    recipe: Recipe,
    photos: PhotoSet,
    folders: list[Path],
    state: TrainingState,
    scores: dict[str, float],
    device: torch.device,
) -> ModelSpec:
    """The recipe's model with its provenance filled in."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    names = ", ".join(folder.name for folder in folders)
    training = Training(
        recipe=recipe.name,
        data=f"{names}: {len(photos.photos)} photographs, {photos.megapixels:.0f} megapixels",
        steps=state.step,
        hardware=f"{where}, {torch.get_num_threads()} threads, {state.seconds / 60:.0f} minutes",
        scores={name: round(score, 3) for name, score in scores.items()},
    )
    return dataclasses.replace(recipe.model, training=training)
