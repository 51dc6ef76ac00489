"""The spec of a generator: a JSON record that accompanies every file of the model.

The same `ModelSpec` is in the metadata of a safetensors checkpoint, in the `metadata_props` of an
ONNX file and beside an engine, so that each file has its architecture, receptive field and origin.
This module does not need torch.
"""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self, get_args

from srgan_edge.errors import ModelRefused
from srgan_edge.typed import MISTAKES, from_record

NATIVE = ("srresnet", "edge")
"""The architectures that this program defines, trains and exports."""

Norm = Literal["none", "batch"]
Head = Literal["linear", "tanh"]
Activation = Literal["prelu", "relu"]

METADATA_KEY = "srgan_edge.spec"
"""The metadata key under which every artifact stores its spec."""

PIXEL_RECIPES = ("srresnet", "edge", "edge-l", "edge-x2", "edge-real", "edge-l-real", "edge-int8")
"""Our recipes that only use losses of pixels."""


MAX_SCALE = 8

MAX_RADIUS_PX = 512
MAX_WINDOW_PX = 4096
MAX_VALUES_PER_PX = 1 << 16
MAX_MULTIPLICATIONS_PER_PX = 1 << 30
"""Limits on what a foreign graph may state about itself."""

MAX_TEXT = 255
MAX_TRAINING_TEXT = 10_000
"""Limits on the length of a text, in characters."""


@dataclass(frozen=True)
class Training:
    """The origin of the weights, as in the model card."""

    recipe: str
    """Name of the recipe, as for `srgan-edge train --recipe`."""
    data: str
    """The training images: names, number and licence."""
    steps: int
    """Optimizer steps behind these weights."""
    hardware: str = ""
    """Hardware and duration of the training."""
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    """PSNR-Y in dB by benchmark, for example `{"Set5": 30.8}`."""

    def __post_init__(self) -> None:
        for text in (self.recipe, self.data, self.hardware, *self.scores):
            if not text.isprintable() or len(text) > MAX_TRAINING_TEXT:
                raise ModelRefused(f"spec has {_short(text)} in training; possible: a line of text")
        for name, score in self.scores.items():
            if not math.isfinite(score):
                raise ModelRefused(f"spec has the score {score} for {name}; possible: dB")
        if self.steps < 0:
            raise ModelRefused(f"spec has {self.steps} steps; possible: 0 or more")


@dataclass(frozen=True)
class Foreign:
    """The facts about a generator of another program that only its graph could tell."""

    radius_px: int
    """Largest distance in LR pixels between an output pixel and its inputs: traced through the
    graph, or, where that is impossible, the halo beyond which tiles were measured to agree."""
    is_traced: bool
    values_per_px: int
    """Values per LR pixel in the largest tensor of the graph."""
    multiplications_per_px: int
    multiple: int = 1
    """Tiles begin at multiples of so many LR pixels: the stride or the window of the network."""
    window_px: int = 0
    """Side of the only input, in LR pixels; 0: the graph takes any size."""
    whole_frames: str = ""
    """Why tiles differ from whole frames, whatever their halo; empty: they do not."""
    source: str = ""
    """Origin of the weights, such as an address."""
    is_luma: bool = False
    """The network has one channel: luma. The graph enlarges chroma by bicubic interpolation."""

    def __post_init__(self) -> None:
        for field, low, high in [
            ("radius_px", 0, MAX_RADIUS_PX),
            ("values_per_px", 1, MAX_VALUES_PER_PX),
            ("multiplications_per_px", 1, MAX_MULTIPLICATIONS_PER_PX),
            ("multiple", 1, MAX_RADIUS_PX),
            ("window_px", 0, MAX_WINDOW_PX),
        ]:
            if not low <= (got := getattr(self, field)) <= high:
                raise ModelRefused(f"spec has {field} {got!r}; possible: {low} to {high}")
        for field in ("whole_frames", "source"):
            got = getattr(self, field)
            if not got.isprintable() or len(got) > MAX_TEXT:
                raise ModelRefused(f"spec has {field} {_short(got)}; possible: a line of text")
        if self.window_px and (self.window_px % self.multiple or self.core_px < self.multiple):
            raise ModelRefused(
                f"spec has window_px {self.window_px}; possible: a multiple of {self.multiple} "
                f"beyond {2 * self.halo_px}"
            )

    @property
    def halo_px(self) -> int:
        """The radius, rounded up to a multiple."""
        return -(-self.radius_px // self.multiple) * self.multiple

    @property
    def core_px(self) -> int:
        """Side of the largest core in a window."""
        return self.window_px - 2 * self.halo_px


@dataclass(frozen=True)
class ModelSpec:
    """One generator: RGB in [0, 1], sRGB as stored, in and out; `scale` times larger."""

    name: str
    architecture: str
    """One of `NATIVE`, or, with `foreign`, the name that its own program gives it."""
    channels: int
    """Width of the trunk in feature maps; 0 for foreign ones."""
    blocks: int
    """srresnet: residual blocks. edge: 3x3 convolutions between the first and the last. 0 for
    foreign ones."""
    scale: int = 4
    norm: Norm = "none"
    """`batch` is the paper's generator; `none`, our default, cannot drift in evaluation mode."""
    head: Head = "linear"
    """`tanh` maps the last layer to (tanh(x) + 1) / 2, as some foreign SRGANs do."""
    activation: Activation = "prelu"
    """Edge network only: the function after each convolution but the last. `relu` costs a CPU
    nothing: it is applied where the convolution stores its sum."""
    quantized_from: str = ""
    """Name of the model that was quantized to INT8 (all convolutions but the first and the last);
    empty: the model is in floating point."""
    halo_px: int | None = None
    """Smallest halo in LR pixels at which tiled and untiled differ by at most one level of 255,
    measured on the benchmark images; None: not measured, use `receptive_radius_px`."""
    licence: str = "unknown"
    training: Training | None = None
    foreign: Foreign | None = None
    """None for `NATIVE` architectures."""

    def __post_init__(self) -> None:
        if self.foreign is None and self.architecture not in NATIVE:
            raise ModelRefused(f"spec has architecture {self.architecture!r}; possible: {NATIVE}")
        if self.foreign is not None and self.architecture in NATIVE:
            raise ModelRefused(f"spec has facts of a foreign graph in {self.architecture!r}")
        for field, kind in [
            ("norm", Norm),
            ("head", Head),
            ("activation", Activation),
        ]:
            if (got := getattr(self, field)) not in get_args(kind):
                raise ModelRefused(f"spec has {field} {got!r}; possible: {get_args(kind)}")
        if self.architecture != "edge" and self.activation != "prelu":
            raise ModelRefused(
                f"spec has activation {self.activation!r} in {self.architecture}; possible: 'prelu'"
            )
        least = 1 if self.foreign is None else 0
        for field, low, high in [
            ("channels", least, 1024),
            ("blocks", least, 256),
            ("scale", 1, MAX_SCALE),
        ]:
            got = getattr(self, field)
            if type(got) is not int or not low <= got <= high:
                raise ModelRefused(f"spec has {field} {got!r}; possible: {low} to {high}")
        for field in ("name", "architecture", "quantized_from", "licence"):
            got = getattr(self, field)
            if not isinstance(got, str) or not got.isprintable() or len(got) > MAX_TEXT:
                raise ModelRefused(f"spec has {field} {_short(got)}; possible: a line of text")
        if not self.name:
            raise ModelRefused("spec has no name; possible: a line of text")
        if "/" in self.name:  # files are named after models
            raise ModelRefused(f"spec has name {self.name!r}; possible: a line of text without '/'")
        if self.training is not None and not isinstance(self.training, Training):
            raise ModelRefused(f"spec has training {_short(self.training)}; possible: a record")
        if self.quantized_from and self.norm != "none":
            raise ModelRefused(f"spec has norm {self.norm!r} in INT8; possible: 'none'")
        if self.halo_px is not None and type(self.halo_px) is not int:
            raise ModelRefused(f"spec has halo_px {self.halo_px!r}; possible: a whole number")
        if self.halo_px is not None and not 0 <= self.halo_px <= self.receptive_radius_px:
            raise ModelRefused(
                f"spec has halo_px {self.halo_px}; possible: 0 to {self.receptive_radius_px}"
            )

    @property
    def receptive_radius_px(self) -> int:
        """Largest distance in LR pixels between an output pixel and its inputs, rounded up.

        With a halo of this size, a tile has everything that its core depends on, so tiled and
        untiled results are the same sums.
        """
        if self.foreign is not None:
            return self.foreign.halo_px
        if self.architecture == "edge":
            return self.blocks + 2  # 3x3 convolutions in LR space: one pixel each
        reach = Fraction(4)  # 9x9 head
        reach += 2 * self.blocks + 1  # two 3x3 per block, and one at the end of the trunk
        reach += sum(Fraction(1, size) for size in self._stage_sizes)  # the 3x3 of each stage
        reach += Fraction(4, self.scale)  # 9x9 tail
        return math.ceil(reach)

    @property
    def is_commercial(self) -> bool:
        """False if the licence is known to forbid commercial use."""
        return not re.search(r"\bNC\b|non-?commercial", self.licence, re.IGNORECASE)

    @property
    def licence_line(self) -> str:
        """A line for every run of a model that may not be used commercially; empty: it may."""
        if self.is_commercial:
            return ""
        return f"{self.name} is licensed {self.licence}: not for commercial use"

    @property
    def stages(self) -> tuple[int, ...]:
        """Factors of the paper generator's sub-pixel stages: the primes of the scale, rising."""
        factors, rest = [], self.scale
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                factors.append(prime)
                rest //= prime
        return tuple(factors)

    @property
    def _stage_sizes(self) -> list[int]:
        """Sizes of the inputs of the stages, relative to LR."""
        return [math.prod(self.stages[:number]) for number in range(len(self.stages))]

    @property
    def may_shift_colors(self) -> bool:
        """True unless the weights are known to be trained on losses of pixels alone.

        A discriminator lets colors drift, so weights of unknown origin count as shifting.
        """
        if self.training is None:
            return True
        recipe, *_ = re.split(r"[^\w-]", self.training.recipe)  # drop details after the name
        return recipe not in PIXEL_RECIPES

    @property
    def auto_halo_px(self) -> int:
        """Halo for `--overlap auto` in LR pixels: the measured one if known, else the exact one."""
        return self.receptive_radius_px if self.halo_px is None else self.halo_px

    def to_json(self) -> str:
        """Return a JSON object with sorted keys; it includes the radius for other programs."""
        record = dataclasses.asdict(self) | {"receptive_radius_px": self.receptive_radius_px}
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the result of `to_json`.

        Raises:
            ModelRefused: the text is not JSON, has unknown or missing fields, or has a receptive
                radius that does not follow from the architecture.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            stated_radius = record.pop("receptive_radius_px")
            if record.get("training") is not None:
                record["training"] = from_record(record["training"], Training)
            if record.get("foreign") is not None:
                record["foreign"] = from_record(record["foreign"], Foreign)
            spec = cls(**record)
        except (*MISTAKES, AttributeError, KeyError) as error:
            raise ModelRefused(f"model metadata is not a srgan-edge spec: {error}") from None
        if stated_radius != spec.receptive_radius_px:
            raise ModelRefused(
                f"spec states a receptive radius of {stated_radius} px, but {spec.architecture} "
                f"with {spec.blocks} blocks has {spec.receptive_radius_px} px: the file was edited"
            )
        return spec


def _short(got: object) -> str:
    """Return a value of any length as it may stand in an error message."""
    text = repr(got)
    return text if len(text) <= MAX_TEXT else f"{text[:40]}... ({len(text)} characters)"


def activation_bytes_per_px(spec: ModelSpec) -> int:
    """Estimate the peak memory of the network's float32 activations in bytes per LR pixel.

    Two neighboring tensors exist at a time. The largest are, for the paper's generator, input and
    output of the last PReLU at full size; for the edge network, the last convolution's output, its
    shuffled copy and the upscaled input, or the features at small scales.
    """
    if spec.foreign is not None:
        return 4 * 3 * spec.foreign.values_per_px
    values = max(3 * 3 * spec.scale**2, 2 * spec.channels)
    if spec.architecture == "srresnet":
        values = max(2 * spec.scale**2, 3) * spec.channels  # 3: block, its input, the long skip
    return 4 * values


def multiplications_per_px(spec: ModelSpec) -> int:
    """Estimate the number of multiplications per LR pixel."""
    if spec.foreign is not None:
        return spec.foreign.multiplications_per_px
    convolution = 9 * spec.channels**2
    if spec.architecture == "srresnet":  # two per block, one after, the stages, and the tail
        tail = 9 * 9 * spec.channels * 3 * spec.scale**2
        sizes = spec._stage_sizes
        stages = sum((size * f) ** 2 for size, f in zip(sizes, spec.stages, strict=True))
        return (2 * spec.blocks + 1 + stages) * convolution + tail
    return spec.blocks * convolution + 9 * spec.channels * 3 * spec.scale**2
