"""`srgan-edge serve`, a service with a page, and `submit`, which sends it a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srgan_edge.cli.common import (
    DeviceOption,
    EngineOption,
    OverwriteOption,
    bundled_names,
    names_in,
    require,
    say,
    say_result,
)
from srgan_edge.cli.plain_help import PlainCommand
from srgan_edge.cli.streams import refuse_lost_result
from srgan_edge.errors import Interrupted, OutputFailed, SrganEdgeError, UsageError, quoted

if TYPE_CHECKING:
    from srgan_edge.client import Client, JobInfo

commands = typer.Typer()

TOKEN_VARIABLE = "SRGAN_EDGE_TOKEN"

_LIMITS, _KEEPING, _TOKENS = "Limits", "Storage", "Tokens"
_MIB = 1 << 20
_TOKEN_FILE_BYTES = 4096
_MOST_BYTES = 1 << 60


@commands.command(
    cls=PlainCommand,
    rich_help_panel="Upscale",
    epilog="""\b
Examples:
  srgan-edge serve
  srgan-edge serve --data /var/lib/srgan-edge --new-token phone
  srgan-edge serve --data /var/lib/srgan-edge --host 0.0.0.0""",
)
def serve(
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where to listen. Beyond this machine needs a token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: any free port.")] = (
        8000
    ),
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for jobs, files and tokens.")
    ] = Path("srgan-edge-data"),
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder whose files may be named instead of uploaded."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            *("-n", "--model"),
            metavar="NAME|auto",
            help="Model of requests that name none.",
            autocompletion=bundled_names,
        ),
    ] = "auto",
    models: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="The only models that requests may name."),
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    batch_window_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="How long images wait to share a call of the engine. By default 5 on a GPU, 0 on "
            "a CPU.",
        ),
    ] = None,
    new_token: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Print a new token for a client, and end. With any, all requests need one.",
            rich_help_panel=_TOKENS,
        ),
    ] = None,
    revoke_token: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Revoke the tokens of a client, and end.", rich_help_panel=_TOKENS
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further name by which the service is called; repeatable.",
            rich_help_panel=_TOKENS,
        ),
    ] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            help="Believe X-Forwarded-For and X-Forwarded-Proto of a proxy on this machine.",
            rich_help_panel=_TOKENS,
        ),
    ] = False,
    max_mb: Annotated[
        float, typer.Option(metavar="MB", help="Largest upload.", rich_help_panel=_LIMITS)
    ] = 2048,
    max_pixels: Annotated[
        int, typer.Option(metavar="N", help="Largest image, in pixels.", rich_help_panel=_LIMITS)
    ] = 100_000_000,
    max_seconds: Annotated[
        float,
        typer.Option(
            metavar="S", help="Longest time that one job may run.", rich_help_panel=_LIMITS
        ),
    ] = 86_400,
    max_jobs: Annotated[
        int,
        typer.Option(
            metavar="N", help="Jobs of one client that are not done.", rich_help_panel=_LIMITS
        ),
    ] = 100,
    max_queue: Annotated[
        int,
        typer.Option(metavar="N", help="Jobs of all that are not done.", rich_help_panel=_LIMITS),
    ] = 1000,
    max_waiting: Annotated[
        int,
        typer.Option(
            metavar="N", help="Images that clients wait for at once.", rich_help_panel=_LIMITS
        ),
    ] = 256,
    max_connections: Annotated[
        int, typer.Option(metavar="N", help="Requests under way.", rich_help_panel=_LIMITS)
    ] = 512,
    keep_days: Annotated[
        float,
        typer.Option(metavar="D", help="How long results are kept.", rich_help_panel=_KEEPING),
    ] = 7,
    keep_gb: Annotated[
        float,
        typer.Option(
            metavar="GB",
            help="Size of all files, above which the oldest results are deleted.",
            rich_help_panel=_KEEPING,
        ),
    ] = 50,
    keep_free_mb: Annotated[
        float,
        typer.Option(
            metavar="MB", help="Room on the disk that no job takes.", rich_help_panel=_KEEPING
        ),
    ] = 1024,
    drain_seconds: Annotated[
        float,
        typer.Option(
            metavar="S", help="Time for requests to end after SIGTERM.", rich_help_panel=_LIMITS
        ),
    ] = 25,
) -> None:
    """Upscale for other programs and for browsers: an HTTP service with a queue and a page."""
    for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(module, "srgan-edge[serve]", "srgan-edge serve")
    if new_token is not None or revoke_token is not None:
        _change_tokens(data, new_token, revoke_token)
        return
    from srgan_edge.model.library import find_model
    from srgan_edge.serve.server import serve as run
    from srgan_edge.serve.settings import Settings
    from srgan_edge.suited import AUTO

    named = tuple(names_in(models))
    for name in (model, *named):
        if name != AUTO:
            find_model(name)
    run(
        Settings(
            data=data,
            host=host,
            port=port,
            root=root,
            model=model,
            models=named,
            engine=engine,
            device=device,
            batch_window_ms=batch_window_ms,
            max_bytes=_bytes(max_mb, _MIB),
            max_pixels=max_pixels,
            max_seconds=max_seconds,
            max_jobs=max_jobs,
            max_queue=max_queue,
            max_waiting=max_waiting,
            max_connections=max_connections,
            keep_days=keep_days,
            keep_bytes=_bytes(keep_gb, 1 << 30),
            keep_free_bytes=_bytes(keep_free_mb, _MIB),
            drain_seconds=drain_seconds,
            allowed_hosts=tuple(name.lower() for name in allowed_host or ()),
            behind_proxy=behind_proxy,
        )
    )


def _bytes(number: float, unit: int) -> int:
    """Return a number of units in bytes; infinity is more than any disk has."""
    return round(max(-_MOST_BYTES, min(_MOST_BYTES, number * unit)))


def _change_tokens(data: Path, new: str | None, revoked: str | None) -> None:
    from contextlib import closing

    from srgan_edge.serve.store import JobStore
    from srgan_edge.serve.tokens import Tokens

    with closing(JobStore(data)) as store:
        tokens = Tokens(store.database)
        if revoked is not None:
            if revoked not in (names := tokens.names):
                raise UsageError(
                    f"no token of {revoked!r}; there are: {', '.join(names) or 'none'}"
                )
            tokens.revoke(revoked)
            say(f"revoked the tokens of {revoked}", err=True)
        if new is not None:
            token = tokens.make(new)
            say_result(token)
            try:
                refuse_lost_result()
            except OutputFailed:
                tokens.end(token)  # nobody knows it
                raise
            say("this token is not shown again; only its hash is kept", err=True)


@commands.command(
    cls=PlainCommand,
    rich_help_panel="Upscale",
    epilog="""\b
Examples:
  srgan-edge submit box:8000 video.mp4 --wait
  srgan-edge submit box:8000 photo.png -n edge-x4 --wait -o large.png""",
)
def submit(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of a running `serve`.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Image or video to upscale.")],
    model: Annotated[
        str | None,
        typer.Option("-n", "--model", metavar="NAME", help="By default that of the service."),
    ] = None,
    outscale: Annotated[
        float | None, typer.Option("-s", "--outscale", metavar="X", help="Final scale, up to 16.")
    ] = None,
    ext: Annotated[
        str | None,
        typer.Option("-f", "--ext", metavar="EXT", help="File type of the result."),
    ] = None,
    priority: Annotated[
        int, typer.Option(metavar="N", help="-9 to 9; higher ones start first.")
    ] = 0,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the result and download it.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Where to write it. By default beside FILE."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"File with the token. By default the variable {TOKEN_VARIABLE}.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
) -> None:
    """Send a file to a service, which upscales it; with --wait, fetch the result."""
    from srgan_edge.client import Client
    from srgan_edge.files import free_partial_result, refuse_replacing
    from srgan_edge.serve.work import suffix_of

    if output is not None:
        refuse_replacing(output, [file], overwrite=overwrite)
        if not wait:
            raise UsageError(f"-o {output} without --wait; type: --wait -o {quoted(output)}")
        ext = _type_named_by(output, ext)
    elif wait:  # before the work, as far as the name is known
        likely = f".{ext.lstrip('.')}" if ext else suffix_of(file.name)
        refuse_replacing(_beside(file, likely), [file], overwrite=overwrite)
    with (
        _advice_for(file),
        Client(url, _token(token_file), patience_seconds=600 if wait else 0) as client,
    ):
        job = client.submit(file, model=model, outscale=outscale, format=ext, priority=priority)
        if not wait:
            say_result(job.id)
            return
        if not quiet:
            say(f"{file.name} is job {job.id}", err=True)
        try:
            done = client.wait(job.id, lambda it: None if quiet else _show(it))
        except Interrupted as stopped:
            raise Interrupted(stopped.signum, f"job {job.id} goes on in the service") from None
        except SrganEdgeError:
            ended = client.job(job.id)
            if ended.result_bytes is not None:  # a part of a damaged video
                whole = _target(client, ended, file, output, ext)
                part = free_partial_result(whole, overwrite=overwrite)
                client.download(ended, part, overwrite=overwrite)
                say(f"wrote {part}, which is what could be decoded", err=True)
            raise
        target = _target(client, done, file, output, ext)
        client.download(done, target, overwrite=overwrite)
        for note in done.notes if not quiet else ():
            say(note, err=True)
        say(f"wrote {target}  {done.size}, {done.seconds:.1f} s", err=True)


@contextmanager
def _advice_for(file: Path) -> Iterator[None]:
    """Add the folder to advice of the service, which knows the name of the file alone."""
    try:
        yield
    except SrganEdgeError as error:
        line = str(error)
        names_it_again = line.count(file.name) > 1 and str(file) not in line
        if file.parent != Path() and names_it_again:
            error.args = (f"{line}; to type that, first: cd {quoted(file.parent)}",)
        raise


def _target(
    client: "Client", job: "JobInfo", file: Path, output: Path | None, ext: str | None
) -> Path:
    """Return the file for a result that exists, whose type the service may have chosen."""
    suffix = f".{ext.lstrip('.')}" if ext else Path(client.result_name(job)).suffix
    return output or _beside(file, suffix)


def _beside(file: Path, suffix: str) -> Path:
    from srgan_edge.serve.work import without_suffix

    return file.with_name(f"{without_suffix(file.name)}_upscaled{suffix}")


def _type_named_by(output: Path, ext: str | None) -> str | None:
    """Return the type of a result that is written to `output`, which its name states.

    Raises:
        UsageError: `-f` names another one.
    """
    named = output.suffix.lower().removeprefix(".")
    if ext and named and named != ext.lower().removeprefix("."):
        raise UsageError(f"-o {output} and -f {ext}; possible: one of them, or both alike")
    return ext or named or None


def _show(job: "JobInfo") -> None:
    """Print a line of progress, over the last one on a terminal."""
    import sys

    from srgan_edge.errors import printable

    if not sys.stderr.isatty():
        return
    of = "" if job.frames_expected is None else f" of {job.frames_expected}"
    place = f", {job.position} before it" if job.position else ""
    text = f"{job.state}{place}" if job.state != "running" else f"{job.frames}{of} frames"
    sys.stderr.write(f"\r\x1b[K{printable(job.name)}: {text}")
    if job.has_ended:
        sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


def _token(file: Path | None) -> str | None:
    """Return the token in a file or in the environment; never one that was typed."""
    import os

    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        with file.open("rb") as opened:  # which may be a pipe of the shell
            return opened.read(_TOKEN_FILE_BYTES).decode().strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {file} cannot be read: {error}") from None
