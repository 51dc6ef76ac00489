"""TensorRT 10.3 to 11 and TensorRT-RTX: an engine of `srgan-edge export`, on the GPU it is for.

Each slot has an execution context, a stream, buffers on both sides of the bus, and one graph in
which bytes go there, are upscaled, and come back: one call a frame, in which nothing waits for
Python. An engine is native code: its bytes are proven to be its passport's before they are loaded.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from srgan_edge.engines.base import EngineInfo, Idle, Totals, finite
from srgan_edge.engines.cache import EngineCache, machine_code, why_not_here
from srgan_edge.engines.canvas import Canvas
from srgan_edge.engines.tensorrt_log import explained, log_of
from srgan_edge.errors import (
    EngineLost,
    ModelRefused,
    OutOfMemory,
    OutputFailed,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.files import replace_when_whole
from srgan_edge.kernels.cuda import Cuda, Graph, open_cuda
from srgan_edge.kernels.launch import Kernels
from srgan_edge.machine import Gpu, share_primary_context
from srgan_edge.model.onnx_file import TOTALS
from srgan_edge.model.passport import Passport, Shape, read_engine
from srgan_edge.pixels import Pixels
from srgan_edge.tiling import TilePlan

INPUT, OUTPUT = "input", "output"
"""Of the deployment graph; engines have `TOTALS` besides."""


class TensorRtEngine:
    """An engine in as many slots as fit; each call of `upscale` takes one that is idle."""

    def __init__(
        self, path: Path, device: str = "cuda", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.engine` file with its passport.

        Slots that the GPU has no memory for are done without; `info` says how many there are.

        Raises:
            ModelRefused: no passport, other bytes than its, or built for another runtime or GPU.
            UsageError: `fp32`, which an engine in half precision is not, or a second GPU.
            ExtraMissing: no binding of CUDA.
            ResourcesExhausted: no GPU, or one with too little memory for a single slot.
        """
        plan, passport = read_engine(path)
        if fp32:
            raise UsageError(f"{path} is in {passport.precision}; --fp32 is for --engine torch")
        if device not in ("cuda", "cuda:0"):
            raise UsageError(f"--engine tensorrt runs on cuda:0, not on {device!r}")
        if reason := why_not_here(passport):
            raise ModelRefused(f"{path}: {reason}; type: {passport.rebuild_command}")
        share_primary_context()  # with FFmpeg, for videos
        self._passport, self.cuda = passport, open_cuda()
        gpu = Gpu.find()
        assert gpu is not None, "there is a CUDA context, and no GPU"
        self._kernels = Kernels(self.cuda, gpu.compute_capability, machine_code)
        with self.cuda.current():
            self._engine = _deserialized(plan, passport, path)
            self._compiled = CompiledKernels(self._engine, passport) if passport.is_rtx else None
            self._slots = self._as_many_as_fit(slots)
        self._idle = Idle(self._slots)
        self.info = EngineInfo(
            name=f"{passport.module} {passport.version}",
            device="cuda:0",
            precision=passport.precision,
            spec=passport.spec,
            slots=len(self._slots),
            fixed_shape=passport.profile.best if passport.profile.is_static else None,
        )

    takes_frames = True

    def upscale(self, batch: Pixels) -> Pixels:
        """As the protocol says; of a fixed shape, with as many tiles as it has or fewer.

        Raises:
            UsageError: a size that the engine was not made for.
            OutOfMemory: a shape for which the GPU has too little.
            EngineLost: the GPU failed.
            NotFinite: images beyond what FP16 holds.
        """
        shape = self._shape_for(*batch.shape[:3])
        with self.slot() as slot:
            return finite(*slot.run(batch, shape))

    def upscale_frame(
        self, frame: Pixels, plan: TilePlan, batch: int, *, lock_colors: bool = False
    ) -> Pixels:
        """As `tiling.upscale_tiled`, but cut and put together on the GPU, and locked if asked for.

        Raises:
            UsageError, OutOfMemory, EngineLost, NotFinite: as above.
            KernelsMissing: the kernels for it cannot be had here.
        """
        if len(plan.tiles) == 1 and not lock_colors:
            return self.upscale(np.ascontiguousarray(frame)[None])[0]
        with self.slot() as slot:
            return self.canvas(slot, plan, batch, lock_colors=lock_colors).upscale_pixels(frame)

    @contextmanager
    def slot(self) -> Iterator["Slot"]:
        """One that is idle, for this thread alone, in the context of the GPU; waits for one."""
        with self._idle.one() as slot, self.cuda.current():
            yield slot

    @contextmanager
    def all_slots(self) -> Iterator["list[Slot]"]:
        """All of them, which nobody uses meanwhile."""
        with self._idle.all() as slots, self.cuda.current():
            yield slots

    def canvas(
        self, slot: "Slot", plan: TilePlan, batch: int, *, lock_colors: bool = False
    ) -> Canvas:
        """The slot's room for frames that are cut by `plan`, `batch` tiles at a time."""
        width, height = plan.window_size
        shape = self._shape_for(min(batch, len(plan.tiles)), height, width)
        return slot.canvas(plan, shape, self._kernels, lock_colors)

    def close(self) -> None:
        with suppress(EngineLost), self.cuda.current():  # what is lost has nothing to give back
            if self._compiled is not None:
                self._compiled.save()
            for slot in self._slots:
                slot.close()
        del self._slots, self._idle, self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _as_many_as_fit(self, wanted: int) -> "list[Slot]":
        slots: list[Slot] = []
        for _ in range(wanted):
            slot = None
            try:
                slot = Slot(self.cuda, self._new_context(), self._passport)
                slot.take_shape(self._passport.profile.best)
            except OutOfMemory:
                if slot is not None:
                    slot.close()
                if not slots:
                    raise ResourcesExhausted(
                        "the GPU has too little memory for this engine; build one for smaller "
                        f"tiles: {self._passport.command_for('--tile 64')}"
                    ) from None
                break
            slots.append(slot)
        return slots

    def _new_context(self) -> Any:  # noqa: ANN401 - an object of TensorRT's
        options = () if self._compiled is None else (self._compiled.config,)
        context = self._engine.create_execution_context(*options)
        if context is None:
            raise OutOfMemory("the GPU is out of memory: no execution context")
        return context

    def _shape_for(self, frames: int, height: int, width: int) -> Shape:
        """The shape of the profile that a batch runs in: its own, or that of a fixed engine."""
        profile = self._passport.profile
        if profile.is_static:
            most, *size = profile.best
            if [height, width] == size and frames <= most:
                return profile.best
        else:
            shape = (frames, height, width)
            limits = zip(profile.smallest, shape, profile.largest, strict=True)
            if all(low <= size <= high for low, size, high in limits):
                return shape
        raise UsageError(
            f"the engine takes {profile}, and was given {frames}x{height}x{width}; "
            f"build one for that: srgan-edge export {self._passport.source}"
        )


class Slot:
    """A context with its stream, buffers and graph, all for one shape at a time."""

    def __init__(self, cuda: Cuda, context: Any, passport: Passport) -> None:  # noqa: ANN401
        self._cuda, self._context = cuda, context
        self._scale, self._is_rtx = passport.spec.scale, passport.is_rtx
        self.stream, self._done = cuda.stream(), cuda.event()
        self._addresses: dict[str, int] = {}
        self._shape: Shape | None = None
        self._buffers: list[Any] = []
        self._graph: Graph | None = None
        self._canvas: Canvas | None = None

    def run(self, batch: Pixels, shape: Shape) -> tuple[Pixels, Totals]:
        """uint8 [n, H, W, 3], n at most that of `shape`, -> [n, sH, sW, 3] and float32 [n]."""
        self.take_shape(shape)
        self._here[: len(batch)] = batch  # what follows is of an earlier call, and not looked at
        if self._graph is not None:
            self._graph.launch(self.stream)
        else:
            self._put_with_copies()
        self.wait()
        return self._back[: len(batch)].copy(), self._totals[: len(batch)].copy()

    def take_shape(self, shape: Shape) -> None:
        """Make buffers and graph for a shape, unless they are for it already.

        Raises:
            OutOfMemory: they do not fit; the slot can take another shape.
        """
        if shape == self._shape:
            return
        self._release()
        frames, height, width = shape
        larger = (frames, self._scale * height, self._scale * width, 3)
        self._here, self._back = self._pinned((*shape, 3)), self._pinned(larger)
        self._totals = self._pinned((4 * frames,)).view(np.float32)
        self._here[:] = 0
        arrays: dict[str, NDArray[Any]]
        arrays = {INPUT: self._here, OUTPUT: self._back, TOTALS: self._totals}
        self._addresses = {name: self._memory(array.nbytes) for name, array in arrays.items()}
        ready = self._context.set_input_shape(INPUT, (*shape, 3))
        for name, address in self._addresses.items():
            ready = ready and self._context.set_tensor_address(name, address)
        if not ready:
            raise EngineLost(f"TensorRT does not take {shape} or the memory for it")
        self._put_with_copies()  # the first time it is slower, and must not be recorded
        self.stream.synchronize()
        self._graph = self.recorded(self._put_with_copies)
        self._shape = shape

    def canvas(self, plan: TilePlan, shape: Shape, kernels: Kernels, lock_colors: bool) -> Canvas:
        """Room for frames that are cut by `plan`, kept until something else comes.

        Raises:
            OutOfMemory: it does not fit.
        """
        wanted = (plan, shape[0], lock_colors)
        if self._canvas is None or shape != self._shape or not self._canvas.is_for(*wanted):
            self._close_canvas()
            self.take_shape(shape)
            self._canvas = Canvas(self._cuda, kernels, self, *wanted, self._scale)
        return self._canvas

    @property
    def source(self) -> int:
        """Address of what the network reads, in the shape that was taken last."""
        return self._addresses[INPUT]

    @property
    def target(self) -> int:
        """Address of what it writes."""
        return self._addresses[OUTPUT]

    def put(self) -> None:
        """What is at `source`, upscaled, to `target`: into the stream."""
        if not self._context.execute_async_v3(self.stream.handle):
            raise EngineLost("TensorRT did not run the engine")

    def take_totals(self, totals: Totals) -> None:
        """Those of what was put last, float32 [n], into pinned memory: into the stream."""
        self._cuda.download(self._addresses[TOTALS], totals, self.stream)

    def recorded(self, put: Callable[[], None]) -> Graph | None:
        """What `put` does as one graph; None where TensorRT-RTX still compiles in the midst."""
        if self._is_rtx and not self._context.is_stream_capturable(self.stream.handle):
            return None
        with self._cuda.recording(self.stream) as graph:
            put()
        return graph

    def wait(self) -> None:
        """Until the stream has done all that was put into it."""
        self._done.record(self.stream)
        self._done.synchronize()

    def close(self) -> None:
        self._release()
        del self._context

    def _put_with_copies(self) -> None:
        self._cuda.upload(self._here, self.source, self.stream)
        self.put()
        self._cuda.download(self.target, self._back, self.stream)
        self.take_totals(self._totals)

    def _pinned(self, shape: tuple[int, ...]) -> Pixels:
        pinned = self._cuda.pinned_memory(int(np.prod(shape)))
        self._buffers.append(pinned)
        return pinned.array.reshape(shape)

    def _memory(self, size_bytes: int) -> int:
        memory = self._cuda.memory(size_bytes)
        self._buffers.append(memory)
        return memory.address

    def _release(self) -> None:
        self._shape = None
        self.stream.synchronize()
        self._close_canvas()
        while self._buffers:
            self._buffers.pop().close()

    def _close_canvas(self) -> None:
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None


class CompiledKernels:
    """What TensorRT-RTX compiles for the GPU at hand as a context is made, kept for the next time.

    It checks by itself that what it is given was compiled by this version for this GPU and driver.
    """

    def __init__(self, engine: Any, passport: Passport) -> None:  # noqa: ANN401
        gpu = Gpu.find()
        assert gpu is not None, "there is a CUDA context, and no GPU"
        self._path = EngineCache().compiled_path(passport.version, gpu)
        self.config = engine.create_runtime_config()
        self._kernels = self.config.create_runtime_cache()
        if self._path.is_file():
            self._kernels.deserialize(self._path.read_bytes())
        self.config.set_runtime_cache(self._kernels)

    def save(self) -> None:
        """Write what there is now; without it the next start takes longer, and that is all."""
        with suppress(OutputFailed), replace_when_whole(self._path) as temporary:
            temporary.write_bytes(bytes(self._kernels.serialize()))


def _deserialized(plan: bytes, passport: Passport, path: Path) -> Any:  # noqa: ANN401
    trt, log = importlib.import_module(passport.module), log_of(passport.module)
    log.clear()
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise ModelRefused(f"{path}: {explained(log.errors, passport.rebuild_command)}")
    tensors = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if tensors != {INPUT, OUTPUT, TOTALS}:
        raise ModelRefused(
            f"{path}: reads and writes {', '.join(sorted(tensors))}, as no engine of this version "
            f"does; type: {passport.rebuild_command}"
        )
    return engine
