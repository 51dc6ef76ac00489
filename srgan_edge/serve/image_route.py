"""The route for clients that wait for their image: no row, and no trace when it is done."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse

from srgan_edge.serve import describing
from srgan_edge.serve.asking import Who, coming_bytes, received
from srgan_edge.serve.files import ResultFile, digest_header, notes_header
from srgan_edge.serve.images import Request as ImageRequest
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.requests import new_job, wanted
from srgan_edge.serve.service import Service
from srgan_edge.serve.work import Ended, planned


def add_upscale(app: FastAPI, service: Service) -> None:
    """Add `POST /v1/upscale`."""

    @app.post(
        "/v1/upscale",
        tags=["images"],
        summary="Upscale an image, and wait for it",
        response_class=FileResponse,
        responses=describing.IMAGE_RESPONSES,
        openapi_extra=describing.upload_body(with_path=False),
    )
    async def upscale(request: Request, who: Who) -> Response:
        service.refuse_while_draining()
        with service.waiting_request(), service.incoming(coming_bytes(request, service)) as folder:
            upload = await received(request, service, folder)
            request_fields = wanted(upload.fields, service.settings, service.models())
            job = new_job(folder.name, who.name, upload, request_fields)
            if job.kind == "video":
                raise Problem("invalid", f"{upload.name} is a video", "POST /v1/jobs takes videos")
            source = folder / job.source
            image = ImageRequest(
                planned(source, request_fields.extension, upload.name),
                request_fields.model,
                request_fields.outscale,
                upload.name,
            )
            service.images.submit(image)
            ended = await _awaited(request, image)
            if ended.result is None:
                raise Problem.of_exit_code(ended.exit_code, ended.error or "no result")
            kept = folder.with_name(f"{folder.name}-result")
            folder.rename(kept)
        headers = digest_header(ended.sha256) | notes_header(ended.notes)
        headers["x-upscaled-size"] = ended.size or ""
        return ResultFile(kept / ended.result.name, upload.name, headers, removed=kept)


async def _awaited(request: Request, image: ImageRequest) -> Ended:
    """Wait for an image; give it up when the client goes away."""
    ending = asyncio.ensure_future(asyncio.wrap_future(image.future))
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        both: set[asyncio.Future[Any]] = {ending, leaving}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            image.given_up.set()
            raise Problem("too-slow", "the client has gone")
        return ending.result()
    finally:
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        if not ending.done():
            image.given_up.set()


async def _left(receive_message: Callable[[], Awaitable[Any]]) -> None:
    while (await receive_message())["type"] != "http.disconnect":
        pass
