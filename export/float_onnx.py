"""The float form of the ONNX, for programs that prepare their own pixels.

float32 [N, 3, H, W] RGB in [0, 1], sRGB as stored, in; float32 [N, 3, 4H, 4W], clamped to [0, 1],
out; any N, H and W. Without the bytes at its ends the graph holds nothing but the network and a
Clip, which converters to other formats understand. srgan-edge itself runs the form of bytes.
"""

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from srgan_edge.atomic import replace_when_whole
from srgan_edge.checkpoint import load_checkpoint
from srgan_edge.errors import ModelRefused
from srgan_edge.export.onnx import traced
from srgan_edge.spec import ModelSpec


class FloatDeployment(nn.Module):
    """What the float form computes: the generator and the clamp.

    float32 (N, 3, H, W) in [0, 1] -> float32 (N, 3, 4H, 4W), clamped to [0, 1]. What `Deployment`
    adds to it is the way from bytes and back.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, lr: Tensor) -> Tensor:
        return self.generator(lr).clamp(0, 1)


def float_onnx_from_checkpoint(checkpoint: Path, path: Path) -> ModelSpec:
    """Write the float ONNX of a `.safetensors` checkpoint to `path`; returns its spec.

    Raises:
        ModelRefused: the checkpoint is not one of ours, damaged, or in INT8: where two runtimes
            round to another byte, their values are further apart than this form may be.
        OutputFailed: `path` cannot be written.
    """
    generator, spec = load_checkpoint(checkpoint)
    if spec.quantized_from:
        raise ModelRefused(
            f"{checkpoint} is in INT8, and --io float is for models in floating point; "
            f"type: srgan-edge export {spec.quantized_from} --onnx --io float"
        )
    model = float_graph(generator, spec)
    with replace_when_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return spec


def float_graph(generator: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """The float graph, checked by onnx, with its spec in `metadata_props` and nothing else."""
    example = torch.zeros(2, 3, 17, 19)  # odd and unequal, as for the deployment graph
    return traced(FloatDeployment(generator), example, {0: "n", 2: "h", 3: "w"}, spec)
