"""The state that changes from step to step, all of which a checkpoint holds.

Crops, defects and their order are functions of (seed, step, index), so no random generator has a
state worth keeping once the weights are drawn; later draws restart from the step.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from srgan_edge.model.network import generator_from_spec
from srgan_edge.model.spec import ModelSpec
from srgan_edge.train.discriminator import build_discriminator
from srgan_edge.train.optimizer import Optimizer, OptimizerKind, Precision
from srgan_edge.train.processes import Processes
from srgan_edge.train.recipe import AdversarialPhase, Recipe


@dataclass
class Opponent:
    """The discriminator and its optimizer, which exist in the adversarial phase only."""

    discriminator: nn.Module
    optimizer: Optimizer

    @classmethod
    def start(
        cls, phase: AdversarialPhase, crop_px: int, precision: Precision, processes: Processes
    ) -> Self:
        network: nn.Module = build_discriminator(
            phase.discriminator, crop_px, phase.discriminator_channels
        )
        network = network.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if processes.size > 1 and processes.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        # Beta 1 as in the paper; longer averages of squares would outlive the generator judged.
        return cls(network, Optimizer(network.parameters(), (0.9, 0.99), precision, processes))


@dataclass
class Sums:
    """Running sums of logged values, kept on the device: reading them each step would stall it."""

    values: dict[str, Tensor] = field(default_factory=dict)
    """Sums over the finite steps."""
    finite: Tensor | int = 0
    steps: int = 0

    def add(self, values: dict[str, Tensor], finite: Tensor) -> None:
        for name, value in values.items():
            term = torch.where(finite, value.detach().double(), 0.0)
            self.values[name] = self.values.get(name, 0.0) + term
        self.finite = self.finite + finite.long()
        self.steps += 1

    def take(self) -> tuple[dict[str, float], int]:
        """Return the means over the finite steps since the last call, and the number of others."""
        finite, steps = int(self.finite), self.steps
        means = {name: float(value) / finite for name, value in self.values.items() if finite}
        self.values, self.finite, self.steps = {}, 0, 0
        return means, steps - finite


@dataclass
class TrainingState:
    """Networks, optimizers and counters at one step."""

    generator: nn.Module
    average: nn.Module
    """The moving average of the generator's weights, which is evaluated and released."""
    optimizer: Optimizer
    opponent: Opponent | None = None
    step: int = 0
    """Steps done, over both phases."""
    seconds: float = 0.0
    """Training time over all sessions of the run."""
    rollbacks: int = 0
    best: float | None = None
    """The best validation of the phase so far, as `session.py` judges it."""
    sums: Sums = field(default_factory=Sums)
    skips_in_row: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Number of steps without finite gradients since the last good one; on the device."""

    @classmethod
    def start(
        cls,
        spec: ModelSpec,
        seed: int,
        precision: Precision,
        processes: Processes,
        kind: OptimizerKind = "adam",
    ) -> Self:
        torch.manual_seed(seed)
        generator = generator_from_spec(spec)
        generator = generator.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = generator_from_spec(spec).to(processes.device)
        average.load_state_dict(generator.state_dict())
        average.eval().requires_grad_(False)
        optimizer = generator_optimizer(generator, precision, processes, kind)
        state = cls(generator, average, optimizer)
        state.skips_in_row = state.skips_in_row.to(processes.device)
        return state

    def meet_opponent(self, recipe: Recipe, precision: Precision, processes: Processes) -> Opponent:
        """Enter the adversarial phase from the averaged weights, with fresh optimizers."""
        torch.manual_seed(recipe.data.seed + 1)
        self.generator.load_state_dict(self.average.state_dict())
        self.optimizer = generator_optimizer(
            self.generator, precision, processes, recipe.adversarial.optimizer
        )
        self.best = None
        self.opponent = Opponent.start(
            recipe.adversarial, recipe.data.crop_px, precision, processes
        )
        return self.opponent

    def record(self) -> dict[str, Any]:
        """Return tensors, numbers and strings, which `torch.load(weights_only=True)` accepts."""
        return {
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "opponent": None
            if self.opponent is None
            else {
                "discriminator": self.opponent.discriminator.state_dict(),
                "optimizer": self.opponent.optimizer.state_dict(),
            },
            "step": self.step,
            "seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "best": self.best,
            "sums": vars(self.sums) | {"values": dict(self.sums.values)},
            "skips_in_row": self.skips_in_row,
        }

    def restore(
        self, record: dict[str, Any], recipe: Recipe, precision: Precision, processes: Processes
    ) -> None:
        """Invert `record`; existing networks stay the same objects."""
        if record["opponent"] is not None:
            opponent = self.opponent or self.meet_opponent(recipe, precision, processes)
            opponent.discriminator.load_state_dict(record["opponent"]["discriminator"])
            opponent.optimizer.load_state_dict(record["opponent"]["optimizer"])
        self.generator.load_state_dict(record["generator"])
        self.average.load_state_dict(record["average"])
        self.optimizer.load_state_dict(record["optimizer"])
        self.step, self.seconds = record["step"], record["seconds"]
        self.rollbacks, self.best = record["rollbacks"], record["best"]
        self.skips_in_row = record["skips_in_row"].to(processes.device)
        sums = record["sums"]
        values = {name: value.to(processes.device) for name, value in sums["values"].items()}
        self.sums = Sums(values, int(sums["finite"]), sums["steps"])


def generator_optimizer(
    generator: nn.Module, precision: Precision, processes: Processes, kind: OptimizerKind
) -> Optimizer:
    return Optimizer(generator.parameters(), (0.9, 0.99), precision, processes, kind)
