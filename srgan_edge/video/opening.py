"""Open untrusted videos: which formats, decoders and sizes FFmpeg may try, and the first facts.

FFmpeg has some 350 demuxers and 300 video decoders. Most serve a single game or a camera of 1998,
and most of its security bugs were in those. The lists here hold the formats that people record,
edit, broadcast and archive in; `docs/hostile-input.md` explains how to convert the rest.
"""

import stat
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.container import Flags as ContainerFlags
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.stream import Disposition, Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.errors import InputDamaged, InputRefused, quoted
from srgan_edge.files import WHOLE_BYTES, content_sha256, first_bytes
from srgan_edge.suffixes import heic_refused, suffix_of
from srgan_edge.video.audio import is_described
from srgan_edge.video.color import (
    MATRICES,
    RGB,
    ColorDescription,
    StaticHdr,
    needs_dolby_vision,
    stores_rgb,
    unkept_metadata,
)
from srgan_edge.video.convert import depth_bits, is_readable, with_depth
from srgan_edge.video.cropping import crop_of
from srgan_edge.video.frame import VideoInfo
from srgan_edge.video.nvidia import Nvdec, NvdecFailed

MAX_PIXELS = 2**26
"""Largest frame in decoded pixels (8192x8192): a file of a few kilobytes can claim any size."""

MAX_RESULT_PIXELS = 2**28
"""Largest frame of a result that is read again: 4K video becomes 16K, twice `MAX_PIXELS`. FFmpeg's
own limit is about the same."""

MAX_STREAMS = 256
"""Most streams in a file. Attached fonts count: some subtitled videos have a hundred of them."""

DEMUXERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "yuv4mpegpipe")
"""Containers. Playlists are excluded because FFmpeg's playlist demuxers open other files."""

_VIDEO = (
    "av1,h264,hevc,libdav1d,libvpx,libvpx-vp9,theora,vp8,vp9,vvc,"  # today's distribution
    "mpeg1video,mpeg2video,vc1,wmv1,wmv2,wmv3,flv,h263,h263p,mpeg4,msmpeg4,msmpeg4v2,svq1,svq3,"
    "vp6,vp6a,vp6f,"  # older distribution
    "cfhd,dnxhd,dvvideo,mjpeg,prores,"  # recording and editing
    "ffv1,ffvhuff,huffyuv,magicyuv,png,qtrle,rawvideo,utvideo,v210"  # archives
)

VIDEO_DECODERS = frozenset(_VIDEO.split(","))

_CODECS_BY_BITS = {8: "", 10: "", 12: " -c libx265", 16: " -c ffv1"}
"""Depths that encoders have, and what to type for those that libx264 lacks."""

_NOT_DECODED = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,alac,amrnb,amrwb,dca,eac3,flac,"
    "gsm,gsm_ms,libopus,mace3,mace6,mlp,mp1float,mp2float,mp3float,nellymoser,opus,pcm_alaw,"
    "pcm_bluray,pcm_dvd,pcm_f32be,pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,"
    "pcm_s24be,pcm_s24le,pcm_s32be,pcm_s32le,pcm_s8,pcm_u8,qdm2,s302m,speex,truehd,tta,vorbis,"
    "wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice,"
    "ass,cc_dec,dvbsub,dvdsub,mov_text,pgssub,srt,ssa,subrip,text,webvtt,xsub,"
    "bmp,gif"  # cover art
)
"""Codecs of audio, subtitles and cover art: some containers need the decoder to identify them."""

OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(DEMUXERS),
    "codec_whitelist": f"{_VIDEO},{_NOT_DECODED}",
    "max_pixels": str(MAX_PIXELS),  # because probing decodes
    "max_streams": str(MAX_STREAMS + 1),  # one more, to notice: Matroska drops the rest
}
"""FFmpeg options for opening any video, to decode it or to copy its audio."""

FileIdentity = tuple[int | str, ...] | None
"""Inode, size, content and, of large files, modification time; None if it does not exist."""

_Y4M = b"YUV4MPEG2"
_MAGIC = (  # offset and bytes with which files of `DEMUXERS` begin
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
    (0, _Y4M),
)


def file_identity(path: Path) -> FileIdentity:
    """Return a value that changes when the file is written or replaced; None if it is gone.

    That a file was only touched, as backups and synchronization do, is no change if its content is
    known entirely.
    """
    try:
        status = path.stat()
        modified_ns = 0 if status.st_size <= WHOLE_BYTES else status.st_mtime_ns
        is_file = stat.S_ISREG(status.st_mode)  # reading a pipe or a device may never end
        content = content_sha256(path) if is_file else ""
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, modified_ns, content


def open_container(path: Path, nvdec: Nvdec | None, max_pixels: int) -> InputContainer:
    """Open a video file.

    Raises:
        InputRefused: It is not a video of a known format, or has too many streams.
        InputDamaged: It starts like a known format, but is cut off or lacks its index.
        NvdecFailed: It does not open with `nvdec`.
    """
    head = first_bytes(path)
    if suffix_of(head) == ".heic":
        raise heic_refused(path)
    try:
        return av.open(
            f"file:{path.absolute()}",  # the prefix keeps `a:b.mp4` from naming a protocol
            options=OPEN_OPTIONS | {"max_pixels": str(max_pixels)},
            metadata_errors="surrogateescape",
            hwaccel=None if nvdec is None else nvdec.hwaccel,
        )
    except av.FFmpegError as error:
        if nvdec is not None:  # device or file? Opening it without NVDEC will tell
            raise NvdecFailed(f"NVDEC does not open it ({error.strerror})") from error
        if isinstance(error, av.MemoryError):
            raise too_many_streams(path) from error
        if head.startswith(_Y4M) and isinstance(error, av.ArgumentError):
            raise InputRefused(
                f"{path} has a first line of which FFmpeg does not know a part; possible: fields "
                "Ip, It or Ib, and colors C420, C422, C444, Cmono and their kinds"
            ) from error
        if any(head[at:].startswith(magic) for at, magic in _MAGIC):
            raise InputDamaged(
                f"{path}: damaged: {error.strerror}; the file is cut off or its index is missing"
            ) from error
        raise InputRefused(
            f"{path} is not a video; possible: MP4, MOV, MKV, WebM, AVI, MPEG, FLV, Ogg, WMV, Y4M"
        ) from error


def too_many_streams(path: Path) -> InputRefused:
    """Return the error for a file with more than `MAX_STREAMS` streams."""
    return InputRefused(
        f"{path} has more than {MAX_STREAMS} streams; keep some of them, for example with: "
        f"ffmpeg -i {quoted(path)} -map 0:v -map 0:a -c copy fewer.mkv"
    )


def best_video(container: InputContainer, path: Path, max_pixels: int) -> VideoStream:
    """Return the main video stream, ready to be decoded.

    Raises:
        InputRefused: There is none, its codec is not allowed here, or its frames are too large.
    """
    if len(container.streams) > MAX_STREAMS:
        raise too_many_streams(path)
    best = container.streams.best("video")
    if best is None or best.disposition & Disposition.attached_pic:
        raise InputRefused(f"{path} has no video stream")
    assert isinstance(best, VideoStream)
    if best.codec_context is None:
        raise InputRefused(f"{path}: this FFmpeg has no decoder for its video stream")
    if (name := best.codec_context.name) not in VIDEO_DECODERS:
        raise InputRefused(
            f"{path}: its video is {name}, which is not supported; convert it first, for "
            f"example with: ffmpeg -i {quoted(path)} -c:v ffv1 -c:a copy converted.mkv"
        )
    if not 0 < best.codec_context.width * best.codec_context.height <= max_pixels:
        raise InputRefused(
            f"{path}: no readable frames, or frames of more than {max_pixels} pixels"
        )
    container.flags &= ~cast(int, ContainerFlags.gen_pts.value)  # see `decoder._stated_time`
    best.codec_context.options = {"max_pixels": str(max_pixels)}
    return best


def describe(
    container: InputContainer,
    video: VideoStream,
    first: VideoFrame,
    start_pts: int | None,
    interlaced: bool,
) -> VideoInfo:
    """Return the facts of a video stream; `first` is its first frame, shown at `start_pts`."""
    total = container.duration
    matrix = cast(SideData | None, first.side_data.get("DISPLAYMATRIX"))
    return VideoInfo(
        width=first.width,
        height=first.height,
        time_base=video.time_base or Fraction(1, 1000),
        start_pts=start_pts,
        average_rate=video.average_rate or video.guessed_rate,
        duration_seconds=None if total is None or total < 0 else total / 1e6,
        frames_stated=video.frames or None,
        codec=video.codec_context.name,
        bit_rate=_bit_rate(container, video),
        pixel_format=first.format.name,
        color=color_of(first),
        hdr=StaticHdr.from_frame(first),
        unkept=(*unkept_metadata(first), *_unkept_crop(video)),
        sample_aspect_ratio=video.sample_aspect_ratio or None,
        display_matrix=None if matrix is None else struct.unpack("=9i", memoryview(matrix)),
        interlaced=interlaced,
        states_length=container.duration is not None
        and container.format.name not in ("mpegts", "mpeg"),  # theirs is estimated
    )


def _bit_rate(container: InputContainer, video: VideoStream) -> int | None:
    """Return the bits a second of a stream; Matroska states only those of the whole file."""
    if video.bit_rate:
        return int(video.bit_rate)
    others = sum(getattr(it, "bit_rate", None) or 0 for it in container.streams if it != video)
    rate = (container.bit_rate or 0) - others
    return rate if 0 < rate < 2**40 else None


def _unkept_crop(video: VideoStream) -> Iterator[str]:
    if crop := crop_of(video):
        edges = ", ".join(f"{pixels} {edge}" for edge, pixels in crop.items())
        yield f"cropping by the player ({edges}): whole frames are upscaled"


def refuse_losses(path: Path, video: VideoStream, first: VideoFrame, *, allow_opaque: bool) -> None:
    """Refuse a video whose colors or, unless allowed, whose transparency would be lost.

    Raises:
        InputRefused: The message names what to do about it.
    """
    if needs_dolby_vision(first):
        raise InputRefused(
            f"{path} is Dolby Vision of profile 5, whose colors are not supported; "
            "convert it to HDR10 first"
        )
    if allow_opaque:
        return
    pixel_format = first.format.name
    components = VideoFormat(pixel_format, 16, 16).components
    hidden_alpha = video.metadata.get("alpha_mode") == "1"  # VP8 and VP9: not decoded here
    if hidden_alpha or any(component.is_alpha for component in components):
        bits = next((it for it in _CODECS_BY_BITS if it >= depth_bits(pixel_format)), 16)
        plain = pixel_format.split("p")[0].replace("yuva", "yuv") + "p"
        opaque = with_depth(plain if plain.startswith("yuv") else "yuv444p", bits)
        raise InputRefused(
            f"{path} ({pixel_format}) has transparency, which would be lost; "
            f"to accept that, name a format without: --pix-fmt {opaque}{_CODECS_BY_BITS[bits]}"
        )


def refuse_unreadable(path: Path, pixel_format: str, color: ColorDescription) -> None:
    """Refuse colors that cannot be converted to RGB.

    Raises:
        InputRefused: The pixel format or the color matrix is not supported.
    """
    if depth_bits(pixel_format) > 8 and not is_readable(pixel_format):
        raise InputRefused(
            f"{path}: pixel format {pixel_format}; possible: Y'CbCr, RGB or gray of up "
            "to 16 bits in integers"
        )
    if color.matrix not in (RGB, *MATRICES):
        possible = ", ".join(name for name, *_ in MATRICES.values())
        raise InputRefused(
            f"{path}: color matrix {color.matrix} of H.273; possible: {possible}, RGB"
        )


def color_of(frame: VideoFrame) -> ColorDescription:
    """Return the color description of a decoded frame, from its own tags."""
    return ColorDescription.from_tags(
        matrix=frame.colorspace,
        color_range=frame.color_range,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        pixel_format=frame.format.name,
        is_rgb=stores_rgb(frame.format),
        height=frame.height,
    )


def is_copied(stream: Stream) -> bool:
    """Return True if the packets of a stream are copied to the result: audio and subtitles.

    Audio that nothing describes fits into no container.
    """
    is_kept = stream.type in ("audio", "subtitle") and stream.codec_context is not None
    return is_kept and is_described(stream)
