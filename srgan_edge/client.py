"""A client of `srgan-edge serve`: `with Client("box:8000") as box: box.submit("a.mp4")`.

It needs the standard library alone. Refusals are raised as the errors that `srgan-edge upscale`
ends with, so that programs handle both alike.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlsplit

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
        UsageError: the address is not that of an HTTP service.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience_seconds: float = 0.0,
        timeout_seconds: float = 60.0,
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise UsageError(
                f"{url}: not the address of a service; possible: http://HOST:PORT, or HOST:PORT"
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
            return JobInfo.of(_json(response))

    def submit_path(self, path: str, **options: Any) -> JobInfo:  # noqa: ANN401 - as `submit`
        """Have a file upscaled that lies below the service's `--root`; options as of `submit`."""
        body, kind = multipart(_fields(path=path, **options))
        with self._answered("POST", "/v1/jobs", body, {"content-type": kind}) as response:
            return JobInfo.of(_json(response))

    def job(self, job_id: str) -> JobInfo:
        """Return a job as it is now."""
        with self._answered("GET", f"/v1/jobs/{quote(job_id, '')}") as response:
            return JobInfo.of(_json(response))

    def jobs(self) -> list[JobInfo]:
        """Return the latest jobs that this client may see."""
        with self._answered("GET", "/v1/jobs?limit=1000") as response:
            return [JobInfo.of(job) for job in _json(response)["jobs"]]

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
                    job = JobInfo.of(data)
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
            digest = self._fetched(address, file, job.result_bytes or 0)
            if job.sha256 not in (None, digest):
                raise OutputFailed(f"{path}: the result arrived damaged; download it again")
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
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
        return path

    def result_name(self, job: JobInfo) -> str:
        """Return the name that the service gives a result."""
        address = f"/v1/jobs/{quote(job.id, '')}/result"
        with self._answered("HEAD", address) as response:
            message = Message()
            message["content-disposition"] = response.getheader("content-disposition", "")
            return Path(message.get_filename() or job.name).name

    def cancel(self, job_id: str) -> None:
        """Cancel a job that has not ended; delete one that has, with its files."""
        with self._answered("DELETE", f"/v1/jobs/{quote(job_id, '')}"):
            pass

    def _fetched(self, address: str, file: BinaryIO, size: int) -> str:
        """Write a result to a file, going on where a connection was lost; return its SHA-256."""
        digest, done, losses = hashlib.sha256(), 0, 0
        while True:
            headers = {"range": f"bytes={done}-"} if done else {}
            try:
                with self._answered("GET", address, headers=headers) as response:
                    if done and response.status != 206:
                        raise OutputFailed("the service does not go on with a download")
                    while chunk := response.read(_CHUNK_BYTES):
                        file.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
            except (HTTPException, ConnectionError, TimeoutError) as error:
                losses += 1
                if losses > 5:
                    raise _unreachable(self._url.netloc, error) from error
            if done >= size:
                return digest.hexdigest()

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
                    raise _unreachable(self._url.netloc, error) from error
                time.sleep(_FIRST_PAUSE_SECONDS)
                continue
            try:
                if response.status < 400:
                    yield response
                    return
                problem = _json(response)
                pause = min(float(response.getheader("retry-after") or 0), _LONGEST_PAUSE_SECONDS)
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


def _json(response: HTTPResponse) -> dict[str, Any]:
    try:
        value = json.loads(response.read(16 << 20))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ResourcesExhausted(f"no answer of srgan-edge: status {response.status}, not JSON")
    return value


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
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ResourcesExhausted(f"cannot reach {address}: {reason}; is `srgan-edge serve` running?")
