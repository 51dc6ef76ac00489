"""Levels of more than 8 bits from an image file, as uint16 whatever type the file holds.

Pillow reads deep gray as it is, but only the upper bytes of 16-bit color, so FFmpeg decodes those.
"""

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from srgan_edge.errors import InputRefused
from srgan_edge.image.orientation import TURNS, Turn
from srgan_edge.pixels import DeepPixels

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_WHITE = 65535

_WIDTH, _LENGTH, _STRIP_OFFSETS, _STRIP_ROWS, _STRIP_BYTES = 256, 257, 273, 278, 279
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_PHOTOMETRIC = 262
_OF_SAMPLES = (258, 259, 262, 266, 277, 284, 317, 338, 339)
"""Tags of a TIFF that say how samples are coded: their bits, compression, order, and so on."""

_EXTRA_SAMPLES, _PREMULTIPLIED = 338, 1
_CODECS = {"TIFF": "tiff", "PNG": "png", "JPEG2000": "jpeg2000"}
_AS_PNG = "save it as .png first"


def deep_gray(path: Path, image: Image.Image, original: Image.Image | None = None) -> DeepPixels:
    """Convert gray of mode I;16, I or F to uint16 [H, W, 1], 0 black.

    Args:
        original: the opened file, if `image` was made from it: a TIFF in which 0 is white is
            inverted, which Pillow does for 8 bits alone.

    Raises:
        InputRefused: a level is not finite, or outside of 0 to 1 (F) or 0 to 65535 (I).
    """
    if image.mode == "F":
        levels = _levels_of_floats(path, np.asarray(image))
    elif image.mode == "I":
        levels = _levels_of_integers(path, np.asarray(image))
    else:
        levels = np.asarray(image).astype(np.uint16)[..., None]
    tags = original or image
    is_inverted = isinstance(tags, TiffImageFile) and tags.tag_v2.get(_PHOTOMETRIC) == 0
    return np.uint16(_WHITE) - levels if is_inverted else levels


def deep_colors(
    path: Path, file: BinaryIO, image: ImageFile.ImageFile, turn: Turn = TURNS[1]
) -> DeepPixels:
    """Decode uint16 [H, W, 2 to 4] by FFmpeg; Pillow must have found the same file complete.

    Args:
        turn: what Pillow did to the image while it was decoded; FFmpeg does nothing.

    Raises:
        InputRefused: FFmpeg does not decode it, or its colors are not those that Pillow decoded.
    """
    import av  # late: training reads photographs where there is no PyAV

    file.seek(0)
    try:
        if isinstance(image, TiffImageFile) and _TILE_WIDTH in image.tag_v2:
            decoded = _tiled(file, image)
        else:
            decoded = _decoded(_CODECS[str(image.format)], file.read())
        deep = np.ascontiguousarray(turn.upright(decoded))
    except (av.FFmpegError, ValueError) as error:
        raise InputRefused(f"{path}: unsupported kind of 16-bit color; {_AS_PNG}") from error
    premultiplied = False
    if isinstance(image, TiffImageFile):
        premultiplied = image.tag_v2.get(_EXTRA_SAMPLES) == (_PREMULTIPLIED,)
        if image.mode == "RGB":
            deep = deep[..., :3]  # a fourth sample that is not alpha
    if premultiplied:
        alpha = deep[..., 3:].astype(np.uint64)
        colors = (deep[..., :3] * np.uint64(_WHITE) + alpha // 2) // np.maximum(alpha, 1)
        deep = np.dstack([np.minimum(colors, _WHITE), alpha]).astype(np.uint16)
    elif not _agree(deep, np.asarray(image.convert("RGB")), rounds=image.format == "JPEG2000"):
        raise InputRefused(f"{path}: two decoders disagree about its colors; {_AS_PNG}")
    return deep


def _decoded(codec_name: str, content: bytes) -> DeepPixels:
    """Return uint16 [H, W, channels] as FFmpeg decodes it.

    Raises:
        FFmpegError, ValueError: it does not, or the colors are in another form.
    """
    import av
    from av.video.codeccontext import VideoCodecContext

    codec = av.CodecContext.create(codec_name, "r")
    assert isinstance(codec, VideoCodecContext)
    frame, *_ = [*codec.decode(av.Packet(content)), *codec.decode(None)]
    if not frame.format.name.startswith(("rgb", "gbr", "ya", "gray")):
        raise ValueError(f"colors in {frame.format.name}")
    return _samples(frame)


def _tiled(file: BinaryIO, image: TiffImageFile) -> DeepPixels:
    """Decode a TIFF in tiles, which FFmpeg does not know: each of them as a TIFF of its own.

    Raises:
        FFmpegError, ValueError: as `_decoded`; or tiles are missing, or of one channel each.
    """
    tags = image.tag_v2
    width, height = int(tags[_TILE_WIDTH]), int(tags[_TILE_LENGTH])
    across, down = -(-image.width // width), -(-image.height // height)
    places = list(zip(tags[_TILE_OFFSETS], tags[_TILE_BYTES], strict=True))
    if len(places) != across * down or width % 16 or height % 16:  # as TIFF 6.0 wants
        raise ValueError(f"{len(places)} tiles of {width}x{height}")
    rows: list[DeepPixels] = []
    for row in range(down):
        tiles = []
        for offset, size in places[row * across : (row + 1) * across]:
            file.seek(offset)
            tiles.append(_decoded("tiff", _one_strip(image, width, height, file.read(size))))
        rows.append(np.hstack(tiles))
    return np.ascontiguousarray(np.vstack(rows)[: image.height, : image.width])


def _one_strip(image: TiffImageFile, width: int, height: int, content: bytes) -> bytes:
    """Return a TIFF with one strip, coded as a tile of another one is."""
    directory = ImageFileDirectory_v2(prefix=image.tag_v2.prefix)
    for tag in _OF_SAMPLES:
        if tag in image.tag_v2:
            directory[tag] = image.tag_v2[tag]
    directory[_WIDTH], directory[_LENGTH], directory[_STRIP_ROWS] = width, height, height
    directory[_STRIP_BYTES] = len(content)
    directory[_STRIP_OFFSETS] = 0  # counted from the end of the directory by Pillow
    header = b"II*\0\b\0\0\0" if directory.prefix == b"II" else b"MM\0*\0\0\0\b"
    return header + directory.tobytes(len(header)) + content


def _levels_of_floats(path: Path, levels: npt.NDArray[np.floating]) -> DeepPixels:
    if not np.isfinite(levels).all():
        raise InputRefused(f"{path}: holds values that are not finite; replace them first")
    low, high = float(levels.min()), float(levels.max())
    if low < 0 or high > 1:
        raise InputRefused(
            f"{path}: holds floating-point levels from {low:g} to {high:g}; possible: 0 to 1"
        )
    return np.rint(levels.astype(np.float64) * _WHITE).astype(np.uint16)[..., None]


def _levels_of_integers(path: Path, levels: npt.NDArray[np.integer]) -> DeepPixels:
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise InputRefused(
            f"{path}: holds 32-bit levels from {low} to {high}; possible: 0 to 65535"
        )
    return levels.astype(np.uint16)[..., None]


def full_range(levels: DeepPixels, bits: int) -> DeepPixels:
    """Return levels that were shifted up from `bits`, so that the highest is 65535."""
    if bits >= 16:
        return levels
    shift, white = 16 - bits, 2**bits - 1
    table = (np.arange(white + 1, dtype=np.uint64) * _WHITE + white // 2) // white
    return table.astype(np.uint16)[levels >> np.uint16(shift)]


def _agree(deep: DeepPixels, colors: npt.NDArray[np.uint8], *, rounds: bool) -> bool:
    """Compare with what Pillow decoded.

    Pillow cuts off the lower byte, but with `rounds`, of JPEG 2000, it rounds, and white becomes
    black; decoders of that format may also differ by a level.
    """
    if not rounds:
        return np.array_equal(_high_bytes(deep), colors)
    high = _high_bytes(deep + np.uint16(128))
    if high.shape != colors.shape:
        return False
    off = (high - colors + np.uint8(1)) & np.uint8(255)
    return int(off.max()) <= 2


def _high_bytes(deep: DeepPixels) -> npt.NDArray[np.uint8]:
    """Return uint8 [H, W, 3], as Pillow decodes 16-bit colors."""
    colors = deep[..., :3] if deep.shape[2] > 2 else deep[..., :1].repeat(3, axis=2)
    return (colors >> 8).astype(np.uint8)


def _samples(frame: "VideoFrame") -> DeepPixels:
    """Return uint16 [H, W, channels] of a decoded image."""
    if frame.format.is_planar:
        return frame.to_ndarray(channel_last=True).astype(np.uint16)
    order = ">u2" if frame.format.name.endswith("be") else "<u2"
    plane, channels = frame.planes[0], len(frame.format.components)
    rows = np.frombuffer(memoryview(plane), order).reshape(frame.height, -1)[
        :, : frame.width * channels
    ]
    return rows.reshape(frame.height, frame.width, channels).astype(np.uint16)
