"""Score models on scenes, frame by frame, each also with its detail kept by `--steady`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isnan, nan

from srgan_edge.evaluation import metrics, temporal
from srgan_edge.evaluation.scenes import Scene
from srgan_edge.pixels import Pixels
from srgan_edge.steady import Steadied, next_steadied

HEADINGS = {
    "flicker": "flicker\nlevels",
    "warping": "warping\nlevels",
    "t_of": "tOF\npx",
    "t_lp": "tLP\nx 100",
    "sharpness": "sharp-\nness",
    "psnr_y": "PSNR-Y\ndB",
    "lpips": "LPIPS\nAlex",
    "vmaf_neg": "VMAF\nNEG",
}
"""Name of a measure -> heading of its column."""

DECIMALS = {"sharpness": 3, "lpips": 4, "vmaf_neg": 1}
"""Name of a measure -> decimals in a table, if not 2."""

STEADIED = " --steady "
"""Text between a model and a strength in the label of scores."""

SETTLED = 2
"""Frames at the start of a scene that count for no mean: steadying has just begun."""


@dataclass(frozen=True)
class VideoSystem:
    """A model, or a baseline."""

    name: str
    upscale: Callable[[Pixels], Pixels]
    """Maps uint8 [H, W, 3] to uint8 [sH, sW, 3]."""
    strengths: tuple[float, ...] = (0.0,)
    """Strengths of `--steady` to score it with; 0: without."""

    def label(self, strength: float) -> str:
        return f"{self.name}{STEADIED}{strength:g}" if strength else self.name


@dataclass
class SceneScores:
    """The scores of one system on one scene; NaN where a measure is undefined."""

    scene: Scene
    frames: list[dict[str, float]] = field(default_factory=list)
    """Name of a measure -> score, for each frame from the second on."""
    whole: dict[str, float] = field(default_factory=dict)
    """Scores of the scene as a whole."""

    def mean(self, name: str) -> float:
        """Return the mean over the frames that have this score."""
        if name in self.whole:
            return self.whole[name]
        known = [it[name] for it in self.frames[SETTLED - 1 :] if not isnan(it.get(name, nan))]
        return sum(known) / len(known) if known else nan

    def seconds(self, name: str) -> dict[int, float]:
        """Return the mean score of each second; seconds without one are left out."""
        by_second: dict[int, list[float]] = {}
        for number, scores in enumerate(self.frames, 1):
            if not isnan(value := scores.get(name, nan)):
                by_second.setdefault(int(number / self.scene.fps), []).append(value)
        return {second: sum(values) / len(values) for second, values in by_second.items()}

    def worst_seconds(self, name: str, most: int = 3) -> list[tuple[int, float]]:
        """Return the seconds with the highest score, the worst first."""
        return sorted(self.seconds(name).items(), key=lambda it: -it[1])[:most]


def score_scenes(
    systems: Sequence[VideoSystem],
    scenes: Sequence[Scene],
    scale: int,
    *,
    noise: float = 0.0,
    lpips: temporal.Distance | None = None,
    look: Callable[[str, Scene, Pixels, Pixels], None] = lambda label, scene, shown, true: None,
) -> dict[str, list[SceneScores]]:
    """Return the scores by the label of a system and strength, a scene after the other.

    Args:
        noise: as in `Scene.pairs`.
        lpips: adds LPIPS and tLP.
        look: called with every frame of every system.
    """
    found: dict[str, list[SceneScores]] = {}
    for scene in scenes:
        for system in systems:
            of_scene = _scored(system, scene, scale, noise, lpips, look)
            for label, scores in of_scene.items():
                found.setdefault(label, []).append(scores)
    return found


def mean_scores(scores: Sequence[SceneScores]) -> dict[str, float]:
    """Return the means over scenes of every measure; NaN if no scene has one."""
    means = {}
    for name in HEADINGS:
        known = [value for it in scores if not isnan(value := it.mean(name))]
        means[name] = sum(known) / len(known) if known else nan
    return means


def _scored(
    system: VideoSystem,
    scene: Scene,
    scale: int,
    noise: float,
    lpips: temporal.Distance | None,
    look: Callable[[str, Scene, Pixels, Pixels], None],
) -> dict[str, SceneScores]:
    scores = {system.label(strength): SceneScores(scene) for strength in system.strengths}
    last: dict[float, Steadied] = {}
    true_before: Pixels | None = None
    for lr, true in scene.pairs(scale, noise):
        raw = system.upscale(lr)
        for strength in system.strengths:
            before = last.get(strength)
            now = next_steadied(lr, raw, before if strength else None, strength)
            label = system.label(strength)
            look(label, scene, now.shown, true)
            if before is not None and true_before is not None:
                pair = dict(_pair_scores(scene, before, now, true_before, true, lpips))
                scores[label].frames.append(pair)
            last[strength] = now
        true_before = true
    return scores


def _pair_scores(
    scene: Scene,
    before: Steadied,
    now: Steadied,
    true_before: Pixels,
    true: Pixels,
    lpips: temporal.Distance | None,
) -> Iterator[tuple[str, float]]:
    shown = (before.shown, now.shown, true_before, true)
    measures: dict[str, Callable[[], float]] = {
        "psnr_y": lambda: metrics.psnr_y(now.shown, true, temporal.BORDER_PX),
        "sharpness": lambda: temporal.sharpness(now.shown, true),
        "warping": lambda: temporal.warping_error(*shown[:2], before.source, now.source),
        "t_of": lambda: temporal.t_of(*shown),
    }
    if scene.step_px is not None:
        step_px = scene.step_px
        measures |= {"flicker": lambda: temporal.pan_flicker(*shown[:2], step_px)}
    if lpips is not None:
        measures |= {
            "lpips": lambda: lpips(now.shown, true),
            "t_lp": lambda: temporal.t_lp(lpips, *shown),
        }
    for name, measure in measures.items():
        with suppress(metrics.Undefined):
            yield name, measure()
