"""Limits of codecs: quality factors that encoders accept, and frame sizes that players do."""

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

_LARGEST_LEVEL_PX = 35_651_584
"""Luma samples in a frame at the highest level of H.264 (6.2), HEVC (6.2), AV1 and VP9 (6.3)."""

_LONGEST_SIDE_PX = {"h264": 8192, "hevc": 8192, "av1": 16384, "vp9": 16384}
"""Codec -> longest side in pixels that decoders support."""


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
