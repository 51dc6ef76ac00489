"""Scoring an upscaler on a benchmark folder with `HR/` and `LRx4/`.

It knows pictures and numbers; what upscales is a function, so that a model in any engine and the
plain bicubic are measured by the same lines.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from srgan_edge import bicubic, metrics
from srgan_edge.errors import InputRefused
from srgan_edge.pixels import Pixels


@dataclass(frozen=True)
class Scores:
    """One picture, or the mean over a folder."""

    psnr_y: float
    """dB, BT.601 luma, `scale` pixels shaved."""
    ssim_y: float
    """Wang's, on the same luma."""
    psnr_rgb: float
    """dB."""
    shift_red: float
    """Mean of result - HR in levels of 255; so for green and blue."""
    shift_green: float
    shift_blue: float

    @property
    def color_shift(self) -> float:
        """The largest of the three shifts by magnitude, in levels of 255."""
        return max(abs(self.shift_red), abs(self.shift_green), abs(self.shift_blue))


@dataclass(frozen=True)
class Evaluation:
    """Scores by picture, and their mean."""

    folder: Path
    pictures: dict[str, Scores]

    @property
    def mean(self) -> Scores:
        columns = [asdict(scores).values() for scores in self.pictures.values()]
        return Scores(*(float(np.mean(column)) for column in zip(*columns, strict=True)))


def bicubic_upscale(scale: int) -> Callable[[Pixels], Pixels]:
    """MATLAB's bicubic as an upscaler of batches: the baseline of every table."""

    def upscale(batch: Pixels) -> Pixels:
        _, height, width, _ = batch.shape
        return np.stack([bicubic.resize(lr, scale * height, scale * width) for lr in batch])

    return upscale


def evaluate_folder(upscale: Callable[[Pixels], Pixels], folder: Path, scale: int) -> Evaluation:
    """Score `upscale`, which maps [N, H, W, 3] to [N, sH, sW, 3], over a benchmark folder.

    HR pictures are cropped to `scale` times their LR's size, as the benchmarks' makers did.

    Raises:
        InputRefused: `folder` lacks `HR/` or `LRx{scale}/`, or they do not pair up.
    """
    pictures: dict[str, Scores] = {}
    for name, lr, hr in _pairs(folder, scale):
        sr = upscale(lr[None])[0]
        pictures[name] = Scores(
            metrics.psnr_y(sr, hr, scale),
            metrics.ssim_y(sr, hr, scale),
            metrics.psnr_rgb(sr, hr, scale),
            *metrics.color_shift(sr, hr, scale),
        )
    return Evaluation(folder, pictures)


def _pairs(folder: Path, scale: int) -> list[tuple[str, Pixels, Pixels]]:
    hr_folder, lr_folder = folder / "HR", folder / f"LRx{scale}"
    for needed in (hr_folder, lr_folder):
        if not needed.is_dir():
            raise InputRefused(f"{folder}: no folder {needed.name}/ in it; a benchmark has both")
    names = sorted(path.name for path in hr_folder.iterdir() if path.is_file())
    if not names:
        raise InputRefused(f"{hr_folder}: no picture in it")
    return [
        (name, *_fitted(_read(lr_folder / name), _read(hr_folder / name), scale, name))
        for name in names
    ]


def _fitted(lr: Pixels, hr: Pixels, scale: int, name: str) -> tuple[Pixels, Pixels]:
    height, width = scale * lr.shape[0], scale * lr.shape[1]
    if not (0 <= hr.shape[0] - height < scale and 0 <= hr.shape[1] - width < scale):
        raise InputRefused(
            f"{name}: HR is {hr.shape[1]}x{hr.shape[0]}, which is not {scale} times the LR's "
            f"{lr.shape[1]}x{lr.shape[0]}"
        )
    return lr, hr[:height, :width]


def _read(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputRefused(f"{path}: missing; every HR picture needs its LR") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputRefused(f"{path}: not a readable picture: {error}") from None
