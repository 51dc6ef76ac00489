"""Call our functions in a child process, one call after another.

Both ends of the conversation: `Remote` is the caller's, `serve` the child's. Arguments are JSON.
Results are packed by `pack` and checked by `unpack`; their arrays travel in memory that the caller
made. The caller decides which functions may be called and how their failures are worded.

A process that reads untrusted files may send anything, so `unpack` never builds an object of a type
that its receiver did not ask for (unpickling would run code of the sender's choice). Fields are
numbers, strings, fractions, tuples, dictionaries, dataclasses of these, and arrays and bytes, which
are stored apart.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from srgan_edge.errors import InputDamaged, InputRefused, SrganEdgeError
from srgan_edge.isolation.child import (
    Child,
    ChildFailed,
    Parent,
    Reports,
    error_message,
    shared_memory,
)

T = TypeVar("T")
Json = Any
"""A value as `json.loads` returns it."""

SIGN_OF_LIFE = {"alive": True}
"""Message that a slow function may send to its parent so that the call does not time out."""

_ALIGNMENT = 64
_DTYPES = ("uint8", "uint16")
_NONE = memoryview(b"")
_INT64 = range(-(2**63), 2**63)


class Remote:
    """A child process that serves many calls; after a failure, the next call starts another one.

    Args:
        entry: `module:function`, a function that calls `serve`.
        memory_bytes: how much memory the child may map beyond its libraries.
        seconds: time limit for a call, or between two signs of life if the function sends them.
        readable, folder, writable, reports: as for `Child`.

    The child starts with the first call. It dies with the thread that made that call, or at
    `close`.
    """

    def __init__(
        self,
        entry: str,
        readable: list[Path],
        memory_bytes: int,
        seconds: float,
        folder: Path | None = None,
        writable: Path | None = None,
        reports: Reports = (InputRefused, InputDamaged),
    ) -> None:
        self._entry, self._readable, self._folder = entry, readable, folder
        self._writable, self._reports = writable, reports
        self._memory_bytes, self._seconds = memory_bytes, seconds
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """True if there is a child that remembers earlier calls."""
        return self._child is not None

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def call(self, kind: type[T], function: str, *arguments: Json, file: int | None = None) -> T:
        """Call a function in the child and return its result, checked to be a `kind`.

        Args:
            file: a descriptor that the function gets as its first argument, and has to close.

        Raises:
            ChildFailed: the child crashed, took too long, used too much memory, or sent an invalid
                answer.
            SrganEdgeError: the function raised it, and it is one of `reports`.
            ResourcesExhausted: the process cannot be started, or there is no memory for the result.
        """
        if self._child is None:
            self._child = Child(
                self._entry,
                {},
                self._memory_bytes,
                self._readable,
                self._folder,
                self._writable,
                self._reports,
            )
        try:
            order = {"call": function, "arguments": list(arguments)}
            self._child.send(order, *([] if file is None else [file]))
            return self._answer(self._child, kind)
        except ValueError as error:
            self.close()
            raise ChildFailed(f"broke its protocol ({error})") from error
        except SrganEdgeError:
            raise  # from the function itself, which can be called again
        except BaseException:
            self.close()
            raise

    def _answer(self, child: Child, kind: type[T]) -> T:
        while (message := child.receive(self._seconds)) == SIGN_OF_LIFE:
            pass
        memory = _NONE
        if "size" in message:
            memory = self._memory_for(child, unpack(int, message["size"]))
            message = child.receive(self._seconds)
        if message.keys() != {"result"}:
            raise ValueError("no result")
        return unpack(kind, message["result"], memory)

    def _memory_for(self, child: Child, size: int) -> memoryview:
        if not 0 < size <= self._memory_bytes:
            raise ValueError(f"a result of {size} bytes")
        with shared_memory(size) as (memory, descriptor):
            child.send({}, descriptor)
        return memoryview(memory)


def serve(parent: Parent, functions: Mapping[str, Callable[..., object]]) -> None:
    """Run in the child: call the functions that the parent names, until the parent is gone."""
    while True:
        order, files = parent.receive_with_descriptors()
        heap = Heap()
        try:
            result = pack(functions[order["call"]](*files, *order["arguments"]), heap)
        except SrganEdgeError as error:
            parent.send(error_message(error))
            continue
        if heap.size:
            parent.send({"size": heap.size})
            _, memory = parent.receive_with_memory()
            assert memory is not None
            heap.write(memoryview(memory))
            memory.close()
        parent.send({"result": result})


class Heap:
    """The arrays of one packed value, laid out one after another."""

    def __init__(self) -> None:
        self.size = 0
        """Size in bytes, including the gaps."""
        self._pieces: list[tuple[int, npt.NDArray[Any]]] = []

    def add(self, array: npt.NDArray[Any]) -> int:
        """Add an array and return its offset in bytes."""
        offset = -(-self.size // _ALIGNMENT) * _ALIGNMENT
        self._pieces.append((offset, array))
        self.size = offset + array.nbytes
        return offset

    def write(self, memory: memoryview) -> None:
        """Copy every array to its offset in `memory`."""
        for offset, array in self._pieces:
            place = np.frombuffer(memory, array.dtype, array.size, offset)
            place.reshape(array.shape)[...] = array


def pack(value: object, heap: Heap) -> Json:
    """Return `value` in a form that `json.dumps` accepts; its arrays and bytes go to `heap`."""
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
    """Undo `pack`: return a value of type `kind`, whose arrays are views of `memory`.

    Raises:
        ValueError: `record` does not describe a `kind`, or refers to bytes outside of `memory`.
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
    """Return an array; `kind` is an `NDArray[...]` of a scalar type or of a union of them."""
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
