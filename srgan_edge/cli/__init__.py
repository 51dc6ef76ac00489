"""The command line: every command in one program, and how a run ends."""

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from srgan_edge import __version__
from srgan_edge.cli import export as exporting
from srgan_edge.cli import measure as measuring
from srgan_edge.cli import train as training
from srgan_edge.cli import upscale
from srgan_edge.cli.advice import PARSING_ERROR, one_line
from srgan_edge.cli.plain_help import PlainGroup
from srgan_edge.errors import Interrupted, ReaderGone, SrganEdgeError, print_error

app = typer.Typer(
    name="srgan-edge",
    cls=PlainGroup,
    help="Train an SRGAN, export its generator, and upscale images and video with it.",
    epilog="""\b
Start with:               srgan-edge upscale FILE
Options of a command:     srgan-edge COMMAND --help""",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (upscale, training, exporting, measuring):
    app.add_typer(module.commands)


def main() -> NoReturn:
    """The entry point: our errors become one line and their exit code, bugs keep a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(app(prog_name="srgan-edge", standalone_mode=False) or 0)
    except SrganEdgeError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except PARSING_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error))
        else:
            print_error(one_line(error, sys.argv[1:]))
        sys.exit(2)
    except ReaderGone as gone:
        os._exit(gone.exit_code)
    except Interrupted as interruption:
        sys.stderr.write(f"srgan-edge: {interruption}\n")
        sys.stderr.flush()
        os._exit(interruption.exit_code)  # a frame in the network could take a minute more


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        typer.echo(f"srgan-edge {__version__}")
        raise typer.Exit


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)
