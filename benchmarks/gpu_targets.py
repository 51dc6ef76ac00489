"""Targets of a GPU for the paper's generator on 480x270, and the values it reached."""

import math
from dataclasses import dataclass
from typing import Any, Literal

MODEL, SIZE = "srgan-x4", "480x270"
GRAPHS = ("fp16 graph", "fused fp16 graph")
"""PyTorch's graphs: with cuDNN on any GPU, and with our own kernels where available."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A measurement and its bound; missing it fails no check."""

    what: str
    bound: Literal[">=", "<="]
    wanted: float
    measured: float | None

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        above, below = self.measured >= self.wanted, self.measured <= self.wanted
        return "reached" if (above if self.bound == ">=" else below) else "missed"


def targets(figures: Figures) -> list[Target]:
    """Return the targets for our fastest method and our slowest kernel in `make gpu`'s figures."""
    found = figures.get(MODEL, {}).get(SIZE, {})
    ways = _ways(found)
    way = min(ways, key=lambda it: ways[it][0].get("p50_ms", math.inf))
    at = ratios(found, way)
    kernels = figures.get("kernels", {}).get("at_3840x2160", {})
    shares = {kernel: rate["of_copy"] for kernel, rate in kernels.items()}
    slowest = min(shares, key=lambda it: shares[it], default="slowest kernel")
    return [
        Target(f"{way}, as fast as eager fp32", ">=", 3, at.get("eager fp32")),
        Target(f"{way}, as fast as plain eager fp16", ">=", 1.5, at.get("plain eager fp16")),
        Target(f"{way}, share of a matmul", ">=", 0.45, ways[way][0].get("of_matmul")),
        Target(f"{way}, time with copies over alone", "<=", 1.1, at.get("with copies")),
        Target(f"{slowest}, share of a copy", ">=", 0.8, shares.get(slowest)),
    ]


def ratios(found: Figures, way: str) -> dict[str, float]:
    """Return the p50 of other methods at one size, relative to that of `way` alone."""
    alone, with_copies = _ways(found)[way]
    others = {name: found.get(name, {}) for name in ("eager fp32", "plain eager fp16")}
    others["with copies"] = with_copies
    return {
        name: round(other["p50_ms"] / alone["p50_ms"], 3)
        for name, other in others.items()
        if other and alone
    }


def table(targets: list[Target]) -> str:
    lines = [f"targets of {MODEL} on {SIZE} and of kernels on 3840x2160"]
    for it in targets:
        measured = "" if it.measured is None else f"{it.measured:.3g}"
        lines.append(f"  {it.what:50} {it.bound} {it.wanted:<4g} {measured:>6}  {it.verdict}")
    return "\n".join(lines)


def _ways(found: Figures) -> dict[str, tuple[Figures, Figures]]:
    """Return our methods' figures at one size, alone and with copies; empty if not measured."""
    ways = {it: (found.get(it, {}), found.get(f"{it} with copies", {})) for it in GRAPHS}
    for name, it in found.items():
        if "alone" in it:
            ways[name] = it["alone"], it.get("graph with copies", {})
    return ways
