"""Soak test of a service: ten minutes of mixed load, and repeated kills.

    python benchmarks/soak_service.py [--minutes 10] [--kills 100] [-n MODEL] [--out FILE.json]

First clients send images that they wait for, and images and videos to the queue, whose events they
follow, and whose results they fetch and delete. Memory, open files and threads of the service and
its decoders are sampled once a second. Then services with a video and images in their queues are
killed at random moments; no job that was accepted may be lost, and all results are those of a calm
run.
"""

import argparse
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import clips  # noqa: E402 - a folder of the checkout
import serving  # noqa: E402

IMAGE_CLIENTS = 8
KILLS_A_ROUND = 5


@dataclass(frozen=True)
class Result:
    """The result that is printed and stored."""

    model: str
    minutes: float
    waited: int
    """Images that clients waited for."""
    queued: int
    """Images and videos of the queue, fetched and deleted."""
    memory_mb: float
    """Unshared memory of the service and its decoders at the end of the load."""
    memory_mb_per_1000_files: float
    """Slope of the line through all samples after the first third."""
    open_files: tuple[int, int]
    """Minimum and maximum after the first third."""
    threads: tuple[int, int]
    kills: int
    killed_jobs: int
    """Jobs that a service finished between its kills, all with the bytes of a calm run."""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("-n", "--model", default="edge-x4")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kills", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done, samples = load(Path(folder), arguments)
    with tempfile.TemporaryDirectory() as folder:
        killed_jobs = kill(Path(folder), arguments.kills)
    steady = harness.steadiness(samples)
    result = Result(
        model=arguments.model,
        minutes=arguments.minutes,
        waited=done["waited"],
        queued=done["queued"],
        memory_mb=steady.memory_mb,
        memory_mb_per_1000_files=steady.memory_mb_per_1000,
        open_files=steady.open_files,
        threads=steady.threads,
        kills=arguments.kills,
        killed_jobs=killed_jobs,
    )
    harness.publish(asdict(result), arguments.out)


def load(folder: Path, arguments: argparse.Namespace) -> tuple[dict[str, int], np.ndarray]:
    """Return how many files were upscaled, and the samples of `harness.used` with their number.

    Raises:
        AssertionError: a client was refused, or did not get what it asked for.
    """
    image, video = sources(folder)[1], clips.make(folder / "b.mp4", frames=12)
    done, failures = {"waited": 0, "queued": 0}, []
    with serving.served(folder / "data", "-n", arguments.model) as service:
        ends = time.monotonic() + 60 * arguments.minutes

        def repeat(number: int) -> None:
            target = folder / f"result-{number}"
            waits = number % 2 == 0
            source = video if number == 1 else image
            try:
                with service.client() as client:
                    while time.monotonic() < ends and not failures:
                        if waits:
                            client.upscale(source, target, overwrite=True)
                        else:
                            job = client.wait(client.submit(source).id)
                            client.download(job, target, overwrite=True)
                            client.cancel(job.id)
                        done["waited" if waits else "queued"] += 1
            except Exception as error:
                failures.append(error)

        clients = [threading.Thread(target=repeat, args=(it,)) for it in range(IMAGE_CLIENTS)]
        for client in clients:
            client.start()
        samples = []
        while any(client.is_alive() for client in clients):
            samples.append((sum(done.values()), *harness.used(lasting(service.process.pid))))
            time.sleep(1)
    assert not failures, failures
    return done, np.array(samples)


def lasting(process_id: int) -> list[psutil.Process]:
    """Return the service and its decoders, without the processes of videos, which end with them."""
    service = psutil.Process(process_id)
    found = [service]
    for child in service.children():
        with suppress(psutil.NoSuchProcess):
            if "upscale" not in child.cmdline():
                found.append(child)
    return found


def sources(folder: Path) -> list[Path]:
    """Return a video and four images."""
    made = [clips.make(folder / "a.mp4", frames=60, audio=["eng"])]
    for number in range(4):
        path = folder / f"{number}.png"
        Image.fromarray(clips.barcode(number, (96, 64))).save(path)
        made.append(path)
    return made


def kill(folder: Path, kills: int) -> int:
    """Kill services with a video and images in their queues; return the number of jobs finished.

    Raises:
        AssertionError: a job was lost, or its result has other bytes than without a kill.
    """
    files = sources(folder)
    expected = [it.sha256 for it in serving.kill_again_and_again(folder / "calm", files, 0, 0)]
    finished = 0
    for seed in range(-(-kills // KILLS_A_ROUND)):
        some = min(KILLS_A_ROUND, kills - seed * KILLS_A_ROUND)
        ended = serving.kill_again_and_again(folder / str(seed), files, some, seed)
        assert [job.sha256 for job in ended] == expected, ended
        finished += len(ended)
    return finished


if __name__ == "__main__":
    main()
