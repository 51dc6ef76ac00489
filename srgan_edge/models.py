"""Models by name or by path: the bundled ones, and any file a user points at."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from srgan_edge.artefact import read_spec
from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.spec import ModelSpec

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
DEFAULT_MODEL = "srgan-x4"
SUFFIXES = (".onnx", ".safetensors")


@dataclass(frozen=True)
class ModelFiles:
    """One model in the forms there are of it."""

    name: str
    files: dict[str, Path]
    """Path by suffix; never empty."""

    @property
    def spec(self) -> ModelSpec:
        return read_spec(next(iter(self.files.values())))

    def has(self, suffix: str) -> bool:
        return suffix in self.files

    def file(self, suffix: str) -> Path:
        """The file of one kind.

        Raises:
            ModelRefused: there is none; the message says how to make it.
        """
        if suffix not in self.files:
            have = next(iter(self.files.values()))
            advice = f"; type: srgan-edge export {have} --onnx" if suffix == ".onnx" else ""
            raise ModelRefused(f"{self.name} has no {suffix} file, only {have.name}{advice}")
        return self.files[suffix]


def bundled_models() -> dict[str, ModelFiles]:
    """The models inside the package, by name."""
    models: dict[str, ModelFiles] = {}
    for path in sorted(WEIGHTS_FOLDER.iterdir()):
        if path.suffix in SUFFIXES:
            models.setdefault(path.stem, ModelFiles(path.stem, {})).files[path.suffix] = path
    return models


def find_model(name_or_path: str) -> ModelFiles:
    """A bundled model by name, or the one in a file.

    Raises:
        UsageError: neither; the nearest name is suggested.
        ModelRefused: a file of a kind that is not ours.
    """
    bundled = bundled_models()
    if name_or_path in bundled:
        return bundled[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        read_spec(path)  # refuse a foreign file now, by name
        return ModelFiles(path.stem, {path.suffix: path})
    near = difflib.get_close_matches(name_or_path, bundled, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"possible: {', '.join(bundled)}, or a file"
    raise UsageError(f"no model {name_or_path!r}; {hint}")
