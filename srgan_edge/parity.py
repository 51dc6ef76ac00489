"""How far two engines are apart, in levels of 255, on the same pixels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from srgan_edge.pixels import Pixels


@dataclass(frozen=True)
class Parity:
    """Differences between two results over a set of pictures."""

    max_levels: int
    mean_levels: float
    psnr_db: float
    """Between the two outputs; infinite if they are equal."""

    def __str__(self) -> str:
        return f"max {self.max_levels} of 255, mean {self.mean_levels:.5f}, {self.psnr_db:.1f} dB"


@dataclass(frozen=True)
class Gate:
    """What a result in a lower precision may differ by, on natural pictures."""

    min_psnr_db: float
    max_levels: int
    mean_levels: float

    def refusals(self, parity: Parity) -> list[str]:
        """Where `parity` misses the gate, each as a phrase; empty if it passes."""
        missed = []
        if parity.psnr_db < self.min_psnr_db:
            missed.append(f"{parity.psnr_db:.1f} dB where {self.min_psnr_db:g} are needed")
        if parity.max_levels > self.max_levels:
            missed.append(f"max {parity.max_levels} where {self.max_levels} are allowed")
        if parity.mean_levels > self.mean_levels:
            missed.append(f"mean {parity.mean_levels:.3f} where {self.mean_levels:g} is allowed")
        return missed


GATES = {"fp16": Gate(60, 2, 0.1), "bf16": Gate(52, 6, 1.0)}
"""By precision, against PyTorch in FP32. On a trained SRGAN, FP16 differs by one level in a
twentieth of the values, which is 61 dB."""


def compare(
    reference: Callable[[Pixels], Pixels],
    candidate: Callable[[Pixels], Pixels],
    batches: Iterable[Pixels],
) -> Parity:
    """Run both on every batch, uint8 [N, H, W, 3], and measure how the results differ."""
    worst = pixels = 0
    absolute = squared = 0.0
    for batch in batches:
        difference = reference(batch).astype(np.int32) - candidate(batch)
        worst = max(worst, int(np.abs(difference).max()))
        absolute += float(np.abs(difference).sum())
        squared += float((difference**2).sum())
        pixels += difference.size
    psnr_db = float("inf") if squared == 0 else 10 * float(np.log10(255**2 * pixels / squared))
    return Parity(worst, absolute / pixels, psnr_db)
