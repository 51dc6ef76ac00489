"""Reading image files: one that cannot be kept exactly is refused.

A file is decoded once, into memory, from where its rows are returned upright: 8 bits a channel as
Pillow decodes them, more bits as `levels` converts them. `opening` checks the header first.
"""

import io
import struct
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import TiffImageFile

from srgan_edge.errors import InputRefused
from srgan_edge.files import open_regular
from srgan_edge.image.coding import coding_of
from srgan_edge.image.levels import deep_colors, deep_gray
from srgan_edge.image.opening import (
    DECODER_ERRORS,
    GRAY_MODES,
    MAX_PIXELS,
    bits_per_channel,
    companion_images,
    damage,
    frames_to_keep,
    load,
    open_image,
    own_limits,
    several_images,
)
from srgan_edge.image.png import color_chunks, has_end
from srgan_edge.image.still import StillImage
from srgan_edge.pixels import DeepPixels, Pixels

_ROWS_AT_ONCE = 1024

_KEPT_TAGS = {
    # Tags of the main EXIF table, which in a TIFF also describes where and how the pixels are
    # stored. The tables of the exposure and the place, to which it refers, are kept.
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist),
    *(Base.Copyright, Base.HostComputer, Base.Orientation, Base.Rating, Base.RatingPercent),
    *(Base.XResolution, Base.YResolution, Base.ResolutionUnit),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
    *(IFD.Exif, IFD.GPSInfo),
}


_MOTION_PHOTOS = (b"MotionPhoto", b"MicroVideo")
"""Words in the XMP of a JPEG that a short video follows."""


def read_pixels(path: Path) -> Pixels:
    """Return the colors of a whole image, for measuring and comparing: uint8 [H, W, 3], RGB.

    Raises:
        InputRefused: as in `ImageReader`, or 16 bits a channel, or an animation.
        InputDamaged: as in `ImageReader`.
    """
    with ImageReader(path) as reader:
        if reader.frames > 1:
            raise InputRefused(several_images(path, reader.frames))
        pixels = reader.rows(0, reader.height).pixels
    if pixels.dtype == np.uint16:
        raise InputRefused(
            f"{path}: has 16 bits per channel, and only 8 can be compared; convert it first, for "
            f"example with: magick {quote(str(path))} -depth 8 {quote(f'{path.stem}-8.png')}"
        )
    return pixels.astype(np.uint8, copy=False)


class ImageReader:
    """One PNG, JPEG, WebP, GIF, TIFF or BMP file, recognized by its content and not by its name.

    Transparency becomes alpha, the orientation (EXIF 2.32, tag 0x0112) is applied to the pixels,
    and CMYK is converted to RGB. Levels of 16, 32 or floating-point bits are returned as 16.

    Args:
        max_pixels: limit on the pixels of all frames together; the result may have
            `RESULT_TO_SOURCE` times as many.
        enlargement: factor by which the sides of the result are longer.
        file: the open file, which this closes, if `path` is only its name in messages.

    Raises:
        InputRefused: no such file, not a regular file, empty, not one of the six formats, beyond
            the limits, levels or colors that cannot be kept, several pages.
        InputDamaged: one of the six formats, but cut short or broken.
    """

    def __init__(
        self,
        path: Path,
        max_pixels: int = MAX_PIXELS,
        enlargement: float = 1.0,
        file: BinaryIO | None = None,
    ) -> None:
        self.path = path
        self.notes: list[str] = []
        """One line for each thing in the file that the rows lack, or hold in another form."""
        self.seconds: list[Fraction] = []
        """Duration of each frame of an animation; empty for a still image."""
        self._like: StillImage
        self.plays = 1
        """Number of times that an animation is played; 0: forever."""
        self._file = file or open_regular(path)
        try:
            with own_limits():
                image = open_image(path, self._file)
                self.frames = frames_to_keep(path, image, max_pixels, enlargement)
                """Number of frames; 1 for a still image."""
                bits = bits_per_channel(image)
                with damage(path):
                    load(path, image, self._file)
                self._take(image, bits)
                if self.frames > 1:
                    with damage(path):
                        self._survey(image)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def width(self) -> int:
        """Width of the upright image in pixels."""
        return self._raw_height if self._turn.exchanged else self._raw_width

    @property
    def height(self) -> int:
        """Height of the upright image in pixels."""
        return self._raw_width if self._turn.exchanged else self._raw_height

    @property
    def is_transparent(self) -> bool:
        """True if any pixel is less than fully opaque; reads the whole image."""
        starts = range(0, self.height, _ROWS_AT_ONCE)
        return self._has_alpha and any(
            self.rows(start, min(start + _ROWS_AT_ONCE, self.height)).is_transparent
            for start in starts
        )

    def rows(self, start: int, stop: int) -> StillImage:
        """Return a copy of the rows from `start` up to, but not including, `stop`."""
        left, top, right, bottom = self._turn.raw_box(
            start, stop, self._raw_width, self._raw_height
        )
        if isinstance(self._source, Image.Image):
            with own_limits():
                part = self._source.crop((left, top, right, bottom))
                values = np.asarray(part.convert("RGBA" if self._has_alpha else "RGB"))
        else:
            values = self._source[top:bottom, left:right]
        values = self._turn.upright(values)
        colors = values[..., :3] if values.shape[2] > 2 else values[..., :1].repeat(3, axis=2)
        alpha = np.array(values[..., -1], order="C") if self._has_alpha else None
        return replace(self._like, pixels=np.array(colors, order="C"), alpha=alpha)

    def seek(self, frame: int) -> None:
        """Make `rows` return those of this frame of an animation, counted from 0."""
        assert isinstance(self._source, ImageFile.ImageFile)
        with own_limits(), damage(self.path):
            self._source.seek(self._first_frame + frame)
            self._source.load()

    def _survey(self, image: ImageFile.ImageFile) -> None:
        """Read all frames of an animation: any may be damaged, or the only transparent one."""
        self._first_frame = int(getattr(image, "default_image", False))
        if self._first_frame:
            self.notes.append("left out: the still image for programs that show no animation")
        self.plays = _plays(image)
        self._has_alpha = False
        if image.format == "GIF":  # each frame has its own colors
            self._like = replace(self._like, gray=False)
        for frame in range(self.frames):
            self.seek(frame)
            milliseconds = Fraction(image.info.get("duration", 0)).limit_denominator(10**6)
            self.seconds.append((milliseconds / 1000).limit_denominator(2**16 - 1))
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
            self._has_alpha |= bool(alpha.min() < 255)

    def _take(self, image: ImageFile.ImageFile, bits: int) -> None:
        self._raw_width, self._raw_height = image.size
        self.coding = coding_of(image, self._file)
        """The compression that the pixels went through."""
        self._source: Image.Image | DeepPixels = image
        icc_profile = image.info.get("icc_profile")
        if bits > 8:
            self._source = self._deep(image)
        elif image.mode == "CMYK":
            self._source, icc_profile = self._rgb_of_cmyk(image, icc_profile)
        if isinstance(self._source, Image.Image):
            self._has_alpha = _has_alpha(image)
            gray = image.mode in GRAY_MODES
        else:
            channels = self._source.shape[2]
            self._has_alpha, gray = channels in (2, 4), channels < 3
        orientation, exif = self._orientation_and_exif(image)
        self._turn = _TURNS.get(orientation, _TURNS[1])
        self._like = StillImage(
            np.empty((0, 0, 3), np.uint8),
            gray=gray,
            icc_profile=self._usable(icc_profile, "GRAY" if gray else "RGB"),
            exif=exif,
            dpi=_dpi(image),
            png_colors=tuple(color_chunks(self._file)) if image.format == "PNG" else (),
        )
        if companions := companion_images(image):
            self.notes.append(
                f"left out: {companions} more images in the file, such as previews and gain maps"
            )
        if xmp := image.info.get("xmp"):
            self.notes.append("left out: XMP")
            if any(word in bytes(xmp) for word in _MOTION_PHOTOS):
                self.notes.append("left out: the video of a motion photo")
        if image.format == "PNG" and not has_end(self._file):
            self.notes.append("the end mark (IEND) is missing; the image itself is complete")

    def _deep(self, image: ImageFile.ImageFile) -> DeepPixels:
        """Return uint16 [H, W, channels] of a loaded image with more than 8 bits."""
        if image.mode == "F":
            self.notes.append("floating-point levels become 16 bits, 1.0 white")
        if image.mode == "I":
            self.notes.append("32-bit levels become 16 bits, 65535 white")
        if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
            return deep_colors(self.path, self._file, image)
        levels = deep_gray(self.path, image)
        if "transparency" not in image.info:
            return levels
        levels = levels[..., 0]
        opaque = levels != image.info["transparency"]
        return np.dstack([levels, np.where(opaque, 65535, 0).astype(np.uint16)])

    def _rgb_of_cmyk(
        self, image: Image.Image, icc_profile: bytes | None
    ) -> tuple[Image.Image, bytes | None]:
        """Convert by the profile; without one, subtract the inks from white, as browsers do."""
        profile = self._usable(icc_profile, "CMYK")
        if profile is None:
            self.notes.append("CMYK without a profile becomes RGB as (1 - ink) x (1 - black)")
            return image.convert("RGB"), None
        srgb = _srgb_profile()
        rgb = ImageCms.profileToProfile(
            image,
            io.BytesIO(profile),
            io.BytesIO(srgb),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        assert rgb is not None
        self.notes.append("CMYK becomes sRGB by its color profile")
        return rgb, srgb

    def _usable(self, profile: bytes | None, space: str) -> bytes | None:
        """Return the ICC profile if it describes `space`, else None with a note."""
        if not profile:
            return None
        try:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            found = opened.profile.xcolor_space.strip()
            if space == "CMYK":  # does it contain the table, too?
                ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), "CMYK", "RGB")
        except (*DECODER_ERRORS, ImageCms.PyCMSError):
            self.notes.append("left out: color profile: unreadable")
            return None
        if found != space:
            self.notes.append(f"left out: color profile: for {found}, but the pixels are {space}")
            return None
        return profile

    def _orientation_and_exif(self, image: Image.Image) -> tuple[int, bytes | None]:
        """Return the orientation to undo, and the EXIF to keep once that is done."""
        try:
            exif = image.getexif()
            if not exif and "exif" in image.info:
                raise ValueError("no tags in it")
            orientation = exif.get(Base.Orientation, 1)
            return orientation, _kept(exif)
        except DECODER_ERRORS as error:
            self.notes.append(f"left out: EXIF: unreadable ({error})")
            return 1, None


@dataclass(frozen=True)
class _Turn:
    """The steps that make a raw image upright: reverse rows, reverse columns, exchange both."""

    rows: bool
    columns: bool
    exchanged: bool

    def upright(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the upright image, [H, W, C], as a view."""
        turned = raw[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
        return turned.swapaxes(0, 1) if self.exchanged else turned

    def raw_box(self, start: int, stop: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the raw pixels of the upright rows."""
        if self.exchanged:
            first = width - stop if self.columns else start
            return first, 0, first + stop - start, height
        first = height - stop if self.rows else start
        return 0, first, width, first + stop - start


_TURNS = {
    1: _Turn(False, False, False),
    2: _Turn(False, True, False),
    3: _Turn(True, True, False),
    4: _Turn(True, False, False),
    5: _Turn(False, False, True),
    6: _Turn(True, False, True),
    7: _Turn(True, True, True),
    8: _Turn(False, True, True),
}
"""EXIF orientation -> turn."""


def _plays(image: ImageFile.ImageFile) -> int:
    """Return how often an animation is played; GIF counts repetitions, and omits a count of 0."""
    loops = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loops is None else int(loops) + 1 if loops else 0
    return int(loops or 0)


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in {"LA", "PA", "RGBA"}


def _kept(exif: Image.Exif) -> bytes | None:
    """Return the part of the EXIF that is still true once the image is upright."""
    for tag in set(exif) - _KEPT_TAGS:
        del exif[tag]
    if IFD.Exif in exif:
        for tag in (Base.ExifImageWidth, Base.ExifImageHeight):  # no longer true
            exif.get_ifd(IFD.Exif).pop(tag, None)
    if not exif:
        return None
    exif[Base.Orientation] = 1
    exif.bigtiff = False  # EXIF is a classic TIFF table, whatever it was read from
    return exif.tobytes()


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    if isinstance(image, TiffImageFile) and Base.XResolution not in image.tag_v2:
        return None  # Pillow would return 1
    try:
        across, down = (float(dots) for dots in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _srgb_profile() -> bytes:
    """Return an sRGB profile with a fixed date; LittleCMS writes the time into bytes 24 to 35."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return bytes(profile)
