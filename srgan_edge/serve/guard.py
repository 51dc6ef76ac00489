"""Everything a request passes before and after its route: who may send it, how slowly, and what
every answer carries. The limits hold for all routes, for they are checked here alone."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from srgan_edge.serve.problems import MEDIA_TYPE, OWN, Problem
from srgan_edge.serve.service import Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "srgan-edge-session"
IDLE_SECONDS = 20.0
"""Longest pause within a request's body."""
FREE_SECONDS, LEAST_BYTES_A_SECOND = 20.0, 2048
"""After the first seconds, a body has to come this fast on average."""
SMALL_BODY_BYTES = 64 << 10
"""Largest body of requests that are no uploads."""

_OPEN = ("/", "/healthz", "/readyz")
_UPLOADS = ("/v1/jobs", "/v1/upscale")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
}
"""Headers of every answer that does not set its own."""
_BY_STATUS = {
    400: "malformed",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    416: "range",
    422: "invalid",
}


@dataclass(frozen=True)
class Caller:
    """The sender of a request."""

    name: str
    """Name of the token, or the address; jobs are counted by it."""
    sees: str | None
    """Client whose jobs may be seen; None: all of them."""


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, service: Service) -> None:
        self._app, self._service = app, service
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._guarded(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        answer = _Answer(send)
        self._under_way += 1
        metrics = self._service.metrics
        metrics.under_way.set(self._under_way)
        try:
            scope.setdefault("state", {})["caller"] = self._admitted(scope)
            body = _Body(receive, answer, is_upload=_is_upload(scope))
            await self._app(scope, body.receive, answer.send)
        except Problem as problem:
            if not answer.has_begun:
                await send_problem(answer.send, problem)
        except Exception as error:
            self._service.log.failure("request", error, path=scope["path"])
            if not answer.has_begun:
                await send_problem(answer.send, Problem.of_failure(error))
        finally:
            self._under_way -= 1
            metrics.under_way.set(self._under_way)
            self._record(scope, answer, time.monotonic() - began)

    def _admitted(self, scope: Scope) -> Caller:
        """Return who sends the request.

        Raises:
            Problem: nobody may, or not this one.
        """
        settings, tokens = self._service.settings, self._service.tokens
        headers = _headers_of(scope)
        if self._under_way > settings.max_connections:
            raise Problem(
                "busy", f"{settings.max_connections} requests are under way", retry_after_seconds=1
            )
        needs_token = tokens.are_required
        self._refuse_other_host(headers, needs_token)
        address = (scope.get("client") or ("unknown", 0))[0]
        if scope["path"] in _OPEN or scope["path"].startswith("/assets/"):
            return Caller(address, "")
        _refuse_other_origin(headers)
        if not needs_token:
            return Caller(address, None)
        token = _bearer(headers)
        begins_session = (scope["method"], scope["path"]) == ("POST", "/v1/session")
        if token is None and not begins_session:  # which takes a token, so that none lasts on
            token = session_of(headers)
        name = tokens.client_of(token, address)
        return Caller(name, name)

    def _refuse_other_host(self, headers: dict[str, str], needs_token: bool) -> None:
        """Refuse names that a page elsewhere could let point here (DNS rebinding)."""
        allowed = self._service.settings.allowed_hosts
        if needs_token and not allowed:
            return
        name = (urlsplit(f"//{headers.get('host', '')}").hostname or "").lower()
        if name not in (*_LOCAL_NAMES, self._service.settings.host, *allowed):
            raise Problem(
                "other-host",
                f"called as {name[:100]!r}",
                ", ".join((*_LOCAL_NAMES, *allowed)) + "; --allowed-host adds a name",
            )

    def _record(self, scope: Scope, answer: "_Answer", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status, metrics = answer.status or 499, self._service.metrics
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        metrics.requests.labels(method, route, str(status)).inc()
        if not answer.is_stream:
            metrics.request_seconds.labels(route).observe(seconds)
        caller = scope.get("state", {}).get("caller")
        self._service.log.info(
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            bytes=answer.bytes,
            client=getattr(caller, "name", None),
            address=(scope.get("client") or (None,))[0],
        )


_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")


class _Body:
    """The body of a request, which has to come fast enough and to be small, except uploads."""

    def __init__(self, receive: Receive, answer: "_Answer", *, is_upload: bool) -> None:
        self._receive, self._answer, self._is_upload = receive, answer, is_upload
        self._began = time.monotonic()
        self._bytes, self._is_whole = 0, False

    async def receive(self) -> Message:
        if self._is_whole or self._answer.has_begun:
            return await self._receive()  # which waits for the end of the connection
        try:
            message = await asyncio.wait_for(self._receive(), IDLE_SECONDS)
        except TimeoutError:
            raise Problem("too-slow", f"nothing came for {IDLE_SECONDS:g} s") from None
        self._bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        seconds = time.monotonic() - self._began - FREE_SECONDS
        if not self._is_whole and self._bytes < seconds * LEAST_BYTES_A_SECOND:
            raise Problem(
                "too-slow",
                f"{self._bytes} bytes in {seconds + FREE_SECONDS:.0f} s",
                f"{LEAST_BYTES_A_SECOND} bytes a second",
            )
        if not self._is_upload and self._bytes > SMALL_BODY_BYTES:
            raise Problem("too-large", "the body is too large", f"{SMALL_BODY_BYTES} bytes")
        return message


class _Answer:
    """The answer to a request: counted, with our headers, and errors always as problems."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status, self.bytes = 0, 0
        self.has_begun = self.is_stream = self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {key.decode("latin-1"): value for key, value in message["headers"]}
            kind = headers.get("content-type", b"").decode("latin-1")
            if message["status"] >= 400 and not kind.startswith(MEDIA_TYPE) and not self.has_begun:
                self._replaced = True
                await self._send_problem_instead(message["status"], headers)
                return
            self.has_begun, self.status = True, message["status"]
            self.is_stream = kind.startswith("text/event-stream")
            own = [
                (name.encode(), it.encode()) for name, it in _HEADERS.items() if name not in headers
            ]
            message = {**message, "headers": [*message["headers"], *own]}
        elif self._replaced:
            return
        else:
            self.bytes += len(message.get("body", b""))
        await self._send(message)

    async def _send_problem_instead(self, status: int, headers: dict[str, bytes]) -> None:
        """Send a problem where a library made an answer of its own, such as for ranges."""
        problem = Problem(_BY_STATUS.get(status, "malformed"), "the request cannot be answered")
        kept = [(name, headers[name]) for name in ("content-range", "allow") if name in headers]
        self._replaced = False
        await send_problem(self.send, problem, {key: it.decode("latin-1") for key, it in kept})
        self._replaced = True


async def send_problem(send: Send, problem: Problem, headers: dict[str, str] | None = None) -> None:
    """Send a refusal as the whole answer."""
    body = json.dumps(problem.body).encode()
    fields = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        **problem.headers,
        **(headers or {}),
    }
    if problem.kind.status in (408, 413):
        fields["connection"] = "close"  # the rest of the body is not read
    encoded = [(key.encode(), value.encode("latin-1")) for key, value in fields.items()]
    await send({"type": "http.response.start", "status": problem.kind.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def session_of(headers: dict[str, str]) -> str | None:
    """Return the session that a browser's cookie names."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _refuse_other_origin(headers: dict[str, str]) -> None:
    """Refuse what a page of another site makes a browser send: CORS is off, and so is CSRF."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    same = origin is None or urlsplit(origin).netloc == headers.get("host")
    if not same or site not in ("none", "same-origin"):
        raise Problem(
            "other-origin",
            f"sent by a page of {(origin or site)[:100]}",
            "the service's own page, or a program",
        )


def _bearer(headers: dict[str, str]) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] in _UPLOADS


def _headers_of(scope: Scope) -> dict[str, str]:
    return {key.decode("latin-1").lower(): it.decode("latin-1") for key, it in scope["headers"]}


assert all(name in OWN for name in _BY_STATUS.values())
