"""Soak test of long videos and repeated kills: memory, files, threads, and identical bytes.

    python benchmarks/soak.py [--minutes 30] [--kills 1000] [-n MODEL] [--out FILE.json]

First one command upscales an endlessly repeated clip for `--minutes`, while its memory, open files
and threads are sampled about once a second; then it is stopped by SIGTERM, as on an unattended box,
and must report that it can resume. Then a video is upscaled by processes that are killed at random
moments, again and again, and every finished video must have the same bytes. At last a service is
killed at random moments; no job that it accepted may be lost, and all results are the same.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np
import psutil
from PIL import Image
from pipeline import DEMO_CLIP, repeated

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import clips  # noqa: E402 - a folder of the checkout
import serving  # noqa: E402
from killing import kill_again_and_again  # noqa: E402

SETTLED = 1 / 3
"""Share of the time before the slope is fitted: memory grows while buffers fill, then stays."""


@dataclass(frozen=True)
class Result:
    """The result that is printed and stored."""

    model: str
    minutes: float
    frames: int
    memory_mb: float
    """Memory of the command and its children at the end."""
    memory_mb_per_1000_frames: float
    """Slope of the line through all samples after the first third."""
    open_files: tuple[int, int]
    """Minimum and maximum after the first third."""
    threads: tuple[int, int]
    stop_seconds: float
    """Seconds from SIGTERM to the end of the process."""
    kills: int
    videos: int
    """Number of videos finished between the kills, all with the same bytes."""
    resumed: int
    """Number of runs that resumed after a killed one."""
    service_kills: int
    service_jobs: int
    """Jobs that a service finished between its kills, all with the same bytes."""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("-n", "--model", default="edge-x4")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--service-kills", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frames, samples, stop_seconds = soak(arguments.model, arguments.minutes, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        source = clips.make(Path(folder) / "in.mp4", frames=250, audio=["eng"])
        killed = kill_again_and_again(source, Path(folder) / "out.mkv", arguments.kills, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        jobs = kill_service(Path(folder), arguments.service_kills)
    settled = samples[round(len(samples) * SETTLED) :]
    slope, _ = np.polyfit(settled[:, 0], settled[:, 1], 1)
    result = Result(
        model=arguments.model,
        minutes=arguments.minutes,
        frames=frames,
        memory_mb=round(float(samples[-1, 1]), 1),
        memory_mb_per_1000_frames=round(1000 * float(slope), 3),
        open_files=(int(settled[:, 2].min()), int(settled[:, 2].max())),
        threads=(int(settled[:, 3].min()), int(settled[:, 3].max())),
        stop_seconds=round(stop_seconds, 2),
        kills=killed.kills,
        videos=killed.videos,
        resumed=killed.resumed,
        service_kills=arguments.service_kills,
        service_jobs=jobs,
    )
    harness.publish(asdict(result), arguments.out)


def soak(model: str, minutes: float, folder: Path) -> "tuple[int, np.ndarray, float]":
    """Return the frames done, the samples, and the seconds to stop.

    The samples are float64 [samples, 4]: frames, memory in MB, files and threads.

    Raises:
        AssertionError: the command ended early, or does not report that it can resume.
    """
    endless = repeated(DEMO_CLIP, max(2, round(minutes * 60)), folder / "endless.mp4")
    command = [sys.executable, "-m", "srgan_edge", "upscale", str(endless), "-n", model]
    command += ["--json-events", "-o", str(folder / "out.mkv")]
    samples: list[tuple[float, float, float, float]] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ends = time.monotonic() + minutes * 60
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress":
                samples.append((event["frames"], *_used(process.pid)))
            if time.monotonic() > ends:
                break
        assert process.poll() is None, process.stderr.read()
        stopped = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        said = process.stderr.read()
        assert process.wait(60) == 128 + signal.SIGTERM, said
        stop_seconds = time.monotonic() - stopped
    assert "goes on from there" in said, said
    return int(samples[-1][0]), np.array(samples), stop_seconds


def kill_service(folder: Path, kills: int, kills_a_round: int = 5) -> int:
    """Kill services with a video and images in their queues; return the number of jobs finished.

    Raises:
        AssertionError: a job was lost, or its result has other bytes than without a kill.
    """
    sources = [clips.make(folder / "a.mp4", frames=60, audio=["eng"])]
    for number in range(4):
        path = folder / f"{number}.png"
        Image.fromarray(clips.barcode(number, (96, 64))).save(path)
        sources.append(path)
    expected = [it.sha256 for it in serving.kill_again_and_again(folder / "calm", sources, 0, 0)]
    finished = 0
    for seed in range(-(-kills // kills_a_round)):
        some = min(kills_a_round, kills - seed * kills_a_round)
        ended = serving.kill_again_and_again(folder / str(seed), sources, some, seed)
        assert [job.sha256 for job in ended] == expected, ended
        finished += len(ended)
    return finished


def _used(process_id: int) -> tuple[float, int, int]:
    """Return memory in MB, open files and threads of a process and its children."""
    parent = psutil.Process(process_id)
    family = [parent, *parent.children(recursive=True)]
    memory_bytes = sum(process.memory_info().rss for process in family)
    files = sum(process.num_fds() for process in family)
    return memory_bytes / 1e6, files, sum(process.num_threads() for process in family)


if __name__ == "__main__":
    main()
