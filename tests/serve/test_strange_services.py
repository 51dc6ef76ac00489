"""Clients of what is no `srgan-edge serve`: proxies, other programs, and services that lie."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from srgan_edge.client import Client, JobInfo
from srgan_edge.errors import OutputFailed, ResourcesExhausted, UsageError

JOB = {
    **{"id": "a" * 32, "state": "done", "kind": "image", "name": "i.png", "model": "edge-x4"},
    **{"outscale": None, "priority": 0, "bytes": 3, "created": 0.0, "started": 0, "ended": 0},
    **{"frames": 1, "frames_expected": 1, "position": None, "seconds": 0.1, "exit_code": 0},
    **{"error": None, "size": "4x4", "result_bytes": 100, "sha256": None, "notes": [], "change": 1},
}


@contextmanager
def answering(status, headers, body):
    """Yield the address of a service that answers everything alike, and then hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"{}", "a job without id"),
        (json.dumps(JOB | {"seconds": None}).encode(), "a job without seconds"),
        (json.dumps(JOB | {"notes": 5}).encode(), "a job without notes"),
        (json.dumps(JOB | {"state": "gone"}).encode(), "a job without state"),
        (b"[" * 100_000, "status 200, not JSON"),
    ],
)
def test_an_answer_that_is_no_job_is_one_line(tmp_path, body, line):
    (tmp_path / "i.png").write_bytes(b"abc")
    with answering(200, {}, body) as address, pytest.raises(ResourcesExhausted, match=line):
        Client(address).submit(tmp_path / "i.png")
    event = b"id: 1\ndata: " + body + b"\n\n"
    with answering(200, {}, event) as address, pytest.raises(ResourcesExhausted, match="no answer"):
        Client(address).wait("a" * 32)


@pytest.mark.parametrize("pause", ["Wed, 21 Oct 2026 07:28:00 GMT", "nan", "-5"])
def test_the_pauses_of_proxies_are_understood(pause):
    with (
        answering(503, {"retry-after": pause}, b'{"detail": "busy"}') as address,
        pytest.raises(ResourcesExhausted, match="busy"),
    ):
        Client(address).job("a" * 32)


def test_a_download_that_does_not_come_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_edge.client.results.FIRST_PAUSE_SECONDS", 0.01)
    job = JobInfo.of(JOB)
    with (
        answering(200, {"content-length": "100"}, b"") as address,
        pytest.raises(ResourcesExhausted, match="does not come from 127"),
    ):
        Client(address).download(job, tmp_path / "o.png")
    with (
        answering(200, {"content-length": "200"}, b"x" * 200) as address,
        pytest.raises(OutputFailed, match="more than the 100 bytes"),
    ):
        Client(address).download(job, tmp_path / "o.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "headers",
    [
        {"content-length": "100"},
        {"repr-digest": "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:"},  # of b"abc"
    ],
)
def test_an_image_that_arrives_in_part_is_not_written(tmp_path, headers):
    (tmp_path / "i.png").write_bytes(b"abc")
    with answering(200, headers, b"x" * 50) as address, pytest.raises(OutputFailed):
        Client(address).upscale(tmp_path / "i.png", tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()
    with answering(200, headers | {"content-length": "3"}, b"abc") as address:
        Client(address).upscale(tmp_path / "i.png", tmp_path / "o.png")
    assert (tmp_path / "o.png").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "url",
    [
        *("box:99999", "http://box:abc", "http://[::1", "http://a b", "http://..", "http://é/ü"),
        *("http://me:secret@box", "box:1?token=secret", f"{'a' * 80}.de"),
    ],
)
def test_addresses_that_are_none_are_refused_without_their_secrets(url):
    with pytest.raises(UsageError, match="possible: http://HOST:PORT") as refused:
        Client(url)
    assert "secret" not in str(refused.value)


def test_what_cannot_be_a_token_is_refused(cli, tmp_path):
    (tmp_path / "i.png").write_bytes(b"abc")
    for text in (b"two\nlines", "schlüssel".encode(), b"\0" * 5000):
        (tmp_path / "token").write_bytes(text)
        code, _, err = cli(
            *("submit", "127.0.0.1:9", tmp_path / "i.png", "--token-file", tmp_path / "token")
        )
        assert code == 2 and "--new-token NAME" in err, err
