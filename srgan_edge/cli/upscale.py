"""`srgan-edge upscale`, and `check`, which compares its results with their inputs."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from srgan_edge.cli.common import (
    MODEL_PANEL,
    EngineOption,
    Fp32Option,
    bundled_names,
    pixels_or,
    say,
)
from srgan_edge.cli.plain_help import PlainCommand
from srgan_edge.errors import InputDamaged, UsageError, typed

if TYPE_CHECKING:
    from srgan_edge.jobs.plan import Job

commands = typer.Typer()

PIPE_FORMATS = ("matroska", "nut", "yuv4mpegpipe")

VIDEO_PANEL = "Video"

_FOR_VIDEOS = ("ray", "allow_mixed")
_FOR_IMAGES = ("max_pixels",)
"""Parameters that only one kind of input has a use for, besides those in the panel of videos."""

_common = typer.Option
_model = partial(typer.Option, rich_help_panel=MODEL_PANEL)
_video = partial(typer.Option, rich_help_panel=VIDEO_PANEL)
_stream = partial(typer.Option, rich_help_panel="Streams")
_output = partial(typer.Option, rich_help_panel="Output")

StartOption = Annotated[
    str | None,
    _video(metavar="TIME", help="Where an excerpt starts: seconds or h:mm:ss."),
]
DurationOption = Annotated[
    str | None, _video(metavar="TIME", help="Length of the excerpt. By default up to the end.")
]
SampleOption = Annotated[
    str | None,
    _video(
        metavar="NxTIME",
        help="Samples spread over the video as one result: 3x2s for three of two seconds.",
    ),
]


@commands.command(
    cls=PlainCommand,
    rich_help_panel="Upscale",
    epilog="""\b
Examples:
  srgan-edge upscale photo.jpg
  srgan-edge upscale in.mp4 -o out.mkv
  srgan-edge upscale photos/ -f png -o large/""",
)
def upscale(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT", help="Files, folders or globs; - or an address for a stream."
        ),
    ] = None,
    more_inputs: Annotated[
        list[str] | None,
        _common("-i", "--input", metavar="INPUT", help="The same as INPUT; repeatable."),
    ] = None,
    named: Annotated[
        str | None,
        _common(
            *("-o", "--output"),
            metavar="PATH",
            help="Result: a file, a folder for several inputs, or - for a pipe. "
            "By default beside the input.",
        ),
    ] = None,
    model: Annotated[
        str,
        _common(
            *("-n", "--model"),
            metavar="NAME|FILE|URL|auto",
            help="A model (see `srgan-edge models`), a file, an address with #sha256=HEX, or auto, "
            "which chooses by source and device and says what.",
            autocompletion=bundled_names,
        ),
    ] = "auto",
    outscale: Annotated[
        float | None,
        _common(
            "-s", "--outscale", metavar="X", help="Final scale, up to 16. By default the model's."
        ),
    ] = None,
    height: Annotated[
        int | None,
        _common(metavar="N", help="Height of the result in pixels, instead of -s."),
    ] = None,
    width: Annotated[
        int | None, _common(metavar="N", help="Width of the result in pixels, instead of -s.")
    ] = None,
    fit: Annotated[
        str | None,
        _common(
            metavar="4k|WxH",
            help="Largest result that fits, instead of -s: 720p, 1080p, 1440p, 4k, 8k or WxH.",
        ),
    ] = None,
    ext: Annotated[
        str | None,
        _common(
            *("-f", "--ext"),
            metavar="EXT",
            help="File type of results, such as png or mkv. By default the input's.",
        ),
    ] = None,
    tile: Annotated[
        str,
        _common(
            *("-t", "--tile"),
            metavar="PX|auto",
            help="Side of a tile in input pixels; 0 for whole frames. Smaller tiles need less "
            "memory.",
        ),
    ] = "auto",
    overwrite: Annotated[bool, _common("--overwrite", help="Replace results that exist.")] = False,
    quiet: Annotated[bool, _common("-q", "--quiet", help="Print errors only.")] = False,
    suffix: Annotated[
        str | None,
        _output(
            metavar="TEXT",
            help="Added to the name of a result that -o does not name. By default the scale or "
            "size, such as _x4, _2160p or _4k.",
        ),
    ] = None,
    skip_existing: Annotated[
        bool, _output("--skip-existing", help="Skip inputs whose result exists.")
    ] = False,
    restart: Annotated[
        bool,
        _output(
            "--restart",
            "--no-resume",
            help="Start a video over instead of resuming an interrupted run.",
        ),
    ] = False,
    max_pixels: Annotated[
        int,
        _output(
            metavar="N",
            help="Largest input image accepted, in pixels; its result may be 16 times larger.",
        ),
    ] = 100_000_000,
    report: Annotated[
        Path | None,
        _output(metavar="FILE.json", help="Write a report of the whole run to this file."),
    ] = None,
    json_events: Annotated[
        bool,
        _output(
            "--json-events",
            help="Print one JSON object a line to stdout; to stderr with -o -.",
        ),
    ] = False,
    overlap: Annotated[
        str,
        _model(
            *("--overlap", "--tile-pad"),
            metavar="PX|auto|exact",
            help="Halo around a tile in input pixels; exact covers all that the network sees.",
        ),
    ] = "auto",
    batch: Annotated[int, _model(metavar="N", help="Tiles computed at a time.")] = 1,
    color_lock: Annotated[
        bool | None,
        _model(
            "--color-lock/--no-color-lock",
            help="Preserve mean colors (default for GANs and models of other programs).",
            show_default=False,
        ),
    ] = None,
    fidelity: Annotated[
        str | None,
        _model(
            metavar="0..1|auto",
            help="With -n srgan-x4: 0 is its texture, 1 the faithful srresnet-x4, and what is "
            "between mixes their weights. With any model, auto interpolates small letters, which "
            "networks break.",
        ),
    ] = None,
    denoise: Annotated[
        float | None,
        _model(
            metavar="0..1",
            help="With -n srgan-real-x4: 1 is its own strength, and less keeps more of the noise, "
            "grain and artifacts of the source, as srgan-x4 does at 0.",
            show_default=False,
        ),
    ] = None,
    engine: EngineOption = "auto",
    device: Annotated[
        str,
        _model(
            metavar="DEVICE[,...]",
            help="auto, cpu, cuda or cuda:N; onnxruntime also has tensorrt and rtx. Several, with "
            "commas, share images and the segments of a video.",
        ),
    ] = "auto",
    ray: Annotated[
        str | None,
        _model(
            metavar="ADDRESS|auto|local",
            help="Share images and the segments of a video among the nodes of a Ray cluster.",
        ),
    ] = None,
    allow_mixed: Annotated[
        bool,
        _model(
            "--allow-mixed",
            help="Let devices take part that compute differently; results may differ in last bits.",
        ),
    ] = False,
    fp32: Fp32Option = False,
    steady: Annotated[
        str,
        _video(
            metavar="off|auto|0..1",
            help="Keep detail from frame to frame, so that it does not flicker; auto does so for "
            "GANs on a CPU. Needs the extra `steady`.",
        ),
    ] = "auto",
    grain: Annotated[
        bool,
        _video("--grain", help="Put grain that the model removes back on the result of a video."),
    ] = False,
    codec: Annotated[
        str, _video("-c", "--codec", metavar="NAME", help="FFmpeg encoder of the result.")
    ] = "libx264",
    crf: Annotated[
        int | None,
        _video(metavar="N", help="Constant rate factor; lower is better quality."),
    ] = None,
    preset: Annotated[
        str | None, _video(metavar="NAME", help="Speed preset of the encoder, such as medium.")
    ] = None,
    pix_fmt: Annotated[
        str | None,
        _video(metavar="NAME", help="Pixel format. By default like the input's."),
    ] = None,
    encoder_options: Annotated[
        list[str] | None,
        _video("-e", metavar="KEY=VALUE", help="Any other encoder option; repeatable."),
    ] = None,
    start: StartOption = None,
    duration: DurationOption = None,
    sample: SampleOption = None,
    dedup: Annotated[
        Literal["strict", "normal"] | None,
        _video(
            metavar="strict|normal",
            help="Make frames that nearly repeat an earlier one of its result: held drawings, "
            "telecine.",
        ),
    ] = None,
    deinterlace: Annotated[
        bool, _video("--deinterlace", help="Combine the two fields of a frame into one image.")
    ] = False,
    on_damage: Annotated[
        Literal["skip", "conceal"],
        _video(
            metavar="skip|conceal",
            help="Leave out frames that cannot be decoded, or repeat the one before.",
        ),
    ] = "skip",
    audio: Annotated[
        Literal["convert", "copy", "drop"],
        _video(
            metavar="convert|copy|drop",
            help="Copy audio, and convert to PCM what the result cannot hold; or only copy; or "
            "leave it out.",
        ),
    ] = "convert",
    tune: Annotated[
        bool,
        _model(
            "--tune/--no-tune",
            help="Use what `srgan-edge tune` found here for the model and size of a video.",
        ),
    ] = True,
    decode: Annotated[
        Literal["auto", "cpu", "gpu"],
        _video(
            metavar="auto|cpu|gpu",
            help="Where to decode; auto uses the GPU if the engine runs there.",
        ),
    ] = "cpu",
    pipe_format: Annotated[
        Literal["matroska", "nut", "yuv4mpegpipe"] | None,
        _stream(
            metavar="NAME",
            help="Container for -o -: matroska (default), nut or yuv4mpegpipe.",
        ),
    ] = None,
    allow_network: Annotated[
        bool,
        _stream(
            "--allow-network",
            help="Allow addresses as input (rtsp, udp, srt, http(s)), and download a model once.",
        ),
    ] = False,
    live: Annotated[
        bool,
        _stream("--live", help="Drop frames to keep up; for an input of - or an address."),
    ] = False,
) -> None:
    """Upscale images and videos: files, folders or a stream."""
    from dataclasses import replace

    from srgan_edge.ahead import readers_started
    from srgan_edge.machine import without_collections

    wanted = [*(inputs or []), *(more_inputs or [])]
    output = None if named is None else Path(named)
    if not wanted:
        raise UsageError("nothing to upscale; type: srgan-edge upscale FILE")
    if str(output) != "-":
        context.with_resource(readers_started(wanted, looks=model == "auto"))

    with without_collections():
        from srgan_edge.jobs.plan import (
            Naming,
            Options,
            names_stream,
            plan_jobs,
            plan_stream,
            refuse_clashes,
            refuse_excerpt,
            refuse_type,
            result_suffix,
        )
        from srgan_edge.jobs.report_file import ReportFile
        from srgan_edge.jobs.reporters import JsonReporter, Reporter, TerminalReporter
        from srgan_edge.jobs.size import wanted_size
        from srgan_edge.model.library import find_model
        from srgan_edge.model.store import is_model_address
        from srgan_edge.run import run_jobs
        from srgan_edge.steady import steady_from_text
        from srgan_edge.suited import AUTO, SCALE
        from srgan_edge.tiling import Tiling
        from srgan_edge.video.excerpt import Excerpt
        from srgan_edge.video.frame import Encoding

    _refuse_result_among_inputs(wanted, output)
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing; possible: one of them")
    letters = fidelity == "auto"
    if fidelity is not None and not letters:
        from srgan_edge.model.mixture import FIDELITY, mixed_model

        model = mixed_model(model, FIDELITY, FIDELITY.number(fidelity))
    if denoise is not None:
        from srgan_edge.model.mixture import DENOISE, mixed_model

        model = mixed_model(model, DENOISE, denoise)
    size = wanted_size(outscale, width, height, fit)
    excerpt = Excerpt.of(start, duration, sample)
    scale: float = SCALE
    if (suffix is None and size is None) or is_model_address(model):
        known = None if model == AUTO else find_model(model, allow_network=allow_network)
        scale = SCALE if known is None else known.spec.scale
    if suffix is None:
        suffix = result_suffix(size, scale if outscale is None else outscale, excerpt)
    if "/" in suffix:
        raise UsageError(f"--suffix {suffix}; possible: a part of a name, without /")
    extension = None if ext is None else "." + ext.lstrip(".")
    if pipe_format is not None and str(output) != "-":
        raise UsageError(
            f"--pipe-format {pipe_format} is for -o -; a file's format is that of its suffix"
        )
    _refuse_pipe_format(ext, output)
    remarks: list[str] = []
    if names_stream(wanted, output):
        jobs = [plan_stream(wanted, output, pipe_format or "matroska", allow_network=allow_network)]
    else:
        naming = Naming(suffix, extension)
        jobs = plan_jobs(wanted, named, naming, overwrite=overwrite, say=remarks.append)
        if extension is not None:
            refuse_type(extension, output, jobs)
    if excerpt is not None:
        refuse_excerpt(jobs)
    if dedup is not None and any(job.is_stream for job in jobs):
        raise UsageError(f"--dedup {dedup} with a stream; possible: from a video file to another")
    if str(report) == "-":
        raise UsageError("--report - is no file; for lines on standard output type --json-events")
    others = {} if report is None else {"--report": report}
    if json_events and str(output) != "-":
        others["--json-events"] = Path("/dev/stdout")
    refuse_clashes(jobs, others)
    if live and jobs[0].inlet is None:
        raise UsageError("--live with files, which wait; possible: with - or an address")
    if live and pipe_format == "yuv4mpegpipe":
        raise UsageError(
            "--live leaves gaps, which yuv4mpegpipe has no room for; type --pipe-format nut"
        )
    encoder_values = _key_values(encoder_options or [], {"crf": crf, "preset": preset})
    device, devices = _devices(device)
    if ray is not None and devices:
        raise UsageError(f"--ray {ray} and several devices; possible: one of them")
    if (devices or ray is not None) and any(job.is_stream for job in jobs):
        several = f"--ray {ray}" if ray is not None else f"--device {','.join(devices)}"
        raise UsageError(f"{several} with a stream; possible: one device, or files")
    if allow_mixed and not devices and ray is None:
        raise UsageError("--allow-mixed with one device; possible: with several, or --ray")
    options = Options(
        model=model,
        engine=engine,
        device=device,
        devices=devices,
        ray=ray,
        allow_mixed=allow_mixed,
        fp32=fp32,
        decode=decode,
        tiling=Tiling(
            tile=pixels_or("--tile", tile, "auto"),
            overlap=pixels_or("--overlap", overlap, "auto", "exact"),
            batch=batch,
            joined=True,
        ),
        outscale=outscale,
        size=size,
        excerpt=excerpt,
        encoding=Encoding(codec, crf, preset, pix_fmt, encoder_values),
        existing="replace" if overwrite else "keep" if skip_existing else "refuse",
        color_lock=color_lock,
        steady=steady_from_text(steady),
        letters=letters,
        grain=grain,
        audio=audio,
        live=live,
        dedup=dedup,
        tuned=tune,
        restart=restart,
        on_damage=on_damage,
        deinterlace=deinterlace,
        max_pixels=max_pixels,
    )
    _refuse_of_other_kind(context, jobs)
    jobs = [replace(job, outlet=job.outlet and job.outlet.claim()) for job in jobs]
    chosen: Reporter = JsonReporter() if json_events else TerminalReporter(quiet=quiet)
    if report is not None:
        chosen = ReportFile(report, chosen)
        chosen.refuse_other_file()
    with chosen as reporter:
        for remark in remarks:
            reporter.note(remark)
        sys.exit(run_jobs(jobs, options, reporter))


@commands.command(cls=PlainCommand, rich_help_panel="Upscale")
def check(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The video that was upscaled.")],
    result: Annotated[Path, typer.Argument(metavar="OUT", help="The upscaled video.")],
    start: StartOption = None,
    duration: DurationOption = None,
    sample: SampleOption = None,
) -> None:
    """Check that OUT is IN, or an excerpt of it, upscaled: every frame and packet."""
    from srgan_edge.transcode.check import (
        differences,
        heard_ends,
        lost_layouts,
        lost_tags,
        moved_chapters,
    )
    from srgan_edge.transcode.record import VideoRecord
    from srgan_edge.video.excerpt import Excerpt

    after = VideoRecord.of(result)
    excerpt = Excerpt.of(start, duration, sample)
    before = VideoRecord.of(source, like=after, excerpt=excerpt)
    if found := differences(before, after):
        raise InputDamaged(f"{result} is not {source} upscaled: {'; '.join(found)}")
    packets = sum(len(record.digests) for record in after.packets.values())
    unkept = [lost for lost in before.info.unkept if lost not in after.info.unkept]
    lacks = [*before.undescribed, *unkept, *lost_tags(before, after), *lost_layouts(before, after)]
    lacks += [*heard_ends(before, after), *moved_chapters(before, after)]
    say(
        f"{result} is whole, {before.info.width}x{before.info.height} to "
        f"{after.info.width}x{after.info.height}: {len(before.frames)} frames at their times, "
        f"{packets} packets of audio and subtitles as they were",
        *(f"it lacks {lost}" for lost in lacks),
    )


def _devices(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the first device, and all if there are several."""
    devices = tuple(text.split(","))
    if "" in devices or (len(devices) > 1 and "auto" in devices):
        raise UsageError(f"--device {text}; possible: one, or several such as cuda:0,cuda:1")
    return devices[0], devices if len(devices) > 1 else ()


def _refuse_result_among_inputs(inputs: list[str], output: Path | None) -> None:
    """Raise at `upscale in.png out.png`: the second was probably meant as `-o`."""
    if output is not None or len(inputs) != 2:
        return
    source, result = inputs
    if not Path(source).exists() or Path(result).exists() or set(result) & set("*?["):
        return
    if Path(result).suffix or result.endswith("/") or Path(source).is_dir():
        words = sys.argv[1:]
        if result in words:
            at = len(words) - 1 - words[::-1].index(result)
            words[at : at + 1] = ["-o", result]
        raise UsageError(
            f"{result} does not exist; to write the result there, type: "
            f"{typed(['srgan-edge', *words])}"
        )


def _refuse_of_other_kind(context: typer.Context, jobs: "Sequence[Job]") -> None:
    """Raise at an option that was typed and that none of the jobs has a use for."""
    kinds = {job.kind for job in jobs}
    for parameter in context.command.params:
        panel = getattr(parameter, "rich_help_panel", None)
        of = "video" if panel == VIDEO_PANEL or parameter.name in _FOR_VIDEOS else None
        of = "image" if parameter.name in _FOR_IMAGES else of
        source = context.get_parameter_source(parameter.name or "")
        if of is None or of in kinds or source is None or source.name != "COMMANDLINE":
            continue
        called = max(parameter.opts, key=len)
        others = " and ".join(f"{kind}s" for kind in sorted(kinds))
        raise UsageError(f"{called} is for {of}s, and the inputs are {others}; leave it out")


def _refuse_pipe_format(ext: str | None, output: Path | None) -> None:
    """Raise at `-f nut`, and at `-f mkv -o -`: `-f` is the type of a file."""
    if ext is None:
        return
    if str(output) == "-":
        possible = ext if ext in PIPE_FORMATS else "|".join(PIPE_FORMATS)
        raise UsageError(f"-f {ext} is for files; for -o - type --pipe-format {possible}")
    if ext in PIPE_FORMATS:
        raise UsageError(f"-f {ext} is no file type; for a pipe type -o - --pipe-format {ext}")


def _key_values(pairs: list[str], named: Mapping[str, object]) -> dict[str, str]:
    """Split `-e KEY=VALUE`; of a key that is there twice, the other value would be lost.

    Args:
        named: values of options of their own by the keys that they stand for; None: not given.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"-e {pair!r}; write it as key=value")
        if named.get(key) is not None:
            raise UsageError(f"--{key} {named[key]} and -e {pair}; possible: one of them")
        if key in values:
            raise UsageError(f"-e {key}={values[key]} and -e {pair}; possible: one of them")
        values[key] = value
    return values
