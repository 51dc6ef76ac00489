"""Commands that turn a model into another form: `export`, `convert`, `quantize`, `engines`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from srgan_edge.cli.common import (
    JsonOption,
    OutputFileOption,
    OverwriteOption,
    bundled_names,
    files_of_models,
    output_file,
    print_whole_table,
    require,
    say,
    say_json,
)
from srgan_edge.cli.plain_help import PlainCommand, PlainGroup
from srgan_edge.errors import ModelRefused, UsageError, printable, quoted
from srgan_edge.files import free_name, replace_when_whole
from srgan_edge.model.library import DEFAULT_MODEL
from srgan_edge.model.spec import Head

if TYPE_CHECKING:  # which needs torch
    from srgan_edge.export.engine import Target
    from srgan_edge.model.passport import Profile

commands = typer.Typer()
engines = typer.Typer()
commands.add_typer(
    engines,
    name="engines",
    cls=PlainGroup,
    no_args_is_help=True,
    help="List, remove or prune cached engines.",
    rich_help_panel="Export",
)

TARGETS = {
    "--tensorrt": "a TensorRT engine for this GPU",
    "--rtx": "a TensorRT-RTX engine",
    "--onnx": "ONNX",
    "--openvino": "OpenVINO's IR",
    "--ncnn": "ncnn",
    "--triton": "a Triton repository",
}
"""Results of `export`, by option; the first three in the order of preference."""

_ENGINE_TARGETS = ("--tensorrt", "--rtx")

_target = partial(typer.Option, rich_help_panel="Target")
_engine = partial(typer.Option, rich_help_panel="Engines")


@commands.command(
    cls=PlainCommand,
    rich_help_panel="Export",
    epilog="""\b
Without a target, the best one installed: TensorRT, TensorRT-RTX, ONNX.
Examples:
  srgan-edge export --fp16
  srgan-edge export runs/mine/srgan-x4.safetensors --onnx""",
)
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help=f"A bundled model, or a .safetensors file ({DEFAULT_MODEL} by default); with "
            "--triton also an .engine file.",
            autocompletion=bundled_names,
        ),
    ] = None,
    output: OutputFileOption = None,
    overwrite: OverwriteOption = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Export in FP16 (the default for engines).")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Export an engine in BF16.")] = False,
    tensorrt: Annotated[
        bool, _target("--tensorrt", help="Build a TensorRT engine for this machine's GPU.")
    ] = False,
    rtx: Annotated[
        bool, _target("--rtx", help="Build a TensorRT-RTX engine; needs no GPU to build.")
    ] = False,
    onnx: Annotated[bool, _target("--onnx", help="Write the deployment ONNX.")] = False,
    openvino: Annotated[bool, _target("--openvino", help="Write OpenVINO's IR.")] = False,
    ncnn: Annotated[
        bool, _target("--ncnn", help="Write ncnn's .param and .bin, and the spec as .json.")
    ] = False,
    triton: Annotated[
        Path | None,
        _target(metavar="DIR", help="Add the model to a Triton model repository."),
    ] = None,
    io: Annotated[
        Literal["bytes", "float"],
        _target(
            metavar="bytes|float",
            help="Input and output of --onnx: uint8 NHWC, or float32 NCHW in [0, 1] for other "
            "programs.",
        ),
    ] = "bytes",
    tile: Annotated[
        int | None,
        _engine("-t", "--tile", metavar="PX", help="Side of a tile in pixels, without its halo."),
    ] = None,
    batch: Annotated[int | None, _engine(metavar="N", help="Tiles computed at a time.")] = None,
    shape: Annotated[
        str | None,
        _engine(metavar="NxHxW", help="Fixed input shape, instead of --tile."),
    ] = None,
    dynamic: Annotated[
        str | None,
        _engine(metavar="MIN,OPT,MAX", help="Range of input shapes, each NxHxW."),
    ] = None,
    compute_capability: Annotated[
        str | None,
        _engine(
            metavar="X.Y,...",
            help="GPU generations --rtx builds for (default: 8.6,8.9,12.0).",
        ),
    ] = None,
    workspace: Annotated[
        int | None, _engine(metavar="MIB", help="Scratch memory --tensorrt may use.")
    ] = None,
    optimization_level: Annotated[
        int | None,
        _engine(metavar="0-5", help="Effort of --tensorrt's search; higher builds longer."),
    ] = None,
) -> None:
    """Export a model for deployment and verify it against PyTorch."""
    builders = ("--tensorrt", "--rtx")
    for_targets = {
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
        "-o": (output is not None, ("--onnx", "--openvino", "--ncnn", *builders)),
    }
    given = {name: targets for name, (is_given, targets) in for_targets.items() if is_given}
    named = {
        "--onnx": onnx,
        "--tensorrt": tensorrt,
        "--rtx": rtx,
        "--openvino": openvino,
        "--ncnn": ncnn,
        "--triton": triton is not None,
    }
    target = _named_target(named) or _best_target(given, output)
    for name, targets in given.items():
        if target not in targets:
            raise UsageError(f"{name} with {target}; possible: with {' or '.join(targets)}")
    if fp16 and bf16:
        raise UsageError("--fp16 and --bf16; possible: one of them")
    require("torch", "srgan-edge[export]", "exporting")
    require("onnx", "srgan-edge[export]", "exporting")
    chosen = model or DEFAULT_MODEL
    if model is None or not any(named.values()):
        say(_announcement(chosen, target, in_half=fp16))
    if triton is not None:
        _export_to_triton(chosen, triton, overwrite=overwrite)
    elif target == "--onnx":
        _export_onnx(chosen, output, overwrite=overwrite, in_floats=io == "float", in_half=fp16)
    elif target == "--openvino":
        _export_ir(chosen, output, overwrite=overwrite)
    elif target == "--ncnn":
        _export_ncnn(chosen, output, overwrite=overwrite)
    else:
        from srgan_edge.export.engine import Target
        from srgan_edge.export.tensorrt import Search
        from srgan_edge.model.library import find_model, read_spec
        from srgan_edge.model.passport import Profile

        spec = read_spec(find_model(chosen).file(".safetensors"))
        profile = Profile.from_options(spec, tile, batch, shape, dynamic)
        if target == "--rtx":
            capabilities = compute_capability or "8.6,8.9,12.0"
            builder = Target.rtx(tuple(capabilities.split(",")))
        else:
            builder = Target.tensorrt(Search(workspace, optimization_level))
        precision: Literal["fp16", "bf16"] = "bf16" if bf16 else "fp16"
        _export_engine(chosen, output, precision, profile, builder, overwrite=overwrite)


@commands.command(cls=PlainCommand, rich_help_panel="Export")
def convert(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A generator of another program: .pth, .safetensors or .onnx."
        ),
    ],
    output: OutputFileOption = None,
    licence: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Licence of the weights, such as CC-BY-NC-4.0."),
    ] = None,
    source: Annotated[
        str, typer.Option(metavar="TEXT", help="Where the weights come from, such as an address.")
    ] = "",
    overwrite: OverwriteOption = False,
    head: Annotated[
        Head | None,
        typer.Option(
            metavar="linear|tanh",
            help="tanh if the model's output is (tanh(x) + 1) / 2. Default: linear.",
        ),
    ] = None,
    bn_epsilon: Annotated[
        float | None,
        typer.Option(
            metavar="E",
            help="Epsilon of its batch normalizations. Default: 1e-05.",
        ),
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="KEY",
            help="Which weights of several in the file, such as model_ema. Default: averaged ones.",
        ),
    ] = None,
) -> None:
    """Import a generator of another program.

    SRResNet, SRGAN and SRVGGNetCompact become a .safetensors checkpoint, which can be trained and
    exported. Every other architecture, and those too with -o FILE.onnx, becomes an ONNX.
    """
    require("torch", "srgan-edge[export]", "converting")
    if weights.is_dir():
        raise ModelRefused(f"{weights} is a folder; name the file in it that has the weights")
    if weights.suffix == ".onnx" and weights_key is not None:
        raise UsageError(f"--weights {weights_key}: {weights} has one set of weights; leave it out")
    of_ours = {"--head": head, "--bn-epsilon": bn_epsilon}
    typed = next((option for option, value in of_ours.items() if value is not None), None)
    becomes_onnx = weights.suffix == ".onnx" or Path(output or "").suffix == ".onnx"
    if typed and becomes_onnx:
        raise UsageError(
            f"{typed} is for SRResNets and SRGANs that become a .safetensors file; leave it out"
        )
    if not becomes_onnx:
        from srgan_edge.export.convert import DoesNotFit, checkpoint_from_pickle

        default = weights.with_suffix(".safetensors")
        if weights.suffix == ".safetensors":
            default = Path(f"{weights.stem}-converted.safetensors")
        path = output_file(output, default, [weights], overwrite=overwrite)
        _refuse_ours(weights)
        try:
            spec = checkpoint_from_pickle(
                weights,
                path,
                printable(path.stem),
                head,
                epsilon=bn_epsilon,
                weights=weights_key,
                licence=licence,
                overwrite=overwrite,
                say=say,
            )
        except DoesNotFit as misfit:
            if typed:
                raise DoesNotFit(f"{misfit}; other architectures take no {typed}") from None
            if output is not None and not output.endswith("/"):
                other = quoted(free_name(path, ".onnx"))
                raise DoesNotFit(
                    f"{misfit}; for an ONNX of another architecture, type: -o {other}"
                ) from None
            say(f"not an SRResNet, SRGAN or SRVGGNetCompact ({misfit}); trying spandrel")
        else:
            say(f"wrote {path}: {spec.architecture}, {spec.blocks} blocks of {spec.channels}")
            if source:
                say("left out --source, which only an ONNX of another architecture keeps")
            return
    _convert_foreign(weights, output, licence, source, weights_key, overwrite=overwrite)


def _refuse_ours(path: Path) -> None:
    """Refuse a model that states its spec: its layers alone show less."""
    from srgan_edge.model.library import read_spec

    try:
        spec = read_spec(path)
    except ModelRefused:
        return
    use = f"type: srgan-edge upscale IMAGE -n {quoted(path)}"
    if path.suffix == ".safetensors":
        use = f"for an ONNX, type: srgan-edge export {quoted(path)} --onnx"
    raise UsageError(f"{path} needs no conversion: it is {spec.name}, a model of srgan-edge; {use}")


def _convert_foreign(
    weights: Path,
    output: str | None,
    licence: str | None,
    source: str,
    weights_key: str | None,
    *,
    overwrite: bool,
) -> None:
    """Write the ONNX of a generator that is none of ours."""
    from srgan_edge.export.foreign import Origin, onnx_from_weights

    default = Path(f"{weights.stem}{'-edge' if weights.suffix == '.onnx' else ''}.onnx")
    path = output_file(output, default, [weights], overwrite=overwrite)
    _refuse_ours(weights)
    if licence is None:
        raise UsageError(
            "the licence of the weights goes into the file; type --licence NAME, or "
            "--licence unknown"
        )
    origin = Origin(printable(path.stem), licence, source)
    spec = onnx_from_weights(weights, path, origin, weights_key, say, overwrite=overwrite)
    assert spec.foreign is not None
    seen = "sees" if spec.foreign.is_traced else "was measured to see"
    say(
        f"wrote {path}: {spec.architecture}, x{spec.scale}; {seen} "
        f"{spec.receptive_radius_px} px around a pixel, tiles have halos of {spec.auto_halo_px} px"
    )
    if spec.foreign.whole_frames:
        then = "" if spec.foreign.window_px else ": whole frames by default"
        say(f"{spec.foreign.whole_frames}{then}")
    if not spec.is_commercial:
        say(f"licence {spec.licence}: not for commercial use")


@commands.command(cls=PlainCommand, rich_help_panel="Export")
def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A bundled model, or a .safetensors file.",
            autocompletion=bundled_names,
        ),
    ],
    data: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Folder of images to measure scales on; repeatable."),
    ],
    output: OutputFileOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make the INT8 form of a model. Processors with fast INT8 arithmetic run it faster."""
    require("torch", "srgan-edge[export]", "quantizing")
    require("onnx", "srgan-edge[export]", "quantizing")
    from srgan_edge.export.quantize import quantize_checkpoint
    from srgan_edge.model.library import find_model

    checkpoint = find_model(model).file(".safetensors")
    default = Path(f"{checkpoint.stem}-int8.safetensors")
    path = output_file(output, default, [checkpoint, *data], overwrite=overwrite)
    parity = quantize_checkpoint(checkpoint, data, path, overwrite=overwrite)
    say(f"wrote {path}; against {checkpoint.stem} in fp32: {parity}")


@engines.command("list", cls=PlainCommand)
def list_engines(as_json: JsonOption = False) -> None:
    """List the cached engines, and whether they run on this machine."""
    from dataclasses import asdict

    from srgan_edge.cli.tables import engines_table
    from srgan_edge.engines.cache import EngineCache

    cache = EngineCache()
    found = cache.engines()
    if as_json:
        records = [asdict(engine) | {"path": str(engine.path)} for engine in found]
        say_json(records)
    elif found:
        print_whole_table(engines_table(found))
    else:
        say(f"no engines in {cache.folder}")


@engines.command("rm", cls=PlainCommand)
def remove_engines(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names that `list` shows.")],
) -> None:
    """Remove engines from the cache, with their passports."""
    from srgan_edge.engines.cache import EngineCache

    cache = EngineCache()
    for name in names:
        say(f"removed {cache.remove(name)}")


@engines.command("prune", cls=PlainCommand)
def prune_engines() -> None:
    """Remove engines that do not run here: damaged, or of another runtime."""
    from srgan_edge.engines.cache import EngineCache

    removed = EngineCache().prune()
    for engine in removed:
        say(f"removed {engine.path}: {engine.trouble}")
    if not removed:
        say("nothing to remove")


def _named_target(named: Mapping[str, bool]) -> str | None:
    """The one target that was asked for, by its option."""
    chosen = [name for name, is_named in named.items() if is_named]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}; possible: one of them at a time")
    return chosen[0] if chosen else None


def _best_target(given: Mapping[str, Sequence[str]], output: str | None) -> str:
    """The best target that is installed and has a use for all given options.

    Where none is, the best that would have: its error then names the package to install.

    Args:
        given: options, each with the targets that it is for.
        output: the file that `-o` names, whose suffix narrows the choice.
    """
    from srgan_edge.model.passport import ENGINE_SUFFIX

    by_suffix = {
        **{".onnx": ("--onnx",), ".xml": ("--openvino",), ".param": ("--ncnn",)},
        ENGINE_SUFFIX: _ENGINE_TARGETS,
    }
    candidates = by_suffix.get(Path(output or "").suffix, (*_ENGINE_TARGETS, "--onnx"))
    fitting = [name for name in candidates if all(name in targets for targets in given.values())]
    return next((name for name in fitting if _is_installed(name)), (fitting or candidates)[0])


def _is_installed(target: str) -> bool:
    from importlib.util import find_spec

    from srgan_edge.machine import Gpu

    if target == "--tensorrt":  # which builds on the GPU it builds for
        return find_spec("tensorrt") is not None and Gpu.find() is not None
    return target != "--rtx" or find_spec("tensorrt_rtx") is not None


def _announcement(model: str, target: str, *, in_half: bool) -> str:
    others = " ".join(name for name in TARGETS if name != target)
    made = f"{TARGETS[target]} in FP16" if target == "--onnx" and in_half else TARGETS[target]
    return f"exporting {model} to {made} ({target}); other targets: {others}"


def _export_engine(
    model: str,
    output: str | None,
    precision: Literal["fp16", "bf16"],
    profile: "Profile",
    builder: "Target",
    *,
    overwrite: bool,
) -> None:
    from srgan_edge.cli.progress import build_bar
    from srgan_edge.engines.cache import EngineCache
    from srgan_edge.export.engine import export_engine
    from srgan_edge.model.passport import ENGINE_SUFFIX, read_engine, write_engine

    if output is not None:  # refuse another suffix before the engine is built
        _engine_file(model, output, Path(f"{model}{ENGINE_SUFFIX}"), overwrite=overwrite)
    cache = EngineCache()
    with build_bar() as (say_between, show):
        path = export_engine(model, precision, profile, builder, cache, say_between, show)
    if output is not None:
        say(f"cache     {path}")
        target = _engine_file(model, output, path, overwrite=overwrite)
        write_engine(target, *read_engine(path), overwrite=overwrite)
        path = target
    size_kib = path.stat().st_size / 1024
    say(f"file      {path} ({size_kib:.0f} KiB), its passport beside it")


def _engine_file(model: str, output: str, default: Path, *, overwrite: bool) -> Path:
    """The file that `-o` names for an engine, whose passport lies beside it."""
    from srgan_edge.model.passport import passport_path

    read = files_of_models([model])
    return output_file(
        output, default, read, overwrite=overwrite, beside=lambda path: [passport_path(path)]
    )


def _export_onnx(
    model: str, output: str | None, *, overwrite: bool, in_floats: bool, in_half: bool
) -> None:
    from srgan_edge.export.float_onnx import float_onnx_from_checkpoint, prove_float_onnx
    from srgan_edge.export.half_onnx import half_onnx_from_checkpoint
    from srgan_edge.export.onnx import onnx_from_checkpoint
    from srgan_edge.export.verify import prove_onnx
    from srgan_edge.model.library import find_model

    checkpoint = find_model(model).file(".safetensors")
    if in_floats and in_half:
        raise UsageError("--io float and --fp16; possible: one of them")
    form = "-float" if in_floats else "-fp16" if in_half else ""
    default = Path(f"{checkpoint.stem}{form}.onnx")
    path = output_file(output, default, [checkpoint], overwrite=overwrite)
    if in_half:
        half_onnx_from_checkpoint(checkpoint, path, say, overwrite=overwrite)
        say(f"wrote {path} ({path.stat().st_size / 1024:.0f} KiB)")
        return
    write, prove = (
        (float_onnx_from_checkpoint, prove_float_onnx)
        if in_floats
        else (onnx_from_checkpoint, prove_onnx)
    )
    proofs: list[str] = []
    with replace_when_whole(path, overwrite=overwrite) as partial:
        write(checkpoint, partial)
        prove(checkpoint, partial, say=proofs.append)
    say(f"wrote {path} ({path.stat().st_size / 1024:.0f} KiB)", *proofs)


def _export_ir(model: str, output: str | None, *, overwrite: bool) -> None:
    from srgan_edge.export.ir import ir_from_checkpoint, weights_path
    from srgan_edge.model.library import find_model

    checkpoint = find_model(model).file(".safetensors")
    default = Path(f"{checkpoint.stem}.xml")
    path = output_file(
        output,
        default,
        [checkpoint],
        overwrite=overwrite,
        beside=lambda path: [weights_path(path)],
    )
    parity = ir_from_checkpoint(checkpoint, path, overwrite=overwrite)
    say(f"wrote {path} and {weights_path(path)}", f"  openvino against torch fp32: {parity}")


def _export_ncnn(model: str, output: str | None, *, overwrite: bool) -> None:
    for library in ("ncnn", "pnnx"):
        require(library, "srgan-edge[ncnn]", "exporting to ncnn")
    from srgan_edge.export.ncnn import files_beside, ncnn_from_checkpoint
    from srgan_edge.model.library import find_model

    checkpoint = find_model(model).file(".safetensors")
    default = Path(f"{checkpoint.stem}.ncnn.param")
    path = output_file(output, default, [checkpoint], overwrite=overwrite, beside=files_beside)
    parity = ncnn_from_checkpoint(checkpoint, path, overwrite=overwrite)
    weights, spec = files_beside(path)
    say(f"wrote {path}, {weights} and {spec}", f"  {parity}")


def _export_to_triton(model: str, folder: Path, *, overwrite: bool) -> None:
    from srgan_edge.export.triton import write_onnx_repository, write_plan_repository
    from srgan_edge.model.library import find_model
    from srgan_edge.model.passport import ENGINE_SUFFIX

    if model.endswith(ENGINE_SUFFIX):
        path = write_plan_repository(Path(model), folder, overwrite=overwrite)
    else:
        checkpoint = find_model(model).file(".safetensors")
        path = write_onnx_repository(checkpoint, folder, say, overwrite=overwrite)
    say(f"wrote {path}; type: tritonserver --model-repository {folder.resolve()}")
