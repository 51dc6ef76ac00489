"""Draw measured speeds as bars with their spread over the turns."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srgan_edge.bench.results import ModelResult, Result
from srgan_edge.errors import printable
from srgan_edge.files import replace_when_whole

_ENGINE, _WHOLE, _REFERENCE = "#4878a8", "#a8c4de", "#8c8c8c"


def draw(result: Result, path: Path, *, overwrite: bool = True) -> None:
    """Draw one panel for each model: frames per second by candidate, engine alone and end to end.

    Whiskers reach from the slowest to the fastest turn; a number says how many times as fast as
    the reference a candidate is.

    Args:
        overwrite: replace a file that appears at `path` in the meantime.

    Raises:
        OutputFailed: `path` cannot be written.
    """
    import matplotlib  # late: everything else here works without the training extra
    from matplotlib import pyplot

    matplotlib.use("Agg")  # never opens a window
    counts = [sum(1 for row in model.rows if row.fps) for model in result.models]
    figure, panels = pyplot.subplots(
        len(result.models),
        figsize=(8, 1.1 + 0.62 * sum(counts) + 0.6 * len(counts)),
        squeeze=False,
        layout="constrained",
        height_ratios=counts,
    )
    for model, panel in zip(result.models, panels[:, 0], strict=True):
        _draw_model(panel, model)
    panels[0, 0].set_title(
        f"frames of {result.width}x{result.height}",
        loc="right",
        fontsize=9,
        color="0.35",
    )
    panels[-1, 0].set_xlabel("frames per second", fontsize=9)
    figure.text(0.01, -0.02, result.machine, fontsize=8, color="0.35", va="top")
    with replace_when_whole(path, "--plot", overwrite=overwrite) as partial:
        figure.savefig(partial, dpi=120, bbox_inches="tight", format="png")
    pyplot.close(figure)


def _draw_model(panel: Any, model: ModelResult) -> None:  # noqa: ANN401 - matplotlib is untyped
    rows = [row for row in model.rows if row.fps]
    for place, row in enumerate(rows):
        color = _REFERENCE if row is model.reference else _ENGINE
        label = "engine alone" if row is rows[-1] and row is not model.reference else None
        right = _bar(panel, place - 0.2, row.fps, color, label)
        if row.end_to_end_fps:
            label = "end to end" if row is rows[-1] else None
            _bar(panel, place + 0.2, row.end_to_end_fps, _WHOLE, label)
        speed_up = model.speed_up(row)
        text = (
            "reference" if row is model.reference else f"{speed_up.median:.1f}x" if speed_up else ""
        )
        panel.annotate(
            text, (right, place - 0.2), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    panel.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    panel.invert_yaxis()
    # The name may be that of a file: bytes that are not UTF-8, or dollars, which are no formula.
    panel.set_title(printable(model.model), loc="left", fontsize=10, parse_math=False)
    panel.set_xlim(0, 1.12 * max(max(row.fps) for row in rows))
    panel.tick_params(axis="x", labelsize=8)
    panel.grid(axis="x", alpha=0.25)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.legend(fontsize=8, frameon=False, loc="lower right")


def _bar(
    panel: Any,  # noqa: ANN401 - matplotlib is untyped
    place: float,
    turns: Sequence[float],
    color: str,
    label: str | None,
) -> float:
    """Draw one bar with its whiskers; return where it ends."""
    median = statistics.median(turns)
    whiskers = [[median - min(turns)], [max(turns) - median]]
    panel.barh(
        place, median, 0.36, xerr=whiskers, color=color, label=label, error_kw={"elinewidth": 1}
    )
    return max(turns)
