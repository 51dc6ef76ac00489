"""Options of a command, and its jobs: which files to upscale, and where the results go.

Planning changes no file, and opens only those whose suffix does not say what they are.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from srgan_edge.duplicates import Dedup
from srgan_edge.errors import InputRefused, UsageError, quoted
from srgan_edge.files import (
    Identity,
    files_below,
    free_name,
    identity_of,
    identity_of_open,
    is_taken,
    output_failed,
    partial_result,
    work_folder_of,
)
from srgan_edge.image.opening import MAX_PIXELS, RESULT_SUFFIXES
from srgan_edge.image.writer import IMAGE_SUFFIXES, SUFFIXES
from srgan_edge.jobs.size import Source, WantedSize
from srgan_edge.steady import Steady
from srgan_edge.suffixes import VIDEO_SUFFIXES, heic_refused, suffix_by_content
from srgan_edge.tiling import Tiling
from srgan_edge.video.audio import AudioHandling
from srgan_edge.video.container import CONTAINERS
from srgan_edge.video.endpoint import (
    PIPE,
    Address,
    Inlet,
    InputPipe,
    OutputPipe,
    PipeFormat,
    is_address,
)
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.frame import Encoding, FileOptions, ReaderOptions, VideoInfo
from srgan_edge.video.nvidia import Decoder

KEPT_VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv"})
"""Containers that are kept; a video in any other becomes .mkv, which can hold everything."""

_WRITTEN_VIDEO_SUFFIXES = KEPT_VIDEO_SUFFIXES | {".webm"}

_RESULT_STEM = re.compile(
    r"(.+)_(?:x\d+(?:\.\d+)?|\d+[pwk]|\d+x\d+)(?:_excerpt|_sample)?(?:\.partial(?:-\d+)?)?",
    re.DOTALL,
)
"""Name of a result, without its extension: that of its source, and the scale or size of its run;
also of the part that could be made of a damaged one."""

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class Job:
    """One file to upscale."""

    source: Path
    target: Path
    kind: Kind
    inlet: Inlet | None = None
    """Pipe or address that is read instead of a file; `source` is its name."""
    outlet: OutputPipe | None = None
    """Pipe that is written instead of a file; `target` is its name."""

    @property
    def is_stream(self) -> bool:
        """True if the input or the output is not a file, so that it can be processed only once."""
        return self.inlet is not None or self.outlet is not None


@dataclass(frozen=True)
class Naming:
    """Names of results for which `-o` does not name a file."""

    suffix: str
    """Text added to the name, such as `scale_suffix`."""
    extension: str | None = None
    """Extension of the result, for example `.png`; None keeps that of the source."""


def scale_suffix(scale: float) -> str:
    """Return `_x4` for results four times larger, `_x1.5` for others."""
    return f"_x{scale:g}"


def result_suffix(size: WantedSize | None, scale: float, excerpt: Excerpt | None) -> str:
    """Return the suffix of a result's name: its size or else its scale, and its excerpt."""
    suffix = scale_suffix(scale) if size is None else size.suffix
    return suffix if excerpt is None else suffix + excerpt.suffix


@dataclass(frozen=True)
class Options:
    """Options of `upscale`, except for the files."""

    model: str
    encoding: Encoding
    tiling: Tiling
    engine: str = "auto"
    device: str = "auto"
    """Device of the engine; with several workers, of the one that can do without them."""
    devices: tuple[str, ...] = ()
    """Devices of workers that share the segments of a video; empty: the engine does it alone."""
    ray: str | None = None
    """Ray cluster of the workers, by its address; None: they are processes of this machine."""
    allow_mixed: bool = False
    """Workers that compute differently, or have other versions, may take part."""
    fp32: bool = False
    outscale: float | None = None
    """Final scale; None: the model's, or that of `size`."""
    size: WantedSize | None = None
    """Final size, instead of a scale."""
    decode: Decoder = "cpu"
    """Device that decodes videos; auto: the GPU if the engine uses it."""
    existing: Literal["refuse", "replace", "keep"] = "refuse"
    """Handling of results that already exist."""
    color_lock: bool | None = None
    """Preserve the mean colors of the input; None: only if the model may shift them."""
    steady: Steady = 0.0
    """Strength with which the detail of videos is kept from frame to frame; 0: not at all."""
    grain: bool = False
    """Put the grain of a video back on its result."""
    letters: bool = False
    """Interpolate small letters, which networks break."""
    on_damage: Literal["skip", "conceal"] = "skip"
    """Handling of frames that cannot be decoded: leave them out, or repeat the one before."""
    deinterlace: bool = False
    """Deinterlace frames before they are upscaled."""
    audio: AudioHandling = "convert"
    """Handling of audio: convert what the container cannot hold, copy only, or leave it out."""
    live: bool = False
    """Drop frames rather than fall behind."""
    excerpt: Excerpt | None = None
    """Parts of a video to upscale; None: all of it."""
    dedup: Dedup | None = None
    """Make frames that nearly repeat an earlier one of its result; None: upscale each."""
    tuned: bool = True
    """Use what `srgan-edge tune` found on this machine."""
    restart: bool = False
    """Discard the finished segments of an earlier run."""
    max_pixels: int = MAX_PIXELS
    """Largest input image (all frames of an animation together); a result may be 16x larger."""

    @property
    def has_workers(self) -> bool:
        """True if videos are made by several workers."""
        return bool(self.devices) or self.ray is not None

    @property
    def overwrite(self) -> bool:
        """True if results that exist may be replaced."""
        return self.existing == "replace"

    def factor(self, source: Source) -> float | None:
        """Return how many times larger than the source a result is to be; None: as the model does.

        Raises:
            UsageError: no result of the size that was asked for is possible.
        """
        return self.outscale if self.size is None else float(self.size.factor(source))

    def final_size(self, source: Source, scale: int) -> tuple[int, int]:
        """Return width and height in pixels of the result, for a model of the given scale.

        Raises:
            UsageError: as `factor` does.
        """
        if self.size is not None:
            return self.size.result(source)
        factor = scale if self.outscale is None else self.outscale
        return max(1, round(source.width * factor)), max(1, round(source.height * factor))

    def video_size(self, info: VideoInfo, scale: int) -> tuple[int, int]:
        """Return width and height in pixels of the result of a video: see `final_size`."""
        return self.final_size(Source.of_video(info), scale)

    @property
    def reading(self) -> ReaderOptions:
        """Options for readers of videos."""
        return {
            "allow_8bit": self.encoding.accepts_8bit,
            "allow_opaque": self.encoding.accepts_opaque,
            "conceal": self.on_damage == "conceal",
            "deinterlace": self.deinterlace,
        }

    @property
    def reading_file(self) -> FileOptions:
        """Options for readers of video files."""
        reading: FileOptions = {"excerpt": self.excerpt} if self.excerpt else {}
        return {**reading, **self.reading}


def plan_jobs(
    inputs: list[str],
    named: str | os.PathLike[str] | None,
    naming: Naming,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Job]:
    """Return the jobs for files, folders (searched recursively) and globs, in the order given.

    `named` is a file if there is one input file and it does not end in a slash, or else a folder,
    in which the tree of a source folder is kept. Without it, the result of a file is placed beside
    the file, and the results of a folder in a new folder beside that folder. An input that is the
    result of another one, as after `upscale *.png` twice, is left out, whatever scale it was made
    at.

    Args:
        overwrite: results that exist will be replaced, so that no result may be an input.
        say: called with a line for the user about what was left out.

    Raises:
        InputRefused: an input is missing, its name is not that of an image or video, or a folder
            contains neither, or cannot be read.
        UsageError: a result would replace an input, or two results would have the same name.
        OutputFailed: `named` is in a folder that is not accessible.
    """
    output = None if named is None else Path(named)
    several, into_folder = len(inputs) > 1, False
    if named is not None and output is not None:
        try:
            is_taken(output)
        except OSError as error:
            raise output_failed(output, error) from error
        into_folder = _means_folder(named)
        if several and _is_media(output) and not into_folder:
            raise UsageError(
                f"-o {output} for several inputs; type the name of a folder, without a suffix"
            )
    try:
        jobs = [
            job
            for text in _without_work_folders(inputs, say)
            for job in _jobs_of(text, output, naming, several, into_folder or several, say)
        ]
    except OSError as error:  # the folder is not readable
        raise InputRefused(f"{error.filename}: {error.strerror}") from error
    jobs = _without_results(jobs, overwrite=overwrite, say=say)
    if not jobs:
        raise InputRefused(
            f"{' '.join(inputs)}: only results of an earlier run; to upscale one, name it alone"
        )
    refuse_clashes(jobs)
    return jobs


def refuse_clashes(jobs: Sequence[Job], others: Mapping[str, Path] | None = None) -> None:
    """Refuse jobs of which one would write what another reads or writes.

    Files are compared by identity: a symbolic or hard link to an input is that input, and so is the
    file that standard input or output is redirected to.

    Args:
        others: other files that the command writes, by the option that names them.

    Raises:
        UsageError: two of the names stand for one file.
    """
    sources: dict[Identity, Path] = {}
    for job in jobs:
        if job.inlet is None:
            sources[identity_of(job.source)] = job.source
        elif isinstance(job.inlet, InputPipe) and (file := identity_of_open(job.inlet.descriptor)):
            sources[file] = job.source
    written: dict[Identity, Path] = {}
    for job in jobs:
        if job.outlet is not None and identity_of_open(job.outlet.descriptor) in sources:
            raise UsageError(f"{job.target} is {job.source}, the input itself; name another file")
        for path in names_written(job):
            identity = identity_of(path)
            if read := sources.get(identity):
                what = "the input itself" if read == job.source else f"{read}, another input"
                raise UsageError(
                    f"{path}, which the result of {job.source} may be called, is {what}; "
                    "name another file with -o"
                )
            if other := written.get(identity):
                if other == job.source:
                    raise UsageError(f"{other} is named twice; name it once")
                raise UsageError(
                    f"{other} and {job.source} would both become {path}; name an -o folder for each"
                )
            written[identity] = job.source
    identity_of_folder = cache(identity_of)  # most sources share their folders
    for source in sources.values():
        for folder in Path(os.path.realpath(source)).parents:
            if made := written.get(identity_of_folder(folder)):
                raise UsageError(
                    f"{source} is in {folder.name}, which is removed at the end of the work on "
                    f"{made}; move it elsewhere, or name another file with -o"
                )
    for option, path in (others or {}).items():
        identity = identity_of(path)
        if identity in sources:
            raise UsageError(f"{option} {path} is an input itself; name another file")
        if identity in written:
            raise UsageError(
                f"{option} {path} is the result of {written[identity]}; name another file"
            )


def _format_of(suffix: str) -> str:
    """Return the format that a suffix stands for: `.jpeg` and `.jpg` are one."""
    return (SUFFIXES | CONTAINERS).get(suffix.lower(), suffix.lower())


def names_written(job: Job) -> list[Path]:
    """Return the names that a job may give to a file or folder of its own."""
    if job.outlet is not None:
        return []
    if job.kind == "image":
        return [job.target]
    return [job.target, partial_result(job.target), work_folder_of(job.target)]


def refuse_type(extension: str, output: Path | None, jobs: Sequence[Job]) -> None:
    """Raise a `UsageError` at a type of results, such as `.png`, that no result of the jobs has.

    Args:
        output: what the user has named, a file of a type of its own or a folder.
    """
    for job in jobs:
        if job.target == output and _format_of(job.target.suffix) != _format_of(extension):
            raise UsageError(f"-f {extension[1:]} and -o {output}; possible: one of them")
    kinds = {job.kind for job in jobs}
    possible: set[str] = set()
    if "image" in kinds:
        possible |= SUFFIXES.keys()
    if "video" in kinds:
        possible |= _WRITTEN_VIDEO_SUFFIXES
    if extension.lower() not in possible:
        names = ", ".join(sorted(it[1:] for it in possible))
        of = " and ".join(f"{kind}s" for kind in sorted(kinds))
        raise UsageError(f"-f {extension[1:]}; possible for {of}: {names}")


def names_stream(inputs: list[str], output: Path | None) -> bool:
    """Return True if any of these is not a file, but `-` or a network address."""
    return str(output) == PIPE or any(text == PIPE or is_address(text) for text in inputs)


def plan_stream(
    inputs: list[str],
    output: Path | None,
    pipe_format: PipeFormat,
    *,
    allow_network: bool,
) -> Job:
    """Return the job for one video that is read from or written to a pipe or an address.

    Raises:
        InputRefused: the input is an image, an unsupported address, or an address without
            `allow_network`.
        UsageError: there is more than one video, no name for the result, or the pipe is a terminal.
    """
    if len(inputs) > 1:
        raise UsageError(f"{' '.join(inputs)}; a pipe or an address takes only one video")
    source, inlet = _source_of(inputs[0], allow_network=allow_network)
    if output is None:
        raise UsageError(f"the result of {source} needs a name; type -o FILE.mkv or -o -")
    if str(output) == PIPE:
        outlet = OutputPipe(pipe_format)
        outlet.refuse_terminal()
        return Job(source, Path(outlet.name), "video", inlet, outlet)
    if _means_folder(output):
        named = quoted(free_name(output / "video.mkv", ".mkv"))
        raise UsageError(f"-o {output} is a folder; type: -o {named}")
    return Job(source, output, "video", inlet)


def refuse_excerpt(jobs: Sequence[Job]) -> None:
    """Raise a `UsageError` at an excerpt of anything but a video file."""
    for job in jobs:
        if job.is_stream:
            raise UsageError(
                f"--start, --duration and --sample with {job.source} to {job.target}; "
                "possible: from a video file to another"
            )
        if job.kind == "image":
            raise UsageError(
                f"{job.source} is an image; --start, --duration and --sample are for videos"
            )


def kind_of(path: Path) -> Kind:
    """Return what a file is by its suffix, or else by its first bytes; opening it checks the rest.

    Raises:
        InputRefused: neither is that of an image or video, or the file cannot be read.
    """
    return "image" if _known_suffix(path) in IMAGE_SUFFIXES else "video"


def _known_suffix(path: Path) -> str:
    """Return the suffix of a file, in lowercase; by its content if its name has none that is known.

    Raises:
        InputRefused: neither is that of an image or video, or the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return suffix
    try:
        by_content = suffix_by_content(path)
    except OSError as error:
        raise InputRefused(f"{path}: {error.strerror}") from error
    if by_content == ".heic":
        raise heic_refused(path)
    if by_content is not None:
        return by_content
    if path.is_fifo():  # also /dev/stdin behind one, and what a shell makes of <(command)
        raise InputRefused(f"{path} is a pipe; type - and send one video to standard input")
    possible = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise InputRefused(
        f"{path}: not an image or video by its name or its first bytes; possible: {possible}"
    )


def _without_work_folders(inputs: list[str], say: Callable[[str], None]) -> Iterator[str]:
    """Leave out folders with unfinished work, which `upscale *` names once it was stopped."""
    for text in inputs:
        folder = Path(text)
        if len(inputs) > 1 and folder.suffix == ".partial" and (folder / "job.json").is_file():
            say(f"left out {folder}: it has the unfinished work on {folder.with_suffix('').name}")
        else:
            yield text


def _jobs_of(
    text: str,
    output: Path | None,
    naming: Naming,
    several: bool,
    into_folder: bool,
    say: Callable[[str], None],
) -> list[Job]:
    path = Path(text)
    if path.is_dir():
        return _folder_jobs(path, output, naming, several, say)
    if path.exists():
        return [_file_job(path, output, naming, into_folder)]
    if not any(character in text for character in "*?["):
        raise InputRefused(f"{text}: no such file or folder")
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    matches = sorted((it for it in found if _is_source(it) and _is_media(it)), key=_natural_order)
    if not matches:
        raise InputRefused(f"{text}: no image or video matches")
    if output is not None and _is_media(output) and not into_folder:
        raise UsageError(f"-o {output} for {text}; type the name of a folder, without a suffix")
    return [
        _file_job(match, output, naming, output is not None)
        for match in _without_orphans(matches, say)
    ]


def _folder_jobs(
    folder: Path, output: Path | None, naming: Naming, several: bool, say: Callable[[str], None]
) -> list[Job]:
    sources, linked, others = _sorted_out(sorted(files_below(folder), key=_natural_order))
    if linked:
        say(
            f"{folder}: links to folders are not followed ({len(linked)}, the first is "
            f"{linked[0]}); name those folders, too"
        )
    if not sources:
        raise InputRefused(f"{folder}: no image or video in it or below it")
    if others:
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in others.most_common(5))
        say(f"{folder}: passed over {others.total()} files that are no images or videos: {kinds}")
    if output is None:
        root = folder.resolve().with_name(folder.resolve().name + naming.suffix)
    else:
        root = output / folder.resolve().name if several else output
    jobs = []
    for source in _without_orphans(sources, say):
        target_folder = root / source.relative_to(folder).parent
        jobs.append(_file_job(source, target_folder, naming, into_folder=True))
    return jobs


def _sorted_out(found: Iterable[Path]) -> tuple[list[Path], list[Path], Counter[str]]:
    """Return images and videos, links to folders, and the kinds of what is passed over."""
    sources: list[Path] = []
    linked: list[Path] = []
    others: Counter[str] = Counter()
    for path in found:
        is_source = _is_source(path)
        if is_source and _is_media(path):
            sources.append(path)
        elif not is_source and path.is_dir():
            linked.append(path)
        elif not path.name.startswith("."):
            others[(path.suffix.lower() or "no suffix") if is_source else "of another kind"] += 1
    return sources, linked, others


def _is_source(path: Path) -> bool:
    """Check for a file, or a link whose file is missing: its job will say so."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _natural_order(path: Path) -> list[list[tuple[int, int | str]]]:
    """Return a sorting key under which `2.png` comes before `10.png`, folder by folder."""
    return [
        [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name)]
        for name in path.parts
    ]


def _file_job(source: Path, output: Path | None, naming: Naming, into_folder: bool) -> Job:
    known = _known_suffix(source)
    kind: Kind = "image" if known in IMAGE_SUFFIXES else "video"
    if kind == "video":
        _refuse_descriptor(source)
    if output is not None and not into_folder:
        return Job(source, output, kind)
    is_named = known == source.suffix.lower()
    stem, own = (source.stem, source.suffix) if is_named else (source.name, known)
    extension = naming.extension or own
    if kind == "video":
        # --ext names an image format or a container, and a folder can hold both kinds.
        if extension.lower() in IMAGE_SUFFIXES:
            extension = own
        if naming.extension is None and extension.lower() not in KEPT_VIDEO_SUFFIXES:
            extension = ".mkv"
    elif extension.lower() in VIDEO_SUFFIXES:
        extension = own
    if kind == "image" and naming.extension is None:
        extension = RESULT_SUFFIXES.get(extension.lower(), extension)
    if extension != own:
        stem = source.name  # a.avi and a.mkv both become Matroska, perhaps in commands apart
    name = f"{stem}{naming.suffix}{extension}"
    return Job(source, source.with_name(name) if output is None else output / name, kind)


def _without_results(jobs: list[Job], *, overwrite: bool, say: Callable[[str], None]) -> list[Job]:
    """Leave out inputs that are results of other inputs, of this command or of an earlier one."""
    made_from = {
        identity_of(job.target): job.source
        for job in jobs
        if identity_of(job.target) != identity_of(job.source)
    }
    originals = {
        (job.kind, job.source.with_name(name)): job.source
        for job in jobs
        for name in (job.source.stem, job.source.name)
    }
    kept = []
    for job in jobs:
        origin = made_from.get(identity_of(job.source))
        earlier = _RESULT_STEM.fullmatch(job.source.stem)
        if origin is None and earlier is None:
            kept.append(job)
        elif origin is None and earlier is not None:
            found = (
                originals.get((job.kind, place / earlier[1]))
                for place in _places_of_originals(job.source.parent)
            )
            origin = next(filter(None, found), None)
            if origin is None:
                kept.append(job)
            else:
                say(_left_out_by_name(job.source, origin))
        elif overwrite:
            raise UsageError(
                f"{job.source} is an input, and --overwrite would replace it by the result of "
                f"{origin}; leave it out, or name a folder for the results with -o"
            )
        else:
            say(f"left out {job.source}: it is the result of {origin}")
    return kept


def _left_out_by_name(result: Path, origin: Path) -> str:
    return (
        f"left out {result}: by its name it is a result of {origin}; to upscale it, name it alone"
    )


def _without_orphans(found: Iterable[Path], say: Callable[[str], None]) -> Iterator[Path]:
    """Leave out results of files that are passed over, as their names say not what they are."""
    for path in found:
        if origin := _nameless_origin(path):
            say(_left_out_by_name(path, origin))
        else:
            yield path


def _nameless_origin(result: Path) -> Path | None:
    if made := _RESULT_STEM.fullmatch(result.stem):
        for place in _places_of_originals(result.parent):
            origin = place / made[1]
            if not _is_media(origin) and origin.is_file():
                with suppress(InputRefused):  # it is none by its content, either
                    if kind_of(origin) == kind_of(result):
                        return origin
    return None


def _places_of_originals(folder: Path) -> Iterator[Path]:
    """Yield the folders that may have the original of a result: its own, and `a/b` of `a_x4/b`."""
    yield folder
    for at, name in enumerate(folder.parts):
        if made := _RESULT_STEM.fullmatch(name):
            yield Path(*folder.parts[:at], made[1], *folder.parts[at + 1 :])


def _refuse_descriptor(source: Path) -> None:
    """Refuse a name that is another file in each process, such as /dev/stdin."""
    folder = Path(os.path.realpath(source.parent))
    if folder == Path("/dev") and source.is_symlink():
        folder = source.readlink().parent
    if folder.is_relative_to("/proc"):
        behind = Path(os.path.realpath(source))
        named = quoted(behind) if behind.is_file() else "-"
        raise UsageError(f"{source} is a video that only this process can open; type {named}")


def _source_of(text: str, *, allow_network: bool) -> tuple[Path, Inlet | None]:
    """Return the name of a source, and the pipe or address if it is not a file."""
    if text == PIPE:
        pipe = InputPipe()
        pipe.refuse_terminal()
        return Path(pipe.name), pipe
    if is_address(text):
        address = Address(text)
        if not allow_network:
            raise InputRefused(f"{address.name} is on the network; add --allow-network to read it")
        return Path(address.name), address
    path = Path(text)
    if not path.is_file():
        raise InputRefused(f"{text}: no such file; possible with -o -: one video file")
    if kind_of(path) == "image":
        raise InputRefused(f"{text} is an image; possible with -o -: one video file")
    return path, None


def _is_media(path: Path) -> bool:
    """Judge by the name; hidden files are ignored, as a killed process may have left them."""
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _means_folder(named: str | os.PathLike[str]) -> bool:
    path = Path(named)
    return path.is_dir() or os.fspath(named).endswith(os.sep) or not path.suffix
