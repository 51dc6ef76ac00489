"""Convert networks of other programs to the deployment ONNX: weights that spandrel knows, and ONNX.

A file of weights is read, and its network made, in a child process that can do nothing else. Its
graph comes back, is wrapped and checked like any file of a stranger, and must then compute what the
network computed in the child. A network that takes any size keeps that; of others, such as those
with attention windows, the graph takes squares of one size, and images are cut into them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import safetensors.numpy

from srgan_edge import bicubic
from srgan_edge.engines import KINDS
from srgan_edge.engines.base import Engine, NotFinite
from srgan_edge.errors import ExtraMissing, ModelRefused, UsageError
from srgan_edge.evaluation.metrics import psnr_y
from srgan_edge.evaluation.parity import Parity, compare
from srgan_edge.export.halo import Whole, with_halo
from srgan_edge.export.verify import PHOTO, least_psnr_db
from srgan_edge.export.wrapper import UNIT, Sizes, Values, with_spec, wrapped
from srgan_edge.files import open_model, read_at_most, replace_when_whole, scratch_folder
from srgan_edge.image.reader import read_pixels
from srgan_edge.isolation.calls import Remote
from srgan_edge.isolation.child import ChildFailed
from srgan_edge.model.foreign_graph import PROBES_PX, GraphCost, cost_at
from srgan_edge.model.onnx_file import MAX_BYTES, read_onnx
from srgan_edge.model.spec import Foreign, ModelSpec
from srgan_edge.pixels import Pixels

MEMORY_BYTES = 12 << 30
"""Memory that the child may map beyond its libraries."""

SECONDS = 900.0
"""Longest time for one call of the child."""

WINDOW_PX = 128
"""Side of the squares for networks that do not take any size, rounded up to their multiple."""

PARITY_LEVELS = 1
"""Largest difference from the network in PyTorch, in FP32."""

POSSIBLE_VALUES = (UNIT, Values(0, 255), Values(-1, 1))
"""The values that float graphs take and make; most have the first."""

VALUES_DB = 1.0
"""Other values than the first are the right ones if they have so much more PSNR-Y."""


@dataclass(frozen=True)
class Origin:
    """Facts about the weights that their file does not state."""

    name: str
    licence: str
    source: str = ""


@dataclass(frozen=True)
class Deployment:
    """A network in deployment form."""

    spec: ModelSpec
    content: bytes
    """The ONNX file."""
    parity: Parity | None
    """Difference from PyTorch; None: the network was an ONNX graph already."""
    remark: str = ""
    """Why the graph takes squares of one size only; empty: it takes any."""


def onnx_from_weights(
    path: Path,
    out: Path,
    origin: Origin,
    weights: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    *,
    overwrite: bool = True,
) -> ModelSpec:
    """Write the deployment ONNX of a foreign file of weights, or of a float ONNX; returns its spec.

    Args:
        overwrite: replace a file that appears at `out` in the meantime.

    Raises:
        UsageError: `weights` is not in the file.
        ModelRefused: the file contains more than weights, nobody knows its architecture, it cannot
            be traced, or what it computes is no image.
        ExtraMissing: spandrel is not installed.
        OutputFailed: `out` cannot be written.
    """
    from_graph = path.suffix == ".onnx"
    if from_graph:
        made = deployment_of_graph(path, origin, say)
    else:
        made = deployment_of(path, origin, weights, say)
        reached, least = photograph_db(made), least_psnr_db(*_photograph(made.spec.scale))
        if not reached >= least:
            raise _implausible(path, reached, least)
    with replace_when_whole(out, overwrite=overwrite) as temporary:
        temporary.write_bytes(made.content)
    if made.remark:
        say(f"takes squares of {_foreign(made).window_px} px only: {made.remark}")
    if made.parity is not None:
        say(f"  against torch fp32: {made.parity}")
    return made.spec


def deployment_of(
    path: Path,
    origin: Origin,
    weights: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Deployment:
    """Return the deployment form of a file of weights; see `onnx_from_weights`."""
    from importlib.util import find_spec

    if find_spec("spandrel") is None:
        raise ExtraMissing("spandrel", "srgan-edge[convert]", "converting other architectures")
    open_model(path).close()  # refuse now what is no file
    from srgan_edge.export.foreign_child import Found

    with scratch_folder() as folder, _child(path, folder) as call:
        found: Found = call(Found, "open", str(path.absolute()), weights or "", str(folder))
        if found.taken and (found.others or weights):
            say(f"took {found.taken}; beside it: {', '.join(found.others) or 'nothing'}")
        say(f"{found.architecture}, x{found.scale}, {found.parameters:,} parameters")
        step = found.multiple
        side = step * max(-(-max(WINDOW_PX, found.least_px) // step), 3)  # a tile in two halos
        any_size, square = Sizes(step, found.least_px), Sizes(step, found.least_px, side)
        reasons = ["it attends to windows or to squares"] if found.is_square else []
        for sizes in [square] if found.is_square else [any_size, square]:
            arguments = (sizes.multiple, sizes.least_px, sizes.window_px)
            target = folder / "float.onnx"
            if reason := call(str, "trace", str(target), *arguments):
                reasons.append(reason)
                continue
            graph = onnx.ModelProto.FromString(read_at_most(target, MAX_BYTES))
            try:
                model = wrapped(graph, found.scale, sizes, is_luma=found.is_luma)
                made = _described(model, found, sizes, origin)
            except (ModelRefused, onnx.checker.ValidationError, ValueError) as refusal:
                reasons.append(str(refusal).splitlines()[0][:200])
                continue
            batches = _batches(sizes)
            expected = _answers(call, folder, batches, sizes)
            whole = _whole(call, folder, found.scale, sizes) if sizes.window_px else None
            with _engine(made.content, folder) as engine:
                try:
                    parity = _parity(engine, batches, expected)
                    if parity is None or parity.max_levels > PARITY_LEVELS:
                        reasons.append(f"differs from PyTorch: {parity or 'another size'}")
                        continue
                    spec = with_halo(made.spec, model, engine, whole)
                except NotFinite:
                    reasons.append(f"its values are not finite in {engine.info.name}")
                    continue
            content = with_spec(model, spec)
            return Deployment(spec, content, parity, reasons[0] if reasons else "")
    raise ModelRefused(f"{path}: {found.architecture} cannot be traced: {'; '.join(reasons)}")


def deployment_of_graph(
    path: Path, origin: Origin, say: Callable[[str], None] = lambda line: None
) -> Deployment:
    """Return the deployment form of a float ONNX of another program, found by its shapes.

    What values it takes and makes shows in what becomes of a photograph.

    Raises:
        ModelRefused: it is not one image in and one image out, does more than compute, or makes no
            image of a photograph.
    """
    from srgan_edge.export.foreign_onnx import float_graph_of

    graph, found, sizes = float_graph_of(path)
    least = least_psnr_db(*_photograph(found.scale))
    tried: list[tuple[float, Values, Values, onnx.ModelProto, Deployment]] = []
    for taken, made in sorted(product(POSSIBLE_VALUES, repeat=2), key=lambda it: it[0] != it[1]):
        try:
            model = wrapped(
                graph, found.scale, sizes, is_luma=found.is_luma, taken=taken, made=made
            )
            deployment = _described(model, found, sizes, origin)
        except (ModelRefused, onnx.checker.ValidationError, ValueError) as error:
            raise ModelRefused(f"{path}: {str(error).splitlines()[0][:200]}") from None
        tried.append((photograph_db(deployment), taken, made, model, deployment))
        if found.scale == 1 and tried[-1][0] >= least:
            break  # a restoration that sees a weaker or stronger image does less, or more
    best = max(db for db, *_ in tried)
    if not best >= least:
        raise _implausible(path, best, least)
    enough = least if found.scale == 1 else best - VALUES_DB
    _, taken, made, model, deployment = next(it for it in tried if it[0] >= enough)
    if (taken, made) != (UNIT, UNIT):
        say(f"takes values in {taken} and makes values in {made}, as a photograph shows")
    with scratch_folder() as folder, _engine(deployment.content, folder) as engine:
        spec = with_halo(deployment.spec, model, engine)
    return Deployment(spec, with_spec(model, spec), None)


def photograph_db(made: Deployment) -> float:
    """Return the PSNR-Y in dB of a photograph that it made from a small one; -inf: no image."""
    small, original = _photograph(made.spec.scale)
    with scratch_folder() as folder, _engine(made.content, folder) as engine:
        try:
            return psnr_y(engine.upscale(small[None])[0], original)
        except NotFinite:
            return -inf


@cache
def _photograph(scale: int) -> tuple[Pixels, Pixels]:
    """Return part of a photograph, `scale` times smaller and as it is."""
    side = 64 // scale
    original = read_pixels(PHOTO)[:64, :64]
    small = bicubic.resize(original, side, side)
    return small, original[: scale * side, : scale * side]


def _implausible(path: Path, reached: float, least: float) -> ModelRefused:
    return ModelRefused(
        f"{path}: a photograph upscaled by it has {reached:.1f} dB where {least:.1f} dB are the "
        f"least: values in none of {', '.join(map(str, POSSIBLE_VALUES))}, or weights that were "
        "not trained"
    )


class _Described(Protocol):
    """Facts for the spec that the graph in deployment form does not show."""

    @property
    def architecture(self) -> str: ...
    @property
    def scale(self) -> int: ...
    @property
    def is_luma(self) -> bool: ...


def _described(
    model: onnx.ModelProto, found: _Described, sizes: Sizes, origin: Origin
) -> Deployment:
    """Return the graph with a spec that states what it needs, checked as any file is.

    Raises:
        ModelRefused: it needs too much, or does more than compute.
    """
    side = sizes.window_px
    costs = [
        cost_at(model, *probe, found.scale) for probe in ([(side, side)] if side else PROBES_PX)
    ]
    for cost in costs:
        if isinstance(cost, str):
            raise ModelRefused(cost)
    known = [cost for cost in costs if isinstance(cost, GraphCost)]
    foreign = Foreign(
        radius_px=0,
        is_traced=False,
        values_per_px=int(max(it.values_per_px for it in known)) + 1,
        multiplications_per_px=int(max(it.multiplications_per_px for it in known)) + 1,
        multiple=sizes.multiple,
        window_px=side,
        source=origin.source,
        is_luma=found.is_luma,
    )
    spec = ModelSpec(
        origin.name,
        found.architecture,
        channels=0,
        blocks=0,
        scale=found.scale,
        licence=origin.licence,
        foreign=foreign,
    )
    content = with_spec(model, spec)
    with scratch_folder() as folder:
        file = folder / "model.onnx"
        file.write_bytes(content)
        try:
            read_onnx(file)
        except ModelRefused as refusal:
            reason = str(refusal).removeprefix(f"{file}: ")
            # That it could be made by `export` is no advice for a network of somebody else.
            raise ModelRefused(reason.partition(", which srgan-edge never writes")[0]) from None
    return Deployment(spec, content, None)


@contextmanager
def _child(path: Path, folder: Path) -> Iterator[Callable[..., Any]]:
    """Yield a function that calls the child; its failures are refusals of the file."""
    with Remote(
        "srgan_edge.export.foreign_child:serve",
        [path],
        MEMORY_BYTES,
        SECONDS,
        writable=folder,
        reports=(ModelRefused, UsageError),
    ) as remote:

        def call(kind: type[Any], function: str, *arguments: Any) -> Any:  # noqa: ANN401
            try:
                return remote.call(kind, function, *arguments)
            except ChildFailed as failure:
                raise ModelRefused(f"{path}: reading it {failure}") from failure
            except (ModelRefused, UsageError) as refusal:
                raise type(refusal)(f"{path}: {refusal}") from refusal

        yield call


@contextmanager
def _engine(content: bytes, folder: Path) -> Iterator[Engine]:
    """Open the first installed runtime for a deployment ONNX, in FP32 on the CPU."""
    path = folder / "deployment.onnx"
    path.write_bytes(content)
    kind = next(it for it in KINDS.values() if it.suffix == ".onnx" and it.installed)
    with kind.open(path, "cpu", fp32=True, slots=1) as engine:
        yield engine


def _batches(sizes: Sizes) -> dict[str, Pixels]:
    """Return natural images of awkward sizes, by name: uint8 [N, H, W, 3]."""
    photo = read_pixels(PHOTO)
    if sizes.window_px:
        side = sizes.window_px
        whole = bicubic.resize(photo, side, side)
        shapes = [(1, side, side), (2, side // 3, side // 2 + 1)]
    else:
        whole = photo
        shapes = [(1, 96, 64), (2, 31, 45), (1, 5, 3), (1, 64, 96)]
    return {
        f"{count}x{height}x{width}": np.ascontiguousarray(  # safetensors ignores strides
            np.stack([whole[n : n + height, n : n + width] for n in range(count)])
        )
        for count, height, width in shapes
        if count == 1 or height + count <= whole.shape[0]
    }


def _answers(
    call: Callable[..., Any], folder: Path, batches: dict[str, Pixels], sizes: Sizes
) -> dict[str, Any]:
    """Return what the network in the child makes of images, by their names."""
    asked, answered = folder / "asked.safetensors", folder / "answered.safetensors"
    safetensors.numpy.save_file(batches, asked)
    arguments = (sizes.multiple, sizes.least_px, sizes.window_px)
    call(int, "answer", str(asked), str(answered), *arguments)
    found: dict[str, Any] = safetensors.numpy.load(read_at_most(answered, MAX_BYTES))
    return found


def _whole(call: Callable[..., Any], folder: Path, scale: int, sizes: Sizes) -> Whole | None:
    """Return an image of four squares; None: the network does not take as much."""
    side = 2 * sizes.window_px
    frame = np.ascontiguousarray(bicubic.resize(read_pixels(PHOTO), side, side))
    larger = Sizes(sizes.multiple, sizes.least_px, side)
    try:
        upscaled = _answers(call, folder, {"whole": frame[None]}, larger).get("whole")
    except ModelRefused:
        return None
    wanted = (1, scale * side, scale * side, 3)
    if upscaled is None or upscaled.dtype != np.uint8 or upscaled.shape != wanted:
        return None
    return Whole(frame, upscaled[0])


def _parity(engine: Engine, batches: dict[str, Pixels], expected: dict[str, Any]) -> Parity | None:
    """Compare the engine with the child's results; None: these have other shapes."""
    scale = engine.info.spec.scale
    for name, batch in batches.items():
        count, height, width, _ = batch.shape
        got = expected.get(name)
        wanted = (count, scale * height, scale * width, 3)
        if got is None or got.dtype != np.uint8 or got.shape != wanted:
            return None
    results = iter([expected[name] for name in batches])
    return compare(lambda _: next(results), engine.upscale, batches.values())


def _foreign(made: Deployment) -> Foreign:
    assert made.spec.foreign is not None
    return made.spec.foreign
