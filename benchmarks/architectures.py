"""Which architectures of spandrel `srgan-edge convert` takes: the table of docs/models.md.

Each network of `small_networks` is converted, and run in every runtime. Its result is compared with
that of spandrel itself, which pads and calls the network in its own way, in this process; and tiles
are compared with the whole frame.

    python benchmarks/architectures.py --seconds 120 --only "ESRGAN;SPAN"
    python benchmarks/architectures.py --only "" --weights "DAT light=DAT_light_x2.pth"
"""

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import spandrel
import torch
from small_networks import NETWORKS, Small, enliven

from srgan_edge import bicubic
from srgan_edge.engines import KINDS
from srgan_edge.errors import SrganEdgeError
from srgan_edge.export import foreign
from srgan_edge.export.foreign import Origin, deployment_of
from srgan_edge.export.luma import Floats, enlarged_by_luma
from srgan_edge.export.verify import PHOTO
from srgan_edge.image.reader import read_pixels
from srgan_edge.model.spec import Foreign
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler

INSTANTIATION_SECONDS = 30

WHOLE_PX = (96, 160)
"""Height and width of the image that goes through whole; a multiple of the usual windows."""

TILED_PX = (192, 256)

TILE_PX = 64

HEADINGS = ("network", "scale", "sizes", "halo", "from PyTorch, levels", "tiles, levels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="limit for each conversion")
    parser.add_argument("--only", help="labels of networks, with ; between them")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="LABEL=FILE", help="files of weights"
    )
    arguments = parser.parse_args()
    foreign.SECONDS = arguments.seconds
    labels = list(NETWORKS) if arguments.only is None else arguments.only.split(";")
    warnings.simplefilter("ignore")
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}")
    refused = converted = 0
    for label in filter(None, labels):
        row = row_of_network(label, NETWORKS[label])
        converted, refused = converted + row.converted, refused + (not row.converted)
        print(row, flush=True)
    for given in arguments.weights:
        label, _, path = given.partition("=")
        row = row_of_file(label, Path(path))
        converted, refused = converted + row.converted, refused + (not row.converted)
        print(row, flush=True)
    known = {support.architecture.id for support in spandrel.MAIN_REGISTRY.architectures()}
    tried = {small.folder for small in NETWORKS.values()}
    print(f"\n{converted} networks converted, {refused} refused; {len(known)} architectures known")
    if missing := known - tried:
        print(f"without a row: {', '.join(sorted(missing))}")


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    label: str
    converted: bool
    cells: tuple[str, ...]

    def __str__(self) -> str:
        return f"| {self.label} | {' | '.join(self.cells)} |"


def row_of_network(label: str, small: Small) -> Row:
    """Return what became of a network with random weights."""
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        network = small.made()
        descriptor = spandrel.ModelLoader().load_from_state_dict(network.state_dict())
    if time.monotonic() - started > INSTANTIATION_SECONDS:
        return refusal(label, f"not tried: takes more than {INSTANTIATION_SECONDS} s to make")
    if isinstance(descriptor, spandrel.ImageModelDescriptor):
        run = descriptor._call_fn
        model: Any = descriptor.model.eval()
        if descriptor.purpose != "FaceSR":
            enliven(model, lambda lr: run(model, lr), descriptor.input_channels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.pth"
        torch.save(descriptor.model.state_dict(), path)
        return row_of_file(label, path)


def row_of_file(label: str, path: Path) -> Row:
    """Return what became of a file of weights."""
    try:
        made = deployment_of(path, Origin("x", "unknown"))
    except SrganEdgeError as error:
        reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
        return refusal(label, reason)
    spec = made.spec.foreign
    assert spec is not None
    state = torch.load(path, map_location="cpu", weights_only=True)
    descriptor: Any = spandrel.ModelLoader().load_from_state_dict(state)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "m.onnx").write_bytes(made.content)
        photo = read_pixels(PHOTO)
        side = spec.window_px
        shape = (side, side) if side else WHOLE_PX
        image = bicubic.resize(photo, *shape)
        large = bicubic.resize(photo, *TILED_PX)
        expected, expected_large = (reference(descriptor, it) for it in (image, large))
        apart, tiles = [], []
        for kind in (it for it in KINDS.values() if it.suffix == ".onnx" and it.installed):
            with kind.open(Path(folder) / "m.onnx", "cpu", True, 1) as engine:
                apart.append(levels(engine.upscale(image[None])[0], expected))
                if not tiles:
                    tile = "auto" if side else TILE_PX
                    tiled = FrameUpscaler(engine, Tiling(tile=tile)).upscale(large)
                    tiles.append(levels(tiled, expected_large))
    cells = (f"x{made.spec.scale}", sizes(spec), halo(spec, made.spec.auto_halo_px))
    return Row(label, True, (*cells, " / ".join(map(str, apart)), str(tiles[0])))


@torch.inference_mode()
def reference(descriptor: Any, image: Pixels) -> Pixels:  # noqa: ANN401 - spandrel's
    """Return what spandrel makes of an image: uint8 [H, W, 3] to uint8 [sH, sW, 3]."""
    lr: Floats = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)

    def network(values: Floats) -> Floats:
        result: Floats = descriptor(torch.from_numpy(values)).numpy()
        return result

    scale = descriptor.scale
    sr = enlarged_by_luma(network, lr, scale) if descriptor.input_channels == 1 else network(lr)
    made: Pixels = (sr[0].clip(0, 1) * 255 + 0.5).transpose(1, 2, 0).astype(np.uint8)
    return made


def levels(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other).max())


def sizes(spec: Foreign) -> str:
    if spec.window_px:
        return f"squares of {spec.window_px} px"
    return f"multiples of {spec.multiple} px" if spec.multiple > 1 else "any"


def halo(spec: Foreign, halo_px: int) -> str:
    if spec.whole_frames:
        return f"{halo_px} px do not suffice"
    if spec.is_traced:
        return f"{halo_px} px; reach {spec.radius_px} px"
    return f"{halo_px} px, measured"


def refusal(label: str, reason: str) -> Row:
    reason = reason.replace("|", "/").replace("\n", " ")[:240]
    return Row(label, False, ("refused: " + reason, *[""] * (len(HEADINGS) - 2)))


if __name__ == "__main__":
    main()
