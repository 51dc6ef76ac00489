"""Say how fast a video goes, once that is measured, and what a crisper model would take."""

import time

from srgan_edge.jobs.plan import Job
from srgan_edge.jobs.reporters import Forwarding, Reporter

MEASURED_SECONDS = 2.0
"""Time after the first frame that is measured; the first one includes start-up."""

WORTH_SECONDS = 30.0
"""Shortest remaining time that is announced."""


class Estimated(Forwarding):
    """Forwards all events to another reporter, and adds one note to a video that takes long.

    Args:
        crisper: name of another model.
        times: how many times as long it takes.
    """

    def __init__(self, shown: Reporter, crisper: str, times: float) -> None:
        super().__init__(shown)
        self._crisper, self._times = crisper, times
        self._name, self._left, self._said = "", 0, False
        self._first: float | None = None
        self._frames = 0

    def started(self, job: Job, frames: int | None, done: int = 0) -> None:
        self._name = job.source.name
        self._left, self._frames, self._first = (frames or 0) - done, 0, None
        self._shown.started(job, frames, done)

    def frame_done(self) -> None:
        self._shown.frame_done()
        now = time.monotonic()
        if self._said:
            return
        if self._first is None:
            self._first = now
            return
        self._frames += 1
        if (seconds := now - self._first) >= MEASURED_SECONDS:
            self._said = True
            self._announce(self._frames / seconds)

    def _announce(self, fps: float) -> None:
        left_seconds = (self._left - 1 - self._frames) / fps
        if left_seconds >= WORTH_SECONDS:
            self.note(
                f"{self._name}: about {fps:.2g} frames a second, done in {shown(left_seconds)}; "
                f"-n {self._crisper} is crisper and takes about "
                f"{shown(self._times * left_seconds)} here"
            )


def shown(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `3 min`, `1 h 10 min`, `3 days`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, minutes = divmod(10 * round(minutes / 10), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes / 60 / 24:.0f} days"
