"""`srgan-edge plan`: what this machine can do with each model, before any work."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srgan_edge.cli.bench import Progress
from srgan_edge.cli.common import (
    DeviceOption,
    EngineOption,
    JsonOption,
    bundled_names,
    names_in,
    print_whole_table,
    say,
    say_json,
    say_licences,
)
from srgan_edge.cli.plain_help import PlainCommand
from srgan_edge.errors import InputRefused, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from srgan_edge.bench.forecast import Forecast
    from srgan_edge.bench.workload import Workload
    from srgan_edge.jobs.plan import Options

commands = typer.Typer()

SECONDS = 8.0
"""Time for measuring, all models together; looking at the input takes up to two seconds more."""


@commands.command(
    cls=PlainCommand,
    rich_help_panel="Measure",
    epilog="""\b
Examples:
  srgan-edge plan video.mp4
  srgan-edge plan video.mp4 --deadline 2h
  srgan-edge plan photos/ -n edge-x4,srgan-x4 --json""",
)
def plan(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="Files, folders or globs, as for upscale.")
    ],
    models: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--model",
            metavar="NAME|FILE,...",
            help="Models to measure. By default all that make such a result.",
            autocompletion=bundled_names,
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="N", help="Name the model that makes so many frames a second."),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Name the model that is done in time, such as 2h."),
    ] = None,
    outscale: Annotated[
        float | None, typer.Option("-s", "--outscale", metavar="X", help="Final scale, up to 16.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(metavar="N", help="Height of the result in pixels.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(metavar="N", help="Width of the result in pixels.")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(metavar="4k|WxH", help="Largest result that fits.")
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Estimate time, memory and size of results with each model, measured here in 10 s."""
    from srgan_edge.bench.forecast import START_SECONDS
    from srgan_edge.bench.workload import Workload
    from srgan_edge.isolation.images import ImageProcess
    from srgan_edge.jobs.plan import Naming, Options, names_stream, plan_jobs
    from srgan_edge.jobs.size import refuse_both, wanted_size
    from srgan_edge.model.library import find_model
    from srgan_edge.run import refuse_outscale
    from srgan_edge.suited import AUTO, suited_to_job
    from srgan_edge.tiling import Tiling
    from srgan_edge.video.excerpt import seconds_of
    from srgan_edge.video.frame import Encoding

    size = wanted_size(outscale, width, height, fit)
    refuse_outscale(outscale)
    if fps is not None and deadline is not None:
        refuse_both([f"--fps {fps:g}", f"--deadline {deadline}"])
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"--fps {fps:g}; possible: above 0, up to 1000")
    due_seconds = None if deadline is None else seconds_of("--deadline", deadline)
    options = Options(
        AUTO,
        Encoding(),
        Tiling(joined=True),
        engine,
        device,
        outscale=outscale,
        size=size,
        steady="auto",
    )
    names = names_in(models)
    for name in names:
        find_model(name)  # an unknown one is refused before anything is measured
    for text in inputs:
        if names_stream([text], None) or Path(text).is_fifo():
            raise InputRefused(
                f"{text} can be read only once, and plan looks at several places of a video; save "
                "it, or a part of it, to a file, and name that"
            )
    began = time.monotonic()
    remarks: list[str] = []
    jobs = plan_jobs(inputs, None, Naming("_x4"), say=remarks.append)
    with ImageProcess(options.max_pixels) as images, Progress() as progress:
        progress("looking at the input", 0.0)
        work = Workload.of(jobs, options, images)
        job = next((it for it in jobs if it.source in (work.video, work.image)), None)
        if job is None:
            raise InputRefused(f"nothing can be measured: {'; '.join(work.unknown)}")
        suited = suited_to_job(job, options, images)
        chosen = names or _fitting(options, work, suited.model)
        left = SECONDS - max(0.0, time.monotonic() - began - START_SECONDS)
        found = _forecasts(work, chosen, options, images, max(3.0, left), progress)
    if fps is not None and work.video is None:
        raise UsageError(f"--fps {fps:g} is for videos; possible with images: --deadline TIME")
    pick, why = _pick(found, suited.model, suited.reason, fps, due_seconds)
    if as_json:
        say_json(_record(work, found, pick, why, remarks))
        return
    print_whole_table(_table(work, found))
    cores = next((one.cores for one in found if one.cores and one.device == "cpu"), None)
    if cores is not None:
        had = f"{cores:.1f} of {len(os.sched_getaffinity(0))} cores"
        remarks.append(f"while this was measured it had {had}; times are for that share")
    say(*remarks, *(f"not known: {line}" for line in work.unknown))
    say(why)


def _fitting(options: "Options", work: "Workload", suited: str) -> list[str]:
    """Return the models that make a result of the wanted scale, the suited one first."""
    from srgan_edge.model.library import bundled_models, find_model, registered_models
    from srgan_edge.suited import SCALE

    names = [*bundled_models(), *registered_models()]
    scales = {name: find_model(name).spec.scale for name in names}
    wanted = scales.get(suited, SCALE)
    return [suited, *(it for it in names if it != suited and scales[it] in (wanted, SCALE))]


def _forecasts(
    work: "Workload",
    models: list[str],
    options: "Options",
    images: Any,  # noqa: ANN401 - an ImageProcess, whose module needs NumPy
    seconds: float,
    progress: Progress,
) -> "list[Forecast]":
    from srgan_edge.bench.forecast import forecast_images, forecast_video, samples_of
    from srgan_edge.jobs.size import Source
    from srgan_edge.model.library import find_model
    from srgan_edge.model.spec import multiplications_per_px
    from srgan_edge.suited import SCALE

    say_licences(models)
    models = sorted(models, key=lambda name: multiplications_per_px(find_model(name).spec))
    found: list[Forecast] = []
    share = 0.5 if work.video is not None and work.image is not None else 1.0
    if work.video is not None:
        began = time.monotonic()
        samples = samples_of(work.video, options)
        options.video_size(samples.info, SCALE)  # refuses a size that is impossible
        work.unknown += samples.unknown
        left = max(2.0, share * seconds - (time.monotonic() - began))
        found = forecast_video(samples, models, options, left, progress)
        for one in found:
            if one.seconds is not None and work.videos > 1:
                one.seconds *= work.video_share
                one.result_bytes = one.result_bytes and one.result_bytes * work.video_share
    if work.image is not None:
        with images.open(work.image) as reader:
            example = reader.rows(0, min(reader.height, 1024))
            factor = options.factor(Source(reader.width, reader.height))
        suffix = work.image.suffix if work.image.suffix in (".png", ".jpg", ".webp") else ".png"
        scaled = replace(options, outscale=factor, size=None)
        of_images = forecast_images(
            example, suffix, work.megapixels, models, scaled, share * seconds
        )
        found = _together(found, of_images) if found else of_images
    return found


def _together(videos: "list[Forecast]", images: "list[Forecast]") -> "list[Forecast]":
    """Return forecasts for videos with the time and size of images added."""
    return [
        replace(
            one,
            seconds=None if None in (one.seconds, other.seconds) else one.seconds + other.seconds,  # type: ignore[operator]
            result_bytes=None
            if None in (one.result_bytes, other.result_bytes)
            else one.result_bytes + other.result_bytes,  # type: ignore[operator]
        )
        for one, other in zip(videos, images, strict=True)
    ]


def _pick(
    found: "list[Forecast]",
    suited: str,
    reason: str,
    fps: float | None,
    due_seconds: float | None,
) -> tuple[str | None, str]:
    """Return the model to take, if any is good enough, and a line that says why."""
    from srgan_edge.jobs.estimate import shown
    from srgan_edge.suited import CRISP, CRISP_FOR_LOSSY, EXACT_FOR_LOSSY, FOR_LOSSY

    usable = [one for one in found if not one.failed]
    if not usable:
        return None, "no model can be used; the table says why"
    by_speed = sorted(usable, key=lambda one: one.unit_seconds or 0.0)
    if fps is None and due_seconds is None:
        if suited in {one.model for one in usable}:
            return suited, f"take {suited} ({reason}); type: -n {suited}"
        fastest = by_speed[0].model
        return fastest, f"take {fastest}, the fastest of these; type: -n {fastest}"
    if fps is not None:
        good = [one for one in usable if (one.fps or 0.0) >= fps]
        wish = f"{fps:g} frames a second"
        best = f"{by_speed[0].fps or 0.0:.2g} frames a second"
    else:
        good = [one for one in usable if (one.seconds or float("inf")) <= (due_seconds or 0.0)]
        wish = f"{shown(due_seconds or 0.0)}"
        known = by_speed[0].seconds
        best = "an unknown time" if known is None else shown(known)
    if not good:
        return None, f"no model manages {wish} here; the fastest, {by_speed[0].model}, takes {best}"
    names = [one.model for one in good]
    slowest = max(good, key=lambda one: one.unit_seconds or 0.0).model
    is_lossy = suited in (CRISP_FOR_LOSSY, EXACT_FOR_LOSSY, FOR_LOSSY)
    preferred = (suited, CRISP) if is_lossy else (CRISP, suited)
    model = next((name for name in preferred if name in names), slowest)
    return model, f"for {wish} take {model}; type: -n {model}"


def _table(work: "Workload", found: "list[Forecast]") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    counts = []
    if work.video is not None:
        counts.append(work.video.name if work.videos == 1 else f"{work.videos} videos")
    if work.images:
        counts.append(f"{work.images} images, {work.megapixels:.1f} megapixels")
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=escape(" and ".join(counts)),
        title_justify="left",
    )
    per = "fps" if work.video is not None else "megapixels\na second"
    table.add_column("model")
    for heading in (
        "result",
        "time",
        per,
        "CPU s\na frame" if work.video else "CPU s a\nmegapixel",
    ):
        table.add_column(heading, justify="right")
    for heading in ("peak\nMB", "size"):
        table.add_column(heading, justify="right")
    table.add_column("measured on")
    for one in found:
        table.add_row(*map(escape, _cells(one)))
    return table


def _cells(one: "Forecast") -> list[str]:
    from srgan_edge.jobs.estimate import shown

    if one.failed:
        return [one.model, "", "", "", "", "", "", f"failed: {one.failed}"]
    return [
        one.model,
        "-" if one.size is None else f"{one.size[0]}x{one.size[1]}",
        "not known" if one.seconds is None else shown(one.seconds),
        f"{one.fps or 0.0:.3g}",
        f"{one.cpu_seconds or 0.0:.3g}",
        f"{(one.memory_bytes or 0) / 1e6:.0f}",
        "not known" if one.result_bytes is None else _bytes(one.result_bytes),
        f"{one.measured}, {one.arithmetic}",
    ]


def _bytes(number: float) -> str:
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 1000:
            return f"{number:.3g} {unit}"
    return f"{number / 1000:.3g} TB"


def _record(
    work: "Workload", found: "list[Forecast]", pick: str | None, why: str, remarks: list[str]
) -> dict[str, Any]:
    """Return the JSON of `--json`: times in seconds, sizes in bytes, null for what is not known."""
    rows = [
        {
            "model": one.model,
            "failed": one.failed or None,
            "width": one.size and one.size[0],
            "height": one.size and one.size[1],
            "arithmetic": one.arithmetic,
            "seconds": one.seconds,
            "per_second": one.fps,
            "cpu_seconds": one.cpu_seconds,
            "memory_bytes": one.memory_bytes,
            "result_bytes": None if one.result_bytes is None else round(one.result_bytes),
            "measured": one.measured,
        }
        for one in found
    ]
    return {
        "videos": work.videos,
        "images": work.images,
        "megapixels": work.megapixels,
        "unit": "frame" if work.video is not None else "megapixel",
        "models": rows,
        "pick": pick,
        "why": why,
        "not_known": work.unknown,
        "remarks": remarks,
    }
