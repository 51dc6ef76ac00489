"""`srgan-edge bench`: how fast each engine runs a model here, against PyTorch."""

import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srgan_edge.cli.common import (
    DeviceOption,
    JsonOption,
    OverwriteOption,
    bundled_names,
    files_of_models,
    pixels_or,
    print_whole_table,
    require,
    say,
    say_json,
    say_licences,
)
from srgan_edge.cli.plain_help import PlainCommand
from srgan_edge.errors import UsageError
from srgan_edge.files import refuse_replacing

if TYPE_CHECKING:
    from rich.table import Table

    from srgan_edge.bench.results import ModelResult, Result, Row

commands = typer.Typer()

_DEFAULT = "edge-x4"


@commands.command(cls=PlainCommand, rich_help_panel="Measure")
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help=f"Bundled models or model files. By default {_DEFAULT}.",
            autocompletion=bundled_names,
        ),
    ] = None,
    engines: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="Engine to measure; repeatable. By default all installed.",
        ),
    ] = None,
    tiles: Annotated[
        list[str] | None,
        typer.Option(
            *("-t", "--tile"),
            metavar="PX|auto",
            help="Tile to measure; repeatable. By default auto and 128.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Size of the frames in input pixels.")
    ] = "320x180",
    seconds: Annotated[
        float,
        typer.Option(metavar="S", help="Time for each model."),
    ] = 45.0,
    rounds: Annotated[int, typer.Option(metavar="N", help="Most turns that the engines take.")] = 3,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw bars with their spread.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure engines, precisions and tiles here, against PyTorch."""
    from srgan_edge.bench.measure import Plan
    from srgan_edge.bench.measure import bench as measure
    from srgan_edge.bench.results import record
    from srgan_edge.tiling import plan_tiles

    if plot is not None:
        require("matplotlib", "srgan-edge[train]", "--plot")
        if plot.suffix.lower() != ".png":
            raise UsageError(f"--plot {plot}; possible: a name that ends in .png")
        read = files_of_models(models or [_DEFAULT])
        refuse_replacing(plot, read, overwrite=overwrite, option="--plot")
    if not 1 <= rounds <= 1000:
        raise UsageError(f"--rounds {rounds}; possible: 1 to 1000")
    if not 1 <= seconds <= 86_400:
        raise UsageError(f"--seconds {seconds:g}; possible: 1 to 86400")
    width, height = sides_of(size)
    cut = [pixels_or("--tile", tile, "auto") for tile in tiles or ["auto", "128"]]
    for tile in cut:
        plan_tiles(width, height, 0 if tile == "auto" else tile, 0)  # refuses impossible ones
    plan = Plan(
        models=models or [_DEFAULT],
        tiles=cut,
        engines=engines or [],
        device=device,
        width=width,
        height=height,
        seconds=seconds,
        rounds=rounds,
    )
    say_licences(plan.models)
    with Progress() as progress:
        result = measure(plan, progress)
    if as_json:
        say_json(record(result))
    else:
        for model in result.models:
            print_whole_table(_table(result, model))
        say(*_remarks(result))
    if plot is not None:
        from srgan_edge.bench.plot import draw

        draw(result, plot, overwrite=overwrite)
        say(f"wrote {plot}", err=as_json)


def sides_of(size: str) -> tuple[int, int]:
    """Return the width and height of `--size`; raises UsageError."""
    width, cross, height = size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size {size}; possible: width and height in pixels, such as 640x360")
    sides = int(width), int(height)
    if min(sides) < 32 or max(sides) > 4096:
        raise UsageError(f"--size {size}; possible: 32x32 to 4096x4096")
    return sides


class Progress(AbstractContextManager["Progress"]):
    """A bar on a terminal, or else a line every ten seconds; both on stderr."""

    QUIET_SECONDS = 10.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, doing: str, share: float) -> None:
        from rich.markup import escape

        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=escape(doing))
        elif time.monotonic() - self._said >= self.QUIET_SECONDS:
            self._said = time.monotonic()
            say(f"{share:4.0%}  {doing}", err=True)


def _table(result: "Result", model: "ModelResult") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    reference = model.reference
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=escape(f"{model.model}, {result.width}x{result.height}"),
        title_justify="left",
    )
    table.add_column("engine")
    for heading in (
        *("ms p50", "p90", "p99", "fps", "spread", "CPU ms\na frame"),
        "end to\nend fps",
        *("times the\nreference", "GFLOP/s", "of the\nceiling", "cold\nstart s", "peak\nMB"),
    ):
        table.add_column(heading, justify="right")
    for row in model.rows:
        if row.failed is not None or row.ready is None:
            table.add_row(escape(row.label), f"[red]failed: {escape(str(row.failed))}[/]")
            continue
        table.add_row(*map(escape, _cells(model, row)), style="bold" if row is reference else "")
    return table


def _cells(model: "ModelResult", row: "Row") -> list[str]:
    import statistics

    assert row.ready is not None
    speed_up, share = model.speed_up(row), model.ceiling_share(row)
    return [
        row.label,
        *(f"{1e3 * row.latency(percent):.1f}" for percent in (50, 90, 99)),
        f"{statistics.median(row.fps):.2f}",
        f"{min(row.fps):.1f}-{max(row.fps):.1f}",
        f"{1e3 * statistics.median(row.cpu_seconds):.0f}",
        f"{statistics.median(row.end_to_end_fps):.2f}" if row.end_to_end_fps else "-",
        "-" if speed_up is None else f"{speed_up.median:.2f}",
        f"{model.gflops(row):.0f}",
        "-" if share is None else f"{share:.0%}",
        f"{row.cold_start_seconds:.1f}",
        f"{row.ready.peak_mb:.0f}",
    ]


def _remarks(result: "Result") -> list[str]:
    import statistics

    turns = max(len(row.fps) for model in result.models for row in model.rows)
    remarks = [
        f"{result.machine}; medians of {turns} turns, which the engines take one after the other"
    ]
    for model in result.models:
        if (reference := model.reference) is None:
            continue
        why = "" if reference.is_reference else " (the slowest: PyTorch was not measured)"
        ceilings = ", ".join(
            f"{statistics.median(turns):.0f} GFLOP/s in {precision}"
            for precision, turns in model.ceilings.items()
        )
        remarks.append(
            f"{model.model}: the reference is {reference.label}{why}; "
            f"a matrix product reaches {ceilings}"
        )
    return remarks
