"""SIGINT and SIGTERM for what must come to an end by itself: a training step, a builder, a film."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopSignals:
    """The number of the signal that was received; 0 as long as there was none."""

    received: int = 0


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """The first signal is remembered for whoever looks; a second one acts as it did before."""
    signals = StopSignals()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def remember(number: int, frame: FrameType | None) -> None:
        signals.received = number
        restore()

    for number in numbers:
        signal.signal(number, remember)
    try:
        yield signals
    finally:
        restore()
