"""The command line: parse, call one function, print. What the commands do lives elsewhere.

Heavy modules are imported in the bodies of the commands, so that `--help` costs nothing.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

import typer

from srgan_edge import __version__
from srgan_edge.errors import (
    InputDamaged,
    Interrupted,
    ModelRefused,
    ReaderGone,
    SrganEdgeError,
    UsageError,
    print_error,
)
from srgan_edge.models import DEFAULT_MODEL
from srgan_edge.spec import Head

app = typer.Typer(
    name="srgan-edge",
    help="Train an SRGAN, export its generator, and upscale images and video with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data = typer.Typer(no_args_is_help=True)
app.add_typer(data, name="data", help="Look after the photographs of a training.")

engines = typer.Typer(no_args_is_help=True)
app.add_typer(engines, name="engines", help="Look after the engines built on this machine.")

ModelOption = Annotated[
    str, typer.Option("-n", "--model", metavar="NAME|FILE", help="Bundled model, or a file.")
]
EngineOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto, openvino, onnxruntime or torch.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE", help="auto, cpu, cuda or cuda:N; of onnxruntime also tensorrt or rtx."
    ),
]
Fp32Option = Annotated[bool, typer.Option("--fp32", help="Forbid any precision below FP32.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> NoReturn:
    """The entry point: our errors become one line and their exit code, bugs keep a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except SrganEdgeError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except ReaderGone as gone:
        os._exit(gone.exit_code)
    except Interrupted as interruption:
        sys.stderr.write(f"srgan-edge: {interruption}\n")
        sys.stderr.flush()
        os._exit(interruption.exit_code)  # a frame in the network could take a minute more
    sys.exit(0)


@app.command()
def upscale(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Files, folders, globs; -, an address."),
    ] = None,
    more_inputs: Annotated[
        list[str] | None, typer.Option("-i", "--input", help="The same, as an option.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A file, - or a folder for several.")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    outscale: Annotated[
        float | None,
        typer.Option("-s", "--outscale", help="Final scale, if not the model's own."),
    ] = None,
    tile: Annotated[
        str,
        typer.Option("-t", "--tile", metavar="PX|auto", help="Tile core in input pixels; 0: none."),
    ] = "auto",
    overlap: Annotated[
        str,
        typer.Option(
            "--overlap", "--tile-pad", metavar="PX|auto|exact", help="Halo around a tile."
        ),
    ] = "auto",
    batch: Annotated[int, typer.Option(help="Tiles a call.")] = 1,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    fp32: Fp32Option = False,
    decode: Annotated[
        Literal["auto", "cpu", "gpu"],
        typer.Option(help="Where films are decoded; auto: on the GPU, if the engine is there."),
    ] = "cpu",
    codec: Annotated[str, typer.Option("-c", "--codec", help="Video encoder.")] = "libx264",
    crf: Annotated[int | None, typer.Option(help="Constant quality of the encoder.")] = None,
    preset: Annotated[str | None, typer.Option(help="Speed preset of the encoder.")] = None,
    pix_fmt: Annotated[
        str | None, typer.Option(help="Pixel format of the video; else like the source's.")
    ] = None,
    encoder_options: Annotated[
        list[str] | None, typer.Option("-e", metavar="KEY=VALUE", help="For the encoder.")
    ] = None,
    deinterlace: Annotated[
        bool, typer.Option("--deinterlace", help="Make one picture of the two fields of a frame.")
    ] = False,
    on_damage: Annotated[
        Literal["skip", "conceal"],
        typer.Option(help="Frames that cannot be decoded: left out, or shown as the one before."),
    ] = "skip",
    max_pixels: Annotated[
        int, typer.Option(help="Of the largest picture taken; a result may have 16 times as many.")
    ] = 100_000_000,
    suffix: Annotated[str, typer.Option(help="Added to names where -o gives none.")] = "_x4",
    ext: Annotated[str | None, typer.Option(help="Other file type, as png or mkv.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results.")] = False,
    color_lock: Annotated[
        bool | None,
        typer.Option(
            "--color-lock/--no-color-lock",
            help="Hold the mean colours of the input; by itself for GANs and foreign models.",
            show_default=False,
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option("--restart", "--no-resume", help="Begin a film anew, not where it stopped."),
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Keep results there are.")
    ] = False,
    pipe_format: Annotated[
        Literal["matroska", "nut", "yuv4mpegpipe"] | None,
        typer.Option("-f", "--format", help="What -o - is written as; matroska if not given."),
    ] = None,
    allow_network: Annotated[
        bool, typer.Option("--allow-network", help="Read rtsp, udp, srt and http(s) addresses.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Drop frames of - or an address rather than be late.")
    ] = False,
    json_events: Annotated[
        bool,
        typer.Option("--json-events", help="One JSON object a line on stdout; with -o -, stderr."),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write down all that was done.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Upscale images and videos: files, folders and globs, any mixture; or one live stream."""
    from dataclasses import replace

    from srgan_edge.jobs import Naming, names_stream, plan_jobs, plan_stream
    from srgan_edge.options import Options
    from srgan_edge.report import JsonReporter, Reporter, TerminalReporter
    from srgan_edge.report_file import ReportFile
    from srgan_edge.run import run_jobs
    from srgan_edge.upscaler import Tiling
    from srgan_edge.video import Encoding

    wanted = [*(inputs or []), *(more_inputs or [])]
    if not wanted:
        raise UsageError("nothing to upscale; type: srgan-edge upscale FILE")
    extension = None if ext is None else "." + ext.lstrip(".")
    if pipe_format is not None and str(output) != "-":
        raise UsageError(f"-f {pipe_format} is for -o -; a file's format is that of its suffix")
    if names_stream(wanted, output):
        jobs = [plan_stream(wanted, output, pipe_format or "matroska", allow_network=allow_network)]
    else:
        jobs = plan_jobs(wanted, output, Naming(suffix, extension))
    if live and jobs[0].inlet is None:
        raise UsageError("--live with files, which wait; possible: with - or an address")
    if live and pipe_format == "yuv4mpegpipe":
        raise UsageError("--live leaves gaps, which yuv4mpegpipe has no room for; use -f nut")
    options = Options(
        model=model,
        engine=engine,
        device=device,
        fp32=fp32,
        decode=decode,
        tiling=Tiling(
            tile=_pixels_or("--tile", tile, "auto"),
            overlap=_pixels_or("--overlap", overlap, "auto", "exact"),
            batch=batch,
        ),
        outscale=outscale,
        encoding=Encoding(codec, crf, preset, pix_fmt, _key_values(encoder_options or [])),
        existing="replace" if overwrite else "keep" if skip_existing else "refuse",
        color_lock=color_lock,
        live=live,
        restart=restart,
        on_damage=on_damage,
        deinterlace=deinterlace,
        max_pixels=max_pixels,
    )
    jobs = [replace(job, outlet=job.outlet and job.outlet.claim()) for job in jobs]
    chosen: Reporter = JsonReporter() if json_events else TerminalReporter(quiet=quiet)
    if report is not None:
        chosen = ReportFile(report, chosen)
    with chosen as reporter:
        sys.exit(run_jobs(jobs, options, reporter))


@app.command()
def check(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The film that was upscaled.")],
    result: Annotated[Path, typer.Argument(metavar="OUT", help="What became of it.")],
) -> None:
    """Compare a film with its upscaled self: every frame's time, every packet of sound."""
    from srgan_edge.film_check import FilmRecord, differences

    before, after = FilmRecord.of(source), FilmRecord.of(result)
    if found := differences(before, after):
        raise InputDamaged(f"{result} is not {source} upscaled: {'; '.join(found)}")
    packets = sum(len(record.digests) for record in before.packets.values())
    typer.echo(
        f"{result} is whole: {len(before.frames)} frames at their times, "
        f"{packets} packets of {len(before.packets)} other streams as they were"
    )


@app.command()
def train(
    data: Annotated[list[Path], typer.Option(help="Folder of photographs; repeatable.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A shipped recipe, or a TOML file.")
    ] = "srgan",
    validation: Annotated[
        Path | None, typer.Option("--val", help="Benchmark folder with HR/ and LRx4/.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Weights to start from, for the pixel phase's."),
    ] = None,
    vgg_weights: Annotated[
        Path | None, typer.Option(help="A local VGG, instead of torchvision's VGG19.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a value.")
    ] = None,
    degradation: Annotated[
        str | None, typer.Option(metavar="bicubic|real", help="How LR is made of photographs.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="auto|fp32|bf16|fp16", help="Of the convolutions.")
    ] = None,
    device: DeviceOption = "auto",
    max_minutes: Annotated[float, typer.Option(help="Stop cleanly after so long.")] = float("inf"),
) -> None:
    """Train a generator, alone or against a discriminator; the same command again resumes it."""
    _require("torch", "srgan-edge[train]", "training")
    from srgan_edge.models import find_model
    from srgan_edge.train.loop import train as train_recipe
    from srgan_edge.train.recipe import Recipe
    from srgan_edge.train.terminal import live_line

    named = {"data.degradation": degradation, "run.precision": precision}
    changes = [f"{key}={value}" for key, value in named.items() if value is not None]
    chosen = Recipe.load(recipe, [*changes, *(overrides or [])])
    with live_line() as live:
        released = train_recipe(
            chosen,
            data,
            output,
            validation=validation,
            init=None if init is None else find_model(init).file(".safetensors"),
            vgg_weights=vgg_weights,
            device=device,
            max_minutes=max_minutes,
            on_progress=live.show,
            say=live.say,
        )
    typer.echo(f"wrote {released}")


@app.command()
def blend(
    pixel: Annotated[str, typer.Argument(metavar="A", help="The faithful one: a pixel model.")],
    gan: Annotated[str, typer.Argument(metavar="B", help="The textured one: the GAN made of it.")],
    alpha: Annotated[float, typer.Option(help="Share of B: 0 is A, 1 is B.")] = 0.8,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
) -> None:
    """Mix the weights of two models of one architecture: fidelity against texture."""
    _require("torch", "srgan-edge[train]", "blending")
    from srgan_edge.models import find_model
    from srgan_edge.train.blend import blend_checkpoints

    ours, theirs = (find_model(name).file(".safetensors") for name in (pixel, gan))
    path = output or Path(f"{theirs.stem}-{alpha:g}.safetensors")
    spec = blend_checkpoints(ours, theirs, alpha, path)
    assert spec.training is not None
    typer.echo(f"wrote {path}: {spec.training.recipe}")


@app.command()
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
    _require("torch", "srgan-edge[export]", "exporting")
    _require("onnx", "srgan-edge[export]", "exporting")
    if triton is not None:
        _export_to_triton(model, triton)
    elif target == "--onnx":
        _export_onnx(model, output, in_floats=io == "float", in_half=fp16)
    elif target == "--openvino":
        _export_ir(model, output)
    else:
        from srgan_edge.artefact import read_spec
        from srgan_edge.engine_cache import EngineCache
        from srgan_edge.export.engine import Target, export_engine
        from srgan_edge.export.tensorrt import Search
        from srgan_edge.models import find_model
        from srgan_edge.passport import ENGINE_SUFFIX, Profile, read_engine, write_engine

        spec = read_spec(find_model(model).file(".safetensors"))
        profile = Profile.from_options(spec, tile, batch, shape, dynamic)
        if rtx:
            capabilities = compute_capability or "8.6,8.9,12.0"
            chosen = Target.rtx(tuple(capabilities.split(",")))
        else:
            chosen = Target.tensorrt(Search(workspace, optimization_level))
        precision: Literal["fp16", "bf16"] = "bf16" if bf16 else "fp16"
        if output is not None:
            _refuse_other_suffix(output, ENGINE_SUFFIX)
        cache = EngineCache()
        with _bar_of_a_build() as (say, show):
            path = export_engine(model, precision, profile, chosen, cache, say, show)
        if output is not None:
            typer.echo(f"cache     {path}")
            write_engine(output, *read_engine(path))
            path = output
        size_kib = path.stat().st_size / 1024
        typer.echo(f"file      {path} ({size_kib:.0f} KiB), its passport beside it")


@engines.command("list")
def list_engines(as_json: JsonOption = False) -> None:
    """Show the engines in the cache, and which of them can be used here."""
    from dataclasses import asdict

    from srgan_edge.engine_cache import EngineCache
    from srgan_edge.tables import engines_table

    cache = EngineCache()
    found = cache.engines()
    if as_json:
        records = [asdict(engine) | {"path": str(engine.path)} for engine in found]
        typer.echo(json.dumps(records, indent=2))
    elif found:
        _print_whole_table(engines_table(found))
    else:
        typer.echo(f"no engines in {cache.folder}")


@engines.command("rm")
def remove_engines(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `list` shows them.")],
) -> None:
    """Remove engines from the cache, with their passports."""
    from srgan_edge.engine_cache import EngineCache

    cache = EngineCache()
    for name in names:
        typer.echo(f"removed {cache.remove(name)}")


@engines.command("prune")
def prune_engines() -> None:
    """Remove the engines that cannot be used here: damaged, or of another runtime."""
    from srgan_edge.engine_cache import EngineCache

    removed = EngineCache().prune()
    for engine in removed:
        typer.echo(f"removed {engine.path}: {engine.trouble}")
    if not removed:
        typer.echo("nothing to remove")


@app.command()
def convert(
    weights: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A foreign x4 generator.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    head: Annotated[
        Head, typer.Option(help="tanh if its output is (tanh(x) + 1) / 2; else linear.")
    ] = "linear",
) -> None:
    """Import a foreign SRResNet, SRGAN or SRVGGNetCompact generator, without running its pickle."""
    _require("torch", "srgan-edge[export]", "converting")
    from srgan_edge.export.convert import checkpoint_from_pickle

    path = output or weights.with_suffix(".safetensors")
    spec = checkpoint_from_pickle(weights, path, path.stem, head)
    typer.echo(f"wrote {path}: {spec.architecture}, {spec.blocks} blocks of {spec.channels}")


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundled name or .safetensors.")],
    data: Annotated[
        list[Path], typer.Option(help="Folder of pictures to measure scales on; repeatable.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
) -> None:
    """Make the INT8 form of a model: faster where a processor multiplies bytes faster."""
    _require("torch", "srgan-edge[export]", "quantizing")
    _require("onnx", "srgan-edge[export]", "quantizing")
    from srgan_edge.export.quantize import quantize_checkpoint
    from srgan_edge.models import find_model

    checkpoint = find_model(model).file(".safetensors")
    path = output or Path(f"{checkpoint.stem}-int8.safetensors")
    _refuse_other_suffix(path, ".safetensors")
    if path.exists() and path.samefile(checkpoint):
        raise UsageError(f"-o {path} is the model itself; name another file")
    parity = quantize_checkpoint(checkpoint, data, path)
    typer.echo(f"wrote {path}; against {checkpoint.stem} in fp32: {parity}")


@app.command()
def info(
    model: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="All bundled models if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a model file is: architecture, reach, training, licence."""
    from srgan_edge.models import bundled_models, find_model
    from srgan_edge.tables import spec_table

    found = [find_model(model)] if model else list(bundled_models().values())
    if as_json:
        typer.echo(json.dumps([json.loads(files.spec.to_json()) for files in found], indent=2))
        return
    for files in found:
        _print_table(spec_table(files))


@app.command("eval")
def evaluate(
    folders: Annotated[list[Path], typer.Argument(help="Benchmarks with HR/ and LRx4/.")],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-n",
            "--model",
            metavar="NAME|FILE",
            help=f"Bundled model, or a file; repeatable; {DEFAULT_MODEL} if nothing is named.",
        ),
    ] = None,
    bicubic: Annotated[bool, typer.Option("--bicubic", help="MATLAB's, as a system.")] = False,
    results: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="Another program's pictures; repeatable."),
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="NAME,...", help="basic, offline, all, or psnr_y,lpips,...")
    ] = "basic",
    vgg_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A VGG16, which adds lpips_vgg16_hed."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw crops, with nearest and bicubic besides."),
    ] = None,
    crops: Annotated[int | None, typer.Option(help="Rows of the figure; 3 if left out.")] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    fp32: Fp32Option = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: an object, or of several systems their list."),
    ] = False,
) -> None:
    """Score models, baselines and ready-made pictures on benchmark folders, in one table."""
    from srgan_edge.evaluate import evaluate_systems
    from srgan_edge.figure import Showcase, draw_figure
    from srgan_edge.image import Picture
    from srgan_edge.image_writer import format_from_suffix, write_picture
    from srgan_edge.scores import metrics_from_text
    from srgan_edge.systems import BICUBIC, NEAREST, SCALE, open_models, ready_made
    from srgan_edge.tables import evaluation_record, evaluation_table

    if figure is not None:
        format_from_suffix(figure)  # refuse an unknown one now
    elif crops is not None:
        raise UsageError("--crops is for a figure; type --figure FILE.png too")
    if crops is not None and crops < 1:
        raise UsageError(f"--crops {crops}; possible: 1 or more")
    names = metrics_from_text(metrics, with_file=vgg_weights is not None)
    measures = _measures(names, vgg_weights, device)
    baselines = [NEAREST, BICUBIC] if figure else [BICUBIC] if bicubic else []
    others = [ready_made(text, folders) for text in results or []]
    named = models or ([] if bicubic or others else [DEFAULT_MODEL])
    showcase = Showcase(crops or 3)
    with open_models(named, engine, device, fp32=fp32) as opened:
        systems = [*baselines, *opened, *others]
        look = showcase.look if figure else None
        evaluations = evaluate_systems(systems, folders, SCALE, measures, look)
    if as_json:
        records = [evaluation_record(system, evaluations[system.name]) for system in systems]
        typer.echo(json.dumps(records if len(records) > 1 else records[0], indent=2))
    else:
        _print_whole_table(evaluation_table(systems, evaluations))
    if figure is not None:
        write_picture(figure, Picture(draw_figure(showcase.exhibits)))
        typer.echo(f"wrote {figure}", err=as_json)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundled name, .onnx or .engine.")],
    benchmarks: Annotated[
        list[Path] | None, typer.Argument(help="Folders with HR/ and LRx4/: what PSNR-Y is lost.")
    ] = None,
    engine_names: Annotated[
        list[str] | None,
        typer.Option("--engine", metavar="NAME", help="Repeatable; all installed if left out."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Checkpoint to compare with; MODEL's own, or that it is the INT8 form of.",
        ),
    ] = None,
    fp32: Fp32Option = False,
    as_json: JsonOption = False,
) -> None:
    """Compare engines with the checkpoint in PyTorch; exit 6 if one misses its gate."""
    _require("torch", "srgan-edge[export]", "verifying")
    _require("onnx", "srgan-edge[export]", "verifying")
    from srgan_edge.engines import KINDS
    from srgan_edge.export.verify import verify_engines
    from srgan_edge.models import find_model
    from srgan_edge.tables import verdict_record, verdict_table

    possible = {name: kind for name, kind in KINDS.items() if name != "torch"}  # the reference
    files = find_model(model)
    names = engine_names or [
        name for name, kind in possible.items() if kind.installed and files.has(kind.suffix)
    ]
    if unknown := [name for name in names if name not in possible]:
        raise UsageError(f"--engine {unknown[0]}; possible: {', '.join(possible)}")
    kinds = [possible[name] for name in names]
    origin = find_model(against or files.spec.quantized_from or model)
    if not origin.has(".safetensors"):
        raise UsageError(
            f"{origin.name} has no checkpoint to compare with; type --against NAME|FILE.safetensors"
        )
    reference = origin.file(".safetensors")
    verdicts = list(verify_engines(files, reference, kinds, benchmarks or [], fp32=fp32))
    if as_json:
        typer.echo(json.dumps([verdict_record(verdict) for verdict in verdicts], indent=2))
    else:
        _print_whole_table(verdict_table(verdicts))
    refused = [f"{it.info.name}: {'; '.join(it.refusals)}" for it in verdicts if it.refusals]
    if refused:
        raise ModelRefused("; ".join(refused))


@app.command("verify-tiles")
def verify_tiles(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures of the model's input size.")],
    model: ModelOption = DEFAULT_MODEL,
    tile: Annotated[int, typer.Option("-t", "--tile", help="Tile core in pixels.")] = 32,
    write: Annotated[
        bool, typer.Option("--write", help="Store the halo found in the .safetensors.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw error against halo.")
    ] = None,
) -> None:
    """Measure what halo a model needs: tiled against untiled, in FP32."""
    _require("torch", "srgan-edge[train]", "verify-tiles")
    if plot is not None:
        _require("matplotlib", "srgan-edge[train]", "--plot")
    from dataclasses import replace

    from srgan_edge.checkpoint import load_checkpoint, save_checkpoint
    from srgan_edge.engines.torch import TorchEngine
    from srgan_edge.halo import halo_errors, smallest_halo_px
    from srgan_edge.image_reader import read_pixels
    from srgan_edge.models import bundled_models, find_model
    from srgan_edge.tables import halo_table

    checkpoint = find_model(model).file(".safetensors")
    if write and model in bundled_models():
        raise UsageError(
            f"{model} is bundled, and its halo measured; copy {checkpoint} and name that"
        )
    generator, spec = load_checkpoint(checkpoint)
    with TorchEngine.from_generator(generator, spec) as engine:
        errors = list(halo_errors(engine, (read_pixels(path) for path in pictures), tile))
    halo_px = smallest_halo_px(errors)
    _print_table(halo_table(errors, halo_px))
    if plot is not None:
        from srgan_edge.export.halo_plot import draw_halo_plot

        title = f"{spec.name}, tiles of {tile} px against whole pictures"
        draw_halo_plot(errors, halo_px, title, plot)
        typer.echo(f"wrote {plot}")
    if write:
        save_checkpoint(checkpoint, generator, replace(spec, halo_px=halo_px))
        typer.echo(f"wrote halo_px {halo_px} to {checkpoint}")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what works on this machine; every engine is made to run."""
    from dataclasses import asdict

    from srgan_edge.doctor import examine
    from srgan_edge.tables import doctor_table

    findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print_table(doctor_table(findings))
    if any(finding.status == "broken" for finding in findings):
        sys.exit(6)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="The input picture.")],
    after: Annotated[Path, typer.Argument(help="The upscaled picture.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write.")],
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Detail to enlarge, in result pixels.")
    ] = None,
) -> None:
    """Put a picture, enlarged by the bicubic, beside its upscaled self."""
    from srgan_edge.drawing import Crop
    from srgan_edge.image import Picture
    from srgan_edge.image_reader import read_pixels
    from srgan_edge.image_writer import write_picture
    from srgan_edge.side_by_side import side_by_side

    detail = None if crop is None else Crop.from_text(crop)
    pictures = read_pixels(before), read_pixels(after)
    write_picture(output, Picture(side_by_side(*pictures, ("bicubic", "srgan-edge"), detail)))
    typer.echo(f"wrote {output}")


@data.command("check")
def check_data(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Of photographs.")],
    crop: Annotated[int, typer.Option(min=16, help="Side of an HR crop in pixels.")] = 96,
    as_json: JsonOption = False,
) -> None:
    """Name the photographs that are unreadable, tiny, there twice or damaged by JPEG."""
    from rich.console import Console
    from rich.progress import Progress

    from srgan_edge.train.photo_check import check_photos, check_record, check_table

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading")
        found = check_photos(
            folders, crop, lambda done, total: progress.update(task, completed=done, total=total)
        )
    if as_json:
        typer.echo(json.dumps(check_record(found), indent=2))
    else:
        _print_table(check_table(found))


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        typer.echo(f"srgan-edge {__version__}")
        raise typer.Exit


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)


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


def _refuse_other_suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise UsageError(f"-o {path}; possible: a name that ends in {suffix}")


def _export_onnx(model: str, output: Path | None, *, in_floats: bool, in_half: bool) -> None:
    from srgan_edge.export.float_onnx import float_onnx_from_checkpoint
    from srgan_edge.export.float_parity import prove_float_onnx
    from srgan_edge.export.half_onnx import half_onnx_from_checkpoint
    from srgan_edge.export.onnx import onnx_from_checkpoint
    from srgan_edge.export.verify import prove_onnx
    from srgan_edge.models import find_model

    checkpoint = find_model(model).file(".safetensors")
    if in_floats and in_half:
        raise UsageError("--io float and --fp16; possible: one of them")
    form = "-float" if in_floats else "-fp16" if in_half else ""
    path = output or Path(f"{checkpoint.stem}{form}.onnx")
    _refuse_other_suffix(path, ".onnx")
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
    from srgan_edge.models import find_model

    checkpoint = find_model(model).file(".safetensors")
    path = output or Path(f"{checkpoint.stem}.xml")
    _refuse_other_suffix(path, ".xml")
    parity = ir_from_checkpoint(checkpoint, path)
    typer.echo(f"wrote {path} and {weights_path(path)}\n  openvino against torch fp32: {parity}")


def _export_to_triton(model: str, folder: Path) -> None:
    from srgan_edge.export.triton import write_onnx_repository, write_plan_repository
    from srgan_edge.models import find_model
    from srgan_edge.passport import ENGINE_SUFFIX

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


def _require(module: str, requirement: str, purpose: str) -> None:
    """One line with the pip command, instead of a traceback from deep inside."""
    from importlib.util import find_spec

    from srgan_edge.errors import ExtraMissing

    if find_spec(module) is None:
        raise ExtraMissing(module, requirement, purpose)


def _measures(names: tuple[str, ...], vgg_weights: Path | None, device: str) -> dict[str, Any]:
    """In the order of the names; PyTorch is imported only for what needs it."""
    from srgan_edge.evaluate import MEASURES

    learned = [name for name in names if name not in MEASURES]
    if not learned:
        return {name: MEASURES[name] for name in names}
    for module in ("torch", "torchvision", "piq", "torchmetrics"):
        _require(module, "srgan-edge[train]", f"--metrics {learned[0]}")
    from srgan_edge.train.perceptual import open_measures

    measures = MEASURES | open_measures(learned, vgg_weights, device)
    return {name: measures[name] for name in names}


def _pixels_or(option: str, text: str, *words: str) -> Any:  # noqa: ANN401 - int or one of words
    if text in words:
        return text
    try:
        return int(text)
    except ValueError:
        possible = ", ".join(words)
        raise UsageError(f"{option} {text!r}; possible: a number of pixels, {possible}") from None


def _key_values(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"-e {pair!r}; write it as key=value")
    return dict(pair.split("=", 1) for pair in pairs)


def _print_table(table: Any) -> None:  # noqa: ANN401 - anything rich can render
    from rich.console import Console

    Console(highlight=False).print(table)


def _print_whole_table(table: Any) -> None:  # noqa: ANN401 - anything rich can render
    """Every digit of it, however narrow the terminal: a folded number is a wrong one."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(highlight=False)
    unbounded = console.options.update(max_width=10_000)
    console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table)
