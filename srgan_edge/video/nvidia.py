"""NVDEC and NVENC, the video decoders and encoders in NVIDIA's GPUs.

NVDEC decodes exactly the frames that software decodes, or none. It is only used for codecs whose
standards prescribe every bit of the result. `decoder` checks its frames against the packets that
were sent; at the first doubt the video goes to the software decoder. NVDEC skips damage silently:
damage inside of a packet that the container does not know about is not noticed.

NVENC reports failures as numbers only, because FFmpeg's log with their text stays off.
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
"""Codecs with exact decoding. MPEG-1, 2 and 4 and VC-1 let each decoder round its cosines."""

SOFTWARE_FORMATS = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""Pixel format of NVDEC -> format of the software decoder with the same samples."""

_LIBRARY = "libnvcuvid.so.1"
"""Library that FFmpeg loads with the first frame; without it, FFmpeg decodes in software."""

MOST_PACKETS_BEHIND = 64
"""Packets without a frame after which none will come: codecs reorder 16 frames at most."""


# NVENC. The options and errors below were read in FFmpeg's `nvenc.c`; nothing here was measured.

SOFTWARE = {"h264_nvenc": "libx264", "hevc_nvenc": "libx265", "av1_nvenc": "libsvtav1"}
"""Encoder of NVENC -> software encoder of the same codec."""

DEFAULT_CQ = {"h264_nvenc": 19, "hevc_nvenc": 21, "av1_nvenc": 26}
"""Default quality, close to that of `encoder.DEFAULT_CRF` according to published tables."""

DEFAULT_PRESET = "p5"
"""Default preset: the slowest with one pass, since NVENC does not slow the network down."""

PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7")
"""Presets, the fastest first."""

STORED_AS = {"yuv420p10le": "p010le"}
"""Usual pixel format -> format with the same samples that NVENC accepts."""

_RATE_OPTIONS = {"b", "cq", "qp", "rc"}
"""Options that choose a rate, so that no default applies."""

_REASONS = {
    errno.EPERM: "the driver's library for it, libnvidia-encode.so.1, is missing; a container "
    "needs NVIDIA_DRIVER_CAPABILITIES=all",
    errno.ENOSYS: "the driver is too old for it",
    errno.ENOMEM: "the GPU is out of memory, or encodes as many videos as it can",
}


class NvdecFailed(ResourcesExhausted):
    """NVDEC cannot decode this video exactly; software has to decode it instead."""


def choose_decoder(wanted: Decoder, engine_device: str, say: Callable[[str], None]) -> Decoder:
    """Return `cpu` or `gpu`; `auto` is the GPU if the engine runs there and NVDEC works.

    Args:
        engine_device: `EngineInfo.device`.
        say: Receives the reason if `auto` would be the GPU, but NVDEC does not work.

    Raises:
        ResourcesExhausted: `gpu` was requested, but NVDEC does not work.
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
    """Return why NVDEC does not work here; None if it does."""
    if Gpu.find() is None:
        return NOT_HERE
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return (
            f"the driver's library for it, {_LIBRARY}, is missing; a container needs "
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
    """Options for the CUDA context of the engines, if possible: another one costs GPU memory."""
    return {"primary_ctx": "1"} if share_primary_context() else {}


class Nvdec:
    """Decodes one video, from its first packet to its last."""

    def __init__(self, *, stays: bool = False) -> None:
        """
        Args:
            stays: Leave frames on the GPU, in the CUDA context of the engines; they must have 8
                bits. Otherwise they are copied to host memory.

        Raises:
            NvdecFailed: FFmpeg does not accept that context.
        """
        self.stays, context = stays, _context()
        if stays and not context:
            raise NvdecFailed("FFmpeg does not accept the engine's context of the GPU")
        # If NVDEC does not support a stream, FFmpeg decodes it in software, which shows in
        # the pixel format of its frames.
        self.hwaccel: HWAccel | None = HWAccel(
            "cuda", allow_software_fallback=True, is_hw_owned=stays, options=context
        )
        """Argument for `av.open`."""
        self._packets_behind = 0

    def decode(self, stream: VideoStream, packet: "VideoPacket | None") -> list[VideoFrame]:
        """Decode like `stream.decode`, to the pixel format of the software decoder, or to NV12 if
        frames stay on the GPU.

        Raises:
            NvdecFailed: NVDEC does not support this stream, failed, returned a damaged frame or
                none for long; or a packet has no time, so the loss of its frame would not show.
        """
        if (codec := stream.codec_context.codec.canonical_name) not in EXACT_CODECS:
            raise NvdecFailed(f"{codec} has no exact decoder: each one rounds differently")
        if packet is not None and packet.is_corrupt:
            raise NvdecFailed("a packet is damaged")
        if packet is not None and packet.pts is None:
            raise NvdecFailed("a packet has no time, so the loss of its frame would not show")
        try:
            frames = self._decoded(stream, packet)
        except av.FFmpegError as error:
            raise NvdecFailed(f"NVDEC failed ({error.strerror})") from error
        self._packets_behind = 0 if frames else self._packets_behind + 1
        if self._packets_behind > MOST_PACKETS_BEHIND:
            raise NvdecFailed(f"NVDEC returned no frame for {self._packets_behind} packets")
        checked = _on_the_gpu if self.stays else _in_software_format
        return [checked(frame, stream) for frame in frames]

    def compare(self, first: VideoFrame, expected: VideoFrame) -> None:
        """Refuse a video whose first frame differs from that of the software decoder.

        It may be cropped differently: FFmpeg cannot crop the left and top edges on a GPU.

        Raises:
            NvdecFailed: The frames differ in any sample.
        """
        here = first
        if self.stays:
            here = first.reformat(format="nv12").reformat(format=SOFTWARE_FORMATS["nv12"])
        pairs = zip(_samples(here), _samples(expected), strict=True)
        if first.pts != expected.pts or not all(np.array_equal(*pair) for pair in pairs):
            raise NvdecFailed("NVDEC's first frame differs from that of the software decoder")

    def _decoded(self, stream: VideoStream, packet: "VideoPacket | None") -> list[VideoFrame]:
        return stream.decode(packet)


def _in_software_format(frame: VideoFrame, stream: VideoStream) -> VideoFrame:
    given = frame.format.name
    if frame.is_corrupt:
        raise NvdecFailed("NVDEC returned a damaged frame")
    if given not in SOFTWARE_FORMATS:
        raise NvdecFailed(f"NVDEC does not support {stream.codec_context.name} in {given} here")
    if given == "p010le" and (frame.width % 2 or frame.height % 2):
        raise NvdecFailed("10 bits in an odd size")  # libswscale converts these wrongly
    return frame.reformat(format=SOFTWARE_FORMATS[given])


def _on_the_gpu(frame: VideoFrame, stream: VideoStream) -> VideoFrame:
    stored = frame.sw_format or frame.format
    if frame.is_corrupt:
        raise NvdecFailed("NVDEC returned a damaged frame")
    if stored.name != "nv12":
        raise NvdecFailed(
            f"NVDEC returned {stream.codec_context.name} in {stored.name}, not in NV12"
        )
    return frame


def _samples(frame: VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """Return the bytes of each plane [H, ...], without the padding of rows."""
    size = max(component.bits for component in frame.format.components) // 9 + 1
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[
            :, : plane.width * size
        ]
        for plane in frame.planes
    ]


def engines_context() -> HWAccel:
    """Return the device for frames that are already on the GPU, in the engine's CUDA context."""
    return HWAccel("cuda", is_hw_owned=True, options={"primary_ctx": "1"})


def nvenc_options(encoding: Encoding) -> dict[str, str]:
    """Return FFmpeg's options for an encoder of `SOFTWARE`.

    `--crf` becomes `cq`: constant quality at a variable bitrate, without FFmpeg's default of 2
    Mbit/s.

    Raises:
        UsageError: The quality or the preset does not exist, or two options choose a rate.
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
    """Return the error for an encoder that did not open; None if it refused the options."""
    if Gpu.find() is None:
        reason = NOT_HERE
    elif isinstance(error, av.error.ExternalError):
        reason = "the GPU does not encode this codec in this format and size, or as many at once"
    else:
        reason = _REASONS.get(error.errno or 0, "")
    return _use_software(codec, f"does not start: {reason}") if reason else None


def failure_in_video(codec: str, error: av.FFmpegError) -> ResourcesExhausted:
    """Return the error for an encoder that stopped working."""
    return _use_software(codec, f"failed ({error.strerror}); the GPU is lost, or out of memory")


def _use_software(codec: str, what: str) -> ResourcesExhausted:
    return ResourcesExhausted(f"{codec} {what}; type -c {SOFTWARE[codec]}")
