"""Make tiny videos whose frames show their number, and look at videos.

Each frame carries its number as a row of black and white blocks, large enough to be read back after
lossy encoding and scaling: lost, doubled and swapped frames show. Looking uses PyAV alone, so that
the code under test is not its own witness.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.packet import Packet

from srgan_edge.pixels import Pixels

MS = Fraction(1, 1000)
_BITS = 8
_AUDIO_RATE = 44100


@dataclass(frozen=True)
class Clip:
    """The content of a video."""

    frames: int = 12
    size: tuple[int, int] = (64, 48)
    """Width and height in pixels."""
    time_base: Fraction = Fraction(1, 12800)
    pts: Sequence[int] | None = None
    """Times in ticks; None: 25 frames per second from 0."""
    last_duration: int | None = None
    """Duration in ticks; None: 1/25 s."""
    stated_rate: Fraction = Fraction(25)
    """Frames per second in the header."""
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: {"crf": "18", "bf": "0"})
    color: tuple[int, int, int, int] = (2, 0, 2, 2)
    """Matrix, range, primaries, transfer."""
    aspect: Fraction | None = None
    display: tuple[int, bool] | None = None
    """Degrees counter-clockwise, mirrored."""
    audio: Sequence[str] = ()
    """One AAC stream for each language."""
    audio_start: Fraction = Fraction(0)
    """Start of the audio in seconds."""
    subtitles: str | None = None
    """Codec of the subtitles."""
    subtitle_starts_ms: Sequence[int] = (0, 200)
    subtitle_ms: int = 150
    """Duration of each."""
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: bool = False
    cover: str = ""
    """Codec of the cover art; empty: none."""
    attachment: tuple[str, str, bytes] | None = None
    """Name, MIME type, content."""
    container_options: dict[str, str] = field(default_factory=dict)

    @property
    def frame_pts(self) -> list[int]:
        return list(self.pts) if self.pts else [n * self.period for n in range(self.frames)]

    @property
    def period(self) -> int:
        return int(Fraction(1, 25) / self.time_base)


def make(path: Path, **wanted: Any) -> Path:
    """Write the video `Clip(**wanted)` to `path`, in the format of its suffix."""
    clip = Clip(**wanted)
    with av.open(str(path), "w", container_options=clip.container_options) as output:
        video = _add_video(output, clip)
        audio = [_add_audio(output, language) for language in clip.audio]
        subtitles = _add_subtitles(output, clip) if clip.subtitles else None
        cover = _add_cover(output, clip.cover) if clip.cover else None
        if clip.attachment is not None:
            output.add_attachment(*clip.attachment)
        output.metadata.update(clip.metadata)
        if clip.chapters:
            output.set_chapters([_chapter(n) for n in range(2)])
        output.start_encoding()
        if cover:
            output.mux([*cover.encode(_cover_image()), *cover.encode(None)])
        for stream in audio:
            _write_audio(output, stream, clip)
        if subtitles:
            for start_ms in clip.subtitle_starts_ms:
                output.mux_one(_subtitle(subtitles, clip, start_ms))
        _write_video(output, video, clip)
    return path


def heic(path: Path) -> Path:
    """Write a photograph of 64x64 in HEIC (ISO 23008-12), which FFmpeg takes for a video."""
    video = make(
        path.with_suffix(".hevc.mp4"), frames=1, size=(64, 64), codec="libx265"
    ).read_bytes()
    path.with_suffix(".hevc.mp4").unlink()

    def box_of(name: bytes) -> bytes:
        start = video.index(name) - 4
        return video[start : start + int.from_bytes(video[start : start + 4])]

    def box(name: bytes, *content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + sum(map(len, content)), name) + b"".join(content)

    coded = box_of(b"mdat")[8:]
    properties = box(b"ipco", box_of(b"hvcC"), box(b"ispe", struct.pack(">3I", 0, 64, 64)))
    entry = box(b"infe", struct.pack(">IHH4sx", 2 << 24, 1, 0, b"hvc1"))

    def head(start: int) -> bytes:
        return box(b"ftyp", b"heic", bytes(4), b"mif1heic") + box(
            b"meta",
            bytes(4),
            box(b"hdlr", struct.pack(">II4s13x", 0, 0, b"pict")),
            box(b"pitm", struct.pack(">IH", 0, 1)),
            box(b"iloc", struct.pack(">IBBHHHHII", 0, 0x44, 0, 1, 1, 0, 1, start, len(coded))),
            box(b"iinf", struct.pack(">IH", 0, 1), entry),
            box(b"iprp", properties, box(b"ipma", struct.pack(">IIHBBB", 0, 1, 1, 2, 0x81, 2))),
        )

    path.write_bytes(head(len(head(0)) + 8) + box(b"mdat", coded))
    return path


def gray(path: Path, starts_ms: Sequence[int], scale: int) -> Path:
    """Write a lossless clip of 48x32 times `scale`, whose frame n has the gray level 10 + 12 n."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 48 * scale, 32 * scale, "rgb24"
        stream.time_base = stream.codec_context.time_base = MS
        for number, start_ms in enumerate(starts_ms):
            pixels = np.full((32 * scale, 48 * scale, 3), 10 + 12 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = start_ms, MS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def barcode(number: int, size: tuple[int, int]) -> Pixels:
    """uint8 [H, W, 3]: `number` in blocks over a slope that moves with it."""
    width, height = size
    across = (np.arange(width)[None, :] * 2 + np.arange(height)[:, None] + 9 * number) % 200
    pixels = np.repeat(across.astype(np.uint8)[..., None], 3, axis=2)
    for bit in range(_BITS):
        columns = slice(bit * width // _BITS, (bit + 1) * width // _BITS)
        pixels[: height // 2, columns] = 224 if number >> bit & 1 else 32
    return pixels


def read_barcode(pixels: Pixels) -> int:
    """Return the number that `barcode` drew, at any size."""
    height, width, _ = pixels.shape
    row = pixels[height // 4].mean(axis=1)
    middles = [(2 * bit + 1) * width // (2 * _BITS) for bit in range(_BITS)]
    return sum(int(row[middle] > 128) << bit for bit, middle in enumerate(middles))


class SeenFrame(NamedTuple):
    number: int
    """Number in its barcode."""
    start: Fraction
    """In seconds."""
    end: Fraction


def see_frames(path: Path) -> list[SeenFrame]:
    """Return the frames of a video in presentation order."""
    with av.open(str(path)) as video:
        stream = video.streams.best("video")
        base = stream.time_base
        return [
            SeenFrame(
                read_barcode(frame.to_ndarray(format="rgb24")),
                frame.pts * base,
                (frame.pts + frame.duration) * base,
            )
            for frame in video.decode(stream)
        ]


class SeenPacket(NamedTuple):
    digest: str
    start: Fraction | None
    """In seconds."""
    duration: Fraction | None


def see_packets(path: Path, kind: str) -> list[list[SeenPacket]]:
    """Return the packets of each stream of the kind `audio` or `subtitle`."""
    with av.open(str(path)) as video:
        streams = [stream for stream in video.streams if stream.type == kind]
        seen: dict[int, list[SeenPacket]] = {stream.index: [] for stream in streams}
        for packet in video.demux(streams) if streams else ():
            if packet.size:
                seen[packet.stream_index].append(_seen_packet(packet))
        return list(seen.values())


def _seen_packet(packet: Packet) -> SeenPacket:
    def seconds(ticks: int | None) -> Fraction | None:
        return None if ticks is None else ticks * packet.time_base

    digest = hashlib.sha256(bytes(packet)).hexdigest()
    return SeenPacket(digest, seconds(packet.pts), seconds(packet.duration))


def _add_video(output, clip):
    stream = output.add_stream(clip.codec, rate=clip.stated_rate, options=clip.options)
    stream.width, stream.height = clip.size
    stream.pix_fmt = clip.pixel_format
    stream.codec_context.time_base = stream.time_base = clip.time_base
    context = stream.codec_context
    context.colorspace, context.color_range, context.color_primaries, context.color_trc = clip.color
    if clip.aspect:
        context.sample_aspect_ratio = clip.aspect
    if clip.display:
        degrees, mirrored = clip.display
        stream.set_display_rotation(degrees, hflip=mirrored)
    return stream


def _write_video(output, stream, clip):
    durations = dict.fromkeys(clip.frame_pts, clip.period)
    durations[max(clip.frame_pts)] = clip.last_duration or clip.period
    for number, pts in enumerate(clip.frame_pts):
        frame = av.VideoFrame.from_ndarray(barcode(number, clip.size))
        frame.pts, frame.time_base = pts, clip.time_base
        _mux_frames(output, stream.encode(frame), durations)
    _mux_frames(output, stream.encode(None), durations)


def _mux_frames(output, packets, durations):
    for packet in packets:
        packet.duration = durations[packet.pts]
        output.mux_one(packet)


def _add_audio(output, language):
    stream = output.add_stream("aac", rate=_AUDIO_RATE, layout="mono")
    stream.metadata["language"] = language
    return stream


def _write_audio(output, stream, clip):
    """A tone as long as the video, of another pitch in each stream."""
    last = max(clip.frame_pts) + (clip.last_duration or clip.period)
    samples = int((last - min(clip.frame_pts)) * clip.time_base * _AUDIO_RATE)
    start = round(clip.audio_start * _AUDIO_RATE)
    for at in range(0, samples, 1024):
        times = np.arange(at, min(at + 1024, samples)) / _AUDIO_RATE
        tone = np.sin(times * 2 * math.pi * 220 * (stream.index + 1)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None] * 0.3, "fltp", "mono")
        frame.sample_rate, frame.time_base = _AUDIO_RATE, Fraction(1, _AUDIO_RATE)
        frame.pts = start + at
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def _add_subtitles(output, clip):
    stream = output.add_mux_stream(clip.subtitles, time_base=MS)
    stream.metadata["language"] = "fra"
    return stream


def _subtitle(stream, clip, start_ms):
    text = f"line at {start_ms}".encode()
    has_size = clip.subtitles == "mov_text"
    packet = Packet(len(text).to_bytes(2, "big") + text if has_size else text)
    packet.stream, packet.time_base = stream, MS
    packet.pts = packet.dts = start_ms
    packet.duration = clip.subtitle_ms
    return packet


def _add_cover(output, codec):
    pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p"}[codec]
    stream = output.add_stream(codec, width=8, height=8, pix_fmt=pix_fmt, time_base=MS)
    stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _cover_image():
    image = av.VideoFrame.from_ndarray(np.full((8, 8, 3), 77, np.uint8))
    image.pts, image.time_base = 0, MS
    return image


def _chapter(n):
    title = {"title": f"part {n}"}
    return {"id": n, "start": n * 200, "end": n * 200 + 200, "time_base": MS, "metadata": title}
