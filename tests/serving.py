"""Start a real `srgan-edge serve` on a free port, and talk to it."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from srgan_edge.client import Client

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 150  # of a busy machine


@dataclass
class Served:
    """A running service."""

    process: subprocess.Popen
    port: int = 0
    log: list = field(default_factory=list)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self, token=None, **options):
        return Client(self.url, token, **options)

    def kill(self):
        """End it as `kill -9` does, with all that it started."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def events(self, name):
        return [line for line in self.log if line.get("event") == name]

    def wait_for(self, condition, seconds=60.0):
        ends = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < ends, self.log[-5:]
            time.sleep(0.02)
        return found

    def request(self, method, path, body=None, headers=None):
        """Return status, headers and body of one request; nothing is added to it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def post(self, path, fields, name=None, content=b"", headers=None):
        """Send a multipart request; return status, headers and JSON or bytes."""
        body = multipart(fields, name, content)
        kind = {"content-type": "multipart/form-data; boundary=xyz"} | (headers or {})
        status, got, answer = self.request("POST", path, body, kind)
        got = {key.lower(): value for key, value in got.items()}
        return status, got, json.loads(answer) if "json" in got["content-type"] else answer


def multipart(fields, name=None, content=b""):
    parts = [
        f'--xyz\r\ncontent-disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if name is not None:
        head = f'--xyz\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + b"--xyz--\r\n"


@contextmanager
def served(data, *options, wait=True, **popen):
    """Yield a service on a data folder; it is stopped afterwards, with SIGTERM if it runs."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "srgan_edge", "serve", "--data", str(data), "--port", "0"),
            *("--keep-free-mb", "1", *map(str, options)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **popen,
    )
    service = Served(process)
    listening = threading.Event()

    def read():
        for line in process.stderr:
            try:
                record = json.loads(line)
            except ValueError:
                record = {"text": line}
            service.log.append(record)
            if record.get("event") == "listening":
                service.port = int(record["url"].rstrip("/").rpartition(":")[2])
            if record.get("event") == "started":
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if wait:
            assert listening.wait(START_SECONDS)
            assert service.port, service.log
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(5)
        process.stderr.close()


def kill_again_and_again(data, sources, kills, seed, pause_seconds=(0.2, 2.0), **options):
    """Submit files to a service that is killed at random moments; return how each has ended.

    The jobs are submitted to the first service; the last one is not killed.
    """
    chance, accepted = random.Random(seed), []
    for run in range(kills + 1):
        with served(data, "-n", "edge-x4", **options) as service, service.client() as client:
            if not accepted:
                accepted = [client.submit(source).id for source in sources]
            if run == kills:
                return [client.wait(job_id) for job_id in accepted]
            time.sleep(chance.uniform(*pause_seconds))
            service.kill()
    raise AssertionError
