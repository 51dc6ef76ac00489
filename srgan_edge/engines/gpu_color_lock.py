"""The color lock on a GPU, for frames of one size; `srgan_edge.color_lock` is the specification."""

from typing import Any

import numpy as np

from srgan_edge.color_lock import lock_axis
from srgan_edge.kernels import color_lock
from srgan_edge.kernels.cuda import Buffers, Cuda, Stream
from srgan_edge.kernels.launch import Kernels, ints


class GpuColorLock:
    """Matches the mean colors of results to those of their frames, one frame at a time."""

    def __init__(
        self,
        cuda: Cuda,
        kernels: Kernels,
        size: tuple[int, int],
        scale: int,
        stream: Stream,
    ) -> None:
        """Allocate the buffers and compile the kernels.

        Args:
            size: (width, height) of frames; results are `scale` times as large.
            stream: the stream in which `put` queues its work.

        Raises:
            OutOfMemory: the GPU is out of memory.
            KernelsMissing: the kernels do not run on this GPU.
        """
        self._kernels, self._stream, self._scale = kernels, stream, scale
        self._size = size
        width, height = size
        across, down = lock_axis(width, scale), lock_axis(height, scale)
        self._columns, self._rows = len(across.edges) - 1, len(down.edges) - 1
        row_blocks = np.repeat(np.arange(self._rows, dtype=np.int32), np.diff(down.edges))
        arrays = {
            "edges_x": across.edges,
            "edges_y": down.edges,
            "large_edges_x": scale * across.edges,
            "row_blocks": row_blocks,
            "large_row_blocks": row_blocks.repeat(scale),
            "across": across.places,
            "down": down.places,
            "missing": np.zeros((self._rows, self._columns, 3), np.int32),
            "low_sums": np.zeros((self._rows, self._columns, 3), np.uint32),
            "high_sums": np.zeros((self._rows, self._columns, 3), np.uint32),
        }
        self._buffers = Buffers(cuda)
        self._at: dict[str, int] = {}
        try:
            for name in ("color_sums", "color_missing", "color_shift"):
                kernels.load(name)
            for name, array in arrays.items():
                self._at[name] = self._buffers.memory(array.nbytes)
                cuda.upload(array, self._at[name], stream)
            stream.synchronize()  # the arrays are not pinned
        except BaseException:
            self.close()
            raise

    def put(self, frame: int, result: int) -> None:
        """Queue the work that corrects the colors of a result in place.

        Args:
            frame: address of uint8 [H, W, 3].
            result: address of uint8 [sH, sW, 3].
        """
        width, height = self._size
        scale, rows, columns, at = self._scale, self._rows, self._columns, self._at
        for rgb, factor, kind, sums in ((frame, 1, "", "low"), (result, scale, "large_", "high")):
            self._launch(
                "color_sums",
                color_lock.sums_threads(columns, factor * height),
                *(rgb, *ints(factor * width, factor * height), at[f"{kind}edges_x"]),
                *(*ints(columns), at[f"{kind}row_blocks"], at[f"{sums}_sums"]),
            )
        self._launch(
            "color_missing",
            color_lock.missing_threads(columns, rows),
            *(at["low_sums"], at["high_sums"], at["edges_y"], *ints(rows)),
            *(at["edges_x"], *ints(columns, scale), at["missing"]),
        )
        self._launch(
            "color_shift",
            color_lock.shift_threads(scale * width, scale * height),
            *(result, *ints(scale * width, scale * height), at["missing"]),
            *(*ints(columns, rows), at["across"], at["down"]),
        )

    def close(self) -> None:
        self._buffers.close()

    def _launch(self, name: str, threads: int, *arguments: Any) -> None:  # noqa: ANN401
        self._kernels.launch(name, threads, arguments, self._stream)
