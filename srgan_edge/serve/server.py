"""The process: a port, connections that may not dawdle, and an orderly end on SIGTERM."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from srgan_edge.errors import OutputFailed
from srgan_edge.serve.app import app_of
from srgan_edge.serve.log import LibraryLog, Log
from srgan_edge.serve.problems import MEDIA_TYPE
from srgan_edge.serve.service import Service
from srgan_edge.serve.settings import Settings
from srgan_edge.signals import heeded_signals

HEAD_SECONDS = 10.0
"""Longest time from the first byte of a connection, or of its next request, to the end of the
headers. uvicorn has no such limit."""
MAX_HEAD_BYTES = 16 << 10
_KEEP_ALIVE_SECONDS = 15


def serve(settings: Settings, log: Log | None = None) -> None:
    """Serve until a signal stops it.

    Raises:
        UsageError, OutputFailed: as `Service`; or the port is not free.
    """
    listening = _listening(settings)
    service = Service(settings, log)
    logging.getLogger().addHandler(LibraryLog(service.log))
    port = listening.getsockname()[1]
    service.log.info("listening", url=f"http://{_bracketed(settings.host)}:{port}/")
    config = uvicorn.Config(
        app_of(service),
        http=_Protocol,
        ws="none",
        log_config=None,  # our own log has a line for each request
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips="127.0.0.1",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        lifespan="on",
    )
    _Server(config, service).run(sockets=[listening])
    if service.images.is_at_work:
        os._exit(0)  # its threads do not end; the next service begins their images anew


class _Server(uvicorn.Server):
    """A server that stops accepting jobs as soon as a signal comes."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals as uvicorn does, but not raise them again: such an end is exit code 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in heeded_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Hand the video back at once, while requests get their time to end."""
        self._service.drain()
        handing_back = asyncio.create_task(asyncio.to_thread(self._service.videos.stop))
        await super().shutdown(sockets)
        await handing_back


class _Protocol(H11Protocol):
    """HTTP/1.1 whose headers have to come within `HEAD_SECONDS`."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = (
            b'{"type": "urn:srgan-edge:problem:malformed", "status": 400,'
            b' "title": "The request is not HTTP as the service reads it.", "detail": "'
            + msg.encode("ascii", "replace")
            + b'"}'
        )
        headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body)))]
        headers.append(("connection", "close"))
        for event in (
            h11.Response(status_code=400, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_head(self) -> None:
        """Start the clock when headers are awaited, and stop it when they are whole."""
        is_between = self.cycle is None or self.cycle.response_complete
        if not is_between:
            self._stop_clock()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_clock(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def _listening(settings: Settings) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OutputFailed: the port is taken or not allowed, or the host is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(256)
    except (OSError, UnicodeError) as error:  # the latter: no name of a host
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputFailed(
            f"cannot listen on {settings.host} port {settings.port}: {reason}; "
            "name another one with --host or --port"
        ) from error
    listening.setblocking(False)
    return listening


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
