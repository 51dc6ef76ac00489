"""Scoring systems on benchmarks: the same lines for a model in any engine and for plain bicubic.

A system is a function from a picture of a benchmark to its enlargement, a measure one from that
enlargement to a number. Neither knows of the other, and this knows nothing of engines and files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from srgan_edge import metrics
from srgan_edge.benchmark import Pair, benchmark_name, read_pairs
from srgan_edge.errors import UsageError
from srgan_edge.niqe import niqe
from srgan_edge.pixels import Pixels
from srgan_edge.scores import Scores, mean_scores
from srgan_edge.systems import System, upscaler_system

Measure: TypeAlias = Callable[[Pixels, Pair], float]
"""Of a result [H, W, 3] and the pair it belongs to; raises `metrics.Undefined`."""

PIXEL_MEASURES: dict[str, Measure] = {
    "psnr_y": lambda sr, pair: metrics.psnr_y(sr, pair.hr, pair.scale),
    "ssim_y": lambda sr, pair: metrics.ssim_y(sr, pair.hr, pair.scale),
    "psnr_rgb": lambda sr, pair: metrics.psnr_rgb(sr, pair.hr, pair.scale),
    "shift_red": lambda sr, pair: metrics.color_shift(sr, pair.hr, pair.scale)[0],
    "shift_green": lambda sr, pair: metrics.color_shift(sr, pair.hr, pair.scale)[1],
    "shift_blue": lambda sr, pair: metrics.color_shift(sr, pair.hr, pair.scale)[2],
}
"""What compares pixel by pixel: quick, and enough to watch a training."""

MEASURES: dict[str, Measure] = PIXEL_MEASURES | {
    "lr_psnr": lambda sr, pair: metrics.lr_psnr(sr, pair.lr),
    "niqe": lambda sr, pair: niqe(sr, pair.scale),
}
"""All that need no PyTorch."""


@dataclass(frozen=True)
class Evaluation:
    """One system on one benchmark: scores by picture, and their mean."""

    folder: Path
    pictures: Mapping[str, Scores]

    @property
    def mean(self) -> Scores:
        return mean_scores(list(self.pictures.values()))


@dataclass(frozen=True)
class Comparison:
    """One picture as every system enlarged it."""

    pair: Pair
    results: Mapping[str, Pixels]
    """By the names of the systems, as are the scores."""
    scores: Mapping[str, Scores]


def evaluate_folder(
    upscale: Callable[[Pixels], Pixels],
    folder: Path,
    scale: int,
    measures: Mapping[str, Measure] = PIXEL_MEASURES,
) -> Evaluation:
    """Score `upscale`, which maps [N, H, W, 3] to [N, sH, sW, 3], over a benchmark folder.

    Raises:
        InputRefused: as `read_pairs`.
    """
    system = upscaler_system("upscale", "", upscale)
    return evaluate_systems([system], [folder], scale, measures)[system.name][0]


def evaluate_systems(
    systems: Sequence[System],
    folders: Sequence[Path],
    scale: int,
    measures: Mapping[str, Measure],
    look: Callable[[Comparison], None] | None = None,
) -> dict[str, list[Evaluation]]:
    """By the systems' names, an evaluation for each folder.

    Args:
        look: sees every picture while its pixels are in memory.

    Raises:
        UsageError: two systems or two benchmarks have one name.
        InputRefused: as `read_pairs`.
    """
    _refuse_repeats("systems", [system.name for system in systems])
    _refuse_repeats("benchmarks", [benchmark_name(folder) for folder in folders])
    evaluations: dict[str, list[Evaluation]] = {system.name: [] for system in systems}
    for folder in folders:
        pictures: dict[str, dict[str, Scores]] = {system.name: {} for system in systems}
        for pair in read_pairs(folder, scale):
            results = {system.name: system.restore(pair) for system in systems}
            scores = {name: _scores(sr, pair, measures) for name, sr in results.items()}
            for name in results:
                pictures[name][pair.name] = scores[name]
            if look is not None:
                look(Comparison(pair, results, scores))
        for name, of_folder in pictures.items():
            evaluations[name].append(Evaluation(folder, of_folder))
    return evaluations


def _scores(sr: Pixels, pair: Pair, measures: Mapping[str, Measure]) -> Scores:
    assert sr.shape == pair.hr.shape, f"{pair.name}: {sr.shape} is not {pair.hr.shape}"
    values, undefined = {}, {}
    for name, measure in measures.items():
        try:
            values[name] = measure(sr, pair)
        except metrics.Undefined as reason:
            values[name], undefined[name] = float("nan"), f"{pair.name}: {reason}"
    return Scores(values, undefined)


def _refuse_repeats(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two {what} are called {name!r}; one of them needs another name")
