"""Signals that stop a command: for work that must finish first (a training step), and the rest."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a command: Ctrl-C, `kill`, and a terminal that is closed."""

last_steps: list[Callable[[], object]] = []
"""Quick steps that `exit_now` takes first, as to end processes that would outlive this one."""


@dataclass
class StopSignals:
    """The signal number that was received, or 0."""

    received: int = 0


def heeded_signals() -> list[signal.Signals]:
    """Return those of `STOPPING` that whoever started this process wants to stop it with.

    A shell without job control ignores SIGINT in what it starts in the background, so that Ctrl-C
    stops what is in the foreground alone; `nohup` ignores SIGHUP.
    """
    return [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Record the first signal for the caller to check; a second one acts as it did before."""
    signals = StopSignals()
    numbers = heeded_signals()
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
    """Force the process to exit `seconds` after a signal unless the block has ended by then.

    Usually the exception of a signal handler stops the main thread. But a call into a library may
    take long, and Python drops exceptions raised in a finalizer. Only for work that may be cut off
    at any point.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
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
            exit_now(128 + received[0])
        while os.read(reading, 64):  # until the other end is closed: more signals may come
            pass
        os.close(reading)

    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(writing)


def exit_now(code: int) -> NoReturn:
    """End the process without its destructors, whatever its threads do."""
    for step in last_steps:
        step()
    os._exit(code)
