"""Reading the ModelSpec out of any artefact, with the standard library alone.

An edge box has neither torch, onnx nor safetensors; it must still be able to say what a file is.
Safetensors keeps its metadata in a JSON header; what is in an ONNX file, `onnx_file` reads.
"""

import json
from pathlib import Path
from typing import Any

from srgan_edge.errors import ModelRefused
from srgan_edge.files import foreign, open_model
from srgan_edge.onnx_file import read_onnx_spec
from srgan_edge.passport import ENGINE_SUFFIX, read_passport
from srgan_edge.spec import METADATA_KEY, ModelSpec

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files of `torch.save` begin, today's and older ones."""


def read_spec(path: Path) -> ModelSpec:
    """The spec of a `.safetensors`, `.onnx` or `.engine` file, of the latter by its passport.

    Raises:
        ModelRefused: no such file, another format, damaged, or made by another program.
    """
    if path.suffix == ".safetensors":
        return read_safetensors_spec(path)
    if path.suffix == ".onnx":
        return read_onnx_spec(path)
    if path.suffix in {".pth", ".pt", ".ckpt"}:
        raise ModelRefused(f"{path}: pickled weights can run code; type: srgan-edge convert {path}")
    if path.suffix == ENGINE_SUFFIX:
        return read_passport(path).spec
    raise ModelRefused(
        f"{path}: unknown kind of model file; possible: .safetensors, .onnx, .engine"
    )


def read_safetensors_spec(path: Path) -> ModelSpec:
    """The spec in a safetensors header, which is checked against our own limits first."""
    with open_model(path) as file:
        return safetensors_spec(path, file.read(8 + MAX_HEADER_BYTES))


def safetensors_spec(path: Path, content: bytes) -> ModelSpec:
    """The same of a file whose content, or as much as the largest header, is in memory.

    Raises:
        ModelRefused: not a safetensors file, damaged, too many tensors, or of another program.
    """
    length = int.from_bytes(content[:8], "little") if len(content) >= 8 else 0
    if content.startswith(_PICKLES):
        raise ModelRefused(
            f"{path}: looks like a pickle, which can run code, and no safetensors file; "
            f"type: srgan-edge convert {path}"
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
