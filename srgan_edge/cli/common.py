"""Options that several commands have, and what they do with them."""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from srgan_edge.cli.streams import print_result_here
from srgan_edge.errors import UsageError, printable, quoted
from srgan_edge.files import folder_made, free_name, output_failed, refuse_replacing

MODEL_PANEL = "Model"

until_the_end = ExitStack()
"""Resources of the whole command; `main` closes them at its end."""


def bundled_names(incomplete: str) -> list[str]:
    """The models whose names begin with `incomplete`, for the shell's completion."""
    from srgan_edge.model.library import bundled_models, registered_models

    known = [*bundled_models(), *registered_models()]
    return [name for name in known if name.startswith(incomplete)]


ModelOption = Annotated[
    str,
    typer.Option(
        *("-n", "--model"),
        metavar="NAME|FILE",
        help="A model (see `srgan-edge models`), or a model file.",
        autocompletion=bundled_names,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="Runtime: auto, openvino, onnxruntime, torch or tensorrt.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N; onnxruntime also has tensorrt and rtx.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Fp32Option = Annotated[
    bool,
    typer.Option(
        "--fp32", help="Never compute in a precision below FP32.", rich_help_panel=MODEL_PANEL
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OutputFileOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE|DIR/",
        help="File to write, or a folder for it under its default name.",
    ),
]


OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a result that exists.")]


def require(module: str, requirement: str, purpose: str) -> None:
    """One line with the pip command, instead of a traceback from deep inside."""
    from importlib.util import find_spec

    from srgan_edge.errors import ExtraMissing

    if find_spec(module) is None:
        raise ExtraMissing(module, requirement, purpose)


def pixels_or(option: str, text: str, *words: str) -> Any:  # noqa: ANN401 - int or one of words
    if text in words:
        return text
    try:
        return int(text)
    except ValueError:
        possible = ", ".join(words)
        raise UsageError(f"{option} {text!r}; possible: a number of pixels, {possible}") from None


def output_file(
    output: str | None,
    default: Path,
    inputs: Iterable[Path] = (),
    *,
    overwrite: bool,
    beside: Callable[[Path], Iterable[Path]] = lambda path: (),
) -> Path:
    """The file that `-o` names; for a folder, the default name in it. A missing folder is made
    until the command ends, and stays if something is in it.

    Args:
        inputs: files and folders that the command reads, of which no result replaces a file.
        overwrite: the result may replace another file.
        beside: the names of further files that belong to the first.

    Raises:
        UsageError: a file with another suffix than `default` has, an input, or a file that exists
            and may not be replaced.
        OutputFailed: the folder cannot be made.
    """
    path = default if output is None else _named_file(output, default)
    read = list(inputs)
    for written in (path, *beside(path)):
        refuse_replacing(written, read, overwrite=overwrite)
    return path


def names_in(text: str | None) -> list[str]:
    """The names of models in an option that takes several, with commas between them."""
    return [name for name in (text or "").split(",") if name]


def files_of_models(names: Iterable[str]) -> list[Path]:
    """The files of models, which no result of a command that runs them replaces."""
    from srgan_edge.model.library import find_model

    return [path for name in names for path in find_model(name).files.values()]


def say(*lines: str, err: bool = False) -> None:
    """Print lines to stdout, or stderr with `err`, whatever strangers wrote into them."""
    for line in lines:
        typer.echo(printable(line), err=err)


def say_result(*lines: str) -> None:
    """Print lines that are the result of a command, as `say`."""
    print_result_here()
    say(*lines)


def say_json(value: Any) -> None:  # noqa: ANN401 - anything that JSON holds
    """Print JSON to stdout, the result of a command.

    Control characters are escaped, and numbers that JSON cannot hold, such as the infinite PSNR of
    equal images, become null.
    """
    print_result_here()
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:  # noqa: ANN401 - anything that JSON holds, and other numbers
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
    return value


def print_table(table: Any) -> None:  # noqa: ANN401 - anything rich can render
    from rich.console import Console

    print_result_here()
    Console(highlight=False, emoji=False).print(table)


def say_licences(models: Iterable[str]) -> None:
    """Say on stderr which of these models may not be used commercially."""
    from srgan_edge.model.library import find_model

    for name in models:
        if line := find_model(name).spec.licence_line:
            say(line, err=True)


def print_whole_table(table: Any) -> None:  # noqa: ANN401 - anything rich can render
    """Print every digit, however narrow the terminal: a folded number is a wrong one."""
    from rich.console import Console
    from rich.measure import Measurement

    print_result_here()
    console = Console(highlight=False, emoji=False)
    unbounded = console.options.update(max_width=10_000)
    console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table)


def _named_file(output: str, default: Path) -> Path:
    path = Path(output)
    if output.endswith("/") or path.is_dir():
        try:
            until_the_end.enter_context(folder_made(path))
        except OSError as error:
            raise output_failed(path, error) from error
        return path / default.name
    if path.suffix != default.suffix:
        raise UsageError(
            f"-o {path}; possible: a name that ends in {default.suffix}, or a folder "
            f"({quoted(free_name(path, path.suffix))}/)"
        )
    return path
