"""Decode, upscale, encode: three stages side by side, a few frames apart.

The pipeline knows neither files nor engines: frames come from an iterator, go through a function,
and leave through a sink. Every frame goes through once, in order; copied packets pass the network
by and keep their place. Memory is bounded by the two channels, whatever the length of the video.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from srgan_edge.channel import Channel, ConsumerGone
from srgan_edge.pixels import Pixels
from srgan_edge.video import CopiedPacket, Frame

QUEUED_ITEMS = 4
"""Between two stages. Enough to even out slow frames; an upscaled 4K frame is 25 MB."""


class Sink(Protocol):
    """What the last stage writes to; `VideoWriter` is one."""

    def write(self, frame: Frame) -> None: ...

    def copy(self, packet: CopiedPacket) -> None: ...


@dataclass(frozen=True)
class RunStats:
    """What happened, for the closing line."""

    frames: int
    seconds: float
    """Wall clock of the whole run."""
    engine_seconds: float
    """Thereof in the network."""

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


def upscale_video(
    source: Iterable[Frame | CopiedPacket],
    upscale: Callable[[Pixels], Pixels],
    sink: Sink,
    on_frame: Callable[[], None] = lambda: None,
) -> RunStats:
    """Pass every frame of `source` through `upscale` into `sink`; returns when all is written.

    `source` is iterated in one thread, `sink` is called in another, `upscale` and `on_frame` in the
    caller's. The first error of any stage stops all of them and is raised here. An error of
    `source` is raised after the frames before it were written, so that they can be kept.
    """
    decoded: Channel[Frame | CopiedPacket] = Channel(QUEUED_ITEMS)
    encoded: Channel[Frame | CopiedPacket] = Channel(QUEUED_ITEMS)
    encoder = _Encoder(encoded, sink)
    decoder = threading.Thread(target=_decode, args=(source, decoded), name="decode", daemon=True)
    started, engine_seconds, frames = time.monotonic(), 0.0, 0
    decoder.start()
    encoder.start()
    try:
        for item in decoded:
            if isinstance(item, Frame):
                before = time.monotonic()
                item = replace(item, pixels=upscale(item.pixels))
                engine_seconds += time.monotonic() - before
                frames += 1
                on_frame()
            encoded.put(item)
    except ConsumerGone:
        pass  # the encoder's own error is raised below
    finally:
        decoded.abandon()
        encoded.end()
        decoder.join()
        encoder.join()
    if encoder.error is not None:
        raise encoder.error
    return RunStats(frames, time.monotonic() - started, engine_seconds)


def _decode(source: Iterable[Frame | CopiedPacket], decoded: Channel[Frame | CopiedPacket]) -> None:
    try:
        for item in source:
            decoded.put(item)
    except ConsumerGone:
        pass
    except BaseException as error:
        decoded.end(error)
    else:
        decoded.end()


class _Encoder(threading.Thread):
    """Writes what comes through the channel; keeps the error that stopped it, if one did."""

    def __init__(self, encoded: Channel[Frame | CopiedPacket], sink: Sink) -> None:
        super().__init__(name="encode", daemon=True)
        self._encoded, self._sink = encoded, sink
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for item in self._encoded:
                if isinstance(item, Frame):
                    self._sink.write(item)
                else:
                    self._sink.copy(item)
        except BaseException as error:
            self.error = error
            self._encoded.abandon()
