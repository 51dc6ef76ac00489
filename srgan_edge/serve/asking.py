"""Take a request apart for a route: its sender, and its upload."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from srgan_edge.serve.guard import Caller
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.service import Service
from srgan_edge.serve.uploads import OVERHEAD_BYTES, Upload, receive


def caller_of(request: Request) -> Caller:
    """Return who sends a request, as the guard found out."""
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


async def received(request: Request, service: Service, folder: Path) -> Upload:
    """Read the upload of a request into a folder.

    Raises:
        Problem, SrganEdgeError: as `uploads.receive`; or the client has gone.
    """
    kind = request.headers.get("content-type", "")
    is_kept = request.url.path == "/v1/jobs"
    max_bytes = service.settings.max_bytes
    return await receive(kind, _chunks(request), folder, max_bytes, durable=is_kept)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body; a client that goes away ends it with an error."""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Problem("too-slow", "the client has gone")
        if body := message.get("body"):
            yield body
        if not message.get("more_body", False):
            return


def coming_bytes(request: Request, service: Service) -> int:
    """Return the size of a request's body as it states it, 0 if it does not.

    Raises:
        Problem: it is too large.
    """
    text = request.headers.get("content-length", "0")
    size = int(text) if text.isascii() and text.isdigit() else 0
    if size > service.settings.max_bytes + OVERHEAD_BYTES:
        raise Problem(
            "too-large",
            f"the upload has {size} bytes",
            f"up to {service.settings.max_bytes} bytes",
        )
    return size
