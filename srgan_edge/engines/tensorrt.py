"""TensorRT 10.3 to 11 and TensorRT-RTX: run an engine of `srgan-edge export` on its GPU.

Each slot has an execution context, a stream, buffers on the host and on the GPU, and one graph that
copies the input, upscales it and copies the result back: one call per frame, and nothing waits for
Python. An engine is native code: its bytes are checked against its passport before they are loaded.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from srgan_edge.engines.base import EngineInfo, Idle, Totals, finite
from srgan_edge.engines.cache import EngineCache, machine_code, why_not_here
from srgan_edge.engines.slots import CanvasSlot, SlotEngine
from srgan_edge.engines.tensorrt_log import explained, log_of
from srgan_edge.errors import (
    EngineLost,
    ModelRefused,
    OutOfMemory,
    OutputFailed,
    ResourcesExhausted,
    UsageError,
    quoted,
)
from srgan_edge.files import replace_when_whole
from srgan_edge.kernels.cuda import Buffers, Cuda, Graph, open_cuda
from srgan_edge.kernels.launch import Kernels
from srgan_edge.machine import Gpu, share_primary_context
from srgan_edge.model.onnx_file import TOTALS
from srgan_edge.model.passport import Passport, Shape, read_engine
from srgan_edge.pixels import Pixels

INPUT, OUTPUT = "input", "output"
"""Tensors of the deployment graph; engines also have the output `TOTALS`."""


class TensorRtEngine(SlotEngine["Slot"]):
    """An engine in as many slots as fit; each call of `upscale` uses an idle one."""

    def __init__(
        self, path: Path, device: str = "cuda", *, fp32: bool = False, slots: int = 1
    ) -> None:
        """Load a `.engine` file with its passport.

        There are fewer slots than requested if the GPU runs out of memory: see `info.slots`.

        Raises:
            ModelRefused: there is no passport, the bytes differ from it, or the engine was built
                for another runtime or GPU.
            UsageError: `fp32`, since engines are in half precision, or a GPU other than the first.
            ExtraMissing: the CUDA bindings are not installed.
            ResourcesExhausted: there is no GPU, or its memory does not suffice for one slot.
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
        assert gpu is not None, "there is a CUDA context but no GPU"
        self._kernels = Kernels(self.cuda, gpu.compute_capability, machine_code)
        with self.cuda.current():
            self._engine = _deserialized(plan, passport, path)
            self._compiled = CompiledKernels(self._engine, passport) if passport.is_rtx else None
            self._slots = self._as_many_as_fit(slots)
        self._idle = Idle(self._slots)
        self.info = EngineInfo(
            name=f"{passport.key.module} {passport.key.version}",
            device="cuda:0",
            precision=passport.precision,
            spec=passport.spec,
            slots=len(self._slots),
            fixed_shape=passport.key.profile.best if passport.key.profile.is_static else None,
        )

    def upscale(self, batch: Pixels) -> Pixels:
        """Upscale a batch; an engine with a fixed shape accepts at most that many tiles.

        Raises:
            UsageError: the engine was not built for this size.
            OutOfMemory: the GPU is out of memory for this shape.
            EngineLost: the GPU failed.
            NotFinite: some images exceed the range of FP16.
        """
        shape = self._shape_for(*batch.shape[:3])
        with self.slot() as slot:
            return finite(*slot.run(batch, shape))

    def close(self) -> None:
        with suppress(EngineLost), self.cuda.current():  # a lost GPU has no memory to free
            if self._compiled is not None:
                self._compiled.save()
            for slot in self._slots:
                slot.close()
        del self._slots, self._idle, self._engine

    def _as_many_as_fit(self, wanted: int) -> "list[Slot]":
        slots: list[Slot] = []
        for _ in range(wanted):
            slot = None
            try:
                slot = Slot(self.cuda, self._new_context(), self._passport)
                slot.take_shape(self._passport.key.profile.best)
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
        """Return the shape in which a batch runs: its own, or the only one of a fixed engine."""
        profile = self._passport.key.profile
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
            f"the engine accepts {profile}, not {frames}x{height}x{width}; "
            f"build one for that size: srgan-edge export {quoted(self._passport.source)}"
        )

    @contextmanager
    def _network(self, slot: "Slot", shape: Shape) -> Iterator["Slot"]:
        slot.take_shape(shape)
        yield slot


class Slot(CanvasSlot):
    """An execution context with its stream, buffers and graph, for one shape at a time."""

    def __init__(self, cuda: Cuda, context: Any, passport: Passport) -> None:  # noqa: ANN401
        self._cuda, self._context = cuda, context
        self._scale, self._is_rtx = passport.spec.scale, passport.is_rtx
        self.stream, self._done = cuda.stream(), cuda.event()
        self._addresses: dict[str, int] = {}
        self._shape: Shape | None = None
        self._buffers = Buffers(cuda)
        self._graph: Graph | None = None

    def run(self, batch: Pixels, shape: Shape) -> tuple[Pixels, Totals]:
        """Upscale uint8 [n, H, W, 3], n <= `shape[0]`; return [n, sH, sW, 3] and totals [n]."""
        self.take_shape(shape)
        self._here[: len(batch)] = batch  # the rest is left from an earlier call and ignored
        if self._graph is not None:
            self._graph.launch(self.stream)
        else:
            self._put_with_copies()
        self.wait()
        return self._back[: len(batch)].copy(), self._totals[: len(batch)].copy()

    def take_shape(self, shape: Shape) -> None:
        """Create the buffers and the graph for a shape, unless the slot already has them.

        Raises:
            OutOfMemory: the GPU is out of memory; the slot can still change to another shape.
        """
        if shape == self._shape:
            return
        self._release()
        frames, height, width = shape
        larger = (frames, self._scale * height, self._scale * width, 3)
        pinned, memory = self._buffers.pinned, self._buffers.memory
        self._here, self._back = pinned((*shape, 3)), pinned(larger)
        self._totals = pinned((4 * frames,)).view(np.float32)
        self._here[:] = 0
        sizes = {
            INPUT: self._here.nbytes,
            OUTPUT: self._back.nbytes,
            TOTALS: self._totals.nbytes,
        }
        self._addresses = {name: memory(size_bytes) for name, size_bytes in sizes.items()}
        ready = self._context.set_input_shape(INPUT, (*shape, 3))
        for name, address in self._addresses.items():
            ready = ready and self._context.set_tensor_address(name, address)
        if not ready:
            raise EngineLost(f"TensorRT rejects the shape {shape} or the memory for it")
        self._put_with_copies()  # the first run is slower and must not be recorded
        self.stream.synchronize()
        self._graph = self.recorded(self._put_with_copies)
        self._shape = shape

    @property
    def source(self) -> int:
        """Address of the network's input, in the current shape."""
        return self._addresses[INPUT]

    @property
    def target(self) -> int:
        """Address of the network's output."""
        return self._addresses[OUTPUT]

    def put(self) -> None:
        """Queue the work that upscales `source` into `target`."""
        if not self._context.execute_async_v3(self.stream.handle):
            raise EngineLost("TensorRT did not run the engine")

    def take_totals(self, totals: Totals) -> None:
        """Queue a copy of the totals of the last `put`, float32 [n], to pinned memory."""
        self._cuda.download(self._addresses[TOTALS], totals, self.stream)

    def recorded(self, put: Callable[[], None]) -> Graph | None:
        """Record the work that `put` queues; return None while TensorRT-RTX still compiles."""
        if self._is_rtx and not self._context.is_stream_capturable(self.stream.handle):
            return None
        with self._cuda.recording(self.stream) as graph:
            put()
        return graph

    def wait(self) -> None:
        """Wait until all work in the stream is done."""
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

    def _release(self) -> None:
        self._shape = None
        self.stream.synchronize()
        self.close_canvas()
        self._buffers.close()


class CompiledKernels:
    """The kernels that TensorRT-RTX compiles when it creates a context, cached for the next run.

    TensorRT-RTX itself checks that they were compiled by this version, for this GPU and driver.
    """

    def __init__(self, engine: Any, passport: Passport) -> None:  # noqa: ANN401
        gpu = Gpu.find()
        assert gpu is not None, "there is a CUDA context but no GPU"
        self._path = EngineCache().compiled_path(passport.key.version, gpu)
        self.config = engine.create_runtime_config()
        self._kernels = self.config.create_runtime_cache()
        if self._path.is_file():
            self._kernels.deserialize(self._path.read_bytes())
        self.config.set_runtime_cache(self._kernels)

    def save(self) -> None:
        """Write the cache; if that fails, only the next start is slower."""
        with suppress(OutputFailed), replace_when_whole(self._path) as temporary:
            temporary.write_bytes(bytes(self._kernels.serialize()))


def _deserialized(plan: bytes, passport: Passport, path: Path) -> Any:  # noqa: ANN401
    trt, log = importlib.import_module(passport.key.module), log_of(passport.key.module)
    log.clear()
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise ModelRefused(f"{path}: {explained(log.errors, passport.rebuild_command)}")
    tensors = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if tensors != {INPUT, OUTPUT, TOTALS}:
        raise ModelRefused(
            f"{path}: its tensors are {', '.join(sorted(tensors))}, unlike those of this version; "
            f"type: {passport.rebuild_command}"
        )
    return engine
