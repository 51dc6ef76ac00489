"""Load on a service on this machine: clients that each send images one after another.

    python benchmarks/serve.py [--clients 200] [--images 2000] [--size 64x48] [--out FILE.json]

A real `srgan-edge serve` gets `--images` small PNGs by `POST /v1/upscale` from `--clients`
connections at once. Times are those that clients see. Its memory is sampled; it must not grow with
the number of images. Nothing leaves the loopback.
"""

import argparse
import asyncio
import io
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from serving import multipart, served  # noqa: E402 - a folder of the checkout


@dataclass(frozen=True)
class Result:
    """The result that is printed and stored."""

    model: str
    clients: int
    images: int
    size: str
    seconds: float
    images_per_second: float
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers 429, after which a client tried again."""
    failed: int
    """Any other answer than 200."""
    memory_mb: tuple[float, float, float]
    """Unshared memory of service and decoders: after one image, in the middle, at the end."""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("-n", "--model", default="edge-x4")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", default="64x48")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder) / "data", "-n", arguments.model) as service,
    ):
        result = asyncio.run(_load(service, arguments))
    harness.publish(asdict(result), arguments.out)


async def _load(service, arguments: argparse.Namespace) -> Result:  # noqa: ANN001 - of the tests
    width, height = map(int, arguments.size.split("x"))
    bodies = [_request(_png(seed, width, height)) for seed in range(16)]
    await _send(service.port, bodies[0])
    memory = [harness.used(harness.family(service.process.pid))[0]]
    numbers = iter(range(arguments.images))
    times, counts = [], {"refused": 0, "failed": 0}

    async def client() -> None:
        for number in numbers:
            began = time.monotonic()
            while (status := await _send(service.port, bodies[number % len(bodies)])) == 429:
                counts["refused"] += 1
                await asyncio.sleep(1)
            counts["failed"] += status != 200
            times.append(time.monotonic() - began)
            if number == arguments.images // 2:
                memory.append(harness.used(harness.family(service.process.pid))[0])

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(arguments.clients)))
    seconds = time.monotonic() - began
    memory.append(harness.used(harness.family(service.process.pid))[0])
    p50, p99 = np.percentile(times, [50, 99], method="inverted_cdf") * 1000
    return Result(
        model=arguments.model,
        clients=arguments.clients,
        images=arguments.images,
        size=arguments.size,
        seconds=round(seconds, 1),
        images_per_second=round(arguments.images / seconds, 1),
        p50_ms=round(float(p50), 1),
        p99_ms=round(float(p99), 1),
        refused=counts["refused"],
        failed=counts["failed"],
        memory_mb=(memory[0], memory[1], memory[2]),
    )


def _png(seed: int, width: int, height: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    image = Image.fromarray(pixels.astype(np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _request(png: bytes) -> bytes:
    body = multipart({}, "a.png", png)
    head = (
        "POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _send(port: int, request: bytes) -> int:
    """Send a request and read the whole answer; return its status, 0 if there is none."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
        writer.close()
    except OSError:
        return 0
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


if __name__ == "__main__":
    main()
