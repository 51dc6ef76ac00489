"""The command line: every command in one program, and how a run ends."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer

from srgan_edge import __version__
from srgan_edge.cli import bench as benching
from srgan_edge.cli import compare as comparing
from srgan_edge.cli import export as exporting
from srgan_edge.cli import measure as measuring
from srgan_edge.cli import models as listing
from srgan_edge.cli import plan as planning
from srgan_edge.cli import train as training
from srgan_edge.cli import tune as tuning
from srgan_edge.cli import upscale
from srgan_edge.cli.advice import PARSING_ERROR, one_line
from srgan_edge.cli.plain_help import PlainGroup
from srgan_edge.errors import (
    HostMemoryExhausted,
    Interrupted,
    ReaderGone,
    SrganEdgeError,
    causes_of,
    lacks_memory,
    print_error,
)
from srgan_edge.machine import refuse_too_little, save_address_space

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
):
    app.add_typer(module.commands)


LIBRARIES_BYTES = 256 << 20
"""Address space that NumPy, PyAV and other libraries take. With less, loading them may fail in any
way, or never end."""


def main() -> NoReturn:
    """The entry point: our errors become one line and their exit code, bugs keep a traceback."""
    _restart_in_utf8_mode()
    save_address_space()
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = map(_Unfailing, (sys.stdout, sys.stderr))
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        refuse_too_little(LIBRARIES_BYTES)
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
        _end(interruption)
    except Exception as error:
        if number := _signal_behind(error):
            _end(Interrupted(number))
        if not lacks_memory(error):
            raise
        print_error(HostMemoryExhausted())
        sys.exit(HostMemoryExhausted.exit_code)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        typer.echo(f"srgan-edge {__version__}")
        raise typer.Exit


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


class _Unfailing(io.TextIOBase):
    """A standard stream whose failure ends no work: what cannot be written to it is lost.

    Its reader may have gone, or its disk may be full.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._surviving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._surviving():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of a stream
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # what is in its buffer, and all that follows, goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _open_closed_streams() -> None:
    """Keep closed standard descriptors from being given to files, which messages would destroy.

    They can be read, but not written: a result for a closed standard output fails.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - to the end
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - to the end


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


def _signal_behind(error: BaseException) -> int | None:
    """Return the signal that an error stems from; libraries replace exceptions while they load."""
    signals = (it.signum for it in causes_of(error) if isinstance(it, Interrupted))
    return next(signals, None)


def _end(interruption: Interrupted) -> NoReturn:
    sys.stderr.write(f"srgan-edge: {interruption}\n")
    sys.stderr.flush()
    os._exit(interruption.exit_code)  # a frame in the network could take a minute more
