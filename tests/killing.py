"""One video, upscaled by processes that are killed at random moments until it is done.

    python killing.py SOURCE TARGET STEADY

runs one such process: the whole product, except that a slowed-down doubling of pixels replaces the
network, so that a kill can hit any part of the work.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRAME_SECONDS = 0.002


@dataclass
class Killed:
    """Counts over a series of kills."""

    kills: int = 0
    videos: int = 0
    """Videos that were finished in spite of the kills."""
    resumed: int = 0
    """Runs that found finished segments."""


def kill_again_and_again(
    source: Path, target: Path, kills: int, seed: int, steady: float = 0.0
) -> Killed:
    """Upscale `source` again and again, with SIGKILL at random moments, until `kills` were sent.

    Every finished video is compared with one that was made without a kill, and removed.

    Raises:
        AssertionError: bytes differ, files were left over, or a run failed without being killed.
    """
    chance, done = random.Random(seed), Killed()
    whole = target.with_stem("whole")
    began = time.monotonic()
    assert _run(source, whole, steady).wait() == 0
    seconds = time.monotonic() - began
    segment = target.with_name(f"{target.name}.partial") / "segment-000000.nut"
    while done.kills < kills:
        done.resumed += segment.exists()
        process = _run(source, target, steady)
        try:
            code = process.wait(chance.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
            done.kills += 1
            if not (segment.exists() or target.exists()):  # the machine is busier than it was
                seconds *= 1.2
        else:
            seconds *= 0.9
        assert code in (0, -signal.SIGKILL), code
        if target.exists():  # a process can be killed after publishing its video
            assert target.read_bytes() == whole.read_bytes(), f"after {done}"
            target.unlink()
            done.videos += 1
    assert _run(source, target, steady).wait() == 0
    assert target.read_bytes() == whole.read_bytes()
    names = {path.name for path in target.parent.iterdir()}
    assert names == {source.name, target.name, whole.name}, names
    return done


def _run(source: Path, target: Path, steady: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, __file__, str(source), str(target), str(steady)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def main(source: Path, target: Path, steady: float) -> None:
    from whole_frames import WholeFrames

    from srgan_edge.engines.base import EngineInfo
    from srgan_edge.jobs.plan import Job, Options
    from srgan_edge.model.library import find_model
    from srgan_edge.tiling import Tiling
    from srgan_edge.transcode.upscale import upscale_video_file
    from srgan_edge.video.frame import Encoding

    class Doubler(WholeFrames):
        scale, slots = 2, 1
        info = EngineInfo("nearest", "cpu", "fp32", find_model("edge-x4").spec)

        def upscale(self, pixels):
            time.sleep(FRAME_SECONDS)
            return pixels.repeat(2, axis=0).repeat(2, axis=1)

    class Silence:
        def note(self, text): ...
        def started(self, job, frames, done=0): ...
        def frame_done(self): ...

    options = Options("", Encoding(preset="ultrafast"), Tiling(), existing="replace", steady=steady)
    upscale_video_file(Job(source, target, "video"), Doubler(), options, {}, Silence())


def kill_while_at_work(victim, *others):
    """Kill a process, by its number, while it and the others stand still, which then go on.

    So it dies with work that nobody else has made meanwhile.
    """
    for process in (victim, *others):
        os.kill(process, signal.SIGSTOP)

    def kill_then_wake():  # by one timer: two of them change places on a busy machine
        os.kill(victim, signal.SIGKILL)
        for process in others:
            os.kill(process, signal.SIGCONT)

    threading.Timer(0.3, kill_then_wake).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
