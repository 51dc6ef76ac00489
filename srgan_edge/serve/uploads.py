"""Read one multipart upload: fields in memory within limits, the file straight to the disk."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from srgan_edge.serve.problems import Problem
from srgan_edge.serve.work import shown_name, source_name

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
OVERHEAD_BYTES = 64 << 10
"""Room for boundaries and fields in a request, beside its file."""

_WRITE_BYTES = 256 << 10


@dataclass
class Upload:
    """The content of a request."""

    fields: dict[str, str] = field(default_factory=dict)
    name: str = ""
    """Name of the file, for people."""
    path: Path | None = None
    bytes: int = 0


async def receive(
    content_type: str,
    chunks: AsyncIterator[bytes],
    folder: Path,
    max_bytes: int,
    *,
    durable: bool,
) -> Upload:
    """Read an upload; its file `file` becomes `source.EXT` in `folder`.

    Args:
        chunks: the body of the request.
        max_bytes: largest file.
        durable: sync the file to the disk, so that it survives a power cut.

    Raises:
        Problem: not multipart, broken or too large.
        OSError: the disk is full or fails.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem(
            "not-multipart",
            f"got {content_type[:100]!r}",
            "multipart/form-data, as of: curl -F file=@photo.png",
        )
    form = _Form(folder, max_bytes)
    try:
        parser = MultipartParser(
            boundary, form.callbacks(), max_header_count=8, max_header_size=2048
        )
        async for chunk in chunks:
            form.received += len(chunk)
            if form.received > max_bytes + OVERHEAD_BYTES:
                raise form.too_large()
            parser.write(chunk)
            if form.pending_bytes >= _WRITE_BYTES:
                await asyncio.to_thread(form.write)
        parser.finalize()
        await asyncio.to_thread(form.finish, durable)
    except FormParserError as error:
        raise Problem("not-multipart", f"the body is broken: {error}", "a whole body") from None
    finally:
        form.close()
    if not form.ended:
        raise Problem("not-multipart", "the body has no end", "a whole body")
    return form.upload


class _Form:
    """The parts of one body, as its parser calls them out."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.upload = Upload()
        self.received = 0
        self.ended = False
        self._folder, self._max_bytes = folder, max_bytes
        self._file: BinaryIO | None = None
        self._pending: list[bytes] = []
        self.pending_bytes = 0
        self._header = ("", "")
        self._headers: dict[str, str] = {}
        self._name: str | None = None
        self._value = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._on_part,
            "on_header_field": lambda data, start, end: self._on_header(data[start:end], b""),
            "on_header_value": lambda data, start, end: self._on_header(b"", data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": lambda data, start, end: self._on_data(data[start:end]),
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def write(self) -> None:
        """Write what has come to the file."""
        if self._file is not None and self._pending:
            self._file.write(b"".join(self._pending))
        self._pending.clear()
        self.pending_bytes = 0

    def finish(self, durable: bool) -> None:
        """Write the rest of the file."""
        self.write()
        if self._file is not None:
            self._file.flush()
        if self._file is not None and durable:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def too_large(self) -> Problem:
        return Problem(
            "too-large",
            f"the file has more than {self._max_bytes} bytes",
            f"up to {self._max_bytes} bytes",
        )

    def _on_part(self) -> None:
        self._header, self._headers = ("", ""), {}
        self._name, self._value = None, b""

    def _on_header(self, name: bytes, value: bytes) -> None:
        before = self._header
        self._header = before[0] + name.decode("latin-1"), before[1] + value.decode("latin-1")

    def _on_header_end(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = ("", "")

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        self._name = options.get(b"name", b"").decode("latin-1")
        if len(self.upload.fields) >= MAX_FIELDS:
            raise Problem("too-large", "too many fields", f"up to {MAX_FIELDS}")
        if self._name == "file":
            if self._file is not None:
                raise Problem("invalid", "two files in one request", "one file")
            self.upload.name = shown_name(_text(options.get(b"filename", b"")))
            self.upload.path = self._folder / source_name(self.upload.name)
            self._file = self.upload.path.open("xb")

    def _on_data(self, data: bytes) -> None:
        if self._name == "file":
            self.upload.bytes += len(data)
            if self.upload.bytes > self._max_bytes:
                raise self.too_large()
            self._pending.append(data)
            self.pending_bytes += len(data)
            return
        self._value += data
        if len(self._value) > MAX_FIELD_BYTES:
            raise Problem(
                "too-large", f"field {self._name!r} is too long", f"up to {MAX_FIELD_BYTES} bytes"
            )

    def _on_part_end(self) -> None:
        if self._name and self._name != "file":
            if self._name in self.upload.fields:
                raise Problem("invalid", f"two fields {self._name!r}", "one of each")
            self.upload.fields[self._name] = _text(self._value)

    def _on_end(self) -> None:
        self.ended = True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
