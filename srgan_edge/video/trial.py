"""Encode frames into memory, to find out how large they are and what encoding them costs."""

import statistics
import time
from io import BytesIO
from typing import Self

import av
from av.container import OutputContainer

from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Frame, VideoPacket


class TrialEncoding:
    """The sink of a pipeline: encodes frames, and keeps the sizes of their packets.

    Args:
        starts: numbers of the frames with which a new encoder starts, and so a keyframe.
    """

    def __init__(self, encoder: VideoEncoder, starts: set[int]) -> None:
        self.encoder, self._starts, self._frames = encoder, starts, 0
        self._files: list[BytesIO] = []
        self._container: OutputContainer | None = None
        self.sizes: list[list[int]] = []
        """Bytes of the packets, from each start on, in decoding order."""
        self.start_cpu_seconds = 0.0
        """CPU time to start encoders, of which a video has fewer for as many frames."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._container is not None:
            self._container.close()

    def write(self, frame: Frame | CodedFrame) -> None:
        if self._frames in self._starts:
            self.finish()
            self._files.append(BytesIO())
            began = time.thread_time()
            self._container = av.open(self._files[-1], "w", format="nut")
            self.encoder.add_to(self._container)
            self.start_cpu_seconds += time.thread_time() - began
            self.sizes.append([])
        self._frames += 1
        for packet in self.encoder.encode(frame):
            self._add(packet)

    def copy(self, copied: CopiedPacket) -> None:
        """Ignore the packet: audio costs next to nothing."""

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._container is not None:
            for packet in self.encoder.finish():
                self._add(packet)
            self._container.close()
            self._container = None

    def _add(self, packet: VideoPacket) -> None:
        assert self._container is not None
        self.sizes[-1].append(packet.size)
        self._container.mux_one(packet)

    def decode(self) -> float:
        """Decode everything, as the check of a result does; return the CPU time for a frame."""
        self.finish()
        cpu, frames = time.process_time(), 0
        for file in self._files:
            file.seek(0)
            with av.open(file, "r", format="nut") as container:
                context = container.streams.video[0].codec_context
                context.thread_type = "FRAME"
                context.options = {"skip_loop_filter": "all"}
                frames += len(list(container.decode(video=0)))
        return (time.process_time() - cpu) / max(1, frames)

    @property
    def key_bytes(self) -> float:
        """Mean bytes of the keyframes."""
        return statistics.mean(float(part[0]) for part in self.sizes)

    @property
    def other_bytes(self) -> float:
        """Mean bytes of all other frames; of keyframes if there are no others."""
        others = [float(size) for part in self.sizes for size in part[1:]]
        return statistics.mean(others) if others else self.key_bytes
