"""Which architectures of spandrel `srgan-edge convert` takes: the table of docs/models.md.

Each is made with random weights and, where its parameters have the usual names, small. Those that
take longer than 30 s to make, or longer than the limit to convert, are said to.

    python benchmarks/architectures.py --seconds 120 --only ESRGAN,SPAN
"""

import argparse
import importlib
import inspect
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import spandrel
import torch
from torch import nn

from srgan_edge.errors import SrganEdgeError
from srgan_edge.export import foreign
from srgan_edge.export.foreign import Origin, deployment_of

INSTANTIATION_SECONDS = 30

SMALL: dict[str, Any] = {
    **dict.fromkeys(("num_in_ch", "in_chans", "in_nc", "num_in", "in_channels", "img_channel"), 3),
    **dict.fromkeys(("num_out_ch", "out_nc", "num_out", "out_channels"), 3),
    **dict.fromkeys(("upscale", "up_scale", "scale", "upscaling_factor", "upscale_factor"), 2),
    **dict.fromkeys(("num_blocks", "n_blocks", "n_block", "block_num", "num_block", "num_conv"), 1),
    **dict.fromkeys(("num_filters", "num_feat", "feature_channels"), 16),
    **{"depths": (2,), "num_heads": (2,), "embed_dim": 16, "upsampler": "pixelshuffle"},
}
"""Values of parameters by their usual names, tried before an architecture's own defaults."""


OPTIONS: dict[str, dict[str, Any]] = {
    "ESRGAN": {"num_filters": 16, "num_blocks": 1, "scale": 4},
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 2},
    "SwinIR": {
        **{"img_size": 16, "embed_dim": 12, "depths": (2,), "num_heads": (2,), "window_size": 4},
        **{"upscale": 2, "upsampler": "pixelshuffledirect"},
    },
    "OmniSR": {"num_feat": 8, "res_num": 1, "block_num": 1, "up_scale": 2, "window_size": 8},
}
"""Parameters of small networks whose parameters have other names or depend on each other."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="limit for each conversion")
    parser.add_argument("--only", help="architectures, with commas between them")
    arguments = parser.parse_args()
    foreign.SECONDS = arguments.seconds
    only = arguments.only.split(",") if arguments.only else None
    print("| architecture | its ONNX | halo | multiples |\n| --- | --- | --- | --- |")
    for support in spandrel.MAIN_REGISTRY.architectures():
        name = support.architecture.name
        if only is None or name in only:
            print(f"| {name} | {' | '.join(row(support.architecture))} |", flush=True)


def row(architecture: Any) -> tuple[str, str, str]:  # noqa: ANN401 - spandrel's
    """Return what became of one architecture, its halo and its multiples."""
    reasons = []
    for network in networks_of(architecture):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "w.pth"
            torch.save(network.state_dict(), path)
            try:
                made = deployment_of(path, Origin("x", "unknown"))
            except SrganEdgeError as refusal:
                reasons.append(str(refusal).partition(": ")[2].replace("|", "/")[:160])
                continue
        spec = made.spec.foreign
        assert spec is not None
        size = f"squares of {spec.window_px} px" if spec.window_px else "any size"
        how = "traced" if spec.is_traced else "measured"
        if spec.whole_frames:
            how += ", tiles differ"
        return f"x{made.spec.scale}, {size}", f"{spec.halo_px} px, {how}", f"{spec.multiple}"
    return f"refused: {reasons[-1] if reasons else 'cannot be made with its defaults'}", "", ""


def networks_of(architecture: Any) -> Iterator[nn.Module]:  # noqa: ANN401
    """Yield a small network of the architecture, then one with its defaults, where that works."""
    started = time.monotonic()
    for kind in classes_of(architecture):
        parameters = inspect.signature(kind).parameters
        needed = {name for name, it in parameters.items() if it.default is inspect.Parameter.empty}
        small = {name: value for name, value in SMALL.items() if name in parameters}
        least = {name: value for name, value in small.items() if name in needed}
        for options in (OPTIONS.get(architecture.name, small), least):
            torch.manual_seed(0)
            try:
                network = kind(**options)
            except Exception:
                continue
            if time.monotonic() - started < INSTANTIATION_SECONDS:
                yield network


def classes_of(architecture: Any) -> list[type[nn.Module]]:  # noqa: ANN401
    for base in getattr(type(architecture), "__orig_bases__", ()):
        for kind in get_args(base):
            kinds = get_args(kind) or (kind,)
            found = [it for it in kinds if inspect.isclass(it) and issubclass(it, nn.Module)]
            if found:
                return found
    module = importlib.import_module(type(architecture).__module__)
    return [
        it
        for it in vars(module).values()
        if inspect.isclass(it) and issubclass(it, nn.Module) and it.__module__ != "torch.nn"
    ]


if __name__ == "__main__":
    main()
