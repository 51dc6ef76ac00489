"""Options that several commands have, and what they do with them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from srgan_edge.errors import UsageError

NETWORK = "Network"
"""Where in the help of a command the options below are."""

ModelOption = Annotated[
    str,
    typer.Option(
        *("-n", "--model"),
        metavar="NAME|FILE",
        help="Bundled model, or a file.",
        rich_help_panel=NETWORK,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="auto, openvino, onnxruntime, torch or tensorrt.",
        rich_help_panel=NETWORK,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N; of onnxruntime also tensorrt or rtx.",
        rich_help_panel=NETWORK,
    ),
]
Fp32Option = Annotated[
    bool,
    typer.Option("--fp32", help="Forbid any precision below FP32.", rich_help_panel=NETWORK),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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


def refuse_other_suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise UsageError(f"-o {path}; possible: a name that ends in {suffix}")


def print_table(table: Any) -> None:  # noqa: ANN401 - anything rich can render
    from rich.console import Console

    Console(highlight=False).print(table)


def print_whole_table(table: Any) -> None:  # noqa: ANN401 - anything rich can render
    """Every digit of it, however narrow the terminal: a folded number is a wrong one."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(highlight=False)
    unbounded = console.options.update(max_width=10_000)
    console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table)
