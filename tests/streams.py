"""Videos sent through pipes and loopback sockets, upscaled by doubling their pixels."""

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import clips

from srgan_edge.jobs.plan import Job, Options
from srgan_edge.live.upscale import upscale_stream
from srgan_edge.tiling import Tiling
from srgan_edge.video.endpoint import InputPipe, OutputPipe
from srgan_edge.video.frame import Encoding

OPTIONS = Options("doubler", Encoding(preset="ultrafast"), Tiling())


class Doubler:
    """Replaces the upscaler: repeats pixels, after a pause."""

    scale = 2

    def __init__(self, seconds=0.0, slots=1):
        self.seconds, self.slots, self.seen = seconds, slots, []

    def upscale(self, pixels):
        self.seen.append(clips.read_barcode(pixels))
        time.sleep(self.seconds)
        return pixels.repeat(2, axis=0).repeat(2, axis=1)


class Listener:
    """Replaces the reporter: remembers all notes."""

    def __init__(self):
        self.notes, self.frames = [], 0

    def note(self, text):
        self.notes.append(text)

    def started(self, job, frames, done=0): ...

    def workers_at(self, recent): ...

    def frame_done(self):
        self.frames += 1


class Watching(Listener):
    """Calls `react` once `at` frames are done."""

    def __init__(self, at=None, react=None):
        super().__init__()
        self.at, self.react = at, react

    def frame_done(self):
        super().frame_done()
        if self.frames == self.at:
            self.react()


def upscale(source, target, doubler=None, **options):
    """Upscale from a path, bytes (sent through a pipe) or an inlet, to a path or a pipe's format.

    Returns the result of `upscale_stream`, the listener, and the bytes that came out of a pipe.
    """
    listener, doubler = Listener(), doubler or Doubler()
    with fed(source) as inlet, drained(target) as (outlet, got):
        path = source if isinstance(source, Path) else Path(inlet.name)
        aim = target if isinstance(target, Path) else Path(outlet.name)
        job = Job(path, aim, "video", inlet, outlet)
        result = upscale_stream(job, doubler, replace(OPTIONS, **options), listener)
    return result, listener, bytes(got)


@contextmanager
def fed(source):
    """The inlet: a pipe through which a thread sends `source`, if that is bytes."""
    if not isinstance(source, bytes):
        yield None if isinstance(source, Path) else source
        return
    read_end, write_end = os.pipe()
    feeder = threading.Thread(target=send, args=(write_end, [source]))
    feeder.start()
    try:
        yield InputPipe(read_end)
    finally:
        os.close(read_end)
        feeder.join()


def send(descriptor, pieces):
    """Write all pieces, as long as somebody reads them, and close."""
    try:
        for piece in pieces:
            while piece:
                piece = piece[os.write(descriptor, piece) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(descriptor)


@contextmanager
def drained(target):
    """The outlet: a pipe whose bytes a thread collects, if `target` is a format."""
    got = bytearray()
    if isinstance(target, Path):
        yield None, got
        return
    read_end, write_end = os.pipe()

    def collect():
        while piece := os.read(read_end, 1 << 16):
            got.extend(piece)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        yield OutputPipe(target, write_end), got
    finally:
        os.close(write_end)
        collector.join()
        os.close(read_end)


def as_format(source, name):
    """Return a clip in another format, with the same packets or with raw frames."""
    path = source.with_suffix(f".as-{name}")
    with av.open(str(source)) as clip, av.open(str(path), "w", format=name) as output:
        if name == "yuv4mpegpipe":
            video = clip.streams.video[0]
            stream = output.add_stream("rawvideo", rate=video.average_rate)
            stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
            for number, frame in enumerate(clip.decode(video)):
                frame.pts, frame.time_base = number, 1 / video.average_rate
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        else:
            streams = {s.index: output.add_stream_from_template(s) for s in clip.streams}
            for packet in clip.demux():
                if packet.size:
                    packet.stream = streams[packet.stream_index]
                    output.mux_one(packet)
    return path.read_bytes()
