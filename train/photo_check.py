"""What is wrong with a collection of photographs, before a training learns from it.

Nothing is changed or removed. `photo_files` decides what a training can read at all; this adds what
it would read but had better not: the same photograph twice, and JPEG damage. No torch is needed.
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
"""What a training would read all the same."""

NEAR_BITS = 4
"""Near duplicates are two whose hashes of 64 bits differ in no more. No two do of 534 photographs
of City100, BSDS500 and Debian's wallpapers. Of 134 of these, each does with itself at 5/9 of the
size, and 132 with themselves at quality 50. Empty skies are alike."""

MIN_JPEG_QUALITY = 75
"""libjpeg's default; below it, blocks show."""

MAX_BLOCKINESS = 0.2
"""Of 119 photographs of City100, BSDS500 and Debian's wallpapers none has more than 0.15. Halved
and saved by libjpeg, more than 0.2 have: 3 % at quality 90, 33 % at 75, 84 % at 50, 99 % at 30."""

_STANDARD_LUMA_SUM = 3688
"""Of ITU-T T.81, table K.1, which is quality 50."""


@dataclass(frozen=True)
class Finding:
    """One file and one thing wrong with it."""

    path: Path
    problem: Flaw | Doubt
    detail: str


@dataclass(frozen=True)
class PhotoCheck:
    """All that was found."""

    files: int
    usable: int
    """Photographs a training would read, doubtful ones included."""
    usable_megapixels: float
    clean: int
    """Photographs without a finding: what is left if every file named is removed."""
    clean_megapixels: float
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Findings by problem, every problem named."""
        found = Counter(finding.problem for finding in self.findings)
        return {problem: found[problem] for problem in (*get_args(Flaw), *get_args(Doubt))}


def check_photos(
    folders: list[Path],
    crop_px: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PhotoCheck:
    """Read everything below `folders`; of duplicates the first found is the clean one.

    Args:
        crop_px: side of the HR crops of the training, at least 16.
        on_progress: called with (done, in all), in files.

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
    """The same as plain data."""
    findings = [asdict(finding) | {"path": str(finding.path)} for finding in check.findings]
    return asdict(check) | {"findings": findings, "counts": check.counts}


def difference_hash(pixels: Pixels) -> np.uint64:
    """dHash: of 8 rows of 9 means of gray, whether each is darker than the next, a bit each.

    It survives scaling, compression and changes of brightness, but not flips, turns and cropping.
    """
    gray = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    means = np.asarray(gray)
    return np.packbits(means[:, :-1] < means[:, 1:]).view(np.uint64)[0]


def blockiness(pixels: Pixels) -> float:
    """How much the luma of uint8 [H, W, 3] jumps at every eighth pixel; 0 if not at all.

    A step is the difference of two neighbors, and a jump what it has over the mean of the steps
    before and after it. Jumps count relative to the mean step and one level more, below which
    nobody sees them. The grid may begin anywhere, since a damaged image may have been cropped:
    the most blocky of its eight places counts, and of both axes the mean. Sides are at least 16.
    """
    luma = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return (_jumps_along(luma) + _jumps_along(luma.T)) / 2


def jpeg_quality(path: Path) -> int | None:
    """libjpeg's quality for the tables in a JPEG file, 1 to 100; None for other files.

    From the sum of the luma table, of which the standard one is scaled by the quality. Encoders
    with tables of their own get the quality that is as coarse.
    """
    with Image.open(path) as image:
        tables: dict[int, list[int]] | None = getattr(image, "quantization", None)
    if not tables:
        return None
    percent = 100 * sum(tables[min(tables)]) / _STANDARD_LUMA_SUM
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return min(max(round(quality), 1), 100)


def _jpeg_damage(path: Path, pixels: Pixels) -> str:
    """What shows it, or nothing."""
    quality = jpeg_quality(path)
    if quality is not None and quality < MIN_JPEG_QUALITY:
        return f"saved at quality {quality}; at least {MIN_JPEG_QUALITY} is safe"
    blocks = blockiness(pixels)
    if blocks > MAX_BLOCKINESS:
        return f"blocks of 8x8 show: {blocks:.2f}, and {MAX_BLOCKINESS} is the limit"
    return ""


def _jumps_along(luma: npt.NDArray[np.floating]) -> float:
    """Along the first axis."""
    steps = np.abs(np.diff(luma, axis=0)).mean(axis=1)
    jumps = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    return max(float(jumps[place::8].mean()) for place in range(8)) / (1 + float(steps.mean()))


def _digest(pixels: Pixels) -> bytes:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
