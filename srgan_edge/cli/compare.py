"""`srgan-edge compare`: a page or an image that shows results beside their source."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srgan_edge.cli.common import (
    DeviceOption,
    EngineOption,
    OverwriteOption,
    bundled_names,
    files_of_models,
    names_in,
    say,
)
from srgan_edge.cli.measure import measures_of
from srgan_edge.cli.plain_help import PlainCommand
from srgan_edge.errors import UsageError, quoted
from srgan_edge.files import free_name, refuse_replacing

if TYPE_CHECKING:
    from srgan_edge.api import Upscaler
    from srgan_edge.compare.layers import Comparison
    from srgan_edge.evaluation.evaluate import Measure

commands = typer.Typer()

PAGE_SUFFIXES = (".html", ".htm")

_VIDEO = "Video"
_SECONDS = "5"
"""Length of a video's excerpt in seconds, if none is typed."""


@commands.command(cls=PlainCommand, rich_help_panel="Upscale")
def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="The input, image or video.")],
    after: Annotated[
        list[Path] | None, typer.Argument(metavar="AFTER", help="Its upscaled results.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Page to write (.html), or an image. By default NAME_compared.html.",
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--model",
            metavar="NAME|FILE,...",
            help="Models whose results to make for the page.",
            autocompletion=bundled_names,
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(metavar="X,Y,W,H", help="Part of an image to show, in result pixels."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The ideal result: adds PSNR and SSIM to the page."),
    ] = None,
    feature_weights: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A local AlexNet or VGG16, which adds LPIPS; repeatable."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Where the excerpt starts: seconds or h:mm:ss. By default 0.",
            rich_help_panel=_VIDEO,
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help=f"Length of the excerpt. By default {_SECONDS}.",
            rich_help_panel=_VIDEO,
        ),
    ] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Show results beside their input: a page with a slider, or an image."""
    from srgan_edge.jobs.plan import kind_of
    from srgan_edge.video.excerpt import Excerpt

    results = after or []
    inputs = [before, *results, *([reference] if reference else [])]
    kinds = {file: kind_of(file) for file in inputs}
    path = output or before.with_name(f"{before.stem}_compared.html")
    names = names_in(models)
    read = [*inputs, *(feature_weights or []), *files_of_models(names)]
    refuse_replacing(path, read, overwrite=overwrite)
    kind = kinds[before]
    if other := [file for file in inputs if kinds[file] != kind]:
        raise UsageError(
            f"{before} is {_a(kind)} and {other[0]} {_a(kinds[other[0]])}; "
            "possible: images, or videos"
        )
    if kind == "image" and (start, duration) != (None, None):
        raise UsageError(f"--start and --duration are for videos; {before} is an image")
    excerpt = Excerpt.of(start, duration or _SECONDS, None)
    assert excerpt is not None
    if kind == "video" and crop is not None:
        raise UsageError("--crop is for images; the page of a video shows it all")
    if not results and not names:
        raise UsageError(f"{before} alone is no comparison; name its result, or type -n edge-x4")
    if path.suffix.lower() not in PAGE_SUFFIXES:
        page = quoted(free_name(path, ".html"))
        if kind == "video":
            raise UsageError(f"-o {path} is an image, and {before} a video; type: -o {page}")
        typed = {"-n": models, "--reference": reference, "--feature-weights": feature_weights}
        more = [option for option, value in typed.items() if value]
        if len(results) > 1:
            more.insert(0, f"{len(results)} results")
        if more:
            raise UsageError(
                f"-o {path}: an image shows one result that is a file; "
                f"for {' and '.join(more)}, type: -o {page}"
            )
        _draw_image(before, results[0], path, crop, overwrite=overwrite)
        return
    from srgan_edge.compare.page import write_page

    learned = measures_of((), feature_weights or [], device)
    with ExitStack() as engines:
        upscalers = {name: _upscaler(engines, name, engine, device) for name in names}
        if kind == "image":
            comparison = _images(before, results, upscalers, reference, crop, learned)
        else:
            from srgan_edge.compare.clips import compare_videos

            frames = {name: it.frames for name, it in upscalers.items()}
            comparison = compare_videos(before, results, frames, reference, excerpt, learned)
    title = " and ".join(dict.fromkeys([before.name, *_names(results)]))
    write_page(path, comparison, title, overwrite=overwrite)
    for note in comparison.notes:
        say(f"note: {note}", err=True)
    say(f"wrote {path}")


def _images(
    before: Path,
    results: list[Path],
    upscalers: "dict[str, Upscaler]",
    reference: Path | None,
    crop: str | None,
    learned: "dict[str, Measure]",
) -> "Comparison":
    from srgan_edge.compare.images import compare_images
    from srgan_edge.evaluation.drawing import Crop

    part = None if crop is None else Crop.from_text(crop)
    return compare_images(before, results, upscalers, reference, part, learned)


def _draw_image(
    before: Path, after: Path, path: Path, crop: str | None, *, overwrite: bool
) -> None:
    """Draw bicubic interpolation and the result side by side."""
    from srgan_edge.compare.images import read_images
    from srgan_edge.evaluation.drawing import Crop, side_by_side
    from srgan_edge.image.still import StillImage
    from srgan_edge.image.writer import write_image

    detail = None if crop is None else Crop.from_text(crop)
    notes: list[str] = []
    source, result = read_images([before, after], notes)
    drawn = StillImage(side_by_side(source, result, ("bicubic", "srgan-edge"), detail))
    write_image(path, drawn, overwrite=overwrite)
    for note in notes:
        say(f"note: {note}", err=True)
    say(f"wrote {path}")


def _upscaler(engines: ExitStack, name: str, engine: str, device: str) -> "Upscaler":
    from srgan_edge.api import Upscaler

    say(f"upscaling with {name}", err=True)
    return engines.enter_context(Upscaler(name, engine=engine, device=device))


def _names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def _a(kind: str) -> str:
    return "an image" if kind == "image" else f"a {kind}"
