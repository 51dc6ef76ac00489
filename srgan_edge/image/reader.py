"""Reading image files: one that cannot be kept exactly is refused.

A file is decoded once, into memory, from where its rows are returned upright: 8 bits a channel as
Pillow decodes them, more bits as `levels` converts them. `opening` checks the header first.
"""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from PIL import Image, ImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile

from srgan_edge.errors import InputRefused, quoted
from srgan_edge.files import open_regular
from srgan_edge.image.coding import coding_of
from srgan_edge.image.colors import colors_of_exif
from srgan_edge.image.gif import Painted, last_block
from srgan_edge.image.headers import examine, kind_of
from srgan_edge.image.levels import deep_colors, deep_gray, full_range
from srgan_edge.image.metadata import (
    dpi_of,
    exif_block,
    exif_of,
    kept_exif,
    pixel_shape_of,
    rgb_of_cmyk,
    turn_by_pillow,
    usable_profile,
)
from srgan_edge.image.netpbm import is_scaled, scaled_levels
from srgan_edge.image.opening import (
    GRAY_MODES,
    MAX_PIXELS,
    companion_images,
    damage,
    first_frame,
    frames_to_keep,
    is_deep_gray,
    load,
    open_image,
    own_limits,
    several_images,
)
from srgan_edge.image.orientation import TURNS
from srgan_edge.image.png import has_end
from srgan_edge.image.statements import left_out, refuse_misleading
from srgan_edge.image.still import Samples, StillImage
from srgan_edge.pixels import DeepPixels, Pixels

_ROWS_AT_ONCE = 1024


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
            f"example with: magick {quoted(path)} -depth 8 {quoted(Path(f'{path.stem}-8.png'))}"
        )
    return pixels.astype(np.uint8, copy=False)


class ImageReader:
    """One image file of a format of `opening`, recognized by its content and not by its name.

    Transparency becomes alpha, the orientation (EXIF 2.32, tag 0x0112) is applied to the pixels,
    and CMYK is converted to RGB. Levels of 16, 32 or floating-point bits are returned as 16.

    Args:
        max_pixels: limit on the pixels of all frames together; the result may have
            `RESULT_TO_SOURCE` times as many.
        enlargement: factor by which the sides of the result are longer.
        file: the open file, which this closes, if `path` is only its name in messages.

    Raises:
        InputRefused: no such file, not a regular file, empty, not one of the formats, beyond
            the limits, levels or colors that cannot be kept, several pages.
        InputDamaged: one of the formats, but cut short or broken.
    """

    def __init__(
        self,
        path: Path,
        max_pixels: int = MAX_PIXELS,
        enlargement: float = 1.0,
        file: BinaryIO | None = None,
    ) -> None:
        self.path, self._max_pixels = path, max_pixels
        self.notes: list[str] = []
        """One line for each thing in the file that the rows lack, or hold in another form."""
        self.seconds: list[Fraction] = []
        """Duration of each frame of an animation; empty for a still image."""
        self._like: StillImage
        self.plays = 1
        """Number of times that an animation is played; 0: forever."""
        self._painted = Painted()
        self._file = file or open_regular(path)
        try:
            with own_limits():
                image = open_image(path, self._file)
                self.format = kind_of(image)
                """Name of the format as Pillow calls it."""
                with damage(path):
                    self._header = examine(image, self._file)
                self.frames = frames_to_keep(
                    path, image, self._header.bits, max_pixels, enlargement
                )
                """Number of frames; 1 for a still image."""
                refuse_misleading(path, self.format, self._header.found)
                self._turned = turn_by_pillow(image)
                self._first_frame = first_frame(image)
                self._scaled: Samples | None = None
                with damage(path):
                    if self.format == "PPM" and is_scaled(image):
                        self._scaled = scaled_levels(image, self._file)
                    else:
                        load(path, image, self._file)
                        if self._first_frame and self.frames == 1:
                            image.seek(self._first_frame)
                            image.load()
                self._take(image)
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
            if self._has_alpha and isinstance(self._source, GifImageFile):
                painted = self._painted.pixels[top:bottom, left:right]
                values = np.dstack([values[..., :3], np.where(painted, values[..., 3], 0)])
        else:
            values = self._source[top:bottom, left:right]
        values = self._turn.upright(values)
        colors = values[..., :3] if values.shape[2] > 2 else values[..., :1].repeat(3, axis=2)
        alpha = np.array(values[..., -1], order="C") if self._has_alpha else None
        return replace(self._like, pixels=np.array(colors, order="C"), alpha=alpha)

    def seek(self, frame: int) -> None:
        """Make `rows` return those of this frame of an animation, counted from 0."""
        assert isinstance(self._source, ImageFile.ImageFile)
        with own_limits(self._max_pixels), damage(self.path):
            try:
                self._source.seek(self._first_frame + frame)
                self._source.load()
                if isinstance(self._source, GifImageFile):
                    if frame == 0:
                        self._painted = Painted()
                    self._painted.take(self._source)
            except Image.DecompressionBombError as error:  # Pillow enlarges a GIF for its frames
                raise InputRefused(
                    f"{self.path}: frame {frame + 1} reaches beyond the image, and makes more than "
                    f"{self._max_pixels} pixels of it; save it again with another program"
                ) from error

    def _survey(self, image: ImageFile.ImageFile) -> None:
        """Read all frames of an animation: any may be damaged, or the only transparent one."""
        self.plays = _plays(image)
        self._has_alpha = False
        if image.format == "GIF":  # each frame has its own colors
            self._like = replace(self._like, gray=False)
        for frame in range(self.frames):
            self.seek(frame)
            milliseconds = Fraction(image.info.get("duration", 0)).limit_denominator(10**6)
            self.seconds.append((milliseconds / 1000).limit_denominator(2**16 - 1))
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
            self._has_alpha |= bool(alpha.min() < 255) or not self._painted.pixels.all()

    def _take(self, image: ImageFile.ImageFile) -> None:
        self.coding = coding_of(image, self._file)
        """The compression that the pixels went through."""
        self._source: Image.Image | Samples = image
        icc_profile, header = self._header.icc_profile, self._header
        if self._scaled is not None:
            self._source = self._scaled
        elif header.bits > 8:
            self._source = self._deep(image)
        elif image.mode == "CMYK":
            self._source, icc_profile = rgb_of_cmyk(image, icc_profile, self.notes)
        elif image.mode == "La":
            self._source = image.convert("LA")
        elif not header.has_alpha and image.has_transparency_data:
            self._source = image.convert("L" if image.mode in GRAY_MODES else "RGB")
        if header.crop is not None:
            self._source = self._cropped(header.crop)
        if isinstance(self._source, Image.Image):
            self._raw_width, self._raw_height = self._source.size
            self._has_alpha = self._source.has_transparency_data
            if isinstance(image, GifImageFile):
                self._painted.take(image)
                self._has_alpha |= not self._painted.pixels.all()
            gray = image.mode in GRAY_MODES
        else:
            self._raw_height, self._raw_width, channels = self._source.shape
            self._has_alpha, gray = channels in (2, 4), channels < 3
        profile = usable_profile(icc_profile, "GRAY" if gray else "RGB", self.notes)
        exif = exif_of(image, self.notes)
        self._turn = TURNS.get(exif.get(Base.Orientation, 1), TURNS[1])
        dpi, shape = dpi_of(image, exif), header.pixel_shape or pixel_shape_of(image, exif)
        exchanged = self._turn.exchanged or self._turned.exchanged
        if exchanged:
            shape, dpi = shape and shape[::-1], dpi and dpi[::-1]
        by_exif = colors_of_exif(exif) if profile is None else ()
        block = exif_block(image, self.notes, self._file) if exif else None
        self._like = StillImage(
            np.empty((0, 0, 3), np.uint8),
            gray=gray,
            icc_profile=profile,
            stated_colors=(*header.colors, *by_exif),
            exif=kept_exif(block, image, self.notes, exchanged=exchanged),
            dpi=dpi,
            pixel_shape=None if dpi else shape,
        )
        if self._first_frame:
            self.notes.append("left out: the still image for programs that show no animation")
        self.notes += self._statements_left_out(image)
        if image.format == "PNG" and not has_end(self._file):
            self.notes.append("the end mark (IEND) is missing; the image itself is complete")
        if image.format == "GIF" and last_block(self._file) != b";":
            self.notes.append("the end mark (trailer) is missing; further frames may be, too")

    def _cropped(self, box: tuple[int, int, int, int]) -> Image.Image | Samples:
        if isinstance(self._source, Image.Image):
            return self._source.crop(box)
        left, top, right, bottom = box
        return self._source[top:bottom, left:right]

    def _statements_left_out(self, image: ImageFile.ImageFile) -> Iterator[str]:
        found = self._header.found
        if companions := companion_images(image):
            yield f"left out: {companions} more images in the file, such as previews and gain maps"
            found = [it for it in found if it.name != "further images"]
        yield from left_out(self.format, found)

    def _deep(self, image: ImageFile.ImageFile) -> DeepPixels:
        """Return uint16 [H, W, channels] of a loaded image with more than 8 bits."""
        if image.mode == "F":
            self.notes.append("floating-point levels become 16 bits, 1.0 white")
        if image.mode == "I" and self.format != "PPM":
            self.notes.append("32-bit levels become 16 bits, 65535 white")
        if not is_deep_gray(image.mode):
            levels = deep_colors(self.path, self._file, image, self._turned)
        else:
            levels = deep_gray(self.path, image)
        if self.format == "JPEG2000":
            levels = full_range(levels, self._header.bits)
        if "transparency" not in image.info or not is_deep_gray(image.mode):
            return levels
        levels = levels[..., 0]
        opaque = levels != image.info["transparency"]
        return np.dstack([levels, np.where(opaque, 65535, 0).astype(np.uint16)])


def _plays(image: ImageFile.ImageFile) -> int:
    """Return how often an animation is played; GIF counts repetitions, and omits a count of 0."""
    loops = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loops is None else int(loops) + 1 if loops else 0
    return int(loops or 0)
