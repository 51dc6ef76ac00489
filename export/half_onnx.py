"""The deployment ONNX in FP16, for runtimes on a GPU that compute what a graph says."""

from collections.abc import Callable
from pathlib import Path

from srgan_edge.atomic import replace_when_whole
from srgan_edge.checkpoint import load_checkpoint
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import ModelRefused
from srgan_edge.export.onnx import deployment_graph
from srgan_edge.export.precision import in_half
from srgan_edge.export.reference import TypedReference
from srgan_edge.export.rewrites import rewritten
from srgan_edge.export.totals import with_totals
from srgan_edge.export.verify import natural_batches
from srgan_edge.onnx_file import read_onnx
from srgan_edge.parity import compare, gate_of


def half_onnx_from_checkpoint(checkpoint: Path, path: Path, say: Callable[[str], None]) -> None:
    """Write the ONNX in FP16 of a `.safetensors` checkpoint to `path`, rewritten as for engines.

    What is compared with PyTorch in FP32 is the graph, computed to the letter.

    Args:
        say: takes one line for the user.

    Raises:
        ModelRefused: the checkpoint is not one of ours, or misses the gate; nothing is written.
        OutputFailed: `path` cannot be written.
    """
    generator, spec = load_checkpoint(checkpoint)
    half = in_half(rewritten(deployment_graph(generator, spec)), "fp16")
    with TorchEngine.from_generator(generator, spec) as reference:
        parity = compare(reference.upscale, TypedReference(half).upscale, natural_batches())
    say(f"  fp16 graph against torch fp32: {parity}")
    if refusals := gate_of(spec, "fp16").refusals(parity):
        raise ModelRefused(f"{spec.name} in fp16 is too far from fp32: {'; '.join(refusals)}")
    with replace_when_whole(path) as temporary:
        temporary.write_bytes(with_totals(half).SerializeToString(deterministic=True))
    assert read_onnx(path).precision == "fp16"
