"""Requests to a service and its answers: address, token, patience, and refusals as errors."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from srgan_edge.client.messages import Parts
from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
    SrganEdgeError,
    UsageError,
)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
_RESTART_SECONDS = 60.0
"""Time for a service to be restarted while the events of a job are awaited."""

_KINDS = (UsageError, InputRefused, InputDamaged, OutputFailed, ModelRefused, ResourcesExhausted)
_BY_STATUS = {404: InputRefused, 413: InputRefused, 415: InputRefused, 429: ResourcesExhausted}


class Endpoint:
    """A service as requests reach it, each by a connection of its own. Arguments as of `Client`.

    Raises:
        UsageError: the address is not that of an HTTP service, or this is no token.
    """

    def __init__(
        self, url: str, token: str | None, patience_seconds: float, timeout_seconds: float
    ) -> None:
        self._url = _address(url)
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise UsageError(
                "the token has spaces, line ends or letters that no token has; possible: what "
                "`srgan-edge serve --new-token NAME` prints"
            )
        self._token, self._patience_seconds = token, patience_seconds
        self._timeout_seconds = timeout_seconds

    @property
    def place(self) -> str:
        """Host and port, for messages."""
        return self._url.netloc

    @contextmanager
    def answered(
        self,
        method: str,
        address: str,
        body: Parts | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_seconds: float | None = None,
        connects_again: bool = False,
    ) -> Iterator[HTTPResponse]:
        """Send a request and yield its answer; a busy service is asked again.

        Raises:
            SrganEdgeError: the service refuses, or cannot be reached for `patience_seconds`.
        """
        ends = time.monotonic() + self._patience_seconds
        sent = dict(headers or {})
        if self._token is not None:
            sent["authorization"] = f"Bearer {self._token}"
        while True:
            connection = self._connection(timeout_seconds or self._timeout_seconds)
            try:
                response = self._sent(connection, method, address, body, sent)
            except (OSError, HTTPException) as error:
                was_sent = body is not None and connection.sock is not None
                connection.close()
                patience_ends = ends + (_RESTART_SECONDS if connects_again else 0)
                if was_sent or time.monotonic() > patience_ends:
                    raise _unreachable(self.place, error) from error
                time.sleep(FIRST_PAUSE_SECONDS)
                continue
            try:
                if response.status < 400:
                    yield response
                    return
                problem = json_of(response)
                pause = _pause_seconds(response.getheader("retry-after"))
                if not pause or time.monotonic() + pause > ends:
                    raise _refusal(response.status, problem)
            finally:
                connection.close()
            time.sleep(pause)

    def _sent(
        self,
        connection: HTTPConnection,
        method: str,
        address: str,
        body: Parts | None,
        headers: Mapping[str, str],
    ) -> HTTPResponse:
        connection.connect()
        # A refusal may come before the whole body is read: then it is the answer.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, self._url.path.rstrip("/") + address, body, headers)
        return connection.getresponse()

    def _connection(self, timeout_seconds: float) -> HTTPConnection:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        assert self._url.hostname is not None
        return kind(self._url.hostname, self._url.port, timeout=timeout_seconds)


def json_of(response: HTTPResponse) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        ResourcesExhausted: it is none, so that this is no answer of srgan-edge.
    """
    try:
        value = json.loads(response.read(16 << 20))
    except (ValueError, RecursionError, HTTPException, OSError):
        value = None
    if not isinstance(value, dict):
        raise ResourcesExhausted(f"no answer of srgan-edge: status {response.status}, not JSON")
    return value


def error_of(exit_code: int | None, line: str) -> SrganEdgeError:
    """Return the error that ends a command with this exit code."""
    kind = next((it for it in _KINDS if it.exit_code == exit_code), ResourcesExhausted)
    return kind(line)


def reason_of(error: Exception) -> str:
    """Return why a connection failed, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _address(url: str) -> SplitResult:
    """Return the parts of an address; what may be secret in it is not repeated.

    Raises:
        UsageError: it is not that of an HTTP service.
    """
    shown = re.sub(r"[?#].*", "", url.rpartition("@")[2])
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        (parts.hostname or "").encode("idna")
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        fits = fits and parts.path.isascii() and not re.search(r"[\s\0-\x1f?#@]", url)
    except ValueError:  # a port that is no number, a bracket without its end, a label without end
        fits = False
    if not fits:
        raise UsageError(
            f"{shown}: not the address of a service; possible: http://HOST:PORT, or HOST:PORT"
        )
    return parts


def _pause_seconds(retry_after: str | None) -> float:
    """Return the time to wait for a busy service; proxies also send a date."""
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        return LONGEST_PAUSE_SECONDS
    return max(0.0, min(LONGEST_PAUSE_SECONDS, seconds))


def _refusal(status: int, problem: Mapping[str, Any]) -> SrganEdgeError:
    detail, possible = str(problem.get("detail", "refused")), problem.get("possible")
    line = f"{detail}; possible: {possible}" if possible else detail
    code = problem.get("exit_code")
    if isinstance(code, int):
        return error_of(code, line)
    if status >= 500:
        return OutputFailed(line) if status == 507 else ResourcesExhausted(line)
    return _BY_STATUS.get(status, UsageError)(line)


def _unreachable(address: str, error: Exception) -> ResourcesExhausted:
    return ResourcesExhausted(
        f"cannot reach {address}: {reason_of(error)}; is `srgan-edge serve` running?"
    )
