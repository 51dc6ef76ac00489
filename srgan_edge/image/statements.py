"""Everything that the header of an image file can state, and what becomes of it.

A statement changes what the numbers mean, how the image is shown, or what is known of it. Reader
and writer follow this table, and `docs/images.md` lists it. A statement that is not in the table
is named as left out. `headers` finds the statements in a file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from srgan_edge.errors import InputRefused, printable


class Fate(Enum):
    """Fate of a statement; the value is the word that the documentation uses."""

    HONORED = "honored"
    """The decoder follows it, so the pixels already mean what it says."""
    KEPT = "kept"
    """It goes into the result, in every format that can hold it."""
    DROPPED = "dropped"
    """It describes the old samples or the old file, and is not true of the result."""
    NAMED = "named as left out"
    """It is not kept, and a line says so."""
    REFUSED = "refused"
    """The image would come out wrong, so it is not upscaled."""


@dataclass(frozen=True)
class Statement:
    """One line of the table."""

    fate: Fate
    about: str = ""
    """The words for the user, if it is named or refused."""


@dataclass(frozen=True)
class Found:
    """A statement in a file whose value is not the one that is assumed without it."""

    name: str
    detail: str = ""


_MOST_DETAILS = 8
_LONGEST_DETAIL = 60

TIFF_NAMES = {
    330: "SubIFDs",
    346: "Indexed",
    351: "OPIProxy",
    343: "ClipPath",
    344: "XClipPathUnits",
    345: "YClipPathUnits",
    433: "Decode",
    513: "JPEGInterchangeFormat",
    514: "JPEGInterchangeFormatLength",
    700: "XMP",
    33550: "ModelPixelScale",
    33723: "IPTC",
    33922: "ModelTiepoint",
    34264: "ModelTransformation",
    34377: "ImageResources",
    34665: "EXIF",
    34675: "ICCProfile",
    34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams",
    34737: "GeoAsciiParams",
    34853: "GPS",
    37724: "ImageSourceData",
    42112: "GDAL_METADATA",
    42113: "GDAL_NODATA",
    50341: "PrintImageMatching",
    50706: "DNGVersion",
    59932: "Padding",
    59933: "OffsetSchema",
}
"""Tags of a TIFF that Pillow calls by another name, or by none."""


def _table(
    honored: str = "",
    kept: str = "",
    dropped: str = "",
    named: dict[str, str] | None = None,
    refused: dict[str, str] | None = None,
) -> dict[str, Statement]:
    """Return statements by name; the names in texts are separated by commas."""
    plain = {Fate.HONORED: honored, Fate.KEPT: kept, Fate.DROPPED: dropped}
    table = {
        name.strip(): Statement(fate) for fate, names in plain.items() for name in names.split(",")
    }
    for fate, words in ((Fate.NAMED, named or {}), (Fate.REFUSED, refused or {})):
        table |= {name: Statement(fate, about) for name, about in words.items()}
    table.pop("", None)
    return table


_MAP = "place on the map (GeoTIFF)"

STATEMENTS: dict[str, dict[str, Statement]] = {
    "PNG": _table(
        honored="IHDR, PLTE, tRNS, IDAT, IEND, acTL, fcTL, fdAT",
        kept="iCCP, cICP, mDCV, cLLI, sRGB, gAMA, cHRM, pHYs, eXIf",
        dropped="hIST, tIME, iDOT",
        named={
            "sBIT": "number of significant bits",
            "bKGD": "background color",
            "sPLT": "suggested palette",
            "oFFs": "position on a page",
            "pCAL": "physical meaning of the levels",
            "sCAL": "physical size of a pixel",
            "sTER": "stereo layout",
            "tEXt": "text",
            "zTXt": "text",
            "iTXt": "text",
            "XMP": "XMP",
            "caBX": "content credentials",
            "dSIG": "signature",
            "behind the end": "data behind the image",
        },
        refused={"CgBI": "a PNG of an iPhone application, with another order of its colors"},
    ),
    "TIFF": _table(
        honored="ImageWidth, ImageLength, BitsPerSample, Compression, PhotometricInterpretation, "
        "FillOrder, StripOffsets, Orientation, SamplesPerPixel, RowsPerStrip, StripByteCounts, "
        "PlanarConfiguration, T4Options, T6Options, Predictor, ColorMap, TileWidth, TileLength, "
        "TileOffsets, TileByteCounts, JPEGTables, JPEGProc, JPEGInterchangeFormat, "
        "JPEGInterchangeFormatLength, JPEGRestartInterval, JPEGQTables, JPEGDCTables, "
        "JPEGACTables, YCbCrSubSampling",
        kept="ICCProfile, TransferFunction, WhitePoint, PrimaryChromaticities, XResolution, "
        "YResolution, ResolutionUnit, EXIF, GPS, ImageDescription, Make, Model, Software, "
        "DateTime, Artist, Copyright, HostComputer, DocumentName, PageName, Rating, "
        "RatingPercent, XPTitle, XPComment, XPAuthor, XPKeywords, XPSubject",
        dropped="MinSampleValue, MaxSampleValue, Thresholding, CellWidth, CellLength, FreeOffsets, "
        "FreeByteCounts, HalftoneHints, YCbCrPositioning, PageNumber, Padding, OffsetSchema",
        named={
            "ExtraSamples": "samples that are neither color nor transparency",
            "SMinSampleValue": "range of the levels",
            "SMaxSampleValue": "range of the levels",
            "GrayResponseUnit": "density of the grays",
            "GrayResponseCurve": "density of the grays",
            "TransferRange": "range of the transfer function",
            "XPosition": "position on a page",
            "YPosition": "position on a page",
            "InkNames": "names of inks",
            "TargetPrinter": "target printer",
            "ClipPath": "clipping path",
            "XClipPathUnits": "clipping path",
            "YClipPathUnits": "clipping path",
            "SubIFDs": "further images in the file (SubIFDs)",
            "XMP": "XMP",
            "IPTC": "IPTC",
            "ImageResources": "Photoshop's image resources",
            "ImageSourceData": "Photoshop's layers",
            "PrintImageMatching": "print image matching",
            "ModelPixelScale": _MAP,
            "ModelTiepoint": _MAP,
            "ModelTransformation": _MAP,
            "GeoKeyDirectory": _MAP,
            "GeoDoubleParams": _MAP,
            "GeoAsciiParams": _MAP,
            "GDAL_METADATA": "metadata of GDAL",
            "GDAL_NODATA": "level that means no data (GDAL)",
        },
        refused={
            "NewSubfileType": "a reduced copy; the image itself is elsewhere in the file",
            "SubfileType": "a reduced copy; the image itself is elsewhere in the file",
            "OPIProxy": "a reduced copy; the image itself is in another file",
            "DNGVersion": "raw data of a camera, of which only a preview could be read",
            "SampleFormat": "levels that are signed or complex numbers",
            "InkSet": "inks other than cyan, magenta, yellow and black",
            "NumberOfInks": "a number of inks other than four",
            "DotRange": "inks that do not begin at 0 and end at the highest level",
            "ReferenceBlackWhite": "black and white that are not the lowest and highest levels",
            "YCbCrCoefficients": "YCbCr of other coefficients than a JPEG's",
            "Decode": "levels in another order or range",
            "Indexed": "indexed colors without a palette of RGB",
        },
    ),
    "JPEG": _table(
        honored="SOF, DQT, DHT, DAC, DRI, SOS, DNL, APP14 Adobe, APP2 MPF",
        kept="APP0 JFIF, APP1 Exif, APP2 ICC_PROFILE",
        dropped="APP0 JFXX, APP12 Ducky",
        named={
            "COM": "text",
            "APP1 XMP": "XMP",
            "APP1 extended XMP": "XMP",
            "ICC_PROFILE in pieces": "color profile, of which a part is missing or repeated",
            "APP2 gain map": "gain map (ISO 21496-1)",
            "APP2 FPXR": "FlashPix data",
            "APP3 stereo": "stereo layout",
            "APP11 JUMBF": "content credentials",
            "APP13 Photoshop": "Photoshop's image resources",
            "APP13 IPTC": "IPTC",
            "further images": "previews and gain maps behind the image",
            "motion photo": "the video of a motion photo",
            "gain map": "the gain map for HDR screens",
            "depth map": "the depth map",
            "behind the end": "data behind the image",
        },
        refused={
            "DHP": "a hierarchical JPEG",
            "SOF of other bits": "a JPEG of other than 8 bits",
            "SOF of other colors": "a JPEG of other than 1, 3 or 4 colors",
        },
    ),
    "WEBP": _table(
        honored="VP8, VP8L, VP8X, ALPH, ANIM, ANMF",
        kept="ICCP, EXIF",
        named={"XMP": "XMP", "behind the end": "data behind the image"},
    ),
    "GIF": _table(
        honored="logical screen, color table, image, graphic control, NETSCAPE2.0, ANIMEXTS1.0",
        kept="pixel shape",
        dropped="background color, sort flag, color resolution",
        named={
            "comment": "text",
            "plain text": "plain text, which is drawn over the image",
            "user input": "frames that wait for the user",
            "XMP DataXMP": "XMP",
            "ICCRGBG1012": "color profile, which browsers ignore in a GIF",
            "behind the end": "data behind the image",
        },
    ),
    "BMP": _table(
        honored="size, direction, masks, palette, compression",
        kept="pixels per meter, embedded profile, calibrated RGB",
        dropped="important colors, rendering intent",
        named={
            "linked profile": "color profile in another file",
            "behind the end": "data behind the image",
        },
        refused={
            "JPEG or PNG inside": "a BMP for printers, with a JPEG or PNG inside",
            "compression of others": "a BMP whose pixels are stored in a way of other systems",
        },
    ),
    "AVIF": _table(
        honored="ftyp, meta, mdat, moov, hdlr, dinf, pitm, iloc, iinf, iref, iprp, idat, grpl, "
        "av1C, ispe, pixi, irot, imir, clap, auxC, prem, grid, a1lx, a1op, lsel",
        kept="colr, clli, mdcv, pasp, Exif",
        dropped="thmb, free, skip",
        named={
            "bits": "bits of a channel below the eighth, which Pillow does not decode",
            "plays": "number of plays, which Pillow does not return; it is played forever",
            "XMP": "XMP",
            "tmap": "the gain map for HDR screens",
            "depth map": "the depth map",
            "behind the end": "data behind the image",
        },
        refused={
            "clap of parts": "a crop that is not one of whole pixels inside a still image",
        },
    ),
    "JPEG2000": _table(
        honored="ftyp, rreq, ihdr, bpcc, pclr, cmap, cdef, jp2c, SIZ",
        kept="colr, res",
        named={
            "COM": "text",
            "xml": "text",
            "uuid": "data of other programs",
            "resd": "resolution for display",
            "behind the end": "data behind the image",
        },
        refused={
            "SIZ of other bits": "channels of different depths, or of fewer than 8 bits",
            "ihdr of another size": "two sizes of one image",
            "colr of another space": "colors other than sRGB, gray, YCC and CMYK",
            "cdef of another order": "channels in another order than red, green, blue",
            "cdef of premultiplied opacity": "premultiplied transparency",
            "no cdef": "a channel more than its colors need, and not called opacity",
        },
    ),
    "PPM": _table(
        honored="P1 to P6, Pf, width, height, white (maxval), byte order",
        named={
            "comment": "text",
            "scale": "scale of the levels",
            "behind the end": "data behind the image, such as further images",
        },
        refused={"16-bit color as text": "a PPM of 16-bit color as text (P3)"},
    ),
    "TGA": _table(
        honored="size, depth, color map, compression, origin, attribute bits, attributes type",
        kept="gamma, pixel aspect ratio",
        dropped="postage stamp, scan-line table, software, time",
        named={
            "ID": "text",
            "text": "text",
            "gamma of 1": "gamma of 1",
            "undefined channel": "a fourth channel that the header does not call transparency",
            "color correction table": "color correction table",
            "key color": "key color",
        },
        refused={"premultiplied alpha": "premultiplied transparency"},
    ),
    "EXIF": _table(
        kept="Orientation, ColorSpace, Gamma, InteroperabilityIndex, WhitePoint, "
        "PrimaryChromaticities, TransferFunction, all other tags of exposure and place, "
        "the texts and times that a TIFF keeps",
        dropped="thumbnail, PixelXDimension, PixelYDimension, FocalPlaneXResolution, "
        "FocalPlaneYResolution, FocalPlaneResolutionUnit, SubjectArea, SubjectLocation, "
        "CompressedBitsPerPixel, tags of how the file was stored",
        named={"other tags": "EXIF tags"},
    ),
    "PIL info": _table(
        honored="transparency",
        kept="icc_profile, exif, dpi, aspect, resolution, gamma, chromaticity, srgb, duration, "
        "loop, comment, all other entries",
        dropped="background, bbox, compression, interlace, progression, progressive, extension, "
        "orientation, scale, mp, mpoffset, jfif, jfif_version, jfif_unit, jfif_density, adobe, "
        "adobe_transform",
        named={
            "xmp": "XMP",
            "XML:com.adobe.xmp": "XMP",
            "photoshop": "Photoshop's image resources",
            "flashpix": "FlashPix data",
        },
    ),
}
"""Format -> name of a statement -> what becomes of it."""


def behind_the_end(behind: bytes) -> Iterator[Found]:
    """Yield a statement if a file has more than zeros behind its end."""
    if behind.strip(b"\0"):
        yield Found("behind the end", f"{len(behind)} bytes")


def fate_of(kind: str, name: str) -> Statement:
    """Return what becomes of a statement in a file of format `kind`; unknown ones are named.

    What is unknown in the `info` of a PIL image was put there by the program, and is kept.
    """
    unknown = Statement(Fate.KEPT) if kind == "PIL info" else Statement(Fate.NAMED, "unknown")
    return STATEMENTS.get(kind, {}).get(name, unknown)


def refuse_misleading(path: Path, kind: str, found: Iterable[Found]) -> None:
    """Raise `InputRefused` for a statement without which the image would come out wrong."""
    for it in found:
        statement = fate_of(kind, it.name)
        if statement.fate is Fate.REFUSED:
            detail = f", {printable(it.detail)}" if it.detail else ""
            raise InputRefused(
                f"{path}: {statement.about} ({it.name}{detail}); possible: an ordinary RGB or gray "
                "image; save it as one, for example as .png, with a program that opens it"
            )


def left_out(kind: str, found: Iterable[Found]) -> Iterator[str]:
    """Yield a line for each thing that the result lacks, with the details of all its statements."""
    things: dict[str, dict[str, None]] = {}
    for it in found:
        statement = fate_of(kind, it.name)
        if statement.fate is not Fate.NAMED:
            continue
        about, detail = statement.about, it.detail
        if about == "unknown":
            about, detail = f"what this program does not know in this {kind}", it.name
        details = things.setdefault(about, {})
        if detail:
            details[printable(detail[:_LONGEST_DETAIL])] = None
    for about, details in things.items():
        words = list(details)[:_MOST_DETAILS]
        if len(details) > _MOST_DETAILS:
            words.append(f"and {len(details) - _MOST_DETAILS} more")
        yield f"left out: {about}" + (f": {', '.join(words)}" if words else "")
