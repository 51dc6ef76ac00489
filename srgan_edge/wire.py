"""Values as JSON and raw bytes, checked against their types when they come back.

What a process sends that reads strangers' files may be anything, so nothing here builds an object
that its receiver did not ask for by type (a pickle would run what it says). Fields are numbers,
texts, fractions, tuples, dictionaries, dataclasses of these, and arrays and bytes, which lie apart.
"""

import dataclasses
import math
import types
from fractions import Fraction
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Json = Any
"""What `json.loads` returns."""

_ALIGNMENT = 64
_DTYPES = ("uint8", "uint16")
_NONE = memoryview(b"")
_INT64 = range(-(2**63), 2**63)


class Heap:
    """The arrays of one value, one after another."""

    def __init__(self) -> None:
        self.size = 0
        """In bytes, gaps included."""
        self._pieces: list[tuple[int, npt.NDArray[Any]]] = []

    def add(self, array: npt.NDArray[Any]) -> int:
        """Keep an array; returns where it will lie."""
        offset = -(-self.size // _ALIGNMENT) * _ALIGNMENT
        self._pieces.append((offset, array))
        self.size = offset + array.nbytes
        return offset

    def write(self, memory: memoryview) -> None:
        """Copy everything to where it lies."""
        for offset, array in self._pieces:
            place = np.frombuffer(memory, array.dtype, array.size, offset)
            place.reshape(array.shape)[...] = array


def pack(value: object, heap: Heap) -> Json:
    """`value` as what `json.dumps` takes; its arrays and bytes go to `heap`."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Fraction():
            return [value.numerator, value.denominator]
        case bytes():
            return [heap.add(np.frombuffer(value, np.uint8)), len(value)]
        case np.ndarray():
            return [heap.add(value), value.dtype.name, list(value.shape)]
        case tuple() | list():
            return [pack(item, heap) for item in value]
        case dict():
            return {key: pack(item, heap) for key, item in value.items()}
        case _ if dataclasses.is_dataclass(value):
            return {
                field.name: pack(getattr(value, field.name), heap)
                for field in dataclasses.fields(value)
                if field.init
            }
    raise TypeError(f"{type(value).__name__} cannot be sent")


def unpack(kind: type[T], record: Json, memory: memoryview = _NONE) -> T:
    """The inverse of `pack`: a value of `kind`, whose arrays are views of `memory`.

    Raises:
        ValueError: `record` is not one of `kind`, or points out of `memory`.
    """
    return cast(T, _value(kind, record, memory))


def _value(kind: Any, record: Json, memory: memoryview) -> Any:  # noqa: ANN401 - of that kind
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, record, memory)
    if origin is Literal:
        return _checked(record, record in arguments)
    if origin is tuple:
        return _tuple(arguments, record, memory)
    if origin is dict:
        _checked(record, isinstance(record, dict))
        return {key: _value(arguments[1], item, memory) for key, item in record.items()}
    if (origin or kind) is np.ndarray:
        return _array(kind, record, memory)
    if kind is bytes:
        offset, length = _integers(record, 2)
        return bytes(_piece(memory, offset, length))
    if kind is Fraction:
        numerator, denominator = _integers(record, 2)
        return Fraction(numerator, _checked(denominator, denominator > 0))
    if kind is int:
        return _checked(record, type(record) is int and record in _INT64)
    if kind is float:
        return float(_checked(record, type(record) in (int, float) and math.isfinite(record)))
    if kind in (str, bool, type(None)):
        return _checked(record, type(record) is kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, record, memory)
    raise TypeError(f"{kind} cannot be received")


def _one_of(kinds: tuple[Any, ...], record: Json, memory: memoryview) -> Any:  # noqa: ANN401
    for kind in kinds:
        try:
            return _value(kind, record, memory)
        except ValueError:
            continue
    return _checked(record, False)


def _tuple(kinds: tuple[Any, ...], record: Json, memory: memoryview) -> tuple[Any, ...]:
    _checked(record, isinstance(record, list))
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(record)
    _checked(record, len(record) == len(kinds))
    return tuple(_value(kind, item, memory) for kind, item in zip(kinds, record, strict=True))


def _dataclass(kind: Any, record: Json, memory: memoryview) -> Any:  # noqa: ANN401
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    _checked(record, isinstance(record, dict) and record.keys() == set(names))
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], record[name], memory) for name in names})


def _array(kind: Any, record: Json, memory: memoryview) -> npt.NDArray[Any]:  # noqa: ANN401
    """`kind` is an `NDArray[...]` of one scalar type, abstract or not, or a union of them."""
    _checked(record, isinstance(record, list) and len(record) == 3)
    offset, name, shape = record
    _, dtype_kind = get_args(kind)
    (scalars,) = get_args(dtype_kind)
    is_union = get_origin(scalars) in (Union, types.UnionType)
    wanted = tuple(get_origin(one) or one for one in (get_args(scalars) if is_union else [scalars]))
    names = [known for known in _DTYPES if issubclass(np.dtype(known).type, wanted)]
    _checked(name, name in names)
    dtype = np.dtype(name)
    sides = _integers(shape, min(4, len(shape)) if isinstance(shape, list) else 0)
    count = math.prod(_checked(sides, all(side >= 0 for side in sides)))
    piece = _piece(memory, _value(int, offset, _NONE), count * dtype.itemsize)
    return np.frombuffer(piece, dtype).reshape(sides)


def _piece(memory: memoryview, offset: int, length: int) -> memoryview:
    _checked((offset, length), 0 <= offset <= offset + length <= len(memory))
    return memory[offset : offset + length]


def _integers(record: Json, count: int) -> list[int]:
    _checked(record, isinstance(record, list) and len(record) == count)
    return [_value(int, item, _NONE) for item in record]


def _checked(value: T, holds: bool) -> T:
    if not holds:
        raise ValueError(f"unexpected {str(value)[:40]!r}")
    return value
