"""Scoring systems on benchmarks, with the same code for a model in any engine and for baselines.

A system maps an image of a benchmark to its enlargement, and a measure maps that enlargement to a
number. A metric describes a measure to the command line, the tables and the figure: its name,
which way is better, and how it is written. Measures that need PyTorch are in `train/perceptual.py`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Literal, TypeAlias

from srgan_edge.errors import UsageError
from srgan_edge.evaluation import metrics
from srgan_edge.evaluation.systems import Pair, System, benchmark_name, read_pairs, upscaler_system
from srgan_edge.pixels import Pixels

Measure: TypeAlias = Callable[[Pixels, Pair], float]
"""Scores a result [H, W, 3] against the pair it belongs to; raises `metrics.Undefined`."""

PIXEL_MEASURES: dict[str, Measure] = {
    "psnr_y": lambda sr, pair: metrics.psnr_y(sr, pair.hr, pair.scale),
    "ssim_y": lambda sr, pair: metrics.ssim_y(sr, pair.hr, pair.scale),
    "psnr_rgb": lambda sr, pair: metrics.psnr_rgb(sr, pair.hr, pair.scale),
    "shift_red": lambda sr, pair: metrics.color_shift(sr, pair.hr, pair.scale)[0],
    "shift_green": lambda sr, pair: metrics.color_shift(sr, pair.hr, pair.scale)[1],
    "shift_blue": lambda sr, pair: metrics.color_shift(sr, pair.hr, pair.scale)[2],
}
"""Measures that compare pixel by pixel: fast, and enough to monitor training."""

MEASURES: dict[str, Measure] = PIXEL_MEASURES | {
    "lr_psnr": lambda sr, pair: metrics.lr_psnr(sr, pair.lr),
    "niqe": lambda sr, pair: metrics.niqe(sr, pair.scale),
}
"""All measures that need no PyTorch."""


@dataclass(frozen=True)
class Metric:
    """One column of a table, and one key of the JSON."""

    name: str
    heading: str
    """Heading of the column, two lines at most."""
    decimals: int
    better: Literal["higher", "lower", "nearer zero"]
    needs: Literal["nothing", "torch", "download"] = "nothing"
    """Requirement besides the runtime; the last stands for network weights and implies torch."""

    def text(self, value: float) -> str:
        """Format a value for a table; `--` if the metric is undefined."""
        if isnan(value):
            return "--"
        sign = "+" if self.better == "nearer zero" else ""
        return f"{value:{sign}z.{self.decimals}f}"  # z: no minus for what rounds to zero

    def best(self, values: Sequence[float]) -> str | None:
        """Return the best value as text, so that equal texts tie; None if no value is defined."""
        known = [value for value in values if not isnan(value)]
        if not known:
            return None
        rank = {"higher": lambda value: -value, "lower": float, "nearer zero": abs}[self.better]
        return self.text(min(known, key=rank))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr_y", "PSNR-Y\ndB", 2, "higher"),
        Metric("ssim_y", "SSIM-Y", 4, "higher"),
        Metric("psnr_rgb", "PSNR-RGB\ndB", 2, "higher"),
        Metric("lr_psnr", "LR-PSNR\ndB", 2, "higher"),
        Metric("niqe", "NIQE", 2, "lower"),
        Metric("shift_red", "shift\nR", 2, "nearer zero"),
        Metric("shift_green", "shift\nG", 2, "nearer zero"),
        Metric("shift_blue", "shift\nB", 2, "nearer zero"),
        Metric("gmsd", "GMSD", 4, "lower", "torch"),
        Metric("haarpsi", "HaarPSI", 4, "higher", "torch"),
        Metric("lpips_alex", "LPIPS\nAlex", 4, "lower", "download"),
        Metric("lpips_vgg", "LPIPS\nVGG", 4, "lower", "download"),
        Metric("dists", "DISTS", 4, "lower", "download"),
    )
}

GROUPS = {
    "basic": tuple(name for name, metric in METRICS.items() if metric.needs == "nothing"),
    "offline": tuple(n for n, metric in METRICS.items() if metric.needs in ("nothing", "torch")),
    "all": tuple(METRICS),
}
"""Word for several metrics -> their names: without PyTorch; without downloads; all."""


@dataclass(frozen=True)
class Scores:
    """Scores of one image, or their mean over a folder; NaN where a metric is undefined."""

    values: Mapping[str, float]
    """Name in `METRICS` -> score."""
    undefined: Mapping[str, str] = field(default_factory=dict)
    """Name of each undefined metric -> the reason."""

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @property
    def psnr_y(self) -> float:
        """PSNR of BT.601 luma in dB, without a border of `scale` pixels."""
        return self.values["psnr_y"]

    @property
    def color_shift(self) -> float:
        """Largest absolute mean of result - HR over the three channels, in levels."""
        return max(abs(self.values[f"shift_{channel}"]) for channel in ("red", "green", "blue"))


@dataclass(frozen=True)
class Evaluation:
    """The scores of one system on one benchmark, by image, and their mean."""

    folder: Path
    images: Mapping[str, Scores]

    @property
    def mean(self) -> Scores:
        return mean_scores(list(self.images.values()))


@dataclass(frozen=True)
class Comparison:
    """One image as every system enlarged it."""

    pair: Pair
    results: Mapping[str, Pixels]
    """Name of a system -> its result."""
    scores: Mapping[str, Scores]
    """Name of a system -> its scores."""


def evaluate_folder(
    upscale: Callable[[Pixels], Pixels],
    folder: Path,
    scale: int,
    measures: Mapping[str, Measure] = PIXEL_MEASURES,
) -> Evaluation:
    """Score `upscale`, which maps [N, H, W, 3] to [N, sH, sW, 3], on a benchmark folder.

    Raises:
        InputRefused: as in `read_pairs`.
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
    """Score every system on every folder; returns a list of evaluations by the system's name.

    Args:
        look: called with every image while its pixels are in memory.

    Raises:
        UsageError: two systems or two benchmarks have the same name.
        InputRefused: as in `read_pairs`.
    """
    _refuse_repeats("systems", [system.name for system in systems])
    _refuse_repeats("benchmarks", [benchmark_name(folder) for folder in folders])
    evaluations: dict[str, list[Evaluation]] = {system.name: [] for system in systems}
    for folder in folders:
        images: dict[str, dict[str, Scores]] = {system.name: {} for system in systems}
        for pair in read_pairs(folder, scale):
            results = {system.name: system.restore(pair) for system in systems}
            scores = {name: _scores(sr, pair, measures) for name, sr in results.items()}
            for name in results:
                images[name][pair.name] = scores[name]
            if look is not None:
                look(Comparison(pair, results, scores))
        for name, of_folder in images.items():
            evaluations[name].append(Evaluation(folder, of_folder))
    return evaluations


def mean_scores(images: Sequence[Scores]) -> Scores:
    """Average scores; a metric that is undefined for any image is undefined for the folder."""
    undefined: dict[str, str] = {}
    for scores in images:
        undefined = dict(scores.undefined) | undefined  # the first image's reason for each
    sums = {name: sum(scores[name] for scores in images) for name in images[0].values}
    return Scores({name: total / len(images) for name, total in sums.items()}, undefined)


def metrics_from_text(text: str) -> tuple[str, ...]:
    """Return the names in a list such as `psnr_y,dists` or `offline`, in its order, each once.

    Raises:
        UsageError: a name is unknown, or the list is empty.
    """
    names: dict[str, None] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        names |= dict.fromkeys(GROUPS.get(word) or (_known(word),))
    if not names:
        raise UsageError("--metrics names no metric; type for example --metrics psnr_y,ssim_y")
    return tuple(names)


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
            raise UsageError(f"two {what} are called {name!r}; rename one of them")


def _known(name: str) -> str:
    if name in METRICS:
        return name
    possible = [*METRICS, *GROUPS]
    near = difflib.get_close_matches(name, possible, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"possible: {', '.join(possible)}"
    raise UsageError(f"no metric {name!r}; {hint}")
