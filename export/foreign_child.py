"""Run in a child process: read weights of another program, and make a float graph of their network.

The child may read that file and write into one folder, and nothing else. What it returns is not
trusted: the parent checks the graph, and compares its results with those of the network here.
"""

import contextlib
import io
import logging
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import spandrel
import torch
import torch.nn.functional as F
from spandrel.__helpers.canonicalize import canonicalize_state_dict
from torch import Tensor, nn

from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.export.convert import state_in
from srgan_edge.export.luma import Floats, enlarged_by_luma
from srgan_edge.export.prelu_srgan import register
from srgan_edge.export.wrapper import OPSET, Sizes
from srgan_edge.isolation.calls import serve as serve_calls
from srgan_edge.isolation.child import Parent
from srgan_edge.model.spec import MAX_SCALE

MAX_SIDE_PX = 1 << 12

MAX_NUMBER = 1000
"""Limit on the numbers in names of tensors: a network is made with as many layers."""

register()

NOISE_LEVEL = 15 / 255
"""The level of noise that spandrel states to denoisers."""

torch.cpu._is_avx512_bf16_supported()  # asks for the processor, which the sandbox hides later


@dataclass(frozen=True)
class Found:
    """The network in a file, as spandrel describes it."""

    architecture: str
    scale: int
    multiple: int
    least_px: int
    is_square: bool
    """It takes squares only, or has attention windows, whose graph is for one size."""
    is_luma: bool
    """It has one channel."""
    parameters: int
    taken: str
    """Keys in the file under which the weights lay, with dots between them."""
    others: tuple[str, ...]
    """Keys of other weights beside them."""


def serve(parent: Parent, _: object) -> None:
    """Serve the calls of `foreign.onnx_from_weights`."""
    kept: dict[str, _Network] = {}

    def open_weights(path: str, wanted: str, folder: str) -> Found:
        tempfile.tempdir = folder
        found, kept["network"] = _refusing(lambda: _opened(Path(path), wanted))
        return found

    def trace(target: str, multiple: int, least_px: int, window_px: int) -> str:
        sizes = Sizes(multiple, least_px, window_px)
        return _refusing(lambda: _traced(kept["network"], sizes, Path(target)))

    def answer(source: str, target: str, multiple: int, least_px: int, window_px: int) -> int:
        sizes = Sizes(multiple, least_px, window_px)
        batches = safetensors.torch.load(Path(source).read_bytes())
        network = kept["network"]
        results = _refusing(lambda: {n: network.upscale(it, sizes) for n, it in batches.items()})
        safetensors.torch.save_file(results, target)
        return len(results)

    serve_calls(parent, {"open": open_weights, "trace": trace, "answer": answer})


class _Network(nn.Module):
    """The float network: [N, C, H, W] in [0, 1] to [N, C, sH, sW], RGB or luma."""

    def __init__(self, descriptor: spandrel.ImageModelDescriptor) -> None:
        super().__init__()
        self.training = False
        self.network = _prepared(descriptor.model)
        self.scale = descriptor.scale
        self.channels = descriptor.input_channels
        takes_noise = type(self.network).__name__ == "DRUNet" or (
            getattr(self.network, "mode", "") == "FDnCNN"
        )
        self._call: Any = _with_noise_level if takes_noise else descriptor._call_fn

    def forward(self, lr: Tensor) -> Tensor:
        return self._call(self.network, lr)

    @torch.inference_mode()
    def upscale(self, batch: Tensor, sizes: Sizes) -> Tensor:
        """Upscale uint8 [N, H, W, 3] as the wrapped graph does."""
        made = []
        for pixels in batch.split(1):
            lr = pixels.permute(0, 3, 1, 2).float() * (1 / 255)
            height, width = lr.shape[2:]
            missing = [sizes.taken(side) - side for side in (width, height)]
            lr = F.pad(lr, (0, missing[0], 0, missing[1]), mode="replicate")
            sr = self._of_luma(lr) if self.channels == 1 else self(lr)
            sr = sr[..., : self.scale * height, : self.scale * width]
            made.append((sr.clamp(0, 1) * 255 + 0.5).permute(0, 2, 3, 1).to(torch.uint8))
        return torch.cat(made).contiguous()

    def _of_luma(self, lr: Tensor) -> Tensor:
        def network(luma: Floats) -> Floats:
            result: Floats = self(torch.from_numpy(luma)).numpy()
            return result

        return torch.from_numpy(enlarged_by_luma(network, lr.numpy(), self.scale))


def _with_noise_level(network: nn.Module, lr: Tensor) -> Tensor:
    """Call a denoiser that gets the noise level as a channel, as spandrel does, for any batch."""
    level = torch.full_like(lr[:, :1], NOISE_LEVEL)
    result: Tensor = network(torch.cat([lr, level], dim=1))
    return result


def _refusing(work: Any) -> Any:  # noqa: ANN401 - what `work` returns
    try:
        return work()
    except (MemoryError, UsageError, ModelRefused):
        raise  # the parent knows how much memory there was
    except Exception as error:
        said = " ".join(str(error).split())[:200]  # the first line of torch may only announce
        raise ModelRefused(f"{type(error).__name__}: {said}") from error


def _opened(path: Path, wanted: str) -> tuple[Found, _Network]:
    state, taken, others = state_in(path, wanted)
    numbered = max((int(it) for it in re.findall(r"\d{1,9}", " ".join(state))), default=0)
    if numbered > MAX_NUMBER:
        raise ModelRefused(f"a tensor has the number {numbered} in its name; at most {MAX_NUMBER}")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelRefused(f"{name[:80]} holds values that are not finite")
    state = {key: it.float() if it.is_floating_point() else it for key, it in state.items()}
    try:
        descriptor = spandrel.MAIN_REGISTRY.load(canonicalize_state_dict(state))
    except spandrel.UnsupportedModelError:
        raise ModelRefused(
            f"no architecture that spandrel {spandrel.__version__} knows has these "
            f"{len(state)} tensors, the first {next(iter(state), 'none')[:80]!r}"
        ) from None
    name = descriptor.architecture.name
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise ModelRefused(f"{name} needs a mask beside the image")
    if descriptor.purpose == "FaceSR":
        raise ModelRefused(f"{name} restores faces that are cut out and aligned, not images")
    channels: tuple[int, int] = (descriptor.input_channels, descriptor.output_channels)
    if channels[0] != channels[1] or channels[0] not in (1, 3):
        raise ModelRefused(
            f"{name} has {channels[0]} channels in and {channels[1]} out; possible: 3 of RGB, or "
            "1 of luma"
        )
    if not 1 <= descriptor.scale <= MAX_SCALE:
        raise ModelRefused(f"{name} enlarges {descriptor.scale} times; possible: 1 to {MAX_SCALE}")
    network = _Network(descriptor).requires_grad_(False)
    needed = descriptor.size_requirements
    attends = any(re.search("Attention|Swin|MSA$", type(it).__name__) for it in network.modules())
    parameters = sum(it.numel() for it in network.parameters())
    found = Found(
        name,
        descriptor.scale,
        needed.multiple_of,
        max(1, needed.minimum),
        is_square=needed.square or attends,
        is_luma=channels[0] == 1,
        parameters=parameters,
        taken=".".join(taken),
        others=tuple(others),
    )
    return found, network


def _prepared(network: nn.Module) -> nn.Module:
    """Give some networks the form in which they can be traced, with the same results."""
    network.eval()
    for part in network.modules():
        if type(part).__name__ == "PLKConv2d":
            part.train()  # joins channels instead of writing over some of them
        if type(part).__name__ == "MoELayer":  # SeemoRe
            part.training = True  # computes all experts instead of picking some by the image
        if hasattr(part, "update_params") and hasattr(part, "eval_conv"):  # SPAN
            span: Any = part
            span.update_params()
            span.update_params = _nothing
    torch.pixel_unshuffle = F.pixel_unshuffle = _unshuffled  # type: ignore[assignment]
    nn.PixelUnshuffle.forward = lambda self, input: _unshuffled(input, self.downscale_factor)  # type: ignore[method-assign]
    return network


def _nothing() -> None:
    return None


def _unshuffled(x: Tensor, downscale_factor: int) -> Tensor:
    """Return `pixel_unshuffle`, as a convolution: its reach and stride show in the graph."""
    channels, phases = x.shape[1], downscale_factor**2
    kernel = torch.eye(phases, dtype=x.dtype).view(phases, 1, downscale_factor, downscale_factor)
    return F.conv2d(x, kernel.repeat(channels, 1, 1, 1), stride=downscale_factor, groups=channels)


def _traced(network: _Network, sizes: Sizes, target: Path) -> str:
    """Write the float graph to `target`; return why that is impossible, or an empty text."""
    if sizes.window_px:
        example, free = torch.rand(1, network.channels, sizes.window_px, sizes.window_px), None
    else:
        step = sizes.multiple
        least = -(-sizes.least_px // step)
        height, width = (step * max(least, side // step + 1) for side in (17, 39))
        example = torch.rand(2, network.channels, height, width)
        most = MAX_SIDE_PX // step
        dims = [torch.export.Dim(name, min=least, max=most) for name in ("_h", "_w")]
        sides = [step * dim if step > 1 else dim for dim in dims]
        free = ({0: torch.export.Dim("n", min=1, max=64), 2: sides[0], 3: sides[1]},)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=free,
                verbose=False,
            )
    except MemoryError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter wraps what torch says in advice
            cause = cause.__cause__
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return (lines or [type(cause).__name__])[0][:200]
    assert program is not None
    target.write_bytes(program.model_proto.SerializeToString())
    return ""
