"""NVENC, the encoders in NVIDIA's GPUs: what they are told, and why one does not start.

FFmpeg has words for a failure in its log alone, which stays off. What is left is a number, and what
it can stand for was read in its `nvenc.c`. **No figure here was measured: none was run yet.**
"""

import errno

import av
from av.codec.hwaccel import HWAccel

from srgan_edge.errors import ResourcesExhausted, UsageError
from srgan_edge.machine import NOT_HERE, Gpu
from srgan_edge.video import Encoding

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


def failure_in_film(codec: str, error: av.FFmpegError) -> ResourcesExhausted:
    """What to say when an encoder that worked does so no longer."""
    return _use_software(codec, f"failed ({error.strerror}); the GPU is lost, or out of memory")


_REASONS = {
    errno.EPERM: "the driver's library for it, libnvidia-encode.so.1, is not here; a container "
    "needs NVIDIA_DRIVER_CAPABILITIES=all",
    errno.ENOSYS: "the driver is too old for it",
    errno.ENOMEM: "the GPU is out of memory, or encodes as many films as it can",
}


def _use_software(codec: str, what: str) -> ResourcesExhausted:
    return ResourcesExhausted(f"{codec} {what}; type -c {SOFTWARE[codec]}")
