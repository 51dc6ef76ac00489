"""Reading the ModelSpec out of any artefact, with the standard library alone.

An edge box has neither torch, onnx nor safetensors; it must still be able to say what a file is.
Both formats keep their metadata where a few lines can reach it: safetensors in a JSON header, ONNX
in field 14 of one protobuf message.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srgan_edge.errors import ModelRefused
from srgan_edge.spec import METADATA_KEY, ModelSpec

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_ONNX_BYTES = 1 << 30


def read_spec(path: Path) -> ModelSpec:
    """The spec of a `.safetensors` or `.onnx` file.

    Raises:
        ModelRefused: no such file, another format, damaged, or made by another program.
    """
    if path.suffix == ".safetensors":
        return read_safetensors_spec(path)
    if path.suffix == ".onnx":
        return read_onnx_spec(path)
    if path.suffix in {".pth", ".pt", ".ckpt"}:
        raise ModelRefused(f"{path}: pickled weights can run code; type: srgan-edge convert {path}")
    raise ModelRefused(f"{path}: unknown kind of model file; possible: .safetensors, .onnx")


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
        raise _foreign(path) from None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ModelRefused(f"{path}: damaged safetensors header: {error}") from None
    if len(header) > MAX_TENSORS:
        raise ModelRefused(f"{path}: {len(header)} tensors; at most {MAX_TENSORS}")
    return ModelSpec.from_json(spec_text)


def read_onnx_spec(path: Path) -> ModelSpec:
    """The spec in an ONNX file's `metadata_props`."""
    if path.is_file() and path.stat().st_size > MAX_ONNX_BYTES:
        raise ModelRefused(f"{path}: larger than {MAX_ONNX_BYTES} bytes")
    with _open(path) as file:
        message = file.read()
    try:
        for number, value in _protobuf_fields(message):
            if number == 14:  # ModelProto.metadata_props: repeated StringStringEntryProto
                entry = dict(_protobuf_fields(value))
                if entry.get(1) == METADATA_KEY.encode():
                    return ModelSpec.from_json(entry[2].decode())
    except (IndexError, KeyError, ValueError) as error:
        raise ModelRefused(f"{path}: not an ONNX file, or a damaged one ({error})") from None
    raise _foreign(path)


def _open(path: Path) -> Any:  # noqa: ANN401 - a binary file; typing.IO adds nothing here
    try:
        return path.open("rb")
    except OSError as error:
        raise ModelRefused(f"{path}: {error.strerror}") from None


def _foreign(path: Path) -> ModelRefused:
    return ModelRefused(
        f"{path}: carries no srgan-edge spec, so its scale and value range are unknown; "
        "make it with `srgan-edge export` or `srgan-edge convert`"
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _protobuf_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, payload) of each length-delimited field; the other kinds are passed over.

    The wire format: https://protobuf.dev/programming-guides/encoding/
    """
    view = memoryview(message)
    position = 0
    while position < len(view):
        key, position = _varint(view, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, position = _varint(view, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            length, position = _varint(view, position)
            if position + length > len(view):
                raise ValueError("it ends early")
            yield number, bytes(view[position : position + length]) if number != 7 else b""
            position += length
        else:
            raise ValueError(f"wire type {kind}")


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if not byte & 0x80:
            return value, position
        shift += 7
    raise ValueError("a number is too long")
