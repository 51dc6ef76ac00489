"""A film that stays on the GPU: from NVDEC's frames to what NVENC takes.

Nothing of a frame comes into this machine's memory. Colours are converted by the kernels, within a
level of libswscale, in the matrix and range of the film; results have the depth of the network,
8 bits.
"""

from contextlib import suppress
from typing import Any, Self

from av.video.frame import VideoFrame

from srgan_edge import dlpack
from srgan_edge.color import MATRICES, ColorDescription
from srgan_edge.engines.canvas import GpuEngine
from srgan_edge.engines.gpu_frames import FramePool, planes_of
from srgan_edge.errors import EngineLost
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.tiling import TilePlan


def matrix_of(color: ColorDescription) -> YuvMatrix:
    """What the kernels compute with, for one of `color.MATRICES`."""
    _, k_red, k_blue = MATRICES[color.matrix]
    return YuvMatrix(k_red, k_blue, color.full_range)


class GpuFilm:
    """Upscales the frames of one film; as many threads at once as the engine has slots."""

    def __init__(
        self,
        engine: GpuEngine,
        plan: TilePlan,
        batch: int,
        matrix: YuvMatrix,
        pixel_format: str,
        *,
        lock_colors: bool = False,
        device: int = dlpack.CUDA,
    ) -> None:
        """Make room in every slot, so that what does not fit shows now.

        Args:
            plan: how its frames are cut; of an even size.
            batch: tiles at a time.
            pixel_format: of the result, `nv12` or `p010le`.
            lock_colors: hold the mean colours of the film, as `color_lock` does.
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
        self._pool = FramePool(engine.cuda, size, pixel_format, device=device)
        with engine.all_slots() as slots:
            for slot in slots:
                engine.canvas(slot, **self._wanted).load_conversions()

    def upscale(self, frame: VideoFrame) -> VideoFrame:
        """A frame in NV12 or P010 -> one in the pixel format of the result, without a time.

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
