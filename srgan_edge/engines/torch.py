"""PyTorch: the reference engine. The others are measured against it."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn

from srgan_edge.checkpoint import load_checkpoint
from srgan_edge.engines.base import EngineInfo
from srgan_edge.model import Deployment
from srgan_edge.pixels import Pixels
from srgan_edge.spec import ModelSpec


class TorchEngine:
    """`Deployment` as it stands: float32 on the CPU or a GPU."""

    def __init__(
        self, path: Path, device: str = "cpu", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.safetensors` checkpoint onto `device` (`cpu`, `cuda`, `cuda:1`).

        FP32 and one slot in any case: the reference need not be fast.
        """
        generator, spec = load_checkpoint(path)
        self._set_up(generator.to(device), spec)

    @classmethod
    def from_generator(cls, generator: nn.Module, spec: ModelSpec) -> Self:
        """An engine around a generator in memory, on the device it is on; it is not copied."""
        engine = cls.__new__(cls)
        engine._set_up(generator, spec)
        return engine

    def _set_up(self, generator: nn.Module, spec: ModelSpec) -> None:
        self._network = Deployment(generator)
        self._device = next(generator.parameters()).device
        self.info = EngineInfo(f"torch {torch.__version__}", str(self._device), "fp32", spec)

    @torch.inference_mode()
    def upscale(self, batch: Pixels) -> Pixels:
        pixels = torch.from_numpy(np.require(batch, requirements="W")).to(self._device)
        # Left alone, cuDNN computes float32 convolutions in TF32, which is not what `info` says.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            result: Pixels = self._network(pixels).contiguous().cpu().numpy()
        return result

    def close(self) -> None:
        del self._network

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
