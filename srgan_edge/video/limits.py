"""Limits on what may be asked of encoders: options, quality factors, frame sizes that play."""

from collections.abc import Mapping

from srgan_edge.errors import UsageError

_QUALITY = {
    "libx264": (0, 51),
    "libx265": (0, 51),
    "libsvtav1": (0, 63),
    "libvpx": (4, 63),
    "libvpx-vp9": (0, 63),
}
"""Encoder -> range of its constant rate factor. Outside of it x264 silently takes another one.
NVENC's are in `nvidia`."""

_OF_THE_SOURCE = frozenset(
    {
        *("color_range", "colorspace", "color_primaries", "color_trc", "chroma_sample_location"),
        *("time_base", "framerate", "video_size", "pixel_format", "sar", "aspect", "field_order"),
    }
)
"""Encoder options for what frames are: another value would make the result state what is not so."""

_OF_THE_SOURCE_INSIDE = frozenset(
    {
        *("fullrange", "range", "colormatrix", "colorprim", "transfer", "chromaloc", "sar", "fps"),
        *("color-range", "color-primaries", "transfer-characteristics", "matrix-coefficients"),
        *("timebase", "input-res", "input-csp", "input-depth"),
    }
)
"""The same in the parameters of x264, x265 and SVT-AV1."""

_OF_SEVERAL_PASSES = frozenset({"pass", "stats", "dump-yuv", "recon"})
"""Parameters that read or write other files; segments are encoded once."""

_LARGEST_LEVEL_PX = 35_651_584
"""Luma samples in a frame at the highest level of H.264 (6.2), HEVC (6.2), AV1 and VP9 (6.3)."""

_LONGEST_SIDE_PX = {"h264": 8192, "hevc": 8192, "av1": 16384, "vp9": 16384}
"""Codec -> longest side in pixels that decoders support."""


class Unfit(UsageError):
    """An encoder or a container cannot hold what it should.

    Args:
        why: what does not fit.
        advice: what may, which nobody has tried.
    """

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(f"{why}; {advice}" if advice else why)
        self.why = why


def refuse_what_frames_decide(options: Mapping[str, str], parameters: str) -> None:
    """Refuse encoder options that contradict the frames, or want a second pass over them.

    Args:
        options: as the user gave them.
        parameters: the option among them that has parameters of its own, `key=value:key=value`.

    Raises:
        UsageError: one of the options, or of the parameters in one, is of that kind.
    """
    given = {key: f"-e {key}={value}" for key, value in options.items()}
    inside = {
        name.strip().replace("_", "-"): f"{name.strip()} in -e {parameters}"
        for name in (part.partition("=")[0] for part in options.get(parameters, "").split(":"))
    }

    def found(own: frozenset[str], within: frozenset[str]) -> list[str]:
        return [
            *(text for key, text in given.items() if key in own),
            *(text for name, text in inside.items() if name in within),
        ]

    if of_frames := found(_OF_THE_SOURCE, _OF_THE_SOURCE_INSIDE):
        raise UsageError(f"{of_frames[0]}: the source decides that; leave it out")
    passes = found(_OF_SEVERAL_PASSES, _OF_SEVERAL_PASSES)
    if "pass" in options.get("flags", ""):
        passes.append(given["flags"])
    if passes:
        raise UsageError(f"{passes[0]}: frames are encoded once; leave it out, or type --crf N")


def refuse_quality(encoder: str, options: dict[str, str]) -> None:
    """Refuse a quality that an encoder does not have.

    Raises:
        UsageError: `crf` or `qp` is out of range.
    """
    if encoder not in _QUALITY:
        return
    least, most = _QUALITY[encoder]
    for key in options.keys() & {"crf", "qp"}:
        try:
            value = float(options[key])
        except ValueError:
            continue  # the encoder names what it accepts
        if not least <= value <= most:
            option = "--crf N" if key == "crf" else f"-e {key}=N"
            raise UsageError(
                f"{encoder} has no {key} {options[key]}; possible: {option} from {least} (best) "
                f"to {most}"
            )


def too_large_for_players(codec: str, size: tuple[int, int]) -> str | None:
    """Return a line about frames that are larger than players support; None if they are not.

    Args:
        codec: the codec by its own name, such as `h264`.
        size: width and height in pixels.
    """
    longest = _LONGEST_SIDE_PX.get(codec)
    if longest is None:
        return None
    width, height = size
    if width * height <= _LARGEST_LEVEL_PX and max(size) <= longest:
        return None
    return (
        f"frames of {width}x{height} pixels are beyond the highest level of {codec} "
        f"({_LARGEST_LEVEL_PX / 1e6:.1f} million pixels, {longest} a side): few players can show "
        "the result; --fit 8k instead of -s or --height makes one that they can"
    )
