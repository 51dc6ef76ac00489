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

_ONE_OF = (
    (
        frozenset({"crf", "qp", "b"}),
        frozenset({"crf", "qp", "bitrate", "tbr", "lossless"}),
    ),
    (frozenset({"preset"}), frozenset({"preset"})),
)
"""Encoder options of which one is possible, and the parameters of x264, x265 and SVT-AV1 that mean
the same: what is inside would win without a word."""

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
        name: f"{name} in -e {parameters}" for name, _ in parameters_in(options.get(parameters, ""))
    }
    if "x264opts" in options:
        raise UsageError("-e x264opts: it has the parameters of -e x264-params; type that")

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


def parameters_in(text: str) -> list[tuple[str, str]]:
    """Return the names, with dashes, and values in `key=value:key=value`."""
    pairs = (part.partition("=") for part in text.split(":") if part.strip())
    return [(name.strip().replace("_", "-"), value) for name, _, value in pairs]


def refuse_contradictions(
    named: Mapping[str, object], options: Mapping[str, str], parameters: str
) -> None:
    """Refuse two qualities or two speeds for one encoder, and a parameter that is there twice.

    Args:
        named: values of options of their own by the keys that they stand for; None: not given.
        options, parameters: as for `refuse_what_frames_decide`.

    Raises:
        UsageError: one of the two would be ignored.
    """
    inside = parameters_in(options.get(parameters, ""))
    names = [name for name, _ in inside]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{twice} is twice in -e {parameters}; possible: once")
    for own, within in _ONE_OF:
        asked = [
            *(f"--{key} {named[key]}" for key in own if named.get(key) is not None),
            *(f"-e {key}={value}" for key, value in options.items() if key in own),
            *(f"{key}={value} in -e {parameters}" for key, value in inside if key in within),
        ]
        if len(asked) > 1:
            raise UsageError(f"{asked[0]} and {asked[1]}; possible: one of them")


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
