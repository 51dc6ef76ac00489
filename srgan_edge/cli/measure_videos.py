"""The command `srgan-edge eval --video`: scenes of photographs and videos, a table and a plot."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from srgan_edge.cli.common import print_whole_table, say, say_json
from srgan_edge.errors import InputRefused, UsageError, printable
from srgan_edge.evaluation.scenes import PHOTOS, Scene, pan_over, video_scene, zoom_over
from srgan_edge.evaluation.systems import bicubic_upscale
from srgan_edge.evaluation.temporal import Distance
from srgan_edge.evaluation.videos import (
    DECIMALS,
    HEADINGS,
    STEADIED,
    SceneScores,
    VideoSystem,
    mean_scores,
    score_scenes,
)
from srgan_edge.evaluation.vmaf import Vmaf, ffmpeg_with_vmaf
from srgan_edge.files import replace_when_whole, scratch_folder
from srgan_edge.image.writer import IMAGE_SUFFIXES
from srgan_edge.jobs.plan import Options, kind_of
from srgan_edge.pixels import Pixels
from srgan_edge.run import open_upscaler
from srgan_edge.steady import AUTO_STRENGTH, steady_from_text
from srgan_edge.tiling import Tiling
from srgan_edge.video.frame import Encoding

FRAMES = 8
"""Frames of a scene, if `--frames` names no other number."""

MIN_FRAMES = 4
"""Fewest frames that leave pairs once steadying has begun."""

_COLORS = ("#4878a8", "#d1783b", "#5a9a68", "#a05a9a", "#8c8c8c", "#b8a13a")


def evaluate_videos(
    sources: list[Path],
    models: list[str],
    scale: int,
    *,
    bicubic: bool,
    frames: int | None,
    motion: str,
    noise: float,
    steady: str,
    measures: dict[str, Any],
    plot: Path | None,
    overwrite: bool,
    vmaf: bool,
    as_json: bool,
    engine: str,
    device: str,
    fp32: bool,
) -> None:
    """Print the table of `eval --video`, and draw its plot."""
    if not 0 <= noise <= 128:
        raise UsageError(f"--noise {noise:g}; possible: from 0 to 128 levels")
    wanted = steady_from_text(steady)
    strength = AUTO_STRENGTH if wanted == "auto" else wanted
    program = ffmpeg_with_vmaf() if vmaf else None
    scenes = scenes_from(sources, scale, FRAMES if frames is None else frames, motion)
    with ExitStack() as opened:
        systems = []
        if bicubic:
            enlarge = bicubic_upscale(scale)
            systems.append(VideoSystem("bicubic", lambda lr: enlarge(lr[None])[0]))
        for name in models:
            options = Options(
                name, Encoding(), Tiling(joined=True), engine=engine, device=device, fp32=fp32
            )
            model = opened.enter_context(open_upscaler(options, partial(say, err=True), 1))
            strengths = (0.0, strength) if strength else (0.0,)
            systems.append(VideoSystem(name, model.upscaler.upscale, strengths))
        found = scored(systems, scenes, scale, noise=noise, lpips=lpips_of(measures), vmaf=program)
    if as_json:
        say_json(video_records(found))
    else:
        print_whole_table(video_table(found))
        say(*worst_lines(found))
    if plot is not None:
        draw_plot(found, plot, overwrite=overwrite)
        say(f"wrote {plot}", err=as_json)


def scenes_from(
    sources: Sequence[Path], scale: int, frames: int, motion: str = "pan"
) -> list[Scene]:
    """Return a pan over each photograph, or a zoom, and an excerpt of each video.

    Args:
        sources: photographs, videos, and folders with HR/ or photographs; none: the bundled ones.

    Raises:
        InputRefused: a source is missing, or is neither.
        UsageError: too few frames.
    """
    if frames < MIN_FRAMES:
        raise UsageError(f"--frames {frames}; possible: {MIN_FRAMES} and more")
    files: list[Path] = []
    for source in sources or sorted(PHOTOS.glob("*.jpg")):
        if source.is_dir():
            folder = source / "HR" if (source / "HR").is_dir() else source
            inside = sorted(folder.iterdir())
            found = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
            if not found:
                raise InputRefused(f"{source}: no photographs in it; possible: .png, .jpg")
            if others := len(inside) - len(found):
                say(f"{folder}: passed over {others} that are no images by their names", err=True)
            files += found
        elif source.is_file():
            files.append(source)
        else:
            raise InputRefused(f"{source}: no such file or folder")
    over = zoom_over if motion == "zoom" else pan_over
    scenes = [
        over(path, scale, frames) if kind_of(path) == "image" else _video_scene(path, scale, frames)
        for path in files
    ]
    times = Counter(scene.name for scene in scenes)
    return [  # scores are told apart by their names
        scene if times[scene.name] == 1 else replace(scene, name=str(path))
        for scene, path in zip(scenes, files, strict=True)
    ]


def scored(
    systems: Sequence[VideoSystem],
    scenes: Sequence[Scene],
    scale: int,
    *,
    noise: float,
    lpips: Distance | None,
    vmaf: str | None,
) -> dict[str, list[SceneScores]]:
    """Return the scores of `score_scenes`, with VMAF if `vmaf` names an FFmpeg."""
    if vmaf is None:
        return score_scenes(systems, scenes, scale, noise=noise, lpips=lpips)
    with ExitStack() as life:
        collected: dict[tuple[str, int], Vmaf] = {}

        def look(label: str, scene: Scene, shown: Pixels, true: Pixels) -> None:
            key = label, id(scene)
            if key not in collected:
                folder = life.enter_context(scratch_folder())
                collected[key] = life.enter_context(Vmaf(vmaf, folder, scene.fps))
            collected[key].add(shown, true)

        found = score_scenes(systems, scenes, scale, noise=noise, lpips=lpips, look=look)
        for label, of_scenes in found.items():
            for scores in of_scenes:
                scores.whole["vmaf_neg"] = collected[label, id(scores.scene)].score()
        return found


def video_table(found: Mapping[str, Sequence[SceneScores]]) -> Table:
    """Tabulate the means over all scenes; measures that no scene has are left out."""
    means = {label: mean_scores(scores) for label, scores in found.items()}
    names = [name for name in HEADINGS if any(not isnan(it[name]) for it in means.values())]
    table = Table(box=SIMPLE_HEAD)
    table.add_column("system")
    for name in names:
        table.add_column(HEADINGS[name], justify="right")
    for label, values in means.items():
        table.add_row(escape(printable(label)), *(_text(name, values[name]) for name in names))
    return table


def video_records(found: Mapping[str, Sequence[SceneScores]]) -> list[dict[str, Any]]:
    """Return the means, and the scores of every scene and second, as JSON values."""
    return [
        {
            "system": label,
            "mean": _plain(mean_scores(scores)),
            "scenes": {
                it.scene.name: {
                    "mean": _plain({name: it.mean(name) for name in HEADINGS}),
                    "seconds": {
                        name: {str(second): value for second, value in it.seconds(name).items()}
                        for name in HEADINGS
                        if it.seconds(name)
                    },
                }
                for it in scores
            },
        }
        for label, scores in found.items()
    ]


def worst_lines(found: Mapping[str, Sequence[SceneScores]]) -> Iterator[str]:
    """Yield a line that names the seconds that warp worst, for each video of several seconds."""
    for label, scores in found.items():
        for it in scores:
            if len(it.seconds("warping")) > 1:
                worst = ", ".join(
                    f"{at} s ({value:.2f})" for at, value in it.worst_seconds("warping")
                )
                yield f"{it.scene.name}, {label}: worst seconds by warping: {worst}"


def draw_plot(
    found: Mapping[str, Sequence[SceneScores]], path: Path, *, overwrite: bool = True
) -> None:
    """Draw the warping error of each second, a panel for each scene and a line for each system.

    Dashes are for `--steady`. Scenes of one second are drawn by frames.

    Args:
        overwrite: replace a file that appears at `path` in the meantime.

    Raises:
        OutputFailed: `path` cannot be written.
    """
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")  # never opens a window
    scenes = [it.scene for it in next(iter(found.values()))]
    systems = list(dict.fromkeys(label.split(STEADIED)[0] for label in found))
    figure, panels = pyplot.subplots(
        len(scenes), figsize=(8, 0.6 + 1.9 * len(scenes)), squeeze=False, layout="constrained"
    )
    for number, (scene, panel) in enumerate(zip(scenes, panels[:, 0], strict=True)):
        for label, scores in found.items():
            name = "warping" if scene.step_px is None else "flicker"
            points = scores[number].seconds(name)
            if len(points) < 2:
                frames = scores[number].frames
                points = {at: it[name] for at, it in enumerate(frames, 1) if name in it}
            color = _COLORS[systems.index(label.split(STEADIED)[0]) % len(_COLORS)]
            style = "--s" if STEADIED in label else "-o"
            line = {"color": color, "label": printable(label), "ms": 3, "lw": 1.2}
            panel.plot(points.keys(), points.values(), style, **line)
        panel.set_title(printable(scene.name), loc="left", fontsize=9, parse_math=False)
        panel.set_ylim(bottom=0)
        panel.set_ylabel(f"{name}\nlevels", fontsize=8)
        is_short = len(scores[number].seconds(name)) < 2
        panel.set_xlabel("frame" if is_short else "second", fontsize=8)
        panel.tick_params(labelsize=8)
    lines, labels = panels[0, 0].get_legend_handles_labels()
    legend = figure.legend(
        lines, labels, fontsize=8, frameon=False, ncols=3, loc="outside upper center"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replace_when_whole(path, "--plot", overwrite=overwrite) as partial:
        figure.savefig(partial, dpi=120, format="png")
    pyplot.close(figure)


def _video_scene(path: Path, scale: int, frames: int) -> Scene:
    from srgan_edge.isolation.videos import IsolatedReader
    from srgan_edge.video.frame import Frame

    with IsolatedReader(path, allow_8bit=True) as reader:
        fps = float(reader.info.average_rate or 25)

    def decoded() -> Iterator[Pixels]:
        with IsolatedReader(path, allow_8bit=True) as reader:
            for item in reader.after(0):
                if isinstance(item, Frame):
                    yield item.pixels.copy()  # the reader uses its memory again

    return video_scene(path.name, decoded, fps, scale, frames, MIN_FRAMES)


def _text(name: str, value: float) -> str:
    return "--" if isnan(value) else f"{value:.{DECIMALS.get(name, 2)}f}"


def _plain(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if not isnan(value)}


def lpips_of(measures: Mapping[str, Callable[..., float]]) -> Distance | None:
    """Return LPIPS on AlexNet of two images from the measures of `eval`, if it is among them."""
    from srgan_edge.evaluation.systems import Pair

    if (measure := measures.get("lpips_alex")) is None:
        return None
    return lambda a, b: measure(a, Pair(Path(), "", b, b))
