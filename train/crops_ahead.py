"""Crops of several steps at once, drawn where the photographs lie, so that no step waits for them.

`PhotoPack.crops` is the specification, and computes places on the CPU: a GPU waits for these, and
the CPU for the GPU that judges candidates. Here a block of steps costs one copy of random numbers,
which nobody waits for, and as many launches as a single step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from srgan_edge.train.photos import Crops, PhotoPack, busiest, variants_of

PIXELS_AHEAD = 1 << 24
"""HR pixels of a block; with the numbers of their places, 11 bytes each."""
MOST_STEPS_AHEAD = 16


@dataclass(frozen=True)
class _Windows:
    """`windows.Windows` as tensors, int64 [N] each, for places inside of images."""

    offset: Tensor
    height: Tensor
    width: Tensor
    top: Tensor
    left: Tensor
    turn: Tensor

    def __getitem__(self, chosen: Tensor) -> "_Windows":
        return _Windows(*(tensor[chosen] for tensor in vars(self).values()))

    def times(self, scale: int) -> "_Windows":
        lengths = (self.height, self.width, self.top, self.left)
        height, width, top, left = (scale * length for length in lengths)
        return _Windows(scale**2 * self.offset, height, width, top, left, self.turn)


class CropsAhead:
    """Draws what `pack.crops` draws, on the pack's device, for a block of steps."""

    def __init__(self, pack: PhotoPack, candidates: int) -> None:
        """Draw the busiest of so many candidates, as `PhotoPack.crops` does."""
        self._pack, self._candidates = pack, candidates
        self._device = pack.hr.device
        height, width, offset = torch.from_numpy(pack.lr_geometry).to(self._device)
        self._geometry = torch.stack([height, width, offset])
        self._ends = torch.from_numpy(pack.lr_ends).to(self._device, torch.float64)
        self._of: tuple[int, tuple[int, ...]] | None = None
        self._first = 0
        self._block: list[Crops] = []

    def at(self, seed: int, step: int, indices: Sequence[int]) -> Crops:
        """Return `pack.crops(seed, step, indices)`; steps are best asked for in order."""
        wanted = (seed, tuple(indices))
        place = step - self._first
        if self._of != wanted or not 0 <= place < len(self._block):
            pixels = len(indices) * self._pack.crop_px**2
            steps = max(1, min(MOST_STEPS_AHEAD, PIXELS_AHEAD // pixels))
            self._block = []  # its memory is needed for the next
            self._block = self._drawn(seed, range(step, step + steps), indices)
            self._of, self._first, place = wanted, step, 0
        return self._block[place]

    def _drawn(self, seed: int, steps: range, indices: Sequence[int]) -> list[Crops]:
        pack, side, batch = self._pack, self._pack.crop_px // self._pack.scale, len(indices)
        shape = (max(indices) + 1, self._candidates, 4)
        chosen = np.asarray(indices)
        drawn = [np.random.default_rng((seed, step)).random(shape)[chosen] for step in steps]
        windows = self._windows(self._there(np.stack(drawn).reshape(-1, 4)), side)
        if self._candidates > 1:
            (lr,) = _gather([pack.lr], windows, side)
            windows = windows[busiest(lr, self._candidates)]
        low, places = pack.lr, windows
        if pack.sources is not None:
            drawn = [variants_of(pack.variants, seed, step, indices) for step in steps]
            variant = self._there(np.concatenate(drawn))
            area = windows.height * windows.width
            places = _Windows(
                **vars(windows) | {"offset": pack.variants * windows.offset + variant * area}
            )
            low = pack.sources
        (lr,) = _gather([low], places, side)
        high = [pack.hr] if pack.teacher is None else [pack.hr, pack.teacher]
        hr, *teacher = _gather(high, windows.times(pack.scale), pack.crop_px)
        taught = teacher[0].split(batch) if teacher else [None] * len(steps)
        blocks = zip(lr.split(batch), hr.split(batch), taught, strict=True)
        return [Crops(*block) for block in blocks]

    def _there(self, numbers: np.ndarray) -> Tensor:
        """Return the numbers on the device, of which nobody waits for the copy."""
        here = torch.from_numpy(numbers)
        if self._device.type != "cuda":
            return here.to(self._device)
        return here.pin_memory().to(self._device, non_blocking=True)

    def _windows(self, drawn: Tensor, side: int) -> _Windows:
        pick, down, across, turns = drawn.T.contiguous()
        number = torch.searchsorted(self._ends, pick * self._ends[-1], right=True)
        height, width, offset = self._geometry[:, number]
        return _Windows(
            offset=offset,
            height=height,
            width=width,
            top=(down * (height - side + 1)).long(),
            left=(across * (width - side + 1)).long(),
            turn=(turns * 8).long(),
        )


def _gather(arrays: list[Tensor], windows: _Windows, side: int) -> list[Tensor]:
    """`windows.gather` without a margin, uint8 [N, 3, side, side] of each array."""
    inside = torch.arange(side, device=windows.turn.device)
    turn = windows.turn[:, None]
    exchanged = (turn & 4) > 0
    index = windows.offset[:, None, None]
    for reversed_by, runs_across, axis in ((2, exchanged, 2), (1, ~exchanged, 1)):
        place = torch.where((turn & reversed_by) > 0, side - 1 - inside, inside)
        place = place + torch.where(runs_across, windows.left[:, None], windows.top[:, None])
        stride = torch.where(runs_across, 1, windows.width[:, None])
        index = index + (place * stride).unsqueeze(axis)
    shape = (*index.shape, 3)
    pixels = (array.index_select(0, index.flatten()).view(shape) for array in arrays)
    return [batch.permute(0, 3, 1, 2) for batch in pixels]
