"""SIGINT and SIGTERM: for what must come to an end by itself, as a training step, and the rest."""

import os
import signal
import sys
import threading
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


@contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """So long after a signal the process ends, if it has not by itself.

    What a handler raises breaks off the main thread, as a rule: a call into a library may last, and
    Python drops what is raised in a finalizer. For work that may be broken off anywhere.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not for us
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    over = threading.Event()

    def watch() -> None:
        received = os.read(reading, 1)
        if received and not over.wait(seconds):
            name = signal.Signals(received[0]).name
            sys.stderr.write(
                f"srgan-edge: stopped by {name}; the same command goes on from there\n"
            )
            sys.stderr.flush()
            os._exit(128 + received[0])
        while os.read(reading, 64):  # until the other end is closed: there can be more signals
            pass
        os.close(reading)

    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(writing)
