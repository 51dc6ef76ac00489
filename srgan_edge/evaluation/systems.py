"""What can be compared: models in engines, nearest neighbor, bicubic, other programs' images."""

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

SCALE = 4
"""The only one that a model, and so a comparison, can have."""


# A benchmark on disk: a folder with `HR/` and `LRx4/`, whose files pair up by name.
@dataclass(frozen=True)
class Pair:
    """One image of a benchmark: what an upscaler gets, and what it ought to give."""

    folder: Path
    """The benchmark."""
    name: str
    """Of the file, in both folders."""
    lr: Pixels
    """uint8 [h, w, 3]."""
    hr: Pixels
    """uint8 [scale * h, scale * w, 3], cropped to that as the benchmarks' makers did."""

    @property
    def scale(self) -> int:
        return self.hr.shape[0] // self.lr.shape[0]


@dataclass(frozen=True)
class System:
    """Something that enlarges the images of benchmarks."""

    name: str
    """Short, and no two alike in one comparison."""
    description: str
    """With its engine and precision."""
    restore: Callable[[Pair], Pixels]
    """Gives uint8 [scale * h, scale * w, 3]; may look at all of the pair but the HR's pixels."""


def repeated(pixels: Pixels, times: int) -> Pixels:
    """uint8 [H, W, 3] -> [times * H, times * W, 3], each pixel a square of its color."""
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def bicubic_upscale(scale: int) -> Callable[[Pixels], Pixels]:
    """MATLAB's bicubic as an upscaler of batches: the baseline of every table."""

    def upscale(batch: Pixels) -> Pixels:
        _, height, width, _ = batch.shape
        return np.stack([bicubic.resize(lr, scale * height, scale * width) for lr in batch])

    return upscale


NEAREST = System("nearest", "nearest neighbor", lambda pair: repeated(pair.lr, pair.scale))

BICUBIC = System(
    "bicubic", "bicubic (MATLAB)", lambda pair: bicubic_upscale(pair.scale)(pair.lr[None])[0]
)


def upscaler_system(name: str, description: str, upscale: Callable[[Pixels], Pixels]) -> System:
    """Of what maps batches [N, h, w, 3] to [N, scale * h, scale * w, 3]."""
    return System(name, description, lambda pair: upscale(pair.lr[None])[0])


@contextmanager
def open_models(
    models: Sequence[str], engine: str, device: str, *, fp32: bool
) -> Iterator[list[System]]:
    """Models by name or file, each in an engine as `choose_engine` takes it.

    A system is called like its model, or by what was typed where two models have one name, as the
    results of two runs of one recipe do.

    Raises:
        UsageError, ModelRefused, ExtraMissing: as finding a model and opening an engine do.
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
    """The images of another program, from `NAME=DIR` as typed after `--results`.

    Each result is named like its HR image, whatever its suffix, and lies in a sub-folder of `DIR`
    that is named like the benchmark; with one benchmark alone it may lie in `DIR` itself. Like the
    HR, it is cropped to the scale times the LR's size.

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
            raise InputRefused(f"{place}: no such folder; --results has one for each benchmark")

    def restore(pair: Pair) -> Pixels:
        path = _result_of(pair, places[pair.folder])
        return cropped_to(read_pixels(path), pair.lr, pair.scale, f"{path}: it")

    return System(name, f"{name}, from {folder}", restore)


def _result_of(pair: Pair, folder: Path) -> Path:
    stem = Path(pair.name).stem
    found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "nothing"
        raise InputRefused(f"{folder}: {names} there for {pair.name}; one image {stem}.* is due")
    return found[0]


def benchmark_name(folder: Path) -> str:
    """`Set5` of `data/Set5`, and of `.` inside it."""
    return folder.resolve().name


def read_pairs(folder: Path, scale: int) -> Iterator[Pair]:
    """The images of a benchmark in the order of their names, one in memory at a time.

    Raises:
        InputRefused: `folder` lacks `HR/` or `LRx{scale}/`, or they do not pair up.
    """
    hr_folder, lr_folder = folder / "HR", folder / f"LRx{scale}"
    for needed in (folder, hr_folder, lr_folder):
        if not needed.is_dir():
            raise InputRefused(
                f"{folder}: no folder {needed.name}/; a benchmark has HR/ and LRx{scale}/ in it"
            )
    names = sorted(path.name for path in hr_folder.iterdir() if path.is_file())
    if not names:
        raise InputRefused(f"{hr_folder}: no image in it")
    for name in names:
        if not (lr_folder / name).is_file():
            raise InputRefused(f"{lr_folder / name}: missing; every HR image needs its LR")
    for name in names:
        lr, hr = (read_pixels(side / name) for side in (lr_folder, hr_folder))
        yield Pair(folder, name, lr, cropped_to(hr, lr, scale, f"{name}: HR"))


def cropped_to(hr: Pixels, lr: Pixels, scale: int, what: str) -> Pixels:
    """`hr` cropped at the right and the bottom to exactly `scale` times the size of `lr`.

    Raises:
        InputRefused: it is smaller than that, or larger by `scale` pixels or more; the message
            begins with `what`.
    """
    height, width = scale * lr.shape[0], scale * lr.shape[1]
    if not (0 <= hr.shape[0] - height < scale and 0 <= hr.shape[1] - width < scale):
        raise InputRefused(
            f"{what} is {hr.shape[1]}x{hr.shape[0]}, which is not {scale} times the LR's "
            f"{lr.shape[1]}x{lr.shape[0]}"
        )
    return hr[:height, :width]
