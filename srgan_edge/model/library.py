"""Find models by name or path, and read the spec of any model file.

Reading a spec needs neither torch nor safetensors, which an edge device may not have. Safetensors
keep their metadata in a JSON header; `onnx_file` reads ONNX.
"""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srgan_edge.errors import ModelRefused, UsageError, quoted
from srgan_edge.files import foreign, open_model
from srgan_edge.model import store
from srgan_edge.model.onnx_file import read_onnx_spec
from srgan_edge.model.passport import ENGINE_SUFFIX, read_passport
from srgan_edge.model.spec import METADATA_KEY, ModelSpec

WEIGHTS_FOLDER = Path(__file__).parent.parent / "weights"
DEFAULT_MODEL = "srgan-x4"
SUFFIXES = (".onnx", ".safetensors")

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of files from `torch.save`, today's and older ones."""


@dataclass(frozen=True)
class ModelFiles:
    """One model in all of its file formats."""

    name: str
    files: dict[str, Path]
    """Paths by suffix; never empty."""

    @property
    def spec(self) -> ModelSpec:
        """The spec in the file that is quickest to read."""
        return read_spec(self.files.get(".safetensors") or next(iter(self.files.values())))

    def has(self, suffix: str) -> bool:
        return suffix in self.files

    def file(self, suffix: str) -> Path:
        """Return the file with this suffix.

        Raises:
            ModelRefused: there is none; the message has the command that creates it.
        """
        if suffix not in self.files:
            have = next(iter(self.files.values()))
            advice = f"; type: srgan-edge export {quoted(have)} --onnx" if suffix == ".onnx" else ""
            raise ModelRefused(f"{self.name} has no {suffix} file, only {have.name}{advice}")
        return self.files[suffix]


def bundled_models() -> dict[str, ModelFiles]:
    """Return the models inside the package, by name."""
    models: dict[str, ModelFiles] = {}
    for path in sorted(WEIGHTS_FOLDER.iterdir()):
        if path.suffix in SUFFIXES:
            models.setdefault(path.stem, ModelFiles(path.stem, {})).files[path.suffix] = path
    return models


def registered_models() -> dict[str, ModelFiles]:
    """Return the models that the user registered, by name."""
    return {name: ModelFiles(name, files) for name, files in store.registered_models().items()}


def find_model(name_or_path: str, *, allow_network: bool = False) -> ModelFiles:
    """Return a bundled or registered model by name, or the model in a file or at an address.

    Args:
        allow_network: download what an address names, if it is not in the cache.

    Raises:
        UsageError: it is none of these; the message suggests the nearest name.
        ModelRefused: the file is not one of our models.
        SrganEdgeError: as `store.downloaded`.
    """
    bundled = registered_models() | bundled_models()
    if name_or_path in bundled:
        return bundled[name_or_path]
    if store.is_model_address(name_or_path):
        path = store.downloaded(name_or_path, allow_network=allow_network)
    else:
        path = Path(name_or_path)
    if path.is_file():
        read_spec(path)  # refuse a foreign file now, with its name
        return ModelFiles(path.stem, {path.suffix: path})
    if path.suffix in (*SUFFIXES, ENGINE_SUFFIX) and path.stem not in bundled:
        raise UsageError(f"no model {name_or_path!r}: no such file; possible: {', '.join(bundled)}")
    near = difflib.get_close_matches(name_or_path, bundled, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"possible: {', '.join(bundled)}, or a file"
    raise UsageError(f"no model {name_or_path!r}; {hint}")


def read_spec(path: Path) -> ModelSpec:
    """Return the spec of a `.safetensors` or `.onnx` file, or of an engine by its passport.

    Raises:
        ModelRefused: there is no such file, or it has another format, is damaged, or was made by
            another program.
    """
    if path.suffix == ".safetensors":
        return read_safetensors_spec(path)
    if path.suffix == ".onnx":
        return read_onnx_spec(path)
    if path.suffix in {".pth", ".pt", ".ckpt"}:
        raise ModelRefused(
            f"{path}: pickled weights can run code; type: srgan-edge convert {quoted(path)}"
        )
    if path.suffix == ENGINE_SUFFIX:
        return read_passport(path).spec
    raise ModelRefused(
        f"{path}: unknown kind of model file; possible: .safetensors, .onnx, .engine"
    )


def read_safetensors_spec(path: Path) -> ModelSpec:
    """Return the spec in a safetensors header, which is checked against our limits first."""
    with open_model(path) as file:
        return safetensors_spec(path, file.read(8 + MAX_HEADER_BYTES))


def safetensors_spec(path: Path, content: bytes) -> ModelSpec:
    """Return the spec in the content of a safetensors file, or in its first bytes.

    Args:
        path: the file, for error messages.
        content: at least the length and the header, up to `MAX_HEADER_BYTES`.

    Raises:
        ModelRefused: the file is not safetensors, is damaged, has too many tensors, or was made by
            another program.
    """
    length = int.from_bytes(content[:8], "little") if len(content) >= 8 else 0
    if content.startswith(_PICKLES) and content[8:9] != b"{":  # a header length may look the same
        raise ModelRefused(
            f"{path}: looks like a pickle, which can run code, not like a safetensors file; "
            f"type: srgan-edge convert {quoted(path)}"
        )
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise ModelRefused(f"{path}: not a safetensors file (header of {length} bytes)")
    try:
        header: dict[str, Any] = json.loads(content[8 : 8 + length], object_pairs_hook=_unique_keys)
        metadata = header.pop("__metadata__", {})
        spec_text = metadata[METADATA_KEY]
    except KeyError:
        raise foreign(path) from None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelRefused(f"{path}: damaged safetensors header: {error}") from None
    if len(header) > MAX_TENSORS:
        raise ModelRefused(f"{path}: {len(header)} tensors; at most {MAX_TENSORS}")
    return ModelSpec.from_json(spec_text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a name occurs twice")
    return dict(pairs)
