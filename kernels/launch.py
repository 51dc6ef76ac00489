"""Launch the kernels of this folder on one GPU; each is compiled when it is first used."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

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
"""The type of `source.compile_with_nvrtc`, or of a function that caches its results."""


class Kernels:
    """Launches kernels by name, from any thread in the GPU's context."""

    def __init__(self, cuda: Cuda, compute_capability: str, compile_source: Compile) -> None:
        """Prepare for a GPU with a compute capability such as `8.9`; compile nothing yet."""
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
            threads: number of threads, from `threads` of the kernel's reference.
            arguments: parameters in the order of the reference; an `int` is an address, everything
                else an `np.int32`.

        Raises:
            KernelsMissing: as `load`.
        """
        blocks = -(-threads // BLOCK_THREADS)
        self.load(name)((blocks,), (BLOCK_THREADS,), arguments, stream)

    def load(self, name: str) -> Kernel:
        """Return the compiled kernel; compiling takes a second, so call it before the first frame.

        Raises:
            KernelsMissing: there is no compiler, or the driver is too old for it.
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


def ints(*values: int) -> tuple[np.int32, ...]:
    """Return kernel arguments that are numbers rather than addresses."""
    return tuple(map(np.int32, values))
