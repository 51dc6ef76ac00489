"""The error of tiles against their halo, as a picture for a model card."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, on no machine
from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from srgan_edge.files import replace_when_whole
from srgan_edge.halo import ACCEPTED_LEVELS, HaloError


def draw_halo_plot(errors: Sequence[HaloError], halo_px: int, title: str, path: Path) -> None:
    """Largest difference and share of differing values, halo by halo; a line at `halo_px`.

    Raises:
        OutputFailed: `path` cannot be written.
    """
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
    above.set_title(title, loc="left", fontsize=10)
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
    with replace_when_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
