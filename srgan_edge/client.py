"""A client of `srgan-edge serve`: `with Client("box:8000") as box: box.submit("a.mp4")`.

It needs the standard library alone. Refusals are raised as the errors that `srgan-edge upscale`
ends with, so that programs handle both alike.
"""

import base64
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import SplitResult, quote, urlsplit

from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
    SrganEdgeError,
    UsageError,
)
from srgan_edge.files import open_regular, refuse_replacing, replace_when_whole
from srgan_edge.serve.job import JobInfo
from srgan_edge.serve.messages import Parts, events_in, multipart

__all__ = ["Client", "JobInfo"]

_KINDS = (UsageError, InputRefused, InputDamaged, OutputFailed, ModelRefused, ResourcesExhausted)
_BY_STATUS = {404: InputRefused, 413: InputRefused, 415: InputRefused, 429: ResourcesExhausted}
_CHUNK_BYTES = 256 << 10
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0
_DOWNLOADS_IN_VAIN = 5
"""Attempts to go on with a download, one after the other, that may bring nothing."""
_RESTART_SECONDS = 60.0
"""Time for a service to be restarted while the events of a job are awaited."""


class Client:
    """One service. Methods may be called from several threads; each opens its own connection.

    Args:
        url: address of the service, such as `https://box`, or `127.0.0.1:8000` without TLS.
        token: as `srgan-edge serve --new-token` printed it; None: the service asks for none.
        patience_seconds: how long to try again while the service is busy, or is being restarted.
        timeout_seconds: longest wait for an answer that is no result.

    Raises:
        UsageError: the address is not that of an HTTP service, or this is no token.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience_seconds: float = 0.0,
        timeout_seconds: float = 60.0,
    ) -> None:
        parts = _address(url)
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise UsageError(
                "the token has spaces, line ends or letters that no token has; possible: what "
                "`srgan-edge serve --new-token NAME` prints"
            )
        self._url, self._base = parts, parts.path.rstrip("/")
        self._token, self._patience_seconds = token, patience_seconds
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def submit(
        self,
        file: str | os.PathLike[str],
        *,
        model: str | None = None,
        outscale: float | None = None,
        format: str | None = None,
        priority: int = 0,
    ) -> JobInfo:
        """Upload an image or video; return the job, which goes on whatever becomes of this client.

        Args:
            format: type of the result, such as `png` or `mkv`; None: like the source.
            priority: -9 to 9; higher ones start first.

        Raises:
            InputRefused: no such file, or the service does not accept it.
            SrganEdgeError: the service cannot be reached, or refuses.
        """
        fields = _fields(model=model, outscale=outscale, format=format, priority=priority or None)
        with self._uploaded("/v1/jobs", Path(file), fields) as response:
            return _job(_json(response))

    def submit_path(self, path: str, **options: Any) -> JobInfo:  # noqa: ANN401 - as `submit`
        """Have a file upscaled that lies below the service's `--root`; options as of `submit`."""
        body, kind = multipart(_fields(path=path, **options))
        with self._answered("POST", "/v1/jobs", body, {"content-type": kind}) as response:
            return _job(_json(response))

    def job(self, job_id: str) -> JobInfo:
        """Return a job as it is now."""
        with self._answered("GET", f"/v1/jobs/{quote(job_id, '')}") as response:
            return _job(_json(response))

    def jobs(self) -> list[JobInfo]:
        """Return the latest jobs that this client may see."""
        with self._answered("GET", "/v1/jobs?limit=1000") as response:
            return [_job(job) for job in _list(_json(response).get("jobs"))]

    def follow(self, job_id: str) -> Iterator[JobInfo]:
        """Yield a job after each change, until it has ended; a lost connection is made again.

        Raises:
            SrganEdgeError: the service refuses, or cannot be reached any more.
        """
        last, pause_seconds = "", _FIRST_PAUSE_SECONDS
        address = f"/v1/jobs/{quote(job_id, '')}/events"
        while True:
            headers = {"last-event-id": last} if last else {}
            with (
                suppress(OSError, HTTPException),
                self._answered("GET", address, headers=headers, connects_again=True) as response,
            ):
                if response.status == 204:
                    return
                for number, event, data in events_in(response):
                    if event == "gone":
                        raise InputRefused(f"job {job_id} was deleted")
                    last, pause_seconds = number or last, _FIRST_PAUSE_SECONDS
                    job = _job(data)
                    yield job
                    if job.has_ended:
                        return
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    def wait(
        self, job_id: str, progress: Callable[[JobInfo], object] = lambda job: None
    ) -> JobInfo:
        """Return a job when it is done; `progress` is called after each change.

        Raises:
            SrganEdgeError: it failed or was cancelled, as the class that `upscale` would raise.
        """
        job = None
        for job in self.follow(job_id):
            progress(job)
        job = self.job(job_id) if job is None or not job.has_ended else job
        if job.state != "done":
            raise _error(job.exit_code, f"{job.name}: {job.error or job.state}")
        return job

    def download(
        self, job: JobInfo, target: str | os.PathLike[str], *, overwrite: bool = False
    ) -> Path:
        """Write a job's result, whole and with the hash that the service states, or not at all.

        Raises:
            UsageError: the target exists.
            OutputFailed: it cannot be written, or does not arrive as the service states it.
        """
        path = Path(target)
        refuse_replacing(path, overwrite=overwrite)
        address = f"/v1/jobs/{quote(job.id, '')}/result"
        with replace_when_whole(path, overwrite=overwrite) as partial, partial.open("wb") as file:
            _refuse_damaged(path, self._fetched(address, file, job.result_bytes), job.sha256)
        return path

    def upscale(
        self,
        image: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        model: str | None = None,
        outscale: float | None = None,
        format: str | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Upscale an image and wait for the result, which is written to `target`.

        Raises:
            SrganEdgeError: as `submit` and `download`.
        """
        path = Path(target)
        refuse_replacing(path, [Path(image)], overwrite=overwrite)
        fields = _fields(model=model, outscale=outscale, format=format)
        with (
            self._uploaded(
                "/v1/upscale", Path(image), fields, self._timeout_seconds * 60
            ) as answer,
            replace_when_whole(path, overwrite=overwrite) as partial,
            partial.open("wb") as file,
        ):
            stated = answer.getheader("content-length") or ""
            size = int(stated) if stated.isascii() and stated.isdigit() else None
            arriving = _Arriving(file, size)
            with suppress(HTTPException, ConnectionError, TimeoutError):  # it is short, then
                arriving.take(answer)
            if size is not None and arriving.bytes < size:
                raise OutputFailed(f"{path}: the connection was lost; ask again")
            _refuse_damaged(path, arriving.digest, _stated_sha256(answer))
        return path

    def result_name(self, job: JobInfo) -> str:
        """Return the name that the service gives a result."""
        address = f"/v1/jobs/{quote(job.id, '')}/result"
        with self._answered("HEAD", address) as response:
            message = Message()
            message["content-disposition"] = response.getheader("content-disposition", "")
            return Path(message.get_filename() or job.name).name

    def cancel(self, job_id: str) -> None:
        """Cancel a job that is queued or running; delete any other, with its files."""
        with self._answered("DELETE", f"/v1/jobs/{quote(job_id, '')}"):
            pass

    def _fetched(self, address: str, file: BinaryIO, size: int | None) -> str:
        """Write a result to a file, going on where a connection was lost; return its SHA-256."""
        arriving, in_vain, lost = _Arriving(file, size), 0, "it ended too early"
        while True:
            before = arriving.bytes
            headers = {"range": f"bytes={before}-"} if before else {}
            try:
                with self._answered("GET", address, headers=headers) as response:
                    if before and response.status != 206:
                        raise OutputFailed("the service does not go on with a download")
                    arriving.take(response)
                if arriving.bytes >= (size or 0):
                    return arriving.digest
            except (HTTPException, ConnectionError, TimeoutError) as error:
                lost = _reason(error)
            in_vain = 0 if arriving.bytes > before else in_vain + 1
            if in_vain > _DOWNLOADS_IN_VAIN:
                raise ResourcesExhausted(f"the result does not come from {self._place}: {lost}")
            time.sleep(_FIRST_PAUSE_SECONDS)

    @property
    def _place(self) -> str:
        return self._url.netloc

    @contextmanager
    def _uploaded(
        self,
        address: str,
        path: Path,
        fields: Mapping[str, str],
        timeout_seconds: float | None = None,
    ) -> Iterator[HTTPResponse]:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            body, kind = multipart(fields, path.name, file, size)
            headers = {"content-type": kind, "content-length": str(body.size)}
            with self._answered(
                "POST", address, body, headers, timeout_seconds=timeout_seconds
            ) as response:
                yield response

    @contextmanager
    def _answered(
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
                    raise _unreachable(self._place, error) from error
                time.sleep(_FIRST_PAUSE_SECONDS)
                continue
            try:
                if response.status < 400:
                    yield response
                    return
                problem = _json(response)
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
            connection.request(method, self._base + address, body, headers)
        return connection.getresponse()

    def _connection(self, timeout_seconds: float) -> HTTPConnection:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        assert self._url.hostname is not None
        return kind(self._url.hostname, self._url.port, timeout=timeout_seconds)


def _fields(**values: Any) -> dict[str, str]:  # noqa: ANN401 - texts and numbers
    return {name: f"{value}" for name, value in values.items() if value is not None}


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
        return _LONGEST_PAUSE_SECONDS
    return max(0.0, min(_LONGEST_PAUSE_SECONDS, seconds))


def _json(response: HTTPResponse) -> dict[str, Any]:
    try:
        value = json.loads(response.read(16 << 20))
    except (ValueError, RecursionError, HTTPException, OSError):
        value = None
    if not isinstance(value, dict):
        raise ResourcesExhausted(f"no answer of srgan-edge: status {response.status}, not JSON")
    return value


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _job(values: object) -> JobInfo:
    try:
        return JobInfo.of(values)
    except ValueError as error:
        raise ResourcesExhausted(f"no answer of srgan-edge: {error}") from None


def _refusal(status: int, problem: Mapping[str, Any]) -> SrganEdgeError:
    detail, possible = str(problem.get("detail", "refused")), problem.get("possible")
    line = f"{detail}; possible: {possible}" if possible else detail
    code = problem.get("exit_code")
    if isinstance(code, int):
        return _error(code, line)
    if status >= 500:
        return OutputFailed(line) if status == 507 else ResourcesExhausted(line)
    return _BY_STATUS.get(status, UsageError)(line)


def _error(exit_code: int | None, line: str) -> SrganEdgeError:
    kind = next((it for it in _KINDS if it.exit_code == exit_code), ResourcesExhausted)
    return kind(line)


def _unreachable(address: str, error: Exception) -> ResourcesExhausted:
    return ResourcesExhausted(
        f"cannot reach {address}: {_reason(error)}; is `srgan-edge serve` running?"
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
