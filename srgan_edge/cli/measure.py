"""Commands that describe and measure: `info`, `doctor`, `eval`, `verify`, `verify-tiles`."""

import json
import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any, Literal

import typer

from srgan_edge.cli.common import (
    DeviceOption,
    EngineOption,
    Fp32Option,
    JsonOption,
    ModelOption,
    OverwriteOption,
    bundled_names,
    files_of_models,
    print_table,
    print_whole_table,
    require,
    say,
    say_json,
    say_result,
)
from srgan_edge.cli.plain_help import PlainCommand
from srgan_edge.errors import InputRefused, ModelRefused, UsageError, quoted
from srgan_edge.files import refuse_replacing
from srgan_edge.model.library import DEFAULT_MODEL

commands = typer.Typer()

VIDEO_PANEL = "Flicker"


@commands.command(cls=PlainCommand, rich_help_panel="Measure")
def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="A model; by default all bundled ones.",
            autocompletion=bundled_names,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a model: architecture, training, license, files."""
    from srgan_edge.cli.tables import spec_lines
    from srgan_edge.model.library import bundled_models, find_model

    found = [find_model(model)] if model else list(bundled_models().values())
    if as_json:
        say_json([json.loads(files.spec.to_json()) for files in found])
        return
    width = get_terminal_size().columns
    say_result(*(line for files in found for line in spec_lines(files, width)))


@commands.command(cls=PlainCommand, rich_help_panel="Measure")
def doctor(as_json: JsonOption = False) -> None:
    """Show what works on this machine. Runs a self-test of every engine."""
    from dataclasses import asdict

    from srgan_edge.cli.doctor import examine
    from srgan_edge.cli.tables import doctor_table

    findings = examine()
    if as_json:
        say_json([asdict(finding) for finding in findings])
    else:
        print_table(doctor_table(findings))
    if any(finding.status == "broken" for finding in findings):
        sys.exit(6)


@commands.command("eval", cls=PlainCommand, rich_help_panel="Measure")
def evaluate(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR",
            help="Benchmark folders with HR/ in them; with --video also photographs and videos, "
            "by default the bundled photographs.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-n",
            "--model",
            metavar="NAME|FILE",
            help=f"A bundled model, or a file; repeatable. By default {DEFAULT_MODEL}.",
            autocompletion=bundled_names,
        ),
    ] = None,
    bicubic: Annotated[
        bool, typer.Option("--bicubic", help="Also score MATLAB's bicubic interpolation.")
    ] = False,
    results: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=DIR", help="Score images that another program made; repeatable."
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAME,...", help="basic, offline, all, or names: psnr_y,lpips_alex,..."
        ),
    ] = "basic",
    feature_weights: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A local AlexNet or VGG16, which adds lpips_alex or lpips_vgg; repeatable.",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw crops of all systems side by side."),
    ] = None,
    overwrite: OverwriteOption = False,
    crops: Annotated[
        int | None, typer.Option(metavar="N", help="Rows of the figure (default: 3).")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(metavar="N", help="Scale of baselines (default: the models' or 4)."),
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    fp32: Fp32Option = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: an object, or a list for several systems."),
    ] = False,
    video: Annotated[
        bool,
        typer.Option(
            "--video",
            help="Measure flicker: on pans over photographs, and on videos reduced in size.",
            rich_help_panel=VIDEO_PANEL,
        ),
    ] = False,
    frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Frames of each pan or video (default: 8).",
            rich_help_panel=VIDEO_PANEL,
        ),
    ] = None,
    motion: Annotated[
        Literal["pan", "zoom"] | None,
        typer.Option(
            metavar="pan|zoom",
            help="Motion over photographs (default: pan, for which flicker is exact).",
            rich_help_panel=VIDEO_PANEL,
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="SIGMA",
            help="Noise added to the inputs, in levels of 255.",
            rich_help_panel=VIDEO_PANEL,
        ),
    ] = None,
    steady: Annotated[
        str | None,
        typer.Option(
            metavar="off|auto|0..1",
            help="Also score each model with its detail kept from frame to frame.",
            rich_help_panel=VIDEO_PANEL,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Plot the scores of each second.", rich_help_panel=VIDEO_PANEL
        ),
    ] = None,
    vmaf: Annotated[
        bool,
        typer.Option(
            "--vmaf",
            help="Add VMAF NEG, by an ffmpeg with libvmaf.",
            rich_help_panel=VIDEO_PANEL,
        ),
    ] = False,
) -> None:
    """Score models, baselines and ready-made images on benchmarks; with --video, their flicker."""
    from srgan_edge.evaluation.evaluate import metrics_from_text

    if video:
        if figure is not None or results or crops is not None:
            raise UsageError("--video takes no --figure, --crops or --results; leave them out")
        if plot is not None:
            refuse_replacing(plot, folders or [], overwrite=overwrite, option="--plot")
        named = models or ([] if bicubic else [DEFAULT_MODEL])
        measures = measures_of(metrics_from_text(metrics), feature_weights or [], device)
        require("cv2", "srgan-edge[steady]", "--video")
        if plot is not None:
            require("matplotlib", "srgan-edge[train]", "--plot")
        from srgan_edge.cli.measure_videos import evaluate_videos

        evaluate_videos(
            folders or [],
            named,
            _common_scale(named, scale),
            bicubic=bicubic,
            frames=frames,
            motion=motion or "pan",
            noise=noise or 0.0,
            steady=steady or "off",
            measures=measures,
            plot=plot,
            overwrite=overwrite,
            vmaf=vmaf,
            as_json=as_json,
            engine=engine,
            device=device,
            fp32=fp32,
        )
        return
    for option, value in {
        "--frames": frames,
        "--motion": motion,
        "--noise": noise,
        "--steady": steady,
        "--plot": plot,
        "--vmaf": vmaf or None,
    }.items():
        if value is not None:
            raise UsageError(f"{option} is for --video; type --video too")
    if not folders:
        raise UsageError("no benchmark; type: srgan-edge eval DIR, a folder with HR/ in it")
    from srgan_edge.cli.tables import evaluation_record, evaluation_table
    from srgan_edge.evaluation.evaluate import evaluate_systems
    from srgan_edge.evaluation.figure import Showcase, draw_figure
    from srgan_edge.evaluation.systems import BICUBIC, NEAREST, open_models, ready_made
    from srgan_edge.image.still import StillImage
    from srgan_edge.image.writer import format_from_suffix, write_image

    if figure is not None:
        format_from_suffix(figure)  # refuse an unknown one now
        made = [Path(text.partition("=")[2]) for text in results or []]
        read = [*folders, *made, *(feature_weights or []), *files_of_models(models or [])]
        refuse_replacing(figure, read, overwrite=overwrite, option="--figure")
    elif crops is not None:
        raise UsageError("--crops is for a figure; type --figure FILE.png too")
    if crops is not None and crops < 1:
        raise UsageError(f"--crops {crops}; possible: 1 or more")
    measures = measures_of(metrics_from_text(metrics), feature_weights or [], device)
    baselines = [NEAREST, BICUBIC] if figure else [BICUBIC] if bicubic else []
    others = [ready_made(text, folders) for text in results or []]
    named = models or ([] if bicubic or others else [DEFAULT_MODEL])
    factor = _common_scale(named, scale)
    showcase = Showcase(crops or 3)
    with open_models(named, engine, device, fp32=fp32) as opened:
        systems = [*baselines, *opened, *others]
        look = showcase.look if figure else None
        evaluations = evaluate_systems(systems, folders, factor, measures, look)
    if as_json:
        records = [evaluation_record(system, evaluations[system.name]) for system in systems]
        say_json(records if len(records) > 1 else records[0])
    else:
        print_whole_table(evaluation_table(systems, evaluations))
    if figure is not None:
        drawn = StillImage(draw_figure(showcase.exhibits))
        write_image(figure, drawn, "--figure", overwrite=overwrite)
        say(f"wrote {figure}", err=as_json)


@commands.command(cls=PlainCommand, rich_help_panel="Export")
def verify(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A bundled model, or an .onnx or .engine file.",
            autocompletion=bundled_names,
        ),
    ],
    benchmarks: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR", help="Benchmark folders with HR/, to measure lost PSNR-Y on."
        ),
    ] = None,
    engine_names: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="Engine to verify; repeatable. By default all installed.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Checkpoint to compare with. By default MODEL's own, or its original if INT8.",
        ),
    ] = None,
    fp32: Fp32Option = False,
    as_json: JsonOption = False,
) -> None:
    """Compare engines with PyTorch. The exit code is 6 if one misses its gate."""
    require("torch", "srgan-edge[export]", "verifying")
    require("onnx", "srgan-edge[export]", "verifying")
    from srgan_edge.cli.tables import verdict_record, verdict_table
    from srgan_edge.engines import KINDS
    from srgan_edge.export.verify import verify_engines
    from srgan_edge.model.library import find_model
    from srgan_edge.model.passport import ENGINE_SUFFIX

    possible = {name: kind for name, kind in KINDS.items() if name != "torch"}  # the reference
    files = find_model(model)
    names = engine_names or [
        name for name, kind in possible.items() if kind.installed and files.has(kind.suffix)
    ]
    if unknown := [name for name in names if name not in possible]:
        raise UsageError(f"--engine {unknown[0]}; possible: {', '.join(possible)}")
    if not names and files.has(ENGINE_SUFFIX):
        possible["tensorrt"].refuse("cuda")
    elif not names:
        files.file(".onnx")
    kinds = [possible[name] for name in names]
    named = against or files.spec.quantized_from or model
    origin = find_model(named)
    if origin.spec.foreign is not None:
        raise UsageError(
            f"{origin.name} was compared with its own network when it was converted, and has no "
            f"checkpoint of ours; type: srgan-edge bench {quoted(named)} to see its engines"
        )
    if not origin.has(".safetensors"):
        raise UsageError(
            f"{origin.name} has no checkpoint to compare with; type --against NAME|FILE.safetensors"
        )
    reference = origin.file(".safetensors")
    verdicts = list(verify_engines(files, reference, kinds, benchmarks or [], fp32=fp32))
    if as_json:
        say_json([verdict_record(verdict) for verdict in verdicts])
    else:
        print_whole_table(verdict_table(verdicts))
    refused = [f"{it.info.name}: {'; '.join(it.refusals)}" for it in verdicts if it.refusals]
    if refused:
        raise ModelRefused("; ".join(refused))


@commands.command("verify-tiles", cls=PlainCommand, rich_help_panel="Export")
def verify_tiles(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Small images, like the model's input.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    tile: Annotated[
        int, typer.Option("-t", "--tile", metavar="PX", help="Side of a tile in pixels.")
    ] = 32,
    write: Annotated[
        bool, typer.Option("--write", help="Store the halo in the .safetensors file.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Plot the error against the halo.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure the halo that a model needs around its tiles."""
    require("torch", "srgan-edge[train]", "verify-tiles")
    if plot is not None:
        require("matplotlib", "srgan-edge[train]", "--plot")
        if plot.suffix.lower() != ".png":
            raise UsageError(f"--plot {plot}; possible: a name that ends in .png")
        read = [*images, *files_of_models([model])]
        refuse_replacing(plot, read, overwrite=overwrite, option="--plot")
    from dataclasses import replace

    from srgan_edge.cli.tables import halo_table
    from srgan_edge.engines.torch import TorchEngine
    from srgan_edge.evaluation.parity import halo_errors, smallest_halo_px
    from srgan_edge.image.reader import read_pixels
    from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint
    from srgan_edge.model.library import bundled_models, find_model

    checkpoint = find_model(model).file(".safetensors").resolve()
    bundled = {files.file(".safetensors").resolve() for files in bundled_models().values()}
    if write and checkpoint in bundled:
        raise UsageError(
            f"{model} is bundled, and its halo measured; copy {checkpoint} and name that"
        )
    generator, spec = load_checkpoint(checkpoint)
    photos = [read_pixels(path) for path in images]
    least_px = tile + -(-spec.receptive_radius_px // 2)  # halos are hardly ever longer
    if max(max(photo.shape[:2]) for photo in photos) < least_px:
        raise InputRefused(
            f"no image has a side of {least_px} px, and so a seam between tiles of {tile} px with "
            "enough beside it; name a larger one, or type a smaller --tile"
        )
    with TorchEngine.from_generator(generator, spec) as engine:
        errors = list(halo_errors(engine, photos, tile))
    halo_px = smallest_halo_px(errors)
    print_table(halo_table(errors, halo_px))
    if plot is not None:
        from srgan_edge.evaluation.parity import draw_halo_plot

        title = f"{spec.name}, tiles of {tile} px against whole images"
        draw_halo_plot(errors, halo_px, title, plot, overwrite=overwrite)
        say(f"wrote {plot}")
    if write:
        save_checkpoint(checkpoint, generator, replace(spec, halo_px=halo_px))
        say(f"wrote halo_px {halo_px} to {checkpoint}")


def _common_scale(models: list[str], typed: int | None) -> int:
    """Return the scale of a comparison: that of all models, or else the one that was typed.

    Raises:
        UsageError: models of several scales, or of another than was typed.
    """
    from srgan_edge.model.library import find_model
    from srgan_edge.model.spec import MAX_SCALE

    scales = {name: find_model(name).spec.scale for name in models}
    if len(set(scales.values())) > 1:
        each = ", ".join(f"{name} x{factor}" for name, factor in scales.items())
        raise UsageError(f"{each}; possible: models of one scale at a time")
    factor = next(iter(scales.values()), typed or 4)
    if typed is not None and (typed != factor or not 1 <= typed <= MAX_SCALE):
        possible = str(factor) if scales else f"1 to {MAX_SCALE}"
        raise UsageError(f"--scale {typed}; possible: {possible}")
    return factor


def measures_of(names: tuple[str, ...], files: list[Path], device: str) -> dict[str, Any]:
    """Return the measures in the order of the names; PyTorch is imported only if one needs it."""
    from srgan_edge.evaluation.evaluate import MEASURES

    learned = [name for name in names if name not in MEASURES]
    if not learned and not files:
        return {name: MEASURES[name] for name in names}
    reason = f"--metrics {learned[0]}" if learned else "--feature-weights"
    for module in ("torch", "torchvision", "piq", "torchmetrics"):
        require(module, "srgan-edge[train]", reason)
    from srgan_edge.train.perceptual import open_measures

    found = open_measures(learned, files, device)
    measures = MEASURES | found
    return {name: measures[name] for name in dict.fromkeys([*names, *found])}
