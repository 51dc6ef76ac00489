"""Refusals as `application/problem+json` (RFC 9457), and the status of every class of error."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
    SrganEdgeError,
    UsageError,
)

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """One kind of problem."""

    status: int
    title: str


BY_EXIT_CODE: dict[int, tuple[str, Kind]] = {
    1: ("bug", Kind(500, "The service has a bug; its log has a traceback.")),
    UsageError.exit_code: ("usage", Kind(400, "The request contradicts itself.")),
    InputRefused.exit_code: ("input-refused", Kind(415, "The file is not accepted.")),
    InputDamaged.exit_code: ("input-damaged", Kind(422, "The file is damaged or incomplete.")),
    OutputFailed.exit_code: ("output-failed", Kind(507, "The result cannot be written.")),
    ModelRefused.exit_code: ("model-refused", Kind(503, "The model cannot be run here.")),
    ResourcesExhausted.exit_code: ("exhausted", Kind(503, "Memory, the GPU or time ran out.")),
}
"""Exit code of `srgan-edge upscale` -> name and status of the problem."""

OWN: dict[str, Kind] = {
    "malformed": Kind(400, "The request is not HTTP as the service reads it."),
    "not-multipart": Kind(400, "The upload is not multipart/form-data."),
    "token-required": Kind(401, "A bearer token is required."),
    "other-origin": Kind(403, "The request comes from a page of another site."),
    "outside-root": Kind(403, "The file is not one below the folder that may be read."),
    "no-such-job": Kind(404, "There is no such job."),
    "not-found": Kind(404, "There is no such address."),
    "method-not-allowed": Kind(405, "The address does not take this method."),
    "too-slow": Kind(408, "The request came too slowly."),
    "not-ended": Kind(409, "The job has no result yet."),
    "no-result": Kind(409, "The job ended without a result."),
    "too-large": Kind(413, "The request is too large."),
    "range": Kind(416, "The file does not have this range."),
    "other-host": Kind(421, "The service is not called by this name."),
    "invalid": Kind(422, "A value of the request is not possible."),
    "too-many": Kind(429, "Too many requests or jobs."),
    "draining": Kind(503, "The service is being stopped."),
    "busy": Kind(503, "All connections are in use."),
    "not-ready": Kind(503, "No job can be accepted now."),
    "disk-full": Kind(507, "The disk has no room."),
}
"""Problems that the service has of its own."""


class Problem(Exception):
    """A refusal on its way to the client.

    Args:
        name: a key of `OWN`, or a name in `BY_EXIT_CODE`.
        detail: one line: what was got.
        possible: what is possible instead.
        retry_after_seconds: when trying again may help.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        possible: str = "",
        *,
        retry_after_seconds: int | None = None,
        **members: Any,  # noqa: ANN401 - JSON values
    ) -> None:
        super().__init__(detail)
        self.name, self.detail, self.possible = name, detail, possible
        self.kind = OWN.get(name) or dict(BY_EXIT_CODE.values())[name]
        self.retry_after_seconds, self.members = retry_after_seconds, members

    @classmethod
    def of_error(cls, error: SrganEdgeError, detail: str | None = None) -> "Problem":
        """Return the problem that an error of upscaling becomes.

        Args:
            detail: the message in the client's names of files.
        """
        return cls.of_exit_code(error.exit_code, str(error) if detail is None else detail)

    @classmethod
    def of_exit_code(cls, exit_code: int, detail: str) -> "Problem":
        """Return the problem for an exit code; signals and unknown codes count as exhaustion."""
        known = exit_code if exit_code in BY_EXIT_CODE else ResourcesExhausted.exit_code
        name, kind = BY_EXIT_CODE[known]
        retry = 30 if kind.status == 503 else None
        return cls(name, detail, exit_code=exit_code, retry_after_seconds=retry)

    @classmethod
    def of_failure(cls, error: Exception) -> "Problem":
        """Return the problem for what the service cannot do: its disk fails, or it has a bug."""
        if not isinstance(error, OSError):
            return cls("bug", type(error).__name__)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return cls("disk-full", "the disk is full", retry_after_seconds=300)
        detail = f"the service cannot read or write its files: {error.strerror}"
        return cls("not-ready", detail, retry_after_seconds=300)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that the client gets."""
        return {
            "type": f"urn:srgan-edge:problem:{self.name}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            **({"possible": self.possible} if self.possible else {}),
            **self.members,
        }

    @property
    def headers(self) -> Mapping[str, str]:
        headers = {}
        if self.retry_after_seconds is not None:
            headers["retry-after"] = str(self.retry_after_seconds)
        if self.kind.status == 401:
            headers["www-authenticate"] = 'Bearer realm="srgan-edge"'
        return headers
