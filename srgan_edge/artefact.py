"""Reading the ModelSpec out of any artefact, with the standard library alone.

An edge box has neither torch, onnx nor safetensors; it must still be able to say what a file is.
Safetensors keeps its metadata in a JSON header; what is in an ONNX file, `onnx_file` reads.
"""

import json
import struct
from pathlib import Path
from typing import Any

from srgan_edge.errors import ModelRefused
from srgan_edge.model_file import foreign
from srgan_edge.onnx_file import read_onnx_spec
from srgan_edge.passport import ENGINE_SUFFIX, read_passport
from srgan_edge.spec import METADATA_KEY, ModelSpec

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096


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
    with _open(path) as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ModelRefused(f"{path}: not a safetensors file (header of {length} bytes)")
        text = file.read(length)
    try:
        header: dict[str, Any] = json.loads(text, object_pairs_hook=_unique_keys)
        metadata = header.pop("__metadata__", {})
        spec_text = metadata[METADATA_KEY]
    except KeyError:
        raise foreign(path) from None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelRefused(f"{path}: damaged safetensors header: {error}") from None
    if len(header) > MAX_TENSORS:
        raise ModelRefused(f"{path}: {len(header)} tensors; at most {MAX_TENSORS}")
    return ModelSpec.from_json(spec_text)


def _open(path: Path) -> Any:  # noqa: ANN401 - a binary file; typing.IO adds nothing here
    try:
        return path.open("rb")
    except OSError as error:
        raise ModelRefused(f"{path}: {error.strerror}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a name occurs twice")
    return dict(pairs)
