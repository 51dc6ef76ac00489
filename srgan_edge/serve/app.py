"""The application: its routes put together, its page, health and sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from srgan_edge import __version__
from srgan_edge.api import models as bundled
from srgan_edge.compare.page import BASE_STYLE
from srgan_edge.errors import SrganEdgeError
from srgan_edge.serve import describing
from srgan_edge.serve.asking import Who
from srgan_edge.serve.guard import COOKIE, Guard, send_problem, session_of
from srgan_edge.serve.image_route import add_upscale
from srgan_edge.serve.job_routes import add_jobs
from srgan_edge.serve.metrics import CONTENT_TYPE
from srgan_edge.serve.problems import Problem
from srgan_edge.serve.service import Service, is_ready
from srgan_edge.serve.tokens import SESSION_SECONDS

PAGE = Path(__file__).parent / "page"
ASSETS = {
    BASE_STYLE.name: (BASE_STYLE, "text/css"),
    "page.css": (PAGE / "page.css", "text/css"),
    "page.js": (PAGE / "page.js", "text/javascript"),
    "icon.svg": (PAGE / "icon.svg", "image/svg+xml"),
}
"""Name in an address -> file and its type."""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class ModelInfo:
    """A model that requests may name."""

    name: str
    scale: int | None
    """Factor by which width and height grow; null: `auto`, which chooses."""
    licence: str | None


@dataclass(frozen=True)
class About:
    """Models and limits, for the page and for programs."""

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
    add_jobs(app, service)
    add_upscale(app, service)
    _add_session(app, service)
    describing.describe(app)
    return Guard(app, service)


def _answer_errors(app: FastAPI) -> None:
    async def problem(request: Request, error: Exception) -> Response:
        return _Refusal(_problem_of(error))

    for kind in (Problem, SrganEdgeError, RequestValidationError, HTTPException, Exception):
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
    if isinstance(error, HTTPException):
        names = {404: "not-found", 405: "method-not-allowed"}
        return Problem(names.get(error.status_code, "malformed"), error.detail)
    return Problem.of_failure(error)  # which the guard logs


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
        path, media_type = ASSETS[name]
        return FileResponse(path, media_type=media_type, headers={"cache-control": "no-cache"})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], summary="The process answers")
    async def healthz() -> dict[Literal["status"], Literal["ok"]]:
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], summary="Jobs are accepted, and worked on")
    def readyz() -> dict[Literal["status"], Literal["ready"]]:
        if reason := is_ready(service):
            raise Problem("not-ready", reason, retry_after_seconds=10)
        return {"status": "ready"}

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Numbers for Prometheus",
        response_class=PlainTextResponse,
    )
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
            await asyncio.to_thread(service.tokens.end, session)
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response
