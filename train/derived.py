"""Arrays that are computed once from all photographs of a pack, and kept in its cache.

A teacher's SR stands in the places of the HR; variants of the LR, as people may have it, in those
of the LR. The name of each file tells what made it, so that a later run uses it again.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from srgan_edge.errors import UsageError
from srgan_edge.files import output_failed, replace_when_whole, sync
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import plan_tiles, upscale_tiled
from srgan_edge.train.packing import KEY_BYTES, OnProgress
from srgan_edge.train.photos import PhotoPack, map_array

TEACHER_TILE_PX = 256
"""Core of a teacher's tile in LR pixels; smaller photographs go through it whole."""


def add_teacher(
    pack: PhotoPack,
    upscale: Callable[[Pixels], Pixels],
    name: str,
    *,
    halo_px: int,
    on_progress: OnProgress = lambda done, total: None,
) -> PhotoPack:
    """Return the pack with a teacher's SR of every LR, computed now unless the cache has it.

    Args:
        upscale: uint8 [1, h, w, 3] to uint8 [1, sh, sw, 3]; gets photographs larger than
            `TEACHER_TILE_PX` in tiles.
        name: letters, digits, `.`, `_` and `-`. It must tell teachers apart: the SR of one
            called the same, of the same photographs, is used again.
        halo_px: around a tile, in LR pixels; from the teacher's receptive radius on there are
            no seams.

    Raises:
        UsageError: `name` has other characters.
        OutputFailed: the cache cannot be written.
    """
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise UsageError(f"teacher {name!r}; possible: letters, digits, '.', '_' and '-'")
    path = pack.cache / f"teacher-{name}.u8"
    key = hashlib.sha256(f"{pack.key} {name}".encode()).digest()
    found = map_array(path, key, len(pack.hr))
    if found is None:
        with replace_when_whole(path) as partial, partial.open("wb") as file:
            file.write(key)
            for done, photo in enumerate(pack.photos):
                on_progress(done, len(pack.photos))
                frame = pack.lr_of(photo)
                plan = plan_tiles(frame.shape[1], frame.shape[0], TEACHER_TILE_PX, halo_px)
                sr = upscale_tiled(upscale, frame, plan, pack.scale, batch=1)
                wanted = (photo.height_px, photo.width_px, 3)
                assert sr.shape == wanted, f"SR {sr.shape} of HR {wanted}"
                file.write(sr.tobytes())
        found = map_array(path, key, len(pack.hr))
        on_progress(len(pack.photos), len(pack.photos))
    assert found is not None, f"{path} was whole a moment ago"
    return replace(pack, teacher=found.to(pack.hr.device))


def add_sources(
    pack: PhotoPack,
    source_of: Callable[[Pixels, np.random.Generator], Pixels],
    name: str,
    variants: int,
    seed: int,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> PhotoPack:
    """Return the pack with variants of every LR, for crops to be taken from; made unless cached.

    A variant is a function of (seed, number of the photograph, number of the variant). What a
    run that was stopped had made is used by the next one, whole photographs at a time.

    Args:
        source_of: uint8 [H, W, 3] to uint8 [H / scale, W / scale, 3].
        name: letters, digits, `.`, `_` and `-`; it must tell apart what differs otherwise.

    Raises:
        OutputFailed: the cache cannot be written.
    """
    path = pack.cache / f"sources-{name}.u8"
    key = hashlib.sha256(f"{pack.key} {name} {variants} {seed}".encode()).digest()
    pixels = variants * len(pack.lr)
    found = map_array(path, key, pixels)
    if found is None:
        partial = path.with_suffix(".partial")
        try:
            _make_sources(pack, partial, key, source_of, variants, seed, on_progress)
            sync(partial)
            partial.replace(path)
        except OSError as error:
            raise output_failed(path, error) from error
        found = map_array(path, key, pixels)
        on_progress(len(pack.photos), len(pack.photos))
    assert found is not None, f"{path} was whole a moment ago"
    return replace(pack, sources=found.to(pack.hr.device), variants=variants)


def _make_sources(
    pack: PhotoPack,
    partial: Path,
    key: bytes,
    source_of: Callable[[Pixels, np.random.Generator], Pixels],
    variants: int,
    seed: int,
    on_progress: OnProgress,
) -> None:
    """Append what is missing in `partial`, photograph by photograph."""
    partial.touch()
    with partial.open("r+b") as file:
        if file.read(KEY_BYTES) != key:
            file.truncate(0)
            file.seek(0)
            file.write(key)
        made = file.seek(0, os.SEEK_END) - KEY_BYTES
        for done, photo in enumerate(pack.photos):
            on_progress(done, len(pack.photos))
            start = 3 * variants * photo.offset_px // pack.scale**2
            size = 3 * variants * photo.height_px * photo.width_px // pack.scale**2
            if start + size <= made:
                continue
            hr = pack.hr_of(photo)
            drawn = [np.random.default_rng((seed, done, v)) for v in range(variants)]
            content = np.stack([source_of(hr, random) for random in drawn]).tobytes()
            assert len(content) == size, f"{len(content)} bytes of sources, not {size}"
            file.seek(KEY_BYTES + start)
            file.write(content)
