"""SRGAN generators that activate the end of their trunk, as the weights of leftthomas/SRGAN do.

Our own generator has a batch normalization or nothing there, so that such weights do not become a
checkpoint. spandrel does not know them either: they are registered with it here. Modules have the
names of that program, which are those of the tensors.
"""

import re
from typing import Any

import torch
from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor
from torch import Tensor, nn

_STAGE = 2
"""Enlargement of each sub-pixel stage."""


def register() -> None:
    """Let spandrel recognize such weights; to be called once in a process."""
    MAIN_REGISTRY.add(ArchSupport.from_architecture(_PReluSRGANArch()))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        more: Tensor = self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return x + more


class _Stage(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * _STAGE**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(_STAGE)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        enlarged: Tensor = self.prelu(self.pixel_shuffle(self.conv(x)))
        return enlarged


class PReluSRGAN(nn.Module):
    """float32 (N, 3, H, W) in [0, 1] -> float32 (N, 3, sH, sW) in [0, 1]."""

    def __init__(self, channels: int, blocks: int, stages: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.block1 = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        for number in range(blocks):
            self.add_module(f"block{number + 2}", _Residual(channels))
        end = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.PReLU())
        self.add_module(f"block{blocks + 2}", end)
        last = nn.Conv2d(channels, 3, 9, padding=4)
        tail = nn.Sequential(*(_Stage(channels) for _ in range(stages)), last)
        self.add_module(f"block{blocks + 3}", tail)

    def forward(self, lr: Tensor) -> Tensor:
        first = features = self.block1(lr)
        for number in range(2, self.blocks + 3):
            features = self.get_submodule(f"block{number}")(features)
        tail = self.get_submodule(f"block{self.blocks + 3}")
        sr: Tensor = (torch.tanh(tail(first + features)) + 1) / 2
        return sr


class _PReluSRGANArch(Architecture[PReluSRGAN]):  # type: ignore[misc] # spandrel has no types here
    def __init__(self) -> None:
        super().__init__(id="PReluSRGAN", name="SRGAN with PReLU", detect=_is_one)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[PReluSRGAN]:
        last = _last_block(state_dict)
        stages = sum(key.startswith(f"block{last}.") for key in state_dict if "conv.weight" in key)
        network = PReluSRGAN(state_dict["block1.0.weight"].shape[0], last - 3, stages)
        return ImageModelDescriptor(
            network,
            state_dict,
            architecture=self,
            purpose="SR",
            tags=[],
            supports_half=False,
            supports_bfloat16=True,
            scale=_STAGE**stages,
            input_channels=3,
            output_channels=3,
        )


def _last_block(state: dict[str, Any]) -> int:
    numbers = [re.match(r"block(\d{1,3})\.", key) for key in state]
    return max((int(it[1]) for it in numbers if it), default=0)


def _is_one(state: dict[str, Any]) -> bool:
    last = _last_block(state)
    needed = {"block1.0.weight", "block2.conv1.weight", f"block{last}.0.conv.weight"}
    end = f"block{last - 1}.1."
    return needed <= state.keys() and [key for key in state if key.startswith(end)] == [
        f"{end}weight"
    ]
