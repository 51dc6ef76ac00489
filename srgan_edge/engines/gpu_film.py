"""A film that stays on the GPU: from NVDEC's frames to NVENC's, through the TensorRT engine.

Nothing of a frame comes into this machine's memory. Colours are converted by the kernels, within a
level of libswscale, in the matrix and range of the film; they are not locked to those of the source
(`color_lock`), and results have the depth of the network, 8 bits. **Not yet run on a GPU.**
"""

from typing import Self

from av.video.frame import VideoFrame

from srgan_edge import dlpack
from srgan_edge.engines.gpu_frames import FramePool, planes_of
from srgan_edge.engines.tensorrt import TensorRtEngine
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.tiling import TilePlan


class GpuFilm:
    """Upscales the frames of one film; as many threads at once as the engine has slots."""

    def __init__(
        self,
        engine: TensorRtEngine,
        plan: TilePlan,
        batch: int,
        matrix: YuvMatrix,
        pixel_format: str,
        *,
        device: int = dlpack.CUDA,
    ) -> None:
        """Make room in every slot, so that what does not fit shows now.

        Args:
            plan: how its frames are cut; of an even size.
            batch: tiles at a time.
            pixel_format: of the result, `nv12` or `p010le`.
            device: where the GPU's memory is in truth.

        Raises:
            OutOfMemory: it does not fit.
            ExtraMissing: the kernels cannot be compiled here.
        """
        self._engine, self._plan, self._batch, self._matrix = engine, plan, batch, matrix
        scale = engine.info.spec.scale
        size = (scale * plan.width, scale * plan.height)
        self._pool = FramePool(engine.cuda, size, pixel_format, device=device)
        with engine.all_slots() as slots:
            for slot in slots:
                engine.canvas(slot, plan, batch)

    def upscale(self, frame: VideoFrame) -> VideoFrame:
        """A frame in NV12 or P010 -> one in the pixel format of the result, without a time.

        Raises:
            OutOfMemory: the encoder holds more frames than the GPU has room for.
            EngineLost: the GPU failed.
        """
        with self._engine.slot() as slot:
            upscaled, planes = self._pool.take()
            canvas = self._engine.canvas(slot, self._plan, self._batch)
            canvas.upscale_planes(planes_of(frame), planes, self._matrix)
        return upscaled

    def close(self) -> None:
        """Give the memory of frames back: the encoder must be closed."""
        with self._engine.cuda.current():
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
