"""Train on a rented GPU: pack here, run there, unpack here.

    make gpu-pack                    # carry/1, carry/2: photographs, VGG, teachers, wheels
    make gpu-train                   # there, from a checkout beside carry/: every recipe its share
    python benchmarks/gpu_train.py unpack OUT -o runs/gpu

It is made for machines that are lent by the minute, take few files and give few back: see
docs/training.md. `run` needs PyTorch and what is in carry/, and no network. A recipe that fails
costs its share of the time and not that of the others; what is done so far lies whole in the output
folder after each recipe.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import gpu_train_back
import gpu_train_jobs
import gpu_train_pack

from srgan_edge.errors import InputRefused, SrganEdgeError

MIB = gpu_train_back.MIB
COLLECT_SECONDS = 5.0
"""For writing what comes back, after each recipe."""
GRACE_SECONDS = 15.0
"""A recipe that is still running then saves a checkpoint and stops."""
LINES_SHOWN = 12
"""The end of what a recipe printed; all of it comes back."""


@dataclass(frozen=True)
class Outcome:
    """The end of one recipe."""

    recipe: str
    exit_code: int
    seconds: float


def main() -> None:
    given = _parser().parse_args()
    command: Callable[[argparse.Namespace], int] = given.command
    try:
        sys.exit(command(given))
    except SrganEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def pack(given: argparse.Namespace) -> int:
    with TemporaryDirectory() as scratch:
        lines = gpu_train_pack.pack(
            given.data,
            given.output,
            limit_bytes=round(given.limit_mib * MIB),
            calls=given.calls,
            vgg=given.vgg_weights,
            teachers=given.teacher,
            wheels=given.wheels,
            validation=given.val,
            back=given.back,
            tree=given.tree,
            scratch=Path(scratch),
        )
    print("\n".join(lines))
    return 0


def run(given: argparse.Namespace) -> int:
    """Every job in turn, each in a process of its own."""
    deadline = time.monotonic() + 60 * given.minutes
    jobs = gpu_train_jobs.possible_jobs(given.only)
    _set_up(given.carry, given.work)
    limits = gpu_train_back.Limits(
        given.most_files, round(given.most_file_mib * MIB), round(given.most_mib * MIB)
    )
    outcomes: list[Outcome] = []
    # Beside the first recipe: the GPU would wait for what takes the CPU ten seconds a time.
    packing = _started(["prepare", *(job.recipe for job in jobs)], given)
    for number, job in enumerate(jobs):
        if number == 1:
            packing.wait()
        left = deadline - time.monotonic() - COLLECT_SECONDS
        seconds = left * job.share / sum(later.share for later in jobs[number:])
        outcomes.append(_run_apart(job.recipe, seconds, given))
        summary = [vars(outcome) for outcome in outcomes]
        (given.work / "summary.json").write_text(json.dumps(summary, indent=1))
        names = [job.recipe for job in jobs]
        for line in gpu_train_back.collect(given.work, given.output, names, limits):
            print(line, flush=True)
    packing.wait()
    for outcome in outcomes:
        verdict = "done" if outcome.exit_code == 0 else f"failed ({outcome.exit_code})"
        print(f"{outcome.recipe:16} {verdict:12} {outcome.seconds:6.0f} s")
    for path in sorted(given.output.iterdir()):
        print(f"{path}  {path.stat().st_size / MIB:.2f} MiB")
    return int(any(outcome.exit_code for outcome in outcomes))


def job(given: argparse.Namespace) -> int:
    """One job, in this process."""
    (found,) = gpu_train_jobs.possible_jobs([given.recipe])
    lines = gpu_train_jobs.run_job(
        found,
        given.work,
        seconds=given.seconds,
        steps=given.steps,
        leases=given.leases,
        device=given.device,
        compile_modes=tuple(given.compile),
        overrides=tuple(given.set),
    )
    print("\n".join(lines))
    return 0


def prepare(given: argparse.Namespace) -> int:
    os.nice(10)
    found = gpu_train_jobs.possible_jobs(given.recipes)
    gpu_train_jobs.prepare(found, given.work, tuple(given.set))
    return 0


def unpack(given: argparse.Namespace) -> int:
    back = gpu_train_back.unpack(given.back, given.output)
    for path in (*back.weights, *sorted(back.runs.iterdir())):
        print(path)
    return 0


def _set_up(carries: list[Path], work: Path) -> None:
    """Gather the parts, install what this Python lacks, and lay out what came back before."""
    photos = gpu_train_pack.gather(carries, work)
    (work / "photos.json").write_text(json.dumps(photos, indent=1))
    wheels = [path for path in sorted(work.glob("wheels/*.whl")) if not _is_installed(path)]
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        pip += ["--no-compile", "--upgrade", "--target", str(work / "site")]
        if subprocess.run([*pip, *map(str, wheels)]).returncode:
            raise InputRefused(f"the wheels do not fit {sys.executable}; carry others")
    if not (work / "runs").exists():
        gpu_train_back.unpack_state(work / "state", work / "runs")
    (work / "averages").mkdir(exist_ok=True)
    for path in work.glob("returned/*.safetensors"):
        if not (work / "averages" / path.name).exists():
            shutil.copy2(path, work / "averages")


def _is_installed(wheel: Path) -> bool:
    with suppress(PackageNotFoundError):
        return bool(version(wheel.name.split("-")[0]))
    return False


def _run_apart(recipe: str, seconds: float, given: argparse.Namespace) -> Outcome:
    """Run a job in a process of its own, of which an error on the GPU is the end."""
    began = time.monotonic()
    command = ["job", recipe, "--seconds", str(seconds), "--leases", str(given.leases)]
    command += ["--device", given.device, *(f"--compile={mode}" for mode in given.compile)]
    if given.steps is not None:
        command += ["--steps", str(given.steps)]
    print(f"{recipe}: {seconds:.0f} s", flush=True)
    printed = given.work / "printed" / f"{recipe}.txt"
    printed.parent.mkdir(parents=True, exist_ok=True)
    with printed.open("wb") as file:
        child = _started(command, given, file)
        try:
            child.wait(seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_SECONDS)
        finally:
            child.kill()  # if it still runs
            child.wait()
    lines = printed.read_text(errors="replace").splitlines()
    print("\n".join(f"  {line}" for line in lines[-LINES_SHOWN:]), flush=True)
    return Outcome(recipe, child.returncode, time.monotonic() - began)


def _started(
    command: list[str], given: argparse.Namespace, output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command of this file, with the packages that were carried."""
    paths = [str(given.work / "site"), str(gpu_train_jobs.ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    shared = ["--work", str(given.work), *(f"--set={setting}" for setting in given.set)]
    return subprocess.Popen(
        [sys.executable, "-u", __file__, *command, *shared],
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env=environment,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train on a rented GPU.")
    commands = parser.add_subparsers(required=True)

    here = commands.add_parser("pack", help="choose what travels, into parts")
    here.set_defaults(command=pack)
    here.add_argument("--data", type=Path, action="append", required=True, metavar="DIR")
    here.add_argument("-o", "--output", type=Path, default=Path("carry"), metavar="DIR")
    here.add_argument("--limit-mib", type=float, default=64, help="for the checkout and a part")
    here.add_argument("--calls", type=int, default=4, help="number of parts")
    here.add_argument("--vgg-weights", type=Path, metavar="FILE")
    here.add_argument("--teacher", type=Path, action="append", default=[], metavar="FILE.pth")
    here.add_argument("--wheels", type=Path, metavar="DIR", help="packages the machine lacks")
    here.add_argument("--val", type=Path, metavar="DIR", help="benchmark to measure on")
    here.add_argument("--back", type=Path, metavar="DIR", help="what came back, to go on with")
    here.add_argument("--tree", type=Path, default=gpu_train_jobs.ROOT, help=argparse.SUPPRESS)

    there = commands.add_parser("run", help="train, each recipe for its share of the time")
    there.set_defaults(command=run)
    there.add_argument("--carry", type=Path, action="append", required=True, metavar="DIR")
    there.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    there.add_argument("--minutes", type=float, default=9.0)
    there.add_argument("--only", action="append", metavar="RECIPE")
    there.add_argument("--most-files", type=int, default=8)
    there.add_argument("--most-file-mib", type=float, default=16)
    there.add_argument("--most-mib", type=float, default=64)

    one = commands.add_parser("job", help="one recipe, in this process")
    one.set_defaults(command=job)
    one.add_argument("recipe")
    one.add_argument("--seconds", type=float, required=True)
    others = commands.add_parser("prepare", help="pack photographs for all recipes but the first")
    others.set_defaults(command=prepare)
    others.add_argument("recipes", nargs="+")
    for part in (there, one, others):
        part.add_argument("--work", type=Path, default=Path("build/gpu-train"), metavar="DIR")
        part.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    for part in (there, one):
        part.add_argument("--leases", type=int, default=1, help="runs that the schedule spans")
        part.add_argument("--device", default="cuda")
        part.add_argument("--compile", action="append", default=[], help="run.compile to try")
        part.add_argument("--steps", type=int, help="so many, without a trial")

    after = commands.add_parser("unpack", help="lay out what came back")
    after.set_defaults(command=unpack)
    after.add_argument("back", type=Path)
    after.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
