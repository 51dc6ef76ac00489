"""NVDEC, the decoder in NVIDIA's GPUs: the very frames that software decodes, or none of them.

Only codecs are taken whose standards leave nothing to the decoder, so that frames are the same to
the bit. `video_decoder` holds what comes out against the packets that went in; at the first doubt
the video is for the software decoder. NVDEC goes around damage without a word: what is inside a
packet, and unknown to the container, is not noticed.
"""

import ctypes
import errno
from collections.abc import Callable
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.codec import Codec
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from srgan_edge.errors import ResourcesExhausted, UsageError
from srgan_edge.machine import NOT_HERE, Gpu, share_primary_context
from srgan_edge.video.frame import Encoding, VideoPacket

Decoder = Literal["auto", "cpu", "gpu"]

EXACT_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}
"""By FFmpeg's names. MPEG-1, 2 and 4 and VC-1 let each decoder round its cosines."""

SOFTWARE_FORMATS = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""What it gives -> the same samples in the planes that the software decoder gives."""

_LIBRARY = "libnvcuvid.so.1"
"""That FFmpeg loads with a video's first frame; without it, it decodes in software."""

MOST_PACKETS_BEHIND = 64
"""Later than that no frame comes any more: the standards let 16 images wait for their turn."""


class NvdecFailed(ResourcesExhausted):
    """Something is not as in software, where this video has to be decoded instead."""


def choose_decoder(wanted: Decoder, engine_device: str, say: Callable[[str], None]) -> Decoder:
    """`cpu` or `gpu`: `auto` is the GPU where frames go there anyway, and it opens.

    Args:
        engine_device: `EngineInfo.device`.
        say: takes the line that tells why it is not the GPU where it should be.

    Raises:
        ResourcesExhausted: the GPU was asked for by name, and there is none.
    """
    if wanted == "cpu" or (wanted == "auto" and not engine_device.startswith("cuda")):
        return "cpu"
    reason = why_not_here()
    if reason is None:
        return "gpu"
    if wanted == "gpu":
        raise ResourcesExhausted(f"--decode gpu: {reason}; type --decode cpu")
    say(f"decoding on the CPU: {reason}")
    return "cpu"


def why_not_here() -> str | None:
    """Why nothing can be decoded on a GPU; None if it can."""
    if Gpu.find() is None:
        return NOT_HERE
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return (
            f"the driver's library for it, {_LIBRARY}, is not here; a container needs "
            "NVIDIA_DRIVER_CAPABILITIES=all"
        )
    try:
        HWAccel("cuda", options=_context()).create(Codec("h264", "r"))
    except NotImplementedError:
        return "this FFmpeg was built without NVDEC"
    except av.FFmpegError as error:
        return f"the GPU does not open for decoding ({error.strerror})"
    return None


def _context() -> dict[str, object]:
    """The one that engines work in, if FFmpeg takes it; one of its own costs memory on the GPU."""
    return {"primary_ctx": "1"} if share_primary_context() else {}


class Nvdec:
    """Decodes one video, from its first packet to its last."""

    def __init__(self, *, stays: bool = False) -> None:
        """
        Args:
            stays: frames are left where NVDEC puts them, in the context that engines work in, and
                have to be of 8 bits; else they come into this machine's memory.

        Raises:
            NvdecFailed: FFmpeg does not take that context.
        """
        self.stays, context = stays, _context()
        if stays and not context:
            raise NvdecFailed("FFmpeg does not take the engine's context of the GPU")
        # Where NVDEC does not take a stream, FFmpeg decodes it itself: the format of frames tells.
        self.hwaccel: HWAccel | None = HWAccel(
            "cuda", allow_software_fallback=True, is_hw_owned=stays, options=context
        )
        """For `av.open`."""
        self._packets_behind = 0

    def decode(self, stream: VideoStream, packet: "VideoPacket | None") -> list[VideoFrame]:
        """As `stream.decode`, with frames in the pixel format of the software decoder, or in NV12
        if they stay on the GPU.

        Raises:
            NvdecFailed: it does not take this stream, gave an error or a damaged frame, or none for
                long; or a packet has no time, by which the loss of its frame would show.
        """
        if (codec := stream.codec_context.codec.canonical_name) not in EXACT_CODECS:
            raise NvdecFailed(f"{codec} has no exact decoder, and each rounds by itself")
        if packet is not None and packet.is_corrupt:
            raise NvdecFailed("a packet is damaged")
        if packet is not None and packet.pts is None:
            raise NvdecFailed("a packet has no time, by which the loss of its frame would show")
        try:
            frames = self._decoded(stream, packet)
        except av.FFmpegError as error:
            raise NvdecFailed(f"NVDEC failed ({error.strerror})") from error
        self._packets_behind = 0 if frames else self._packets_behind + 1
        if self._packets_behind > MOST_PACKETS_BEHIND:
            raise NvdecFailed(f"NVDEC gave no frame for {self._packets_behind} packets")
        taken = _on_the_gpu if self.stays else _in_software_format
        return [taken(frame, stream) for frame in frames]

    def compare(self, first: VideoFrame, expected: VideoFrame) -> None:
        """Refuse a video whose first frame is not that of the software decoder.

        It may be cropped elsewhere: FFmpeg cannot move the edge of an image that is on a GPU.

        Raises:
            NvdecFailed: they differ in any sample.
        """
        here = first
        if self.stays:
            here = first.reformat(format="nv12").reformat(format=SOFTWARE_FORMATS["nv12"])
        pairs = zip(_samples(here), _samples(expected), strict=True)
        if first.pts != expected.pts or not all(np.array_equal(*pair) for pair in pairs):
            raise NvdecFailed("NVDEC's first frame is not that of the software decoder")

    def _decoded(self, stream: VideoStream, packet: "VideoPacket | None") -> list[VideoFrame]:
        return stream.decode(packet)


def _in_software_format(frame: VideoFrame, stream: VideoStream) -> VideoFrame:
    given = frame.format.name
    if frame.is_corrupt:
        raise NvdecFailed("NVDEC gave a damaged frame")
    if given not in SOFTWARE_FORMATS:
        raise NvdecFailed(f"NVDEC does not take {stream.codec_context.name} in {given} here")
    if given == "p010le" and (frame.width % 2 or frame.height % 2):
        raise NvdecFailed("10 bits in an odd size")  # libswscale gets these wrong
    return frame.reformat(format=SOFTWARE_FORMATS[given])


def _on_the_gpu(frame: VideoFrame, stream: VideoStream) -> VideoFrame:
    stored = frame.sw_format or frame.format
    if frame.is_corrupt:
        raise NvdecFailed("NVDEC gave a damaged frame")
    if stored.name != "nv12":
        raise NvdecFailed(f"NVDEC gave {stream.codec_context.name} in {stored.name}, not in NV12")
    return frame


def _samples(frame: VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """The bytes of each plane [H, ...], without what lies between rows."""
    size = max(component.bits for component in frame.format.components) // 9 + 1
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[
            :, : plane.width * size
        ]
        for plane in frame.planes
    ]


# NVENC, the encoders in NVIDIA's GPUs: what they are told, and why one does not start.
#
# FFmpeg has words for a failure in its log alone, which stays off. What is left is a number, and
# what it can stand for was read in its `nvenc.c`. **No figure here was measured: none was run
# yet.**
SOFTWARE = {"h264_nvenc": "libx264", "hevc_nvenc": "libx265", "av1_nvenc": "libsvtav1"}
"""NVENC's encoders -> what encodes the same without a GPU."""

DEFAULT_CQ = {"h264_nvenc": 19, "hevc_nvenc": 21, "av1_nvenc": 26}
"""About the quality of `video_encoder.DEFAULT_CRF`, as far as tables tell."""

DEFAULT_PRESET = "p5"
"""It works beside the network, on silicon of its own: the last step before two passes."""

PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7")
"""The fastest first."""

STORED_AS = {"yuv420p10le": "p010le"}
"""A usual pixel format -> the one of the same samples that they take."""

_RATE_OPTIONS = {"b", "cq", "qp", "rc"}
"""Who sets one of these has chosen a rate, and gets no default."""


def engines_context() -> HWAccel:
    """For who has its frames on the GPU, in the context that engines work in."""
    return HWAccel("cuda", is_hw_owned=True, options={"primary_ctx": "1"})


def nvenc_options(encoding: Encoding) -> dict[str, str]:
    """FFmpeg's options for one of `SOFTWARE`'s encoders.

    `--crf` is their `cq`: constant quality in a variable bitrate, without the 2 Mbit/s that FFmpeg
    aims at by itself.

    Raises:
        UsageError: a quality or a preset that they have not, or two ways to state a rate.
    """
    codec, crf, options = encoding.codec, encoding.crf, dict(encoding.options)
    if "crf" in options:
        raise UsageError(f"{codec} has no option crf; type --crf {options['crf']}")
    if crf is not None and (chosen := options.keys() & _RATE_OPTIONS):
        raise UsageError(f"--crf {crf} and -e {min(chosen)}=; possible: one of them")
    if crf is not None and not 1 <= crf <= 51:
        raise UsageError(
            f"--crf {crf}; possible with {codec}: 1, the best, to 51; without loss: "
            "-e tune=lossless"
        )
    preset = encoding.preset or options.get("preset", DEFAULT_PRESET)
    if preset not in PRESETS:
        raise UsageError(
            f"--preset {preset}; possible with {codec}: {PRESETS[0]}, the fastest, to "
            f"{PRESETS[-1]}, the best"
        )
    options["preset"] = preset
    if not options.keys() & _RATE_OPTIONS:
        options |= {"rc": "vbr", "cq": str(crf or DEFAULT_CQ[codec]), "b": "0"}
    return options


def why_not_started(codec: str, error: av.FFmpegError) -> ResourcesExhausted | None:
    """What to say when an encoder did not open; None: it refuses the options."""
    if Gpu.find() is None:
        reason = NOT_HERE
    elif isinstance(error, av.error.ExternalError):
        reason = "the GPU does not encode this codec in this format and size, or as many at once"
    else:
        reason = _REASONS.get(error.errno or 0, "")
    return _use_software(codec, f"does not start: {reason}") if reason else None


def failure_in_video(codec: str, error: av.FFmpegError) -> ResourcesExhausted:
    """What to say when an encoder that worked does so no longer."""
    return _use_software(codec, f"failed ({error.strerror}); the GPU is lost, or out of memory")


_REASONS = {
    errno.EPERM: "the driver's library for it, libnvidia-encode.so.1, is not here; a container "
    "needs NVIDIA_DRIVER_CAPABILITIES=all",
    errno.ENOSYS: "the driver is too old for it",
    errno.ENOMEM: "the GPU is out of memory, or encodes as many videos as it can",
}


def _use_software(codec: str, what: str) -> ResourcesExhausted:
    return ResourcesExhausted(f"{codec} {what}; type -c {SOFTWARE[codec]}")
