"""The kernels of this folder on one GPU, each compiled when it is first launched."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from srgan_edge.errors import (
    ExtraMissing,
    KernelsMissing,
    OutOfMemory,
    ResourcesExhausted,
    UsageError,
)
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
            KernelsMissing: as `load`.
        """
        blocks = -(-threads // BLOCK_THREADS)
        self.load(name)((blocks,), (BLOCK_THREADS,), arguments, stream)

    def load(self, name: str) -> Kernel:
        """The kernel, compiled: takes a second or so, which nobody wants between two frames.

        Raises:
            KernelsMissing: there is no compiler here, or a driver that is older than it.
        """
        with self._compiling:
            if name not in self._kernels:
                try:
                    self._kernels[name] = self._compiled(name)
                except OutOfMemory:
                    raise
                except (ExtraMissing, UsageError, ResourcesExhausted) as error:
                    raise KernelsMissing(str(error)) from error
            return self._kernels[name]

    def _compiled(self, name: str) -> Kernel:
        source = KERNELS[name]
        if source not in self._images:
            self._images[source] = self._compile(source_of(name), self._compute_capability)
        return self._cuda.kernel(self._images[source], name)
