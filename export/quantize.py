"""Convert a model to INT8 without training: scales are measured on images."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import InputRefused, ModelRefused, printable
from srgan_edge.evaluation.parity import GATES, Parity, compare
from srgan_edge.export.verify import natural_batches
from srgan_edge.files import files_below
from srgan_edge.image.reader import read_pixels
from srgan_edge.image.writer import IMAGE_SUFFIXES
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint
from srgan_edge.model.network import generator_from_spec
from srgan_edge.model.quantization import quantized_state
from srgan_edge.model.spec import ModelSpec

WINDOW_PX = 256
"""Side of the window taken from the middle of each image."""


def quantize_checkpoint(
    source: Path, folders: Sequence[Path], path: Path, *, overwrite: bool = True
) -> Parity:
    """Write the INT8 form of a checkpoint; returns its parity with the original in FP32.

    Args:
        folders: folders of images like those to be upscaled, searched recursively.
        overwrite: replace a file that appears at `path` in the meantime.

    Raises:
        InputRefused: no images, or one that cannot be read.
        ModelRefused: the checkpoint is already in INT8, has batch normalization, or its INT8 form
            is too far from it.
        OutputFailed: `path` cannot be written.
    """
    generator, spec = load_checkpoint(source)
    images = list(_images_below(folders))
    quantized_spec = _spec_of(spec, printable(path.stem), len(images))
    quantized = generator_from_spec(quantized_spec).eval()
    quantized.load_state_dict(quantized_state(generator, map(_middle_of, images)))
    with (
        TorchEngine.from_generator(generator, spec) as original,
        TorchEngine.from_generator(quantized, quantized_spec) as candidate,
    ):
        parity = compare(original.upscale, candidate.upscale, natural_batches())
    if refusals := GATES["int8"].refusals(parity):
        raise ModelRefused(
            f"{spec.name} in INT8 is too far from FP32: {'; '.join(refusals)}; name images like "
            "those to be upscaled, or train it: srgan-edge train --recipe edge-int8"
        )
    save_checkpoint(path, quantized, quantized_spec, overwrite=overwrite)
    return parity


def _spec_of(spec: ModelSpec, name: str, images: int) -> ModelSpec:
    if spec.quantized_from:
        raise ModelRefused(f"{spec.name} is the INT8 form of {spec.quantized_from} already")
    training = spec.training and dataclasses.replace(
        spec.training,
        recipe=f"{spec.training.recipe}, in INT8 with the scales of {images} images",
        scores={},
    )
    return dataclasses.replace(spec, name=name, quantized_from=spec.name, training=training)


def _images_below(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        found = [
            path for path in sorted(files_below(folder)) if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not found:
            raise InputRefused(f"{folder}: no image in it or below it")
        yield from found


def _middle_of(path: Path) -> Tensor:
    """Return float [1, 3, h, w] in [0, 1], h and w at most `WINDOW_PX`."""
    pixels = read_pixels(path)
    top, left = (max(0, side - WINDOW_PX) // 2 for side in pixels.shape[:2])
    window = pixels[top : top + WINDOW_PX, left : left + WINDOW_PX]
    return torch.tensor(window).permute(2, 0, 1)[None] / 255
