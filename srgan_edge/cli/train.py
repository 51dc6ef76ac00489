"""Commands of a training: `train`, `blend`, `degrade` and `data`."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from srgan_edge.cli.common import DeviceOption, JsonOption, print_table, require

if TYPE_CHECKING:  # which needs torch
    from srgan_edge.train.session import Progress as TrainingProgress

commands = typer.Typer()

data = typer.Typer(no_args_is_help=True)

commands.add_typer(data, name="data", help="Look after the photographs of a training.")


@commands.command()
def train(
    data: Annotated[list[Path], typer.Option(help="Folder of photographs; repeatable.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A shipped recipe, or a TOML file.")
    ] = "srgan",
    validation: Annotated[
        Path | None, typer.Option("--val", help="Benchmark folder with HR/ and LRx4/.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Weights to start from, for the pixel phase's."),
    ] = None,
    vgg_weights: Annotated[
        Path | None, typer.Option(help="A local VGG, instead of torchvision's VGG19.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a value.")
    ] = None,
    degradation: Annotated[
        str | None, typer.Option(metavar="bicubic|real", help="How LR is made of photographs.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="auto|fp32|bf16|fp16", help="Of the convolutions.")
    ] = None,
    device: DeviceOption = "auto",
    max_minutes: Annotated[float, typer.Option(help="Stop cleanly after so long.")] = float("inf"),
) -> None:
    """Train a generator, alone or against a discriminator; the same command again resumes it."""
    require("torch", "srgan-edge[train]", "training")
    from srgan_edge.model.library import find_model
    from srgan_edge.train.loop import train as train_recipe
    from srgan_edge.train.recipe import Recipe

    named = {"data.degradation": degradation, "run.precision": precision}
    changes = [f"{key}={value}" for key, value in named.items() if value is not None]
    chosen = Recipe.load(recipe, [*changes, *(overrides or [])])
    with live_line() as live:
        released = train_recipe(
            chosen,
            data,
            output,
            validation=validation,
            init=None if init is None else find_model(init).file(".safetensors"),
            vgg_weights=vgg_weights,
            device=device,
            max_minutes=max_minutes,
            on_progress=live.show,
            say=live.say,
        )
    typer.echo(f"wrote {released}")


@commands.command()
def blend(
    pixel: Annotated[str, typer.Argument(metavar="A", help="The faithful one: a pixel model.")],
    gan: Annotated[str, typer.Argument(metavar="B", help="The textured one: the GAN made of it.")],
    alpha: Annotated[float, typer.Option(help="Share of B: 0 is A, 1 is B.")] = 0.8,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
) -> None:
    """Mix the weights of two models of one architecture: fidelity against texture."""
    require("torch", "srgan-edge[train]", "blending")
    from srgan_edge.model.library import find_model
    from srgan_edge.train.release import blend_checkpoints

    ours, theirs = (find_model(name).file(".safetensors") for name in (pixel, gan))
    path = output or Path(f"{theirs.stem}-{alpha:g}.safetensors")
    spec = blend_checkpoints(ours, theirs, alpha, path)
    assert spec.training is not None
    typer.echo(f"wrote {path}: {spec.training.recipe}")


@commands.command()
def degrade(
    photographs: Annotated[
        list[Path], typer.Argument(metavar="IN", help="Photographs, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the small images.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Whose [sources] to draw from.")
    ] = "edge-real",
    variants: Annotated[int, typer.Option(help="Of each photograph.")] = 4,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a value.")
    ] = None,
) -> None:
    """Make small images as people have them out of large ones: JPEG, WebP, frames of videos."""
    require("torch", "srgan-edge[train]", "reading a recipe")
    from srgan_edge.train.recipe import Recipe
    from srgan_edge.train.source_examples import write_examples

    written = write_examples(photographs, output, Recipe.load(recipe, overrides), variants)
    typer.echo(f"wrote {len(written)} images into {output}")


@data.command("check")
def check_data(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Of photographs.")],
    crop: Annotated[int, typer.Option(min=16, help="Side of an HR crop in pixels.")] = 96,
    as_json: JsonOption = False,
) -> None:
    """Name the photographs that are unreadable, tiny, there twice or damaged by JPEG."""
    from rich.console import Console
    from rich.progress import Progress

    from srgan_edge.cli.tables import check_table
    from srgan_edge.train.photo_check import check_photos, check_record

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading")
        found = check_photos(
            folders, crop, lambda done, total: progress.update(task, completed=done, total=total)
        )
    if as_json:
        typer.echo(json.dumps(check_record(found), indent=2))
    else:
        print_table(check_table(found))


# What a training run shows: a live line on a terminal, a plain line at a time elsewhere.
SECONDS_BETWEEN_LINES = 60
"""Where there is no terminal: a log file should not hold a line for every hundred steps."""


class LiveLine:
    """Phase, step, losses, PSNR-Y, speed and time left on stderr."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, step="", measured="")
        self._last_line = 0.0

    def show(self, now: "TrainingProgress") -> None:
        """A report of the run."""
        measured = "  ".join(_measured(now))
        step = f"{now.step:,}/{now.steps:,}"
        if self._progress.console.is_terminal:
            self._progress.update(
                self._task,
                description=now.phase,
                completed=now.step,
                total=now.steps,
                step=step,
                measured=measured,
            )
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or now.step == now.steps:
            self._last_line = time.monotonic()
            self.say(f"{now.phase} {step}  {measured}")

    def say(self, line: str) -> None:
        """One line that stays."""
        self._progress.console.print(escape(line), soft_wrap=True)


@contextmanager
def live_line() -> Iterator[LiveLine]:
    """A line kept up to date while the block runs; silent in all processes but the first."""
    quiet = os.environ.get("RANK", "0") != "0"
    console = Console(stderr=True, highlight=False, quiet=quiet)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[step]}  {task.fields[measured]}"),
        TimeRemainingColumn(compact=True),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield LiveLine(progress)


def _measured(now: "TrainingProgress") -> Iterator[str]:
    if now.psnr_y is not None:
        yield f"{now.psnr_y:.2f} dB"
    yield f"loss {now.values.get('loss', float('nan')):.4f}"
    if "D(real)" in now.values:
        yield f"D {now.values['D(real)']:.2f}/{now.values['D(fake)']:.2f}"
    yield f"{now.steps_per_second:.1f} steps/s"
