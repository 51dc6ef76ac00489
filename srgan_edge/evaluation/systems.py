"""Benchmarks on disk, and the systems that are compared on them.

A benchmark is a folder with `HR/` and, for a scale of 4, `LRx4/`, whose files pair up by name.
Where it has no such folder, LR images are HR images reduced by MATLAB's bicubic interpolation,
which gives the bytes of the public benchmarks. A system is a model in an engine, nearest neighbor
or bicubic interpolation, or the images of another program.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srgan_edge import bicubic
from srgan_edge.engines import choose_engine, open_engine
from srgan_edge.errors import InputRefused, UsageError
from srgan_edge.image.reader import read_pixels
from srgan_edge.image.writer import SUFFIXES
from srgan_edge.model.library import find_model
from srgan_edge.pixels import Pixels


@dataclass(frozen=True)
class Pair:
    """One image of a benchmark: the input of an upscaler, and the ideal result."""

    folder: Path
    """The benchmark's folder."""
    name: str
    """Name of the file in both of its folders."""
    lr: Pixels
    """uint8 [h, w, 3]."""
    hr: Pixels
    """uint8 [scale * h, scale * w, 3], cropped to that size as the benchmarks' makers did."""

    @property
    def scale(self) -> int:
        return self.hr.shape[0] // self.lr.shape[0]


@dataclass(frozen=True)
class System:
    """Something that enlarges the images of benchmarks."""

    name: str
    """Short name, unique within a comparison."""
    description: str
    """One line with its engine and precision."""
    restore: Callable[[Pair], Pixels]
    """Returns uint8 [scale * h, scale * w, 3]; may use all of the pair except the HR's pixels."""


def repeated(pixels: Pixels, times: int) -> Pixels:
    """Enlarge uint8 [H, W, 3] to [times * H, times * W, 3] by nearest neighbor."""
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def bicubic_upscale(scale: int) -> Callable[[Pixels], Pixels]:
    """Return the baseline of every table, MATLAB's bicubic interpolation, for batches."""

    def upscale(batch: Pixels) -> Pixels:
        _, height, width, _ = batch.shape
        return np.stack([bicubic.resize(lr, scale * height, scale * width) for lr in batch])

    return upscale


NEAREST = System("nearest", "nearest neighbor", lambda pair: repeated(pair.lr, pair.scale))

BICUBIC = System(
    "bicubic", "bicubic (MATLAB)", lambda pair: bicubic_upscale(pair.scale)(pair.lr[None])[0]
)


def upscaler_system(name: str, description: str, upscale: Callable[[Pixels], Pixels]) -> System:
    """Make a system of a function that maps [N, h, w, 3] to [N, scale * h, scale * w, 3]."""
    return System(name, description, lambda pair: upscale(pair.lr[None])[0])


@contextmanager
def open_models(
    models: Sequence[str], engine: str, device: str, *, fp32: bool
) -> Iterator[list[System]]:
    """Open models by name or file, each in an engine that `choose_engine` selects.

    A system has the name of its model. Where two models have the same name, as those from two runs
    of one recipe do, it has the text that was typed.

    Raises:
        UsageError, ModelRefused, ExtraMissing: as when finding a model and opening an engine.
    """
    with ExitStack() as stack:
        engines = []
        for model in models:
            choice = choose_engine(find_model(model), engine, device)
            engines.append(stack.enter_context(open_engine(choice, fp32=fp32)))
        names = [opened.info.spec.name for opened in engines]
        yield [
            upscaler_system(
                name if names.count(name) == 1 else model,
                f"{name}, {opened.info.name} {opened.info.arithmetic}",
                opened.upscale,
            )
            for model, name, opened in zip(models, names, engines, strict=True)
        ]


def ready_made(text: str, benchmarks: Sequence[Path]) -> System:
    """Make a system of the images of another program, from `NAME=DIR` as typed after `--results`.

    Each result has the name of its HR image, with any suffix, and is in a subfolder of `DIR` with
    the name of the benchmark; with a single benchmark it may be in `DIR` itself. Like the HR, it
    is cropped to `scale` times the LR's size.

    Raises:
        UsageError: `text` is not `NAME=DIR`.
        InputRefused: there is no such folder. While restoring: a result is missing, there is more
            than one, or it has another size.
    """
    name, _, folder_text = text.partition("=")
    if not (name and folder_text):
        raise UsageError(f"--results {text!r} is not NAME=DIR; type for example esrgan=results/")
    folder = Path(folder_text)
    places = {benchmark: folder / benchmark_name(benchmark) for benchmark in benchmarks}
    if len(benchmarks) == 1 and not places[benchmarks[0]].is_dir():
        places = {benchmarks[0]: folder}
    for place in places.values():
        if not place.is_dir():
            raise InputRefused(f"{place}: no such folder; --results needs one for each benchmark")

    def restore(pair: Pair) -> Pixels:
        path = _result_of(pair, places[pair.folder])
        return cropped_to(read_pixels(path), pair.lr, pair.scale, f"{path}: it")

    return System(name, f"{name}, from {folder}", restore)


def benchmark_name(folder: Path) -> str:
    """Return `Set5` for `data/Set5`, and for `.` inside it."""
    return folder.resolve().name


def read_pairs(folder: Path, scale: int) -> Iterator[Pair]:
    """Yield the images of a benchmark sorted by name, with one in memory at a time.

    Without `LRx{scale}/`, which only x1 needs, LR is HR reduced by MATLAB's bicubic interpolation.

    Raises:
        InputRefused: `folder` lacks `HR/`, or `LRx1/` at scale 1, or they do not pair up.
    """
    hr_folder, lr_folder = folder / "HR", folder / f"LRx{scale}"
    reduces = scale > 1 and not lr_folder.exists()
    for needed in (folder, hr_folder, *([] if reduces else [lr_folder])):
        if not needed.is_dir():
            raise InputRefused(
                f"{folder}: no folder {needed.name}/; a benchmark contains HR/ and LRx{scale}/"
            )
    names = sorted(path.name for path in hr_folder.iterdir())
    if not names:
        raise InputRefused(f"{hr_folder}: contains no file; put the HR images there")
    for name in names:
        if not (hr_folder / name).is_file():
            raise InputRefused(f"{hr_folder / name}: not a file; only HR images may be there")
        if not reduces and not (lr_folder / name).is_file():
            raise InputRefused(f"{lr_folder / name}: missing; every HR image needs an LR image")
    for name in names:
        hr = read_pixels(hr_folder / name)
        lr = _reduced(hr, scale, name) if reduces else read_pixels(lr_folder / name)
        yield Pair(folder, name, lr, cropped_to(hr, lr, scale, f"{name}: HR"))


def cropped_to(hr: Pixels, lr: Pixels, scale: int, what: str) -> Pixels:
    """Crop `hr` at the right and the bottom to exactly `scale` times the size of `lr`.

    Raises:
        InputRefused: `hr` is smaller, or larger by `scale` pixels or more; the message starts with
            `what`.
    """
    height, width = scale * lr.shape[0], scale * lr.shape[1]
    if not (0 <= hr.shape[0] - height < scale and 0 <= hr.shape[1] - width < scale):
        raise InputRefused(
            f"{what} is {hr.shape[1]}x{hr.shape[0]}, which is not {scale} times the LR's "
            f"{lr.shape[1]}x{lr.shape[0]}"
        )
    return hr[:height, :width]


def _reduced(hr: Pixels, scale: int, name: str) -> Pixels:
    """Reduce an HR image as the benchmarks' makers did, cropped to a multiple of the scale."""
    height, width = (side // scale for side in hr.shape[:2])
    if not height or not width:
        raise InputRefused(
            f"{name}: HR is {hr.shape[1]}x{hr.shape[0]}; possible: {scale}x{scale} and larger"
        )
    return bicubic.resize(hr[: scale * height, : scale * width], height, width)


def _result_of(pair: Pair, folder: Path) -> Path:
    stem = Path(pair.name).stem
    found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "nothing"
        raise InputRefused(f"{folder}: found {names} for {pair.name}; one image {stem}.* is needed")
    return found[0]
