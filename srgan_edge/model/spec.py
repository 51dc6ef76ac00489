"""What a generator is: the JSON record that travels with every artifact of it.

The same `ModelSpec` sits in the metadata of a safetensors checkpoint, in the `metadata_props` of an
ONNX file and beside an engine, so that each of them says what it is, how far it looks, and where it
comes from. Nothing here needs torch.
"""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self, get_args

from srgan_edge.errors import ModelRefused

Architecture = Literal["srresnet", "edge"]

Norm = Literal["none", "batch"]

Head = Literal["linear", "tanh"]
Activation = Literal["prelu", "relu"]

METADATA_KEY = "srgan_edge.spec"
"""The metadata key under which every artifact stores its spec."""

PIXEL_RECIPES = ("srresnet", "edge", "edge-relu", "edge-real", "edge-int8")
"""The recipes we ship whose only losses are of pixels."""


@dataclass(frozen=True)
class Training:
    """Where the weights come from, as the model card states it."""

    recipe: str
    """Name of the recipe, as in `srgan-edge train --recipe`."""
    data: str
    """The training images: names, number and licence."""
    steps: int
    """Optimizer steps behind these weights."""
    hardware: str = ""
    """What it was trained on, and for how long."""
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    """PSNR-Y in dB by benchmark, for example `{"Set5": 30.8}`."""


@dataclass(frozen=True)
class ModelSpec:
    """One generator: RGB in [0, 1], sRGB as stored, in and out; `scale` times larger."""

    name: str
    architecture: Architecture
    channels: int
    """Width of the trunk in feature maps."""
    blocks: int
    """srresnet: residual blocks. edge: 3x3 convolutions between the first and the last."""
    scale: int = 4
    norm: Norm = "none"
    """`batch` is the paper's generator; `none`, our default, cannot drift in evaluation mode."""
    head: Head = "linear"
    """`tanh` maps the last layer to (tanh(x) + 1) / 2, as some foreign SRGANs do."""
    activation: Activation = "prelu"
    """edge: what follows each convolution but the last. `relu` costs a CPU nothing: it is computed
    where the convolution stores its sum."""
    quantized_from: str = ""
    """Name of the model of which this is the INT8 form: its convolutions but the first and the
    last read and multiply bytes. Empty: all of it is in floating point."""
    halo_px: int | None = None
    """Smallest halo in LR pixels at which tiled and untiled differ by at most one level of 255,
    measured on the benchmark images; None: not measured, use `receptive_radius_px`."""
    licence: str = "unknown"
    training: Training | None = None

    def __post_init__(self) -> None:
        for field, kind in [
            ("architecture", Architecture),
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
        for field, low, high in [("channels", 1, 1024), ("blocks", 1, 256), ("scale", 4, 4)]:
            got = getattr(self, field)
            if not isinstance(got, int) or not low <= got <= high:
                raise ModelRefused(f"spec has {field} {got!r}; possible: {low} to {high}")
        for field in ("name", "quantized_from", "licence"):
            if not isinstance(got := getattr(self, field), str):
                raise ModelRefused(f"spec has {field} {got!r}; possible: a text")
        if self.quantized_from and self.norm != "none":
            raise ModelRefused(f"spec has norm {self.norm!r} in INT8; possible: 'none'")
        if self.halo_px is not None and not 0 <= self.halo_px <= self.receptive_radius_px:
            raise ModelRefused(
                f"spec has halo_px {self.halo_px}; possible: 0 to {self.receptive_radius_px}"
            )

    @property
    def receptive_radius_px(self) -> int:
        """How many LR pixels away from its own an output pixel can look, rounded up.

        At a halo of this size a tile holds everything its core depends on, so tiled and untiled
        results are the same sums.
        """
        if self.architecture == "edge":
            return self.blocks + 2  # 3x3 convolutions in LR space: one pixel each
        reach = Fraction(4)  # 9x9 head
        reach += 2 * self.blocks + 1  # two 3x3 a block, and the one that closes the trunk
        reach += 1 + Fraction(1, 2)  # the 3x3 before each PixelShuffle, at 1x and 2x
        reach += Fraction(4, 4)  # 9x9 tail at 4x
        return math.ceil(reach)

    @property
    def may_shift_colors(self) -> bool:
        """Whether anything but pixels may have trained it: a discriminator lets colors drift.

        So for all weights of unknown origin, and for all recipes but those known to be of pixels.
        """
        if self.training is None:
            return True
        recipe, *_ = re.split(r"[^\w-]", self.training.recipe)  # what follows tells more
        return recipe not in PIXEL_RECIPES

    @property
    def auto_halo_px(self) -> int:
        """The halo `--overlap auto` uses: as measured, else exact."""
        return self.receptive_radius_px if self.halo_px is None else self.halo_px

    def to_json(self) -> str:
        """One JSON object, keys sorted; the computed radius is included for readers without us."""
        record = dataclasses.asdict(self) | {"receptive_radius_px": self.receptive_radius_px}
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ModelRefused: the text is not JSON, has unknown or missing fields, or states a
                receptive radius other than the one that follows from the architecture.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            stated_radius = record.pop("receptive_radius_px")
            if record.get("training") is not None:
                record["training"] = Training(**record["training"])
            spec = cls(**record)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ModelRefused(f"model metadata is not a srgan-edge spec: {error}") from None
        if stated_radius != spec.receptive_radius_px:
            raise ModelRefused(
                f"spec states a receptive radius of {stated_radius} px, but {spec.architecture} "
                f"with {spec.blocks} blocks has {spec.receptive_radius_px} px: the file was edited"
            )
        return spec


def activation_bytes_per_px(spec: ModelSpec) -> int:
    """About how many bytes of float32 the widest moment of the network holds per LR pixel.

    Two neighboring tensors live at a time. The widest are, for the paper's generator, the two
    sides of the last PReLU at full size; for the edge network, the last convolution's output, its
    shuffled copy and the enlarged input.
    """
    values = 3 * 3 * spec.scale**2
    if spec.architecture == "srresnet":
        values = 2 * spec.channels * spec.scale**2
    return 4 * values


def multiplications_per_px(spec: ModelSpec) -> int:
    """About how many the network takes for a pixel of the input."""
    convolution = 9 * spec.channels**2
    if spec.architecture == "srresnet":  # two a block, one behind, two that enlarge, and the tail
        tail = 9 * 9 * spec.channels * 3 * spec.scale**2
        return (2 * spec.blocks + 1 + 4 + 4 * 4) * convolution + tail
    return spec.blocks * convolution + 9 * spec.channels * 3 * spec.scale**2
