"""Small images as people have them: saved as JPEG or WebP, taken out of a video, or clean.

The second-order model of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, section 3), with real
encoders in place of models of them, and with videos: short pans over the photograph, coded by the
codecs that people's videos are in, of which one frame is taken. All of it happens once, to whole
photographs, before a training (`derived.add_sources`); a step only reads the result.
"""

import errno
import hashlib
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from srgan_edge import bicubic
from srgan_edge.errors import UsageError
from srgan_edge.pixels import Pixels

Random: TypeAlias = np.random.Generator

_LIMITS = {
    "first_blur_sigma": (0.0, 20.0),
    "first_size": (0.1, 4.0),
    "sharpening": (0.0, 5.0),
    "noise_sigma": (0.0, 255.0),
    "motion_px": (0.0, 64.0),
}
"""Limits on the ends of each range; for qualities, quantizers and rate factors see `_SCALES`."""
_SCALES = {"quality": (1, 100), "crf": (0, 63), "quantizer": (1, 31)}


@dataclass(frozen=True)
class Sources:
    """The probability of each kind of source, and the ranges that its defects are drawn from.

    What is neither clean nor a video is a photograph saved as JPEG or WebP. Ranges are uniform, the
    ends included.
    """

    variants: int = 4
    """Variants of each photograph, 1 to 64; 3 / scale² bytes an HR pixel each."""
    clean_share: float = 0.2
    """In [0, 1], like every share and probability here: MATLAB's bicubic and nothing else, so that
    clean sources lose little."""
    video_share: float = 0.3

    first_probability: float = 0.35
    """Probability of an earlier pass: blurred, resized, noisy, saved. Not for clean ones."""
    first_blur_sigma: tuple[float, float] = (0.2, 3.0)
    """In HR pixels; along and across are drawn separately."""
    first_size: tuple[float, float] = (0.7, 1.6)
    """Side of that earlier image over the LR's."""
    first_noise_sigma: tuple[float, float] = (0.0, 6.0)
    """In levels of 255."""
    first_jpeg_quality: tuple[int, int] = (60, 98)

    sharpening_probability: float = 0.1
    """Probability that the LR is sharpened and so has ringing."""
    sharpening: tuple[float, float] = (0.3, 1.5)
    """Share of what a blur of one pixel removes that is added."""
    banding_probability: float = 0.02
    """Probability that it has 32 to 64 levels a channel."""
    noise_probability: float = 0.3
    noise_sigma: tuple[float, float] = (1.0, 14.0)
    """In levels of 255, in the middle tones of Poisson noise."""
    poisson_probability: float = 0.4
    """Share of the noisy whose noise grows with the root of the level."""
    gray_noise_probability: float = 0.4
    """Share of the noisy with the same noise in all three channels."""

    webp_probability: float = 0.12
    """Share of photographs saved as WebP instead of JPEG."""
    jpeg_quality: tuple[int, int] = (25, 96)
    webp_quality: tuple[int, int] = (25, 95)
    whole_chroma_probability: float = 0.15
    """Share of JPEGs with colors at full resolution, 4:4:4; else 4:2:0."""

    codecs: tuple[str, ...] = ("h264", "h264", "h264", "hevc", "vp9", "av1", "mpeg2", "mpeg4")
    """Codecs of videos, equally likely; one named more often is likelier. Those that this PyAV
    cannot encode are left out."""
    h264_crf: tuple[int, int] = (17, 34)
    hevc_crf: tuple[int, int] = (18, 36)
    vp9_crf: tuple[int, int] = (20, 48)
    av1_crf: tuple[int, int] = (22, 50)
    mpeg_quantizer: tuple[int, int] = (2, 10)
    centered_chroma_probability: float = 0.2
    """Share of videos with colors in the middle of four pixels, not beside the left two."""
    motion_px: tuple[float, float] = (0.0, 6.0)
    """Speed of the pan, in LR pixels a frame."""
    combing_probability: float = 0.03
    """Share of videos in which every other line is a field later, as a bad deinterlacer leaves
    it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "variants":
                possible, fits = "1 to 64", 1 <= value <= 64
            elif field.name == "codecs":
                possible, fits = (
                    f"of {', '.join(_CODECS)}",
                    bool(value) and set(value) <= {*_CODECS},
                )
            elif field.name.endswith(("_share", "_probability")):
                possible, fits = "0 to 1", 0 <= value <= 1
            else:
                scale = _SCALES.get(field.name.rsplit("_", 1)[-1], (0.0, 255.0))
                lowest, highest = _LIMITS.get(field.name, scale)
                possible = f"two numbers, not falling, from {lowest:g} to {highest:g}"
                fits = len(value) == 2 and lowest <= value[0] <= value[1] <= highest
            if not fits:
                raise UsageError(f"sources.{field.name} is {value}; possible: {possible}")
        if self.clean_share + self.video_share > 1:
            raise UsageError("sources.clean_share and sources.video_share are more than 1 together")


def source_of(hr: Pixels, random: Random, *, scale: int, sources: Sources) -> Pixels:
    """One small image of a photograph, as somebody may have it.

    uint8 [H, W, 3] -> uint8 [H / scale, W / scale, 3], H and W multiples of the scale. A function
    of the state of `random` and of the encoders' versions.
    """
    kind = random.random()
    if kind < sources.clean_share:
        return bicubic.resize(hr, hr.shape[0] // scale, hr.shape[1] // scale)
    if kind < sources.clean_share + sources.video_share:
        return _frame_of_video(hr, scale, sources, random)
    return _photograph(hr, scale, sources, random)


def sources_name(sources: Sources) -> str:
    """A digest of what is drawn, 12 hexadecimal digits."""
    return hashlib.sha256(repr(sources).encode()).hexdigest()[:12]


def jpeg_coded(pixels: Pixels, quality: int, *, whole_chroma: bool = False) -> Pixels:
    """Saved as JPEG and opened again; colors at half resolution unless `whole_chroma`."""
    subsampling = 0 if whole_chroma else 2
    return _coded(pixels, "JPEG", quality=quality, subsampling=subsampling)


def video_coded(
    frames: Sequence[Pixels], codec: str, options: dict[str, str], *, centered: bool = False
) -> list[Pixels]:
    """Frames uint8 [H, W, 3] coded as a video in 4:2:0, BT.601 and limited range, and decoded.

    Colors are converted in floating point: a fast conversion shifts them by a level or more, which
    a network would learn to undo.

    Args:
        codec: FFmpeg's name of the encoder.
        options: of the encoder.
        centered: chroma lies in the middle of four pixels, as in MPEG-1 and JPEG; else between two
            in the left column, as in all videos since.

    Raises:
        UnknownCodecError: this PyAV has no such encoder.
        FFmpegError: the encoder refuses the size or an option, or would corrupt memory.
    """
    import av  # late: most recipes need no PyAV
    from av.video.stream import VideoStream

    from srgan_edge.video.encoder import corrupts_memory, keeping_priority

    os.environ.setdefault("SVT_LOG", "1")  # its errors, but not its greetings
    file = io.BytesIO()
    height, width = frames[0].shape[:2]
    even = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(file, "w", format="matroska") as video:
        stream = video.add_stream(codec, rate=Fraction(25))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = height + height % 2, width + width % 2
        if corrupts_memory(codec, stream.width):
            raise av.FFmpegError(errno.EINVAL, "corrupts memory in frames of this width")
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.codec_context.options = dict(options)
        with keeping_priority():
            stream.codec_context.open()
        for pixels in frames:
            planes = _to_planes(np.pad(pixels, even, mode="edge"), centered=centered)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        video.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as coded:
        decoded = [frame.to_ndarray(format="yuv420p") for frame in coded.decode(video=0)]
    return [
        _from_planes(planes.astype(np.uint8), centered=centered)[:height, :width]
        for planes in decoded
    ]


_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_RANGES = np.array([219, 224, 224]) / 255
_BLACK = np.array([16.0, 128.0, 128.0])


def _to_planes(rgb: Pixels, *, centered: bool) -> Pixels:
    """uint8 [H, W, 3], H and W even -> uint8 [3H / 2, W], as PyAV lays out yuv420p."""
    height, width = rgb.shape[:2]
    ycc = rgb @ _TO_YCC.T * _RANGES + _BLACK
    chroma = ycc[..., 1:].reshape(height // 2, 2, width, 2).mean(1)
    if centered:
        chroma = chroma.reshape(height // 2, width // 2, 2, 2).mean(2)
    else:
        left = np.pad(chroma, ((0, 0), (1, 0), (0, 0)), mode="edge")[:, :-1:2]
        chroma = (left + 2 * chroma[:, ::2] + chroma[:, 1::2]) / 4
    planes = np.concatenate([ycc[..., 0].ravel(), chroma.transpose(2, 0, 1).ravel()])
    return _rounded(planes).reshape(3 * height // 2, width)


def _from_planes(planes: Pixels, *, centered: bool) -> Pixels:
    """The inverse, chroma enlarged between its samples."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    luma, halves = planes[:height, :, None], planes[height:].reshape(2, height // 2, width // 2)
    tall = _doubled(halves.transpose(1, 2, 0).astype(np.float64), 0, centered=True)
    chroma = _doubled(tall, 1, centered=centered)
    ycc = (np.concatenate([luma, chroma], 2) - _BLACK) / _RANGES
    return _rounded(ycc @ np.linalg.inv(_TO_YCC).T)


def _doubled(
    plane: npt.NDArray[np.float64], axis: int, *, centered: bool
) -> npt.NDArray[np.float64]:
    """Twice as long, linear between samples that lie on the first of two or between both."""
    plane = np.moveaxis(plane, axis, 0)
    before, after = (
        np.concatenate(parts) for parts in [(plane[:1], plane[:-1]), (plane[1:], plane[-1:])]
    )
    pair = (3 * plane + before, 3 * plane + after) if centered else (4 * plane, 2 * (plane + after))
    doubled = np.stack(pair, 1).reshape(-1, *plane.shape[1:]) / 4
    return np.moveaxis(doubled, 0, axis)


def pan_over(
    hr: Pixels, scale: int, frames: int, middle: int, motion: tuple[int, int]
) -> list[Pixels]:
    """LR images of a camera that moves by `motion` HR pixels (down, right) a frame.

    The one numbered `middle` shows the photograph as it is; beyond its edge, that is replicated.
    """
    height, width = hr.shape[:2]
    images = []
    for number in range(frames):
        down, right = ((number - middle) * pixels for pixels in motion)
        rows = np.arange(down, height + down).clip(0, height - 1)
        columns = np.arange(right, width + right).clip(0, width - 1)
        shifted = hr[rows][:, columns] if down or right else hr
        images.append(bicubic.resize(shifted, height // scale, width // scale))
    return images


@dataclass(frozen=True)
class _Wear:
    """The defects of a small image before it is coded, the same for all frames of a video."""

    sharpening_percent: int
    levels: int
    """A channel; 0: all of them."""
    noise: "_Noise"

    @classmethod
    def drawn(cls, sources: Sources, random: Random) -> "_Wear":
        sharp = random.random() < sources.sharpening_probability
        banded = random.random() < sources.banding_probability
        noisy = random.random() < sources.noise_probability
        percent = round(100 * random.uniform(*sources.sharpening))
        levels = int(random.integers(32, 64, endpoint=True))
        sigma = random.uniform(*sources.noise_sigma)
        noise = _Noise.drawn(sigma if noisy else 0.0, sources, random)
        return cls(percent if sharp else 0, levels if banded else 0, noise)

    def of(self, small: Pixels, random: Random) -> Pixels:
        if self.sharpening_percent:
            sharper = ImageFilter.UnsharpMask(1, self.sharpening_percent, 0)
            small = np.asarray(Image.fromarray(small).filter(sharper))
        if self.levels:
            step = 255 / (self.levels - 1)
            small = _rounded(np.floor(small / step + 0.5) * step)
        return self.noise.on(small, random)


@dataclass(frozen=True)
class _Noise:
    sigma: float
    """In levels; of Poisson noise in the middle tones."""
    is_poisson: bool
    is_gray: bool

    @classmethod
    def drawn(cls, sigma: float, sources: Sources, random: Random) -> "_Noise":
        poisson, gray = random.random(2)
        return cls(
            sigma, poisson < sources.poisson_probability, gray < sources.gray_noise_probability
        )

    def on(self, pixels: Pixels, random: Random) -> Pixels:
        """Poisson noise as normal noise of its variance."""
        if not self.sigma:
            return pixels
        height, width, channels = pixels.shape
        field = random.standard_normal((height, width, 1 if self.is_gray else channels))
        strength = np.sqrt(pixels / 127.5) if self.is_poisson else 1.0
        return _rounded(pixels + self.sigma * strength * field)


def _photograph(hr: Pixels, scale: int, sources: Sources, random: Random) -> Pixels:
    height, width = (side // scale for side in hr.shape[:2])
    if random.random() < sources.first_probability:
        small = _through_other_hands(hr, height, width, sources, random)
    else:
        small = bicubic.resize(hr, height, width)
    small = _Wear.drawn(sources, random).of(small, random)
    if random.random() < sources.webp_probability:
        return _coded(small, "WEBP", quality=_one_of(sources.webp_quality, random), method=2)
    whole_chroma = random.random() < sources.whole_chroma_probability
    return jpeg_coded(small, _one_of(sources.jpeg_quality, random), whole_chroma=whole_chroma)


def _through_other_hands(
    hr: Pixels, height: int, width: int, sources: Sources, random: Random
) -> Pixels:
    """Real-ESRGAN's first stage: blur, resizing, noise and JPEG, then the size that it has now."""
    size = random.uniform(*sources.first_size)
    first = Image.fromarray(_blurred(hr, sources, random)).resize(
        (max(1, round(size * width)), max(1, round(size * height))), _any_filter(random)
    )
    noise = _Noise.drawn(random.uniform(*sources.first_noise_sigma), sources, random)
    pixels = noise.on(np.asarray(first), random)
    pixels = jpeg_coded(pixels, _one_of(sources.first_jpeg_quality, random))
    return np.asarray(Image.fromarray(pixels).resize((width, height), _any_filter(random)))


FRAMES = 7
"""Frames of a video: enough for a frame between two of those that it is predicted from."""


def _frame_of_video(hr: Pixels, scale: int, sources: Sources, random: Random) -> Pixels:
    import av

    middle = int(random.integers(1, FRAMES - 1))
    speed, angle = scale * random.uniform(*sources.motion_px), random.uniform(0, 2 * math.pi)
    motion = round(speed * math.sin(angle)), round(speed * math.cos(angle))
    if random.random() < sources.first_probability:
        hr = _blurred(hr, sources, random)
    wear = _Wear.drawn(sources, random)
    clip = [wear.of(frame, random) for frame in pan_over(hr, scale, FRAMES, middle, motion)]
    if random.random() < sources.combing_probability:
        clip = [_combed(frame, later) for frame, later in pairwise([*clip, clip[-1]])]
    centered = bool(random.random() < sources.centered_chroma_probability)
    order = random.permutation(len(sources.codecs))
    for codec in dict.fromkeys(sources.codecs[number] for number in order):
        encoder, options = _CODECS[codec]
        try:
            decoded = video_coded(clip, encoder, options(sources, random), centered=centered)
        except (av.codec.codec.UnknownCodecError, av.FFmpegError):
            continue  # this PyAV lacks it, or it refuses images so small
        if len(decoded) == FRAMES:
            return decoded[middle]
    return clip[middle]


def _combed(frame: Pixels, later: Pixels) -> Pixels:
    combed = frame.copy()
    combed[1::2] = later[1::2]
    return combed


def _h264(sources: Sources, random: Random) -> dict[str, str]:
    preset = ("veryfast", "medium", "slow")[int(random.integers(3))]
    keyframes = ("4", "250")[int(random.integers(2))]
    return {"crf": str(_one_of(sources.h264_crf, random)), "preset": preset, "g": keyframes}


def _hevc(sources: Sources, random: Random) -> dict[str, str]:
    crf = str(_one_of(sources.hevc_crf, random))
    return {"crf": crf, "preset": "fast", "x265-params": "log-level=none:pools=none"}


def _vp9(sources: Sources, random: Random) -> dict[str, str]:
    crf = str(_one_of(sources.vp9_crf, random))
    return {"crf": crf, "b": "0", "deadline": "realtime", "cpu-used": "6", "lag-in-frames": "0"}


def _av1(sources: Sources, random: Random) -> dict[str, str]:
    return {"crf": str(_one_of(sources.av1_crf, random)), "preset": "9", "svtav1-params": "lp=1"}


def _mpeg(sources: Sources, random: Random) -> dict[str, str]:
    quantizer = str(_one_of(sources.mpeg_quantizer, random))
    return {"qmin": quantizer, "qmax": quantizer, "g": "12", "bf": "2"}


_CODECS: dict[str, tuple[str, Callable[[Sources, Random], dict[str, str]]]] = {
    "h264": ("libx264", _h264),
    "hevc": ("libx265", _hevc),
    "vp9": ("libvpx-vp9", _vp9),
    "av1": ("libsvtav1", _av1),
    "mpeg2": ("mpeg2video", _mpeg),
    "mpeg4": ("mpeg4", _mpeg),
}
"""Maps the names in recipes to the encoder and the options that it is drawn with."""


def _blurred(hr: Pixels, sources: Sources, random: Random) -> Pixels:
    across, along = random.uniform(*sources.first_blur_sigma, 2)
    return np.asarray(Image.fromarray(hr).filter(ImageFilter.GaussianBlur((across, along))))


def _any_filter(random: Random) -> Image.Resampling:
    filters = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    return filters[int(random.integers(len(filters)))]


def _coded(pixels: Pixels, kind: str, **options: int) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def _one_of(ends: tuple[int, int], random: Random) -> int:
    return int(random.integers(*ends, endpoint=True))


def _rounded(levels: npt.NDArray[np.floating]) -> Pixels:
    return np.floor(levels + 0.5).clip(0, 255).astype(np.uint8)
