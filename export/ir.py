"""Export to OpenVINO IR, for its C++ API and OpenVINO Model Server.

srgan-edge itself loads the ONNX into OpenVINO, after checking it. The pixels are the same.
"""

from collections.abc import Callable
from pathlib import Path

import openvino

from srgan_edge.engines.openvino import shared_core
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import ModelRefused, OutputFailed
from srgan_edge.evaluation.parity import Parity, compare, gate_of
from srgan_edge.export.onnx import deployment_graph
from srgan_edge.export.verify import natural_batches
from srgan_edge.files import replace_when_whole
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.spec import METADATA_KEY
from srgan_edge.pixels import Pixels


def ir_from_checkpoint(checkpoint: Path, path: Path, *, overwrite: bool = True) -> Parity:
    """Write the IR of a `.safetensors` checkpoint; returns the parity of OpenVINO with PyTorch.

    Weights stay in FP32, or in INT8; on a CPU with BF16 the runtime nevertheless computes in BF16
    unless `INFERENCE_PRECISION_HINT=f32` is set, as here. The spec is stored in `rt_info`.

    Args:
        path: path of the `.xml`; the weights go into the `.bin` beside it.
        overwrite: replace files that appear there in the meantime.

    Raises:
        ModelRefused: the checkpoint is not one of ours, or its IR misses the gate; nothing is kept.
        OutputFailed: the files cannot be written.
    """
    generator, spec = load_checkpoint(checkpoint)
    graph = deployment_graph(generator, spec).SerializeToString(deterministic=True)
    model = shared_core().read_model(graph)
    model.set_rt_info(spec.to_json(), METADATA_KEY.split("."))
    with (
        replace_when_whole(path, overwrite=overwrite) as xml,
        replace_when_whole(weights_path(path), overwrite=overwrite) as weights,
    ):
        try:
            openvino.save_model(model, xml, compress_to_fp16=False)
        except RuntimeError as error:  # whatever the disk said is lost
            weights_path(xml).unlink(missing_ok=True)
            raise OutputFailed(f"{path}: OpenVINO could not write it; is the disk full?") from error
        weights_path(xml).replace(weights)
        with TorchEngine.from_generator(generator, spec) as reference:
            parity = compare(reference.upscale, _upscaler(xml, weights), natural_batches())
        if refusals := gate_of(spec, "fp32").refusals(parity):
            raise ModelRefused(f"the IR of {spec.name} misses its gate: {'; '.join(refusals)}")
    return parity


def weights_path(path: Path) -> Path:
    return path.with_suffix(".bin")


def _upscaler(xml: Path, weights: Path) -> Callable[[Pixels], Pixels]:
    model = shared_core().read_model(xml, weights)
    compiled = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: compiled(batch)[0]
