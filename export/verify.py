"""Verify that an engine computes the same pixels as its checkpoint in PyTorch."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import srgan_edge
from srgan_edge import bicubic
from srgan_edge.engines import KINDS, Choice, EngineKind, open_engine
from srgan_edge.engines.base import Engine
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import ModelRefused
from srgan_edge.evaluation.evaluate import PIXEL_MEASURES, evaluate_folder
from srgan_edge.evaluation.metrics import psnr_y
from srgan_edge.evaluation.parity import Verdict, compare
from srgan_edge.evaluation.systems import benchmark_name
from srgan_edge.image.reader import read_pixels
from srgan_edge.model.library import ModelFiles
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler

PHOTO = Path(srgan_edge.__file__).parent / "demo" / "photo.png"

MOST_LOSS_DB = 5.0
"""Largest loss of PSNR-Y against bicubic interpolation. GANs lose 2 to 3 dB, wrong weights 10."""

LEAST_AT_X1_DB = 20.0
"""Least PSNR-Y between a clean photograph and what a restoration makes of it."""

_MANY_SEAMS = Tiling(tile=48, overlap="exact")
"""Tiling that is compared with the whole frame."""


def verify_engines(
    model: ModelFiles,
    against: Path,
    kinds: Sequence[EngineKind],
    benchmarks: Sequence[Path] = (),
    *,
    fp32: bool = False,
) -> Iterator[Verdict]:
    """Compare engines of a model with a checkpoint in PyTorch, in FP32, on the CPU.

    Args:
        against: the model's checkpoint; for an INT8 form, that of the model it was made from.
        benchmarks: benchmark folders, on which the loss of PSNR-Y is measured.
        fp32: forbid the engines any lower precision.

    Raises:
        InputRefused: a folder is not a benchmark.
        ModelRefused: the model has no file for one of the engines.
    """
    choices = [Choice(kind, model.file(kind.suffix), kind.devices[0], "verify") for kind in kinds]
    with TorchEngine(against) as reference:
        expected = _psnr_y(reference, reference.upscale, benchmarks)
        for choice in choices:
            with open_engine(choice, fp32=fp32) as candidate:
                fixed = candidate.info.fixed_shape
                tiled = _tiled(candidate)
                got = _psnr_y(candidate, tiled if fixed else candidate.upscale, benchmarks)
                batches = natural_batches() if fixed is None else [_photo_of(*fixed)]
                yield Verdict(
                    candidate.info,
                    compare(reference.upscale, candidate.upscale, batches),
                    None if fixed else compare(candidate.upscale, tiled, [_photo()]),
                    {name: expected[name] - got[name] for name in expected},
                )


def verify_onnx(checkpoint: Path, onnx: Path) -> Iterator[Verdict]:
    """Compare an ONNX with its checkpoint in every installed runtime, in FP32."""
    kinds = [kind for kind in KINDS.values() if kind.suffix == ".onnx" and kind.installed]
    model = ModelFiles(onnx.stem, {".onnx": onnx})
    return verify_engines(model, checkpoint, kinds, fp32=True)


def prove_onnx(checkpoint: Path, onnx: Path, say: Callable[[str], None]) -> None:
    """Refuse an ONNX that differs from its checkpoint in any installed runtime.

    Args:
        say: called with one line for the user for each runtime.

    Raises:
        ModelRefused: it misses a gate.
    """
    for verdict in verify_onnx(checkpoint, onnx):
        say(f"  {verdict.info.name} against torch fp32: {verdict.parity}")
        if verdict.refusals:
            found = "; ".join(verdict.refusals)
            raise ModelRefused(f"{checkpoint.stem} as ONNX in {verdict.info.name}: {found}")


def least_psnr_db(small: Pixels, original: Pixels) -> float:
    """Return the PSNR-Y that a network has to reach whose result from `small` is an image.

    Args:
        small: `original` reduced by the scale of the network; of the same size for a restoration.
    """
    if small.shape == original.shape:
        return LEAST_AT_X1_DB
    return psnr_y(bicubic.resize(small, *original.shape[:2]), original) - MOST_LOSS_DB


def natural_batches() -> Iterator[Pixels]:
    """Yield a photograph, and batches of three crops of odd and tiny sizes.

    They are never noise, on which activations, and errors with them, grow larger than on any image.
    """
    photo = _photo()
    yield photo
    for height, width in [(1, 1), (3, 2), (17, 31), (64, 63)]:
        crops = [photo[0, y : y + height, x : x + width] for y, x in [(0, 0), (21, 34), (40, 5)]]
        yield np.stack(crops)


def _photo() -> Pixels:
    """Return the photograph as uint8 [1, H, W, 3]."""
    return read_pixels(PHOTO)[None]


def _photo_of(frames: int, height: int, width: int) -> Pixels:
    """Return uint8 [N, H, W, 3]: the photograph resized to fit, each frame moved by a row."""
    side = height + frames - 1
    larger = bicubic.resize(_photo()[0], side, width)
    return np.stack([larger[frame : frame + height] for frame in range(frames)])


def _tiled(engine: Engine) -> Callable[[Pixels], Pixels]:
    tiling = Tiling(overlap="exact") if engine.info.fixed_shape else _MANY_SEAMS
    upscaler = FrameUpscaler(engine, tiling)
    return lambda batch: np.stack([upscaler.upscale(frame) for frame in batch])


def _psnr_y(
    engine: Engine, upscale: Callable[[Pixels], Pixels], benchmarks: Sequence[Path]
) -> dict[str, float]:
    measure = {"psnr_y": PIXEL_MEASURES["psnr_y"]}
    scale = engine.info.spec.scale
    scores = {}
    for folder in benchmarks:
        mean = evaluate_folder(upscale, folder, scale, measure).mean
        scores[benchmark_name(folder)] = mean.values["psnr_y"]
    return scores
