"""`srgan-edge upscale` and what belongs to its results: `check` and `compare`."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from srgan_edge.cli.common import (
    NETWORK,
    DeviceOption,
    EngineOption,
    Fp32Option,
    ModelOption,
    pixels_or,
)
from srgan_edge.errors import InputDamaged, UsageError
from srgan_edge.model.library import DEFAULT_MODEL

commands = typer.Typer()

_result = partial(typer.Option, rich_help_panel="Results")
_network = partial(typer.Option, rich_help_panel=NETWORK)
_video = partial(typer.Option, rich_help_panel="Videos")
_stream = partial(typer.Option, rich_help_panel="Pipes and live sources")
_word = partial(typer.Option, rich_help_panel="What is said")


@commands.command()
def upscale(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Files, folders, globs; - or an address."),
    ] = None,
    more_inputs: Annotated[
        list[str] | None, _result("-i", "--input", metavar="INPUT", help="The same, as an option.")
    ] = None,
    output: Annotated[
        Path | None,
        _result("-o", "--output", metavar="PATH", help="A file, a folder for several, or -."),
    ] = None,
    suffix: Annotated[
        str, _result(metavar="TEXT", help="Added to names where -o gives none.")
    ] = "_x4",
    ext: Annotated[
        str | None, _result("--ext", metavar="EXT", help="Other file type, as png or mkv.")
    ] = None,
    overwrite: Annotated[bool, _result("--overwrite", help="Replace results.")] = False,
    skip_existing: Annotated[bool, _result("--skip-existing", help="Keep results.")] = False,
    restart: Annotated[
        bool, _result("--restart", "--no-resume", help="Begin a video anew, not where it stopped.")
    ] = False,
    max_pixels: Annotated[
        int, _result(metavar="N", help="Of the largest image; a result may have 16 times those.")
    ] = 100_000_000,
    model: ModelOption = DEFAULT_MODEL,
    outscale: Annotated[
        float | None,
        _network("-s", "--outscale", metavar="X", help="Final scale, if not the model's own."),
    ] = None,
    tile: Annotated[
        str, _network("-t", "--tile", metavar="PX|auto", help="Core in input pixels; 0: no tiles.")
    ] = "auto",
    overlap: Annotated[
        str,
        _network("--overlap", "--tile-pad", metavar="PX|auto|exact", help="Halo around a tile."),
    ] = "auto",
    batch: Annotated[int, _network(metavar="N", help="Tiles a call.")] = 1,
    color_lock: Annotated[
        bool | None,
        _network(
            "--color-lock/--no-color-lock",
            help="Hold mean colors; by itself for GANs and foreign models.",
            show_default=False,
        ),
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    fp32: Fp32Option = False,
    codec: Annotated[
        str, _video("-c", "--codec", metavar="NAME", help="Encoder of the result.")
    ] = "libx264",
    crf: Annotated[int | None, _video(metavar="N", help="Its constant quality.")] = None,
    preset: Annotated[str | None, _video(metavar="NAME", help="Its speed.")] = None,
    pix_fmt: Annotated[
        str | None, _video(metavar="NAME", help="Pixel format, if not like the source's.")
    ] = None,
    encoder_options: Annotated[
        list[str] | None, _video("-e", metavar="KEY=VALUE", help="Anything else for the encoder.")
    ] = None,
    deinterlace: Annotated[
        bool, _video("--deinterlace", help="Make one image of the two fields of a frame.")
    ] = False,
    on_damage: Annotated[
        Literal["skip", "conceal"],
        _video(help="Frames that cannot be decoded: left out, or shown as the one before."),
    ] = "skip",
    decode: Annotated[
        Literal["auto", "cpu", "gpu"],
        _video(help="Where videos are decoded; auto: on the GPU, if the engine is there."),
    ] = "cpu",
    pipe_format: Annotated[
        Literal["matroska", "nut", "yuv4mpegpipe"] | None,
        _stream(
            "-f", "--format", metavar="NAME", help="Of -o -: matroska (if none), nut, yuv4mpegpipe."
        ),
    ] = None,
    allow_network: Annotated[
        bool, _stream("--allow-network", help="Read rtsp, udp, srt and http(s) addresses.")
    ] = False,
    live: Annotated[
        bool, _stream("--live", help="Drop frames of - or an address rather than be late.")
    ] = False,
    json_events: Annotated[
        bool, _word("--json-events", help="One JSON object a line on stdout; with -o -, stderr.")
    ] = False,
    report: Annotated[
        Path | None, _word(metavar="FILE.json", help="Write down all that was done.")
    ] = None,
    quiet: Annotated[bool, _word("-q", "--quiet", help="Only errors.")] = False,
) -> None:
    """Upscale images and videos: files, folders and globs, any mixture; or one live stream."""
    from dataclasses import replace

    from srgan_edge.jobs.plan import Naming, Options, names_stream, plan_jobs, plan_stream
    from srgan_edge.jobs.report import JsonReporter, Reporter, TerminalReporter
    from srgan_edge.jobs.report_file import ReportFile
    from srgan_edge.run import run_jobs
    from srgan_edge.tiling import Tiling
    from srgan_edge.video.frame import Encoding

    wanted = [*(inputs or []), *(more_inputs or [])]
    if not wanted:
        raise UsageError("nothing to upscale; type: srgan-edge upscale FILE")
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing; possible: one of them")
    if "/" in suffix or (ext is not None and "/" in ext):
        raise UsageError(f"--suffix {suffix}; possible: a part of a name, without /")
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
            tile=pixels_or("--tile", tile, "auto"),
            overlap=pixels_or("--overlap", overlap, "auto", "exact"),
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
        chosen.refuse_other_file()
    with chosen as reporter:
        sys.exit(run_jobs(jobs, options, reporter))


@commands.command()
def check(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The video that was upscaled.")],
    result: Annotated[Path, typer.Argument(metavar="OUT", help="What became of it.")],
) -> None:
    """Compare a video with its upscaled self: every frame's time, every packet of audio."""
    from srgan_edge.transcode.check import VideoRecord, differences

    before, after = VideoRecord.of(source), VideoRecord.of(result)
    if found := differences(before, after):
        raise InputDamaged(f"{result} is not {source} upscaled: {'; '.join(found)}")
    packets = sum(len(record.digests) for record in before.packets.values())
    typer.echo(
        f"{result} is whole, {before.info.width}x{before.info.height} to "
        f"{after.info.width}x{after.info.height}: {len(before.frames)} frames at their times, "
        f"{packets} packets of audio and subtitles as they were"
    )


@commands.command()
def compare(
    before: Annotated[Path, typer.Argument(help="The input image.")],
    after: Annotated[Path, typer.Argument(help="The upscaled image.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="StillImage to write.")],
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Detail to enlarge, in result pixels.")
    ] = None,
) -> None:
    """Put an image, enlarged by the bicubic, beside its upscaled self."""
    from srgan_edge.evaluation.drawing import Crop, side_by_side
    from srgan_edge.image.reader import read_pixels
    from srgan_edge.image.still import StillImage
    from srgan_edge.image.writer import write_image

    detail = None if crop is None else Crop.from_text(crop)
    images = read_pixels(before), read_pixels(after)
    write_image(output, StillImage(side_by_side(*images, ("bicubic", "srgan-edge"), detail)))
    typer.echo(f"wrote {output}")


def _key_values(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"-e {pair!r}; write it as key=value")
    return dict(pair.split("=", 1) for pair in pairs)
