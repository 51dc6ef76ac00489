"""The crops of a step, as the networks accept them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srgan_edge.train.crops_ahead import CropsAhead
from srgan_edge.train.degradation import real_crops
from srgan_edge.train.photos import Crops, PhotoPack
from srgan_edge.train.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """Crops as the networks accept them: float32, RGB in [0, 1], channels last."""

    lr: Tensor
    """[N, 3, c, c]"""
    hr: Tensor
    """[N, 3, scale * c, scale * c]"""
    taught: Tensor | None
    """Crops of the teacher's results for whole photographs, like `hr`; None without a teacher."""


def draw_crops(
    photos: PhotoPack, recipe: Recipe, seed: int, step: int, indices: Sequence[int]
) -> Crops:
    """Return the crops of one step, degraded as the recipe demands."""
    if recipe.data.degradation == "real":
        return real_crops(
            photos, recipe.degradation, seed, step, indices, candidates=recipe.data.candidates
        )
    return photos.crops(seed, step, indices, candidates=recipe.data.candidates)


def crops_ahead(photos: PhotoPack, recipe: Recipe) -> CropsAhead | None:
    """Return what draws the crops on a GPU that has the photographs, else None.

    Degradation of crops needs margins, which it lacks.
    """
    if not photos.hr.is_cuda or recipe.data.degradation == "real":
        return None
    return CropsAhead(photos, recipe.data.candidates)


def batch_of(crops: Crops, device: torch.device) -> Batch:
    """Return the crops on the device, ready for the networks."""

    def ready(pixels: Tensor) -> Tensor:
        on_device = pixels.to(device, non_blocking=True)
        return on_device.to(torch.float32, memory_format=torch.channels_last) / 255

    return Batch(
        ready(crops.lr), ready(crops.hr), None if crops.teacher is None else ready(crops.teacher)
    )
