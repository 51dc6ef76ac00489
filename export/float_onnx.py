"""The float form of the ONNX, for programs that prepare their own pixels, and its verification.

Its input is float32 [N, 3, H, W], RGB in [0, 1], sRGB as stored; its output float32 [N, 3, 4H, 4W],
clamped to [0, 1]; any N, H and W. Without bytes at its ends the graph contains only the network and
a Clip, which converters to other formats understand. srgan-edge itself runs the form of bytes.
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from srgan_edge.errors import ModelRefused, quoted
from srgan_edge.export.onnx import traced
from srgan_edge.export.rewrites import with_folded_tail
from srgan_edge.export.verify import natural_batches
from srgan_edge.files import replace_when_whole
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.spec import ModelSpec
from srgan_edge.pixels import Pixels

MAX_DIFFERENCE = 1e-4
"""Largest difference of values in [0, 1]: a fortieth of a level of 255. Another order of addition
costs the deepest generator less than a tenth of that."""

Floats: TypeAlias = npt.NDArray[np.float32]
"""float32, RGB in [0, 1], sRGB as stored: [N, 3, H, W]."""

Run: TypeAlias = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Runtime:
    """A float ONNX, loaded in one runtime."""

    name: str
    """Name and version."""
    run: Run


@dataclass(frozen=True)
class FloatParity:
    """The difference between one runtime and PyTorch."""

    runtime: str
    """Name and version."""
    max_difference: float
    """Largest difference of values in [0, 1], on natural images, including odd and tiny ones."""

    def __str__(self) -> str:
        return f"{self.runtime} against torch fp32: max {self.max_difference:.1e} of 1"


class FloatDeployment(nn.Module):
    """The module that the float form computes: the generator and the clamp.

    float32 (N, 3, H, W) in [0, 1] -> float32 (N, 3, sH, sW), clamped to [0, 1]. `Deployment` adds
    the conversions from and to bytes.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, lr: Tensor) -> Tensor:
        return self.generator(lr).clamp(0, 1)


def float_onnx_from_checkpoint(
    checkpoint: Path, path: Path, typed: str = "--onnx --io float"
) -> ModelSpec:
    """Write the float ONNX of a `.safetensors` checkpoint to `path`; returns its spec.

    Args:
        typed: options that ask for this form, for errors.

    Raises:
        ModelRefused: the checkpoint is not one of ours, damaged, or in INT8: where two runtimes
            round to different bytes, they differ by more than this form allows.
        OutputFailed: `path` cannot be written.
    """
    generator, spec = load_checkpoint(checkpoint)
    if spec.quantized_from:
        raise ModelRefused(
            f"{checkpoint} is in INT8, and {typed} is for models in floating point; "
            f"type: srgan-edge export {quoted(spec.quantized_from)} {typed}"
        )
    model = float_graph(generator, spec)
    with replace_when_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return spec


def float_graph(generator: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """Return the float graph, checked by onnx, with only its spec in `metadata_props`."""
    example = torch.zeros(2, 3, 17, 19)  # odd and unequal, as for the deployment graph
    graph = traced(FloatDeployment(generator), example, {0: "n", 2: "h", 3: "w"}, spec)
    return with_folded_tail(graph)


def prove_float_onnx(checkpoint: Path, onnx: Path, say: Callable[[str], None]) -> None:
    """Compare a float ONNX with its checkpoint in every runtime that is installed, in FP32.

    Args:
        say: called with one line for the user for each runtime.

    Raises:
        ModelRefused: a runtime is further off than MAX_DIFFERENCE.
    """
    for parity in float_parities(checkpoint, onnx):
        say(f"  {parity}")
        if not parity.max_difference <= MAX_DIFFERENCE:  # NaN is no pass
            raise ModelRefused(
                f"{checkpoint.stem} as ONNX in {parity.runtime}: max {parity.max_difference:.1e} "
                f"where {MAX_DIFFERENCE:g} is allowed"
            )


def float_parities(checkpoint: Path, onnx: Path) -> Iterator[FloatParity]:
    """Compare a float ONNX with its checkpoint in each runtime that is installed."""
    reference = torch_reference(checkpoint)
    for name, load in RUNTIMES.items():
        if importlib.util.find_spec(name) is not None:
            runtime = load(onnx)
            difference = max_difference(reference, runtime.run, natural_batches())
            yield FloatParity(runtime.name, difference)


def max_difference(reference: Run, candidate: Run, batches: Iterable[Pixels]) -> float:
    """Return the largest difference on batches uint8 [N, H, W, 3], in units of the value range."""
    differences = []
    for batch in batches:
        values = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)
        values /= 255
        expected, got = reference(values), candidate(values)
        assert got.shape == expected.shape, f"{got.shape} is not {expected.shape}"
        differences.append(np.abs(got - expected).max())
    return float(np.max(differences))


def torch_reference(checkpoint: Path) -> Run:
    """Load the checkpoint in PyTorch: FP32, on the CPU, clamped."""
    generator, _ = load_checkpoint(checkpoint)
    module = FloatDeployment(generator).eval()

    @torch.inference_mode()
    def run(batch: Floats) -> Floats:
        result: Floats = module(torch.from_numpy(batch)).numpy()
        return result

    return run


def load_openvino(onnx: Path) -> Runtime:
    """Load the graph in OpenVINO on the CPU in FP32; its default is BF16 where available."""
    import openvino

    from srgan_edge.engines.openvino import shared_core

    compiled = shared_core().compile_model(onnx, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    version = openvino.__version__.split("-")[0]
    return Runtime(f"openvino {version}", lambda batch: compiled(batch)[0])


def load_onnxruntime(onnx: Path) -> Runtime:
    """Load the graph in ONNX Runtime on the CPU in FP32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    name = f"onnxruntime {onnxruntime.__version__}"
    return Runtime(name, lambda batch: session.run(None, {"input": batch})[0])


RUNTIMES: dict[str, Callable[[Path], Runtime]] = {
    "openvino": load_openvino,
    "onnxruntime": load_onnxruntime,
}
"""Loaders by the name of the runtime's module."""
