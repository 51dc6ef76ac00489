"""Make realistic test sets out of clean benchmarks: JPEG, H.264 and noise.

    python benchmarks/real_sets.py ../shared/data/benchmarks/Set14 -o /tmp/real
    srgan-edge eval /tmp/real/Set14-jpeg40 --bicubic -n edge-x4

Each is a folder with `HR/`, linked, and `LRx4/`. JPEG is the benchmark's own LR saved in 4:2:0; a
video is a pan over the photograph, one LR pixel down and two to the right in each of 10 frames, of
which the sixth is taken; noise is normal, of sigma 10 levels, the same in every run.
"""

import argparse
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from srgan_edge.evaluation.systems import Pair, benchmark_name, read_pairs
from srgan_edge.pixels import Pixels
from srgan_edge.train.sources import jpeg_coded, pan_over, video_coded

SCALE = 4


def by_jpeg(pair: Pair, quality: int) -> Pixels:
    return jpeg_coded(pair.lr, quality)


def by_h264(pair: Pair, crf: int) -> Pixels:
    clip = pan_over(pair.hr, SCALE, frames=10, middle=5, motion=(SCALE, 2 * SCALE))
    return video_coded(clip, "libx264", {"crf": str(crf), "preset": "medium"})[5]


def by_noise(pair: Pair, sigma: int) -> Pixels:
    random = np.random.default_rng(zlib.crc32(pair.name.encode()))
    noisy = pair.lr + sigma * random.standard_normal(pair.lr.shape)
    return np.floor(noisy + 0.5).clip(0, 255).astype(np.uint8)


SETS: dict[str, Callable[[Pair], Pixels]] = {
    **{f"jpeg{quality}": partial(by_jpeg, quality=quality) for quality in (30, 40, 75, 92)},
    **{f"h264-{crf}": partial(by_h264, crf=crf) for crf in (23, 28, 30, 33)},
    "noise10": partial(by_noise, sigma=10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Test sets of JPEG, H.264 and noise.")
    parser.add_argument("benchmarks", type=Path, nargs="+", help="folders with HR/ and LRx4/")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", default=",".join(SETS), help="names with commas between them")
    arguments = parser.parse_args()
    if unknown := set(arguments.only.split(",")) - set(SETS):
        parser.error(f"no set {', '.join(sorted(unknown))}; possible: {', '.join(SETS)}")
    for benchmark in arguments.benchmarks:
        for name in arguments.only.split(","):
            folder = arguments.output / f"{benchmark_name(benchmark)}-{name}"
            (folder / f"LRx{SCALE}").mkdir(parents=True, exist_ok=True)
            (folder / "HR").unlink(missing_ok=True)
            (folder / "HR").symlink_to((benchmark / "HR").resolve(), target_is_directory=True)
            for pair in read_pairs(benchmark, SCALE):
                Image.fromarray(SETS[name](pair)).save(folder / f"LRx{SCALE}" / pair.name)
            print(folder)


if __name__ == "__main__":
    main()
