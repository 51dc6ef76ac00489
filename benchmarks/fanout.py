"""Simulate up to 1,000 workers that share a video, from what real runs of a few show.

    python benchmarks/fanout.py measure --out benchmarks/results/fanout-2-cores.json
    python benchmarks/fanout.py simulate benchmarks/results/fanout-2-cores.json [--plot FILE.png]
    python benchmarks/fanout.py images --out benchmarks/results/fanout-images-2-cores.json

`measure` upscales a clip with 1, 2, 4 and 8 workers of this machine, on an engine that sleeps
100 ms a frame and repeats pixels: it stands for a GPU, as its time needs no core. Another run, of
one worker with a real engine, has the sizes and the spread of real segments; and two, which repeat
pixels without sleep, have what planning, joining and checking cost for each frame more.

`images` does so with 64 images and 1, 2 and 4 workers, in turns.

`simulate` gives the scheduler itself, with its journal, a crew whose workers and clock are events.
It first predicts the runs that were measured, from that of one worker; then a video of two hours.
"""

import heapq
import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import harness
import numpy as np
from pipeline import DEMO_CLIP, repeated

from srgan_edge import engines, run
from srgan_edge.ahead import READERS
from srgan_edge.files import sha256_of
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import write_image
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Unheard
from srgan_edge.run import open_upscaler
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import segments
from srgan_edge.transcode.fanout import Answer, Crew, Fanout, MadeSegment, Order, Task, Work
from srgan_edge.transcode.recipe import Saved
from srgan_edge.transcode.segments import SEGMENT_FRAMES
from srgan_edge.transcode.upscale import upscale_video_file
from srgan_edge.transcode.work_folder import open_work_folder
from srgan_edge.video.frame import Encoding, Notes
from srgan_edge.workers import processes
from srgan_edge.workers.crew import crew_beside
from srgan_edge.workers.images import Asked, ImageFanout

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import clips
from streams import Listener

SLEEP_MS = 100
SLEEPING_FRAMES = 16
"""Frames in a segment of the engine that sleeps."""
SEGMENTS = 128
REAL_WORKERS = (1, 2, 4, 8)

IMAGES = 64
IMAGE_WORKERS = (1, 2, 4)
IMAGE_TURNS = 8

VIDEO_HOURS = 2
VIDEO_FRAMES = 170_000
BOXES_FPS = (5, 40)
"""Speeds of one worker for which the two hours are simulated."""
WORKERS = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)
LINK_BYTES_PER_SECOND = 125e6
"""An assumption: segments reach the driver through 1 Gbit/s."""

OPTIONS = Options("edge-x4", Encoding(), Tiling(), device="cpu")


@dataclass(frozen=True)
class Run:
    """One real run."""

    workers: int
    frames: int
    start_seconds: float
    """From the end of planning until all workers had opened their engines."""
    plan_seconds: float
    """Until the first segment was handed out, without the start of the workers."""
    seconds: float
    """From planning to the checked result, without the start of the workers."""
    join_seconds: float
    """From the last segment to the checked result."""
    segment_seconds: list[float]
    segment_bytes: list[int]
    driver_seconds: list[float]
    """Time that the driver was busy with each answer: hash, journal, the next task."""


@dataclass(frozen=True)
class Simulation:
    """The outcome for one number of workers."""

    workers: int
    seconds: float
    """From planning to the checked result."""
    speed_up: float
    efficiency: float
    driver: float
    """Share of the time that the driver was busy with answers."""
    link: float
    """Share of the time that segments were on their way to it."""
    join: float
    """Share of the time for joining and checking."""
    idle: float
    """Share of the time that a worker waited between the first and the last segment."""
    worker_hours_per_hour: float
    """All workers until the end, for an hour of video."""


def main() -> None:
    parser = harness.parser(__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("--out", type=Path)
    simulating = verbs.add_parser("simulate")
    simulating.add_argument("measured", type=Path)
    simulating.add_argument("--plot", type=Path)
    simulating.add_argument("--out", type=Path)
    imaging = verbs.add_parser("images")
    imaging.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "images":
        harness.publish(images_measured(), arguments.out)
        return
    if arguments.verb == "measure":
        harness.publish(measured(), arguments.out)
        return
    found = json.loads(arguments.measured.read_text())
    figures = simulated(found)
    print_tables(figures)
    if arguments.plot:
        draw(figures, arguments.plot)
    harness.publish(figures, arguments.out)


# Real runs


def measured() -> dict[str, Any]:
    """Return the real runs: of the engine that sleeps, and of a real one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = real_run(repeated(DEMO_CLIP, 6, folder / "real.mp4"), 1, folder)
        sleep_everywhere(0)
        short, long = (
            real_run(repeated(DEMO_CLIP, times, folder / f"{times}-fold.mp4"), 1, folder)
            for times in (4, 40)
        )
        sleep_everywhere(SLEEP_MS)
        segments.SEGMENT_FRAMES = SLEEPING_FRAMES
        clip = clips.make(
            folder / "sleeping.mp4",
            frames=SEGMENTS * SLEEPING_FRAMES,
            size=(64, 36),
            options={"g": str(SLEEPING_FRAMES)},
        )
        sleeping = [real_run(clip, workers, folder) for workers in REAL_WORKERS]
    found = {"real": real, "short": short, "long": long}
    return {
        "sleep_ms": SLEEP_MS,
        **{name: asdict(it) for name, it in found.items()},
        "sleeping": [asdict(it) for it in sleeping],
    }


def images_measured() -> dict[str, Any]:
    """Return the seconds for the images with each number of workers, which are opened before."""
    options = replace(OPTIONS, existing="replace")
    seconds: dict[int, list[float]] = {workers: [] for workers in IMAGE_WORKERS}
    sleep_everywhere(SLEEP_MS)
    with (
        tempfile.TemporaryDirectory() as name,
        open_upscaler(options, print, 1) as opened,
        ExitStack() as life,
    ):
        folder, random = Path(name), np.random.default_rng(1)
        jobs = []
        for number in range(IMAGES):
            source = folder / f"{number}.png"
            pixels = random.integers(0, 256, (36, 64, 3), np.uint8)
            write_image(source, StillImage(pixels))
            jobs.append(Asked(Job(source, folder / "out" / source.name, "image")))
        crews = {
            workers: life.enter_context(
                crew_beside(opened, replace(options, devices=("cpu",) * workers), 1, print)
            )
            for workers in IMAGE_WORKERS
        }
        for turn in range(1 + IMAGE_TURNS):
            for workers, crew in crews.items():
                begun = time.perf_counter()
                outcomes = ImageFanout(
                    *(partial(_same, crew), jobs, opened.upscaler, options, Unheard())
                ).run()
                assert all(outcome.error is None for outcome in outcomes)
                if turn:  # the first one starts the decoders
                    seconds[workers].append(round(time.perf_counter() - begun, 3))
    least = {workers: min(turns) for workers, turns in seconds.items()}  # the least disturbed
    return {
        "sleep_ms": SLEEP_MS,
        "images": IMAGES,
        "seconds": seconds,
        "speed_up": {workers: round(least[1] / it, 2) for workers, it in least.items()},
    }


def _same(crew: Crew) -> Crew:
    return crew


def sleep_everywhere(milliseconds: int) -> None:
    """Make the engines of this process, and of workers that it starts, sleep and repeat pixels."""
    sleep_on_upscale(milliseconds)
    *path, starts = processes._STARTS.splitlines()[:1] + processes._STARTS.splitlines()[-1:]
    sleeps = f"import fanout; fanout.sleep_on_upscale({milliseconds})"
    processes._STARTS = "\n".join([*path, sleeps, starts])


def sleep_on_upscale(milliseconds: int) -> None:
    """Make all engines that this process opens sleep for each frame and repeat pixels."""
    opened = engines.open_engine

    class Sleeping:
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            self._engine = opened(*arguments, **options)
            self.info, self.close = self._engine.info, self._engine.close

        def __enter__(self) -> "Sleeping":
            return self

        def __exit__(self, *exception: object) -> None:
            self.close()

        def upscale(self, batch: np.ndarray) -> np.ndarray:
            time.sleep(milliseconds / 1000 * len(batch))
            scale = self.info.spec.scale
            return batch.repeat(scale, axis=1).repeat(scale, axis=2)

    run.open_engine = Sleeping


class Recorded:
    """Passes the calls of a crew on, and keeps what they took."""

    def __init__(self, crew: Crew, planned: float) -> None:
        self._crew = crew
        self.planned, self.started = planned, time.perf_counter()
        """When the workers were asked for, and when they were ready."""
        self.given: list[float] = []
        self.answered: list[float] = []
        self.driver_seconds: list[float] = []
        self.made: list[MadeSegment] = []
        self.bytes: list[int] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._crew, name)

    def give(self, worker: int, task: Work) -> None:
        self.given.append(time.perf_counter())
        self._crew.give(worker, task)

    def wait(self, seconds: float | None) -> Answer | None:
        if len(self.answered) > len(self.driver_seconds):
            self.driver_seconds.append(time.perf_counter() - self.answered[-1])
        answered = self._crew.wait(seconds)
        if answered is not None:
            self.answered.append(time.perf_counter())
            _, task, answer = answered
            assert isinstance(answer, MadeSegment), answer
            assert isinstance(task, Task)
            self.made.append(answer)
            self.bytes.append(Path(task.file).stat().st_size)
        return answered


def real_run(source: Path, workers: int, folder: Path) -> Run:
    """Upscale a clip with some workers of this machine."""
    options = replace(OPTIONS, devices=("cpu",) * workers, existing="replace")
    job, listener = Job(source, folder / "out.mkv", "video"), Listener()
    with open_upscaler(options, listener.note, 1) as opened, ExitStack() as life:
        recorded, readers = [], (READERS["video"],)

        def started() -> Crew:
            planned = time.perf_counter()
            crew = crew_beside(opened, options, 1, listener.note, readers)
            recorded.append(Recorded(life.enter_context(crew), planned))
            return recorded[0]

        begun = time.perf_counter()
        result = upscale_video_file(
            *(job, opened.upscaler, options, opened.made_by, listener), crew=started
        )
        ended = time.perf_counter()
    (found,) = recorded
    done = Run(
        workers=workers,
        frames=result.frames,
        start_seconds=found.started - found.planned,
        plan_seconds=found.planned - begun + found.given[0] - found.started,
        seconds=ended - begun - (found.started - found.planned),
        join_seconds=ended - found.answered[-1],
        segment_seconds=[round(it.seconds, 4) for it in found.made],
        segment_bytes=found.bytes,
        driver_seconds=[round(it, 5) for it in found.driver_seconds],
    )
    print(f"{source.name}, {workers} workers: {done.seconds:.1f} s", file=sys.stderr, flush=True)
    return done


# Simulated ones


@dataclass(frozen=True)
class World:
    """Everything that a simulation is told."""

    segments: int
    segment_seconds: Sequence[float]
    segment_bytes: Sequence[int]
    driver_seconds: Sequence[float]
    plan_seconds: float
    join_seconds: float
    start_seconds: float = 0.0
    link_bytes_per_second: float = float("inf")
    slow: Mapping[int, float] | None = None
    """Factors on the time of workers that are slower, by their number."""


class Events:
    """A crew without workers, whose clock goes from event to event."""

    def __init__(self, workers: int, world: World) -> None:
        self.now, self._world, self._random = 0.0, world, Random(1)
        self._queues: list[deque[Task]] = [deque() for _ in range(workers)]
        self._free = [world.start_seconds] * workers
        self._heap: list[tuple[float, int, bool, int]] = []
        self._order, self._link_free, self._answered = 0, 0.0, False
        self.driver_busy = self.link_busy = self.workers_busy = self.last = 0.0
        self.present: Sequence[int] = range(workers)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def name(self, worker: int) -> str:
        return str(worker)

    def tasks(self, worker: int) -> Sequence[Work]:
        return self._queues[worker]

    def replace(self, worker: int) -> None:
        raise AssertionError("nobody dies here")

    def give(self, worker: int, task: Work) -> None:
        assert isinstance(task, Task)
        seconds = self._random.choice(self._world.segment_seconds)
        seconds *= (self._world.slow or {}).get(worker, 1.0)
        self._queues[worker].append(task)
        self._free[worker] = max(self.now, self._free[worker]) + seconds
        self.workers_busy += seconds
        self._push(self._free[worker], False, worker)

    def wait(self, seconds: float | None) -> Answer | None:
        if self._answered:
            busy = self._random.choice(self._world.driver_seconds)
            self.now, self.driver_busy, self._answered = (
                self.now + busy,
                self.driver_busy + busy,
                False,
            )
        ends = float("inf") if seconds is None else self.now + seconds
        while True:
            if self._heap[0][0] > ends:
                self.now = ends
                return None
            at, _, is_here, worker = heapq.heappop(self._heap)
            if not is_here:
                took = self._random.choice(self._world.segment_bytes)
                took /= self._world.link_bytes_per_second
                self.link_busy += took
                self._link_free = max(self._link_free, at) + took
                self._push(self._link_free, True, worker)
                continue
            self.now = self.last = max(self.now, at)
            self._answered = True
            task = self._queues[worker].popleft()
            return worker, task, self._made(task)

    def _push(self, at: float, is_here: bool, worker: int) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, is_here, worker))

    def _made(self, task: Task) -> MadeSegment:
        file, number = Path(task.file), task.number
        file.write_bytes(b"%d" % number)
        is_last = number == self._world.segments - 1
        return MadeSegment(
            number=number,
            pts=[number],
            durations=[1],
            reorder=0,
            sha256=sha256_of(file),
            first_sha256=str(number),
            next_sha256="" if is_last else str(number + 1),
            ended=is_last,
            inexact="",
            damaged="",
            decoder_ended=False,
            notes=Notes(),
            saved=Saved(),
            seconds=statistics.median(self._world.segment_seconds),
        )


def simulation(workers: int, world: World, alone: float | None, hours: float) -> Simulation:
    """Let the scheduler make a video by events; `alone` are the seconds of one worker."""
    crew = Events(workers, world)
    order = Order("in.mp4", "", OPTIONS, 1, "")
    with (
        tempfile.TemporaryDirectory(dir=_in_memory()) as folder,
        open_work_folder(Path(folder) / "out.mkv", {}) as work,
    ):
        Fanout(
            *(crew, order, range(world.segments), world.segments, work, []),
            *(lambda: None, lambda line: None, lambda: crew.now),
        ).run()
        work.discard()
    seconds = world.plan_seconds + crew.now + world.join_seconds
    speed_up = (alone or seconds) / seconds
    return Simulation(
        workers=workers,
        seconds=seconds,
        speed_up=speed_up,
        efficiency=speed_up / workers,
        driver=crew.driver_busy / seconds,
        link=crew.link_busy / seconds,
        join=world.join_seconds / seconds,
        idle=1 - min(1.0, crew.workers_busy / workers / max(crew.last - world.start_seconds, 1e-9)),
        worker_hours_per_hour=workers * seconds / 3600 / hours,
    )


def curve(world: World, counts: Sequence[int], hours: float) -> Iterator[Simulation]:
    alone = None
    for workers in counts:
        done = simulation(workers, world, alone, hours)
        alone = alone or done.seconds
        yield done


def simulated(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the predictions of the measured runs, and those for two hours of video."""
    one, *_ = runs = found["sleeping"]
    small = World(
        SEGMENTS,
        *(one["segment_seconds"], one["segment_bytes"], one["driver_seconds"]),
        *(one["plan_seconds"], one["join_seconds"]),
    )
    hours = SEGMENTS * SLEEPING_FRAMES / 24 / 3600
    checked = [
        asdict(it)
        | {"real_seconds": real["seconds"], "real_speed_up": one["seconds"] / real["seconds"]}
        for it, real in zip(curve(small, REAL_WORKERS, hours), runs, strict=True)
    ]
    large = {fps: two_hours(found, fps) for fps in BOXES_FPS}
    one_slow = replace(small, slow={0: 10.0})
    return {
        "sleep_ms": found["sleep_ms"],
        "segments": SEGMENTS,
        "measured_on": found["machine"],
        "checked": checked,
        "one_of_8_ten_times_slower": asdict(simulation(8, one_slow, checked[0]["seconds"], hours)),
        "videos": {
            str(fps): [asdict(it) for it in curve(world, WORKERS, VIDEO_HOURS)]
            for fps, world in large.items()
        },
    }


def two_hours(found: Mapping[str, Any], fps: float) -> World:
    """Return two hours of video on workers of a speed, with the costs and spread of real runs."""
    real, short, long = (found[name] for name in ("real", "short", "long"))
    full = real["segment_seconds"][:-1]  # the last segment is shorter
    usual = statistics.mean(full)

    def longer(name: str) -> float:
        slope = (long[name] - short[name]) / (long["frames"] - short["frames"])
        return float(long[name] + slope * (VIDEO_FRAMES - long["frames"]))

    return World(
        segments=-(-VIDEO_FRAMES // SEGMENT_FRAMES),
        segment_seconds=[it / usual * SEGMENT_FRAMES / fps for it in full],
        segment_bytes=real["segment_bytes"][:-1],
        driver_seconds=long["driver_seconds"],
        plan_seconds=longer("plan_seconds"),
        join_seconds=longer("join_seconds"),
        start_seconds=real["start_seconds"],
        link_bytes_per_second=LINK_BYTES_PER_SECOND,
    )


def _in_memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# What is shown


def print_tables(figures: Mapping[str, Any]) -> None:
    print("workers  real s  simulated s  real speed-up  simulated", file=sys.stderr)
    for it in figures["checked"]:
        print(
            f"{it['workers']:7} {it['real_seconds']:7.1f} {it['seconds']:12.1f} "
            f"{it['real_speed_up']:14.2f} {it['speed_up']:10.2f}",
            file=sys.stderr,
        )
    for fps, rows in figures["videos"].items():
        print(f"two hours at {fps} fps a worker", file=sys.stderr)
        for it in rows:
            print(
                f"{it['workers']:7} {it['seconds']:9.0f} s  efficiency {it['efficiency']:.2f}  "
                f"driver {it['driver']:.2f}  link {it['link']:.2f}  join {it['join']:.2f}  "
                f"idle {it['idle']:.2f}  {it['worker_hours_per_hour']:.2f} worker hours",
                file=sys.stderr,
            )


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw the check of the simulation, and the time for two hours of video."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 4.3), layout="constrained")
    _draw_check(left, figures)
    _draw_videos(right, figures)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.set_axisbelow(True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


BLUE, AMBER, GRAY = "#3b6ea5", "#d98c2b", "0.6"


def _draw_check(panel: Any, figures: Mapping[str, Any]) -> None:  # noqa: ANN401
    checked = figures["checked"]
    counts = [it["workers"] for it in checked]
    panel.plot(counts, counts, "--", color=GRAY, linewidth=1)
    panel.annotate(
        "ideal",
        (counts[-1], counts[-1]),
        (-6, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="0.4",
    )
    panel.plot(
        counts, [it["speed_up"] for it in checked], color=BLUE, linewidth=2, label="simulated"
    )
    real = [it["real_speed_up"] for it in checked]
    panel.plot(
        counts, real, "o", color=AMBER, markersize=8, markeredgecolor="white", label="measured"
    )
    for count, speed_up in zip(counts, real, strict=True):
        panel.annotate(
            f"{speed_up:.2f}",
            (count, speed_up),
            (6, -12),
            textcoords="offset points",
            fontsize=8,
            color=AMBER,
        )
    panel.set_xticks(counts)
    panel.set_xlim(0.5, counts[-1] + 0.7)
    panel.set_ylim(0, counts[-1] + 0.7)
    panel.grid(alpha=0.2)
    panel.set_xlabel("workers", fontsize=9)
    panel.set_ylabel("speed-up", fontsize=9)
    panel.set_title(
        f"{figures['segments']} segments, an engine that sleeps {figures['sleep_ms']} ms a frame",
        loc="left",
        fontsize=10,
    )
    panel.legend(fontsize=8, frameon=False, loc="upper left")


def _draw_videos(panel: Any, figures: Mapping[str, Any]) -> None:  # noqa: ANN401
    for (fps, rows), color in zip(figures["videos"].items(), (BLUE, AMBER), strict=True):
        counts = np.array([it["workers"] for it in rows])
        minutes = np.array([it["seconds"] for it in rows]) / 60
        panel.loglog(counts, minutes[0] / counts, "--", color=color, linewidth=1, alpha=0.5)
        panel.loglog(
            counts,
            minutes,
            color=color,
            linewidth=2,
            marker="o",
            markersize=4,
            label=f"workers of {fps} fps",
        )
    floor = min(it["seconds"] for rows in figures["videos"].values() for it in rows) / 60
    panel.axhline(floor, color="0.4", linewidth=1, linestyle=":")
    panel.annotate(
        "one machine plans, keeps\nthe journal, joins, checks",
        *((1, floor), (0, -23)),
        textcoords="offset points",
        fontsize=8,
        color="0.3",
    )
    panel.set_yticks([1, 10, 60, 600], ["1 min", "10 min", "1 h", "10 h"])
    panel.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    panel.minorticks_off()
    panel.set_ylim(0.5, 900)
    panel.grid(alpha=0.2)
    panel.set_xlabel("workers", fontsize=9)
    panel.set_title("two hours of video (dashed: ideal)", loc="left", fontsize=10)
    panel.legend(fontsize=8, frameon=False, loc="upper right")


if __name__ == "__main__":
    main()
