"""Proof that an exported model computes what its checkpoint computes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from srgan_edge.engines import KINDS, Choice, open_engine
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.image import read_picture
from srgan_edge.parity import Parity, compare
from srgan_edge.pixels import Pixels

PHOTO = Path(__file__).parent.parent / "srgan_edge" / "demo" / "photo.png"


def verify_onnx(checkpoint: Path, onnx: Path) -> Iterator[tuple[str, Parity]]:
    """Compare the ONNX in every installed runtime with the checkpoint in PyTorch, in FP32."""
    with TorchEngine(checkpoint) as reference:
        for kind in KINDS.values():
            if kind.suffix == ".onnx" and kind.installed:
                with open_engine(Choice(kind, onnx, "cpu", "verify"), fp32=True) as candidate:
                    parity = compare(reference.upscale, candidate.upscale, natural_batches())
                    yield candidate.info.name, parity


def natural_batches() -> Iterator[Pixels]:
    """Crops of a photograph of odd and tiny sizes, singly and by three.

    Never noise: on it activations grow to sizes that no picture gives them, and errors with them.
    """
    photo = read_picture(PHOTO).pixels
    yield photo[None]
    for height, width in [(1, 1), (3, 2), (17, 31), (64, 63)]:
        crops = [photo[y : y + height, x : x + width] for y, x in [(0, 0), (21, 34), (40, 5)]]
        yield np.stack(crops)
