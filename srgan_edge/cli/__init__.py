"""The command line: every command in one program, and how a run ends."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Annotated, NoReturn, cast

import typer

from srgan_edge import __version__
from srgan_edge.cli import bench as benching
from srgan_edge.cli import compare as comparing
from srgan_edge.cli import export as exporting
from srgan_edge.cli import measure as measuring
from srgan_edge.cli import models as listing
from srgan_edge.cli import plan as planning
from srgan_edge.cli import serve as serving
from srgan_edge.cli import train as training
from srgan_edge.cli import tune as tuning
from srgan_edge.cli import upscale
from srgan_edge.cli.advice import PARSING_ERROR, one_line
from srgan_edge.cli.common import until_the_end
from srgan_edge.cli.plain_help import PlainGroup
from srgan_edge.cli.streams import make_streams_unfailing, open_closed_streams, refuse_lost_result
from srgan_edge.errors import (
    HostMemoryExhausted,
    InputRefused,
    Interrupted,
    ReaderGone,
    SrganEdgeError,
    causes_of,
    file_failed,
    lacks_memory,
    print_error,
)
from srgan_edge.machine import address_space_was_short, refuse_too_little, save_address_space
from srgan_edge.signals import exit_now, heeded_signals

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
for module in (
    upscale,
    comparing,
    training,
    exporting,
    measuring,
    benching,
    planning,
    tuning,
    listing,
    serving,
):
    app.add_typer(module.commands)


LIBRARIES_BYTES = 384 << 20
"""Address space that NumPy, PyAV and other libraries take. With less, loading them may fail in any
way, or never end."""


def main() -> NoReturn:
    """The entry point: our errors become one line and their exit code, bugs keep a traceback."""
    _restart_in_utf8_mode()
    save_address_space()
    open_closed_streams()
    make_streams_unfailing()
    for stopping in heeded_signals():
        signal.signal(stopping, _interrupt)
    # OpenVINO would import its converter of models, which takes longer than all the rest of it.
    sys.modules.setdefault("openvino.tools.ovc", cast(ModuleType, None))
    try:
        refuse_too_little(LIBRARIES_BYTES)
        _refuse_removed_folder()
        with until_the_end:
            code = app(prog_name="srgan-edge", standalone_mode=False) or 0
        refuse_lost_result()
        sys.exit(code)
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
        _end(interruption)
    except Exception as error:
        if number := _signal_behind(error):
            _end(Interrupted(number))
        failure: SrganEdgeError
        if lacks_memory(error) or address_space_was_short(LIBRARIES_BYTES):
            line = f"{HostMemoryExhausted()} ({type(error).__name__}: {error})"
            failure = HostMemoryExhausted(line)
        elif isinstance(error, OSError) and isinstance(error.filename, str | bytes | Path):
            failure = file_failed(error)
        else:
            raise
        print_error(failure)
        sys.exit(failure.exit_code)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        typer.echo(f"srgan-edge {__version__}")
        raise typer.Exit


def _refuse_removed_folder() -> None:
    try:
        os.getcwd()  # noqa: PTH109 - what pathlib and libraries call
    except FileNotFoundError:
        raise InputRefused("the current folder no longer exists; type: cd FOLDER") from None


def _restart_in_utf8_mode() -> None:
    """Start this process over if names of files are in another encoding than UTF-8.

    FFmpeg, TensorBoard and other libraries take names in UTF-8 whatever the locale is, and would
    open other files. In Python's UTF-8 mode a name is its bytes. Output stays in the encoding of
    the locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    with suppress(OSError):  # no /proc: go on as we are
        _, *arguments, _ = Path("/proc/self/cmdline").read_bytes().split(b"\0")
        encoding = sys.stdout.encoding if sys.stdout else "utf-8"
        variables = {"PYTHONIOENCODING": f"{encoding}:backslashreplace", **os.environ}
        command = [os.fsencode(sys.executable), b"-X", b"utf8", *arguments]
        os.execve(sys.executable, command, variables)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


def _signal_behind(error: BaseException) -> int | None:
    """Return the signal that an error stems from; libraries replace exceptions while they load."""
    signals = (it.signum for it in causes_of(error) if isinstance(it, Interrupted))
    return next(signals, None)


def _end(interruption: Interrupted) -> NoReturn:
    sys.stderr.write(f"srgan-edge: {interruption}\n")
    sys.stderr.flush()
    exit_now(interruption.exit_code)  # a frame in the network could take a minute more
