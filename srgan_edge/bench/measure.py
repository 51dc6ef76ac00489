"""The method of `srgan-edge bench`: which candidates, in which order, and what is made of them.

Each candidate has a process of its own, and all of one model are alive together. They are measured
in turns, A B C A B C, so that a machine that slows down slows down all of them; speed-ups are
ratios within one turn. Cold starts and warm-up are kept apart from the turns.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, Protocol

from srgan_edge import __version__
from srgan_edge.bench.results import ModelResult, Result, Row
from srgan_edge.bench.worker import CEILING, REFERENCE, Candidate, Worker, WorkerFailed
from srgan_edge.engines import KINDS, choose_engine
from srgan_edge.errors import ResourcesExhausted, UsageError
from srgan_edge.machine import Gpu, processor_name
from srgan_edge.model.library import ModelFiles, find_model

Tile = int | Literal["auto"]

ROUNDS = 3
"""Turns by default: the fewest that have a median and a spread."""

LATENCY_SHARE, THROUGHPUT_SHARE, END_TO_END_SHARE = 0.2, 0.25, 0.35
"""Shares of a turn's time; the rest is for the fixed costs of opening and closing files."""

CEILING_SECONDS = 0.15


@dataclass(frozen=True)
class Plan:
    """The choice of what to measure, and for how long."""

    models: Sequence[str]
    tiles: Sequence[Tile]
    engines: Sequence[str]
    """Names of engines; empty: all that are installed and have a file of the model."""
    device: str
    width: int
    height: int
    seconds: float
    """Time for one model. At least one turn is taken, and no turn is begun that would not fit."""
    rounds: int = ROUNDS
    """Most turns."""
    end_to_end: bool = True


class Teller(Protocol):
    """Receives progress: what is going on, and the share of all steps that is done."""

    def __call__(self, doing: str, share: float) -> None: ...


def candidates(files: ModelFiles, name: str, plan: Plan) -> list[tuple[Candidate, str]]:
    """Return the candidates of a model with their labels; the reference, if any, comes first.

    Raises:
        UsageError: no installed engine runs the model, or one that was asked for does not.
        ExtraMissing: an engine that was asked for is not installed.
    """
    found: list[tuple[Candidate, str]] = []
    engine = plan.engines[0] if plan.engines else "auto"
    device = choose_engine(files, engine, plan.device).device
    if KINDS["torch"].installed and files.has(".safetensors"):
        found.append((Candidate(name, REFERENCE, device, True, 0), "torch eager fp32"))
    family = device.partition(":")[0]
    for kind in KINDS.values():
        if kind.name in plan.engines:
            kind.refuse(device)
            files.file(kind.suffix)
        elif plan.engines or not (
            kind.installed and files.has(kind.suffix) and family in kind.devices
        ):
            continue
        if kind.name == "torch" and family == "cpu":
            continue  # it is the reference
        for tile in plan.tiles:
            found += [
                (Candidate(name, kind.name, device, fp32, tile), f"{kind.name}, tile {tile}")
                for fp32 in (False, True)
            ]
    if all(it.engine == REFERENCE and "torch" not in plan.engines for it, _ in found):
        raise UsageError(f"no engine runs {name} on {device}; type: srgan-edge doctor")
    return found


def bench(plan: Plan, tell: Teller) -> Result:
    """Measure every model of the plan.

    Raises:
        UsageError: an unknown model or engine, or one that nothing here runs.
        ResourcesExhausted: no candidate of a model reached its first frame.
    """
    if unknown := [name for name in plan.engines if name not in KINDS]:
        raise UsageError(f"--engine {unknown[0]}; possible: {', '.join(KINDS)}")
    listed = [(name, candidates(find_model(name), name, plan)) for name in plan.models]
    steps = _Steps(tell, sum(len(found) for _, found in listed), plan.rounds)
    models = [_bench_model(name, found, plan, steps) for name, found in listed]
    gpu = Gpu.find() if plan.device != "cpu" else None
    cores = f"{processor_name()}, {len(os.sched_getaffinity(0))} cores"
    machine = f"{cores}, {gpu}" if gpu else cores
    return Result(plan.width, plan.height, plan.rounds, __version__, machine, models)


class _Steps:
    """Counts the steps of a run for its progress display."""

    def __init__(self, tell: Callable[[str, float], None], rows: int, rounds: int) -> None:
        self._tell, self._all, self._done = tell, rows * (rounds + 2), 0

    def next(self, doing: str) -> None:
        self._tell(doing, self._done / self._all)
        self._done += 1


@dataclass
class _Live:
    """A candidate whose process waits to be asked."""

    row: Row
    worker: Worker
    expected_fps: float = 0.0


def _bench_model(
    name: str, found: list[tuple[Candidate, str]], plan: Plan, steps: _Steps
) -> ModelResult:
    begun = time.monotonic()
    with ExitStack() as life:
        rows: list[Row] = []
        live: list[_Live] = []
        for candidate, label in found:
            steps.next(f"{name}: starting {label}")
            if _is_fp32_anyway(candidate, rows):
                continue
            worker = life.enter_context(Worker(candidate, plan.width, plan.height))
            row = _started(worker, candidate, label)
            if row.failed is None and _repeats(row, rows):
                continue
            rows.append(row)
            if row.failed is None:
                live.append(_Live(row, worker))
        if not live:
            raise ResourcesExhausted(f"nothing here runs {name}: {rows[0].failed}")
        ceilings = list(_ceilings(live, life))
        left_seconds = max(1.0, plan.seconds - (time.monotonic() - begun))
        turn_seconds = left_seconds / ((plan.rounds + 0.5) * len(live))
        for one in live:
            steps.next(f"{name}: warming up {one.row.label}")
            _guarded(_warm_up, one, turn_seconds, plan)
        measured: dict[str, list[float]] = {precision: [] for precision, _ in ceilings}
        for turn in range(plan.rounds):
            turn_begun = time.monotonic()
            for precision, worker in ceilings:
                measured[precision].append(worker.ask("gflops", seconds=CEILING_SECONDS))
            for one in live:
                steps.next(f"{name}: {one.row.label}, turn {turn + 1} of {plan.rounds}")
                _guarded(_take_turn, one, turn_seconds, plan)
            now = time.monotonic()
            if 2 * now - turn_begun > begun + plan.seconds:
                break  # another turn as long as this one would end too late
    return ModelResult(name, rows, measured)


def _started(worker: Worker, candidate: Candidate, label: str) -> Row:
    row = Row(candidate, label, is_reference=candidate.engine == REFERENCE)
    try:
        row.ready, row.cold_start_seconds = worker.until_ready()
    except WorkerFailed as error:
        row.failed = str(error)
        return row
    if not row.is_reference:
        runtime = row.ready.engine.split()[0]
        row.label = f"{runtime} {row.ready.arithmetic}, tile {candidate.tile}"
    return row


def _is_fp32_anyway(candidate: Candidate, rows: list[Row]) -> bool:
    """Return True for `--fp32` of an engine that computes in FP32 without being asked to."""
    return candidate.fp32 and any(
        row.ready is not None
        and (row.candidate.engine, row.candidate.fp32) == (candidate.engine, False)
        and row.ready.precision == "fp32"
        for row in rows
    )


def _repeats(row: Row, rows: list[Row]) -> bool:
    """Return True if the same engine already cuts frames alike: `auto` may take whole frames."""
    assert row.ready is not None
    cut = (row.candidate.engine, row.ready.arithmetic, row.ready.windows, row.ready.overhead)
    return any(
        cut
        == (
            other.candidate.engine,
            other.ready.arithmetic,
            other.ready.windows,
            other.ready.overhead,
        )
        for other in rows
        if other.ready is not None
    )


def _ceilings(live: list[_Live], life: ExitStack) -> Iterator[tuple[str, Worker]]:
    """Start a worker for each precision in use, and yield those that work."""
    wanted = {(one.row.ready.precision, one.row.candidate.device) for one in live if one.row.ready}
    for precision, device in sorted(wanted):
        worker = life.enter_context(Worker(Candidate(precision, CEILING, device), 1, 1))
        try:
            worker.until_multiplied()
            worker.ask("gflops", seconds=CEILING_SECONDS)
        except WorkerFailed:
            continue
        yield precision, worker


def _guarded(
    measure: Callable[[_Live, float, Plan], None], one: _Live, turn_seconds: float, plan: Plan
) -> None:
    """Measure a candidate unless it failed before; its failure is a result like any other."""
    try:
        if one.row.failed is None:
            measure(one, turn_seconds, plan)
    except WorkerFailed as error:
        one.row.failed = str(error)


def _warm_up(one: _Live, turn_seconds: float, plan: Plan) -> None:
    one.expected_fps = one.worker.ask("warm_up", seconds=min(0.3, LATENCY_SHARE * turn_seconds))
    if plan.end_to_end:
        frames = one.expected_fps * END_TO_END_SHARE * turn_seconds
        one.row.clip_frames = one.worker.ask("prepare", frames=frames)


def _take_turn(one: _Live, turn_seconds: float, plan: Plan) -> None:
    row, worker = one.row, one.worker
    row.latencies.append(worker.ask("latency", seconds=LATENCY_SHARE * turn_seconds))
    seconds = THROUGHPUT_SHARE * turn_seconds
    fps, cpu_seconds = worker.ask("throughput", seconds=seconds, expected_fps=one.expected_fps)
    row.fps.append(fps)
    row.cpu_seconds.append(cpu_seconds)
    if plan.end_to_end:
        row.end_to_end_fps.append(worker.ask("end_to_end"))
