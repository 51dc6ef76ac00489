"""PyTorch's engine with frames that are cut and locked on the GPU, on the driver without a GPU.

PyTorch's CPU stands in for its GPU. It computes immediately, so the driver's stream first finishes
its earlier work; recorded work is repeated. Pytest does not collect this file:
tests/kernels/test_cuda.py runs it.
"""

import ctypes
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial

import av
import numpy as np
import pytest
import torch
from clips import make
from host_kernels import register_all

from srgan_edge.cli import app
from srgan_edge.color_lock import locked
from srgan_edge.engines import torch as engine_module
from srgan_edge.engines.fused import nvidia_bindings
from srgan_edge.engines.torch import TorchEngine
from srgan_edge.engines.torch_slots import BoundNetwork, Slot
from srgan_edge.errors import EngineLost, OutOfMemory
from srgan_edge.kernels.rgb_to_yuv420 import rgb_to_yuv420
from srgan_edge.kernels.yuv420_to_rgb import yuv420_to_rgb
from srgan_edge.model.checkpoint import save_checkpoint
from srgan_edge.model.library import find_model
from srgan_edge.model.network import generator_from_spec
from srgan_edge.model.spec import ModelSpec
from srgan_edge.tiling import Tiling, upscale_tiled
from srgan_edge.transcode import on_gpu as gpu_video
from srgan_edge.transcode import upscale as video
from srgan_edge.transcode.gpu_frames import CPU
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.nvidia import Nvdec, NvdecFailed

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

    create = BoundNetwork.__init__

    def lent(self, *arguments):
        create(self, *arguments)
        for tensor in (self._source, self._target, self._totals):
            DRIVER.fake_lend(ctypes.c_size_t(tensor.data_ptr()), ctypes.c_size_t(tensor.nbytes))

    monkeypatch.setattr(BoundNetwork, "__init__", lent)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(engine_module, "_gpu_of", lambda device: torch.device("cpu", 0))
    monkeypatch.setattr(BoundNetwork, "recorded", lambda self, put: Again(put))
    monkeypatch.setattr(Slot, "SHAPES_REMEMBERED", 0)  # tests/engines/test_torch_slots.py


def images(count, height, width):
    shape = (count, height, width, 3)
    return np.random.default_rng(height).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("lock", [False, True])
@pytest.mark.parametrize(("tile", "batch"), [(0, 1), (20, 1), (20, 3), (16, 50)])
def test_frames_are_those_that_are_cut_here(tile, batch, lock):
    """Two threads, two sizes, each frame another one."""
    frames = [*images(4, 37, 61), *images(3, 50, 40)]
    with TorchEngine(CHECKPOINT, "cuda", slots=2) as engine, ThreadPoolExecutor(2) as threads:
        assert engine.takes_frames
        said = []
        upscaler = FrameUpscaler(engine, Tiling(tile, 3, batch), said.append, color_lock=lock)
        results = list(threads.map(upscaler.upscale, frames))
        for frame, result in zip(frames, results, strict=True):
            plan, _ = upscaler.plan(frame.shape[1], frame.shape[0])
            expected = upscale_tiled(engine.upscale, frame, plan, 4, batch)
            assert np.array_equal(result, locked(frame, expected) if lock else expected)
    assert not said
    assert DRIVER.fake_used_bytes() == 0


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_frames_of_every_scale_are_those_that_are_cut_here(tmp_path, scale):
    spec = ModelSpec("tiny", "edge", 8, 1, scale=scale)
    save_checkpoint(tmp_path / "m.safetensors", generator_from_spec(spec).eval(), spec)
    (frame,) = images(1, 37, 61)
    with TorchEngine(tmp_path / "m.safetensors", "cuda") as engine:
        upscaler = FrameUpscaler(engine, Tiling(20, 3, 2), color_lock=True)
        result = upscaler.upscale(frame)
        plan, batch = upscaler.plan(61, 37)
        expected = upscale_tiled(engine.upscale, frame, plan, scale, batch)
    assert np.array_equal(result, locked(frame, expected))


def test_without_room_for_frames_they_are_cut_here(monkeypatch):
    """The upscaler goes on as with any engine."""
    (frame,), said = images(1, 37, 61), []

    def refuse(self, size_bytes):
        raise OutOfMemory

    with TorchEngine(CHECKPOINT, "cuda") as engine:
        upscaler = FrameUpscaler(engine, Tiling(20, 3), said.append, color_lock=True)
        monkeypatch.setattr(type(engine.cuda), "memory", refuse)
        result = upscaler.upscale(frame)
        plan, batch = upscaler.plan(61, 37)
        expected = upscale_tiled(engine.upscale, frame, plan, 4, batch)
    assert np.array_equal(result, locked(frame, expected))
    assert said == ["out of memory: going on with frames that are cut before they go to the GPU"]


# Videos


class Stand(Nvdec):
    """Software in place of NVDEC: frames in NV12, in memory that the driver accepts as a GPU's."""

    fails_at = None

    def __init__(self, *, stays=False):
        super().__init__(stays=stays)
        self.hwaccel, self._given = None, 0

    def _decoded(self, stream, packet):
        given = {"yuv420p": "nv12", "yuv420p10le": "p010le"}
        frames = [it.reformat(format=given.get(it.format.name)) for it in stream.decode(packet)]
        self._given += len(frames)
        if self.fails_at is not None and self._given > self.fails_at:
            raise NvdecFailed("NVDEC fell over")
        for frame in frames:
            for plane in frame.planes:
                size = ctypes.c_size_t(plane.buffer_size)
                DRIVER.fake_lend(ctypes.c_size_t(plane.buffer_ptr), size)
        return frames


@pytest.fixture
def upscale(tmp_path, monkeypatch, capsys):
    """Upscale a video in segments of four frames by the command; returns exit code and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video, "Nvdec", Stand)
    monkeypatch.setattr(Stand, "fails_at", None)
    monkeypatch.setattr("srgan_edge.run.choose_decoder", lambda *_: "gpu")
    monkeypatch.setattr("srgan_edge.transcode.segments.SEGMENT_FRAMES", 4)
    host = partial(gpu_video.GpuVideo, device=CPU)
    monkeypatch.setattr(gpu_video, "GpuVideo", host)

    def run(*options):
        arguments = ["upscale", "in.mkv", "-n", str(CHECKPOINT), "--engine", "torch"]
        arguments += ["--device", "cuda", "--tile", "24", "-c", "ffv1", "--decode", "gpu"]
        with pytest.raises(SystemExit) as ended:
            app([*arguments, "-o", "out.mkv", "--json-events", *options], standalone_mode=False)
        out, err = capsys.readouterr()
        events = [json.loads(line) for line in out.splitlines()]
        said = [event["text"] for event in events if event["event"] == "note"]
        return ended.value.code or 0, [line for line in said if "color matrix" not in line], err

    return run


def planes_of(path, pixel_format):
    """Return time in seconds, luma, and chroma as in NV12, for each frame."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.format.name == pixel_format
            luma, chroma = (
                np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
                for plane in frame.reformat(format="nv12").planes
            )
            shape = (frame.height // 2, frame.width // 2, 2)
            pairs = chroma[:, : frame.width].reshape(shape)
            found.append((frame.pts * frame.time_base, luma[:, : frame.width].copy(), pairs.copy()))
    return found


def expected_planes(lock):
    """Compute the planes with the kernels' references and the engine, frame by frame."""
    matrix = gpu_video.YuvMatrix(0.299, 0.114, full_range=False)
    with TorchEngine(CHECKPOINT, "cuda") as engine:
        upscaler = FrameUpscaler(engine, Tiling(24), color_lock=lock)
        return [
            (time, *rgb_to_yuv420(upscaler.upscale(yuv420_to_rgb(luma, chroma, matrix)), matrix))
            for time, luma, chroma in planes_of("in.mkv", "yuv420p")
        ]


def assert_equal(frames, expected):
    assert len(frames) == len(expected)
    for one, other in zip(frames, expected, strict=True):
        assert one[0] == other[0]
        assert np.array_equal(one[1], other[1])
        assert np.array_equal(one[2], other[2])


@pytest.mark.parametrize("lock", [False, True])
def test_a_video_stays_on_the_gpu_until_it_is_encoded(upscale, lock):
    make("in.mkv", frames=10, options={"crf": "18", "bf": "2"}, audio=["eng"])
    assert upscale("-s", "4", "--color-lock" if lock else "--no-color-lock") == (0, [], "")
    assert_equal(planes_of("out.mkv", "yuv420p"), expected_planes(lock))


def test_a_video_that_was_stopped_goes_on_there(upscale, monkeypatch):
    make("in.mkv", frames=10)
    upscale_frame = gpu_video.GpuVideo.func.upscale
    calls = []

    def stopped(self, frame):
        calls.append(frame)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return upscale_frame(self, frame)

    monkeypatch.setattr(gpu_video.GpuVideo.func, "upscale", stopped)
    with pytest.raises(BaseException):  # noqa: B017 - however it ends
        upscale()
    code, said, _ = upscale()
    assert (code, len(said)) == (0, 1)
    assert "resuming after 4 frames" in said[0]
    assert_equal(planes_of("out.mkv", "yuv420p"), expected_planes(False))


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (OutOfMemory(), "continuing through host memory"),
        (EngineLost("the GPU failed"), "the GPU failed; continuing through host memory"),
        (None, "NVDEC fell over; continuing through host memory"),
    ],
)
def test_failures_on_the_gpu_fall_back(upscale, monkeypatch, trouble, line):
    """No frame is lost or done twice, and those before it are as they were."""
    make("in.mkv", frames=10)
    upscale_frame, calls = gpu_video.GpuVideo.func.upscale, []

    def failing(self, frame):
        calls.append(frame)
        if len(calls) == 7:
            raise trouble
        return upscale_frame(self, frame)

    if trouble is None:
        monkeypatch.setattr(Stand, "fails_at", 6)
    else:
        monkeypatch.setattr(gpu_video.GpuVideo.func, "upscale", failing)
    code, said, _ = upscale()
    assert code == 0
    assert line in said[0]
    frames, expected = planes_of("out.mkv", "yuv420p"), expected_planes(False)
    assert_equal(frames[:4], expected[:4])
    assert [frame[0] for frame in frames] == [frame[0] for frame in expected]
    for one, other in zip(frames, expected, strict=True):
        for plane, twin in zip(one[1:], other[1:], strict=True):
            assert np.abs(plane.astype(int) - twin).mean() < 1


@pytest.mark.parametrize(
    ("clip", "options", "reason"),
    [
        ({"pixel_format": "yuv420p10le"}, [], "NVDEC returned h264 in p010le, not in NV12"),
        ({"pixel_format": "yuv444p"}, [], "NVDEC returned h264 in yuv444p, not in NV12"),
        ({}, ["--outscale", "3"], "its final size is made there"),
        ({}, ["--deinterlace"], "--deinterlace is done there"),
        ({}, ["--pix-fmt", "yuv444p"], "yuv444p is made there"),
    ],
)
def test_reasons_for_leaving_the_gpu_are_reported(upscale, clip, options, reason):
    make("in.mkv", frames=5, **clip)
    code, said, err = upscale(*options)
    assert code == 0, err
    assert reason in said[0]
    assert "host memory" in said[0]
    with av.open("out.mkv") as container:
        assert len(list(container.decode(video=0))) == 5


def test_kernels_that_cannot_be_had_are_done_without(upscale, monkeypatch):
    """With a driver older than the compiler, PyTorch's own kernels are used."""
    make("in.mkv", frames=5)

    def refuse(self, image, name, shared_bytes=0):
        raise EngineLost("the GPU failed: no binary for gpu")

    monkeypatch.setattr(type(nvidia_bindings()), "kernel", refuse)
    code, said, err = upscale("--color-lock")
    assert code == 0, err
    through, cut = said
    assert "go through host memory: the GPU failed: no binary for gpu" in through
    assert "going on with frames that are cut before they go to the GPU" in cut
