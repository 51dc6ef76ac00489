"""Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982): steps that use all directions.

The gradient of a convolution has a few strong directions, and Adam spends its steps on those. Muon
replaces the momentum of each kernel by the nearest matrix whose singular values are all alike, so
that weak directions are learned as fast. A small student of 32 x 8 convolutions reached 29.87 dB on
Set5 in 600 steps of 8 crops of 32x32, with Adam 29.12 dB from the same start; Muon takes 6 % more
time a step.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5
"""Newton-Schulz iterations: singular values end between 0.7 and 1.2, which is close enough."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan's: the polynomial that grows small singular values fastest without diverging."""
_LIKE_ADAM = 0.2
"""Root mean square of Adam's steps over its learning rate: with it, one rate suits both."""
_BIASES_RATE = 0.1
"""Ratio of Adam's learning rate to Muon's; at 1, biases diverged and killed features."""


class Muon(torch.optim.Optimizer):
    """Muon for kernels, in which each output channel is a row; Adam for biases and slopes."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]
    ) -> None:
        """Optimize the parameters of one network; `betas` are Adam's, for what is no kernel."""
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step down the gradients there are."""
        assert closure is None, "the gradients are there already"
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in trained:
                if parameter.ndim >= 2:
                    by_shape[parameter.shape].append(parameter)
                else:
                    rate = _BIASES_RATE * group["lr"]
                    self._step_as_adam(parameter, rate, group["betas"], group["eps"])
            for kernels in by_shape.values():
                self._step_alike(kernels, group["lr"])

    def _step_alike(self, kernels: list[Tensor], rate: float) -> None:
        """Step kernels of one shape, all at once."""
        directions = []
        for kernel in kernels:
            assert kernel.grad is not None
            state = self.state[kernel]
            if not state:
                state["momentum"] = torch.zeros_like(kernel)
            momentum = state["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
            directions.append(kernel.grad.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's
        steps = orthogonalised(torch.stack(directions))
        length = _LIKE_ADAM * max(steps.shape[1:]) ** 0.5
        for kernel, step in zip(kernels, steps, strict=True):
            kernel.sub_(step.view(kernel.shape), alpha=rate * length)

    def _step_as_adam(
        self, parameter: Tensor, rate: float, betas: tuple[float, float], eps: float
    ) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state |= {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
            state["step"] = torch.zeros((), device=parameter.device)
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - betas[0])
        square = state["square"].lerp_(gradient.square(), 1 - betas[1])
        mean, square = (
            moment / (1 - beta ** state["step"])
            for moment, beta in zip((mean, square), betas, strict=True)
        )
        parameter.sub_(rate * mean / (square.sqrt() + eps))


def orthogonalised(matrices: Tensor) -> Tensor:
    """[K, m, n] -> [K, m, n]: the singular vectors of each, all singular values about one."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
