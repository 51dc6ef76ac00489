"""Compare what `srgan-edge plan` announces with what `srgan-edge upscale` then takes.

    python benchmarks/plan.py CLIP... [-n MODEL,...] [--out FILE.json]

For each clip and model: the plan, and two runs of different lengths, whose difference is free of
start-up. CPU time counts, as other work on the same cores changes it least; the time for the whole,
at the share of the cores that each run got, and the size of the result are compared as well.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import harness

PLAN = [sys.executable, "-m", "srgan_edge", "plan", "--json"]
UPSCALE = [sys.executable, "-m", "srgan_edge", "upscale", "-q", "--overwrite"]


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("-n", "--models", default="edge-x4,edge-int8-x4,srgan-x4")
    arguments = parser.parse_args()
    rows = []
    for clip in arguments.clips:
        began = time.perf_counter()
        plan = json.loads(run([*PLAN, str(clip), "-n", arguments.models])[0])
        plan_seconds = time.perf_counter() - began
        for forecast in plan["models"]:
            rows.append(
                {"clip": clip.name, "plan_seconds": plan_seconds} | compared(clip, forecast)
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    harness.publish({"rows": rows}, arguments.out)


def compared(clip: Path, forecast: dict) -> dict:
    """Return predicted and measured CPU seconds of a frame, seconds, and bytes of the result."""
    with av.open(str(clip)) as video, tempfile.TemporaryDirectory() as folder:
        stream = video.streams.video[0]
        frames, rate = stream.frames, float(stream.average_rate)
        out = Path(folder) / "out.mkv"
        slow = forecast["cpu_seconds"] > 1
        whole_frames = 4 if slow else frames
        whole = ["--duration", f"{whole_frames / rate:.4f}"] if slow else []
        base = [*UPSCALE, str(clip), "-n", forecast["model"], "-o", str(out)]
        _, _, short_cpu = run([*base, "--duration", f"{1 / rate:.4f}"])
        _, seconds, cpu = run([*base, *whole])
        size = None if slow else out.stat().st_size
    measured_cpu = (cpu - short_cpu) / (whole_frames - 1)
    return {
        "model": forecast["model"],
        "cpu_predicted": round(forecast["cpu_seconds"], 4),
        "cpu_measured": round(measured_cpu, 4),
        "cpu_ratio": round(forecast["cpu_seconds"] / measured_cpu, 3),
        "seconds_predicted": None if slow else round(forecast["seconds"], 1),
        "seconds_measured": None if slow else round(seconds, 1),
        "bytes_ratio": size and round(forecast["result_bytes"] / size, 3),
        "on": forecast["measured"],
    }


def run(command: list[str]) -> tuple[str, float, float]:
    """Return the output of a command, its time, and its CPU time with all its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, seconds, cpu


if __name__ == "__main__":
    main()
