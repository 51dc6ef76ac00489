"""`srgan-edge models`: list the models of this machine, and register or remove some."""

from pathlib import Path
from typing import Annotated

import typer

from srgan_edge.cli.common import JsonOption, print_whole_table, say, say_json
from srgan_edge.cli.plain_help import PlainCommand, PlainGroup

commands = typer.Typer()
models = typer.Typer()
commands.add_typer(
    models,
    name="models",
    cls=PlainGroup,
    help="List, register or remove models.",
    rich_help_panel="Measure",
)


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List bundled, registered and downloaded models."""
    if context.invoked_subcommand is not None:
        return
    from srgan_edge.cli.tables import model_records, models_table

    records = model_records()
    if as_json:
        say_json(records)
    else:
        print_whole_table(models_table(records))


@models.command(cls=PlainCommand)
def add(
    model: Annotated[
        str,
        typer.Argument(metavar="FILE", help="An .onnx or .safetensors model, or its address."),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name for -n, such as photo-x2. Default: the file's."),
    ] = None,
) -> None:
    """Register a model under a name; the file is copied."""
    from srgan_edge.errors import UsageError
    from srgan_edge.model.library import bundled_models, read_spec
    from srgan_edge.model.store import downloaded, is_model_address, register
    from srgan_edge.suited import AUTO

    is_address = is_model_address(model)
    file = downloaded(model, allow_network=False) if is_address else Path(model)
    chosen = file.stem if name is None else name
    if chosen in bundled_models():
        raise UsageError(f"{chosen} is a bundled model; type --name NAME with another one")
    if chosen == AUTO:
        raise UsageError(f"-n {AUTO} chooses a model; type --name NAME with another name")
    spec = read_spec(file)  # refuse a foreign file now
    stem, _, scale = chosen.rpartition("-x")
    if stem and scale.isdecimal() and int(scale) != spec.scale:  # -s would take it for that
        raise UsageError(
            f"{chosen} names a scale of {scale}, and the model has {spec.scale}; "
            f"type --name {stem}-x{spec.scale}"
        )
    path = register(file, chosen)
    say(f"registered {chosen}: {spec.architecture}, x{spec.scale}, licence {spec.licence}; {path}")


@models.command("rm", cls=PlainCommand)
def remove_models(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names that `models` shows.")],
) -> None:
    """Remove registered and downloaded models."""
    from srgan_edge.model.store import remove

    for name in names:
        for path in remove(name):
            say(f"removed {path}")
