"""What a finished run leaves for people: `report.md`, its curves and its pictures.

Everything is read from the run's log and its released weights, so that it can be written again.
"""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no window, on no machine
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from srgan_edge.files import replace_when_whole
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels
from srgan_edge.train.recipe import Recipe
from srgan_edge.train.run_log import read_log

Curves = tuple[str, tuple[str, ...], bool]
"""A panel: its title, the keys of the log it shows, and whether its scale is logarithmic."""

PANELS: tuple[Curves, ...] = (
    ("PSNR-Y of the validation, dB", ("validation/psnr_y",), False),
    ("VGG distance of the validation", ("validation/perceptual",), False),
    ("content losses", ("l1", "mse", "perceptual", "distillation", "consistency", "grid"), True),
    ("adversarial losses", ("adversarial", "discriminator"), False),
    ("what the discriminator believes", ("D(real)", "D(fake)"), False),
    ("gradient norms", ("gradient_norm/generator", "gradient_norm/discriminator"), True),
)


def write_report(
    run: Path,
    recipe: Recipe,
    spec: ModelSpec,
    scores: dict[str, dict[str, float]],
    left_out: Sequence[str],
    grid: Pixels,
) -> Path:
    """Write `report.md`, `curves.png` and `samples.png` into the run's folder.

    Args:
        scores: by system (`bicubic`, the model), then by metric.
        grid: rows of LR, bicubic, generator and HR.

    Raises:
        OutputFailed: the folder cannot be written.
    """
    log = read_log(run / "log.jsonl")
    with replace_when_whole(run / "curves.png") as temporary:
        draw_curves(log, recipe.pixel.steps, temporary)
    with replace_when_whole(run / "samples.png") as temporary:
        Image.fromarray(grid).save(temporary)
    with replace_when_whole(run / "report.md") as temporary:
        temporary.write_text(_text(recipe, spec, scores, left_out, log))
    return run / "report.md"


def draw_curves(log: list[dict[str, Any]], pixel_steps: int, path: Path) -> None:
    """The panels for which the log has something, two a row; a line parts the phases."""
    panels = [panel for panel in PANELS if any(key in entry for entry in log for key in panel[1])]
    rows = max(1, -(-len(panels) // 2))
    figure, axes = pyplot.subplots(
        rows, 2, figsize=(11, 3 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (title, keys, logarithmic) in zip(axes.flat, panels, strict=False):
        _draw_panel(ax, log, title, keys, logarithmic)
        if log and 0 < pixel_steps < log[-1]["step"]:
            ax.axvline(pixel_steps, color="0.6", linewidth=0.8, linestyle=":")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_panel(
    ax: Axes, log: list[dict[str, Any]], title: str, keys: tuple[str, ...], logarithmic: bool
) -> None:
    for key in keys:
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            steps, values = np.array(points, float).T
            ax.plot(steps, values, label=key.rpartition("/")[2], linewidth=1.1)
    ax.set_title(title, loc="left", fontsize=10)
    ax.set_xlabel("step", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if logarithmic:
        ax.set_yscale("log")
    else:
        ax.ticklabel_format(useOffset=False)
    if len(ax.lines) > 1:
        ax.legend(fontsize=8, frameon=False)


def _text(
    recipe: Recipe,
    spec: ModelSpec,
    scores: dict[str, dict[str, float]],
    left_out: Sequence[str],
    log: list[dict[str, Any]],
) -> str:
    training = spec.training
    assert training is not None
    skipped = sum(entry.get("skipped_steps", 0) for entry in log)
    facts = {
        "recipe": training.recipe,
        "steps": f"{training.steps:,}, of which {skipped} skipped for gradients not finite",
        "data": training.data + (f"; {len(left_out)} files left out" if left_out else ""),
        "hardware": f"{training.hardware}; {platform.platform()}",
    }
    parts = [f"# {spec.name}", _table(["", ""], [[f"**{k}**", v] for k, v in facts.items()])]
    if scores:
        metrics = list(next(iter(scores.values())))
        rows = [[name, *(f"{s[m]:.4f}" for m in metrics)] for name, s in scores.items()]
        parts += ["## Scores", _table(["system", *metrics], rows)]
    parts += ["## Curves", "![curves](curves.png)"]
    parts += ["## Pictures", "LR, bicubic, generator, HR:", "![samples](samples.png)"]
    settings = [[f"`{key}`", f"`{value}`"] for key, value in recipe.flat.items()]
    parts += ["## Recipe", _table(["key", "value"], settings)]
    if left_out:
        parts += ["## Files left out", "\n".join(f"* {line}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
