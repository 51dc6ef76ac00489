"""The outcome of `srgan-edge tune` for a model and a size of frames, kept in the cache.

A file is used only on the machine, with the model and with the engine that it was measured for. It
holds numbers alone, which are checked when it is read.
"""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from srgan_edge.engines import choose_engine, video_slots
from srgan_edge.engines.cache import CACHE_VARIABLE
from srgan_edge.errors import SrganEdgeError, quoted
from srgan_edge.files import cache_folder, replace_when_whole, sha256_of
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.machine import Gpu, installed_version, processor_name
from srgan_edge.model.library import ModelFiles, find_model
from srgan_edge.tiling import MIN_TILE_PX, Tiling
from srgan_edge.transcode.work_folder import begun_job
from srgan_edge.typed import MISTAKES, from_json, from_record

MOST_SLOTS = 16


@dataclass(frozen=True)
class Setting:
    """One way to run a model: what `tune` compares."""

    tile: Annotated[int, Meta(ge=0, le=2**16)] | Literal["auto"]
    slots: Annotated[int, Meta(ge=1, le=MOST_SLOTS)]
    """Calls at once, among which the cores are divided."""
    fp32: bool
    """Forbid a lower precision, because FP32 is faster."""

    @classmethod
    def default(cls) -> Self:
        """Return what `upscale` does for a video by default."""
        return cls("auto", video_slots(), False)

    def apply(self, options: Options) -> Options:
        """Return options with this tile and precision; slots are an engine's when it is opened."""
        tiling = replace(options.tiling, tile=self.tile)
        return replace(options, tiling=tiling, fp32=self.fp32)

    def __str__(self) -> str:
        calls = "1 call" if self.slots == 1 else f"{self.slots} calls"
        tile = "whole frames" if self.tile == 0 else f"tile {self.tile}"
        return f"{tile}, {calls} at once{', FP32' if self.fp32 else ''}"


@dataclass(frozen=True)
class Circumstances:
    """Everything that a tuning depends on besides the size of frames."""

    processor: str
    cores: int
    gpu: str
    """Empty if the engine does not run on one."""
    engine: str
    version: str
    """Version of the package of the engine's runtime."""
    device: str
    model_sha256: str

    @classmethod
    def of(cls, files: ModelFiles, engine: str = "auto", device: str = "auto") -> Self:
        """Return those of a model here.

        Raises:
            UsageError: no engine runs the model.
        """
        choice = choose_engine(files, engine, device)
        gpu = None if choice.device == "cpu" else Gpu.find()
        return cls(
            processor_name(),
            len(os.sched_getaffinity(0)),
            "" if gpu is None else str(gpu),
            choice.kind.name,
            installed_version(choice.kind.name) or "",
            choice.device,
            sha256_of(choice.path),
        )

    def difference(self, here: Self) -> str:
        """Return what is another one here, as `cores was 8 and is 2`; empty if nothing is."""
        before, now = asdict(self), asdict(here)
        changed = [name for name in before if before[name] != now[name]]
        if changed == ["model_sha256"]:
            return "the model was another one"
        if "engine" in changed:  # its version is that of another package, or of one that is absent
            changed = ["engine"]
        return ", ".join(f"{name} was {before[name]} and is {now[name]}" for name in changed[:2])


@dataclass(frozen=True)
class Tuning:
    """The content of a file: the fastest setting, and how much faster than the default it was."""

    width: Annotated[int, Meta(ge=1, le=2**16)]
    height: Annotated[int, Meta(ge=1, le=2**16)]
    circumstances: Circumstances
    setting: Setting
    times_default: Annotated[float, Meta(ge=0.0, le=1e6)]

    def save(self, path: Path) -> None:
        """Write the file; raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replace_when_whole(path, option=CACHE_VARIABLE) as written:
            written.write_text(json.dumps(asdict(self), indent=1) + "\n")


def tuning_path(model: str, width: int, height: int) -> Path:
    """Return the path of the file for a model, by the name in its spec, and a size in pixels."""
    return cache_folder(CACHE_VARIABLE, "engines") / f"{_stem(model)}{width}x{height}.json"


def _stem(model: str) -> str:
    """Return how the names of all files for a model begin."""
    name = re.sub(r"[^\w.-]+", "-", model)
    return f"tuning-{name}-"


def setting_for(job: Job, options: Options, say: Callable[[str], None]) -> Setting | None:
    """Return the setting for a video that was tuned for; None: the default.

    A video that was begun keeps what it was begun with. Options that were typed come first: with
    any of them nothing is tuned. A file that cannot be used is a line for the user.
    """
    typed = replace(options.tiling, joined=True) != Tiling(joined=True) or options.fp32
    if job.kind != "video" or job.is_stream or typed or not options.tuned:
        return None
    if not options.restart and (begun := begun_job(job.target)) is not None:
        with suppress(*MISTAKES):
            return from_record(begun.get("tuned"), Setting)
        return None
    try:
        files = find_model(options.model)
        tuning = _tuning_of(job, files, options, say)
    except SrganEdgeError:
        return None  # the job itself reports why
    if tuning is None or tuning.setting == Setting.default():
        return None
    say(
        f"{job.source.name}: {tuning.setting}, {tuning.times_default:.2f} times as fast as the "
        "default when it was tuned; --no-tune leaves it out"
    )
    return tuning.setting


def _tuning_of(
    job: Job, files: ModelFiles, options: Options, say: Callable[[str], None]
) -> Tuning | None:
    name = _spec_name(files, options)
    if not any(cache_folder(CACHE_VARIABLE, "engines").glob(f"{_stem(name)}*.json")):
        return None  # the size of the video need not be found out
    with IsolatedReader(job.source, **options.reading) as reader:
        width, height = reader.info.width, reader.info.height
    path = tuning_path(name, width, height)
    if not path.is_file():
        return None
    again = f"type: srgan-edge tune {quoted(Path(options.model))} --size {width}x{height}"
    try:
        tuning = from_json(path.read_bytes(), Tuning)
        tile = tuning.setting.tile
        if tile != "auto" and 0 < tile < MIN_TILE_PX:
            raise ValueError
    except (OSError, *MISTAKES):
        say(f"{path} is damaged and ignored; {again}")
        return None
    here = Circumstances.of(files, options.engine, options.device)
    if difference := tuning.circumstances.difference(here):
        say(f"{path.name} is ignored: {difference}; {again}")
        return None
    return tuning


def _spec_name(files: ModelFiles, options: Options) -> str:
    """Return the name of a model without opening it: of its file, as `tune` keeps it."""
    return choose_engine(files, options.engine, options.device).path.stem


def record_of(setting: Setting | None) -> dict[str, Any]:
    """Return what a job that is begun records of its setting, for the run that resumes it."""
    return {} if setting is None else {"tuned": asdict(setting)}
