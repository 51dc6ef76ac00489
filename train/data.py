"""Photographs in, batches of (LR, HR) crops out.

Every photograph is decoded once, and its LR made once by the exact benchmark bicubic
(`srgan_edge.bicubic`). A batch is a pure function of (seed, step): resuming at step N sees what an
uninterrupted run sees.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from srgan_edge import bicubic
from srgan_edge.errors import InputRefused
from srgan_edge.image import SUFFIXES
from srgan_edge.pixels import Pixels


@dataclass(frozen=True)
class Photo:
    """One photograph, cropped to a multiple of the scale, and its LR."""

    path: Path
    hr: Pixels
    """uint8 [H, W, 3]"""
    lr: Pixels
    """uint8 [H / scale, W / scale, 3]"""


class PhotoSet:
    """All photographs of some folders, in memory, and the batches cut from them."""

    def __init__(self, folders: list[Path], crop_px: int, scale: int) -> None:
        """Read every image below `folders`.

        Files that cannot be read or are smaller than a crop are left out, counted and named in
        `left_out`.

        Raises:
            InputRefused: a folder is missing, or nothing usable is in it.
        """
        self.crop_px, self.scale = crop_px, scale
        self.photos: list[Photo] = []
        self.left_out: list[str] = []
        for path in _image_paths(folders):
            try:
                self.photos.append(self._read(path))
            except (OSError, ValueError, Image.DecompressionBombWarning) as error:
                self.left_out.append(f"{path}: {error}")
        if not self.photos:
            raise InputRefused(
                f"no usable photograph of at least {crop_px}x{crop_px} in "
                f"{', '.join(map(str, folders))}; {len(self.left_out)} files left out"
            )
        pixels = np.array([photo.lr.shape[0] * photo.lr.shape[1] for photo in self.photos])
        self._share = pixels / pixels.sum()  # every pixel equally likely, whatever its photo's size

    @property
    def megapixels(self) -> float:
        return sum(photo.hr.shape[0] * photo.hr.shape[1] for photo in self.photos) / 1e6

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The crops of one step: LR uint8 [size, 3, c, c] and HR uint8 [size, 3, sc, sc]."""
        random = np.random.default_rng((seed, step))
        side = self.crop_px // self.scale
        lr = np.empty((size, side, side, 3), np.uint8)
        hr = np.empty((size, self.crop_px, self.crop_px, 3), np.uint8)
        for i, number in enumerate(random.choice(len(self.photos), size, p=self._share)):
            photo = self.photos[number]
            y = random.integers(photo.lr.shape[0] - side + 1)
            x = random.integers(photo.lr.shape[1] - side + 1)
            turn = int(random.integers(8))
            lr[i] = _dihedral(photo.lr[y : y + side, x : x + side], turn)
            y, x, high_side = y * self.scale, x * self.scale, self.crop_px
            hr[i] = _dihedral(photo.hr[y : y + high_side, x : x + high_side], turn)
        return torch.from_numpy(lr).permute(0, 3, 1, 2), torch.from_numpy(hr).permute(0, 3, 1, 2)

    def _read(self, path: Path) -> Photo:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                hr = np.asarray(image.convert("RGB"))
        height, width = (side // self.scale for side in hr.shape[:2])
        if min(height, width) * self.scale < self.crop_px:
            raise ValueError(f"{hr.shape[1]}x{hr.shape[0]} is smaller than a crop")
        hr = np.ascontiguousarray(hr[: height * self.scale, : width * self.scale])
        return Photo(path, hr, bicubic.resize(hr, height, width))


def _image_paths(folders: list[Path]) -> list[Path]:
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputRefused(f"{folder}: no such folder of photographs")
        paths += sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return paths


def _dihedral(crop: Pixels, turn: int) -> Pixels:
    """One of the eight flips and quarter turns of a square; `turn` in [0, 8)."""
    if turn & 4:
        crop = crop.transpose(1, 0, 2)
    if turn & 2:
        crop = crop[::-1]
    if turn & 1:
        crop = crop[:, ::-1]
    return crop
