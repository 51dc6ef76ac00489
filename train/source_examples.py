"""Write examples of the sources that a recipe trains on, for inspection and tests."""

from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from srgan_edge.errors import InputRefused, OutputFailed, UsageError
from srgan_edge.files import folder_made, refuse_replacing, replace_when_whole
from srgan_edge.train.photo_files import photo_paths, read_photo
from srgan_edge.train.recipe import Recipe
from srgan_edge.train.sources import source_of

MOST_VARIANTS = 1000
"""All names are checked before the first image is made."""


def write_examples(
    places: list[Path], folder: Path, recipe: Recipe, variants: int, *, overwrite: bool = False
) -> list[Path]:
    """Write `variants` sources of each photograph as NAME-1.png and so on; returns the files.

    A variant depends on the recipe, its seed, and the photograph's position among all.

    Args:
        places: photographs, or folders of them.
        folder: made if missing.
        overwrite: replace examples that exist, or appear in the meantime.

    Raises:
        InputRefused: nothing there, or no photograph.
        OutputFailed: the folder cannot be written.
        UsageError: fewer variants than one or more than `MOST_VARIANTS`, two photographs of one
            name, or an example is a photograph, or exists and may not be replaced.
    """
    if not 1 <= variants <= MOST_VARIANTS:
        raise UsageError(f"--variants {variants}; possible: 1 to {MOST_VARIANTS}")
    paths: list[Path] = []
    for place in places:
        paths += photo_paths(place) if place.is_dir() else [place]
    if not paths:
        raise InputRefused(f"{places[0]}: no photograph in it")
    first_of: dict[str, Path] = {}
    for path in paths:
        if (other := first_of.setdefault(path.stem, path)) is not path:
            raise UsageError(f"{other} and {path} would both become {path.stem}-1.png; rename one")
    names = {
        path: [f"{path.stem}-{number + 1}.png" for number in range(variants)] for path in paths
    }
    for name in chain.from_iterable(names.values()):
        refuse_replacing(folder / name, paths, overwrite=overwrite, makes_folder=True)
    scale, written = recipe.model.scale, []

    def failed(error: OSError) -> OutputFailed:
        return OutputFailed(f"cannot make {folder}: {error.strerror}; name another with -o")

    with folder_made(folder, failed):
        for number, path in enumerate(paths):
            photograph = read_photo(path, scale * 8)
            height, width = (side // scale * scale for side in photograph.shape[:2])
            for variant, name in enumerate(names[path]):
                random = np.random.default_rng((recipe.data.seed, number, variant))
                hr = photograph[:height, :width]
                small = source_of(hr, random, scale=scale, sources=recipe.sources)
                written.append(folder / name)
                with replace_when_whole(written[-1], overwrite=overwrite) as partial:
                    Image.fromarray(small).save(partial, "PNG")
    return written
