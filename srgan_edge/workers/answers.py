"""Answers of workers: a result, or an error of ours by its name and text."""

import json
import traceback
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import msgspec

from srgan_edge.errors import (
    EngineLost,
    HostMemoryExhausted,
    InputDamaged,
    InputRefused,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
    SrganEdgeError,
    UsageError,
    lacks_memory,
)

T = TypeVar("T")

_ERRORS: dict[str, type[SrganEdgeError]] = {
    kind.__name__: kind
    for kind in (
        *(UsageError, InputRefused, InputDamaged, OutputFailed, ModelRefused),
        *(EngineLost, ResourcesExhausted),
    )
}


class _Answer(msgspec.Struct):
    result: Any = None
    error: str = ""
    text: str = ""


def answer_of(call: Callable[[], object]) -> bytes:
    """Return what a call returns or raises, as JSON."""
    try:
        answer = _Answer(call())
    except SrganEdgeError as error:
        kinds = (it.__name__ for it in type(error).__mro__)
        name = next((it for it in kinds if it in _ERRORS), ResourcesExhausted.__name__)
        answer = _Answer(error=name, text=str(error))
    except Exception as error:
        if lacks_memory(error):
            answer = _Answer(error=ResourcesExhausted.__name__, text=str(HostMemoryExhausted()))
        else:
            answer = _Answer(error="bug", text=traceback.format_exc()[-4000:])
    return encoded(answer)


def result_of(data: bytes, kind: type[T], worker: str) -> T | SrganEdgeError:
    """Return the result, or the error of ours, in an answer.

    Raises:
        RuntimeError: the worker met a bug; it has the traceback.
    """
    answer = decoded(data, _Answer)
    if not answer.error:
        return msgspec.convert(answer.result, kind, dec_hook=_from_json)
    if answer.error not in _ERRORS:
        raise RuntimeError(f"in the worker {worker}: {answer.text}")
    return _ERRORS[answer.error](answer.text)


def encoded(message: object) -> bytes:
    """Return a dataclass as JSON; names of files may have bytes that are not UTF-8."""
    return json.dumps(msgspec.to_builtins(message, enc_hook=_to_json)).encode()


def decoded(data: bytes, kind: type[T]) -> T:
    """Return the dataclass that `encoded` was given."""
    return msgspec.convert(json.loads(data), kind, dec_hook=_from_json)


def _to_json(value: Any) -> Any:  # noqa: ANN401 - values that JSON lacks
    if isinstance(value, Fraction):
        return [value.numerator, value.denominator]
    raise TypeError(f"{type(value)} in a message")


def _from_json(kind: type, value: Any) -> Any:  # noqa: ANN401
    if kind is Fraction:
        return Fraction(*value)
    raise TypeError(f"{kind} in a message")
