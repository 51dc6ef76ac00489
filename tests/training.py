"""Helpers for tests of training: photographs, a benchmark, a VGG and recipes, all tiny."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from srgan_edge import bicubic
from srgan_edge.train.recipe import Recipe

TINY = [
    "model.channels=4",
    "model.blocks=1",
    "data.crop_px=32",
    "data.batch=2",
    "data.reduced=[]",
    "run.precision=fp32",
    "run.log_every_steps=2",
    "run.validate_every_steps=4",
    "run.checkpoint_every_steps=4",
]
TINY_GAN = [
    *TINY,
    "pixel.steps=6",
    "adversarial.steps=6",
    "adversarial.discriminator_channels=4",
    'perceptual.layers=["conv1_1", "conv3_2"]',
    "perceptual.layer_weights=[0.1, 1.0]",
]


def tiny_recipe(name: str, *overrides: str) -> Recipe:
    """A shipped recipe made small enough for a test."""
    recipe = Recipe.load(name)
    return Recipe.load(name, [*(TINY_GAN if recipe.adversarial.steps else TINY), *overrides])


def natural(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return uint8 [H, W, 3], smooth like most photographs, but not uniform."""
    return bicubic.resize(random.integers(0, 256, (9, 9, 3), np.uint8), height, width)


def write_photos(folder: Path) -> Path:
    """Write three photographs of odd sizes, one that is too small, and one that is no image."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    for name, height, width in [("a", 67, 90), ("b", 40, 33), ("c", 100, 41), ("small", 30, 90)]:
        Image.fromarray(natural(random, height, width)).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    return folder


def write_benchmark(folder: Path) -> Path:
    """Write one pair of 64 and 16 pixels."""
    hr = natural(np.random.default_rng(6), 64, 64)
    for name, image in [("HR", hr), ("LRx4", bicubic.resize(hr, 16, 16))]:
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / "x.png")
    return folder


def write_vgg(path: Path) -> Path:
    """Write the convolutions of a VGG11, four maps wide, with torchvision's keys."""
    torch.manual_seed(3)
    state, width = {}, 3
    for number in (0, 3, 6, 8, 11, 13, 16, 18):
        layer = torch.nn.Conv2d(width, 4, 3, padding=1)
        state[f"features.{number}.weight"] = layer.weight.detach().clone()
        state[f"features.{number}.bias"] = layer.bias.detach().clone()
        width = 4
    save_file(state, path)
    return path
