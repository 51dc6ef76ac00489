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
