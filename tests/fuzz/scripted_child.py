"""A decoder that was taken over, played by a script: the messages it sends, and its parent's end.

No process is started, but everything that parses, checks and uses its messages is the real code.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from unittest import mock

import av
import numpy as np

from srgan_edge.errors import (
    InputDamaged,
    InputRefused,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.export import convert, foreign
from srgan_edge.export.foreign_child import Found
from srgan_edge.image.coding import Coding
from srgan_edge.image.still import StillImage
from srgan_edge.image.writer import SUFFIXES, write_image
from srgan_edge.isolation import calls, frame_ring, images, videos, wire
from srgan_edge.isolation.child import Child, shared_memory
from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.reporters import remarks_after, remarks_on
from srgan_edge.tiling import Tiling
from srgan_edge.transcode.join import Joined
from srgan_edge.video.color import ColorDescription, StaticHdr
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import Encoding, Notes, VideoInfo

OPTIONS = Options("", Encoding("ffv1"), Tiling())
MAX_MEMORY_BYTES = 1 << 22


class _Script:
    """A socket and a process at once, which has ended."""

    returncode = 0

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = iter(messages)

    def recv(self, size: int) -> bytes:
        return next(self._messages, b"")[:size]

    def sendmsg(self, *_: object) -> None: ...

    def settimeout(self, seconds: float) -> None: ...

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...

    def wait(self, seconds: float) -> int:
        return 0


class _ScriptedChild(Child):
    def __init__(self, messages: list[bytes]) -> None:
        script = _Script(messages)
        self._memory_bytes, self._reports = MAX_MEMORY_BYTES, (InputRefused, InputDamaged)
        self._lock, self._closed, self._files = mock.MagicMock(), False, {}
        self._socket = self._process = self._complaints = script

    def _how_it_ended(self) -> str:
        return "exited with code 0"


@contextmanager
def _little_memory(size: int) -> Iterator[tuple[object, int]]:
    if size > MAX_MEMORY_BYTES:
        raise ResourcesExhausted("more than fuzzing needs")
    with shared_memory(size) as (memory, descriptor):
        memory[:] = b"\1" * size
        yield memory, descriptor


def play(content: bytes, path: Path) -> None:
    """Read what the first byte says, a video, image, join or weights, from the lines behind it."""
    kind, *messages = content.split(b"\n")
    with (
        mock.patch.object(calls, "Child", lambda *_: _ScriptedChild(messages)),
        mock.patch.object(calls, "shared_memory", _little_memory),
        mock.patch.object(frame_ring, "shared_memory", _little_memory),
    ):
        kinds = {b"i": _read_image, b"j": _join, b"w": _read_weights, b"f": _read_foreign}
        kinds.get(kind, _read_video)(path)


def _read_video(path: Path) -> None:
    with videos.IsolatedReader(path) as reader:
        info = reader.info
        list(remarks_on(info, OPTIONS))
        assert info.frames_expected is None or info.frames_expected >= 0
        encoder = None
        for frame in reader.after(2):
            assert frame.pixels.shape == (info.height, info.width, 3)
            if encoder is None and info.width * info.height < 5000:
                encoder = VideoEncoder(info, (info.width, info.height), OPTIONS.encoding)
                encoder.add_to(av.open(BytesIO(), "w", format="nut"))
            if encoder is not None and frame.deep is None:
                list(encoder.encode(frame))
        assert str(reader.notes.damage).isprintable()
        list(remarks_after(info, reader.notes, OPTIONS, 0))


def _read_image(path: Path) -> None:
    with images.ImageProcess(10_000) as process, process.open(path) as image:
        assert 0 < image.width * image.height <= 10_000
        assert all(note.isprintable() for note in image.notes)
        rows = image.rows(0, 2)
        assert rows.pixels.shape == (2, image.width, 3)
        assert rows.dpi is None or all(abs(dots) < 1e14 for dots in rows.dpi)
        for suffix in SUFFIXES:
            with suppress(UsageError, OutputFailed):
                write_image(path.with_name(f"out{suffix}"), rows)


def _join(path: Path) -> None:
    with calls.Remote("", [path], MAX_MEMORY_BYTES, 1, shows_life=True) as remote:
        assert all(line.isprintable() for line in remote.call(tuple[str, ...], "rehearse"))
        assert remote.call(Joined, "join").frames >= 0


def _read_weights(path: Path) -> None:
    """Read a pickle whose reader says what it found, but writes no file."""
    path = path.rename(path.with_suffix(".pth"))
    try:
        convert.read_weights(path)
    except ModelRefused as refusal:
        if "its reader wrote no file" not in str(refusal):
            raise


def _read_foreign(path: Path) -> None:
    with foreign._child(path.with_suffix(".pth"), path.parent) as call:
        found = call(Found, "open_weights", "", "", "")
        assert f"{found.architecture}{found.taken}".isprintable()
        assert all(other.isprintable() for other in found.others)
        assert call(str, "trace", "", 1, 1, 1).isprintable()


def seeds() -> list[bytes]:
    """Return what honest decoders send."""
    info = VideoInfo(
        width=8,
        height=6,
        time_base=Fraction(1, 25),
        start_pts=0,
        average_rate=Fraction(25),
        duration_seconds=1.0,
        frames_stated=None,
        codec="h264",
        bit_rate=300_000,
        pixel_format="yuv420p",
        color=ColorDescription(1, False, assumed=("matrix",)),
        hdr=StaticHdr(None, (1000, 400)),
        unkept=("closed captions",),
        sample_aspect_ratio=Fraction(4, 3),
        display_matrix=(65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30),
        interlaced=True,
    )
    pixels = np.zeros((6, 8, 3), np.uint8)
    notes = Notes(nudged=1, recolored="a to b", unkept=("x",))
    notes.damage.add("a broken packet", Fraction(3, 25), repaired=True)
    planes = tuple(frame_ring.Plane.of(array) for array in (pixels, pixels.astype(np.uint16)))
    steps = [videos.Step((pts, 1), None, notes if pts == 4 else None) for pts in range(2, 6)]
    end = videos.Step(None, None, notes)
    first = videos.Step(None, planes[:1], None)
    video = [info, 2, first, True, *steps, *[end] * 4]
    deeper = [
        *(info, 2, first, True, steps[0], *[videos.Step(None, planes, None)] * 7, True),
        *(*steps[1:], end),
    ]
    seconds, coding = np.array([[1, 25], [2, 25]], np.uint32), Coding("JPEG of quality 40", True)
    facts = images.ImageFacts(8, 6, 2, 1, seconds, ("left out",), coding)
    stated = (("cHRM", bytes(32)), ("EXIF InteropIndex", b"R03"))
    rows = StillImage(pixels[:2], None, False, b"profile", None, None, stated, (64, 54))
    weights = convert._Found(("conv.weight",), "params_ema", ("params",))
    network = Found("ESRGAN", 4, 1, 1, False, False, 1000, "params_ema", ("params",))
    return [
        b"\n".join([b"v", *_messages(video)]),
        b"\n".join([b"v", *_messages(deeper)]),
        b"\n".join([b"i", *_messages([facts, rows, True])]),
        b"\n".join(
            [b"j", b'{"alive":true}', *_messages([("left out: a font",), Joined(3, 2, 0, 0)])]
        ),
        b"\n".join([b"w", *_messages([weights])]),
        b"\n".join([b"f", *_messages([network, "no reason"])]),
    ]


def _messages(results: list[object]) -> Iterator[bytes]:
    for result in results:
        heap = wire.Heap()
        record = wire.pack(result, heap)
        if heap.size:
            yield json.dumps({"size": heap.size}).encode()
        yield json.dumps({"result": record}).encode()
