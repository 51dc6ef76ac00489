"""Images and folders that the tests of the command line work with."""

import numpy as np
from PIL import Image

from srgan_edge.bicubic import resize
from srgan_edge.model.library import find_model

EDGE = str(find_model("edge-x4").file(".onnx"))


def photo(width=52, height=40):
    coarse = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    return resize(coarse, height, width)


def save(path, width=52, height=40, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(width, height)).save(path, **options)
    return path


def snapshot(folder):
    """Every file's name and content; a FIFO has none."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
