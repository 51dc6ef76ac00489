"""`srgan-edge tune`: the fastest way to run a model on this machine, kept for `upscale`."""

from typing import TYPE_CHECKING, Annotated

import typer

from srgan_edge.cli.bench import Progress, sides_of
from srgan_edge.cli.common import (
    DeviceOption,
    EngineOption,
    JsonOption,
    bundled_names,
    print_whole_table,
    say,
    say_json,
    say_licences,
)
from srgan_edge.cli.plain_help import PlainCommand
from srgan_edge.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from srgan_edge.bench.tune import Tuned

commands = typer.Typer()


@commands.command(cls=PlainCommand, rich_help_panel="Measure")
def tune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A bundled model or a model file.",
            autocompletion=bundled_names,
        ),
    ] = "edge-x4",
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Size of the videos in input pixels.")
    ] = "320x180",
    seconds: Annotated[float, typer.Option(metavar="S", help="Time for measuring.")] = 30.0,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find the fastest tile, calls at once and precision; upscale then uses them."""
    from dataclasses import asdict

    from srgan_edge.bench.tune import tune as measure
    from srgan_edge.engines import choose_engine
    from srgan_edge.engines.cache import CACHE_VARIABLE
    from srgan_edge.files import output_failed
    from srgan_edge.jobs.plan import Options
    from srgan_edge.model.library import find_model
    from srgan_edge.tiling import Tiling
    from srgan_edge.tuning import Circumstances, Tuning, tuning_path
    from srgan_edge.video.frame import Encoding

    if not 1 <= seconds <= 3600:
        raise UsageError(f"--seconds {seconds:g}; possible: 1 to 3600")
    width, height = sides_of(size)
    files = find_model(model)
    circumstances = Circumstances.of(files, engine, device)
    options = Options(model, Encoding(), Tiling(joined=True), engine, device)
    say_licences([model])
    with Progress() as progress:
        found = measure(options, width, height, seconds, progress)
    name = choose_engine(files, engine, device).path.stem
    path = tuning_path(name, width, height)
    try:
        Tuning(width, height, circumstances, found.best, found.times_default).save(path)
    except OSError as error:
        raise output_failed(path, error, CACHE_VARIABLE) from error
    if as_json:
        trials = [
            {**asdict(it.setting), "precision": it.precision, "windows": it.windows, "fps": it.fps}
            for it in found.trials
        ]
        best = {**asdict(found.best), "times_default": found.times_default}
        say_json({"file": str(path), "best": best, "skipped": found.skipped, "trials": trials})
        return
    print_whole_table(_table(found, f"{model}, {width}x{height}"))
    if found.skipped:
        say(f"no time for {found.skipped} of the settings; type --seconds {2 * seconds:g}")
    if found.times_default == 1:
        say("nothing is faster than the default by more than timings vary; it stays")
    else:
        say(f"{found.best}: {found.times_default:.2f} times as fast as the default")
    say(f"kept in {path}; upscale uses it for {width}x{height}, unless --no-tune is typed")


def _table(found: "Tuned", title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=escape(title),
        title_justify="left",
    )
    table.add_column("setting")
    for heading in ("windows", "precision", "fps", "turns"):
        table.add_column(heading, justify="right")
    for number, trial in enumerate(found.trials):
        name = f"{trial.setting}{' (default)' if number == 0 else ''}"
        cells = str(trial.windows), trial.precision, f"{trial.median:.2f}", str(len(trial.fps))
        table.add_row(escape(name), *cells, style="bold" if trial.setting == found.best else "")
    return table
