"""The frame of every benchmark on a CPU: turns that alternate, and a record of one form.

A machine's speed drifts, so candidates take turns (A B A B), and ratios are taken within a turn.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from srgan_edge import __version__
from srgan_edge.machine import processor_name


class Turn(NamedTuple):
    """One run of one candidate."""

    seconds: float
    cpu_seconds: float
    """CPU time of this process, and of its children that ended."""


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
