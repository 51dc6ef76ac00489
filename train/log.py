"""The log of a run (`log.jsonl` and TensorBoard events) and its final report.

`log.jsonl` has one JSON object per line and nothing that depends on the clock, so a run that was
killed and resumed ends with the same bytes as an uninterrupted one. The report (`report.md`, curves
and images) is made from the log and the released weights alone, so it can be written again.
"""

import json
import os
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from srgan_edge.errors import InputDamaged, OutputFailed, printable
from srgan_edge.files import is_taken, output_failed, replace_when_whole
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
        """Read the log, and drop what follows `step`.

        Raises:
            InputDamaged: the log cannot be read.
            OutputFailed: the folder cannot be written.
        """
        self._path, self._say = folder / "log.jsonl", say
        self._whole_bytes = 0
        self._waiting: list[dict[str, Any]] = []  # entries for which the disk had no room
        self.cut(step)
        self._board: SummaryWriter | None = None
        if find_spec("tensorboard") is None:
            say("no events for TensorBoard, only log.jsonl; type: pip install tensorboard")
            return
        with self._to_board():
            self._board = _open_board(folder, step)
            threading.excepthook = _without_board_threads(threading.excepthook)

    def cut(self, step: int) -> None:
        """Drop the entries after `step`, because those steps will run again."""
        if self._whole_bytes:
            os.truncate(self._path, self._whole_bytes)
        found = read_log(self._path) + self._waiting
        kept = [entry for entry in found if entry["step"] <= step]
        content = "".join(_line(entry) for entry in kept).encode()
        with replace_when_whole(self._path) as temporary:
            temporary.write_bytes(content)
        self._whole_bytes, self._waiting = len(content), []

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append an entry; if the disk is full, it waits for the next call."""
        was_waiting = bool(self._waiting)
        self._waiting.append({"step": step} | values)
        try:
            self.flush()
        except OutputFailed as error:
            if not was_waiting:
                self._say(f"log of step {step} waits for room: {error}")
        with self._to_board() as board:
            for name, value in values.items():
                if board is not None:
                    board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write the entries that wait for room.

        Raises:
            OutputFailed: there is still none.
        """
        if not self._waiting:
            return
        content = "".join(_line(entry) for entry in self._waiting).encode()
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._whole_bytes)  # a failed write may have left a part of a line
                file.seek(self._whole_bytes)
                file.write(content)
        except OSError as error:
            raise output_failed(self._path, error) from error
        self._whole_bytes += len(content)
        self._waiting = []

    def write_speed(self, step: int, steps_per_second: float) -> None:
        """Log the speed for TensorBoard only, because it depends on the clock."""
        with self._to_board() as board:
            if board is not None:
                board.add_scalar("steps_per_second", steps_per_second, step)

    def write_images(self, step: int, grid: Pixels) -> None:
        with self._to_board() as board:
            if board is not None:
                board.add_image("LR, bicubic, generator, HR", grid, step, dataformats="HWC")

    @contextmanager
    def _to_board(self) -> Iterator["SummaryWriter | None"]:
        """Give up the events after a failure: the run and log.jsonl do not need them."""
        try:
            yield self._board
        except (OSError, ValueError) as error:
            self._board = None
            self._say(f"no more events for TensorBoard, only log.jsonl: {error}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._to_board() as board:
            if board is not None:
                board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a `log.jsonl`; none if there is no such file.

    An incomplete last line, for example after SIGKILL, is ignored.

    Raises:
        InputDamaged: it is not a file, or a line is not an entry.
    """
    if not is_taken(path):
        return []
    if not path.is_file():
        raise InputDamaged(f"{path}: not a file; remove it to go on without its curves")
    *lines, _incomplete = path.read_bytes().split(b"\n")
    return [_entry(path, number, line) for number, line in enumerate(lines, 1)]


def _entry(path: Path, number: int, line: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        entry = json.loads(line)
        known = isinstance(entry, dict) and type(entry.get("step")) is int
        if known and all(isinstance(value, (int, float)) for value in entry.values()):
            return dict(entry)
    raise InputDamaged(
        f"{path}, line {number}: damaged; remove the file to go on without its curves"
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
        _draw_curves(log, recipe.pixel.steps, temporary)
    with replace_when_whole(run / "samples.png") as temporary:
        Image.fromarray(grid).save(temporary)
    with replace_when_whole(run / "report.md") as temporary:
        temporary.write_text(_text(recipe, spec, scores, left_out, log), encoding="utf-8")
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


def _open_board(folder: Path, step: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step)


def _without_board_threads(shown: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a hook that shows no errors of TensorBoard's writer threads.

    A full disk ends such a thread with a traceback; the next call to the writer raises the error
    again, and `RunLog` reports it in a line.
    """

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            shown(failure)

    return hook


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
        parts += ["## Files left out", "\n".join(f"* {printable(line)}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
