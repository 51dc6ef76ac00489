"""PyTorch's engine with frames that are cut and locked on the GPU, on the driver without a GPU.

PyTorch's CPU stands in for its GPU: it computes at once, and so first has the stream of the driver
end what was put there before. What is recorded is done again. It is not collected by itself;
tests/test_cuda.py runs it.
"""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from host_kernels import register_all

from srgan_edge.color_lock import locked
from srgan_edge.engines import torch as engine_module
from srgan_edge.engines.fused import nvidia_bindings
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.errors import OutOfMemory
from srgan_edge.models import find_model
from srgan_edge.tiling import upscale_tiled
from srgan_edge.upscaler import Tiling, Upscaler

DRIVER = ctypes.CDLL(os.environ["SRGAN_EDGE_FAKE_DRIVER"], ctypes.RTLD_GLOBAL)
DRIVER.fake_used_bytes.restype = ctypes.c_size_t
CHECKPOINT = find_model("edge-x4").file(".safetensors")


@pytest.fixture(scope="module", autouse=True)
def host_kernels(tmp_path_factory):
    """The kernels, to be launched by their names."""
    kept = register_all(DRIVER, tmp_path_factory.mktemp("kernels"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "machine_code", lambda *_: b"an image\0")
        yield kept


class Stream:
    """`torch.cuda.Stream`, of the driver's."""

    def __init__(self, device):
        self._cuda = nvidia_bindings()
        with self._cuda.current():
            self._stream = self._cuda.stream()
        self.cuda_stream = self._stream.handle

    def synchronize(self):
        with self._cuda.current():
            self._stream.synchronize()


class Again:
    def __init__(self, put):
        self._put = put

    def launch(self, stream):
        self._put()


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    @contextmanager
    def stream(of):
        of.synchronize()
        yield

    create = engine_module._Bound.__init__

    def lent(self, *arguments):
        create(self, *arguments)
        for tensor in (self._source, self._target, self._totals):
            DRIVER.fake_lend(ctypes.c_size_t(tensor.data_ptr()), ctypes.c_size_t(tensor.nbytes))

    monkeypatch.setattr(engine_module._Bound, "__init__", lent)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(engine_module, "_gpu_of", lambda device: torch.device("cpu", 0))
    monkeypatch.setattr(engine_module._Bound, "recorded", lambda self, put: Again(put))
    monkeypatch.setattr(engine_module._Slot, "SHAPES_REMEMBERED", 0)  # tests/test_torch_slots.py


def pictures(count, height, width):
    shape = (count, height, width, 3)
    return np.random.default_rng(height).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("lock", [False, True])
@pytest.mark.parametrize(("tile", "batch"), [(0, 1), (20, 1), (20, 3), (16, 50)])
def test_frames_are_those_that_are_cut_here(tile, batch, lock):
    """Two threads, two sizes, each frame another one."""
    frames = [*pictures(4, 37, 61), *pictures(3, 50, 40)]
    with TorchEngine(CHECKPOINT, "cuda", slots=2) as engine, ThreadPoolExecutor(2) as threads:
        assert engine.takes_frames
        said = []
        upscaler = Upscaler(engine, Tiling(tile, 3, batch), said.append, color_lock=lock)
        results = list(threads.map(upscaler.upscale, frames))
        for frame, result in zip(frames, results, strict=True):
            plan, _ = upscaler.plan(frame.shape[1], frame.shape[0])
            expected = upscale_tiled(engine.upscale, frame, plan, 4, batch)
            assert np.array_equal(result, locked(frame, expected) if lock else expected)
    assert not said
    assert DRIVER.fake_used_bytes() == 0


def test_without_room_for_frames_they_are_cut_here(monkeypatch):
    """The upscaler goes on as with any engine."""
    (frame,), said = pictures(1, 37, 61), []

    def refuse(self, size_bytes):
        raise OutOfMemory

    with TorchEngine(CHECKPOINT, "cuda") as engine:
        upscaler = Upscaler(engine, Tiling(20, 3), said.append, color_lock=True)
        monkeypatch.setattr(type(engine.cuda), "memory", refuse)
        result = upscaler.upscale(frame)
        plan, batch = upscaler.plan(61, 37)
        expected = upscale_tiled(engine.upscale, frame, plan, 4, batch)
    assert np.array_equal(result, locked(frame, expected))
    assert said == ["out of memory: going on with frames that are cut before they go to the GPU"]
