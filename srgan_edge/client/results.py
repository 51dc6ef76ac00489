"""Results on their way into files: whole, with the hash that was stated, or not at all."""

import base64
import hashlib
import re
import time
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from srgan_edge.client.endpoint import FIRST_PAUSE_SECONDS, Endpoint, reason_of
from srgan_edge.errors import OutputFailed, ResourcesExhausted
from srgan_edge.files import replace_when_whole

_CHUNK_BYTES = 256 << 10
_ATTEMPTS_IN_VAIN = 5
"""Attempts to go on with a download, one after the other, that may bring nothing."""


def download(
    endpoint: Endpoint,
    address: str,
    path: Path,
    size: int | None,
    sha256: str | None,
    *,
    overwrite: bool,
) -> None:
    """Write a result that the service keeps, going on where a connection was lost.

    Args:
        size: in bytes, and `sha256` in hexadecimal digits, as the service states them.

    Raises:
        OutputFailed: it cannot be written, or does not arrive as the service states it.
        ResourcesExhausted: it does not arrive.
    """
    with replace_when_whole(path, overwrite=overwrite) as partial, partial.open("wb") as file:
        arriving = _Arriving(file, size)
        _fetch(endpoint, address, arriving, size or 0)
        _refuse_damaged(path, arriving.digest, sha256)


def keep(response: HTTPResponse, path: Path, *, overwrite: bool) -> None:
    """Write a result that is sent once.

    Raises:
        OutputFailed: it cannot be written, or does not arrive as the service states it.
    """
    with replace_when_whole(path, overwrite=overwrite) as partial, partial.open("wb") as file:
        stated = response.getheader("content-length") or ""
        size = int(stated) if stated.isascii() and stated.isdigit() else None
        arriving = _Arriving(file, size)
        with suppress(HTTPException, ConnectionError, TimeoutError):  # it is short, then
            arriving.take(response)
        if size is not None and arriving.bytes < size:
            raise OutputFailed(f"{path}: the connection was lost; ask again")
        _refuse_damaged(path, arriving.digest, _stated_sha256(response))


def _fetch(endpoint: Endpoint, address: str, arriving: "_Arriving", size: int) -> None:
    """Ask for a result, and again for what is missing of it."""
    in_vain, lost = 0, "it ended too early"
    while True:
        before = arriving.bytes
        headers = {"range": f"bytes={before}-"} if before else {}
        try:
            with endpoint.answered("GET", address, headers=headers) as response:
                if before and response.status != 206:
                    raise OutputFailed("the service does not go on with a download")
                arriving.take(response)
            if arriving.bytes >= size:
                return
        except (HTTPException, ConnectionError, TimeoutError) as error:
            lost = reason_of(error)
        in_vain = 0 if arriving.bytes > before else in_vain + 1
        if in_vain > _ATTEMPTS_IN_VAIN:
            raise ResourcesExhausted(f"the result does not come from {endpoint.place}: {lost}")
        time.sleep(FIRST_PAUSE_SECONDS)


class _Arriving:
    """A result on its way into a file: its size and its hash so far."""

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self.bytes, self._file, self._size, self._hash = 0, file, size, hashlib.sha256()

    def take(self, response: HTTPResponse) -> None:
        """Write what a response has.

        Raises:
            OutputFailed: it has more than was stated.
            HTTPException, OSError: it breaks off, which it may also do without an error.
        """
        while chunk := response.read(_CHUNK_BYTES):
            self.bytes += len(chunk)
            if self._size is not None and self.bytes > self._size:
                raise OutputFailed(f"the result has more than the {self._size} bytes stated")
            self._file.write(chunk)
            self._hash.update(chunk)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _refuse_damaged(path: Path, digest: str, stated: str | None) -> None:
    if stated not in (None, digest):
        raise OutputFailed(f"{path}: the result arrived damaged; download it again")


def _stated_sha256(response: HTTPResponse) -> str | None:
    """Return the hash that the service states of a file (RFC 9530)."""
    found = re.fullmatch(r"sha-256=:([\w+/=]+):", response.getheader("repr-digest") or "", re.ASCII)
    return None if found is None else base64.b64decode(found[1] + "==").hex()
