"""Reading protobuf messages with the standard library: fields, and nothing of what they mean.

The wire format: https://protobuf.dev/programming-guides/encoding/
"""

from collections import defaultdict
from collections.abc import Iterator

Field = int | memoryview
"""A varint or fixed-width number, or the payload of a string, message or packed array."""


def fields(message: memoryview) -> Iterator[tuple[int, Field]]:
    """(field number, content) in the order of the message; payloads are not copied.

    Raises:
        ValueError, IndexError: not a message, or cut short.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            if position + width > len(message):
                raise ValueError("it ends early")
            yield number, int.from_bytes(message[position : position + width], "little")
            position += width
        elif kind == 2:
            length, position = _varint(message, position)
            if position + length > len(message):
                raise ValueError("it ends early")
            yield number, message[position : position + length]
            position += length
        else:
            raise ValueError(f"wire type {kind}")


class Message:
    """One message, its fields by number."""

    def __init__(self, content: Field) -> None:
        """
        Raises:
            ValueError, IndexError: `content` is a number, not a message, or cut short.
        """
        if isinstance(content, int):
            raise ValueError("a number where a message should be")
        self._fields: dict[int, list[Field]] = defaultdict(list)
        for number, value in fields(content):
            self._fields[number].append(value)

    def has(self, number: int) -> bool:
        return number in self._fields

    def messages(self, number: int) -> list["Message"]:
        """The repeated field as messages."""
        return [Message(value) for value in self._fields.get(number, [])]

    def message(self, number: int) -> "Message":
        """The field as a message; an empty one if it is not there."""
        return Message(self._fields[number][-1]) if self.has(number) else Message(memoryview(b""))

    def text(self, number: int) -> str:
        """The field as a string; empty if it is not there."""
        return bytes(self.payload(number)).decode()

    def texts(self, number: int) -> list[str]:
        return [bytes(_payload(value)).decode() for value in self._fields.get(number, [])]

    def payload(self, number: int) -> memoryview:
        """The bytes of the field; none if it is not there."""
        return _payload(self._fields[number][-1]) if self.has(number) else memoryview(b"")

    def number(self, number: int) -> int:
        """The field as an integer; zero if it is not there."""
        return self.numbers(number)[-1] if self.has(number) else 0

    def numbers(self, number: int) -> list[int]:
        """The repeated field as integers, packed or not."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            if isinstance(value, int):
                found.append(value)
                continue
            position = 0
            while position < len(value):
                one, position = _varint(value, position)
                found.append(one)
        return found


def _payload(value: Field) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value


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
