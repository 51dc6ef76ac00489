"""Types and ranges of everything that may cross from a child process to its parent.

A process that reads untrusted files may send anything. So no object is built that the receiver did
not ask for (unpickling would run code of the sender's choice), and every number, text and list has
a limit: the defaults here, the entries of `LIMITS`, and `RELATIONS` between the fields of one
value. Values are numbers, texts, fractions, tuples, dictionaries, dataclasses of these, and arrays
and bytes, which are stored apart.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from srgan_edge.errors import UsageError, printable
from srgan_edge.video.color import MATRICES, RGB, ColorDescription, StaticHdr
from srgan_edge.video.convert import depth_bits, is_readable
from srgan_edge.video.frame import VideoInfo, find_pixel_format
from srgan_edge.video.opening import MAX_PIXELS

T = TypeVar("T")
Json = Any
"""A value as `json.loads` returns it."""

MAX_TEXT = 2000
"""Longest text in characters; longer ones are cut before they are sent."""

MAX_ITEMS = 10_000
"""Most items of a list or a dictionary."""

Count = Annotated[int, Meta(ge=0, le=2**40)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Side = Annotated[int, Meta(ge=1, le=2**16)]
"""Width or height in pixels."""
CodePoint = Annotated[int, Meta(ge=0, le=255)]
"""A number of H.273."""
Ticks = Annotated[int, Meta(ge=-(2**61), le=2**61)]
"""A time; the difference of two of them still fits into 64 bits."""
Duration = Annotated[int, Meta(ge=0, le=2**61)]
_Real = Annotated[float, Meta(ge=-1e13, le=1e13)]
_Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class _Ratio(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    numerator: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    denominator: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class _PositiveRatio(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A ratio as FFmpeg stores it."""

    numerator: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    denominator: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class _Piece(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Bytes in the memory that comes with a value."""

    offset: Count
    length: Count


class _Array(msgspec.Struct, Generic[T], array_like=True, forbid_unknown_fields=True):
    """An array in the memory that comes with a value."""

    offset: Count
    dtype: T
    shape: Annotated[tuple[Count, ...], Meta(max_length=4)]


LIMITS: dict[tuple[type, str], Any] = {
    (VideoInfo, "width"): Side,
    (VideoInfo, "height"): Side,
    (VideoInfo, "time_base"): _PositiveRatio,
    (VideoInfo, "start_pts"): Ticks | None,
    (VideoInfo, "average_rate"): _PositiveRatio | None,
    (VideoInfo, "sample_aspect_ratio"): _PositiveRatio | None,
    (VideoInfo, "duration_seconds"): Annotated[float, Meta(ge=0, le=1e13)] | None,
    (VideoInfo, "frames_stated"): Annotated[int, Meta(ge=1, le=2**40)] | None,
    (VideoInfo, "bit_rate"): Count | None,
    (VideoInfo, "codec"): Annotated[str, Meta(max_length=40)],
    (VideoInfo, "pixel_format"): Annotated[str, Meta(max_length=40)],
    (VideoInfo, "display_matrix"): (
        Annotated[tuple[Int32, ...], Meta(min_length=9, max_length=9)] | None
    ),
    (ColorDescription, "matrix"): CodePoint,
    (ColorDescription, "primaries"): CodePoint,
    (ColorDescription, "transfer"): CodePoint,
    (ColorDescription, "assumed"): (
        Annotated[tuple[Literal["matrix", "range"], ...], Meta(max_length=2)]
    ),
    (StaticHdr, "light_levels"): (
        tuple[Annotated[int, Meta(ge=0, le=2**32 - 1)], Annotated[int, Meta(ge=0, le=2**32 - 1)]]
        | None
    ),
}
"""Field of a dataclass -> its type with its range, where the default of its type is not enough.

By default an integer is a count, a ratio has a denominator of 31 bits, and a text is printable.
"""


def _check_info(info: VideoInfo) -> bool:
    try:
        pixel_format = find_pixel_format(info.pixel_format)
    except UsageError:
        return False
    is_known = bool(pixel_format.components) or pixel_format.has_palette  # frames on a GPU are not
    return (
        is_known
        and (depth_bits(info.pixel_format) <= 8 or is_readable(info.pixel_format))
        and info.width * info.height <= MAX_PIXELS
    )


def _check_color(color: ColorDescription) -> bool:
    return color.matrix in MATRICES or (color.matrix == RGB and not color.assumed)


RELATIONS: dict[type, Callable[[Any], bool]] = {
    VideoInfo: _check_info,
    ColorDescription: _check_color,
}
"""Dataclass -> whether the fields of one value agree."""


_SIMPLE: dict[Any, Any] = {
    int: Count,
    float: _Real,
    str: _Text,
    bytes: _Piece,
    Fraction: _Ratio,
    bool: bool,
    type(None): type(None),
}
_ALIGNMENT = 64
_NONE = memoryview(b"")
_DTYPES: dict[Any, tuple[str, ...]] = {
    np.uint8: ("uint8",),
    np.uint16: ("uint16",),
    np.uint32: ("uint32",),
    np.unsignedinteger: ("uint8", "uint16"),
}
_kinds: dict[type, type] = {}
"""Generated structure -> the dataclass that it becomes."""


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
        case str():
            return printable(value)[:MAX_TEXT]
        case None | bool() | int() | float():
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
            return {pack(key, heap): pack(item, heap) for key, item in value.items()}
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
        ValueError: `record` does not describe a `kind`, is beyond a limit, or refers to bytes
            outside of `memory`.
    """
    wanted = schema(cast(Hashable, kind))
    try:
        return cast(T, _built(msgspec.convert(record, wanted), memory))
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise ValueError(f"unexpected: {printable(str(error))[:200]}") from error


@functools.cache
def schema(kind: Hashable) -> Any:  # noqa: ANN401 - types are values here
    """Return the type that msgspec reads for a `kind`, with its limits."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if origin in (Annotated, Literal):
        return kind
    if origin in (Union, types.UnionType):
        return _of(Union, *map(schema, arguments))
    if origin is tuple and arguments[1:] == (...,):
        return _of(Annotated, _of(tuple, schema(arguments[0]), ...), Meta(max_length=MAX_ITEMS))
    if origin is tuple:
        return _of(tuple, *map(schema, arguments))
    if origin is dict:
        return _of(Annotated, _of(dict, _Text, schema(arguments[1])), Meta(max_length=MAX_ITEMS))
    if (origin or kind) is np.ndarray:
        (scalars,) = get_args(arguments[1])
        each = get_args(scalars) if isinstance(scalars, types.UnionType) else (scalars,)
        names = [name for one in each for name in _DTYPES[get_origin(one) or one]]
        return _of(_Array, _of(Literal, *names))
    if dataclasses.is_dataclass(kind):
        return _structure(cast(type, kind))
    raise TypeError(f"{kind} cannot be received")


def _of(generic: Any, *arguments: Any) -> Any:  # noqa: ANN401 - types are values here
    return generic[arguments]


def _structure(kind: type) -> type:
    hints = get_type_hints(kind, include_extras=True)
    fields = [
        (field.name, LIMITS.get((kind, field.name)) or schema(hints[field.name]))
        for field in dataclasses.fields(kind)
        if field.init
    ]
    structure = msgspec.defstruct(kind.__name__, fields, forbid_unknown_fields=True)
    _kinds[structure] = kind
    return structure


def _built(value: Any, memory: memoryview) -> Any:  # noqa: ANN401 - what msgspec returned
    match value:
        case _Ratio() | _PositiveRatio():
            return Fraction(value.numerator, value.denominator)
        case _Piece():
            return bytes(_piece(memory, value.offset, value.length))
        case _Array():
            dtype = np.dtype(value.dtype)
            piece = _piece(memory, value.offset, math.prod(value.shape) * dtype.itemsize)
            return np.frombuffer(piece, dtype).reshape(value.shape)
        case str():
            return _checked(value, value.isprintable())
        case tuple():
            return tuple(_built(item, memory) for item in value)
        case dict():
            return {_built(key, memory): _built(item, memory) for key, item in value.items()}
        case msgspec.Struct():
            kind = _kinds[type(value)]
            names = value.__struct_fields__
            built = kind(**{name: _built(getattr(value, name), memory) for name in names})
            return _checked(built, RELATIONS.get(kind, lambda _: True)(built))
    return value


def _piece(memory: memoryview, offset: int, length: int) -> memoryview:
    _checked((offset, length), offset + length <= len(memory))
    return memory[offset : offset + length]


def _checked(value: T, holds: bool) -> T:
    if not holds:
        raise ValueError(f"unexpected: not a possible {type(value).__name__}")
    return value
