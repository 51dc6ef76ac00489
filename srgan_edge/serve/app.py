"""The routes. Each takes a request apart, asks the service, and puts the answer together."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException

from srgan_edge import __version__
from srgan_edge.api import models as bundled
from srgan_edge.errors import SrganEdgeError
from srgan_edge.serve import describing, events
from srgan_edge.serve.files import ResultFile, compared
from srgan_edge.serve.guard import COOKIE, Caller, Guard, send_problem, session_of
from srgan_edge.serve.images import Request as ImageRequest
from srgan_edge.serve.job import JobInfo, State
from srgan_edge.serve.metrics import CONTENT_TYPE
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.requests import fetch, new_job, wanted
from srgan_edge.serve.service import Service, is_ready
from srgan_edge.serve.store import Job, new_id
from srgan_edge.serve.tokens import SESSION_SECONDS
from srgan_edge.serve.uploads import OVERHEAD_BYTES, Upload, disk_problem, receive
from srgan_edge.serve.work import Ended, planned

PAGE = Path(__file__).parent / "page"
ASSETS = {"page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
COMPARE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src blob:; media-src blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'self'"
)
"""The page has its program inside; in a sandbox it can reach neither the service nor its cookie."""


@dataclass(frozen=True)
class ModelInfo:
    """A model that requests may name."""

    name: str
    scale: int | None
    """Factor by which width and height grow; null: `auto`, which chooses."""
    licence: str | None


@dataclass(frozen=True)
class JobList:
    """Jobs, latest first."""

    jobs: list[JobInfo]


@dataclass(frozen=True)
class About:
    """What the page needs to know."""

    version: str
    model: str
    """Model of requests that name none."""
    models: list[ModelInfo]
    max_bytes: int
    accepts_paths: bool
    """True if `path` may name a file below `--root`."""
    client: str
    is_session: bool
    """True if a cookie or token was needed."""


def app_of(service: Service) -> Guard:
    """Return the application that serves a service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.changes.bind(asyncio.get_running_loop())
        await asyncio.to_thread(service.start)
        try:
            yield
        finally:
            service.changes.bind(None)
            await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="srgan-edge",
        version=__version__,
        description=describing.DESCRIPTION,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    _answer_errors(app)
    _add_page(app)
    _add_health(app, service)
    _add_jobs(app, service)
    _add_files(app, service)
    _add_upscale(app, service)
    _add_session(app, service)
    describing.describe(app)
    return Guard(app, service)


def caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


def _answer_errors(app: FastAPI) -> None:
    async def problem(request: Request, error: Exception) -> Response:
        return _Refusal(_problem_of(error))

    for kind in (Problem, SrganEdgeError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, problem)


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, SrganEdgeError):
        return Problem.of_error(error)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return Problem("invalid", f"{where}: {first['msg']}")
    status = error.status_code if isinstance(error, HTTPException) else 500
    names = {404: "not-found", 405: "method-not-allowed"}
    return Problem(names.get(status, "malformed"), getattr(error, "detail", "not possible"))


class _Refusal(Response):
    """A problem as a response."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(status_code=problem.kind.status)
        self._problem = problem

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        await send_problem(send, self._problem)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> Response:
        content = (PAGE / "page.html").read_text(encoding="utf-8")
        return HTMLResponse(content, headers={"content-security-policy": PAGE_POLICY})

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise Problem("not-found", "no such file")
        return FileResponse(
            PAGE / name, media_type=ASSETS[name], headers={"cache-control": "no-cache"}
        )


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], summary="The process answers")
    async def healthz() -> dict[Literal["status"], Literal["ok"]]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], summary="Jobs are accepted")
    def readyz() -> dict[Literal["status"], Literal["ready"]]:
        if reason := is_ready(service):
            raise Problem("draining", reason, retry_after_seconds=10)
        return {"status": "ready"}

    @app.get("/metrics", tags=["health"], summary="Numbers for Prometheus")
    def metrics() -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE)

    @app.get("/v1/about", tags=["service"], summary="Models and limits")
    def about(request: Request, who: Who) -> About:
        known = {model.name: model for model in bundled()}
        models = [
            ModelInfo(
                name,
                known[name].scale if name in known else None,
                known[name].licence if name in known else None,
            )
            for name in service.models()
        ]
        return About(
            version=__version__,
            model=service.settings.model,
            models=models,
            max_bytes=service.settings.max_bytes,
            accepts_paths=service.settings.root is not None,
            client=who.name,
            is_session=who.sees is not None,
        )


def _add_jobs(app: FastAPI, service: Service) -> None:
    store = service.store

    @app.post(
        "/v1/jobs",
        tags=["jobs"],
        status_code=202,
        summary="Upload a file, or name one, to be upscaled",
        openapi_extra=describing.upload_body(with_path=True),
    )
    async def create_job(request: Request, response: Response, who: Who) -> JobInfo:
        with service.admitted(who.name, _coming_bytes(request, service)) as folder:
            upload = await _received(request, service, folder)
            request_fields = wanted(upload.fields, service.settings, service.models())
            if request_fields.path is not None:
                if upload.path is not None:
                    raise Problem("invalid", "both file and path", "one of them")
                with _disk_problems():
                    await asyncio.to_thread(
                        fetch, upload, request_fields.path, service.settings, folder
                    )
            service.keeper.refuse_without_room(0)
            job = new_job(new_id(), who.name, upload, request_fields)
            with _disk_problems():
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

    app.state.job_of = job_of
    Found = Annotated[Job, Depends(job_of)]

    @app.get("/v1/jobs/{job_id}", tags=["jobs"], summary="One job")
    def get_job(job: Found) -> JobInfo:
        return job.info

    @app.delete(
        "/v1/jobs/{job_id}",
        tags=["jobs"],
        summary="Cancel a job that has not ended, delete one that has",
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


class _NothingMore(Exception):
    """There are no further events."""


def _add_files(app: FastAPI, service: Service) -> None:
    Found = Annotated[Job, Depends(app.state.job_of)]

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
            return ResultFile(job.target, job.info.name, _digest_header(job.info.sha256))
        except OSError:
            raise Problem("no-such-job", "the result was just deleted") from None

    @app.get(
        "/v1/jobs/{job_id}/compare",
        tags=["jobs"],
        summary="A page that shows the result beside its source",
        response_class=HTMLResponse,
    )
    def get_compared(job: Found) -> Response:
        _refuse_without_result(job)
        try:
            path = compared(job)
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


def _add_upscale(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/upscale",
        tags=["images"],
        summary="Upscale an image, and wait for it",
        response_class=FileResponse,
        responses=describing.FILE_RESPONSES,
        openapi_extra=describing.upload_body(with_path=False),
    )
    async def upscale(request: Request, who: Who) -> Response:
        service.refuse_while_draining()
        with service.waiting_request(), service.incoming(_coming_bytes(request, service)) as folder:
            upload = await _received(request, service, folder)
            request_fields = wanted(upload.fields, service.settings, service.models())
            job = new_job(folder.name, who.name, upload, request_fields)
            if job.kind == "video":
                raise Problem("invalid", f"{upload.name} is a video", "POST /v1/jobs takes videos")
            source = folder / job.source
            image = ImageRequest(
                planned(source, request_fields.extension),
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
        headers = _digest_header(ended.sha256) | {"x-upscaled-size": ended.size or ""}
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


def _add_session(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/session", tags=["service"], summary="Exchange a token for a cookie", status_code=204
    )
    async def begin_session(request: Request, who: Who) -> Response:
        response = Response(status_code=204)
        if who.sees is not None:
            response.set_cookie(
                COOKIE,
                await asyncio.to_thread(service.tokens.begin_session, who.name),
                max_age=int(SESSION_SECONDS),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return response

    @app.delete("/v1/session", tags=["service"], summary="End the session", status_code=204)
    async def end_session(request: Request) -> Response:
        if session := session_of(dict(request.headers)):
            await asyncio.to_thread(service.tokens.end_session, session)
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response


async def _received(request: Request, service: Service, folder: Path) -> Upload:
    kind = request.headers.get("content-type", "")
    return await receive(kind, _chunks(request), folder, service.settings.max_bytes)


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


def _coming_bytes(request: Request, service: Service) -> int:
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


class _disk_problems:
    """Turns failures of the disk into problems."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise disk_problem(error) from error


def _digest_header(sha256: str | None) -> dict[str, str]:
    if sha256 is None:
        return {}
    return {"repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"}


def _event_number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 18 else None
