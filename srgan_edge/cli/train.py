"""Commands around training: `train`, `blend`, `degrade` and `data`."""

from pathlib import Path
from typing import Annotated

import typer

from srgan_edge.cli.common import (
    DeviceOption,
    JsonOption,
    OutputFileOption,
    OverwriteOption,
    output_file,
    print_table,
    require,
    say,
    say_json,
)
from srgan_edge.cli.plain_help import PlainCommand, PlainGroup
from srgan_edge.errors import UsageError, quoted

commands = typer.Typer()
data = typer.Typer()
commands.add_typer(
    data,
    name="data",
    cls=PlainGroup,
    no_args_is_help=True,
    help="Examine the photographs for a training run.",
    rich_help_panel="Train",
)

MINI_SET = Path(__file__).parent.parent / "demo" / "photos"
"""The bundled photographs that `train` uses without `--data`."""

MINI_RECIPE = "edge"
"""The smallest generator, without a discriminator: nothing to download."""

MINI_CHANGES = ("pixel.steps=1500", "data.crop_px=96", "data.batch=4")
"""An eighth of the recipe's work per step, which takes 0.04 s of one CPU core (AMD EPYC, AVX-512).

The run takes two to four minutes on two cores."""

MINI_MINUTES = 5.0
"""Time limit on a slower machine; the same command then resumes the run."""


@commands.command(
    cls=PlainCommand,
    rich_help_panel="Train",
    epilog="""\b
Examples:
  srgan-edge train                    # a few minutes on bundled photographs
  srgan-edge train --data photos/ -o runs/mine
  srgan-edge train --data photos/ --recipe edge -o runs/edge""",
)
def train(
    data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of photographs; repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder of the run. By default runs/RECIPE, or runs/first without --data.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A shipped recipe, or a TOML file (default: srgan; edge without --data).",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Weights to start from, instead of the pixel phase."
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option("--val", metavar="DIR", help="Benchmark folder with HR/ in it to measure on."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Stop cleanly after N minutes; the same command resumes. By default unlimited; "
            "5 without --data.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Change a value of the recipe; repeatable.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    degradation: Annotated[
        str | None,
        typer.Option(
            metavar="bicubic|real",
            help="How LR images are made of photographs.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|fp32|bf16|fp16",
            help="Precision of the convolutions.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    vgg_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A local VGG, instead of downloading torchvision's VGG19.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a generator on photographs. The same command again resumes a run."""
    if not data and recipe is not None:
        raise UsageError(
            f"--recipe {recipe} needs photographs; "
            f"type: srgan-edge train --recipe {quoted(recipe)} --data PHOTOS/"
        )
    if max_minutes is not None and max_minutes <= 0:
        raise UsageError(f"--max-minutes {max_minutes:g}; possible: above 0")
    require("torch", "srgan-edge[train]", "training")
    from srgan_edge.cli.progress import live_line
    from srgan_edge.model.library import find_model
    from srgan_edge.train.loop import train as train_recipe
    from srgan_edge.train.recipe import Recipe

    named = {"data.degradation": degradation, "run.precision": precision}
    changes = [f"{key}={value}" for key, value in named.items() if value is not None]
    if not data:
        changes = [*MINI_CHANGES, *changes]
        max_minutes = MINI_MINUTES if max_minutes is None else max_minutes
    name = recipe or ("srgan" if data else MINI_RECIPE)
    run = output or Path("runs") / (Path(name).stem if data else "first")
    chosen = Recipe.load(name, [*changes, *(overrides or [])])
    with live_line() as live:
        if not data:
            live.say(
                f"no --data: training {chosen.model.name} for {chosen.steps} steps on bundled "
                f"photographs, into {run}; to train for real, type: "
                "srgan-edge train --data PHOTOS/ -o runs/NAME"
            )
        elif output is None:
            live.say(f"no -o: training into {run}")
        released = train_recipe(
            chosen,
            data or [MINI_SET],
            run,
            validation=validation,
            init=None if init is None else find_model(init).file(".safetensors"),
            vgg_weights=vgg_weights,
            device=device,
            max_minutes=float("inf") if max_minutes is None else max_minutes,
            on_progress=live.show,
            on_step=live.show,
            on_preparation=live.show_preparation,
            say=live.say,
        )
    say(f"wrote {released}")
    if not data:
        say(f"try it: srgan-edge upscale IMAGE -n {released}")


@commands.command(cls=PlainCommand, rich_help_panel="Train")
def blend(
    pixel: Annotated[str, typer.Argument(metavar="A", help="A faithful model: a pixel model.")],
    gan: Annotated[
        str, typer.Argument(metavar="B", help="A textured model: the GAN that started from A.")
    ],
    alpha: Annotated[
        float, typer.Option(metavar="X", help="Share of B: 0 gives A, 1 gives B.")
    ] = 0.8,
    output: OutputFileOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Mix the weights of two models: fidelity against texture."""
    require("torch", "srgan-edge[train]", "blending")
    from srgan_edge.model.library import find_model
    from srgan_edge.train.release import blend_checkpoints

    ours, theirs = (find_model(name).file(".safetensors") for name in (pixel, gan))
    default = Path(f"{theirs.stem}-{alpha:g}.safetensors")
    path = output_file(output, default, [ours, theirs], overwrite=overwrite)
    spec = blend_checkpoints(ours, theirs, alpha, path, overwrite=overwrite)
    assert spec.training is not None
    say(f"wrote {path}: {spec.training.recipe}")


@commands.command(cls=PlainCommand, rich_help_panel="Train")
def degrade(
    photographs: Annotated[
        list[Path], typer.Argument(metavar="IN", help="Photographs, or folders of them.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder for the small images."),
    ],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Recipe whose [sources] to draw from.")
    ] = "edge-real",
    variants: Annotated[
        int, typer.Option(metavar="N", help="Small images for each photograph.")
    ] = 4,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="SECTION.KEY=VALUE", help="Change a value of the recipe; repeatable."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make small, damaged images of photographs.

    They are damaged as JPEG and WebP files and frames of videos are.
    """
    require("torch", "srgan-edge[train]", "reading a recipe")
    from srgan_edge.train.recipe import Recipe
    from srgan_edge.train.source_examples import write_examples

    chosen = Recipe.load(recipe, overrides)
    written = write_examples(photographs, output, chosen, variants, overwrite=overwrite)
    say(f"wrote {len(written)} images into {output}")


@data.command("check", cls=PlainCommand)
def check_data(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of photographs.")],
    crop: Annotated[
        int, typer.Option(min=16, metavar="PX", help="Side of an HR crop in pixels.")
    ] = 96,
    as_json: JsonOption = False,
) -> None:
    """List photographs that are unreadable, tiny, duplicate or damaged by JPEG."""
    from rich.console import Console
    from rich.progress import Progress

    from srgan_edge.cli.tables import check_table
    from srgan_edge.train.photo_check import check_photos, check_record

    console = Console(stderr=True, emoji=False)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading")
        found = check_photos(
            folders, crop, lambda done, total: progress.update(task, completed=done, total=total)
        )
    if as_json:
        say_json(check_record(found))
    else:
        print_table(check_table(found))
