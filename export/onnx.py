"""Export a checkpoint to the deployment ONNX.

The graph is `Deployment`, traced. Its input is uint8 [N, H, W, 3], its output uint8
[N, sH, sW, 3]; the value range, the clamp and the rounding are inside, so that every runtime
computes the same pixels. The last convolution of the paper's generator is in it as `fold_tail`
writes it, which is faster on every device.
"""

import contextlib
import dataclasses
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from srgan_edge.export.rewrites import in_bytes, in_floating_point, with_folded_tail
from srgan_edge.files import replace_when_whole
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.network import Deployment
from srgan_edge.model.onnx_file import read_onnx_spec
from srgan_edge.model.spec import METADATA_KEY, ModelSpec

OPSET = 18
MAX_SIDE_PX = 1 << 15


def onnx_from_checkpoint(checkpoint: Path, path: Path) -> ModelSpec:
    """Write the deployment ONNX of a `.safetensors` checkpoint to `path`; returns its spec.

    Raises:
        ModelRefused: the checkpoint is not one of ours, or damaged.
        OutputFailed: `path` cannot be written.
    """
    generator, spec = load_checkpoint(checkpoint)
    model = deployment_graph(generator, spec)
    with replace_when_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    assert read_onnx_spec(path) == spec
    return spec


def deployment_graph(generator: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """Return the deployment graph, checked by onnx, with only its spec in `metadata_props`."""
    if spec.quantized_from:
        plain = dataclasses.replace(spec, quantized_from="")
        graph = deployment_graph(in_floating_point(generator, spec), plain)
        return _with_spec(in_bytes(graph, generator), spec)
    return with_folded_tail(unfolded_graph(generator, spec))


def unfolded_graph(generator: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """Return the graph layer by layer: what `deployment_graph` of an unquantized model computes."""
    # Odd and unequal example sizes, so that the tracer does not mistake two of them for one.
    example = torch.zeros(2, 17, 19, 3, dtype=torch.uint8)
    return traced(Deployment(generator), example, {0: "n", 1: "h", 2: "w"}, spec)


def traced(
    module: nn.Module, example: torch.Tensor, sizes: dict[int, str], spec: ModelSpec
) -> onnx.ModelProto:
    """Return the graph of a module, checked by onnx, with only a spec in `metadata_props`.

    Args:
        example: an input; its size along the axes of `sizes` does not matter.
        sizes: names of the variable sizes, by axis.
    """
    free = {axis: torch.export.Dim(name, min=1, max=MAX_SIDE_PX) for axis, name in sizes.items()}
    # The tracer warns that operators of torchvision, which we do not use, are not installed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the tracer warns about its own code
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=(free,),
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_origin(model)
    return _with_spec(model, spec)


def _with_spec(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove the tracer's notes on every node: source lines and paths of this machine."""
    graph = model.graph
    del model.metadata_props[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    model.producer_name, model.producer_version = "srgan-edge", ""
