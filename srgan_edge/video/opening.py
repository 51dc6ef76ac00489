"""What of a stranger's video FFmpeg is allowed to try: formats, decoders, sizes, other files.

It knows some 350 containers and 300 video decoders, most of them of one game or one camera of 1998,
and most of what was ever wrong with it was in those. What people video with, edit with, broadcast
and keep archives in is here; `docs/hostile-input.md` says how to convert the rest.
"""

from pathlib import Path
from shlex import quote

import av
from av.container import InputContainer
from av.stream import Stream
from av.video.frame import VideoFrame

from srgan_edge.errors import InputDamaged, InputRefused
from srgan_edge.files import first_bytes
from srgan_edge.video.color import ColorDescription
from srgan_edge.video.nvidia import Nvdec, NvdecFailed

MAX_PIXELS = 2**26
"""Largest frame, in decoded pixels (8192x8192): a few kilobytes can claim to be one of any size."""

MAX_RESULT_PIXELS = 2**28
"""The same of what we made ourselves and read again: a video of 4K becomes one of 16K, twice
`MAX_PIXELS`. FFmpeg takes no more than about this."""

MAX_STREAMS = 256
"""Fonts count: subtitled videos have had a hundred attached."""

DEMUXERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "yuv4mpegpipe")
"""Containers. Playlists are none: those of FFmpeg open other files."""

_VIDEO = (
    "av1,h264,hevc,libdav1d,libvpx,libvpx-vp9,theora,vp8,vp9,vvc,"  # as videos are sent
    "mpeg1video,mpeg2video,vc1,wmv1,wmv2,wmv3,flv,h263,h263p,mpeg4,msmpeg4,msmpeg4v2,svq1,svq3,"
    "vp6,vp6a,vp6f,"  # as they were
    "cfhd,dnxhd,dvvideo,mjpeg,prores,"  # as they are shot and cut
    "ffv1,ffvhuff,huffyuv,magicyuv,png,qtrle,rawvideo,utvideo,v210"  # and kept
)

VIDEO_DECODERS = frozenset(_VIDEO.split(","))

_NOT_DECODED = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,alac,amrnb,amrwb,dca,eac3,flac,"
    "gsm,gsm_ms,libopus,mace3,mace6,mlp,mp1float,mp2float,mp3float,nellymoser,opus,pcm_alaw,"
    "pcm_bluray,pcm_dvd,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,"
    "pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u8,qdm2,s302m,speex,truehd,tta,vorbis,"
    "wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice,"
    "ass,cc_dec,dvbsub,dvdsub,mov_text,pgssub,srt,ssa,subrip,text,webvtt,xsub,"
    "bmp,gif"  # cover art
)
"""For what is copied: audio, subtitles, covers. Some containers need them to say what it is."""

OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(DEMUXERS),
    "codec_whitelist": f"{_VIDEO},{_NOT_DECODED}",
    "max_pixels": str(MAX_PIXELS),  # probing decodes
    "max_streams": str(MAX_STREAMS + 1),  # so that one too many shows: Matroska drops the rest
}
"""For whoever opens a video, be it to decode it or to copy its audio."""

FileIdentity = tuple[int, int, int] | None


def file_identity(path: Path) -> FileIdentity:
    """What a file has another of once it was written to or replaced; None: it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


MAGIC = (  # offset, bytes: how the formats of `video_limits` begin
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (0, b"\x1aE\xdf\xa3"),
    (8, b"AVI "),
    (0, b"\x47\x40"),
    (0, b"\x00\x00\x01\xba"),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x30\x26\xb2\x75"),
    (0, b"YUV4MPEG2"),
)


def open_container(path: Path, nvdec: Nvdec | None, max_pixels: int) -> InputContainer:
    head = first_bytes(path)
    try:
        return av.open(
            f"file:{path.absolute()}",  # the prefix keeps `a:b.mp4` from naming a protocol
            options=OPEN_OPTIONS | {"max_pixels": str(max_pixels)},
            metadata_errors="replace",
            hwaccel=None if nvdec is None else nvdec.hwaccel,
        )
    except av.FFmpegError as error:
        if nvdec is not None:  # of the device, or of the file, which will show without it
            raise NvdecFailed(f"NVDEC does not open it ({error.strerror})") from error
        if isinstance(error, av.MemoryError):
            raise too_many_streams(path) from error
        if any(head[at:].startswith(magic) for at, magic in MAGIC):
            raise InputDamaged(
                f"{path}: damaged: {error.strerror}; the file is cut off or its index is missing"
            ) from error
        raise InputRefused(
            f"{path} is not a video; possible: MP4, MOV, MKV, WebM, AVI, MPEG, FLV, Ogg, WMV, Y4M"
        ) from error


def too_many_streams(path: Path) -> InputRefused:
    return InputRefused(
        f"{path} has more than {MAX_STREAMS} streams; keep some of them, for example with: "
        f"ffmpeg -i {quote(str(path))} -map 0:v -map 0:a -c copy fewer.mkv"
    )


def color_of(frame: VideoFrame) -> ColorDescription:
    return ColorDescription.from_tags(
        matrix=frame.colorspace,
        color_range=frame.color_range,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        pixel_format=frame.format.name,
        is_rgb=frame.format.is_rgb,
        height=frame.height,
    )


def is_copied(stream: Stream) -> bool:
    return stream.type in ("audio", "subtitle") and stream.codec_context is not None
