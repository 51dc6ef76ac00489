"""One recipe on a rented GPU: its settings there, its number of steps, and its run.

How long a run takes is known and how fast the GPU is, not: a short trial measures that, and the
learning rate falls to zero at the end of the time. The trainer is that of `srgan-edge train`.
"""

import json
import math
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srgan_edge.errors import SrganEdgeError, UsageError

if TYPE_CHECKING:
    from srgan_edge.train.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
TRIAL_SECONDS = 5.0
"""After the first ten steps, in which the GPU's libraries are loaded."""
RELEASE_SECONDS = 8.0
"""For the last validation, the report and the averaged weights."""
PACE = 0.95
"""Share of the time that the steps are planned to take; the validations have the rest."""
FOREVER = 1_000_000_000


@dataclass(frozen=True)
class Job:
    """One recipe among those that share the time."""

    recipe: str
    share: float
    """Share of the time, relative to the others."""
    settings: tuple[str, ...]
    """Changes to the recipe: what fills a Hopper GPU, on which a step of the recipe's own batch
    takes no less time than one of 64 crops. Learning rates grow by the root of the batch's factor,
    and Muon's stays, which diverges at twice its rate."""
    starts: tuple[str, ...]
    """Models to start from; the first that is there."""


JOBS = (
    Job(
        "srresnet",
        0.35,
        (
            *("data.crop_px=192", "data.batch=64", "data.candidates=2", "data.reduced=[]"),
            *("pixel.learning_rate=7e-4", "pixel.warmup_steps=200"),
        ),
        ("srresnet-x4",),
    ),
    Job(
        "srgan-spectrum",
        0.35,
        (
            "data.batch=64",
            *("adversarial.learning_rate=2e-4", "adversarial.discriminator_learning_rate=4e-4"),
        ),
        ("srgan-spectrum-x4", "srresnet-x4"),
    ),
    Job(
        "srgan-real",
        0.2,
        ("data.crop_px=96", "data.batch=64", "data.degradation=real"),
        ("srgan-real-x4", "srgan-x4"),
    ),
    Job(
        "edge",
        0.2,
        ("data.batch=64", "pixel.learning_rate=2.5e-3", "pixel.warmup_steps=50"),
        ("edge-x4",),
    ),
    Job(
        "edge-l",
        0.2,
        ("data.batch=64",),
        ("edge-l-x4", "edge-x4"),
    ),
    Job(
        "edge-x2",
        0.1,
        ("data.batch=64", "pixel.learning_rate=2.5e-3", "pixel.warmup_steps=50"),
        ("edge-x2",),
    ),
)
"""In order of worth. The sources of `edge-real` need PyAV and its encoders, so that it is not among
them and `srgan-real` takes `degradation=real`."""


def possible_jobs(names: list[str] | None) -> list[Job]:
    """Return the jobs of these recipes, or of all that there are.

    Raises:
        UsageError: there is no job of that name.
    """
    known = {job.recipe: job for job in JOBS}
    there = {path.stem for path in (ROOT / "train" / "recipes").glob("*.toml")}
    if names is None:
        return [job for job in JOBS if job.recipe in there]
    for name in names:
        if name not in known or name not in there:
            possible = ", ".join(name for name in known if name in there)
            raise UsageError(f"no job {name!r}; possible: {possible}")
    return [known[name] for name in names]


def run_job(
    job: Job,
    work: Path,
    *,
    seconds: float,
    steps: int | None,
    leases: int,
    device: str,
    compile_modes: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
) -> list[str]:
    """Train one recipe for some seconds, or go on with it; returns lines about it.

    Args:
        work: folder of `gather`ed parts, in which runs, packs and averages lie.
        steps: train so many, without a trial.
        leases: the schedule spans so many such times.
        compile_modes: values of `run.compile` to try; the fastest is taken.
        overrides: settings that replace the job's.
    """
    from srgan_edge.train.loop import train
    from srgan_edge.train.recipe import Recipe

    began = time.monotonic()
    run = work / "runs" / job.recipe
    lines: list[str] = []
    if (run / "plan.json").is_file():
        plan = json.loads((run / "plan.json").read_text())
        lines.append("goes on with what came back")
    else:
        settings = [*job.settings, *_teaching(job.recipe, work), *overrides]
        start = _start_of(job, work, run)
        left = seconds - RELEASE_SECONDS
        if steps is None:
            measured = _measured(job, settings, start, work, device, compile_modes)
            lines += [f"{mode}: {rate:.1f} steps/s" for mode, rate in measured.items()]
            fastest = max(measured, key=lambda mode: measured[mode])
            settings.append(f"run.compile={fastest}")
            left -= time.monotonic() - began
            steps = planned_steps(job, left, measured[fastest], leases)
        settings += [
            f"{_phase(job.recipe, start)}.steps={steps}",
            f"run.log_every_steps={max(1, min(100, steps // 100))}",
            f"run.validate_every_steps={max(1, steps // 6)}",
            f"run.checkpoint_every_steps={max(1, steps // 6)}",
            "run.checkpoints_kept=1",
        ]
        plan = {
            "steps": steps,
            "settings": settings,
            "init": start and start.relative_to(run).as_posix(),
        }
        run.mkdir(parents=True, exist_ok=True)
        (run / "plan.json").write_text(json.dumps(plan, indent=1))
    recipe = Recipe.load(job.recipe, plan["settings"])
    start = run / plan["init"] if plan["init"] else None
    _share_pack(run, recipe, work)
    minutes = (seconds - RELEASE_SECONDS - (time.monotonic() - began)) / 60
    released = train(
        recipe,
        [work / "photos"],
        run,
        validation=_validation(work),
        init=start,
        vgg_weights=_vgg(recipe, work),
        device=device,
        max_minutes=max(minutes, 0),
        say=print,
    )
    kept = _keep_average(run, work, device)
    lines.append(f"{released.name if released.exists() else 'not finished'}, average in {kept}")
    return lines


def planned_steps(job: Job, seconds: float, steps_per_second: float, leases: int) -> int:
    """Return the length of a schedule; a GAN's ends with the lease, which keeps no opponent."""
    from srgan_edge.train.recipe import Recipe

    spanned = 1 if Recipe.load(job.recipe).adversarial.steps else leases
    return max(1, math.floor(PACE * spanned * seconds * steps_per_second))


def prepare(jobs: list[Job], work: Path, overrides: tuple[str, ...] = ()) -> list[Path]:
    """Pack the photographs of all jobs but the first, which packs its own; returns the packs."""
    from srgan_edge.train.photos import PhotoPack
    from srgan_edge.train.recipe import Recipe

    packs: dict[Path, Recipe] = {}
    for job in jobs:
        recipe = Recipe.load(job.recipe, [*job.settings, *overrides])
        packs.setdefault(_pack_of(recipe, work), recipe)
    for pack, recipe in list(packs.items())[1:]:
        PhotoPack.open(
            [work / "photos"],
            pack,
            crop_px=recipe.data.crop_px,
            scale=recipe.model.scale,
            reduced=recipe.data.reduced,
        )
    return list(packs)[1:]


def _phase(recipe: str, start: Path | None) -> str:
    """Return the section whose steps are planned: that of the last phase."""
    from srgan_edge.train.recipe import Recipe

    loaded = Recipe.load(recipe)
    if loaded.adversarial.steps and loaded.pixel.steps and start is None:
        raise UsageError(f"{recipe} has two phases; carry weights that have the first behind them")
    return "adversarial" if loaded.adversarial.steps else "pixel"


def _teaching(name: str, work: Path) -> list[str]:
    """Settings for the teacher that was carried, or for none, of a recipe of pixels alone."""
    from srgan_edge.train.recipe import Recipe

    recipe = Recipe.load(name)
    if recipe.adversarial.steps:
        return []
    teacher = work / "weights" / f"teacher-x{recipe.model.scale}.pth"
    if teacher.is_file():
        return [f"data.teacher={teacher}", "pixel.l1=0.5", "pixel.distillation=0.5"]
    return ["data.teacher=", "pixel.l1=1.0", "pixel.distillation=0.0"]


def _start_of(job: Job, work: Path, run: Path) -> Path | None:
    """Copy the weights that a run starts from into its folder, and return the copy."""
    folders = [work / "averages", ROOT / "train" / "unfinished", ROOT / "srgan_edge" / "weights"]
    for name in job.starts:
        for folder in folders:
            if (found := folder / f"{name}.safetensors").is_file():
                (run / "init").mkdir(parents=True, exist_ok=True)
                return Path(shutil.copy2(found, run / "init" / found.name))
    return None


def _measured(
    job: Job,
    settings: list[str],
    start: Path | None,
    work: Path,
    device: str,
    compile_modes: tuple[str, ...],
) -> dict[str, float]:
    """Return steps per second by `run.compile`; one that fails is left out."""
    measured = {}
    for mode in ("none", *compile_modes):
        trial = [
            *settings,
            f"{_phase(job.recipe, start)}.steps={FOREVER}",
            *("run.log_every_steps=10", f"run.validate_every_steps={FOREVER}"),
            *(f"run.checkpoint_every_steps={FOREVER}", f"run.compile={mode}"),
        ]
        try:
            measured[mode] = _steps_per_second(job, trial, start, work, device)
        except SrganEdgeError:
            raise
        except Exception as error:
            if mode == "none":
                raise
            print(f"run.compile={mode} fails: {type(error).__name__}: {error}")
    return measured


class _Enough(Exception):
    """The trial has seen enough steps."""


def _steps_per_second(
    job: Job, settings: list[str], start: Path | None, work: Path, device: str
) -> float:
    from srgan_edge.train.loop import train
    from srgan_edge.train.recipe import Recipe
    from srgan_edge.train.session import Progress

    recipe = Recipe.load(job.recipe, settings)
    run = work / "trials" / job.recipe
    shutil.rmtree(run, ignore_errors=True)
    _share_pack(run, recipe, work)
    seen: list[tuple[int, float]] = []

    def watch(progress: Progress) -> None:
        seen.append((progress.step, time.monotonic()))
        if len(seen) > 1 and seen[-1][1] - seen[0][1] >= TRIAL_SECONDS:
            raise _Enough

    with suppress(_Enough):
        train(
            recipe,
            [work / "photos"],
            run,
            init=start,
            vgg_weights=_vgg(recipe, work),
            device=device,
            on_progress=watch,
            say=print,
        )
    (first_step, first_time), (last_step, last_time) = seen[0], seen[-1]
    return (last_step - first_step) / (last_time - first_time)


def _share_pack(run: Path, recipe: "Recipe", work: Path) -> None:
    """Let runs with the same crops and scale share their packed photographs and teacher."""
    pack = _pack_of(recipe, work)
    pack.mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "photos").exists():
        (run / "photos").symlink_to(pack, target_is_directory=True)
    os.environ["SRGAN_EDGE_TEACHERS"] = str((work / "teachers").resolve())


def _pack_of(recipe: "Recipe", work: Path) -> Path:
    reduced = "".join(f"-{factor:g}" for factor in recipe.data.reduced)
    name = f"x{recipe.model.scale}-{recipe.data.crop_px}px{reduced}"
    return (work / "packs" / name).resolve()


def _vgg(recipe: "Recipe", work: Path) -> Path | None:
    if not any(phase.perceptual for phase in recipe.phases.values()):
        return None
    if not (weights := work / "weights" / "vgg.safetensors").is_file():
        raise UsageError(f"{recipe.name} needs a VGG; type: make gpu-pack VGG=FILE.safetensors")
    return weights


def _validation(work: Path) -> Path | None:
    """Return the benchmark that was carried."""
    found = sorted((work / "validation").glob("*/HR"))
    return found[0].parent if found else None


def _keep_average(run: Path, work: Path, device: str) -> Path:
    import keep_unfinished

    folder = work / "averages"
    folder.mkdir(parents=True, exist_ok=True)
    return keep_unfinished.keep(run, folder, device)
