"""Measure the speed of training: images per second by phase and precision, and the share of data.

    python benchmarks/train.py [--recipe srgan] [--batch 16] [--steps 20] [--vgg-weights FILE]

Each row trains a fresh run on synthetic photographs, after a warm-up that is not counted, and is
timed with the device idle before and after. `data` is the share of a step in which the networks
wait for crops. It prints a table, then one line of JSON.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np
import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from srgan_edge import bicubic
from srgan_edge.train.loop import train
from srgan_edge.train.recipe import Recipe
from srgan_edge.train.session import Session

WARM_UP_STEPS = 5


@dataclass(frozen=True)
class Speed:
    """One row of the table."""

    phase: str
    precision: str
    compile: str
    images_per_second: float
    milliseconds_per_step: float
    data_share: float
    """Share of the step's time spent waiting for crops."""


class Stopwatch:
    """Times the steps of a session after the warm-up, and its crops separately."""

    def __init__(self, session_type: type[Session]) -> None:
        self._batch, self._end_step = session_type.batch, session_type.end_step
        self.steps = 0
        self.data_seconds = self.started = self.ended = 0.0

    def batch(self, session: Session) -> object:
        _wait_for(session)
        if self.steps == WARM_UP_STEPS:
            self.started, self.data_seconds = time.perf_counter(), 0.0
        begun = time.perf_counter()
        crops = self._batch(session)
        _wait_for(session)
        self.data_seconds += time.perf_counter() - begun
        return crops

    def end_step(self, session: Session, *arguments: object) -> None:
        self._end_step(session, *arguments)  # type: ignore[arg-type]
        _wait_for(session)
        self.steps += 1
        self.ended = time.perf_counter()


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--recipe", default="srgan")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", nargs="*", default=["none", "inductor"])
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--vgg-weights", type=Path)
    given = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos")
        for compile_mode in given.compile:
            for precision in given.precision:
                for phase in ("pixel", "adversarial"):
                    settings = [f"run.precision={precision}", f"run.compile={compile_mode}"]
                    settings.append(f"data.batch={given.batch}")
                    recipe = only_phase(Recipe.load(given.recipe, settings), phase, given.steps)
                    if recipe is None:
                        continue
                    run = Path(folder) / f"{phase}-{precision}-{compile_mode}"
                    rows.append(measure(recipe, phase, photos, run, given))
    print_rows(rows, given)


def only_phase(recipe: Recipe, phase: str, steps: int) -> Recipe | None:
    """Return the recipe with `steps` counted steps of one phase; None without that phase."""
    if phase not in recipe.phases:
        return None
    every = steps + WARM_UP_STEPS
    return dataclasses.replace(
        recipe,
        pixel=dataclasses.replace(recipe.pixel, steps=every if phase == "pixel" else 0),
        adversarial=dataclasses.replace(
            recipe.adversarial, steps=every if phase == "adversarial" else 0
        ),
    )


def measure(
    recipe: Recipe, phase: str, photos: Path, run: Path, given: argparse.Namespace
) -> Speed:
    with watched() as watch:
        train(recipe, [photos], run, device=given.device, vgg_weights=given.vgg_weights)
    seconds = (watch.ended - watch.started) / given.steps
    return Speed(
        phase,
        recipe.run.precision,
        recipe.run.compile,
        recipe.data.batch / seconds,
        1000 * seconds,
        watch.data_seconds / given.steps / seconds,
    )


@contextmanager
def watched() -> Iterator[Stopwatch]:
    """Let both ends of every step report to a stopwatch while the block runs."""
    watch = Stopwatch(Session)
    batch, end_step = Session.batch, Session.end_step
    Session.batch = lambda session: watch.batch(session)  # type: ignore[method-assign,assignment,return-value]
    Session.end_step = lambda session, *given: watch.end_step(session, *given)  # type: ignore[method-assign,assignment]
    try:
        yield watch
    finally:
        Session.batch, Session.end_step = batch, end_step  # type: ignore[method-assign]


def make_photos(folder: Path) -> Path:
    """Write twelve smooth images of 600x800, whose crops cost as much as those of photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        coarse = random.integers(0, 256, (75, 100, 3), np.uint8)
        Image.fromarray(bicubic.resize(coarse, 600, 800)).save(folder / f"{number}.png")
    return folder


def print_rows(rows: list[Speed], given: argparse.Namespace) -> None:
    where = "cpu"
    if given.device != "cpu" and torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    table = Table(
        "phase",
        "precision",
        "compile",
        title=f"{given.recipe}, batch {given.batch}",
        box=SIMPLE_HEAD,
    )
    for heading in ("images/s", "ms/step", "data"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.phase,
            row.precision,
            row.compile,
            f"{row.images_per_second:.1f}",
            f"{row.milliseconds_per_step:.0f}",
            f"{row.data_share:.2%}",
        )
    Console(highlight=False).print(table)
    harness.publish(
        {
            "device": where,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "recipe": given.recipe,
            "rows": [asdict(row) for row in rows],
        },
        given.out,
    )


def _wait_for(session: Session) -> None:
    if session.processes.device.type == "cuda":
        torch.cuda.synchronize(session.processes.device)


if __name__ == "__main__":
    main()
