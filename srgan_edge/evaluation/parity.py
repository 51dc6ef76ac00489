"""Differences between results on the same pixels, in levels of 255, and the limits they must meet.

Two engines are compared with each other, and tiled results with untiled ones, halo by halo. That
shows how large a halo a model needs, and is plotted for its model card.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srgan_edge.engines.base import Engine, EngineInfo
from srgan_edge.files import replace_when_whole
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import plan_tiles, upscale_tiled

TILED_LEVELS = 1
"""Largest difference allowed between tiles with an exact halo and whole frames: other shapes may
select other kernels, which add in another order. With the same kernel they are identical."""

ACCEPTED_LEVELS = 1
"""Largest difference that counts as rounding when the smallest halo is chosen."""


@dataclass(frozen=True)
class Parity:
    """Differences between two results over a set of images."""

    max_levels: int
    p999_levels: int
    """99.9th percentile of the differences."""
    mean_levels: float
    differing: float
    """Share of the values that differ at all, from 0 to 1."""
    psnr_db: float
    """PSNR between the two results; infinite if they are equal."""

    def __str__(self) -> str:
        return f"max {self.max_levels} of 255, mean {self.mean_levels:.5f}, {self.psnr_db:.1f} dB"


class Differences:
    """Counts the differences between results, image after image."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)

    def add(self, one: Pixels, other: Pixels) -> None:
        """Count the differences between two results of equal shape."""
        assert one.shape == other.shape, f"{one.shape} is not {other.shape}"
        levels = np.abs(one.astype(np.int16) - other)
        self._counts += np.bincount(levels.ravel(), minlength=256)

    @property
    def parity(self) -> Parity:
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
    """Limits on the difference of a result in a lower precision, on natural images."""

    min_psnr_db: float
    max_levels: float
    mean_levels: float
    psnr_y_loss_db: float = 0.02
    """Largest loss of PSNR-Y on a benchmark."""

    def refusals(self, parity: Parity) -> list[str]:
        """Return a phrase for each limit that `parity` exceeds; empty if it passes."""
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
    "tf32": Gate(60, 2, 0.1),  # multiplies with FP16's precision
    "fp16": Gate(60, 2, 0.1),
    "bf16": Gate(52, 6, 1.0),
    "int8": Gate(40, math.inf, math.inf, psnr_y_loss_db=0.15),
}
"""Precision -> limits against PyTorch in FP32. FP32 itself may add in another order, which
sometimes rounds a value to the next level. On a trained SRGAN, FP16 does so to a twentieth of the
values: 61 dB."""


def gate_of(spec: ModelSpec, precision: str) -> Gate:
    """Return the limits for a model; a quantized one has its own, whatever its other precision."""
    return GATES["int8" if spec.quantized_from else precision]


@dataclass(frozen=True)
class Verdict:
    """The results of verifying one engine."""

    info: EngineInfo
    parity: Parity
    """Difference from PyTorch in FP32 on natural images, including odd and tiny sizes."""
    tiled: Parity | None
    """Difference between tiles with an exact halo and whole frames, both from this engine. None if
    it accepts a single shape, and therefore no whole frames."""
    psnr_y_loss_db: dict[str, float]
    """Benchmark -> loss against PyTorch in FP32; a gain is negative."""

    @property
    def refusals(self) -> list[str]:
        """A phrase for each limit that the engine exceeds; empty if it passes all."""
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


@dataclass(frozen=True)
class HaloError:
    """The error that one halo causes, over all images."""

    halo_px: int
    max_levels: int
    """Largest difference between tiled and untiled results, in levels of 255."""
    differing: float
    """Share of the values that differ at all, from 0 to 1."""


def halo_errors(engine: Engine, images: Iterable[Pixels], tile_px: int) -> Iterator[HaloError]:
    """Measure every halo from 0 to the receptive radius, on images uint8 [H, W, 3].

    Small tiles have many seams and therefore reveal more; the error of a seam does not depend on
    the tile size.
    """
    wholes = [(image, engine.upscale(image[None])[0]) for image in images]
    for halo_px in range(engine.info.spec.receptive_radius_px + 1):
        differences = Differences()
        for image, whole in wholes:
            height, width = image.shape[:2]
            plan = plan_tiles(width, height, tile_px, halo_px)
            tiled = upscale_tiled(engine.upscale, image, plan, engine.info.spec.scale, batch=4)
            differences.add(tiled, whole)
        parity = differences.parity
        yield HaloError(halo_px, parity.max_levels, parity.differing)


def smallest_halo_px(errors: Iterable[HaloError]) -> int:
    """Return the smallest halo such that neither it nor a larger one exceeds `ACCEPTED_LEVELS`."""
    halo_px = 0
    for error in errors:
        if error.max_levels > ACCEPTED_LEVELS:
            halo_px = error.halo_px + 1
    return halo_px


def draw_halo_plot(
    errors: Sequence[HaloError], halo_px: int, title: str, path: Path, *, overwrite: bool = True
) -> None:
    """Plot the largest difference and the share of differing values, with a line at `halo_px`.

    Args:
        overwrite: replace a file that appears at `path` in the meantime.

    Raises:
        OutputFailed: `path` cannot be written.
    """
    import matplotlib  # late: everything else here works without the training extra
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

    matplotlib.use("Agg")  # never opens a window
    halos = [error.halo_px for error in errors]
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(7, 5), sharex=True, layout="constrained"
    )
    above.plot(halos, [error.max_levels for error in errors], marker="o", markersize=3)
    above.axhline(ACCEPTED_LEVELS, color="0.6", linewidth=0.8, linestyle=":")
    above.set_ylabel("largest difference, levels of 255", fontsize=8)
    above.set_yscale("symlog", linthresh=1)
    above.set_yticks([0, 1, 2, 5, 10, 20, 50, 100, 255])
    above.yaxis.set_major_formatter(ScalarFormatter())
    above.yaxis.set_minor_locator(NullLocator())
    above.set_ylim(0, 1.3 * max(error.max_levels for error in errors) + 0.5)
    above.set_title(title, loc="left", fontsize=10, parse_math=False)
    below.plot(halos, [100 * error.differing for error in errors], marker="o", markersize=3)
    below.set_ylabel("values that differ, %", fontsize=8)
    below.set_xlabel("halo, px of the input", fontsize=8)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in (above, below):
        ax.axvline(halo_px, color="tab:green", linewidth=1, label=f"auto: {halo_px} px")
        ax.axvline(halos[-1], color="0.5", linewidth=1, label=f"exact: {halos[-1]} px")
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    above.legend(fontsize=8, frameon=True, framealpha=1, edgecolor="none", loc="upper right")
    with replace_when_whole(path, "--plot", overwrite=overwrite) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)
