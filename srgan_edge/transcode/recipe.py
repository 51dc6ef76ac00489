"""The recipe by which frames of a video become segments of its result, in whatever process.

A segment depends on its frames, the upscaler and the encoder alone. So the same recipe gives the
same bytes in one pass over a video, and in many processes that make a few segments each.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from srgan_edge.errors import InputDamaged
from srgan_edge.grain import finish
from srgan_edge.isolation.child import ChildFailed
from srgan_edge.jobs.plan import Options
from srgan_edge.jobs.reporters import WorkerShare
from srgan_edge.pipeline import upscale_video, upscaled_frame
from srgan_edge.reuse import LinkedFrame, Reuse
from srgan_edge.steady import (
    Link,
    Steadier,
    refuse_too_large,
    steadied_from_bytes,
    strength_of,
)
from srgan_edge.transcode.on_gpu import encoder_for, upscaling_on_gpu
from srgan_edge.transcode.segments import SegmentWriter, WrittenSegment, segment_frames
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.convert import depth_bits
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CodedFrame, CopiedPacket, Frame, Notes, VideoInfo


@dataclass(frozen=True)
class Saved:
    """Work that was not done because the result was there already."""

    frames_reused: int = 0
    """Frames that show the same as the one before."""
    frames_repeated: int = 0
    """Frames that nearly repeat an earlier one and were made of its result."""
    tiles: int = 0
    """Tiles of all frames."""
    tiles_reused: int = 0
    """Tiles that were the same in the frame before."""

    def __add__(self, other: "Saved") -> "Saved":
        return Saved(
            self.frames_reused + other.frames_reused,
            self.frames_repeated + other.frames_repeated,
            self.tiles + other.tiles,
            self.tiles_reused + other.tiles_reused,
        )


@dataclass(frozen=True)
class Made:
    """The outcome of making all segments of a video, as far as its frames can be decoded."""

    damaged: InputDamaged | None
    """The damage that ended the video, or that was passed over in it."""
    notes: Notes
    saved: Saved
    shares: tuple[WorkerShare, ...] = ()
    """The part that each of several workers made."""

    @property
    def decoder_ended(self) -> bool:
        """The decoder crashed or hung, so that the damage may not be the video's."""
        return self.damaged is not None and isinstance(self.damaged.__cause__, ChildFailed)


class Recipe:
    """Makes segments of frames in host memory. Use it in a `with`.

    Args:
        info: the facts of the input.
        upscaler: enlarges the frames; it stays its owner's.
        options: those of the command.
        length: frames in a segment; None: as suits the upscaler and the size of the frames.

    Raises:
        UsageError: the encoder does not support the options.
    """

    def __init__(
        self,
        info: VideoInfo,
        upscaler: FrameUpscaler,
        options: Options,
        length: int | None = None,
    ) -> None:
        self._info, self._upscaler, self._options = info, upscaler, options
        self.size = options.video_size(info, upscaler.scale)
        """Width and height of the result in pixels."""
        self.length = length or segment_frames(
            upscaler.info, info.width, info.height, dedup=options.dedup is not None
        )
        """Frames in a segment; the last one of a video may have fewer."""
        self._encoder = self.new_encoder()
        self._reuse = Reuse(upscaler, options.dedup, self.length)
        self._grained = finish(options.grain)
        self._life = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._life.close()

    def new_encoder(self) -> VideoEncoder:
        """Return an encoder for one segment."""
        return VideoEncoder(self._info, self.size, self._options.encoding)

    def begin(self, segment: int, state: bytes) -> None:
        """Begin with a segment of a number from 0; `state` is what the one before it left."""

    def state_after(self, segment: int) -> bytes:
        """Return, once, what the segment after a full one needs of it; empty: nothing."""
        return b""

    def make(
        self,
        items: Iterable[Frame | CodedFrame | CopiedPacket],
        first: int,
        path_of: Callable[[int], Path],
        enter: Callable[[WrittenSegment], None],
        on_frame: Callable[[], None] = lambda: None,
        end_source: Callable[[], None] = lambda: None,
    ) -> InputDamaged | None:
        """Make segments of all frames that a reader yields; return the error that ended it, if any.

        Frames before damage are in finished segments, as they are at the end of a video.

        Args:
            first: number of the segment that the frames begin.
            path_of: returns the file of a segment of a number.
            enter: called in another thread, in order, with each segment once its file is closed.
            on_frame: called for each frame, in this thread.
            end_source: called when no more frames are needed.
        """
        writer = SegmentWriter(path_of, first, self.new_encoder, self.length, enter)
        damaged = None
        try:
            try:
                upscale_video(
                    self._given(items),
                    self._coded,
                    writer,
                    on_frame,
                    self._upscaler.slots,
                    end_source,
                    result_bytes=_rgb_bytes(self._info, self._upscaler.scale),
                    taken=self._taken(),
                    is_light=self._is_light,
                )
            except InputDamaged as error:
                damaged = error
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
        return damaged

    @property
    def saved(self) -> Saved:
        """Work that all calls of `make` together did not have to do."""
        reuse = self._reuse
        return Saved(reuse.frames_reused, reuse.frames_repeated, reuse.tiles, reuse.tiles_reused)

    def _given(self, items: Iterable[Any]) -> Iterator[Any]:
        return self._reuse.linked(it for it in items if isinstance(it, Frame))

    def _taken(self) -> Callable[[Any], Any] | None:
        return None

    def _is_light(self, link: Any) -> bool:  # noqa: ANN401 - what `_taken` returns
        is_light: bool = link.is_light
        return is_light

    def _coded(self, link: Any) -> CodedFrame:  # noqa: ANN401 - what `_taken` returns
        return self._encoder.coded(
            upscaled_frame(
                link.frame, lambda pixels: self._grained(pixels, self._reuse.upscale(link))
            )
        )


class SteadyRecipe(Recipe):
    """Also keeps detail from frame to frame, across the borders of segments.

    Raises:
        HostMemoryExhausted: the frames are too large for that.
    """

    def __init__(self, info: VideoInfo, upscaler: FrameUpscaler, options: Options) -> None:
        super().__init__(info, upscaler, options)
        refuse_too_large(info.width * upscaler.scale, info.height * upscaler.scale)
        self.begin(0, b"")

    def begin(self, segment: int, state: bytes) -> None:
        self._begun = segment
        self._steadier = Steadier[LinkedFrame](
            strength_of(self._options.steady),
            steadied_from_bytes(state) if state else None,
            lambda number: (number + 1) % self.length == 0,
        )

    def state_after(self, segment: int) -> bytes:
        last = (segment - self._begun + 1) * self.length - 1
        return self._steadier.state_after(last).to_bytes()

    def _taken(self) -> Callable[[Any], Any]:
        return self._steadier.link

    def _is_light(self, link: Link[LinkedFrame]) -> bool:
        return link.item.is_light

    def _coded(self, link: Link[LinkedFrame]) -> CodedFrame:
        linked, steadied = link.item, self._steadier.steadied
        return self._encoder.coded(
            upscaled_frame(
                linked.frame,
                lambda pixels: self._grained(
                    pixels, steadied(link, pixels, lambda: self._reuse.upscale(linked))
                ),
            )
        )


class GpuRecipe(Recipe):
    """Leaves the frames on the GPU, from NVDEC to the encoder.

    Raises:
        NotOnGpu: the video or the options require host memory, or the GPU is out of memory.
    """

    def __init__(self, info: VideoInfo, upscaler: FrameUpscaler, options: Options) -> None:
        super().__init__(info, upscaler, options)
        on_gpu = upscaling_on_gpu(upscaler, info, self._encoder, options)
        self._upscaled = self._life.enter_context(on_gpu)

    def new_encoder(self) -> VideoEncoder:
        return encoder_for(self._info, self.size, self._options.encoding)

    def _given(self, items: Iterable[Any]) -> Iterator[Any]:
        return iter(items)

    def _is_light(self, link: CodedFrame) -> bool:
        return False

    def _coded(self, link: CodedFrame) -> CodedFrame:
        return self._upscaled(link)


def _rgb_bytes(info: VideoInfo, scale: int) -> int:
    """Return the memory of one upscaled frame before it is converted for the encoder."""
    samples = 3 * info.width * info.height * scale**2
    return samples if depth_bits(info.pixel_format) == 8 else 2 * samples
