"""Judge the averaged weights of a run: scores on a benchmark, and images beside their originals."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from srgan_edge.engines.torch import TorchEngine
from srgan_edge.evaluation.evaluate import PIXEL_MEASURES, evaluate_folder
from srgan_edge.evaluation.systems import Pair, bicubic_upscale
from srgan_edge.pixels import Pixels
from srgan_edge.train import losses
from srgan_edge.train.batches import draw_crops
from srgan_edge.train.photos import PhotoPack
from srgan_edge.train.recipe import Phase, Recipe
from srgan_edge.train.vgg import VggFeatures

GRID_STEP = 1 << 40
"""A step that no run reaches; its crops are the images in the log."""


@dataclass(frozen=True)
class Validation:
    """A benchmark, and the measures that a recipe calls for."""

    folder: Path
    recipe: Recipe
    vgg: VggFeatures | None
    device: torch.device

    def scores(self, generator: nn.Module, phase: Phase) -> dict[str, float]:
        """Return the scores of a generator.

        `perceptual`, the recipe's own distance, is present only in a phase that lowers it.
        """
        with TorchEngine.from_generator(generator, self.recipe.model) as engine:
            return self._scores_of(engine.upscale, phase)

    def bicubic_scores(self, phase: Phase) -> dict[str, float]:
        """Return the scores of MATLAB's bicubic interpolation, the baseline."""
        return self._scores_of(bicubic_upscale(self.recipe.model.scale), phase)

    def _scores_of(self, upscale: Callable[[Pixels], Pixels], phase: Phase) -> dict[str, float]:
        measures = {name: PIXEL_MEASURES[name] for name in ("psnr_y", "ssim_y")}
        if phase.perceptual:
            measures["perceptual"] = self._perceptual_distance
        scale = self.recipe.model.scale
        return dict(evaluate_folder(upscale, self.folder, scale, measures).mean.values)

    @torch.inference_mode()
    def _perceptual_distance(self, sr: Pixels, pair: Pair) -> float:
        assert self.vgg is not None
        perceptual = self.recipe.perceptual
        both = torch.from_numpy(np.stack([sr, pair.hr])).to(self.device)
        features = [layer.chunk(2) for layer in self.vgg(both.permute(0, 3, 1, 2) / 255)]
        ours, real = ([layer[i] for layer in features] for i in (0, 1))
        return float(losses.perceptual(ours, real, perceptual.layer_weights, perceptual.distance))


def sample_grid(photos: PhotoPack, recipe: Recipe, generator: nn.Module) -> Pixels:
    """Return LR, bicubic, generator and HR side by side, for four fixed crops."""
    scale = recipe.model.scale
    crops = draw_crops(photos, recipe, recipe.data.seed, GRID_STEP, range(4))
    lr, hr = (c.permute(0, 2, 3, 1).cpu().numpy() for c in (crops.lr, crops.hr))
    with TorchEngine.from_generator(generator, recipe.model) as engine:
        sr = engine.upscale(lr)
    blocks = lr.repeat(scale, axis=1).repeat(scale, axis=2)
    rows = zip(blocks, bicubic_upscale(scale)(lr), sr, hr, strict=True)
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])
