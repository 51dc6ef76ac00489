"""The passport of an engine: a JSON file that describes it and proves that it is unchanged.

An engine is native code for one runtime version, and its content cannot be inspected. So a file
`NAME.engine.json` always accompanies it, and an engine whose bytes differ from its passport is
never loaded.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from srgan_edge.errors import ModelRefused, UsageError, quoted
from srgan_edge.files import is_taken, read_at_most, replace_when_whole
from srgan_edge.model.spec import MAX_TEXT, ModelSpec
from srgan_edge.typed import MISTAKES, from_record

ENGINE_SUFFIX = ".engine"
MAX_ENGINE_BYTES = 1 << 31

MAX_PASSPORT_BYTES = 1 << 24
MAX_SIDE = 999_999
"""Limit on frames, height and width of an input."""

Shape = tuple[int, int, int]
"""Frames or tiles, height and width of the input in pixels."""


@dataclass(frozen=True)
class Profile:
    """The input shapes that an engine accepts, and the shape that it is optimized for."""

    smallest: Shape
    best: Shape
    largest: Shape

    def __post_init__(self) -> None:
        for low, best, high in zip(self.smallest, self.best, self.largest, strict=True):
            if not 1 <= low <= best <= high <= MAX_SIDE:
                raise ValueError(f"profile {self}; possible: sides from 1 to {MAX_SIDE}, in order")

    @classmethod
    def static(cls, batch: int, height: int, width: int) -> Self:
        """Return a profile for exactly one shape, which is the fastest."""
        shape = (batch, height, width)
        return cls(shape, shape, shape)

    @classmethod
    def from_options(
        cls,
        spec: ModelSpec,
        tile: int | None,
        batch: int | None,
        shape: str | None,
        dynamic: str | None,
    ) -> Self:
        """Return the profile for the command-line options; by default tiles of 128 px and a halo.

        Args:
            tile: core of a tile in pixels.
            shape: `NxHxW`.
            dynamic: three shapes separated by commas: smallest, best, largest.

        Raises:
            UsageError: the options contradict each other, or are not shapes.
        """
        ways = {"--tile or --batch": tile or batch, "--shape": shape, "--dynamic": dynamic}
        named = [name for name, value in ways.items() if value is not None]
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)}; possible: one of them")
        if shape is not None:
            return cls.static(*_shape("--shape", shape))
        if dynamic is not None:
            shapes = [_shape("--dynamic", text) for text in dynamic.split(",")]
            if len(shapes) != 3 or not all(a <= b <= c for a, b, c in zip(*shapes, strict=True)):
                raise UsageError(
                    f"--dynamic {dynamic}; possible: smallest, best and largest, "
                    "such as 1x64x64,1x270x480,1x1080x1920"
                )
            return cls(*shapes)
        for name, number in [("--tile", tile), ("--batch", batch)]:
            if number is not None and number < 1:
                raise UsageError(f"{name} {number}; possible: 1 or more")
        side = (tile or 128) + 2 * spec.auto_halo_px
        return cls.static(batch or 1, side, side)

    @property
    def is_static(self) -> bool:
        return self.smallest == self.largest

    @property
    def option(self) -> str:
        """The command-line option that selects this profile."""
        if self.is_static:
            return f"--shape {_text(self.best)}"
        return f"--dynamic {','.join(map(_text, (self.smallest, self.best, self.largest)))}"

    @property
    def best_text(self) -> str:
        """The best shape as `NxHxW`."""
        return _text(self.best)

    def __str__(self) -> str:
        if self.is_static:
            return _text(self.best)
        return f"{_text(self.smallest)} to {_text(self.largest)}, best {_text(self.best)}"


@dataclass(frozen=True)
class EngineKey:
    """Everything that determines an engine's bytes: equal keys mean equal engines."""

    module: str
    """The runtime that builds and runs it: `tensorrt` or `tensorrt_rtx`."""
    version: str
    """Version of the runtime in all four parts; an engine only runs on that version."""
    graph_sha256: str
    """Digest of the typed graph, which includes weights, rewrites and precision."""
    profile: Profile
    compute_capabilities: tuple[str, ...]
    """Compute capabilities of the GPUs that it supports, for example `8.9`."""
    gpu: str
    """The only GPU that runs it, on which it is built; empty if it is built ahead of time."""
    driver: str
    """CUDA version of that GPU's driver, for example `13.0`; empty if built ahead of time."""
    workspace_mib: int | None
    """Limit on a kernel's scratch memory; None: all free memory."""
    optimization_level: int | None
    """Effort of TensorRT's search, 0 to 5; None: TensorRT's default."""
    platform: str
    """Operating system and processor, for example `Linux x86_64`."""

    def __post_init__(self) -> None:
        if self.module not in ("tensorrt", "tensorrt_rtx"):
            raise ValueError(f"module {self.module!r}; possible: tensorrt or tensorrt_rtx")
        for capability in self.compute_capabilities or ("",):
            if not re.fullmatch(r"[1-9]\d?\.\d", capability, re.ASCII):
                raise ValueError(f"compute_capabilities {capability!r}; possible: such as 8.9")
        _check_digest("graph_sha256", self.graph_sha256)
        for field in ("version", "gpu", "driver", "platform"):
            _check_text(field, getattr(self, field))

    @property
    def digest(self) -> str:
        """Hexadecimal, short enough for a file name."""
        record = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(record.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine, as its builder reports it."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """Types of the inputs without the weights, for example `Half`."""
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    """Nodes of the graph that the kernel computes."""


@dataclass(frozen=True)
class Passport:
    """Everything that can be known about an engine without loading it."""

    spec: ModelSpec
    source: str
    """The exported model as the user typed it: a bundled name, or a file."""
    key: EngineKey
    precision: str
    """Precision of the convolutions in floating point: `fp16` or `bf16`."""
    engine_sha256: str
    build_seconds: float
    parity: dict[str, dict[str, float]]
    """Differences from PyTorch in FP32, by test: max and mean in levels of 255, and PSNR in dB."""
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if self.precision not in ("fp16", "bf16"):
            raise ValueError(f"precision {self.precision!r}; possible: fp16 or bf16")
        _check_digest("engine_sha256", self.engine_sha256)
        _check_text("source", self.source)
        if any("psnr_db" not in figures for figures in self.parity.values()):
            raise ValueError(f"parity {self.parity!r}; possible: with psnr_db")

    def to_json(self) -> str:
        record = dataclasses.asdict(self) | {"spec": json.loads(self.spec.to_json())}
        return json.dumps(record, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the result of `to_json`.

        Raises:
            ModelRefused: the text is not a passport, or is from another version of srgan-edge.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            radius = record["spec"].pop("receptive_radius_px")
            passport = from_record(record, cls)
        except (*MISTAKES, KeyError, AttributeError, ModelRefused) as error:
            raise ModelRefused(
                f"not the passport of an engine of this version ({type(error).__name__}: {error})"
            ) from None
        if radius != passport.spec.receptive_radius_px:
            raise ModelRefused(f"a passport with a receptive radius of {radius!r} px was edited")
        return passport

    @property
    def is_rtx(self) -> bool:
        return self.key.module == "tensorrt_rtx"

    @property
    def rebuild_command(self) -> str:
        """The command that builds the same engine again."""
        return self.command_for(self.key.profile.option)

    def command_for(self, shape_option: str) -> str:
        """Return the command that builds the same engine for another shape, such as `--tile 64`."""
        options: dict[str, object] = {
            "--workspace": self.key.workspace_mib,
            "--optimization-level": self.key.optimization_level,
        }
        if self.is_rtx:
            options["--compute-capability"] = ",".join(self.key.compute_capabilities)
        target = "--rtx" if self.is_rtx else "--tensorrt"
        words = [quoted(self.source), target, f"--{self.precision}", shape_option]
        words += [f"{name} {quoted(value)}" for name, value in options.items() if value is not None]
        return f"srgan-edge export {' '.join(words)}"


def passport_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def write_engine(
    path: Path, plan: bytes, passport: Passport, option: str = "-o", *, overwrite: bool = True
) -> None:
    """Write an engine and its passport, each whole or not at all.

    The passport comes last: an engine with no passport, or with an older one, is refused.

    Args:
        option: the command-line option that selects another path, for error messages.
        overwrite: replace files that appear there in the meantime.

    Raises:
        OutputFailed: a file cannot be written.
    """
    assert passport.engine_sha256 == hashlib.sha256(plan).hexdigest()
    with replace_when_whole(path, option, overwrite=overwrite) as temporary:
        temporary.write_bytes(plan)
    with replace_when_whole(passport_path(path), option, overwrite=overwrite) as temporary:
        temporary.write_text(passport.to_json())


def read_passport(path: Path) -> Passport:
    """Read the passport of the engine at `path`.

    Raises:
        ModelRefused: there is no passport, or it is invalid.
    """
    if not is_taken(passport_path(path)):
        raise ModelRefused(
            f"{path} has no passport ({passport_path(path).name}), so its content is unknown; "
            "type: srgan-edge export MODEL"
        )
    content = read_at_most(passport_path(path), MAX_PASSPORT_BYTES)
    try:
        return Passport.from_json(content.decode(errors="replace"))
    except ModelRefused as error:
        raise ModelRefused(
            f"{passport_path(path)}: {error}; build the engine again: srgan-edge export MODEL"
        ) from None


def read_engine(path: Path) -> tuple[bytes, Passport]:
    """Read an engine and its passport, and check that they belong together.

    Raises:
        ModelRefused: there is no passport, the engine is too large, or its bytes differ from the
            passport: truncated, damaged or replaced.
    """
    passport = read_passport(path)
    plan = read_at_most(path, MAX_ENGINE_BYTES)
    if hashlib.sha256(plan).hexdigest() != passport.engine_sha256:
        raise ModelRefused(
            f"{path}: its bytes are not those of its passport (truncated, damaged or replaced); "
            f"type: {passport.rebuild_command}"
        )
    return plan, passport


def _check_digest(field: str, digest: str) -> None:
    if not re.fullmatch("([0-9a-f]{64})?", digest):
        raise ValueError(f"{field} {digest!r}; possible: 64 hexadecimal digits")


def _check_text(field: str, text: str) -> None:
    if not text.isprintable() or len(text) > MAX_TEXT:
        raise ValueError(f"{field} {text!r}; possible: a line of text")


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _shape(option: str, text: str) -> Shape:
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise UsageError(f"{option} {text}; possible: NxHxW, such as 1x270x480")
    batch, height, width = map(int, found.groups())
    return batch, height, width
