"""The kernels of this folder on one GPU, each compiled when it is first launched."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from srgan_edge.kernels.cuda import Argument, Cuda, Kernel, Stream
from srgan_edge.kernels.source import BLOCK_THREADS, KERNELS, source_of

Compile = Callable[[Path, str], bytes]
"""`source.compile_with_nvrtc`, or what remembers its results."""


class Kernels:
    """Launches kernels by name. Any thread may, in the context of the GPU."""

    def __init__(self, cuda: Cuda, compute_capability: str, compile_source: Compile) -> None:
        """`compute_capability`: of the GPU, as `8.9`."""
        self._cuda, self._compute_capability = cuda, compute_capability
        self._compile = compile_source
        self._images: dict[str, bytes] = {}
        self._kernels: dict[str, Kernel] = {}
        self._compiling = threading.Lock()

    def launch(
        self, name: str, threads: int, arguments: Sequence[Argument], stream: Stream
    ) -> None:
        """Put a kernel into a stream.

        Args:
            threads: as the reference of the kernel counts them.
            arguments: as the reference lists them; an `int` is an address, all else an `np.int32`.

        Raises:
            ExtraMissing: no compiler here.
        """
        blocks = -(-threads // BLOCK_THREADS)
        self.load(name)((blocks,), (BLOCK_THREADS,), arguments, stream)

    def load(self, name: str) -> Kernel:
        """The kernel, compiled: takes a second or so, which nobody wants between two frames."""
        with self._compiling:
            if name not in self._kernels:
                source = KERNELS[name]
                if source not in self._images:
                    self._images[source] = self._compile(source_of(name), self._compute_capability)
                self._kernels[name] = self._cuda.kernel(self._images[source], name)
            return self._kernels[name]
