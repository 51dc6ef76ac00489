"""What can be scored: every metric's name, which way is better, and how it is written.

How a metric is computed is said elsewhere: without PyTorch in `evaluate.py`, with it in
`train/perceptual.py`. This is what the command line, the tables and the figure know of it.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Literal

from srgan_edge.errors import UsageError


@dataclass(frozen=True)
class Metric:
    """One column of a table, one key of the JSON."""

    name: str
    heading: str
    """For a table, of two lines at most."""
    decimals: int
    better: Literal["higher", "lower", "nearer zero"]
    needs: Literal["nothing", "torch", "file", "download"] = "nothing"
    """Besides the runtime; the last two are weights of a network, and need torch as well."""

    def text(self, value: float) -> str:
        """As tables show it; `--` where the metric is undefined."""
        if isnan(value):
            return "--"
        sign = "+" if self.better == "nearer zero" else ""
        return f"{value:{sign}z.{self.decimals}f}"  # z: what rounds to zero has no minus

    def best(self, values: Sequence[float]) -> str | None:
        """The text of the best of the values, so that what looks equal is equal; None of none."""
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
        Metric("lpips_vgg16_hed", "LPIPS\nVGG16-HED", 4, "lower", "file"),
        Metric("lpips", "LPIPS", 4, "lower", "download"),
        Metric("dists", "DISTS", 4, "lower", "download"),
    )
}

GROUPS = {
    "basic": tuple(name for name, metric in METRICS.items() if metric.needs == "nothing"),
    "offline": tuple(n for n, metric in METRICS.items() if metric.needs in ("nothing", "torch")),
    "all": tuple(name for name, metric in METRICS.items() if metric.needs != "file"),
}
"""Words for several metrics: without PyTorch; without downloads; every one."""

WITH_FILE = "lpips_vgg16_hed"
"""The one metric whose network is a file of the user's, and so in no group."""


@dataclass(frozen=True)
class Scores:
    """Of one picture, or the mean over a folder; NaN where a metric is undefined."""

    values: Mapping[str, float]
    """By the names of `METRICS`."""
    undefined: Mapping[str, str] = field(default_factory=dict)
    """Why, for each metric that is."""

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @property
    def psnr_y(self) -> float:
        """dB, BT.601 luma, `scale` pixels shaved."""
        return self.values["psnr_y"]

    @property
    def color_shift(self) -> float:
        """The largest mean of result - HR of the three channels, without its sign, in levels."""
        return max(abs(self.values[f"shift_{channel}"]) for channel in ("red", "green", "blue"))


def mean_scores(pictures: Sequence[Scores]) -> Scores:
    """Undefined, metric by metric, where it is so for any picture: half a folder is another one."""
    undefined: dict[str, str] = {}
    for scores in pictures:
        undefined = dict(scores.undefined) | undefined  # the first picture's reason for each
    sums = {name: sum(scores[name] for scores in pictures) for name in pictures[0].values}
    return Scores({name: total / len(pictures) for name, total in sums.items()}, undefined)


def metrics_from_text(text: str, *, with_file: bool) -> tuple[str, ...]:
    """The names in a list such as `psnr_y,lpips` or `offline`, in its order, each once.

    Args:
        with_file: there is a file for `lpips_vgg16_hed`, which is then among them in any case.

    Raises:
        UsageError: a name is unknown, there is none, or `lpips_vgg16_hed` has no file.
    """
    names: dict[str, None] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        names |= dict.fromkeys(GROUPS.get(word) or (_known(word),))
    if with_file:
        names[WITH_FILE] = None
    elif WITH_FILE in names:
        raise UsageError(
            f"--metrics {WITH_FILE} needs the features of a VGG16; "
            "type --vgg-weights FILE.safetensors"
        )
    if not names:
        raise UsageError("--metrics names no metric; type for example --metrics psnr_y,ssim_y")
    return tuple(names)


def _known(name: str) -> str:
    if name in METRICS:
        return name
    possible = [*METRICS, *GROUPS]
    near = difflib.get_close_matches(name, possible, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"possible: {', '.join(possible)}"
    raise UsageError(f"no metric {name!r}; {hint}")
