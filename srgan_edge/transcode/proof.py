"""Proof that every frame of a result decodes, without decoding it again once it is joined.

Each segment is decoded right after it is written, while the next one is upscaled. The joined file
then has to hold the same packets in the same order at the same distances, as far as its container
keeps them, and the same parameters of the codec. What cannot be proved so has to be decoded.
"""

import hashlib
from array import array
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from srgan_edge.errors import OutputFailed
from srgan_edge.video.frame import VideoPacket

_START_CODE = b"\0\0\1"
_IN_UNITS = {"h264", "hevc"}
"""Codecs in units, which follow a start code, or their length in MP4 and Matroska."""

_TEMPORAL_DELIMITER = b"\x12\0"
"""OBU at the start of a packet of AV1, which containers leave out."""


def refuse_undecodable(segment: Path, frames: int) -> None:
    """Decode a finished segment; its deblocking is left out, as no pixel is looked at.

    Raises:
        OutputFailed: it does not decode to so many whole frames at the times of its packets.
    """
    sent: list[int | None] = []
    shown: list[int | None] = []
    whole = True
    try:
        with av.open(f"file:{segment.absolute()}", format="nut") as container:
            (stream,) = container.streams.video
            stream.codec_context.thread_type = "FRAME"
            stream.codec_context.options = {
                "skip_loop_filter": "all",
                "err_detect": "crccheck+explode",
            }
            for packet in container.demux(stream):
                if packet.size:
                    sent.append(packet.pts)
                for frame in packet.decode():
                    shown.append(frame.pts)
                    whole = whole and not frame.is_corrupt
    except av.FFmpegError as error:
        raise OutputFailed(f"{segment} does not decode: {error.strerror}") from error
    if not whole or len(shown) != frames or shown != sorted(sent, key=lambda pts: pts or 0):
        raise OutputFailed(f"{segment} decodes to {len(shown)} of {frames} frames")


class CodedPackets:
    """The packets of one video in the order of decoding, as far as containers keep them."""

    def __init__(self, codec: str) -> None:
        """`codec` is FFmpeg's name of the codec, not of a decoder or encoder."""
        self._codec = codec
        self._parameters: set[bytes] = set()
        self._length_bytes = 0  # of the length before a unit; 0: units follow start codes
        self._digests = array("Q")
        self._seconds = array("d")

    def add_parameters(self, extradata: bytes | None) -> None:
        """Add what the container stores for the decoder."""
        self._parameters.add(extradata or b"")
        if self._codec in _IN_UNITS and extradata and extradata[0] == 1:
            place = 4 if self._codec == "h264" else 21
            self._length_bytes = 1 + (extradata[place] & 3) if len(extradata) > place else 0

    def add(self, packet: VideoPacket) -> None:
        """Add the next packet; call this before a muxer takes it."""
        content = self._kept(bytes(packet))
        digest = hashlib.blake2b(content, digest_size=8).digest()
        self._digests.append(int.from_bytes(digest, "little"))
        self._seconds.append(float((packet.pts or 0) * packet.time_base))

    def added(self, packets: Iterable[VideoPacket]) -> Iterator[VideoPacket]:
        """Yield the packets, each added before."""
        for packet in packets:
            self.add(packet)
            yield packet

    def are_in(self, written: "CodedPackets", tick_seconds: float) -> bool:
        """Check whether a file holds these packets, and the parameters that they decode with.

        Its times may differ by one tick, and all of them by the same shift.
        """
        if self._digests != written._digests or len(self._parameters) != 1:
            return False
        (ours,), (theirs,) = self._parameters, written._parameters
        if ours != theirs and not (ours and all(unit in theirs for unit in self._units(ours))):
            return False
        late = np.asarray(written._seconds) - np.asarray(self._seconds)
        return bool(np.all(np.abs(late - late[:1]) <= tick_seconds + 1e-9))

    def _kept(self, content: bytes) -> bytes:
        """Return the part of a packet that every container keeps, in one form."""
        if self._codec == "av1":
            return content.removeprefix(_TEMPORAL_DELIMITER)
        return _START_CODE.join(self._units(content))

    def _units(self, content: bytes) -> Collection[bytes]:
        if self._codec not in _IN_UNITS:
            return [content]
        if not self._length_bytes:
            units = content.split(_START_CODE)
        else:
            units, place = [], 0
            while place < len(content):
                start = place + self._length_bytes
                place = start + int.from_bytes(content[place:start], "big")
                units.append(content[start:place])
        return [unit for it in units if (unit := it.rstrip(b"\0"))]  # no unit ends in zeros
