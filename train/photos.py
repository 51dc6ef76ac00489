"""All photographs of a training, packed into flat pixel arrays, and the crops cut out of them.

Decoding is done once: `PhotoPack.open` leaves the pixels in a cache folder, where a later run maps
them into memory without reading a photograph.

    photos.json         which photographs, where in the arrays, what was left out and why
    hr.u8, lr.u8        one photograph's pixels after the other's, RGB
    teacher-NAME.u8     what a teacher made of lr.u8, in the places of hr.u8
    sources-NAME.u8     each photograph's LR in several variants, as people may have it

`packing` writes the first three, `derived` the others. Which files are photographs is
`photo_files`'s business, how a crop is gathered `windows`'s, what degrades it `degradation`'s.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srgan_edge.errors import OutputFailed, UsageError
from srgan_edge.pixels import Pixels
from srgan_edge.train.packing import KEY_BYTES, OnProgress, listing_key, pack_photos
from srgan_edge.train.photo_files import photo_paths
from srgan_edge.train.windows import Numbers, Windows, gather

_VARIANTS_STREAM = 2
"""Keeps the draws of variants apart from those that place the crops, and from `degradation`'s."""


@dataclass(frozen=True)
class Photo:
    """One photograph, or a reduced copy of one, and its place in the arrays."""

    path: Path
    height_px: int
    """Height of the HR; a multiple of the scale."""
    width_px: int
    """Width of the HR; a multiple of the scale."""
    offset_px: int
    """Index of its first pixel in `hr`; in `lr`, this over the scale squared."""
    reduced: float
    """Size relative to the file's own; 1.0 as it is."""


@dataclass(frozen=True)
class Crops:
    """Crops of one step, on the pack's device; a place in one is the same place in the others."""

    lr: Tensor
    """uint8 [B, 3, c, c], RGB; strided as [B, c, c, 3], which is channels_last."""
    hr: Tensor
    """uint8 [B, 3, sc, sc], RGB, strided like `lr`."""
    teacher: Tensor | None
    """The teacher's SR, like `hr`; None if the pack has none."""


@dataclass(frozen=True, eq=False)
class PhotoPack:
    """The photographs of some folders as flat arrays; made by `open`."""

    photos: tuple[Photo, ...]
    left_out: tuple[str, ...]
    """Files that cannot serve, as `path: reason`."""
    crop_px: int
    """Side of an HR crop."""
    scale: int
    key: str
    """SHA-256, in hex, of scale, sizes and HR pixels: the same photographs, wherever they lie."""
    cache: Path
    hr: Tensor
    """uint8 [P, 3]. On the CPU it maps the file and must not be written to; so do the others."""
    lr: Tensor
    """uint8 [P / scale², 3]"""
    teacher: Tensor | None = None
    """uint8 [P, 3], SR in the places of the HR; see `derived.add_teacher`."""
    sources: Tensor | None = None
    """uint8 [variants * P / scale², 3], one photograph's variants of `lr` after the other's; see
    `derived.add_sources`."""
    variants: int = 1
    """Number of variants of each photograph in `sources`."""

    @classmethod
    def open(
        cls,
        folders: list[Path],
        cache: Path,
        *,
        crop_px: int,
        scale: int,
        reduced: tuple[float, ...] = (),
        on_progress: OnProgress = lambda done, total: None,
    ) -> Self:
        """Map the pack of all photographs below `folders`; pack them first if `cache` has none.

        A pack is used again while every file has the path below its folder, the size and the
        modification time it was packed with, and the arguments agree. Packing holds one photograph
        at a time in memory.

        The LR is made once, from the whole photograph, by the benchmarks' exact bicubic
        interpolation, so a crop of it equals the benchmark's. Reducing each crop separately would
        introduce edges that the photograph does not have, and cost as much at every step.

        Args:
            cache: folder for the arrays, 3.2 bytes a pixel at scale 4; made if missing.
            crop_px: side of an HR crop, a multiple of `scale`; smaller photographs are left out.
            reduced: in (0, 1): each photograph also enters reduced by these factors, by the exact
                bicubic, while it stays as large as a crop.

        Raises:
            InputRefused: a folder is missing, or no photograph is usable.
            OutputFailed: the cache cannot be written.
            UsageError: `crop_px` or `reduced` is out of range.
        """
        _refuse_geometry(crop_px, scale, reduced)
        files = [(folder, path) for folder in folders for path in photo_paths(folder)]
        made_of = listing_key(files, crop_px, scale, reduced)
        found = cls._map(cache, folders, made_of, crop_px, scale)
        if found is None:
            pack_photos(folders, files, cache, made_of, crop_px, scale, reduced, on_progress)
            found = cls._map(cache, folders, made_of, crop_px, scale)
        if found is None:
            raise OutputFailed(
                f"{cache}: was rewritten by another run at the same time; give each its own cache"
            )
        return found

    @classmethod
    def _map(
        cls, cache: Path, folders: list[Path], made_of: str, crop_px: int, scale: int
    ) -> Self | None:
        """The pack in `cache` if it is whole and was made of this, else None."""
        try:
            index = json.loads((cache / "photos.json").read_bytes())
            if index["made_of"] != made_of:
                return None
            key = bytes.fromhex(index["key"])
            photos: list[Photo] = []
            pixels = 0
            for number, name, height, width, reduced in index["photos"]:
                photos.append(Photo(folders[number] / name, height, width, pixels, reduced))
                pixels += height * width
            left_out = tuple(
                f"{folders[number] / name}: {reason}" for number, name, reason in index["left_out"]
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        hr = map_array(cache / "hr.u8", key, pixels)
        lr = map_array(cache / "lr.u8", key, pixels // scale**2)
        if hr is None or lr is None:
            return None
        return cls(tuple(photos), left_out, crop_px, scale, key.hex(), cache, hr, lr)

    @property
    def megapixels(self) -> float:
        """Size of the HR in megapixels, reduced copies included."""
        return len(self.hr) / 1e6

    @property
    def bytes(self) -> int:
        """Memory that `to` needs on a device, in bytes."""
        arrays = (self.hr, self.lr, self.teacher, self.sources)
        return sum(array.numel() for array in arrays if array is not None)

    def to(self, device: torch.device | str) -> "PhotoPack":
        """The pack with its arrays on `device`; itself if they are there."""
        teacher, sources = (
            None if array is None else array.to(device) for array in (self.teacher, self.sources)
        )
        hr, lr = self.hr.to(device), self.lr.to(device)
        return replace(self, hr=hr, lr=lr, teacher=teacher, sources=sources)

    def crops(
        self,
        seed: int,
        step: int,
        indices: Sequence[int],
        *,
        margin_px: int = 0,
        candidates: int = 1,
    ) -> Crops:
        """The crops that have these numbers in the batch of this step.

        Each is a function of (seed, step, index) alone: ranks that take disjoint parts of a batch,
        and a run resumed at this step, see what one uninterrupted process sees. Every pixel of
        every photograph is equally likely, and so is each of the eight flips and quarter turns.

        Args:
            candidates: so many are drawn for each crop, and the one whose LR is busiest is taken:
                skies and blurred backgrounds teach little.
            margin_px: this much more around the HR crop, and its part around the LR; a multiple of
                the scale. Beyond a photograph's border its edge is replicated.
        """
        assert margin_px % self.scale == 0, f"margin {margin_px} is no multiple of the scale"
        drawn = np.random.default_rng((seed, step)).random((max(indices) + 1, candidates, 4))
        side = self.crop_px // self.scale
        windows = self._windows(drawn[np.asarray(indices)].reshape(-1, 4))
        if candidates > 1:
            lr = gather([self.lr], windows, side, 0)[0]
            windows = windows[busiest(lr, candidates).cpu().numpy()]
        low = self.lr if self.sources is None else self.sources
        places = self._of_sources(windows, seed, step, indices)
        lr = gather([low], places, side, margin_px // self.scale)[0]
        high = [self.hr] if self.teacher is None else [self.hr, self.teacher]
        hr, *teacher = gather(high, windows.times(self.scale), self.crop_px, margin_px)
        return Crops(lr, hr, teacher[0] if teacher else None)

    def _windows(self, drawn: npt.NDArray[np.float64]) -> Windows:
        """Windows in `lr` from [B, 4] numbers in [0, 1): which photograph, where, which turn."""
        pick, down, across, turns = drawn.T
        number = np.searchsorted(self.lr_ends, pick * self.lr_ends[-1], side="right")
        height, width, offset = self.lr_geometry[:, number]
        side = self.crop_px // self.scale
        return Windows(
            offset=offset,
            height=height,
            width=width,
            top=(down * (height - side + 1)).astype(np.int64),
            left=(across * (width - side + 1)).astype(np.int64),
            turn=(turns * 8).astype(np.int64),
        )

    def _of_sources(
        self, windows: Windows, seed: int, step: int, indices: Sequence[int]
    ) -> Windows:
        """The same windows in one of the variants each, where `sources` has them."""
        if self.sources is None:
            return windows
        variant = variants_of(self.variants, seed, step, indices)
        offset = self.variants * windows.offset + variant * windows.height * windows.width
        return replace(windows, offset=offset)

    @cached_property
    def lr_geometry(self) -> Numbers:
        """int64 [3, photos]: height, width and offset in `lr`."""
        area = self.scale**2
        rows = [
            (photo.height_px // self.scale, photo.width_px // self.scale, photo.offset_px // area)
            for photo in self.photos
        ]
        return np.array(rows, np.int64).T

    @cached_property
    def lr_ends(self) -> Numbers:
        """int64 [photos]: pixels of `lr` up to the end of each."""
        height, width, offset = self.lr_geometry
        return offset + height * width

    def hr_of(self, photo: Photo) -> Pixels:
        """Return uint8 [H, W, 3]."""
        shape = (photo.height_px, photo.width_px, 3)
        pixels = photo.height_px * photo.width_px
        return self.hr[photo.offset_px : photo.offset_px + pixels].view(shape).cpu().numpy()

    def lr_of(self, photo: Photo) -> Pixels:
        """Return uint8 [H / scale, W / scale, 3]."""
        height, width = photo.height_px // self.scale, photo.width_px // self.scale
        start = photo.offset_px // self.scale**2
        return self.lr[start : start + height * width].view(height, width, 3).cpu().numpy()


def variants_of(variants: int, seed: int, step: int, indices: Sequence[int]) -> Numbers:
    """int64 [B]: the number of the variant from which each crop of a step takes its LR."""
    random = np.random.default_rng((seed, step, _VARIANTS_STREAM))
    return random.integers(variants, size=max(indices) + 1)[np.asarray(indices)]


def _refuse_geometry(crop_px: int, scale: int, reduced: tuple[float, ...]) -> None:
    if crop_px <= 0 or crop_px % scale:
        raise UsageError(f"a crop of {crop_px} px; possible: multiples of the scale, {scale}")
    for factor in reduced:
        if not 0 < factor < 1:
            raise UsageError(f"reduced by {factor}; possible: between 0 and 1, neither included")


def busiest(lr: Tensor, candidates: int) -> Tensor:
    """Return int64 [B]: the number of the first of the busiest of each `candidates` crops in a row.

    Busy is what has most between neighbors, counted in whole levels, so that every machine takes
    the same.

    Args:
        lr: uint8 [B * candidates, 3, c, c].
    """
    levels = lr.to(torch.int16)
    steps = [levels[..., 1:] - levels[..., :-1], levels[:, :, 1:] - levels[:, :, :-1]]
    busy = torch.stack([step.abs().sum((1, 2, 3), dtype=torch.int64) for step in steps]).sum(0)
    last = candidates - 1 - torch.arange(candidates, device=lr.device)
    # A maximum that names its place: `argmax` may return any of several on a GPU.
    best = candidates - 1 - (busy.view(-1, candidates) * candidates + last).amax(1) % candidates
    return candidates * torch.arange(len(best), device=lr.device) + best


def map_array(path: Path, key: bytes, pixels: int) -> Tensor | None:
    """Return uint8 [pixels, 3] of a file that begins with `key` and has that length, or None."""
    try:
        with path.open("rb") as file:
            if file.read(KEY_BYTES) != key or path.stat().st_size != KEY_BYTES + 3 * pixels:
                return None
            mapped = np.memmap(file, np.uint8, "r", KEY_BYTES, (pixels, 3))
    except (OSError, ValueError):
        return None
    with warnings.catch_warnings():
        # Torch has no read-only tensors and warns. A mapping that can be written to would count
        # as memory, and be refused where the photographs are larger than that.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(mapped)
