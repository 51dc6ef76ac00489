"""VMAF of an upscaled video, by an FFmpeg that has libvmaf.

The model is NEG, "no enhancement gain": plain VMAF rewards sharpening.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import IO, Self

from srgan_edge.errors import ResourcesExhausted, UsageError
from srgan_edge.pixels import Pixels

MODEL = "vmaf_v0.6.1neg"


def ffmpeg_with_vmaf() -> str:
    """Return the path of the FFmpeg in PATH.

    Raises:
        UsageError: there is none, or it has no libvmaf.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise UsageError("--vmaf needs the program ffmpeg with libvmaf, which is not in PATH")
    listed = subprocess.run(
        [program, "-hide_banner", "-filters"], capture_output=True, text=True, check=False
    )
    if " libvmaf " not in listed.stdout:
        raise UsageError(f"--vmaf needs an ffmpeg with libvmaf; {program} has none")
    return program


class Vmaf:
    """Collects the frames of a result and of its original in a folder, and compares them."""

    def __init__(self, program: str, folder: Path, fps: float) -> None:
        self._program, self._folder, self._fps = program, folder, fps
        self._files: list[IO[bytes]] = [
            (folder / name).open("wb") for name in ("made.rgb", "true.rgb")
        ]
        self._size = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            file.close()

    def add(self, made: Pixels, true: Pixels) -> None:
        """Add a frame of each, uint8 [H, W, 3]."""
        self._size = made.shape[1], made.shape[0]
        for file, frame in zip(self._files, (made, true), strict=True):
            file.write(frame.tobytes())

    def score(self) -> float:
        """Return the mean over the frames that were added.

        Raises:
            ResourcesExhausted: FFmpeg failed.
        """
        for file in self._files:
            file.flush()
        size = "{}x{}".format(*self._size)
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{self._fps:g}"]
        compare = (
            "[0:v]format=yuv420p[made];[1:v]format=yuv420p[true];[made][true]"
            f"libvmaf=model=version={MODEL}:log_fmt=json:log_path=vmaf.json"
        )
        inputs = [*raw, "-i", "made.rgb", *raw, "-i", "true.rgb"]
        done = subprocess.run(
            [
                self._program,
                "-nostdin",
                "-v",
                "error",
                *inputs,
                "-lavfi",
                compare,
                "-f",
                "null",
                "-",
            ],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            raise ResourcesExhausted(f"VMAF: {self._program} failed: {reason}")
        record = json.loads((self._folder / "vmaf.json").read_text())
        return float(record["pooled_metrics"]["vmaf"]["mean"])
