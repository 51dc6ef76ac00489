"""One session of a run: its fixed parts, and the work before and after each step.

`loop.py` has the steps themselves: forward, losses and updates. This module has what feeds them,
and the guard, average, log, validation and checkpoint that follow each step.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from srgan_edge.errors import OutputFailed, ResourcesExhausted
from srgan_edge.model.checkpoint import save_checkpoint
from srgan_edge.signals import StopSignals
from srgan_edge.train.batches import Batch, batch_of, crops_ahead, draw_crops
from srgan_edge.train.crops_ahead import CropsAhead
from srgan_edge.train.log import RunLog
from srgan_edge.train.optimizer import DTYPES, Precision
from srgan_edge.train.photos import PhotoPack
from srgan_edge.train.processes import Processes
from srgan_edge.train.recipe import Phase, Recipe
from srgan_edge.train.run_folder import RunFolder
from srgan_edge.train.state import TrainingState
from srgan_edge.train.validation import Validation, sample_grid
from srgan_edge.train.vgg import VggFeatures

MOST_ROLLBACKS = 3
SECONDS_BETWEEN_STEPS_SHOWN = 1.0
TIME_IS_UP = -1
"""Value of `Session.stopped` at the deadline, where a signal would have its number."""


@dataclass(frozen=True)
class Progress:
    """The state of a run as the terminal shows it."""

    phase: str
    step: int
    """Steps done, over both phases."""
    steps: int
    """Total steps of both phases."""
    steps_per_second: float
    values: dict[str, float]
    """Means since the last report: losses, D(real) and D(fake), norms of gradients. Empty between
    the steps that are logged."""
    psnr_y: float | None
    """Latest validation, in dB; None before the first or without a validation folder."""


@dataclass
class Session:
    """Everything that the two loops use."""

    recipe: Recipe
    identity: dict[str, str]
    """Recipe, start, photographs and VGG; a checkpoint must agree with all of them."""
    state: TrainingState
    photos: PhotoPack
    vgg: VggFeatures | None
    precision: Precision
    processes: Processes
    folder: RunFolder
    log: RunLog | None
    """The log of the first process; None in all others."""
    validation: Validation | None
    deadline: float
    """Time to stop at, on the clock of `time.monotonic`."""
    signals: StopSignals
    on_progress: Callable[[Progress], None]
    on_step: Callable[[Progress], None]
    say: Callable[[str], None]
    """Called with one line for the user."""
    stopped: int = 0
    """A signal's number or `TIME_IS_UP`, once this session is to end early."""
    psnr_y: float | None = None
    _reported_at: tuple[int, float] = field(init=False)
    _shown_at: float = field(init=False)
    _resumed_at: tuple[float, float] = field(init=False)
    _ahead: CropsAhead | None = field(init=False)

    def __post_init__(self) -> None:
        now = time.monotonic()
        self._reported_at, self._shown_at = (self.state.step, now), now
        self._resumed_at = (self.state.seconds, now)
        self._ahead = crops_ahead(self.photos, self.recipe)

    # Before a step.

    def goes_on(self, until_step: int) -> bool:
        """Return True if there is a step to do; all processes return the same."""
        if self.state.step >= until_step:
            return False
        late = time.monotonic() >= self.deadline
        # 1 is the clock, and signals count from 2: one of them outweighs another process's clock.
        wish = 1 + self.signals.received if self.signals.received else int(late)
        agreed = self.processes.highest(wish)
        self.stopped = TIME_IS_UP if agreed == 1 else max(agreed - 1, 0)
        return not self.stopped

    def batch(self) -> "Batch":
        """Return this process's share of the step's batch, on its device."""
        if self.recipe.run.compile == "cudagraphs":
            torch.compiler.cudagraph_mark_step_begin()
        # After a rollback, the same crops would diverge again.
        seed = self.recipe.data.seed + (self.state.rollbacks << 32)
        share = self.processes.share(self.recipe.data.batch)
        step = self.state.step
        if self._ahead is None:
            crops = draw_crops(self.photos, self.recipe, seed, step, share)
        else:
            crops = self._ahead.at(seed, step, share)
        return batch_of(crops, self.processes.device)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(
            self.processes.device.type,
            DTYPES[self.precision],
            enabled=self.precision != "fp32",
        )

    # After a step.

    @property
    def phase(self) -> Phase:
        """The phase that the run is in, or has just ended."""
        return self.recipe.pixel if self.state.opponent is None else self.recipe.adversarial

    def end_step(self, norms: dict[str, Tensor], values: dict[str, Tensor]) -> None:
        """Average the weights, count the step, and log, validate and save when due.

        Args:
            norms: gradient norms by network; if one is not finite, the step counts as skipped.
            values: scalars on the device, logged as means.
        """
        state, run = self.state, self.recipe.run
        finite = torch.stack(list(norms.values())).isfinite().all()
        decay = min(self.phase.ema_decay, (1 + state.step) / (10 + state.step))
        update_average(state.average, state.generator, (1 - decay) * finite)
        state.skips_in_row = torch.where(finite, 0.0, state.skips_in_row + 1)
        norms = {f"gradient_norm/{name}": norm for name, norm in norms.items()}
        state.sums.add(values | norms, finite)
        state.step += 1
        if state.step % run.log_every_steps == 0:
            if int(state.skips_in_row) >= run.skips_before_rollback:
                self._roll_back()
                return
            self._report()
        else:
            self._show_step()
        if self.validation is not None and state.step % run.validate_every_steps == 0:
            self._validate()
        if state.step % run.checkpoint_every_steps == 0 and not int(state.skips_in_row):
            self.save()  # a good state for a rollback

    def save(self, *, must: bool = False) -> None:
        """Write a checkpoint; a full disk fails the run only if the save is a `must`."""
        before, resumed_at = self._resumed_at
        self.state.seconds = before + time.monotonic() - resumed_at
        if self.processes.first:
            record = self.state.record() | {"identity": self.identity}
            try:
                if self.log is not None:
                    self.log.flush()  # else a resumed run would lack the entries before this step
                self.folder.save(record, self.state.step, self.recipe.run.checkpoints_kept)
            except OutputFailed as error:
                if must:
                    raise
                self.say(f"checkpoint of step {self.state.step} failed: {error}")
        self.processes.wait()

    def _report(self) -> None:
        state = self.state
        self.processes.average(state.sums.values.values())
        means, skipped = state.sums.take()
        last_step, last_time = self._reported_at
        now = time.monotonic()
        speed = (state.step - last_step) / max(now - last_time, 1e-9)
        self._reported_at, self._shown_at = (state.step, now), now
        if self.log is None:
            return
        scales = {"scale/generator": state.optimizer.scale}
        if state.opponent is not None:
            scales["scale/discriminator"] = state.opponent.optimizer.scale
        rate = state.optimizer.learning_rate
        self.log.write(
            state.step, means | scales | {"learning_rate": rate, "skipped_steps": skipped}
        )
        self.log.write_speed(state.step, speed)
        self.on_progress(self._progress(speed, means))

    def _progress(self, speed: float, values: dict[str, float]) -> Progress:
        phase = "pixel" if self.state.opponent is None else "adversarial"
        return Progress(phase, self.state.step, self.recipe.steps, speed, values, self.psnr_y)

    def _show_step(self) -> None:
        """Show a step that is not logged, which costs no wait for the device."""
        last_step, last_time = self._reported_at
        now = time.monotonic()
        if self.log is not None and now - self._shown_at >= SECONDS_BETWEEN_STEPS_SHOWN:
            self._shown_at = now
            speed = (self.state.step - last_step) / (now - last_time)
            self.on_step(self._progress(speed, {}))

    def _validate(self) -> None:
        if self.log is not None:
            assert self.validation is not None
            scores = self.validation.scores(self.state.average, self.phase)
            self.psnr_y = scores["psnr_y"]
            self.log.write(self.state.step, {f"validation/{k}": v for k, v in scores.items()})
            grid = sample_grid(self.photos, self.recipe, self.state.average)
            self.log.write_images(self.state.step, grid)
            # Prefer the distance of features, where there is one, because texture costs PSNR.
            merit = -scores["perceptual"] if "perceptual" in scores else scores["psnr_y"]
            if self.state.best is None or merit > self.state.best:
                self.state.best = merit
                try:
                    save_checkpoint(
                        self.folder.path / "best.safetensors",
                        self.state.average,
                        self.recipe.model,
                    )
                except OutputFailed as error:
                    self.say(f"best weights not kept: {error}")
        self.processes.wait()

    def _roll_back(self) -> None:
        """Return to the last checkpoint and continue with other crops."""
        run, state, rollbacks = self.recipe.run, self.state, self.state.rollbacks + 1
        where = f"step {state.step}: no finite gradient for {run.skips_before_rollback} steps"
        found = self.folder.newest()
        elsewhere = found is None or (found[0]["opponent"] is None) != (state.opponent is None)
        if found is None or elsewhere or rollbacks > MOST_ROLLBACKS:
            raise ResourcesExhausted(
                f"{where}, and {rollbacks - 1} rollbacks to a checkpoint did not help; "
                "lower the learning rate, or the weight of the adversarial loss"
            )
        record, path = found
        state.restore(record, self.recipe, self.precision, self.processes)
        state.rollbacks = rollbacks
        if self.log is not None:
            self.log.cut(state.step)
        self.say(f"{where}; back to {path.name} with other crops")
        self.save(must=True)


@torch.no_grad()
def update_average(average: nn.Module, generator: nn.Module, share: Tensor) -> None:
    """Move the average towards the generator by `share`, a scalar in [0, 1] on its device."""
    ours, theirs = average.state_dict(), generator.state_dict()
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            tensor.lerp_(theirs[name], share)
        else:
            tensor.copy_(theirs[name])  # a counter of batch normalization
