"""Which files to upscale, and what the results are called. Opens nothing, touches nothing."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.image.opening import MAX_PIXELS
from srgan_edge.image.writer import SUFFIXES
from srgan_edge.tiling import Tiling
from srgan_edge.video.endpoint import (
    PIPE,
    Address,
    Inlet,
    InputPipe,
    OutputPipe,
    PipeFormat,
    is_address,
)
from srgan_edge.video.frame import Encoding, ReaderOptions
from srgan_edge.video.nvidia import Decoder

IMAGE_SUFFIXES = frozenset(SUFFIXES)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"}
    | {".vob", ".flv", ".wmv", ".3gp", ".ogv", ".y4m"}
)

KEPT_VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv"})
"""Containers we keep; a video in any other becomes .mkv, which holds everything."""

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class Job:
    """One file to upscale."""

    source: Path
    target: Path
    kind: Kind
    inlet: Inlet | None = None
    """What is read where that is no file; `source` is what it is called."""
    outlet: OutputPipe | None = None
    """What is written where that is no file; `target` is what it is called."""

    @property
    def is_stream(self) -> bool:
        """Whether an end of it is no file, and can be gone through but once."""
        return self.inlet is not None or self.outlet is not None


@dataclass(frozen=True)
class Naming:
    """How results are called where `-o` does not say."""

    suffix: str = "_x4"
    """Added to the name."""
    extension: str | None = None
    """Replaces the extension, for example `.png`; None keeps the source's."""


def plan_jobs(inputs: list[str], output: Path | None, naming: Naming) -> list[Job]:
    """The jobs for files, folders (with all below them) and globs, in the order given.

    `output` is a file for one input file, else a folder, which keeps the tree of a source folder.
    Without it a file's result lies beside it, and a folder's in a new folder beside that.

    Raises:
        InputRefused: something is missing, not a media file by its name, or a folder without media.
        UsageError: an output is its own input, or two results would have one name.
    """
    try:
        jobs = [job for text in inputs for job in _jobs_of(text, output, naming, len(inputs) > 1)]
    except OSError as error:  # a name that is too long, or a folder that is not ours to read
        raise InputRefused(f"{error.filename}: {error.strerror}") from error
    jobs = _told_apart(jobs, naming)
    targets: dict[Path, Path] = {}
    for job in jobs:
        other = targets.setdefault(job.target.absolute(), job.source)
        if other != job.source:
            raise UsageError(
                f"{other} and {job.source} would both become {job.target}; "
                "name an -o folder for each"
            )
        if job.target.exists() and job.source.samefile(job.target):
            raise UsageError(f"{job.target} is the input itself; name another file with -o")
    return jobs


def _told_apart(jobs: list[Job], naming: Naming) -> list[Job]:
    """Videos of one name in several containers of which we keep one, as `a.avi` and `a.mkv`."""
    counts = Counter(job.target.absolute() for job in jobs)
    return [
        replace(
            job,
            target=job.target.with_name(f"{job.source.name}{naming.suffix}{job.target.suffix}"),
        )
        if job.kind == "video"
        and counts[job.target.absolute()] > 1
        and job.target.suffix != job.source.suffix
        else job
        for job in jobs
    ]


def names_stream(inputs: list[str], output: Path | None) -> bool:
    """Whether any of these is no file: `-`, or an address to read from."""
    return str(output) == PIPE or any(text == PIPE or is_address(text) for text in inputs)


def plan_stream(
    inputs: list[str],
    output: Path | None,
    pipe_format: PipeFormat,
    *,
    allow_network: bool,
) -> Job:
    """The job for one video, from or to something that is no file.

    Raises:
        InputRefused: an image; an address of another kind, or without `allow_network`.
        UsageError: more than one video, no name for the result, or a terminal where bytes go.
    """
    if len(inputs) > 1:
        raise UsageError(f"{' '.join(inputs)}; possible with a pipe or an address: one video")
    source, inlet = _source_of(inputs[0], allow_network=allow_network)
    if output is None:
        raise UsageError(f"the result of {source} needs a name; type -o FILE.mkv, or -o -")
    if str(output) == PIPE:
        outlet = OutputPipe(pipe_format)
        outlet.refuse_terminal()
        return Job(source, Path(outlet.name), "video", inlet, outlet)
    if _means_folder(output):
        raise UsageError(f"-o {output} is a folder; type: -o {output / 'video.mkv'}")
    return Job(source, output, "video", inlet)


def _source_of(text: str, *, allow_network: bool) -> tuple[Path, Inlet | None]:
    """What the source is called, and what it is, if no file."""
    if text == PIPE:
        pipe = InputPipe()
        pipe.refuse_terminal()
        return Path(pipe.name), pipe
    if is_address(text):
        address = Address(text)
        if not allow_network:
            raise InputRefused(f"{address.name} is in the network; to read it, add --allow-network")
        return Path(address.name), address
    path = Path(text)
    if not path.is_file():
        raise InputRefused(f"{text}: no such file; possible with -o -: one video file")
    if kind_of(path) == "image":
        raise InputRefused(f"{text} is an image; possible with -o -: one video file")
    return path, None


def kind_of(path: Path) -> Kind:
    """By the name's suffix; what is in the file is checked when it is opened.

    Raises:
        InputRefused: neither an image nor a video by its name.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    possible = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise InputRefused(f"{path}: not an image or video by its name; possible: {possible}")


def _jobs_of(text: str, output: Path | None, naming: Naming, several: bool) -> list[Job]:
    path = Path(text)
    if several and output is not None and _is_media(output) and not output.is_dir():
        raise UsageError(f"-o {output} for several inputs; possible: a folder, without a suffix")
    if path.is_dir():
        return _folder_jobs(path, output, naming, several)
    if path.exists():
        into_folder = output is not None and (several or _means_folder(output))
        return [_file_job(path, output, naming, into_folder)]
    matches = sorted(Path().glob(text)) if _is_pattern(text) and not path.is_absolute() else []
    if path.is_absolute() and _is_pattern(text):
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    matches = [match for match in matches if match.is_file() and _is_media(match)]
    if not matches:
        what = "no image or video matches" if _is_pattern(text) else "no such file or folder"
        raise InputRefused(f"{text}: {what}")
    return [_file_job(match, output, naming, output is not None) for match in matches]


def _folder_jobs(folder: Path, output: Path | None, naming: Naming, several: bool) -> list[Job]:
    sources = sorted(path for path in folder.rglob("*") if _is_media(path) and path.is_file())
    if not sources:
        raise InputRefused(f"{folder}: no image or video in it or below it")
    if output is None:
        root = folder.resolve().with_name(folder.resolve().name + naming.suffix)
    else:
        root = output / folder.resolve().name if several else output
    jobs = []
    for source in sources:
        target_folder = root / source.relative_to(folder).parent
        jobs.append(_file_job(source, target_folder, naming, into_folder=True))
    return jobs


def _file_job(source: Path, output: Path | None, naming: Naming, into_folder: bool) -> Job:
    kind = kind_of(source)
    if output is not None and not into_folder:
        return Job(source, output, kind)
    extension = naming.extension or source.suffix
    if kind == "video":
        # --ext names an image format or a container, and a folder can hold both kinds.
        if extension.lower() in IMAGE_SUFFIXES:
            extension = source.suffix
        if extension.lower() not in KEPT_VIDEO_SUFFIXES:
            extension = ".mkv"
    elif extension.lower() in VIDEO_SUFFIXES:
        extension = source.suffix
    name = f"{source.stem}{naming.suffix}{extension}"
    return Job(source, source.with_name(name) if output is None else output / name, kind)


def _is_media(path: Path) -> bool:
    """By its name, which hidden files do not tell: a killed process can have left one."""
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _means_folder(path: Path) -> bool:
    return path.is_dir() or str(path).endswith(os.sep) or not path.suffix


# Everything `upscale` can be told besides which files.
@dataclass(frozen=True)
class Options:
    """As asked for on the command line."""

    model: str
    encoding: Encoding
    tiling: Tiling
    engine: str = "auto"
    device: str = "auto"
    fp32: bool = False
    outscale: float | None = None
    """Final scale; None: the model's."""
    decode: Decoder = "cpu"
    """Where videos are decoded; auto: on the GPU, if the engine is there."""
    existing: Literal["refuse", "replace", "keep"] = "refuse"
    """What to do where a result already exists."""
    color_lock: bool | None = None
    """Hold the mean colors of the input; None: if the model may shift them."""
    on_damage: Literal["skip", "conceal"] = "skip"
    """What becomes of frames that cannot be decoded: left out, or shown as the one before."""
    deinterlace: bool = False
    """Make images of two fields into images of one moment, before they are upscaled."""
    live: bool = False
    """Rather drop frames than be late."""
    restart: bool = False
    """Forget what an earlier run has done of a video."""
    max_pixels: int = MAX_PIXELS
    """Largest image, all frames of an animation together; a result may have 16 times as many."""

    def final_size(self, width: int, height: int, scale: int) -> tuple[int, int]:
        """Width and height in pixels of the result of a model of that scale."""
        factor = scale if self.outscale is None else self.outscale
        return max(1, round(width * factor)), max(1, round(height * factor))

    @property
    def reading(self) -> ReaderOptions:
        """What readers of videos are told."""
        return {
            "allow_8bit": self.encoding.accepts_8bit,
            "allow_opaque": self.encoding.accepts_opaque,
            "conceal": self.on_damage == "conceal",
            "deinterlace": self.deinterlace,
        }
