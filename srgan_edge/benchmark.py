"""A benchmark on disk: a folder with `HR/` and `LRx4/`, whose files pair up by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from srgan_edge.errors import InputRefused
from srgan_edge.image_reader import read_pixels
from srgan_edge.pixels import Pixels


@dataclass(frozen=True)
class Pair:
    """One picture of a benchmark: what an upscaler gets, and what it ought to give."""

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


def benchmark_name(folder: Path) -> str:
    """`Set5` of `data/Set5`, and of `.` inside it."""
    return folder.resolve().name


def read_pairs(folder: Path, scale: int) -> Iterator[Pair]:
    """The pictures of a benchmark in the order of their names, one in memory at a time.

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
        raise InputRefused(f"{hr_folder}: no picture in it")
    for name in names:
        if not (lr_folder / name).is_file():
            raise InputRefused(f"{lr_folder / name}: missing; every HR picture needs its LR")
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
