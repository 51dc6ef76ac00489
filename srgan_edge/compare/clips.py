"""The layers of a page of videos: an excerpt of each, as H.264 that browsers play."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path

from srgan_edge.compare.layers import (
    Comparison,
    Layer,
    refuse_other_shape,
    refuse_other_sizes,
    scores_of,
)
from srgan_edge.errors import InputRefused
from srgan_edge.evaluation.evaluate import Measure
from srgan_edge.isolation.videos import IsolatedReader
from srgan_edge.pixels import Pixels
from srgan_edge.video.excerpt import Excerpt
from srgan_edge.video.preview import CRF, preview_of

SAMPLES = 8
"""Most frames of a clip that are scored; they are evenly spaced."""

_HDR_TRANSFERS = (16, 18)  # PQ and HLG in H.273

Upscale = Callable[[Iterator[Pixels]], Iterator[Pixels]]
"""Maps frames uint8 [H, W, 3] to as many of [sH, sW, 3], in order."""


@dataclass
class _Clip:
    """A clip while it is encoded: times, and the frames that are scored."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    starts: list[float] = field(default_factory=list)
    end: float = 0.0
    samples: dict[int, Pixels] = field(default_factory=dict)
    """Frame number -> frame, evenly spaced."""
    content: bytes = b""
    _first_seconds: float = 0.0
    _stride: int = 1

    def encode(self, frames: Iterator[tuple[Pixels, float, float]]) -> None:
        """Encode frames with their starts and durations in seconds, which begin at any time."""
        first = next(frames, None)
        if first is None:
            return
        self.height, self.width, _ = first[0].shape

        def taken() -> Iterator[tuple[Pixels, float, float]]:
            yield self._take(*first)
            for frame in frames:
                yield self._take(*frame)

        self.content = preview_of(taken(), self.width, self.height)

    def _take(self, pixels: Pixels, start: float, duration: float) -> tuple[Pixels, float, float]:
        number = len(self.starts)
        if number == 0:
            self._first_seconds = start
        self.starts.append(start - self._first_seconds)
        self.end = self.starts[-1] + duration
        if number % self._stride == 0:
            self.samples[number] = pixels
        if len(self.samples) > SAMPLES:
            self._stride *= 2
            self.samples = {n: it for n, it in self.samples.items() if n % self._stride == 0}
        return pixels, self.starts[-1], duration


def compare_videos(
    before: Path,
    results: Sequence[Path],
    models: Mapping[str, Upscale],
    original: Path | None,
    excerpt: Excerpt,
    learned: Mapping[str, Measure],
) -> Comparison:
    """Decode, upscale, encode and score an excerpt of each video.

    Arguments and errors are those of `compare_images`; all clips have as many frames.
    """
    notes: list[str] = []
    source = _clip_of(before, excerpt, notes)
    clips = [_clip_of(path, excerpt, notes) for path in results]
    for name, upscale in models.items():
        clips.append(_made_by(name, upscale, before, excerpt, source))
    for clip in clips:
        if len(clip.starts) != len(source.starts):
            raise InputRefused(
                f"{clip.name} has {len(clip.starts)} frames in the excerpt and {source.name} "
                f"{len(source.starts)}; compare a video with its own results"
            )
    width, height = refuse_other_sizes({clip.name: (clip.width, clip.height) for clip in clips})
    size = (source.width, source.height)
    refuse_other_shape(source.name, size, clips[0].name, (width, height))
    ideal = source if size == (width, height) else None
    if original is not None:
        ideal = _clip_of(original, excerpt, notes)
        if (ideal.width, ideal.height, len(ideal.starts)) != (width, height, len(source.starts)):
            raise InputRefused(f"{original} has another size or number of frames than the results")
    lr = source if size != (width, height) else None

    layers = [_layer(source, "original" if lr is None else "input", width, height, {})]
    for clip in clips:
        layers.append(
            _layer(clip, clip.name, width, height, _mean_scores(clip, lr, ideal, learned))
        )
    end = len(layers) - 1
    if original is not None and ideal is not None:
        layers.append(_layer(ideal, "original", width, height, {}))
    notes.append(f"videos are shown as H.264 at CRF {CRF}, 8 bits, without audio")
    return Comparison(width, height, layers, (0, end), source.starts, source.end, notes)


def _clip_of(path: Path, excerpt: Excerpt, notes: list[str]) -> _Clip:
    clip = _Clip(path.name)
    with IsolatedReader(path, excerpt=excerpt) as reader:
        info = reader.info
        clip.encode(_timed(reader))
        clip.facts = {
            "file": path.name,
            "size": f"{info.width}x{info.height}",
            "bytes": f"{path.stat().st_size:,}",
            "video": f"{info.codec}, {info.pixel_format}",
        }
        if info.color.transfer in _HDR_TRANSFERS:
            notes.append(f"{path.name}: HDR is shown as if it were BT.709")
        if info.display_matrix is not None:
            notes.append(f"{path.name}: its rotation is not shown")
        if info.sample_aspect_ratio not in (None, 1):
            notes.append(f"{path.name}: its pixels are shown as squares")
    return clip


def _made_by(name: str, upscale: Upscale, before: Path, excerpt: Excerpt, source: _Clip) -> _Clip:
    clip = _Clip(name)
    durations = [
        after - start
        for start, after in zip(source.starts, [*source.starts[1:], source.end], strict=True)
    ]
    with IsolatedReader(before, excerpt=excerpt) as reader:
        frames = upscale(pixels for pixels, _, _ in _timed(reader))
        clip.encode(zip(frames, source.starts, durations, strict=True))
    clip.facts = {"file": "made for this page", "size": f"{clip.width}x{clip.height}"}
    return clip


def _timed(reader: IsolatedReader) -> Iterator[tuple[Pixels, float, float]]:
    """Yield the frames with start and duration in seconds."""
    tick_seconds = float(reader.info.time_base)
    for frame in reader:
        yield frame.pixels, frame.pts * tick_seconds, frame.duration * tick_seconds


def _layer(clip: _Clip, name: str, width: int, height: int, scores: Mapping[str, float]) -> Layer:
    even_width = (clip.width + clip.width % 2) * width // clip.width
    even_height = (clip.height + clip.height % 2) * height // clip.height
    return Layer(
        name,
        "video",
        clip.content,
        "video/mp4",
        even_width,
        even_height,
        facts=clip.facts,
        scores=scores,
    )


def _mean_scores(
    clip: _Clip, source: _Clip | None, original: _Clip | None, learned: Mapping[str, Measure]
) -> dict[str, float]:
    """Return the means of scores over the sampled frames."""
    found = [
        scores_of(
            pixels,
            None if source is None else source.samples[number],
            None if original is None else original.samples[number],
            learned,
        )
        for number, pixels in clip.samples.items()
    ]
    return {name: _mean([scores[name] for scores in found]) for name in found[0]}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not isnan(value)]
    return sum(known) / len(known) if known else nan
