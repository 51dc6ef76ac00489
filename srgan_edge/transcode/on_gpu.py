"""Upscale videos whose frames stay on the GPU, from NVDEC to the encoder.

The kernels convert colors within one level of libswscale, in the matrix and range of the video, and
results have the depth of the network, 8 bits. Nothing passes through host memory, except results
for an encoder on the CPU. Every other depth, size and color has to go through host memory.
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
from srgan_edge.video.reader import CENTERED_CHROMA


class NotOnGpu(SrganEdgeError):
    """The frames of this video cannot stay on the GPU; nothing was written yet."""


def encoder_for(info: VideoInfo, size: tuple[int, int], encoding: Encoding) -> VideoEncoder:
    """Return an encoder for the frames of `upscaling_on_gpu`; NVENC takes them on the GPU."""
    if encoding.codec not in SOFTWARE:
        return VideoEncoder(info, size, encoding)
    in_nv12 = replace(encoding, pixel_format="nv12")
    return VideoEncoder(info, size, in_nv12, on_gpu=engines_context())


@contextmanager
def upscaling_on_gpu(
    upscaler: FrameUpscaler, info: VideoInfo, encoder: VideoEncoder, options: Options
) -> Iterator[Callable[[CodedFrame], CodedFrame]]:
    """Yield a function that upscales an NV12 frame on the GPU to the encoder's pixel format.

    For NVENC, the result stays on the GPU, in memory that is valid while the body runs. Any other
    encoder gets it in host memory, in half the bytes of RGB.

    Raises:
        NotOnGpu: the video or the options require host memory, the GPU is out of memory, or our
            kernels do not run on it.
    """
    engine = upscaler.gpu_engine
    assert engine is not None, "callers check for a GPU engine first"
    if reason := _reason_for_host_memory(info, encoder, options, upscaler.scale):
        raise NotOnGpu(reason)

    plan, batch = upscaler.plan(info.width, info.height)
    wanted = (plan, batch, _matrix_of(info.color))
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


class GpuVideo:
    """Upscales the frames of one video, from as many threads at once as the engine has slots."""

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
        """Allocate memory in every slot, so that a lack of memory shows now.

        Args:
            plan: tiles of a frame, whose width and height are even.
            batch: number of tiles at a time.
            matrix: color conversion of the video.
            lock_colors: preserve the mean colors of the video, as `color_lock` does.
            device: `CUDA`; tests without a GPU pass `CPU`.

        Raises:
            OutOfMemory: the GPU is out of memory.
            KernelsMissing: our kernels do not run on this GPU.
        """
        self._engine, self._matrix = engine, matrix
        self._wanted: dict[str, Any] = {"plan": plan, "batch": batch, "lock_colors": lock_colors}
        scale = engine.info.spec.scale
        size = (scale * plan.width, scale * plan.height)
        self._pool = FramePool(engine.cuda, size, device=device)
        with engine.all_slots() as slots:
            for slot in slots:
                engine.canvas(slot, **self._wanted).load_conversions()

    def upscale(self, frame: VideoFrame) -> VideoFrame:
        """Upscale a frame in NV12 to one in NV12 that has no timestamp.

        Raises:
            OutOfMemory: the GPU has no room for all the frames that the encoder holds.
            EngineLost: the GPU failed.
        """
        with self._engine.slot() as slot:
            upscaled, planes = self._pool.take()
            canvas = self._engine.canvas(slot, **self._wanted)
            canvas.upscale_planes(planes_of(frame), planes, self._matrix)
        return upscaled

    def close(self) -> None:
        """Free the memory of all frames; none of them may be in use any more."""
        with suppress(EngineLost), self._engine.cuda.current():
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Calls:
    """Waits at its end for calls in other threads, as the memory they use is freed afterwards."""

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


def _reason_for_host_memory(
    info: VideoInfo, encoder: VideoEncoder, options: Options, scale: int
) -> str:
    """Return why frames have to go through host memory; empty if they can stay on the GPU."""
    if options.dedup is not None:
        return "--dedup is done there"
    if options.deinterlace:
        return "--deinterlace is done there"
    if options.on_damage == "conceal":
        return "--on-damage conceal is done there"
    if options.steady:
        return "--steady is done there"
    if options.grain:
        return "--grain is done there"
    if encoder.size != (info.width * scale, info.height * scale):
        return "its final size is made there"
    if info.pixel_format not in ("yuv420p", "yuvj420p") or info.codec in CENTERED_CHROMA:
        return f"{info.pixel_format} of {info.codec} is converted there"
    for wanted in (options.encoding.pixel_format or "nv12", encoder.pixel_format):
        if wanted not in ("yuv420p", "nv12"):
            return f"{wanted} is made there"
    if info.color.matrix not in MATRICES:
        return f"color matrix {info.color.matrix} is converted there"
    given, stored = info.color, encoder.color
    if (given.matrix, given.full_range) != (stored.matrix, stored.full_range):
        return "its colors are stored in another matrix or range"
    return ""


def _matrix_of(color: ColorDescription) -> YuvMatrix:
    """Return the kernels' coefficients for a matrix in `color.MATRICES`."""
    _, k_red, k_blue = MATRICES[color.matrix]
    return YuvMatrix(k_red, k_blue, color.full_range)
