"""Turn records that others wrote, parsed JSON or TOML, into our dataclasses, or refuse them."""

import json
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MISTAKES = (ValueError, TypeError, RecursionError)
"""The errors of `from_json` and `from_record`; those of msgspec are among them."""


def from_json(text: str | bytes, kind: type[T]) -> T:
    """Parse JSON as `from_record` reads it.

    Raises:
        ValueError, TypeError, RecursionError: it is not JSON, or nested too deeply, or as
            `from_record`.
    """
    return from_record(json.loads(text), kind)


def from_record(record: object, kind: type[T]) -> T:
    """Return the dataclass that a record describes; nothing is converted or left out silently.

    Raises:
        ValueError, TypeError: a field is missing, unknown, or of another type.
    """
    result = msgspec.convert(record, kind)
    if unknown := _unknown(record, msgspec.to_builtins(result)):
        raise ValueError(f"unknown field {unknown!r}")
    return result


def _unknown(record: Any, known: Any) -> str | None:  # noqa: ANN401 - any JSON
    """Return the first key of the record that the result lacks, or None."""
    if isinstance(record, dict) and isinstance(known, dict):
        for key, value in record.items():
            if key not in known:
                return str(key)
            if inner := _unknown(value, known[key]):
                return inner
    if isinstance(record, list) and isinstance(known, list):
        pairs = zip(record, known, strict=False)
        return next((found for one in pairs if (found := _unknown(*one))), None)
    return None
