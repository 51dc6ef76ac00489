"""Commands of a training: `train`, `blend` and `data`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from srgan_edge.commands.common import DeviceOption, JsonOption, print_table, require

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
    from srgan_edge.models import find_model
    from srgan_edge.train.loop import train as train_recipe
    from srgan_edge.train.recipe import Recipe
    from srgan_edge.train.terminal import live_line

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
    from srgan_edge.models import find_model
    from srgan_edge.train.blend import blend_checkpoints

    ours, theirs = (find_model(name).file(".safetensors") for name in (pixel, gan))
    path = output or Path(f"{theirs.stem}-{alpha:g}.safetensors")
    spec = blend_checkpoints(ours, theirs, alpha, path)
    assert spec.training is not None
    typer.echo(f"wrote {path}: {spec.training.recipe}")


@data.command("check")
def check_data(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Of photographs.")],
    crop: Annotated[int, typer.Option(min=16, help="Side of an HR crop in pixels.")] = 96,
    as_json: JsonOption = False,
) -> None:
    """Name the photographs that are unreadable, tiny, there twice or damaged by JPEG."""
    from rich.console import Console
    from rich.progress import Progress

    from srgan_edge.train.photo_check import check_photos, check_record, check_table

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
