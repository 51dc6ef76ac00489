"""Videos whose frames stay on the GPU, from NVDEC until an encoder takes them, where that can be.

What cannot be so goes through this machine's memory, in all of its depths, sizes and colors.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Self

from av.video.frame import VideoFrame

from srgan_edge.engines.slots import GpuEngine
from srgan_edge.errors import EngineLost, KernelsMissing, OutOfMemory, SrganEdgeError
from srgan_edge.jobs.plan import Options
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.tiling import TilePlan
from srgan_edge.transcode.gpu_frames import CUDA, FramePool, planes_of
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.color import MATRICES, ColorDescription
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CodedFrame, Encoding, VideoInfo
from srgan_edge.video.nvidia import SOFTWARE, engines_context
from srgan_edge.video.reader import CENTERD_CHROMA


class NotOnGpu(SrganEdgeError):
    """Why the frames of this video do not stay there; nothing was begun."""


def encoder_for(info: VideoInfo, size: tuple[int, int], encoding: Encoding) -> VideoEncoder:
    """One that takes what `upscaling_on_gpu` gives: NVENC's take frames where they lie."""
    if encoding.codec not in SOFTWARE:
        return VideoEncoder(info, size, encoding)
    in_nv12 = replace(encoding, pixel_format="nv12")
    return VideoEncoder(info, size, in_nv12, on_gpu=engines_context())


@contextmanager
def upscaling_on_gpu(
    upscaler: FrameUpscaler, info: VideoInfo, encoder: VideoEncoder, options: Options
) -> Iterator[Callable[[CodedFrame], CodedFrame]]:
    """What upscales a frame in NV12 on the GPU, and gives it as the encoder stores it.

    For NVENC it lies there too, in memory that is valid as long as the body runs; any other encoder
    gets it in this machine's memory, where half the bytes of RGB come to.

    Raises:
        NotOnGpu: this video, or what is asked for, needs the way through this machine's memory, or
            there is no room, or the kernels for it cannot be had.
    """
    engine = upscaler.gpu_engine
    assert engine is not None, "who has none does not come here"
    if reason := why_not(info, encoder, options, upscaler.scale):
        raise NotOnGpu(reason)

    plan, batch = upscaler.plan(info.width, info.height)
    wanted = (plan, batch, matrix_of(info.color))
    try:
        video = GpuVideo(engine, *wanted, lock_colors=upscaler.color_lock)
    except (OutOfMemory, KernelsMissing) as error:
        raise NotOnGpu(str(error)) from error
    stays, calls = encoder.codec in SOFTWARE, _Calls()
    with video, calls:

        def upscaled(frame: CodedFrame) -> CodedFrame:
            with calls.one():
                image = video.upscale(frame.image)
                if not stays:
                    image = image.reformat(format="nv12").reformat(format=encoder.pixel_format)
            return CodedFrame(image, frame.pts, frame.duration)

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
    if info.pixel_format not in ("yuv420p", "yuvj420p") or info.codec in CENTERD_CHROMA:
        return f"{info.pixel_format} of {info.codec} is converted there"
    for wanted in (options.encoding.pixel_format or "nv12", encoder.pixel_format):
        if wanted not in ("yuv420p", "nv12"):
            return f"{wanted} is made there"
    if info.color.matrix not in MATRICES:
        return f"color matrix {info.color.matrix} is converted there"
    given, stored = info.color, encoder.color
    if (given.matrix, given.full_range) != (stored.matrix, stored.full_range):
        return "its colors are stored by another matrix or range"
    return ""


# A video that stays on the GPU: from NVDEC's frames to what NVENC takes.
#
# Nothing of a frame comes into this machine's memory. Colors are converted by the kernels, within
# a level of libswscale, in the matrix and range of the video; results have the depth of the
# network, 8 bits.
def matrix_of(color: ColorDescription) -> YuvMatrix:
    """What the kernels compute with, for one of `color.MATRICES`."""
    _, k_red, k_blue = MATRICES[color.matrix]
    return YuvMatrix(k_red, k_blue, color.full_range)


class GpuVideo:
    """Upscales the frames of one video; as many threads at once as the engine has slots."""

    def __init__(
        self,
        engine: GpuEngine,
        plan: TilePlan,
        batch: int,
        matrix: YuvMatrix,
        *,
        lock_colors: bool = False,
        device: int = CUDA,
    ) -> None:
        """Make room in every slot, so that what does not fit shows now.

        Args:
            plan: how its frames are cut; of an even size.
            batch: tiles at a time.
            lock_colors: hold the mean colors of the video, as `color_lock` does.
            device: where the GPU's memory is in truth.

        Raises:
            OutOfMemory: it does not fit.
            KernelsMissing: the kernels cannot be had here.
        """
        self._engine, self._matrix = engine, matrix
        self._wanted: dict[str, Any]
        self._wanted = {"plan": plan, "batch": batch, "lock_colors": lock_colors}
        scale = engine.info.spec.scale
        size = (scale * plan.width, scale * plan.height)
        self._pool = FramePool(engine.cuda, size, device=device)
        with engine.all_slots() as slots:
            for slot in slots:
                engine.canvas(slot, **self._wanted).load_conversions()

    def upscale(self, frame: VideoFrame) -> VideoFrame:
        """Upscale a frame in NV12 to one in NV12, without a time.

        Raises:
            OutOfMemory: the encoder holds more frames than the GPU has room for.
            EngineLost: the GPU failed.
        """
        with self._engine.slot() as slot:
            upscaled, planes = self._pool.take()
            canvas = self._engine.canvas(slot, **self._wanted)
            canvas.upscale_planes(planes_of(frame), planes, self._matrix)
        return upscaled

    def close(self) -> None:
        """Give the memory of frames back: whoever has one must be done with it."""
        with suppress(EngineLost), self._engine.cuda.current():
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
