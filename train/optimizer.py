"""One network's optimizer: Adam or Muon, its loss scaler, and the guard against gradients that are
not finite.

Nothing here waits for a GPU: whether a step was skipped stays on the device, as its gradient norm.
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from srgan_edge.train.muon import Muon
from srgan_edge.train.processes import Processes

Precision = Literal["fp32", "bf16", "fp16"]
OptimizerKind = Literal["adam", "muon"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types in which autocast computes convolutions."""


class Optimizer:
    """Adam or Muon, skipping every step whose gradients are not all finite.

    Each network has its own optimizer and so its own scaler: an overflow in the discriminator must
    not shrink the generator's scale. Only FP16 changes the scale; with other types it stays at one.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        betas: tuple[float, float],
        precision: Precision,
        processes: Processes,
        kind: OptimizerKind = "adam",
    ) -> None:
        self.parameters = list(parameters)
        self.processes = processes
        self.method: torch.optim.Optimizer
        if kind == "muon":
            self.method = Muon(self.parameters, lr=1e-3, betas=betas)
        else:
            self.method = torch.optim.Adam(self.parameters, betas=betas, fused=True)
        self.moves_scale = precision == "fp16"
        self.scaler = torch.amp.GradScaler(
            processes.device.type, init_scale=2.0**16 if self.moves_scale else 1.0
        )

    def minimize(self, loss: Tensor, learning_rate: float) -> Tensor:
        """Step down the gradient of `loss`, averaged over the processes.

        Returns:
            The norm of the gradient, a scalar on the device; if it is not finite, no step was
            taken.
        """
        for group in self.method.param_groups:
            group["lr"] = learning_rate
        self.method.zero_grad()
        self.scaler.scale(loss).backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.processes.average(gradients)
        self.scaler.unscale_(self.method)
        norm = nn.utils.get_total_norm(gradients)
        self.scaler.step(self.method)
        self.scaler.update(None if self.moves_scale else 1.0)
        return norm

    @property
    def scale(self) -> float:
        """The factor by which losses are multiplied before the backward pass."""
        return self.scaler.get_scale()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the latest step."""
        return float(self.method.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        return {"method": self.method.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        self.scaler.load_state_dict(state["scaler"])
