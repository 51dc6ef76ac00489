"""The log of a run (`log.jsonl` and TensorBoard events) and its final report.

`log.jsonl` has one JSON object per line and nothing that depends on the clock, so a run that was
killed and resumed ends with the same bytes as an uninterrupted one. The report (`report.md`, curves
and images) is made from the log and the released weights alone, so it can be written again.
"""

import json
import platform
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from srgan_edge.files import replace_when_whole
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels
from srgan_edge.train.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.utils.tensorboard import SummaryWriter

Curves = tuple[str, tuple[str, ...], bool]
"""A panel: its title, the keys of the log that it shows, and True for a logarithmic scale."""

PANELS: tuple[Curves, ...] = (
    ("PSNR-Y of the validation, dB", ("validation/psnr_y",), False),
    ("VGG distance of the validation", ("validation/perceptual",), False),
    (
        "content losses",
        ("l1", "mse", "perceptual", "distillation", "consistency", "grid", "spectrum"),
        True,
    ),
    ("adversarial losses", ("adversarial", "discriminator"), False),
    ("what the discriminator believes", ("D(real)", "D(fake)"), False),
    ("gradient norms", ("gradient_norm/generator", "gradient_norm/discriminator"), True),
)


class RunLog:
    """The log of one run folder, opened at the step from which the run continues."""

    def __init__(self, folder: Path, step: int, say: Callable[[str], None]) -> None:
        self._path = folder / "log.jsonl"
        self.cut(step)
        self._board = _open_board(folder, step)
        if self._board is None:
            say("no events for TensorBoard, only log.jsonl; type: pip install tensorboard")

    def cut(self, step: int) -> None:
        """Drop the entries after `step`, because those steps will run again."""
        kept = [entry for entry in read_log(self._path) if entry["step"] <= step]
        with replace_when_whole(self._path) as temporary:
            temporary.write_text("".join(_line(entry) for entry in kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(_line({"step": step} | values))
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def write_speed(self, step: int, steps_per_second: float) -> None:
        """Log the speed for TensorBoard only, because it depends on the clock."""
        if self._board is not None:
            self._board.add_scalar("steps_per_second", steps_per_second, step)

    def write_images(self, step: int, grid: Pixels) -> None:
        if self._board is not None:
            self._board.add_image("LR, bicubic, generator, HR", grid, step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a `log.jsonl`; none if there is no such file.

    An incomplete last line, for example after SIGKILL, is ignored.
    """
    if not path.exists():
        return []
    *lines, _incomplete = path.read_text().split("\n")
    return [json.loads(line) for line in lines]


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
        _draw_curves(log, recipe.pixel.steps, temporary)
    with replace_when_whole(run / "samples.png") as temporary:
        Image.fromarray(grid).save(temporary)
    with replace_when_whole(run / "report.md") as temporary:
        temporary.write_text(_text(recipe, spec, scores, left_out, log))
    return run / "report.md"


def _draw_curves(log: list[dict[str, Any]], pixel_steps: int, path: Path) -> None:
    """Draw the panels for which the log has values; a vertical line separates the phases."""
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if any(key in entry for entry in log for key in panel[1])]
    rows = max(1, -(-len(panels) // 2))
    figure = Figure(figsize=(11, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (title, keys, logarithmic) in zip(axes.flat, panels, strict=False):
        _draw_panel(ax, log, title, keys, logarithmic)
        if log and 0 < pixel_steps < log[-1]["step"]:
            ax.axvline(pixel_steps, color="0.6", linewidth=0.8, linestyle=":")
    figure.savefig(path, dpi=110)


def _open_board(folder: Path, step: int) -> "SummaryWriter | None":
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _draw_panel(
    ax: "Axes", log: list[dict[str, Any]], title: str, keys: tuple[str, ...], logarithmic: bool
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
        "steps": f"{training.steps:,}, {skipped} of them skipped because of gradients not finite",
        "data": training.data + (f"; {len(left_out)} files left out" if left_out else ""),
        "hardware": f"{training.hardware}; {platform.platform()}",
    }
    parts = [f"# {spec.name}", _table(["", ""], [[f"**{k}**", v] for k, v in facts.items()])]
    if scores:
        metrics = list(next(iter(scores.values())))
        rows = [[name, *(f"{s[m]:.4f}" for m in metrics)] for name, s in scores.items()]
        parts += ["## Scores", _table(["system", *metrics], rows)]
    parts += ["## Curves", "![curves](curves.png)"]
    parts += ["## Images", "LR, bicubic, generator, HR:", "![samples](samples.png)"]
    settings = [[f"`{key}`", f"`{value}`"] for key, value in recipe.flat.items()]
    parts += ["## Recipe", _table(["key", "value"], settings)]
    if left_out:
        parts += ["## Files left out", "\n".join(f"* {line}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
