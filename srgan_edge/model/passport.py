"""An engine and its passport: what the engine is, and proof that it is still that.

A plan is native code for one runtime version, and what is in it cannot be seen. So it never goes
anywhere without a JSON file beside it, `NAME.engine.json`, and nothing loads an engine whose bytes
are not those that its passport was written for.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.files import read_at_most, replace_when_whole
from srgan_edge.model.spec import ModelSpec

ENGINE_SUFFIX = ".engine"
MAX_ENGINE_BYTES = 1 << 31

Shape = tuple[int, int, int]
"""Frames or tiles, height and width of the input, in pixels."""


@dataclass(frozen=True)
class Profile:
    """The input shapes an engine takes, and the one it is made for."""

    smallest: Shape
    best: Shape
    largest: Shape

    @classmethod
    def static(cls, batch: int, height: int, width: int) -> Self:
        """One shape and no other, which is the fastest."""
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
        """The shapes that were asked for; tiles of 128 px and their halo if nothing was.

        Args:
            tile: core of a tile in pixels.
            shape: `NxHxW`.
            dynamic: three of them: smallest, best, largest.

        Raises:
            UsageError: contradictory, or not shapes.
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
                    "as 1x64x64,1x270x480,1x1080x1920"
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
        """What to type for it."""
        if self.is_static:
            return f"--shape {_text(self.best)}"
        return f"--dynamic {','.join(map(_text, (self.smallest, self.best, self.largest)))}"

    @property
    def best_text(self) -> str:
        """`NxHxW` of the shape it is made for."""
        return _text(self.best)

    def __str__(self) -> str:
        if self.is_static:
            return _text(self.best)
        return f"{_text(self.smallest)} to {_text(self.largest)}, best {_text(self.best)}"


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine, as its builder reports it."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """Types of what it reads, for example `Half`; weights apart."""
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    """The nodes of the graph that it computes."""


@dataclass(frozen=True)
class Passport:
    """Everything there is to know about one engine without loading it."""

    spec: ModelSpec
    source: str
    """What was exported, as it was typed: a bundled name, or a file."""
    module: str
    """The runtime that built it and can run it: `tensorrt` or `tensorrt_rtx`."""
    version: str
    """Of the runtime, all four parts: an engine runs on that version alone."""
    precision: str
    """Of the convolutions that are in floating point: `fp16` or `bf16`."""
    profile: Profile
    compute_capabilities: tuple[str, ...]
    """Of the GPUs it is for, as `8.9`."""
    gpu: str
    """The one it was built on, and alone runs on; empty if it was built ahead of time."""
    driver: str
    """The CUDA version of that GPU's driver, as `13.0`; empty likewise."""
    workspace_mib: int | None
    """Scratch memory that a kernel might ask for; None: as much as there was."""
    optimization_level: int | None
    """How long TensorRT searched, 0 to 5; None: as long as it does by itself."""
    platform: str
    """Operating system and processor, as `Linux x86_64`."""
    graph_sha256: str
    """Of the ONNX that was built, after all rewrites."""
    engine_sha256: str
    build_seconds: float
    parity: dict[str, dict[str, float]]
    """By what was compared with PyTorch in FP32: max and mean in levels of 255, and PSNR in dB."""
    layers: tuple[Layer, ...]

    def to_json(self) -> str:
        record = dataclasses.asdict(self) | {"spec": json.loads(self.spec.to_json())}
        return json.dumps(record, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ModelRefused: not a passport, or one of another version of this program.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            record["spec"] = ModelSpec.from_json(json.dumps(record["spec"]))
            shapes = {name: tuple(shape) for name, shape in record["profile"].items()}
            record["profile"] = Profile(**shapes)
            record["compute_capabilities"] = tuple(record["compute_capabilities"])
            record["layers"] = tuple(_layer(layer) for layer in record["layers"])
            return cls(**record)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelRefused(
                f"not the passport of an engine of this version ({type(error).__name__}: {error})"
            ) from None

    @property
    def is_rtx(self) -> bool:
        """Whether it is an engine of TensorRT-RTX."""
        return self.module == "tensorrt_rtx"

    @property
    def rebuild_command(self) -> str:
        """What to type to get such an engine again."""
        return self.command_for(self.profile.option)

    def command_for(self, shape_option: str) -> str:
        """What to type to get such an engine for another shape, as `--tile 64`."""
        options: dict[str, object] = {
            "--workspace": self.workspace_mib,
            "--optimization-level": self.optimization_level,
        }
        if self.is_rtx:
            options["--compute-capability"] = ",".join(self.compute_capabilities)
        target = "--rtx" if self.is_rtx else "--tensorrt"
        words = [self.source, target, f"--{self.precision}", shape_option]
        words += [f"{name} {value}" for name, value in options.items() if value is not None]
        return f"srgan-edge export {' '.join(words)}"


def passport_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def write_engine(path: Path, plan: bytes, passport: Passport, option: str = "-o") -> None:
    """Write an engine and its passport, each whole or not at all.

    The passport comes last: an engine without one is refused, and so is one with an older one.

    Args:
        option: with which the user names another place.

    Raises:
        OutputFailed: they cannot be written.
    """
    assert passport.engine_sha256 == hashlib.sha256(plan).hexdigest()
    with replace_when_whole(path, option) as temporary:
        temporary.write_bytes(plan)
    with replace_when_whole(passport_path(path), option) as temporary:
        temporary.write_text(passport.to_json())


def read_passport(path: Path) -> Passport:
    """The passport of the engine at `path`.

    Raises:
        ModelRefused: there is none, or it is not one.
    """
    try:
        text = passport_path(path).read_text()
    except OSError:
        raise ModelRefused(
            f"{path} has no passport ({passport_path(path).name}), so nobody knows what it is; "
            "type: srgan-edge export MODEL"
        ) from None
    except ValueError:
        text = ""  # of no encoding we write
    try:
        return Passport.from_json(text)
    except ModelRefused as error:
        raise ModelRefused(
            f"{passport_path(path)}: {error}; build the engine again: srgan-edge export MODEL"
        ) from None


def read_engine(path: Path) -> tuple[bytes, Passport]:
    """An engine's bytes, proven to be those its passport was written for.

    Raises:
        ModelRefused: no passport, too large, or other bytes: cut short, flipped, replaced.
    """
    passport = read_passport(path)
    plan = read_at_most(path, MAX_ENGINE_BYTES)
    if hashlib.sha256(plan).hexdigest() != passport.engine_sha256:
        raise ModelRefused(
            f"{path}: its bytes are not those of its passport (cut short, damaged or replaced); "
            f"type: {passport.rebuild_command}"
        )
    return plan, passport


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _shape(option: str, text: str) -> Shape:
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise UsageError(f"{option} {text}; possible: NxHxW, as 1x270x480")
    batch, height, width = map(int, found.groups())
    return batch, height, width


def _layer(record: dict[str, Any]) -> Layer:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    return Layer(**fields)
