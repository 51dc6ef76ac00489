"""Frames numbered at a constant rate, for a format that keeps no times."""

from dataclasses import replace
from fractions import Fraction

from srgan_edge.errors import OutputFailed
from srgan_edge.video import CodedFrame, Frame, VideoInfo


class ConstantRate:
    """Counts frames, as long as each comes when its number says it should.

    Args:
        info: of the film; its average rate is the constant one.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._rate = info.average_rate or Fraction(25)
        self._time_base = info.time_base
        self._first_pts: int | None = None
        self._frames = 0
        self.info = replace(info, time_base=1 / self._rate)
        """The same film, its times being numbers of frames."""

    def numbered(self, frame: Frame | CodedFrame) -> Frame | CodedFrame:
        """The frame, its time being its number.

        Raises:
            OutputFailed: it is shown half a frame or more from where a constant rate puts it.
        """
        if self._first_pts is None:
            self._first_pts = frame.pts
        seconds = (frame.pts - self._first_pts) * self._time_base
        if abs(seconds * self._rate - self._frames) >= Fraction(1, 2):
            raise OutputFailed(
                f"frame {self._frames} comes after {float(seconds):.3f} s and not after "
                f"{float(self._frames / self._rate):.3f} s, as yuv4mpegpipe would have it at "
                f"{float(self._rate):g} frames a second; use -f nut"
            )
        self._frames += 1
        return replace(frame, pts=self._frames - 1, duration=1)
