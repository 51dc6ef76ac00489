"""The two formats that the client speaks: multipart uploads, and server-sent events."""

import json
import secrets
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from typing import Any, BinaryIO

_CHUNK_BYTES = 256 << 10
_LINE_BYTES = 1 << 20


class Parts:
    """A multipart body that is read from its file while it is sent, again for each attempt."""

    def __init__(self, head: bytes, file: BinaryIO | None, size: int, tail: bytes) -> None:
        self._head, self._file, self._tail = head, file, tail
        self.size = len(head) + size + len(tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        if self._file is not None:
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK_BYTES):
                yield chunk
        yield self._tail


def multipart(
    fields: Mapping[str, str], name: str = "", file: BinaryIO | None = None, size: int = 0
) -> tuple[Parts, str]:
    boundary = secrets.token_hex(16)
    head = "".join(
        f'--{boundary}\r\ncontent-disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    if file is not None:
        safe = "".join("_" if it in '"\\\r\n' else it for it in name)
        head += (
            f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{safe}"\r\n'
            "content-type: application/octet-stream\r\n\r\n"
        )
    tail = f"\r\n--{boundary}--\r\n" if file is not None else f"--{boundary}--\r\n"
    encoded = head.encode("utf-8", "replace")
    return Parts(encoded, file, size, tail.encode()), f"multipart/form-data; boundary={boundary}"


def events_in(response: HTTPResponse) -> Iterator[tuple[str, str, Any]]:
    """Yield id, kind and data of server-sent events; the data is None if it is no JSON."""
    number, kind, data = "", "message", ""
    while line := response.readline(_LINE_BYTES):
        name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                number = value
            case "event":
                kind = value
            case "data":
                data += value
            case "" if data:
                yield number, kind, _parsed(data)
                kind, data = "message", ""


def _parsed(data: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
