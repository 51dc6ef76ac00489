"""Films whose frames stay on the GPU, from NVDEC until an encoder takes them, where that can be.

What cannot be so goes through this machine's memory, in all of its depths, sizes and colours.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

from srgan_edge.color import MATRICES
from srgan_edge.errors import KernelsMissing, OutOfMemory, SrganEdgeError
from srgan_edge.nvenc import SOFTWARE, engines_context
from srgan_edge.options import Options
from srgan_edge.upscaler import Upscaler
from srgan_edge.video import CodedFrame, Encoding, VideoInfo
from srgan_edge.video_encoder import VideoEncoder
from srgan_edge.video_reader import CENTRED_CHROMA


class NotOnGpu(SrganEdgeError):
    """Why the frames of this film do not stay there; nothing was begun."""


def encoder_for(info: VideoInfo, size: tuple[int, int], encoding: Encoding) -> VideoEncoder:
    """One that takes what `upscaling_on_gpu` gives: NVENC's take frames where they lie."""
    if encoding.codec not in SOFTWARE:
        return VideoEncoder(info, size, encoding)
    in_nv12 = replace(encoding, pixel_format="nv12")
    return VideoEncoder(info, size, in_nv12, on_gpu=engines_context())


@contextmanager
def upscaling_on_gpu(
    upscaler: Upscaler, info: VideoInfo, encoder: VideoEncoder, options: Options
) -> Iterator[Callable[[CodedFrame], CodedFrame]]:
    """What upscales a frame in NV12 on the GPU, and gives it as the encoder stores it.

    For NVENC it lies there too, in memory that is valid as long as the body runs; any other encoder
    gets it in this machine's memory, where half the bytes of RGB come to.

    Raises:
        NotOnGpu: this film, or what is asked for, needs the way through this machine's memory, or
            there is no room, or the kernels for it cannot be had.
    """
    engine = upscaler.gpu_engine
    assert engine is not None, "who has none does not come here"
    if reason := why_not(info, encoder, options, upscaler.scale):
        raise NotOnGpu(reason)
    from srgan_edge.engines.gpu_film import GpuFilm, matrix_of  # which need a GPU's kernels

    plan, batch = upscaler.plan(info.width, info.height)
    wanted = (plan, batch, matrix_of(info.color), "nv12")
    try:
        film = GpuFilm(engine, *wanted, lock_colors=upscaler.color_lock)
    except (OutOfMemory, KernelsMissing) as error:
        raise NotOnGpu(str(error)) from error
    stays, calls = encoder.codec in SOFTWARE, _Calls()
    with film, calls:

        def upscaled(frame: CodedFrame) -> CodedFrame:
            with calls.one():
                picture = film.upscale(frame.picture)
                if not stays:
                    picture = picture.reformat(format="nv12").reformat(format=encoder.pixel_format)
            return CodedFrame(picture, frame.pts, frame.duration)

        yield upscaled


class _Calls:
    """Leaving its body waits for the calls that others still are in: their memory is given back."""

    def __init__(self) -> None:
        self._under_way = 0
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._changed:
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)


def why_not(info: VideoInfo, encoder: VideoEncoder, options: Options, scale: int) -> str:
    """Why frames have to go through this machine's memory; empty if they need not."""
    if options.deinterlace:
        return "--deinterlace is done there"
    if options.on_damage == "conceal":
        return "--on-damage conceal is done there"
    if options.outscale not in (None, scale):
        return "--outscale is done there"
    if info.pixel_format not in ("yuv420p", "yuvj420p") or info.codec in CENTRED_CHROMA:
        return f"{info.pixel_format} of {info.codec} is converted there"
    for wanted in (options.encoding.pixel_format or "nv12", encoder.pixel_format):
        if wanted not in ("yuv420p", "nv12"):
            return f"{wanted} is made there"
    if info.color.matrix not in MATRICES:
        return f"colour matrix {info.color.matrix} is converted there"
    given, stored = info.color, encoder.color
    if (given.matrix, given.full_range) != (stored.matrix, stored.full_range):
        return "its colours are stored by another matrix or range"
    return ""
