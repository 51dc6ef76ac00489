"""A video file out in one pass: frames encoded at their times, all else copied as it comes.

The encoder is `video_encoder`'s, the container `video_muxer`'s; here they are put together.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from srgan_edge.atomic import replace_when_whole
from srgan_edge.errors import InputDamaged
from srgan_edge.video import CopiedPacket, Encoding, Frame
from srgan_edge.video_encoder import VideoEncoder
from srgan_edge.video_muxer import VideoMuxer
from srgan_edge.video_reader import VideoReader


class VideoWriter:
    """Writes upscaled frames, and all else that `reader` found, to a new file.

    Making it checks the request; entering its `with` block opens the file and finds out whether the
    codec and the container take it. Leaving the block well puts the whole file at `path`; leaving
    it with `InputDamaged` puts what was written so far at `NAME.partial.EXT`; leaving it with any
    other error leaves nothing, and an older file as it was. Not thread-safe.

    Raises:
        UsageError: a suffix, codec, option or pixel format that does not exist, or that do not go
            together; a sound or subtitle codec that the container cannot hold.
        OutputFailed: the disk is full or the place is not writable.
    """

    def __init__(
        self, path: Path, reader: VideoReader, size: tuple[int, int], encoding: Encoding
    ) -> None:
        """`size` is (width, height) in pixels; frames of another size are scaled to it."""
        self.path = path
        self.saved_as: Path | None = None
        """Where the result is, once there is one."""
        self.frames_written = 0
        """Frames that came out of the encoder."""
        self._muxer = VideoMuxer(path, reader)
        self._encoder = VideoEncoder(reader.info, size, encoding)
        self.left_out = [*self._muxer.left_out, *self._encoder.left_out]
        """One line for each thing in the input that the output will not have."""

    @property
    def nudged(self) -> int:
        """Copied packets moved forward because their time was not later than the one before."""
        return self._muxer.nudged

    def __enter__(self) -> Self:
        self._life: AbstractContextManager[None] = self._whole_or_absent()
        self._life.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._life.__exit__(kind, error, traceback)

    def write(self, frame: Frame) -> None:
        """Encode one picture, at the time it has in the input."""
        for packet in self._encoder.encode(frame):
            self._muxer.mux(packet)
            self.frames_written += 1

    def copy(self, copied: CopiedPacket) -> None:
        """Add one packet of sound or subtitles. It belongs to the file afterwards."""
        self._muxer.copy(copied)

    @contextmanager
    def _whole_or_absent(self) -> Iterator[None]:
        with replace_when_whole(self.path) as temporary, self._muxer:
            try:
                self._muxer.open(temporary, self._encoder)
                try:
                    yield
                except InputDamaged:
                    if self.frames_written or self._encoder.holds_frames:
                        self._finish()
                        self._publish_partial(temporary)
                    raise
                self._finish()
            except BaseException:
                # Without its file the container has nothing to finish, and is closed at once.
                temporary.unlink(missing_ok=True)
                raise
        self.saved_as = self.path

    def _publish_partial(self, temporary: Path) -> None:
        partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
        with replace_when_whole(partial) as place:
            temporary.replace(place)
        self.saved_as = partial

    def _finish(self) -> None:
        for packet in self._encoder.finish():
            self._muxer.mux(packet)
            self.frames_written += 1
        self._muxer.close()
