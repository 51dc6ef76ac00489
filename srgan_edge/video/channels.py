"""Channels of audio: how many there are, and which loudspeakers they are for."""

import ctypes

from av.audio.codeccontext import AudioCodecContext
from av.audio.layout import AudioLayout


def channels_of(context: AudioCodecContext) -> tuple[int, str]:
    """Return the number of channels of a stream, and FFmpeg's name of their layout.

    An `AudioLayout` of PyAV is a copy that shares the list of channels which MOV may have, and
    frees it at its end, though FFmpeg does so, too. So it never ends here.
    """
    layout = context.layout
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout.nb_channels, layout.name


def plain_layout(channels: int, name: str) -> str:
    """Return what `AudioLayout` makes a layout of that has no list of channels."""
    return f"{channels}C" if " channels" in name else name


def unstated(channels: int, name: str) -> str:
    """Return what is lost where a layout is not stated; empty if it is the one that is assumed."""
    try:
        assumed = AudioLayout(f"{channels}c").name
    except ValueError:
        assumed = "any"
    if name in (assumed, f"{channels} channels"):
        return ""
    return f"{name}, where players assume {assumed}"


def channels_in_words(count: int) -> str:
    """Return a number of channels for messages."""
    return "mono" if count == 1 else f"{count} channels"
