"""How far two results are apart, in levels of 255, on the same pixels, and how far they may be."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from srgan_edge.engines.base import EngineInfo
from srgan_edge.pixels import Pixels
from srgan_edge.spec import ModelSpec


@dataclass(frozen=True)
class Parity:
    """Differences between two results over a set of pictures."""

    max_levels: int
    p999_levels: int
    """All but a thousandth of the values differ by no more."""
    mean_levels: float
    differing: float
    """Share of the values that differ at all."""
    psnr_db: float
    """Between the two results; infinite if they are equal."""

    def __str__(self) -> str:
        return f"max {self.max_levels} of 255, mean {self.mean_levels:.5f}, {self.psnr_db:.1f} dB"


class Differences:
    """Counts how many values differ by how much, picture after picture."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)

    def add(self, one: Pixels, other: Pixels) -> None:
        """Two results of one shape."""
        assert one.shape == other.shape, f"{one.shape} is not {other.shape}"
        levels = np.abs(one.astype(np.int16) - other)
        self._counts += np.bincount(levels.ravel(), minlength=256)

    @property
    def parity(self) -> Parity:
        """What was added, summed up."""
        counts, levels = self._counts, np.arange(256)
        values = counts.sum()
        squared = float(counts @ levels**2) / values
        within = np.cumsum(counts) / values
        return Parity(
            max_levels=int(counts.nonzero()[0][-1]),
            p999_levels=int(np.searchsorted(within, 0.999)),
            mean_levels=float(counts @ levels / values),
            differing=float(1 - counts[0] / values),
            psnr_db=math.inf if squared == 0 else 10 * math.log10(255**2 / squared),
        )


@dataclass(frozen=True)
class Gate:
    """What a result in a lower precision may differ by, on natural pictures."""

    min_psnr_db: float
    max_levels: float
    mean_levels: float
    psnr_y_loss_db: float = 0.02
    """On a benchmark."""

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


GATES = {
    "fp32": Gate(80, 1, 0.01),
    "tf32": Gate(60, 2, 0.1),  # multiplies factors of FP16's precision
    "fp16": Gate(60, 2, 0.1),
    "bf16": Gate(52, 6, 1.0),
    "int8": Gate(40, math.inf, math.inf, psnr_y_loss_db=0.15),
}
"""By precision, against PyTorch in FP32. FP32 itself may add in another order, and at times round
a value to the next level. On a trained SRGAN, FP16 does so to a twentieth of them: 61 dB."""


def gate_of(spec: ModelSpec, precision: str) -> Gate:
    """An INT8 form has its own gate, whatever the rest of it is computed in."""
    return GATES["int8" if spec.quantized_from else precision]


TILED_LEVELS = 1
"""By how much tiles with an exact halo may differ from whole frames: other shapes, other kernels,
other orders of addition. On one kernel they are the same bits."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about one engine."""

    info: EngineInfo
    parity: Parity
    """Against PyTorch in FP32 on natural pictures, odd and tiny ones among them."""
    tiled: Parity | None
    """Of tiles with an exact halo against whole frames, both by this engine; None: it takes one
    shape and no other, so that there are no whole frames."""
    psnr_y_loss_db: dict[str, float]
    """By benchmark, against PyTorch in FP32; what is gained is negative."""

    @property
    def refusals(self) -> list[str]:
        """Where the engine misses a gate, each as a phrase; empty if it passes all."""
        gate = gate_of(self.info.spec, self.info.precision)
        missed = gate.refusals(self.parity)
        if self.tiled is not None and self.tiled.max_levels > TILED_LEVELS:
            missed.append(
                f"tiles differ by {self.tiled.max_levels} where {TILED_LEVELS} is allowed"
            )
        for name, loss in self.psnr_y_loss_db.items():
            if loss > gate.psnr_y_loss_db:
                missed.append(f"{name} loses {loss:.3f} dB where {gate.psnr_y_loss_db} is allowed")
        return missed


def compare(
    reference: Callable[[Pixels], Pixels],
    candidate: Callable[[Pixels], Pixels],
    batches: Iterable[Pixels],
) -> Parity:
    """Run both on every batch, uint8 [N, H, W, 3], and measure how the results differ."""
    differences = Differences()
    for batch in batches:
        differences.add(reference(batch), candidate(batch))
    return differences.parity
