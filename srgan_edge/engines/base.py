"""What every engine promises, and nothing else: no files, no frames, no tiles."""

from dataclasses import dataclass
from typing import Protocol, Self

from srgan_edge.pixels import Pixels
from srgan_edge.spec import ModelSpec


@dataclass(frozen=True)
class EngineInfo:
    """What is running, as it would be reported to a stranger."""

    name: str
    """Runtime and its version, for example `openvino 2026.4.1`."""
    device: str
    """Where it runs, for example `cpu` or `cuda:0`."""
    precision: str
    """Arithmetic of the convolutions in floating point: `fp32`, `bf16` or `fp16`."""
    spec: ModelSpec
    """The generator it runs."""
    slots: int = 1
    """How many calls of `upscale` may run at once, each in a thread of its own."""
    fixed_shape: tuple[int, int, int] | None = None
    """Frames, height and width of the only input there is, of which fewer frames may come; None:
    any shape."""

    @property
    def arithmetic(self) -> str:
        """`int8 + bf16` if some convolutions are in INT8 and the others in BF16; else `bf16`."""
        return f"int8 + {self.precision}" if self.spec.quantized_from else self.precision


class Engine(Protocol):
    """One generator, ready to run in one runtime on one device."""

    @property
    def info(self) -> EngineInfo:
        """What is running."""
        ...

    def upscale(self, batch: Pixels) -> Pixels:
        """uint8 [N, H, W, 3] -> uint8 [N, sH, sW, 3], s being `info.spec.scale`.

        N, H and W may be any size from 1 up and may change from call to call, but for an engine of
        a fixed shape; calls with one shape are the fast ones. The result belongs to the caller: no
        later call changes it.

        Raises:
            OutOfMemory: the device has too little memory; less may do.
            EngineLost: the device failed; another engine may do.
        """
        ...

    def close(self) -> None:
        """Free the runtime's memory. The engine cannot be used afterwards."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
