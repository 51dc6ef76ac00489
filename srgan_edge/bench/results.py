"""The measurements, and what follows from them: percentiles, speed-ups, shares of the ceiling."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from srgan_edge.bench.worker import Candidate, Ready


@dataclass
class Row:
    """The measurements of one candidate; lists have a value for each turn."""

    candidate: Candidate
    label: str
    ready: Ready | None = None
    """None: it failed before its first frame."""
    cold_start_seconds: float = 0.0
    latencies: list[list[float]] = field(default_factory=list)
    """Seconds of every single frame, by turn."""
    fps: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """CPU time of one frame while all slots are in use, by turn: other processes do not change it
    as they change frames per second."""
    end_to_end_fps: list[float] = field(default_factory=list)
    clip_frames: int = 0
    failed: str | None = None
    is_reference: bool = False

    @property
    def frames_timed(self) -> int:
        return sum(map(len, self.latencies))

    def latency(self, percent: float) -> float:
        """Return a percentile of the time of one frame, in seconds, by nearest rank."""
        return percentile([time for turn in self.latencies for time in turn], percent)


@dataclass(frozen=True)
class Spread:
    """The median of some turns, and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class ModelResult:
    """All candidates of one model."""

    model: str
    rows: list[Row]
    ceilings: dict[str, list[float]]
    """Precision -> GFLOP/s of a large matrix product, by turn."""

    @property
    def reference(self) -> Row | None:
        """The row that others are compared with: PyTorch, or the slowest one without it."""
        done = [row for row in self.rows if row.fps]
        marked = [row for row in done if row.is_reference]
        slowest_first = sorted(done, key=lambda row: statistics.median(row.fps))
        return next(iter([*marked, *slowest_first]), None)

    def speed_up(self, row: Row) -> Spread | None:
        """Return the throughput of a row divided by the reference's in the same turn."""
        reference = self.reference
        if reference is None or not row.fps:
            return None
        pairs = zip(row.fps, reference.fps, strict=False)
        return Spread.of([fps / theirs for fps, theirs in pairs])

    def gflops(self, row: Row) -> float:
        """Return the billions of operations a second that the frames of a row need."""
        assert row.ready is not None
        return row.ready.gflop_per_frame * statistics.median(row.fps)

    def ceiling_share(self, row: Row) -> float | None:
        """Return a row's operations relative to the ceiling of its precision; None: unknown."""
        assert row.ready is not None
        is_float = row.ready.arithmetic == row.ready.precision  # there is no product of INT8
        ceiling = self.ceilings.get(row.ready.precision) if is_float else None
        return self.gflops(row) / statistics.median(ceiling) if ceiling else None


@dataclass(frozen=True)
class Result:
    """Everything that one command measured."""

    width: int
    """Width and height of the frames in pixels."""
    height: int
    rounds: int
    version: str
    machine: str
    models: list[ModelResult]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of the values do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]


def record(result: Result) -> dict[str, Any]:
    """Return everything as JSON values: settings, every single time, and what follows from it."""
    return {
        "schema": 1,
        "srgan_edge": result.version,
        "machine": result.machine,
        "size": f"{result.width}x{result.height}",
        "rounds": result.rounds,
        "models": [
            {
                "model": model.model,
                "reference": None if model.reference is None else model.reference.label,
                "ceiling_gflops": model.ceilings,
                "rows": [asdict(row) | _derived(model, row) for row in model.rows],
            }
            for model in result.models
        ],
    }


def _derived(model: ModelResult, row: Row) -> dict[str, Any]:
    if not row.fps:
        return {}
    speed_up = model.speed_up(row)
    return {
        "latency_ms": {f"p{p}": round(1e3 * row.latency(p), 3) for p in (50, 90, 99)},
        "fps_median": round(statistics.median(row.fps), 3),
        "cpu_seconds_median": round(statistics.median(row.cpu_seconds), 6),
        "speed_up": None if speed_up is None else asdict(speed_up),
        "gflops": round(model.gflops(row), 2),
        "ceiling_share": model.ceiling_share(row),
    }
