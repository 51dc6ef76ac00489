"""The frame of every benchmark on a CPU: turns that alternate, samples of what a program holds, and
a record of one form.

A machine's speed drifts, so candidates take turns (A B A B), and ratios are taken within a turn.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from srgan_edge import __version__
from srgan_edge.machine import processor_name

SETTLED = 1 / 3
"""Share of the time before the slope is fitted: memory grows while buffers fill, then stays."""


class Turn(NamedTuple):
    """One run of one candidate."""

    seconds: float
    cpu_seconds: float
    """CPU time of this process, and of its children that ended."""


class Steadiness(NamedTuple):
    """Memory, files and threads of a program after the first third of its time."""

    memory_mb: float
    """At the end."""
    memory_mb_per_1000: float
    """Slope of the line through all samples, per 1,000 units of work."""
    open_files: tuple[int, int]
    """Minimum and maximum."""
    threads: tuple[int, int]


def in_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Turn]]:
    """Run every candidate once a round; return its turns by its name. Progress goes to stderr."""
    turns: dict[str, list[Turn]] = {name: [] for name in candidates}
    for number in range(1, rounds + 1):
        for name, run in candidates.items():
            begun, cpu_begun = time.perf_counter(), _cpu_seconds()
            run()
            turn = Turn(time.perf_counter() - begun, _cpu_seconds() - cpu_begun)
            turns[name].append(turn)
            print(f"turn {number}: {name} {turn.seconds:.3f} s", file=sys.stderr)
    return turns


def family(process_id: int) -> list[psutil.Process]:
    """Return a process and its children."""
    parent = psutil.Process(process_id)
    return [parent, *parent.children(recursive=True)]


def used(processes: Iterable[psutil.Process]) -> tuple[float, int, int]:
    """Return unshared memory in MB, open files and threads of processes."""
    memory_bytes = files = threads = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            memory_bytes += process.memory_full_info().uss
            files += process.num_fds()
            threads += process.num_threads()
    return memory_bytes / 1e6, files, threads


def steadiness(samples: np.ndarray) -> Steadiness:
    """Return how steady float64 [samples, 4] are: units of work done, and what `used` returns."""
    settled = samples[round(len(samples) * SETTLED) :]
    slope, _ = np.polyfit(settled[:, 0], settled[:, 1], 1)
    lowest, highest = settled.min(axis=0), settled.max(axis=0)
    return Steadiness(
        memory_mb=round(float(samples[-1, 1]), 1),
        memory_mb_per_1000=round(1000 * float(slope), 3),
        open_files=(int(lowest[2]), int(highest[2])),
        threads=(int(lowest[3]), int(highest[3])),
    )


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with `--out`, described by the first line of a benchmark's docstring."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--out", type=Path, help="also write the JSON to this file")
    return made


def publish(figures: Mapping[str, Any], out: Path | None) -> None:
    """Print the figures as one line of JSON, with version and machine; write it to `out`, too."""
    cores = len(os.sched_getaffinity(0))
    where = {"version": __version__, "machine": f"{processor_name()}, {cores} cores"}
    line = json.dumps(where | dict(figures))
    if out is not None:
        out.write_text(line + "\n")
    print(line)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
