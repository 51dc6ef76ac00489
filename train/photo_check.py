"""Find the flaws in a collection of photographs before training on it.

Nothing is changed or removed. `photo_files` decides which files a training can read at all; this
module adds files that it can read but should not: duplicates and JPEG damage. It needs no torch.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from srgan_edge.errors import InputRefused
from srgan_edge.pixels import Pixels
from srgan_edge.train.photo_files import Flaw, UnusablePhoto, photo_paths, read_photo

Doubt: TypeAlias = Literal["duplicate", "near duplicate", "JPEG damage"]
"""A problem of a file that a training would read nevertheless."""

NEAR_BITS = 4
"""Largest difference between the 64-bit hashes of near duplicates. None of 534 different
photographs of City100, BSDS500 and Debian's wallpapers come this close. Of 134 of these, all match
themselves at 5/9 of the size, and 132 at quality 50. Empty skies match one another."""

MIN_JPEG_QUALITY = 75
"""libjpeg's default; below it, blocks show."""

MAX_BLOCKINESS = 0.2
"""Highest `blockiness` of a clean photograph. None of 119 photographs of City100, BSDS500 and
Debian's wallpapers exceeds 0.15. Halved and saved by libjpeg, 3 % exceed 0.2 at quality 90, 33 % at
75, 84 % at 50 and 99 % at 30."""

_STANDARD_LUMA_SUM = 3688
"""Sum of ITU-T T.81, table K.1, which is quality 50."""


@dataclass(frozen=True)
class Finding:
    """One file and one problem with it."""

    path: Path
    problem: Flaw | Doubt
    detail: str


@dataclass(frozen=True)
class PhotoCheck:
    """The result of a check."""

    files: int
    usable: int
    """Number of photographs that a training would read, doubtful ones included."""
    usable_megapixels: float
    clean: int
    """Number of photographs without a finding, which remain if every file named is removed."""
    clean_megapixels: float
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings for every possible problem."""
        found = Counter(finding.problem for finding in self.findings)
        return {problem: found[problem] for problem in (*get_args(Flaw), *get_args(Doubt))}


def check_photos(
    folders: list[Path],
    crop_px: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PhotoCheck:
    """Read everything below `folders`; the first of several duplicates counts as clean.

    Args:
        crop_px: side of the HR crops of the training, at least 16.
        on_progress: called with (files done, files in total).

    Raises:
        InputRefused: a folder is missing, or no photograph is usable.
    """
    paths = [path for folder in folders for path in photo_paths(folder)]
    findings: list[Finding] = []
    usable_px: list[int] = []
    clean_px: list[int] = []
    first_by_pixels: dict[bytes, Path] = {}
    kept: list[Path] = []
    hashes = np.empty(len(paths), np.uint64)
    for done, path in enumerate(paths):
        on_progress(done, len(paths))
        try:
            pixels = read_photo(path, crop_px)
        except UnusablePhoto as unusable:
            findings.append(Finding(path, unusable.flaw, unusable.reason))
            continue
        area_px = pixels.shape[0] * pixels.shape[1]
        usable_px.append(area_px)
        before = len(findings)
        digest = _digest(pixels)
        if digest in first_by_pixels:
            detail = f"same pixels as {first_by_pixels[digest]}"
            findings.append(Finding(path, "duplicate", detail))
        else:
            first_by_pixels[digest] = path
            here = difference_hash(pixels)
            apart = np.bitwise_count(hashes[: len(kept)] ^ here)
            if len(kept) and apart.min() <= NEAR_BITS:
                detail = f"{apart.min()} of 64 bits from {kept[int(apart.argmin())]}"
                findings.append(Finding(path, "near duplicate", detail))
            hashes[len(kept)] = here
            kept.append(path)
        if damage := _jpeg_damage(path, pixels):
            findings.append(Finding(path, "JPEG damage", damage))
        if len(findings) == before:
            clean_px.append(area_px)
    on_progress(len(paths), len(paths))
    if not usable_px:
        named = ", ".join(map(str, folders))
        raise InputRefused(
            f"no usable photograph of at least {crop_px}x{crop_px} in {named}; "
            f"{len(findings)} files left out"
            + (f", the first because: {findings[0].detail}" if findings else "")
        )
    return PhotoCheck(
        files=len(paths),
        usable=len(usable_px),
        usable_megapixels=sum(usable_px) / 1e6,
        clean=len(clean_px),
        clean_megapixels=sum(clean_px) / 1e6,
        findings=tuple(findings),
    )


def check_record(check: PhotoCheck) -> dict[str, Any]:
    """Return the check as plain data for JSON."""
    findings = [asdict(finding) | {"path": str(finding.path)} for finding in check.findings]
    return asdict(check) | {"findings": findings, "counts": check.counts}


def difference_hash(pixels: Pixels) -> np.uint64:
    """Return the dHash: in 8 rows of 9 gray means, a bit for each that is darker than the next.

    It survives scaling, compression and changes of brightness, but not flips, turns and cropping.
    """
    gray = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    means = np.asarray(gray)
    return np.packbits(means[:, :-1] < means[:, 1:]).view(np.uint64)[0]


def blockiness(pixels: Pixels) -> float:
    """Return how much the luma of uint8 [H, W, 3] jumps at every eighth pixel; 0 if not at all.

    A step is the difference of two neighbors; a jump is its excess over the mean of the steps
    before and after it. Jumps are relative to the mean step plus one level, below which they are
    invisible. The grid may begin anywhere, since a damaged image may have been cropped: the most
    blocky of its eight offsets counts. The result is the mean of both axes. Sides are at least 16.
    """
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return (_jumps_along(luma) + _jumps_along(luma.T)) / 2


def jpeg_quality(path: Path) -> int | None:
    """Return libjpeg's quality for the tables in a JPEG file, 1 to 100; None for other files.

    It follows from the sum of the luma table, because the quality scales the standard table. For
    encoders with other tables it is the quality that is equally coarse.
    """
    with Image.open(path) as image:
        tables: dict[int, list[int]] | None = getattr(image, "quantization", None)
    if not tables:
        return None
    percent = 100 * sum(tables[min(tables)]) / _STANDARD_LUMA_SUM
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return min(max(round(quality), 1), 100)


def _jpeg_damage(path: Path, pixels: Pixels) -> str:
    """Return the evidence of damage, or an empty string."""
    quality = jpeg_quality(path)
    if quality is not None and quality < MIN_JPEG_QUALITY:
        return f"saved at quality {quality}; at least {MIN_JPEG_QUALITY} is safe"
    blocks = blockiness(pixels)
    if blocks > MAX_BLOCKINESS:
        return f"blocks of 8x8 show: {blocks:.2f}; at most {MAX_BLOCKINESS} is clean"
    return ""


def _jumps_along(luma: npt.NDArray[np.floating]) -> float:
    """Return the `blockiness` along the first axis."""
    steps = np.abs(np.diff(luma, axis=0)).mean(axis=1)
    jumps = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    return max(float(jumps[place::8].mean()) for place in range(8)) / (1 + float(steps.mean()))


def _digest(pixels: Pixels) -> bytes:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
