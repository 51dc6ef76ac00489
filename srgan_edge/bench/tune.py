"""`srgan-edge tune`: which tile, number of calls at once and precision are fastest for a size.

All are measured once, the default first. The fastest and the default then take turns, so that a
machine whose speed changes does not decide, and something else than the default is taken only if it
wins by more than timings vary.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from srgan_edge.bench.subject import Subject, demo_frames, opened_as_asked
from srgan_edge.errors import ResourcesExhausted
from srgan_edge.jobs.plan import Options
from srgan_edge.machine import activation_budget_bytes
from srgan_edge.model.spec import activation_bytes_per_px
from srgan_edge.pixels import Pixels
from srgan_edge.tuning import MOST_SLOTS, Setting
from srgan_edge.upscaler import FrameUpscaler

TILES = (0, 512, 256, 128)

FINALISTS = 3

WORTH = 1.03
"""Times the speed of the default from which on another setting is taken."""

FIRST_PASS = 0.6
"""Share of the time in which all settings are measured once."""


@dataclass
class Trial:
    """A setting, and the frames a second that it made in each turn."""

    setting: Setting
    windows: int = 0
    precision: str = ""
    fps: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.fps) if self.fps else 0.0


@dataclass(frozen=True)
class Tuned:
    """The outcome: all trials, the one to take, and its speed as multiples of the default's."""

    trials: list[Trial]
    best: Setting
    times_default: float
    skipped: int
    """Settings for which there was no time."""


def tune(
    options: Options,
    width: int,
    height: int,
    seconds: float,
    tell: Callable[[str, float], None] = lambda doing, share: None,
) -> Tuned:
    """Measure the settings of a model for frames of a size.

    Raises:
        SrganEdgeError: the model or its engine cannot be opened.
    """
    began, frames = time.monotonic(), demo_frames(width, height)
    trials: list[Trial] = []
    skipped = 0

    def spent() -> float:
        return (time.monotonic() - began) / seconds

    for slots, fp32 in _engines():
        if trials and spent() > FIRST_PASS:
            skipped += 1
            continue
        try:
            for trial in _first_pass(options, slots, fp32, frames, trials, spent, seconds):
                trials.append(trial)
                tell(f"{trial.setting}: {trial.median:.2f} fps", min(0.95, spent()))
        except ResourcesExhausted:
            if not trials:
                raise
            skipped += 1
    default, rivals = trials[0], sorted(trials[1:], key=lambda it: -it.median)[:FINALISTS]
    rivals = [it for it in rivals if it.median > 0.9 * default.median]
    if rivals:
        _take_turns([default, *rivals], options, frames, spent, seconds, tell)
    return Tuned(trials, *decided(default, rivals), skipped)


def decided(default: Trial, rivals: Sequence[Trial]) -> tuple[Setting, float]:
    """Return the setting to take, and its speed as multiples of the default's.

    A median alone is decided by a machine that pauses now and then: the winner has to be faster by
    `WORTH` in three of four turns, too.
    """
    best, most = default.setting, 1.0
    for rival in rivals:
        ratios = sorted(a / b for a, b in zip(rival.fps, default.fps, strict=True))
        if ratios[len(ratios) // 4] >= WORTH and statistics.median(ratios) > most:
            best, most = rival.setting, statistics.median(ratios)
    return best, most


def _engines() -> Iterator[tuple[int, bool]]:
    """Yield numbers of calls at once and whether FP32 is forced, the default first."""
    default = Setting.default()
    yield default.slots, False
    slots = sorted({1, 2, default.slots, 2 * default.slots} - {default.slots})
    yield from ((number, False) for number in slots if number <= MOST_SLOTS)
    yield default.slots, True


def _first_pass(
    options: Options,
    slots: int,
    fp32: bool,
    frames: Sequence[Pixels],
    before: Sequence[Trial],
    spent: Callable[[], float],
    seconds: float,
) -> Iterator[Trial]:
    """Measure every tile once, on one engine after the other."""
    height, width = frames[0].shape[:2]
    seen = set()
    for tile in ("auto", *TILES):
        setting = Setting(tile, slots, fp32)
        with _opened(setting, options) as upscaler:
            if fp32 and upscaler.info.precision == before[0].precision:
                return  # it is FP32 anyway
            info = upscaler.info
            plan, _ = upscaler.plan(width, height)
            needed = info.slots * activation_bytes_per_px(info.spec)
            needed *= plan.window_size[0] * plan.window_size[1]
            is_other = plan.tiles not in seen and needed <= activation_budget_bytes(info.device)
            if tile != "auto" and (not is_other or (before and spent() > FIRST_PASS)):
                continue
            seen.add(plan.tiles)
            trial = Trial(setting, len(plan.tiles), info.precision)
            expected = _warm_up(upscaler, frames)
            trial.fps.append(_fps(upscaler, frames, min(1.0, seconds / 40), expected))
            yield trial


def _take_turns(
    trials: Sequence[Trial],
    options: Options,
    frames: Sequence[Pixels],
    spent: Callable[[], float],
    seconds: float,
    tell: Callable[[str, float], None],
) -> None:
    """Measure the finalists in turns until the time is over, twice at least."""
    with ExitStack() as life:
        upscalers = [life.enter_context(_opened(it.setting, options)) for it in trials]
        for upscaler in upscalers:
            upscaler.upscale(frames[0])
        for trial in trials:
            trial.fps.clear()
        turn = 0
        while turn < 2 or spent() < 0.95:
            for trial, upscaler in zip(trials, upscalers, strict=True):
                expected = trial.fps[-1] if trial.fps else 1.0
                trial.fps.append(_fps(upscaler, frames, min(1.0, seconds / 40), expected))
                tell(f"{trial.setting}: {trial.median:.2f} fps", min(0.99, spent()))
            turn += 1


@contextmanager
def _opened(setting: Setting, options: Options) -> Iterator[FrameUpscaler]:
    with opened_as_asked(setting.apply(options), setting.slots) as opened:
        yield opened.upscaler


def _warm_up(upscaler: FrameUpscaler, frames: Sequence[Pixels]) -> float:
    """Upscale a frame in every slot, so that all buffers exist; return frames per second."""
    upscaler.upscale(frames[0])
    return _fps(upscaler, frames, 0.0, 1.0)


def _fps(
    upscaler: FrameUpscaler, frames: Sequence[Pixels], seconds: float, expected: float
) -> float:
    subject = Subject(upscaler.upscale, upscaler.upscale, upscaler.slots, frames)
    return subject.throughput(seconds, expected)[0]
