"""Write a video in one pass: frames are encoded at their times, everything else is copied.

This combines `video.encoder` and `video.muxer`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from srgan_edge.errors import InputDamaged, OutputFailed, UsageError
from srgan_edge.files import free_partial_result, kept_once, replace_when_whole
from srgan_edge.video.audio import AudioHandling
from srgan_edge.video.color import MATRICES
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.endpoint import OutputPipe
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Encoding, Frame, VideoInfo
from srgan_edge.video.muxer import VideoMuxer
from srgan_edge.video.reader import VideoReader


class VideoWriter:
    """Writes upscaled frames, and everything else that `reader` found, to a new file or a pipe.

    The constructor checks the request; entering the `with` block opens the file and checks that the
    codec and the container accept it. Leaving the block normally puts the complete file at `path`.
    Leaving it with `InputDamaged` puts everything written so far at `NAME.partial.EXT`, or if that
    is taken `NAME.partial-2.EXT`; any other
    error leaves nothing, and an older file unchanged. Bytes in a pipe cannot be taken back: the
    stream is ended properly in the cases where a file would be kept. Not thread-safe, except for
    `coded`.

    Raises:
        UsageError: A suffix, codec, option or pixel format does not exist or does not fit the
            others, or the container cannot hold an audio or subtitle codec.
        OutputFailed: The disk is full or not writable, or the format of a pipe cannot keep times.
        OSError: The reader of a pipe closed it.
    """

    def __init__(
        self,
        target: Path | OutputPipe,
        reader: VideoReader,
        size: tuple[int, int],
        encoding: Encoding,
        *,
        audio: AudioHandling = "convert",
        overwrite: bool = True,
    ) -> None:
        """Check the request.

        Args:
            size: (width, height) in pixels; frames of another size are scaled to it.
            overwrite: replace files that appear under the names of results in the meantime.
        """
        self.saved_as: Path | None = None
        """Path of the result; None until there is one."""
        self.frames_written = 0
        """Frames returned by the encoder."""
        self._target, self._overwrite = target, overwrite
        self._muxer = VideoMuxer(target, reader, audio)
        self._rate: ConstantRate | None = None
        info = reader.info
        if isinstance(target, OutputPipe):
            encoding = _encoding_for(target, encoding)
            if target.format == "yuv4mpegpipe":
                self._rate = ConstantRate(info)
                info = self._rate.info
        self._encoder = VideoEncoder(info, size, encoding)
        left_out = self._muxer.copies.left_out, self._encoder.left_out, _unkept(target, reader)
        self.left_out = list(chain(*left_out))
        """One line for each thing in the input that the output will not have."""
        self.remarks = [*self._muxer.copies.changed, *self._encoder.remarks]
        """One line for each thing about the output that the user may not expect."""

    @property
    def nudged(self) -> int:
        """Copied packets moved forward because they were not later than the one before."""
        return self._muxer.nudged

    @property
    def refused(self) -> int:
        """Copied packets that were too damaged for the container, which the result lacks."""
        return self._muxer.refused

    def left_out_within(self) -> Iterator[str]:
        """Yield lines as `left_out` has, for what is known only once the packets have passed."""
        return self._muxer.copies.left_out_within()

    @property
    def refusal(self) -> str:
        """Why packets were refused, and how many."""
        return self._muxer.refusal

    def __enter__(self) -> Self:
        target = self._target
        self._life: AbstractContextManager[None] = (
            self._piped(target) if isinstance(target, OutputPipe) else self._whole_or_absent(target)
        )
        self._life.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._life.__exit__(kind, error, traceback)

    def coded(self, frame: Frame) -> CodedFrame:
        """Do the first half of `write`, in any thread; see `VideoEncoder.coded`."""
        return self._encoder.coded(frame)

    def write(self, frame: Frame | CodedFrame) -> None:
        """Encode one frame at its time in the input."""
        if self._rate is not None:
            frame = self._rate.numbered(frame)
        for packet in self._encoder.encode(frame):
            self._muxer.mux(packet)
            self.frames_written += 1

    def copy(self, copied: CopiedPacket) -> None:
        """Add one packet of audio or subtitles, which belongs to the file afterwards."""
        for fitted in self._muxer.copies.fit(copied):
            self._muxer.copy(fitted)

    @contextmanager
    def _whole_or_absent(self, path: Path) -> Iterator[None]:
        with replace_when_whole(path, overwrite=self._overwrite) as temporary, self._muxer:
            try:
                self._muxer.open(temporary, self._encoder)
                try:
                    yield
                except InputDamaged:
                    if self.frames_written or self._encoder.holds_frames:
                        self._finish()
                        self._publish_partial(temporary, path)
                    raise
                self._finish()
            except BaseException:
                # Without its file the container has nothing to finish, and is closed at once.
                temporary.unlink(missing_ok=True)
                raise
        self.saved_as = path

    @contextmanager
    def _piped(self, pipe: OutputPipe) -> Iterator[None]:
        with self._muxer:
            self._muxer.open(pipe, self._encoder)
            try:
                yield
            except InputDamaged:
                self._finish()
                raise
            self._finish()

    def _publish_partial(self, temporary: Path, path: Path) -> None:
        partial = free_partial_result(path, overwrite=self._overwrite)
        with replace_when_whole(partial, overwrite=self._overwrite) as place:
            temporary.replace(place)
        self.saved_as = kept_once(partial, path)

    def _finish(self) -> None:
        for packet in self._encoder.finish():
            self._muxer.mux(packet)
            self.frames_written += 1
        for fitted in self._muxer.copies.rest():
            self._muxer.copy(fitted)
        self._muxer.close()


def _encoding_for(pipe: OutputPipe, encoding: Encoding) -> Encoding:
    """Return the encoder settings that the format of a pipe requires."""
    if pipe.format == "yuv4mpegpipe":
        if replace(encoding, pixel_format=None) != Encoding():
            raise UsageError(
                "yuv4mpegpipe holds raw frames; possible: --pix-fmt, or --pipe-format nut"
            )
        return Encoding("rawvideo", pixel_format=encoding.pixel_format)
    if pipe.format == "nut" and encoding.codec == "libx264":
        # The NUT muxer would move a video whose first decoding time is negative.
        return replace(encoding, options={"bf": "0"} | encoding.options)
    return encoding


def _unkept(target: Path | OutputPipe, reader: VideoReader) -> Iterator[str]:
    """Yield everything besides streams that the format of a pipe cannot hold."""
    if isinstance(target, Path) or target.format == "matroska":
        return
    info = reader.info
    if info.display_matrix is not None:
        yield "how the image is turned"
    if target.format == "yuv4mpegpipe":
        if info.sample_aspect_ratio not in (None, 1):  # it could hold that; PyAV cannot set it
            yield f"how wide a pixel is: {info.sample_aspect_ratio}"
        if reader.chapters:
            yield "chapters"
        if info.color.matrix in MATRICES:
            matrix, *_ = MATRICES[info.color.matrix]
            yield f"which color matrix it is: {matrix}"


class ConstantRate:
    """Numbers frames at a constant rate, for a format that keeps no times.

    Args:
        info: The facts of the video, whose average rate becomes the constant one.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._rate = info.average_rate or Fraction(25)
        self._time_base = info.time_base
        self._first_pts: int | None = None
        self._frames = 0
        self.info = replace(info, time_base=1 / self._rate)
        """Facts of the video with frame numbers as times."""

    def numbered(self, frame: Frame | CodedFrame) -> Frame | CodedFrame:
        """Return the frame with its number as its time.

        Raises:
            OutputFailed: Its time is half a frame or more away from the constant rate.
        """
        if self._first_pts is None:
            self._first_pts = frame.pts
        seconds = (frame.pts - self._first_pts) * self._time_base
        if abs(seconds * self._rate - self._frames) >= Fraction(1, 2):
            raise OutputFailed(
                f"frame {self._frames} comes after {float(seconds):.3f} s and not after "
                f"{float(self._frames / self._rate):.3f} s, as yuv4mpegpipe would have it at "
                f"{float(self._rate):g} frames a second; use --pipe-format nut"
            )
        self._frames += 1
        return replace(frame, pts=self._frames - 1, duration=1)
