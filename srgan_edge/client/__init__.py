"""A client of `srgan-edge serve`: `with Client("box:8000") as box: box.submit("a.mp4")`.

It needs the standard library alone. Refusals are raised as the errors that `srgan-edge upscale`
ends with, so that programs handle both alike.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from srgan_edge.client.endpoint import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Endpoint,
    error_of,
    json_of,
)
from srgan_edge.client.messages import events_in, multipart
from srgan_edge.client.results import download, keep
from srgan_edge.errors import InputRefused, ResourcesExhausted
from srgan_edge.files import open_regular, refuse_replacing
from srgan_edge.serve.job import JobInfo

__all__ = ["Client", "JobInfo"]

_UPSCALING_SECONDS = 3600.0
"""Longest wait for an image that is sent back as the answer."""


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
        self._endpoint = Endpoint(url, token, patience_seconds, timeout_seconds)

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
            return _job(json_of(response))

    def submit_path(self, path: str, **options: Any) -> JobInfo:  # noqa: ANN401 - as `submit`
        """Have a file upscaled that lies below the service's `--root`; options as of `submit`."""
        body, kind = multipart(_fields(path=path, **options))
        with self._endpoint.answered("POST", "/v1/jobs", body, {"content-type": kind}) as response:
            return _job(json_of(response))

    def job(self, job_id: str) -> JobInfo:
        """Return a job as it is now."""
        with self._endpoint.answered("GET", f"/v1/jobs/{quote(job_id, '')}") as response:
            return _job(json_of(response))

    def jobs(self) -> list[JobInfo]:
        """Return the latest jobs that this client may see."""
        with self._endpoint.answered("GET", "/v1/jobs?limit=1000") as response:
            return [_job(job) for job in _list(json_of(response).get("jobs"))]

    def follow(self, job_id: str) -> Iterator[JobInfo]:
        """Yield a job after each change, until it has ended; a lost connection is made again.

        Raises:
            SrganEdgeError: the service refuses, or cannot be reached any more.
        """
        last, pause_seconds = "", FIRST_PAUSE_SECONDS
        address = f"/v1/jobs/{quote(job_id, '')}/events"
        while True:
            headers = {"last-event-id": last} if last else {}
            with (
                suppress(OSError, HTTPException),
                self._endpoint.answered(
                    "GET", address, headers=headers, connects_again=True
                ) as response,
            ):
                if response.status == 204:
                    return
                for number, event, data in events_in(response):
                    if event == "gone":
                        raise InputRefused(f"job {job_id} was deleted")
                    last, pause_seconds = number or last, FIRST_PAUSE_SECONDS
                    job = _job(data)
                    yield job
                    if job.has_ended:
                        return
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

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
            line = job.error or job.state
            known = line.startswith(job.name)
            raise error_of(job.exit_code, line if known else f"{job.name}: {line}")
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
        download(self._endpoint, address, path, job.result_bytes, job.sha256, overwrite=overwrite)
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
        with self._uploaded("/v1/upscale", Path(image), fields, _UPSCALING_SECONDS) as answer:
            keep(answer, path, overwrite=overwrite)
        return path

    def result_name(self, job: JobInfo) -> str:
        """Return the name that the service gives a result."""
        address = f"/v1/jobs/{quote(job.id, '')}/result"
        with self._endpoint.answered("HEAD", address) as response:
            message = Message()
            message["content-disposition"] = response.getheader("content-disposition", "")
            return Path(message.get_filename() or job.name).name

    def cancel(self, job_id: str) -> None:
        """Cancel a job that is queued or running; delete any other, with its files."""
        with self._endpoint.answered("DELETE", f"/v1/jobs/{quote(job_id, '')}"):
            pass

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
            with self._endpoint.answered(
                "POST", address, body, headers, timeout_seconds=timeout_seconds
            ) as response:
                yield response


def _fields(**values: Any) -> dict[str, str]:  # noqa: ANN401 - texts and numbers
    return {name: f"{value}" for name, value in values.items() if value is not None}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _job(values: object) -> JobInfo:
    try:
        return JobInfo.of(values)
    except ValueError as error:
        raise ResourcesExhausted(f"no answer of srgan-edge: {error}") from None
