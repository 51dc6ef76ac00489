"""A training recipe: every choice that decides the weights, as frozen values read from TOML.

The recipes that ship lie in `recipes/*.toml`; any value can be replaced from the command line as
`--set section.key=value`. Unknown keys are errors, so a typing slip cannot train for a day.
"""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from srgan_edge.errors import UsageError
from srgan_edge.spec import ModelSpec

RECIPES_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Data:
    """What the network sees."""

    crop_px: int = 96
    """Side of an HR crop; a multiple of the scale."""
    batch: int = 16
    """Crops a step."""
    seed: int = 0
    """With the step number it decides every crop, flip and turn."""


@dataclass(frozen=True)
class PixelPhase:
    """Fit to the pixels: the SRResNet stage of the paper, with L1 instead of MSE by default."""

    steps: int = 100_000
    loss: Literal["l1", "mse"] = "l1"
    learning_rate: float = 2e-4
    """Peak; it warms up over `warmup_steps` and falls to zero along a cosine."""
    warmup_steps: int = 200
    ema_decay: float = 0.999
    """The exponential moving average of the weights is what is evaluated and released."""


@dataclass(frozen=True)
class Run:
    """How it is computed and watched."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the hardware has it (emulated, it is ten times slower), else fp32."""
    log_every_steps: int = 100
    validate_every_steps: int = 2_000
    checkpoint_every_steps: int = 1_000


@dataclass(frozen=True)
class Recipe:
    """Everything `srgan-edge train` needs besides the photographs."""

    name: str
    model: ModelSpec
    data: Data = Data()
    pixel: PixelPhase = PixelPhase()
    run: Run = Run()

    def __post_init__(self) -> None:
        if self.data.crop_px % self.model.scale or self.data.crop_px < 4 * self.model.scale:
            raise UsageError(
                f"data.crop_px is {self.data.crop_px}; it must be a multiple of "
                f"{self.model.scale} and at least {4 * self.model.scale}"
            )

    @classmethod
    def load(cls, name: str, overrides: list[str] | None = None) -> Self:
        """The shipped recipe `name`, or a TOML file, with `section.key=value` overrides.

        Raises:
            UsageError: no such recipe, an unknown key, or a value of another type.
        """
        path = Path(name) if name.endswith(".toml") else RECIPES_FOLDER / f"{name}.toml"
        try:
            table = tomllib.loads(path.read_text())
        except OSError:
            known = sorted(recipe.stem for recipe in RECIPES_FOLDER.glob("*.toml"))
            raise UsageError(f"no recipe {name!r}; possible: {', '.join(known)}") from None
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path}: {error}") from None
        for override in overrides or []:
            _apply(table, override)
        sections = {"data": Data, "pixel": PixelPhase, "run": Run}
        if unknown := table.keys() - sections.keys() - {"model"}:
            raise UsageError(f"{path}: unknown section {sorted(unknown)[0]!r}")
        return cls(
            name=path.stem,
            model=_build(ModelSpec, table.get("model", {}), "model"),
            **{key: _build(kind, table.get(key, {}), key) for key, kind in sections.items()},
        )


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
    """One dataclass from one TOML table, each value checked against its field's type."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; possible: {', '.join(fields)}"
            raise UsageError(f"unknown recipe key {section}.{key}{hint}")
        default = fields[key].default
        if isinstance(default, float) and isinstance(value, int):
            values[key] = float(value)
        elif default not in (dataclasses.MISSING, None) and type(value) is not type(default):
            raise UsageError(
                f"{section}.{key} is {value!r}; it must be of type {type(default).__name__}"
            )
    return kind(**values)
