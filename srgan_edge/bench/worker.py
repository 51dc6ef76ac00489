"""A process of its own for each candidate, so that start-up and memory are those of one engine.

The parent's end is `Worker`, the child's `main`. They exchange one JSON object a line: the parent
asks for one measurement at a time, and while it asks other workers this one sleeps.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from srgan_edge.bench.ceiling import gflops, matrix_product
from srgan_edge.bench.subject import EndToEnd, Subject, demo_frames, opened_as_asked
from srgan_edge.engines import video_slots
from srgan_edge.engines.base import EngineInfo
from srgan_edge.errors import SrganEdgeError, printable
from srgan_edge.files import scratch_folder
from srgan_edge.jobs.plan import Options
from srgan_edge.model.library import find_model
from srgan_edge.model.spec import multiplications_per_px
from srgan_edge.run import Opened
from srgan_edge.tiling import Tiling
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.frame import Encoding

REFERENCE = "reference"
"""Engine name of the reference: PyTorch's eager mode in FP32, one whole frame at a time."""

CEILING = "ceiling"
"""Engine name of the worker that multiplies matrices."""

END_SECONDS = 10
"""Time for a worker to end by closing its engines."""

_STARTS = "from srgan_edge.bench.worker import main; main()"


@dataclass(frozen=True)
class Candidate:
    """One way to run a model."""

    model: str
    """Name or path; for the ceiling a precision."""
    engine: str
    device: str = "cpu"
    fp32: bool = False
    tile: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Ready:
    """Facts about a worker whose first frame is upscaled."""

    engine: str
    """Runtime and version."""
    device: str
    arithmetic: str
    precision: str
    slots: int
    windows: int
    """Windows that a frame is cut into."""
    overhead: float
    """Pixels computed divided by pixels kept."""
    gflop_per_frame: float
    peak_mb: float
    """Peak memory of the process that upscales in all slots, in megabytes."""


class WorkerFailed(Exception):
    """A worker could not do what it was asked; the message is its own line."""


class Worker:
    """The parent's end: start a process, ask it, and end it with the `with` statement."""

    def __init__(self, candidate: Candidate, width: int, height: int) -> None:
        request = json.dumps({"candidate": asdict(candidate), "size": [width, height]})
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{_STARTS}", request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._process.communicate(timeout=END_SECONDS)  # it ends where its input does
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def until_ready(self) -> tuple[Ready, float]:
        """Wait for the first frame; return what runs, and the seconds since the process started.

        Raises:
            WorkerFailed: the engine cannot be opened, or the process ended.
        """
        ready = Ready(**self._answer())
        return ready, time.perf_counter() - self._started

    def until_multiplied(self) -> None:
        """Wait for the first product of a worker for the ceiling."""
        self._answer()

    def ask(self, what: str, **fields: float) -> Any:  # noqa: ANN401 - a JSON value
        """Let the process measure `what`, a method of `_Measuring`; return its result.

        Raises:
            WorkerFailed: the engine failed, or the process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what} | fields) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerFailed("its process ended") from None
        return self._answer()["result"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(f"its process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer


class _Measuring:
    """The child's side of one candidate."""

    def __init__(self, candidate: Candidate, width: int, height: int, life: ExitStack) -> None:
        self._frames = demo_frames(width, height)
        options = Options(
            candidate.model,
            Encoding(),
            Tiling(candidate.tile, joined=True),
            engine=candidate.engine,
            device=candidate.device,
            fp32=candidate.fp32,
        )
        if candidate.engine == REFERENCE:
            opened = life.enter_context(_reference(candidate))
            one = opened
        else:
            opened = life.enter_context(opened_as_asked(options, video_slots()))
            one = None
        upscaler = opened.upscaler
        upscaler.upscale(self._frames[0])
        plan, _ = upscaler.plan(width, height)
        self.ready = _ready(upscaler.info, len(plan.tiles), plan.overhead, width * height)
        if one is None:
            one = opened if upscaler.slots == 1 else life.enter_context(opened_as_asked(options, 1))
        self._subject = Subject(
            one.upscaler.upscale, upscaler.upscale, upscaler.slots, self._frames
        )
        folder = life.enter_context(scratch_folder())
        self._end_to_end = EndToEnd(opened, options, folder)

    def warm_up(self, seconds: float) -> float:
        """Upscale until all buffers exist and clocks are up; return frames per second so far."""
        times = self._subject.latency(seconds)
        fps, _ = self._subject.throughput(seconds, 1 / min(times))
        return fps

    def latency(self, seconds: float) -> list[float]:
        return self._subject.latency(seconds)

    def throughput(self, seconds: float, expected_fps: float) -> tuple[float, float]:
        return self._subject.throughput(seconds, expected_fps)

    def prepare(self, frames: float) -> int:
        return self._end_to_end.prepare(self._frames, round(frames))

    def end_to_end(self) -> float:
        return self._end_to_end.run()


class _Multiplying:
    """The child's side of the ceiling."""

    def __init__(self, candidate: Candidate) -> None:
        self._product = matrix_product(candidate.model, candidate.device)
        self._product[0]()

    def gflops(self, seconds: float) -> float:
        return gflops(*self._product, seconds)


def main() -> None:
    """Serve one candidate, named by the first argument, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    request = json.loads(sys.argv[1])
    candidate, (width, height) = Candidate(**request["candidate"]), request["size"]

    def answer(**fields: Any) -> None:  # noqa: ANN401 - JSON values
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    with ExitStack() as life:
        try:
            serving: _Measuring | _Multiplying
            if candidate.engine == CEILING:
                serving = _Multiplying(candidate)
                answer()
            else:
                serving = _Measuring(candidate, width, height, life)
                answer(**asdict(serving.ready))
            for line in sys.stdin:
                asked = json.loads(line)
                answer(result=getattr(serving, asked.pop("do"))(**asked))
        except SrganEdgeError as error:
            answer(error=str(error))
        except Exception as error:  # whatever a runtime raises is the result of this candidate
            answer(error=f"{type(error).__name__}: {printable(str(error))[:200]}")


@contextmanager
def _reference(candidate: Candidate) -> Iterator[Opened]:
    """Open PyTorch's eager mode in FP32 on all cores: the loop that everybody has."""
    import torch

    from srgan_edge.engines.torch import TorchEngine
    from srgan_edge.model.checkpoint import load_checkpoint

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    generator, spec = load_checkpoint(find_model(candidate.model).file(".safetensors"))
    with TorchEngine.from_generator(generator.to(candidate.device), spec) as engine:
        upscaler = FrameUpscaler(engine, Tiling(0), color_lock=None)
        yield Opened(upscaler, {"engine": "reference"}, "reference")


def _ready(info: EngineInfo, windows: int, overhead: float, pixels: int) -> Ready:
    return Ready(
        engine=info.name,
        device=info.device,
        arithmetic=info.arithmetic,
        precision=info.precision,
        slots=info.slots,
        windows=windows,
        overhead=round(overhead, 4),
        gflop_per_frame=2 * multiplications_per_px(info.spec) * pixels / 1e9,
        peak_mb=_peak_mb(),
    )


def _peak_mb() -> float:
    """Return the peak memory of this process in megabytes; getrusage would count its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return round(int(peak) * 1024 / 1e6, 1)
