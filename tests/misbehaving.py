"""Children that crash, hang, exhaust memory or lie: entry points for `Child`, only for tests."""

import ctypes
import json
import os
import platform
import resource
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from srgan_edge.errors import InputRefused
from srgan_edge.image.coding import Coding
from srgan_edge.image.still import StillImage
from srgan_edge.isolation import calls, images, videos, wire
from srgan_edge.transcode import join
from srgan_edge.video.reader import VideoReader

FRAMES_BEFORE = 3


def _at_frame(act):
    """Return an entry point: the real decoder, which calls `act` at a frame."""

    def serve(parent, request):
        convert, seen = VideoReader._frame, []

        def misbehave(reader, item):
            if len(seen) == FRAMES_BEFORE:
                act()
            seen.append(item)
            return convert(reader, item)

        VideoReader._frame = misbehave
        videos.serve(parent, request)

    return serve


def _eat():
    eaten = []
    while True:
        eaten.append(np.ones(1 << 20))


def _fault():
    os.kill(os.getpid(), signal.SIGSEGV)


abort = _at_frame(os.abort)
fault = _at_frame(_fault)
hang = _at_frame(lambda: time.sleep(1000))
eat = _at_frame(_eat)
divide = _at_frame(lambda: 1 / 0)
leave = _at_frame(lambda: os._exit(3))


def tell_rights(parent, request):
    """Send the names of everything that a child taken over by an attacker could still do."""
    attempts = {
        "read the video": lambda: Path(request["path"]).open("rb").close(),
        "read another file": lambda: Path(request["other"]).open("rb").close(),
        "list a folder": lambda: list(Path(request["other"]).parent.iterdir()),
        "write": lambda: os.write(os.open(request["path"], os.O_WRONLY), b"x"),
        "create": lambda: Path(request["path"] + ".new").touch(),
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "connect": lambda: socket.create_connection(tuple(request["address"]), timeout=2),
        "open 100 files": lambda: [os.open(request["path"], os.O_RDONLY) for _ in range(100)],
        "signal its parent": lambda: os.kill(os.getppid(), 0),
    }
    could = []
    for name, attempt in attempts.items():
        try:
            attempt()
            could.append(name)
        except OSError:
            pass
    parent.send({"could": could, "environment": sorted(os.environ)})


def attack_the_kernel(parent, request):
    """Send how the kernel answers what Landlock does not forbid."""
    libc = ctypes.CDLL(None, use_errno=True)
    mine = request["file"]

    def asked(number, *arguments):
        if libc.syscall(number, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "refused")

    attempts = {
        "chmod": lambda: Path(mine).chmod(0),
        "utime": lambda: os.utime(mine, (1, 1)),
        "chown": lambda: os.chown(mine, 12345, 12345),
        "xattr": lambda: os.setxattr(mine, "user.x", b"1"),
        "UNIX socket": lambda: socket.socket(socket.AF_UNIX).connect(request["service"]),
        "MPTCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "fork": lambda: os.fork() or os._exit(0),
        "session": os.setsid,
        "io_uring": lambda: asked(425, 4, ctypes.create_string_buffer(120)),
        "user namespace": lambda: asked(_NUMBERS["unshare"][platform.machine()], 0x10000000),
        "memory file": lambda: os.memfd_create("x"),
        "outlive the parent": lambda: _done(libc.prctl(1, 0)),
        "more memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
        "signal": lambda: os.kill(os.getppid(), 0),
        "read another": lambda: Path(mine).read_bytes(),
        "program": lambda: os.execv("/bin/true", ["true"]),
    }
    answers = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            answers[name] = 0
        except OSError as error:
            answers[name] = error.errno
    parent.send(answers)


_NUMBERS = {"unshare": {"x86_64": 272, "aarch64": 97}}


def _done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def be_deaf(parent, request):
    """Read no message at all."""
    time.sleep(1000)


def die_unheard(parent, request):
    """Read no message, send two, and crash."""
    while not parent._socket.recv(1, socket.MSG_PEEK):
        time.sleep(0.01)
    parent.send({"word": 1})
    parent.send({"word": 2})
    os.abort()


# ---------------------------------------------------------------- taken over


class _Liar:
    """A `Parent` that `change` sends something else to."""

    def __init__(self, parent, change):
        self._parent, self._change = parent, change

    def __getattr__(self, name):
        return getattr(self._parent, name)

    def send(self, message):
        self._change(self._parent, message)


def _lies(*messages):
    """Return an entry point that starts well, and then sends these instead of a frame."""

    def lie(parent, message):
        result = message["result"]
        if isinstance(result, dict) and result.get("frame"):
            for lie in messages:
                parent._socket.send(lie if isinstance(lie, bytes) else json.dumps(lie).encode())
            time.sleep(1000)
        parent.send(message)

    return lambda parent, request: videos.serve(_Liar(parent, lie), request)


def _step(frame=None, planes=None, notes=None):
    return {"result": {"frame": frame, "planes": planes, "notes": notes}}


_PLANE = {"dtype": "uint8", "shape": [48, 64, 3]}

LIES = {
    "time runs back": [_step([5, 1]), _step([4, 1])],
    "a time too long": [_step([2**70, 1])],
    "a time far away": [_step([2**62, 1])],
    "a negative duration": [_step([0, -1])],
    "a duration too long": [_step([0, 2**62])],
    "a duration too many": [_step([0, 1, 1])],
    "text for a time": [_step(["0", 1])],
    "true for a time": [_step([True, 1])],
    "nothing in a frame": [_step([])],
    "a frame that is a number": [_step(7)],
    "negative counts": [_step([0, 1], notes={"nudged": -1})],
    "another size": [_step(planes=[_PLANE | {"shape": [48, 65, 3]}])],
    "another type": [_step(planes=[_PLANE | {"dtype": "uint16"}])],
    "memory without end": [_step(planes=[_PLANE])],
    "a frame while memory is made": [
        _step(planes=[_PLANE, _PLANE | {"dtype": "uint16"}]),
        *[_step([0, 1])] * 8,
    ],
    "another kind": [{"pickle": "gASV"}],
    "two kinds": [{**_step([0, 1]), "end": None}],
    "no result": [{}],
    "life without an answer": [{"alive": True}] * 2,
    "more memory than the call needs": [{"size": 2 << 20}],
    "a size of nothing": [{"size": 0}],
    "a size without end": [{"size": 1 << 60}],
    "a long result nowhere": [{"long": [0, 8]}],
    "a list": [[1, 2, 3]],
    "no JSON": [b"\x80\x04\x95"],
    "JSON without end": [b"[" * 60_000],
    "JSON not a number": [b'{"result": [NaN]}'],
    "a number without end": [b'{"result": [' + b"9" * 60_000 + b"]}"],
    "a message too long": [b" " * 70_000],
}
for _name, _messages in LIES.items():
    globals()[_name.replace(" ", "_")] = _lies(*_messages)


def _lying_info(**changes):
    def lie(parent, message):
        message["result"] |= changes
        parent.send(message)
        time.sleep(1000)

    return lambda parent, request: videos.serve(_Liar(parent, lie), request)


INFOS = {
    "huge": {"width": 1 << 30},
    "negative": {"height": -48},
    "no_tick": {"time_base": [0, 1]},
    "by_zero": {"time_base": [1, 0]},
    "no_format": {"pixel_format": "yuv421p"},
    "no_matrix": {"color": {"matrix": 99}},
    "infinite": {"duration_seconds": 1e999},
    "extra": {"surprise": 1},
    "short_matrix": {"display_matrix": [1, 2]},
}
for _name, _changes in INFOS.items():
    globals()[f"info_{_name}"] = _lying_info(**_changes)


def terminal(parent, request):
    parent.send({"error": "InputDamaged", "text": "\x1b[2Jgone\n" + "a" * 10_000})
    time.sleep(1000)


def unknown_error(parent, request):
    parent.send({"error": "SystemExit", "text": "0"})
    time.sleep(1000)


# ---------------------------------------------------------------- functions for `calls.Remote`

_numbers = count(1)


def _counted(text):
    return f"{text} {next(_numbers)}"


def _refuse(text):
    raise InputRefused(f"{text}: no")


def serve_functions(parent, request):
    functions = {
        "count": _counted,
        "refuse": _refuse,
        "sleep": lambda: time.sleep(1000),
        "crash": os.abort,
        "eat": _eat,
        "divide": lambda: 1 / 0,
        "repeat": lambda text, count: (text,) * count,
        "ones": lambda count: np.ones(count, np.uint8),
    }
    calls.serve(parent, functions)


def promise_much(parent, request):
    parent.receive()
    parent.send({"size": 1 << 40})
    time.sleep(1000)


def give_nothing(parent, request):
    parent.receive()
    parent.send({"nothing": 0})
    time.sleep(1000)


def point_outside(parent, request):
    parent.receive()
    parent.send({"size": 8})
    parent.receive_with_descriptors()
    parent.send({"result": [4, "uint8", [8]]})
    time.sleep(1000)


# ---------------------------------------------------------------- images


_STILL = np.empty((0, 2), np.uint32)
_FACTS = {
    **{"width": 5, "height": 8, "frames": 1, "plays": 1, "seconds": _STILL},
    "coding": Coding("PNG", False),
}


def _image_child(facts=None, **changes):
    """Return an entry point that answers as an image of 5x8 pixels would, with changes."""
    honest = _FACTS | {"notes": ()}
    image = StillImage(np.zeros((2, 5, 3), np.uint8))
    functions = {
        "open": lambda *_: images.ImageFacts(**(honest | (facts or {}))),
        "rows": lambda *_: replace(image, **changes),
    }
    return lambda parent, request: calls.serve(parent, functions)


image_lie_of_size = _image_child({"width": 1 << 30})
image_lie_of_frames = _image_child({"frames": 3})
image_lie_of_rows = _image_child(pixels=np.zeros((2, 6, 3), np.uint8))
image_lie_of_alpha = _image_child(alpha=np.zeros((3, 5), np.uint8))
image_lie_of_exif = _image_child(exif=b"Exif, or not")
image_lie_of_dpi = _image_child(dpi=(-1.0, 72.0))
image_lie_of_colors = _image_child(stated_colors=(("cHRM", b"short"),))


def image_lie_of_notes(parent, request):
    wire.printable = str
    _image_child({"notes": ("\x1b[2J",)})(parent, request)


def image_looks_around(parent, request):
    """Say which of the files beside the image can be read."""

    def look(file, path, *_):
        os.close(file)
        read = []
        for other in Path(path).parent.glob("*.txt"):
            with suppress(OSError):
                read.append(other.read_text())
        return images.ImageFacts(**_FACTS, notes=tuple(read))

    calls.serve(parent, {"open": look, "close": lambda: True})


def image_crash(parent, request):
    calls.serve(parent, {"open": lambda *_: os.abort()})


# ---------------------------------------------------------------- joining


def joiner_that_crashes(parent, request):
    """Rehearse, and crash in the join."""
    join._join = lambda order, on_step: os.abort()
    join.serve(parent, request)


def joiner_that_plants_links(parent, request):
    """Try to make links to a key in the work folder, and in place of the result."""
    honest = join._join

    def plant(order, on_step):
        joined, key = honest(order, on_step), Path(order.work).parent / "key"
        for name in ("journal", "segment-000000.nut", order.file):
            with suppress(OSError):
                (Path(order.work) / name).unlink()
                (Path(order.work) / name).symlink_to(key)
        return joined

    join._join = plant
    join.serve(parent, request)
