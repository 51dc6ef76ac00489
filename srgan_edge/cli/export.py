"""Commands that make one form of a model of another: `export`, `convert`, `quantize`, `engines`."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from srgan_edge.cli.common import JsonOption, print_whole_table, refuse_other_suffix, require
from srgan_edge.errors import UsageError
from srgan_edge.model.spec import Head

commands = typer.Typer()

engines = typer.Typer(no_args_is_help=True)
commands.add_typer(engines, name="engines", help="Look after the engines built on this machine.")


@commands.command()
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Bundled name, .safetensors; .engine: --triton.")
    ],
    onnx: Annotated[bool, typer.Option("--onnx", help="The deployment ONNX.")] = False,
    tensorrt: Annotated[
        bool,
        typer.Option("--tensorrt", help="An engine of TensorRT for the GPU here: the rule, if so."),
    ] = False,
    rtx: Annotated[
        bool, typer.Option("--rtx", help="An engine of TensorRT-RTX; builds without a GPU.")
    ] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="OpenVINO's IR.")] = False,
    triton: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Add MODEL, or FILE.engine, to a Triton repository."),
    ] = None,
    io: Annotated[
        Literal["bytes", "float"],
        typer.Option(help="Of --onnx: uint8 NHWC, or float32 NCHW in [0, 1] for other programs."),
    ] = "bytes",
    fp16: Annotated[bool, typer.Option("--fp16", help="In FP16, as engines are.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Convolve in BF16.")] = False,
    tile: Annotated[
        int | None,
        typer.Option("-t", "--tile", help="Tile core in pixels; the halo is added."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Tiles a call.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="NxHxW", help="Input shape, instead of --tile."),
    ] = None,
    dynamic: Annotated[
        str | None, typer.Option(metavar="MIN,OPT,MAX", help="Any shape between two, each NxHxW.")
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(metavar="X.Y,...", help="Of the GPUs --rtx is for; 8.6,8.9,12.0 by itself."),
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", help="Scratch memory --tensorrt may use.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(metavar="0-5", help="How long --tensorrt searches.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
) -> None:
    """Turn a checkpoint into what an edge box runs, and show that it is equal."""
    target = _target_of(
        {
            "--onnx": onnx,
            "--tensorrt": tensorrt,
            "--rtx": rtx,
            "--openvino": openvino,
            "--triton": triton is not None,
        }
    )
    builders = ("--tensorrt", "--rtx")
    _refuse_options_of_others(
        target,
        {
            "--io float": (io == "float", ("--onnx",)),
            "--fp16": (fp16, ("--onnx", *builders)),
            "--bf16": (bf16, builders),
            "--tile": (tile is not None, builders),
            "--batch": (batch is not None, builders),
            "--shape": (shape is not None, builders),
            "--dynamic": (dynamic is not None, builders),
            "--compute-capability": (compute_capability is not None, ("--rtx",)),
            "--workspace": (workspace is not None, ("--tensorrt",)),
            "--optimization-level": (optimization_level is not None, ("--tensorrt",)),
            "-o": (output is not None, ("--onnx", "--openvino", *builders)),
        },
    )
    if fp16 and bf16:
        raise UsageError("--fp16 and --bf16; possible: one of them")
    require("torch", "srgan-edge[export]", "exporting")
    require("onnx", "srgan-edge[export]", "exporting")
    if triton is not None:
        _export_to_triton(model, triton)
    elif target == "--onnx":
        _export_onnx(model, output, in_floats=io == "float", in_half=fp16)
    elif target == "--openvino":
        _export_ir(model, output)
    else:
        from srgan_edge.engines.cache import EngineCache
        from srgan_edge.export.engine import Target, export_engine
        from srgan_edge.export.tensorrt import Search
        from srgan_edge.model.library import find_model, read_spec
        from srgan_edge.model.passport import ENGINE_SUFFIX, Profile, read_engine, write_engine

        spec = read_spec(find_model(model).file(".safetensors"))
        profile = Profile.from_options(spec, tile, batch, shape, dynamic)
        if rtx:
            capabilities = compute_capability or "8.6,8.9,12.0"
            chosen = Target.rtx(tuple(capabilities.split(",")))
        else:
            chosen = Target.tensorrt(Search(workspace, optimization_level))
        precision: Literal["fp16", "bf16"] = "bf16" if bf16 else "fp16"
        if output is not None:
            refuse_other_suffix(output, ENGINE_SUFFIX)
        cache = EngineCache()
        with _bar_of_a_build() as (say, show):
            path = export_engine(model, precision, profile, chosen, cache, say, show)
        if output is not None:
            typer.echo(f"cache     {path}")
            write_engine(output, *read_engine(path))
            path = output
        size_kib = path.stat().st_size / 1024
        typer.echo(f"file      {path} ({size_kib:.0f} KiB), its passport beside it")


@commands.command()
def convert(
    weights: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A foreign x4 generator.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    head: Annotated[
        Head, typer.Option(help="tanh if its output is (tanh(x) + 1) / 2; else linear.")
    ] = "linear",
) -> None:
    """Import a foreign SRResNet, SRGAN or SRVGGNetCompact generator, without running its pickle."""
    require("torch", "srgan-edge[export]", "converting")
    from srgan_edge.export.convert import checkpoint_from_pickle

    path = output or weights.with_suffix(".safetensors")
    spec = checkpoint_from_pickle(weights, path, path.stem, head)
    typer.echo(f"wrote {path}: {spec.architecture}, {spec.blocks} blocks of {spec.channels}")


@commands.command()
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundled name or .safetensors.")],
    data: Annotated[
        list[Path], typer.Option(help="Folder of images to measure scales on; repeatable.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
) -> None:
    """Make the INT8 form of a model: faster where a processor multiplies bytes faster."""
    require("torch", "srgan-edge[export]", "quantizing")
    require("onnx", "srgan-edge[export]", "quantizing")
    from srgan_edge.export.quantize import quantize_checkpoint
    from srgan_edge.model.library import find_model

    checkpoint = find_model(model).file(".safetensors")
    path = output or Path(f"{checkpoint.stem}-int8.safetensors")
    refuse_other_suffix(path, ".safetensors")
    if path.exists() and path.samefile(checkpoint):
        raise UsageError(f"-o {path} is the model itself; name another file")
    parity = quantize_checkpoint(checkpoint, data, path)
    typer.echo(f"wrote {path}; against {checkpoint.stem} in fp32: {parity}")


@engines.command("list")
def list_engines(as_json: JsonOption = False) -> None:
    """Show the engines in the cache, and which of them can be used here."""
    from dataclasses import asdict

    from srgan_edge.cli.tables import engines_table
    from srgan_edge.engines.cache import EngineCache

    cache = EngineCache()
    found = cache.engines()
    if as_json:
        records = [asdict(engine) | {"path": str(engine.path)} for engine in found]
        typer.echo(json.dumps(records, indent=2))
    elif found:
        print_whole_table(engines_table(found))
    else:
        typer.echo(f"no engines in {cache.folder}")


@engines.command("rm")
def remove_engines(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `list` shows them.")],
) -> None:
    """Remove engines from the cache, with their passports."""
    from srgan_edge.engines.cache import EngineCache

    cache = EngineCache()
    for name in names:
        typer.echo(f"removed {cache.remove(name)}")


@engines.command("prune")
def prune_engines() -> None:
    """Remove the engines that cannot be used here: damaged, or of another runtime."""
    from srgan_edge.engines.cache import EngineCache

    removed = EngineCache().prune()
    for engine in removed:
        typer.echo(f"removed {engine.path}: {engine.trouble}")
    if not removed:
        typer.echo("nothing to remove")


def _target_of(wanted: dict[str, bool]) -> str:
    """The one target that was asked for, by its option; TensorRT if it is here and none was."""
    from importlib.util import find_spec

    chosen = [name for name, is_wanted in wanted.items() if is_wanted]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}; possible: one of them at a time")
    if chosen:
        return chosen[0]
    if find_spec("tensorrt") is None:
        raise UsageError(
            "nothing to export to, as TensorRT is not installed; "
            f"possible: {', '.join(name for name in wanted if name != '--tensorrt')}"
        )
    return "--tensorrt"


def _refuse_options_of_others(target: str, options: dict[str, tuple[bool, Sequence[str]]]) -> None:
    """Raise at an option that was given and that the target knows nothing to do with.

    Args:
        options: by name, whether it was given and which targets it is for.
    """
    for name, (given, targets) in options.items():
        if given and target not in targets:
            raise UsageError(f"{name} with {target}; possible: with {' or '.join(targets)}")


def _export_onnx(model: str, output: Path | None, *, in_floats: bool, in_half: bool) -> None:
    from srgan_edge.export.float_onnx import float_onnx_from_checkpoint, prove_float_onnx
    from srgan_edge.export.half_onnx import half_onnx_from_checkpoint
    from srgan_edge.export.onnx import onnx_from_checkpoint
    from srgan_edge.export.verify import prove_onnx
    from srgan_edge.model.library import find_model

    checkpoint = find_model(model).file(".safetensors")
    if in_floats and in_half:
        raise UsageError("--io float and --fp16; possible: one of them")
    form = "-float" if in_floats else "-fp16" if in_half else ""
    path = output or Path(f"{checkpoint.stem}{form}.onnx")
    refuse_other_suffix(path, ".onnx")
    if in_half:
        half_onnx_from_checkpoint(checkpoint, path, typer.echo)
        typer.echo(f"wrote {path} ({path.stat().st_size / 1024:.0f} KiB)")
        return
    write, prove = (
        (float_onnx_from_checkpoint, prove_float_onnx)
        if in_floats
        else (onnx_from_checkpoint, prove_onnx)
    )
    write(checkpoint, path)
    typer.echo(f"wrote {path} ({path.stat().st_size / 1024:.0f} KiB)")
    prove(checkpoint, path, say=typer.echo)


def _export_ir(model: str, output: Path | None) -> None:
    from srgan_edge.export.ir import ir_from_checkpoint, weights_path
    from srgan_edge.model.library import find_model

    checkpoint = find_model(model).file(".safetensors")
    path = output or Path(f"{checkpoint.stem}.xml")
    refuse_other_suffix(path, ".xml")
    parity = ir_from_checkpoint(checkpoint, path)
    typer.echo(f"wrote {path} and {weights_path(path)}\n  openvino against torch fp32: {parity}")


def _export_to_triton(model: str, folder: Path) -> None:
    from srgan_edge.export.triton import write_onnx_repository, write_plan_repository
    from srgan_edge.model.library import find_model
    from srgan_edge.model.passport import ENGINE_SUFFIX

    if model.endswith(ENGINE_SUFFIX):
        path = write_plan_repository(Path(model), folder)
    else:
        checkpoint = find_model(model).file(".safetensors")
        path = write_onnx_repository(checkpoint, folder, say=typer.echo)
    typer.echo(f"wrote {path}; type: tritonserver --model-repository {folder.resolve()}")


@contextmanager
def _bar_of_a_build() -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """Yields what prints a line, and what takes a builder's phase, its steps done and all of them.

    People see a bar while it builds, and none beside a line.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    progress = Progress(console=console, disable=not console.is_terminal, transient=True)
    task = progress.add_task("building", total=None)

    def say(line: str) -> None:
        progress.stop()
        typer.echo(line)

    def show(phase: str, done: int, steps: int) -> None:
        progress.start()
        progress.update(task, description=phase, completed=done, total=steps)

    try:
        yield say, show
    finally:
        progress.stop()
