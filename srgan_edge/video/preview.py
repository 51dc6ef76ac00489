"""Frames as an MP4 file that every browser plays: H.264, 8 bits, 4:2:0, BT.709."""

import io
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from srgan_edge.errors import OutputFailed
from srgan_edge.pixels import Pixels

CRF = 12
"""Constant rate factor: differences from the frames are hard to see, even enlarged."""

KEY_FRAME_EVERY = 12
"""Frames between key frames: seeking to any frame decodes at most this many."""

TIME_BASE = Fraction(1, 90_000)


def preview_of(frames: Iterable[tuple[Pixels, float, float]], width: int, height: int) -> bytes:
    """Return an MP4 of frames with their times, without audio.

    Args:
        frames: uint8 [height, width, 3], with start and duration in seconds; starts increase by at
            least 1/90,000 s.
        width: in pixels. H.264 has even sizes: an odd one gets its last column or row twice.

    Raises:
        OutputFailed: FFmpeg refused, for example a size beyond its limit.
    """
    target = io.BytesIO()
    try:
        with av.open(target, "w", "mp4") as container:
            # With B-frames, the durations in MP4 are those between decodings, by which Chromium 150
            # takes the frame before for one that is sought.
            options = {"preset": "veryfast", "crf": f"{CRF}", "bf": "0"}
            stream = container.add_stream("libx264", options=options)
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = TIME_BASE
            stream.codec_context.colorspace = Colorspace.ITU709
            stream.codec_context.color_range = ColorRange.MPEG
            stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
            for number, (pixels, start_seconds, duration_seconds) in enumerate(frames):
                frame = _coded(pixels)
                frame.pts = round(start_seconds / TIME_BASE)
                frame.duration = round(duration_seconds / TIME_BASE)
                frame.time_base = TIME_BASE
                frame.pict_type = (
                    PictureType.I if number % KEY_FRAME_EVERY == 0 else PictureType.NONE
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise OutputFailed(f"no preview of {width}x{height}: {error}") from error
    return target.getvalue()


def _coded(pixels: Pixels) -> VideoFrame:
    height, width, _ = pixels.shape
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
