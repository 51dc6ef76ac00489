"""A training recipe: every choice that determines the weights, read from TOML.

Shipped recipes are in `recipes/*.toml`; the command line replaces any value with
`--set section.key=value`. Unknown keys are errors, so that a typo cannot train for a day.
"""

import dataclasses
import difflib
import math
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from srgan_edge.errors import UsageError
from srgan_edge.model.spec import ModelSpec
from srgan_edge.train.degradation import RealDegradation
from srgan_edge.train.losses import AdversarialLoss, Distance
from srgan_edge.train.optimizer import OptimizerKind
from srgan_edge.train.sources import Sources

RECIPES_FOLDER = Path(__file__).parent / "recipes"
LOSSES = ("l1", "mse", "perceptual", "distillation", "adversarial")
"""Losses that can lead a phase; total variation, consistency, grid and spectrum cannot."""

PARTS = {"srresnet": ("head", "trunk", "upsample", "tail"), "edge": ("body", "tail")}
"""The parts of each architecture, from the image on."""


@dataclass(frozen=True)
class Data:
    """The training data that the network sees."""

    crop_px: int = 96
    """Side of an HR crop; a multiple of the scale."""
    batch: int = 16
    """Crops per step, over all processes together."""
    seed: int = 0
    """With the step and the index in the batch it determines every crop, flip, turn and defect."""
    reduced: tuple[float, ...] = ()
    """Factors of further, smaller copies of each photograph, with more detail per pixel."""
    candidates: int = 1
    """Number of candidates for each crop, of which the busiest is taken; 2 gained 0.02 to
    0.03 dB."""
    degradation: Literal["bicubic", "real", "sources"] = "bicubic"
    """The source of LR: MATLAB's bicubic interpolation of HR alone; `real`, after the defects of
    `[degradation]`; or `sources`, made once for all steps with real encoders, see `[sources]`."""
    teacher: str = ""
    """A model by name or path for the generator to imitate; empty: none. Several, separated by
    commas, are averaged."""


@dataclass(frozen=True)
class Phase:
    """The settings that both phases share: length, learning rate, and the weight of each loss.

    A loss of weight zero is not computed. All are means over pixels or features, RGB in [0, 1].
    """

    steps: int = 0
    """0: the recipe has no such phase."""
    learning_rate: float = 2e-4
    """Peak; it warms up over `warmup_steps`, then decays."""
    warmup_steps: int = 200
    decay: Literal["cosine", "constant", "halfway"] = "cosine"
    """cosine: to zero at the last step. halfway: a tenth from the middle on, as the paper's GAN."""
    optimizer: OptimizerKind = "adam"
    """The generator's optimizer. muon: for small students, which need several times fewer steps."""
    parts: tuple[str, ...] = ()
    """Parts of the generator that learn, see `PARTS`; empty: all. What lies before them is computed
    without gradients, which leaves a third of the work for the last layers of an SRResNet."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, which is evaluated and released."""
    l1: float = 0.0
    mse: float = 0.0
    perceptual: float = 0.0
    """Distance of VGG features; see `[perceptual]`."""
    total_variation: float = 0.0
    consistency: float = 0.0
    """L1 between the result, reduced again by bicubic interpolation, and its LR, undamaged."""
    grid: float = 0.0
    """Mean amplitude of patterns with the period of the scale, such as checkerboards."""
    spectrum: float = 0.0
    """Difference in the strength of detail of each size; sees meshes of any period."""
    distillation: float = 0.0
    """L1 to the image of `data.teacher`."""


@dataclass(frozen=True)
class PixelPhase(Phase):
    """The generator alone: the SRResNet stage of the paper."""

    leak: float = 0.0
    """Slope of ReLU below zero at the first step, from 0 to 1, so that features that no input
    passes go on learning. It falls along a line, and is zero from seven tenths of the steps on."""


@dataclass(frozen=True)
class AdversarialPhase(Phase):
    """Generator against discriminator, one update of each per step (paper, section 3.2)."""

    adversarial: float = 1e-3
    """Weight of the adversarial loss once `ramp_steps` have passed."""
    ramp_steps: int = 0
    """The weight grows along a straight line from zero, while the discriminator catches up."""
    adversarial_loss: AdversarialLoss = "vanilla"
    """vanilla: the paper's equation 2, non-saturating. relativistic: average, as in ESRGAN."""
    discriminator: Literal["paper", "unet"] = "paper"
    discriminator_channels: int = 64
    """Width of the first layer."""
    discriminator_learning_rate: float = 1e-4
    """Peak; it follows the generator's warm-up and decay."""


@dataclass(frozen=True)
class Perceptual:
    """The VGG distance (paper, section 2.2.1)."""

    layers: tuple[str, ...] = ("conv5_4",)
    """phi(i, j) is `conv{i}_{j}`: the j-th convolution before the i-th pooling."""
    layer_weights: tuple[float, ...] = (1.0,)
    """One for each layer."""
    before_relu: bool = False
    """The paper takes features after the activation; ESRGAN before it, where all are active."""
    distance: Distance = "mse"
    """cosine compares which features are present, not how strong they are."""
    shifted: bool = False
    """Compare a window that is 16 px smaller and moves each step: see `losses.shifted_window`."""


@dataclass(frozen=True)
class Run:
    """The computation and monitoring of the run."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the hardware supports it (emulated, it is ten times slower), else fp32."""
    compile: Literal["none", "inductor", "cudagraphs"] = "none"
    log_every_steps: int = 100
    validate_every_steps: int = 2_000
    checkpoint_every_steps: int = 1_000
    checkpoints_kept: int = 2
    """Number of newest checkpoints kept, besides the best one by validation."""
    skips_before_rollback: int = 20
    """Consecutive steps without finite gradients that lead back to the last checkpoint."""


_ONE_OR_MORE = (
    "data.batch",
    *("run.log_every_steps", "run.validate_every_steps", "run.checkpoint_every_steps"),
    *("run.checkpoints_kept", "run.skips_before_rollback"),
)

_DEGRADATION = RealDegradation()
_SOURCES = Sources()


@dataclass(frozen=True)
class Recipe:
    """Everything `srgan-edge train` needs besides the photographs."""

    name: str
    model: ModelSpec
    data: Data = Data()
    degradation: RealDegradation = _DEGRADATION
    sources: Sources = _SOURCES
    pixel: PixelPhase = PixelPhase()
    adversarial: AdversarialPhase = AdversarialPhase()
    perceptual: Perceptual = Perceptual()
    run: Run = Run()

    def __post_init__(self) -> None:
        _refuse_numbers(self)
        if self.data.crop_px % self.model.scale or self.data.crop_px < 4 * self.model.scale:
            raise UsageError(
                f"data.crop_px is {self.data.crop_px}; it must be a multiple of "
                f"{self.model.scale} and at least {4 * self.model.scale}"
            )
        if not 1 <= self.data.candidates <= 16:
            raise UsageError(f"data.candidates is {self.data.candidates}; possible: 1 to 16")
        if len(self.perceptual.layers) != len(self.perceptual.layer_weights):
            raise UsageError(
                f"perceptual.layers names {len(self.perceptual.layers)} layers, "
                f"perceptual.layer_weights holds {len(self.perceptual.layer_weights)} numbers"
            )
        if self.pixel.leak > 1 or (self.pixel.leak and self.model.activation != "relu"):
            raise UsageError(
                f"pixel.leak is {self.pixel.leak} and model.activation {self.model.activation!r}; "
                "possible: 0 to 1, with 'relu'"
            )
        if not self.phases:
            raise UsageError("the recipe has no steps; set pixel.steps or adversarial.steps")
        for section, phase in self.phases.items():
            if not any(getattr(phase, loss) for loss in LOSSES if hasattr(phase, loss)):
                raise UsageError(f"[{section}] has no loss; set one of {', '.join(LOSSES)}")
            if unknown := set(phase.parts) - set(PARTS[self.model.architecture]):
                raise UsageError(
                    f"{section}.parts names {sorted(unknown)[0]!r}; possible for "
                    f"{self.model.architecture}: {', '.join(PARTS[self.model.architecture])}"
                )
            if phase.distillation and not self.data.teacher:
                raise UsageError(f"{section}.distillation needs data.teacher, a model to imitate")

    @property
    def phases(self) -> dict[str, Phase]:
        """The phases that have steps, in order."""
        return {
            section: phase
            for section, phase in [("pixel", self.pixel), ("adversarial", self.adversarial)]
            if phase.steps
        }

    @property
    def steps(self) -> int:
        """Number of steps of both phases."""
        return self.pixel.steps + self.adversarial.steps

    def adversarial_alone(self) -> Self:
        """Return the recipe without its pixel phase, for weights that have completed one."""
        return dataclasses.replace(self, pixel=dataclasses.replace(self.pixel, steps=0))

    @property
    def flat(self) -> dict[str, str]:
        """Every choice as `section.key`, to show how two recipes differ."""
        return {
            f"{section}.{key}": repr(value)
            for section, table in dataclasses.asdict(self).items()
            if isinstance(table, dict)
            for key, value in table.items()
        }

    @classmethod
    def load(cls, name: str, overrides: list[str] | None = None) -> Self:
        """Return the shipped recipe `name`, or a TOML file, with `section.key=value` overrides.

        Raises:
            UsageError: no such recipe, an unknown key, or a value of another type.
        """
        path = Path(name) if name.endswith(".toml") else RECIPES_FOLDER / f"{name}.toml"
        try:
            if not path.is_file():  # reading a pipe would wait for a writer
                raise FileNotFoundError
            table = tomllib.loads(path.read_text())
        except OSError:
            raise UsageError(
                f"no recipe {name!r}; possible: {', '.join(shipped_recipes())}, or a TOML file"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}") from None
        named = _name_and_scale(table)
        for override in overrides or []:
            _apply(table, override)
        _rename(table, *named)
        kinds: dict[str, type[Any]] = get_type_hints(cls)
        sections = {key: kind for key, kind in kinds.items() if dataclasses.is_dataclass(kind)}
        if unknown := table.keys() - sections.keys():
            raise UsageError(
                f"{path}: unknown section {sorted(unknown)[0]!r}; possible: {', '.join(sections)}"
            )
        return cls(
            name=path.stem,
            **{key: _build(kind, table.get(key, {}), key) for key, kind in sections.items()},
        )


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.toml"))


def _refuse_numbers(recipe: Recipe) -> None:
    """Raise at a number with which no run can end well, before any of its work.

    Raises:
        UsageError: it is negative, not finite, or 0 where there must be one.
    """
    for section in ("data", "pixel", "adversarial", "perceptual", "run"):
        for field in dataclasses.fields(table := getattr(recipe, section)):
            value, key = getattr(table, field.name), f"{section}.{field.name}"
            for number in value if isinstance(value, tuple) else [value]:
                least = 1 if key in _ONE_OR_MORE else 0
                if isinstance(number, int | float) and not least <= number < math.inf:
                    raise UsageError(f"{key} is {number}; possible: {least} or more")


def _name_and_scale(table: dict[str, Any]) -> tuple[Any, Any]:
    model = table.get("model")
    return (model.get("name"), model.get("scale", 4)) if isinstance(model, dict) else (None, 4)


def _rename(table: dict[str, Any], name: Any, scale: Any) -> None:  # noqa: ANN401 - TOML's
    """Let the model's name follow its scale: `edge-x4` at a scale of 2 is `edge-x2`."""
    now, other = _name_and_scale(table)
    if isinstance(name, str) and now == name and other != scale and name.endswith(f"-x{scale}"):
        table["model"]["name"] = f"{name.removesuffix(f'-x{scale}')}-x{other}"


def _apply(table: dict[str, Any], override: str) -> None:
    """Set one `section.key=value`; the value is TOML, or else a plain string."""
    path, separator, text = override.partition("=")
    section, dot, key = path.partition(".")
    if not (separator and dot and key):
        raise UsageError(f"--set {override!r}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table.setdefault(section, {})[key] = value


def _build(kind: type[Any], values: dict[str, Any], section: str) -> Any:  # noqa: ANN401
    """Return one dataclass from one TOML table, each value checked against its field's type."""
    if not isinstance(values, dict):
        raise UsageError(f"{section!r} is not a section of the recipe but {values!r}")
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; possible: {', '.join(hints)}"
            raise UsageError(f"unknown recipe key {section}.{key}{hint}")
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"the recipe lacks {section}.{missing[0]}")
    return kind(
        **{key: _fitted(value, hints[key], f"{section}.{key}") for key, value in values.items()}
    )


def _fitted(value: Any, hint: Any, key: str) -> Any:  # noqa: ANN401 - TOML's and typing's
    """Return a TOML value as the type that the field is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{key} is {value!r}; possible: {', '.join(map(repr, arguments))}")
        return value
    if origin is types.UnionType:  # X | None, and TOML has no None
        return _fitted(value, arguments[0], key)
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{key} is {value!r}; it must be a list")
        elements = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        if len(value) != len(elements):
            raise UsageError(f"{key} is {value!r}; it must hold {len(elements)} values")
        return tuple(_fitted(part, kind, key) for part, kind in zip(value, elements, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UsageError(f"{key} is {value!r}; it must be of type {hint.__name__}")
    return value
