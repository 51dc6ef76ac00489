"""The routes of queued jobs: upload, list, events, result, cancellation."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from srgan_edge.serve import describing, events
from srgan_edge.serve.asking import Who, coming_bytes, received
from srgan_edge.serve.files import ResultFile, compared, digest_header
from srgan_edge.serve.job import JobInfo, State
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.requests import fetch, new_job, wanted
from srgan_edge.serve.service import Service
from srgan_edge.serve.store import Job, new_id

COMPARE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src blob:; media-src blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'self'"
)
"""The page has its program inside; in a sandbox it can reach neither the service nor its cookie."""


@dataclass(frozen=True)
class JobList:
    """Jobs, latest first."""

    jobs: list[JobInfo]


def add_jobs(app: FastAPI, service: Service) -> None:
    """Add the routes below `/v1/jobs`, and `/v1/events`."""
    store = service.store

    @app.post(
        "/v1/jobs",
        tags=["jobs"],
        status_code=202,
        summary="Upload a file, or name one, to be upscaled",
        openapi_extra=describing.upload_body(with_path=True),
    )
    async def create_job(request: Request, response: Response, who: Who) -> JobInfo:
        with service.admitted(who.name, coming_bytes(request, service)) as folder:
            upload = await received(request, service, folder)
            request_fields = wanted(upload.fields, service.settings, service.models())
            if request_fields.path is not None:
                if upload.path is not None:
                    raise Problem("invalid", "both file and path", "one of them")
                await asyncio.to_thread(
                    fetch, upload, request_fields.path, service.settings, folder
                )
            service.keeper.refuse_without_room(0)
            job = new_job(new_id(), who.name, upload, request_fields)
            accepted = await asyncio.to_thread(service.accept, folder, job)
        response.headers["location"] = f"/v1/jobs/{accepted.info.id}"
        return accepted.info

    @app.get("/v1/jobs", tags=["jobs"], summary="The latest jobs")
    def list_jobs(
        who: Who,
        state: Annotated[list[State] | None, Query(description="Only jobs in these states")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JobList:
        return JobList([job.info for job in store.latest(who.sees, tuple(state or ()), limit)])

    def job_of(job_id: describing.JobId, who: Who) -> Job:
        job = store.find(job_id, who.sees)
        if job is None:
            raise Problem("no-such-job", f"got {job_id[:64]!r}", "an id that POST /v1/jobs gave")
        return job

    Found = Annotated[Job, Depends(job_of)]
    _add_files(app, job_of)

    @app.get("/v1/jobs/{job_id}", tags=["jobs"], summary="One job")
    def get_job(job: Found) -> JobInfo:
        return job.info

    @app.delete(
        "/v1/jobs/{job_id}",
        tags=["jobs"],
        summary="Cancel a job that is queued or running, delete any other",
        responses={204: {"description": "It is deleted, with its files"}},
    )
    def delete_job(job: Found, response: Response) -> JobInfo | None:
        left = service.cancel_or_delete(job)
        if left is None:
            response.status_code = 204
        return None if left is None else left.info

    @app.get(
        "/v1/events",
        tags=["jobs"],
        summary="All changes of jobs, as server-sent events",
        response_class=EventSourceResponse,
    )
    async def follow_all(
        who: Who, last_event_id: describing.LastId = None
    ) -> AsyncIterator[ServerSentEvent]:
        after = _event_number(last_event_id)
        async for event in events.all_jobs(store, service.changes, who.sees, after):
            yield event

    def ended_unchanged(job: Found, last_event_id: describing.LastId = None) -> Job:
        """Answer 204 to a browser that connects again after the last event; it then stops."""
        after = _event_number(last_event_id)
        if job.info.has_ended and after is not None and after >= job.info.change:
            raise _NothingMore
        return job

    async def nothing_more(request: Request, error: Exception) -> Response:
        return Response(status_code=204)

    app.add_exception_handler(_NothingMore, nothing_more)

    @app.get(
        "/v1/jobs/{job_id}/events",
        tags=["jobs"],
        summary="Progress of one job until it has ended, as server-sent events",
        response_class=EventSourceResponse,
        responses={204: {"description": "It has ended, and `Last-Event-ID` was the last event"}},
    )
    async def follow_one(
        job: Annotated[Job, Depends(ended_unchanged)], last_event_id: describing.LastId = None
    ) -> AsyncIterator[ServerSentEvent]:
        after = _event_number(last_event_id)
        async for event in events.one_job(store, service.changes, job.info.id, after):
            yield event


def _add_files(app: FastAPI, job_of: Callable[..., Job]) -> None:
    Found = Annotated[Job, Depends(job_of)]
    comparing = asyncio.Lock()  # one at a time, for it decodes both files as a whole

    @app.api_route(
        "/v1/jobs/{job_id}/result",
        methods=["GET"],
        tags=["jobs"],
        summary="The result, whole or in ranges",
        response_class=FileResponse,
        responses=describing.FILE_RESPONSES,
    )
    @app.head("/v1/jobs/{job_id}/result", include_in_schema=False)
    def get_result(job: Found) -> Response:
        _refuse_without_result(job)
        try:
            return ResultFile(job.target, job.info.name, digest_header(job.info.sha256))
        except OSError:
            raise Problem("no-such-job", "the result was just deleted") from None

    @app.get(
        "/v1/jobs/{job_id}/compare",
        tags=["jobs"],
        summary="A page that shows the result beside its source",
        response_class=HTMLResponse,
    )
    @app.head("/v1/jobs/{job_id}/compare", include_in_schema=False)
    async def get_compared(job: Found) -> Response:
        _refuse_without_result(job)
        try:
            async with comparing:
                path = await asyncio.to_thread(compared, job)
        except FileNotFoundError:
            raise Problem("no-such-job", "the result was just deleted") from None
        return FileResponse(
            path, media_type="text/html", headers={"content-security-policy": COMPARE_POLICY}
        )


def _refuse_without_result(job: Job) -> None:
    if not job.info.has_ended:
        raise Problem("not-ended", f"the job is {job.info.state}", "wait for its events")
    if job.info.result_bytes is None:
        reason = job.info.error or job.info.state
        raise Problem("no-result", reason, exit_code=job.info.exit_code)


class _NothingMore(Exception):
    """There are no further events."""


def _event_number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 18 else None
