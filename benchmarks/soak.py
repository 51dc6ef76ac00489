"""Soak test of long videos and repeated kills: memory, files, threads, and identical bytes.

    python benchmarks/soak.py [--minutes 30] [--kills 1000] [--shared-kills 50] [-n MODEL]
                              [--out FILE.json]

First one command upscales an endlessly repeated clip for `--minutes`, while its memory, open files
and threads are sampled about once a second; then it is stopped by SIGTERM, as on an unattended box,
and must report that it can resume. Then a video is upscaled by processes that are killed at random
moments, again and again, and every finished video must have the same bytes. The same is done to a
command with two workers, of which any or the command itself is killed. `soak_ray.py` does alike to
nodes of a Ray cluster, and `soak_service.py` to a service.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import numpy as np
import psutil
from pipeline import DEMO_CLIP, repeated

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import clips  # noqa: E402 - a folder of the checkout
from killing import kill_again_and_again  # noqa: E402


@dataclass(frozen=True)
class Result:
    """The result that is printed and stored."""

    model: str
    minutes: float
    frames: int
    memory_mb: float
    """Unshared memory of the command and its children at the end."""
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
    shared_kills: int
    """Number of kills of commands with two workers, or of their workers."""
    shared_videos: int
    """Number of videos that those finished, all with the bytes of one engine."""


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("-n", "--model", default="edge-x4")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--shared-kills", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frames, samples, stop_seconds = soak(arguments.model, arguments.minutes, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        source = clips.make(Path(folder) / "in.mp4", frames=250, audio=["eng"])
        killed = kill_again_and_again(source, Path(folder) / "out.mkv", arguments.kills, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        source = clips.make(Path(folder) / "in.mp4", frames=600, audio=["eng"], options={"g": "20"})
        options = ["--device", "cpu,cpu"]
        shared_videos = kill_members(
            *(source, Path(folder), arguments.shared_kills, options, workers_of)
        )
    steady = harness.steadiness(samples)
    result = Result(
        model=arguments.model,
        minutes=arguments.minutes,
        frames=frames,
        memory_mb=steady.memory_mb,
        memory_mb_per_1000_frames=steady.memory_mb_per_1000,
        open_files=steady.open_files,
        threads=steady.threads,
        stop_seconds=round(stop_seconds, 2),
        kills=killed.kills,
        videos=killed.videos,
        resumed=killed.resumed,
        shared_kills=arguments.shared_kills,
        shared_videos=shared_videos,
    )
    harness.publish(asdict(result), arguments.out)


def soak(model: str, minutes: float, folder: Path) -> "tuple[int, np.ndarray, float]":
    """Return the frames done, the samples, and the seconds to stop.

    The samples are float64 [samples, 4]: frames, and what `harness.used` returns.

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
                samples.append((event["frames"], *harness.used(harness.family(process.pid))))
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


def kill_members(
    source: Path,
    folder: Path,
    kills: int,
    options: list[str],
    victims: Callable[[int], Sequence[Callable[[], object]]],
) -> int:
    """Kill a command with workers, or one of these, at random moments after its first segment.

    Args:
        options: those that give the command its workers.
        victims: called with the process ID of the command; returns calls that kill one member each,
            but not the command.

    Returns:
        Number of videos that were finished.

    Raises:
        AssertionError: bytes differ, or a command failed without being killed.
    """

    def begun(target: Path, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "srgan_edge", "upscale", "-q", str(source)]
        command += ["-n", "edge-x4", "--preset", "ultrafast", *options, "-o", str(target)]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    chance, whole, target, videos = random.Random(1), folder / "whole.mkv", folder / "out.mkv", 0
    first = folder / f"{target.name}.partial" / "segment-000000.nut"
    began = time.monotonic()
    assert begun(whole, "--device", "cpu").wait() == 0
    seconds = time.monotonic() - began
    while kills:
        process = begun(target, *options)
        while process.poll() is None and not first.exists():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5) * seconds)
        with suppress(psutil.NoSuchProcess):  # it has just ended
            chance.choice([psutil.Process(process.pid).kill, *victims(process.pid)])()
            kills -= 1
        assert process.communicate()[0] == b""
        assert process.returncode in (0, -signal.SIGKILL)
        if target.exists():
            assert target.read_bytes() == whole.read_bytes()
            target.unlink()
            videos += 1
    assert begun(target, *options).wait() == 0
    assert target.read_bytes() == whole.read_bytes()
    return videos + 1


def workers_of(command: int) -> list[Callable[[], object]]:
    """Return calls that kill the workers of a command on this machine, one each."""
    _, *members = harness.family(command)
    return [process.kill for process in members if _is_worker(process)]


def _is_worker(process: psutil.Process) -> bool:
    return any("workers import processes" in argument for argument in process.cmdline())


if __name__ == "__main__":
    main()
