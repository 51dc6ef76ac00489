"""The TensorRT engine on the driver without a GPU: slots, graphs, shapes, failures, whole videos.

OpenVINO computes in place of TensorRT, in its stream and on its memory, so the engine's results
have to equal those of OpenVINO alone, byte for byte. Pytest does not collect this file:
tests/kernels/test_cuda.py runs it.
"""

import ctypes
import dataclasses
import hashlib
import os
import re
import sys
import threading
from collections import deque
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import MS, make
from host_kernels import CXX, register_all
from tensorrt_api import recorded

from srgan_edge.cli import app
from srgan_edge.engines.base import NotFinite
from srgan_edge.engines.canvas import Planes
from srgan_edge.engines.openvino import OpenVinoEngine
from srgan_edge.engines.tensorrt import TensorRtEngine
from srgan_edge.engines.tensorrt_log import log_of
from srgan_edge.errors import (
    EngineLost,
    ExtraMissing,
    ModelRefused,
    OutOfMemory,
    ResourcesExhausted,
    UsageError,
)
from srgan_edge.kernels import cuda
from srgan_edge.kernels.rgb_to_yuv420 import rgb_to_yuv420
from srgan_edge.kernels.yuv420_to_rgb import yuv420_to_rgb
from srgan_edge.kernels.yuv_matrix import YuvMatrix
from srgan_edge.live.writer import VideoWriter
from srgan_edge.machine import Gpu
from srgan_edge.model.library import find_model
from srgan_edge.model.passport import EngineKey, Passport, Profile, passport_path, write_engine
from srgan_edge.tiling import Tiling, plan_windows
from srgan_edge.transcode.gpu_frames import CPU
from srgan_edge.transcode.on_gpu import GpuVideo
from srgan_edge.upscaler import FrameUpscaler
from srgan_edge.video.encoder import VideoEncoder
from srgan_edge.video.frame import CodedFrame, Encoding
from srgan_edge.video.reader import VideoReader

VERSION = "10.16.1"
DRIVER = ctypes.CDLL(os.environ["SRGAN_EDGE_FAKE_DRIVER"], ctypes.RTLD_GLOBAL)
DRIVER.fake_used_bytes.restype = ctypes.c_size_t
MODEL = find_model("edge-x4")
PLAN = b"ftrt" + b'{"Layers": []}'


class Counts(ctypes.Structure):
    """Return the driver's counters since the last call."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "uploads",
            "uploaded_bytes",
            "downloads",
            "downloaded_bytes",
            "pageable",
            "waits",
            "spins",
            "allocations",
        )
    ]

    @classmethod
    def take(cls):
        counts = cls()
        DRIVER.fake_take_counts(ctypes.byref(counts))
        return {name: getattr(counts, name) for name, _ in cls._fields_}


@pytest.fixture(scope="module", autouse=True)
def host_kernels(tmp_path_factory):
    """The kernels, to be launched by their names; NVRTC compiles for a GPU that is none."""
    assert CXX, "needs a C++ compiler"
    kept = register_all(DRIVER, tmp_path_factory.mktemp("kernels"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srgan_edge.engines.tensorrt.machine_code", lambda *_: b"an image\0")
        yield kept


@pytest.fixture(scope="module")
def openvino():
    with OpenVinoEngine(MODEL.file(".onnx"), fp32=True) as engine:
        yield engine


@pytest.fixture
def tensorrt(openvino, monkeypatch):
    """TensorRT, in which engines compute by OpenVINO; and the record of what it ran."""
    batches = []

    def run(batch):
        batches.append(batch.shape)
        return openvino.upscale(batch)

    def install(*failures, **does):
        log_of.cache_clear()
        module = recorded(VERSION, *failures, driver=DRIVER, run=run, **does)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(
            "srgan_edge.engines.cache.installed_version",
            lambda name: VERSION if name == "tensorrt" else None,
        )

    binding = os.environ["SRGAN_EDGE_BINDING"]
    monkeypatch.setattr(cuda, "BINDINGS", {binding: cuda.BINDINGS[binding]})
    install()
    yield install, batches
    DRIVER.fake_reset()
    log_of.cache_clear()


def engine_file(path, profile, **changes):
    passport = Passport(
        spec=MODEL.spec,
        source="edge-x4",
        key=EngineKey(
            module="tensorrt",
            version=VERSION,
            graph_sha256="",
            profile=profile,
            compute_capabilities=("8.9",),
            gpu=str(Gpu.find()),
            driver="13.0",
            workspace_mib=None,
            optimization_level=None,
            platform="Linux x86_64",
        ),
        precision="fp16",
        engine_sha256=hashlib.sha256(PLAN).hexdigest(),
        build_seconds=1.0,
        parity={},
        layers=(),
    )
    key = dataclasses.replace(passport.key, **changes)
    write_engine(path, PLAN, dataclasses.replace(passport, key=key))
    return path


def images(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def test_the_gpu_is_found():
    assert str(Gpu.find()) == "Fake GPU, 128 multiprocessors"


def test_a_fixed_engine_upscales_what_openvino_upscales(tensorrt, openvino, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(2, 9, 7))
    with TensorRtEngine(path) as engine:
        assert engine.info.fixed_shape == (2, 9, 7)
        assert (engine.info.name, engine.info.device) == ("tensorrt 10.16.1", "cuda:0")
        for seed in range(3):
            batch = np.roll(images(2, 9, 7), seed)
            assert np.array_equal(engine.upscale(batch), openvino.upscale(batch))
        single = images(1, 9, 7)  # fewer frames than it has
        assert np.array_equal(engine.upscale(single), openvino.upscale(single))


def test_no_later_call_changes_a_result(tensorrt, tmp_path):
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 5, 6))) as engine:
        first = engine.upscale(images(1, 5, 6))
        kept = first.copy()
        engine.upscale(255 - images(1, 5, 6))
        assert np.array_equal(first, kept)


def test_a_dynamic_engine_changes_shape(tensorrt, openvino, tmp_path):
    profile = Profile((1, 4, 4), (1, 8, 8), (3, 20, 30))
    with TensorRtEngine(engine_file(tmp_path / "a.engine", profile), slots=2) as engine:
        assert engine.info.fixed_shape is None
        for shape in [(1, 8, 8), (3, 20, 30), (1, 4, 5), (1, 8, 8)]:
            batch = images(*shape)
            assert np.array_equal(engine.upscale(batch), openvino.upscale(batch))
        with pytest.raises(UsageError, match="not 1x21x30; build one for that"):
            engine.upscale(images(1, 21, 30))


@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 9, 7)])
def test_another_shape_is_refused(tensorrt, tmp_path, shape):
    path = engine_file(tmp_path / "a.engine", Profile.static(2, 9, 7))
    with (
        TensorRtEngine(path) as engine,
        pytest.raises(UsageError, match=r"the engine accepts 2x9x7, not "),
    ):
        engine.upscale(images(*shape))


def test_slots_work_at_once_and_none_mixes_them_up(tensorrt, openvino, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 6, 5))
    batches = [np.roll(images(1, 6, 5), i) for i in range(40)]
    expected = [openvino.upscale(batch) for batch in batches]
    results = [None] * len(batches)
    with TensorRtEngine(path, slots=3) as engine:
        assert engine.info.slots == 3

        def work(start):
            for index in range(start, len(batches), 5):
                results[index] = engine.upscale(batches[index])

        threads = [threading.Thread(target=work, args=(start,)) for start in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(np.array_equal(*pair) for pair in zip(results, expected, strict=True))


def test_closing_gives_all_memory_back(tensorrt, tmp_path):
    before = DRIVER.fake_used_bytes()
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 8, 8)), slots=2):
        assert DRIVER.fake_used_bytes() == before + 2 * ((8 * 8 * 3) * 17 + 4)
    assert DRIVER.fake_used_bytes() == before


def test_slots_that_do_not_fit_are_done_without(tensorrt, openvino, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 8, 8))
    DRIVER.fake_limit_memory(ctypes.c_size_t(DRIVER.fake_used_bytes() + 2 * 3264 + 100))
    with TensorRtEngine(path, slots=3) as engine:
        assert engine.info.slots == 2
        batch = images(1, 8, 8)
        assert np.array_equal(engine.upscale(batch), openvino.upscale(batch))


def test_too_little_memory_for_one_slot_is_reported(tensorrt, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 8, 8))
    DRIVER.fake_limit_memory(ctypes.c_size_t(DRIVER.fake_used_bytes() + 100))
    with pytest.raises(ResourcesExhausted, match="too little memory for this engine; build one"):
        TensorRtEngine(path)


def test_a_gpu_lost_at_work_is_reported(tensorrt, tmp_path):
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 5, 5))) as engine:
        DRIVER.fake_break(46)
        with pytest.raises(ResourcesExhausted, match="the GPU failed"):
            engine.upscale(images(1, 5, 5))
        DRIVER.fake_reset()


def once(up_bytes, down_bytes, calls, batch):
    """Bytes go there once and come back once, into pinned memory, with one wait, asleep.

    Each call of the network has its totals besides, four bytes a tile.
    """
    return {
        "uploads": 1,
        "uploaded_bytes": up_bytes,
        "downloads": 1 + calls,
        "downloaded_bytes": down_bytes + 4 * calls * batch,
        "pageable": 0,
        "waits": 1,
        "spins": 0,
        "allocations": 0,
    }


@pytest.mark.parametrize(
    ("profile", "width", "height"),
    [
        (Profile.static(1, 36, 48), 48, 36),
        (Profile.static(1, 36, 36), 61, 50),
        (Profile.static(3, 36, 36), 61, 50),
        (Profile((1, 4, 4), (1, 40, 40), (4, 80, 80)), 70, 41),
    ],
    ids=["whole", "tiles", "batches", "dynamic"],
)
def test_a_frame_goes_there_once_and_comes_back_once(tensorrt, tmp_path, profile, width, height):
    path = engine_file(tmp_path / "a.engine", profile)
    tiling = Tiling(batch=1 if profile.is_static else 4, tile="auto" if profile.is_static else 24)
    with TensorRtEngine(path) as engine:
        upscaler = FrameUpscaler(engine, tiling)
        upscaler.upscale(images(height, width))  # makes room
        plan, batch = upscaler.plan(width, height)
        calls = -(-len(plan.tiles) // batch)
        batch = min(batch, len(plan.tiles)) if not profile.is_static else batch
        Counts.take()
        for _ in range(3):
            upscaler.upscale(images(height, width))
            size_bytes = 3 * width * height
            assert Counts.take() == once(size_bytes, 16 * size_bytes, calls, batch)


def test_waiting_for_the_gpu_leaves_the_cpu_to_others(tensorrt, tmp_path):
    """The driver does nothing before another thread of Python has said so."""
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 8, 8))) as engine:
        opened = []
        DRIVER.fake_close_gate()
        timer = threading.Timer(0.05, lambda: opened.append(DRIVER.fake_open_gate()))
        timer.start()
        engine.upscale(images(1, 8, 8))
        timer.join()
    assert opened == [True]


@pytest.mark.parametrize(
    ("profile", "tile"),
    [
        (Profile.static(1, 36, 36), "auto"),
        (Profile.static(4, 36, 36), "auto"),
        (Profile((1, 4, 4), (1, 40, 40), (3, 80, 80)), 16),
    ],
    ids=["one", "four", "dynamic"],
)
@pytest.mark.parametrize(("width", "height"), [(61, 50), (40, 37), (36, 100), (36, 36)])
@pytest.mark.parametrize("lock", [False, True])
def test_frames_cut_on_the_gpu_are_as_those_cut_here(
    tensorrt, tmp_path, profile, tile, width, height, lock
):
    """To the byte: the specification is `tiling.upscale_tiled`, and `color_lock.locked`."""
    tiling = Tiling(tile=tile, batch=1 if profile.is_static else 3)
    with TensorRtEngine(engine_file(tmp_path / "a.engine", profile), slots=2) as engine:
        there = FrameUpscaler(engine, tiling, color_lock=lock)
        here = FrameUpscaler(engine, tiling, color_lock=lock)
        here._load = dataclasses.replace(here._load, whole_frames=False)
        for seed in range(2):
            frame = np.roll(images(height, width), seed)
            assert np.array_equal(there.upscale(frame), here.upscale(frame))


def test_without_room_for_whole_frames_tiles_go_one_by_one(tensorrt, openvino, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 36, 36))
    said = []
    with TensorRtEngine(path) as engine:
        upscaler = FrameUpscaler(engine, Tiling(overlap="exact"), said.append)
        used = DRIVER.fake_used_bytes()
        DRIVER.fake_limit_memory(ctypes.c_size_t(used + 1000))
        frame = images(50, 61)
        upscaled = upscaler.upscale(frame)
        assert DRIVER.fake_used_bytes() == used
    whole = openvino.upscale(frame[None])[0]
    assert np.abs(upscaled.astype(int) - whole).max() <= 1
    assert said == ["out of memory: going on with frames that are cut before they go to the GPU"]


def test_without_a_compiler_tiles_go_one_by_one(tensorrt, tmp_path, monkeypatch):
    def absent(*_):
        raise ExtraMissing("cuda-core", "srgan-edge[gpu]", "compiling kernels")

    monkeypatch.setattr("srgan_edge.engines.tensorrt.machine_code", absent)
    said = []
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 36, 36))) as engine:
        upscaler = FrameUpscaler(engine, Tiling(), said.append)
        for _ in range(2):
            assert upscaler.upscale(images(50, 61)).shape == (200, 244, 3)
    (line,) = said
    assert "pip install 'srgan-edge[gpu]': going on with frames that are cut before" in line


def bright(batch):
    """NaN for images that have a white pixel, as if they went beyond FP16."""
    return np.where((batch == 255).any((1, 2, 3)), np.nan, 1)


def test_only_actual_frames_are_reported_as_not_finite(tensorrt, openvino, tmp_path):
    install, _ = tensorrt
    install(totals=bright)
    path = engine_file(tmp_path / "a.engine", Profile.static(3, 5, 6))
    dark = images(3, 5, 6) // 2
    light = dark.copy()
    light[1, 2, 3] = 255
    with TensorRtEngine(path) as engine:
        engine.upscale(dark)
        with pytest.raises(NotFinite) as raised:
            engine.upscale(light)
        assert raised.value.frames == [1]
        assert np.array_equal(raised.value.result, openvino.upscale(light))
        engine.upscale(light[:1])  # behind it is still the bright one of before


def test_frames_that_are_not_finite_are_repeated_in_fp32(
    tensorrt, openvino, tmp_path, monkeypatch, capsys
):
    """Some tiles of every frame, done again by OpenVINO; its pixels here are the engine's too."""
    install, batches = tensorrt
    install(totals=lambda batch: np.where(batch.mean((1, 2, 3)) > 100, np.inf, 0))
    monkeypatch.chdir(tmp_path)
    engine_file(tmp_path / "edge.engine", Profile.static(2, 40, 40))
    make(tmp_path / "in.mp4", frames=6, size=(64, 48))
    arguments = ["upscale", "in.mp4", "-n", "edge.engine", "--crf", "0", "--json-events"]
    with pytest.raises(SystemExit) as ended:
        app(arguments, standalone_mode=False)
    assert not ended.value.code
    out = capsys.readouterr().out
    assert out.count("is not finite in fp16: done again") == 1
    (redone,) = map(int, re.findall(r'"tiles_redone": (\d+)', out))
    assert 0 < redone < 2 * len(batches)
    watched = frames_of(tmp_path / "in_x4.mp4")
    install()
    with pytest.raises(SystemExit):
        app([*arguments, "-o", "b.mp4"], standalone_mode=False)
    for one, other in zip(watched, frames_of(tmp_path / "b.mp4"), strict=True):
        assert np.array_equal(one, other)


def test_an_engine_without_the_second_output_is_refused(tensorrt, tmp_path):
    install, _ = tensorrt
    install(tensors=("input", "output"))
    with pytest.raises(
        ModelRefused, match="its tensors are input, output, unlike those of this version"
    ):
        TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 5, 5)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": "10.3.0"},
            "built by tensorrt 10.3.0, here is 10.16.1; type: srgan-edge export",
        ),
        (
            {"gpu": "Orin, 16 multiprocessors"},
            "built on Orin, 16 multiprocessors, here is Fake GPU",
        ),
        ({"module": "tensorrt_rtx"}, "tensorrt-rtx is not installed; type: srgan-edge export"),
        ({"engine_sha256": 64 * "0"}, "its bytes are not those of its passport"),
    ],
)
def test_an_engine_for_elsewhere_is_refused(tensorrt, tmp_path, changes, message):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 5, 5))
    text = passport_path(path).read_text()
    for name, value in changes.items():
        text = re.sub(f'"{name}": "[^"]*"', f'"{name}": "{value}"', text)
    passport_path(path).write_text(text)
    with pytest.raises(ModelRefused, match=message):
        TensorRtEngine(path)


def test_messages_of_tensorrt_are_reported(tensorrt, tmp_path):
    install, _ = tensorrt
    where = "The engine plan file is generated on an incompatible device"
    install(("load", f"6: {where}, expecting compute 8.9 got compute 8.6, please rebuild."))
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 5, 5))
    with pytest.raises(ModelRefused, match=r"compute capability 8\.6, and this GPU has 8\.9; type"):
        TensorRtEngine(path)


def test_fp32_is_not_to_be_had_of_half_precision(tensorrt, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 5, 5))
    with pytest.raises(UsageError, match="is in fp16; --fp32 is for"):
        TensorRtEngine(path, fp32=True)


@pytest.mark.parametrize("capturable", [True, False])
def test_tensorrt_rtx_keeps_what_it_compiled(openvino, monkeypatch, tmp_path, capturable):
    """It also runs without a graph if the context cannot be recorded."""
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("srgan_edge.engines.cache.installed_version", lambda name: "1.7.1.116")
    binding = os.environ["SRGAN_EDGE_BINDING"]
    monkeypatch.setattr(cuda, "BINDINGS", {binding: cuda.BINDINGS[binding]})
    log_of.cache_clear()
    module = recorded("1.7.1.116", driver=DRIVER, run=openvino.upscale, capturable=capturable)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    rtx = {"module": "tensorrt_rtx", "version": "1.7.1.116", "gpu": "", "driver": ""}
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 9, 7), **rtx)
    for handed_back in ([], [b"compiled kernels"]):
        with TensorRtEngine(path, slots=2) as engine:
            assert module._api.heard == handed_back
            for seed in range(3):
                batch = np.roll(images(1, 9, 7), seed)
                assert np.array_equal(engine.upscale(batch), openvino.upscale(batch))
    (kept,) = (tmp_path / "cache").glob("compiled-*")
    assert kept.name == "compiled-1.7.1.116-Fake-GPU-128-multiprocessors-13.0.cache"
    log_of.cache_clear()


def test_an_engine_for_another_compute_capability_is_refused(tensorrt, monkeypatch, tmp_path):
    path = engine_file(
        tmp_path / "a.engine", Profile.static(1, 5, 5), compute_capabilities=("12.0",)
    )
    with pytest.raises(
        ModelRefused, match=r"built for compute capability 12\.0, and the GPU here has"
    ):
        TensorRtEngine(path)


@pytest.mark.parametrize(("width", "height"), [(40, 36), (36, 36), (61, 50), (100, 37)])
def test_frames_are_cut_as_the_engine_wants_them(tensorrt, openvino, tmp_path, width, height):
    """Windows of 36x36 with exact halos of 11: as the whole frame, but for the order of sums."""
    frame = images(height, width)
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(2, 36, 36))) as engine:
        tiled = FrameUpscaler(engine, Tiling(overlap="exact")).upscale(frame)
    whole = openvino.upscale(frame[None])[0]
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_a_frame_that_is_too_small_is_refused(tensorrt, tmp_path):
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 36, 36))) as engine:
        upscaler = FrameUpscaler(engine, Tiling())
        with pytest.raises(
            UsageError, match="of 30x50 is smaller than what the engine takes, 36x36"
        ):
            upscaler.upscale(images(50, 30))
        with pytest.raises(UsageError, match="--tile 64 with halos of 7 px, but the engine takes"):
            FrameUpscaler(engine, Tiling(tile=64))
        with pytest.raises(UsageError, match="--batch 3, but the engine takes 1"):
            FrameUpscaler(engine, Tiling(batch=3))
        FrameUpscaler(engine, Tiling(tile=22)).upscale(images(50, 40))  # 22 + 2 * 7 is its size


def test_windows_no_larger_than_their_halos_are_refused():
    with pytest.raises(UsageError, match="leave nothing"):
        plan_windows(100, 100, (20, 20), 10)


@pytest.mark.parametrize("profile", [Profile.static(1, 48, 64), Profile.static(2, 40, 40)], ids=str)
def test_a_video_goes_through_the_slots(tensorrt, openvino, tmp_path, monkeypatch, profile):
    """The whole command, by name of the engine file; compared with OpenVINO, in FP32."""
    monkeypatch.chdir(tmp_path)
    engine_file(tmp_path / "edge.engine", profile)
    make(tmp_path / "in.mp4", frames=9, size=(64, 48))
    arguments = ["upscale", "in.mp4", "--overlap", "exact", "--crf", "0", "--overwrite"]
    results = []
    for more in (["-n", "edge.engine"], ["-n", "edge-x4", "--engine", "openvino", "--fp32"]):
        with pytest.raises(SystemExit) as ended:
            app([*arguments, *more], standalone_mode=False)
        assert not ended.value.code
        results.append(frames_of(tmp_path / "in_x4.mp4"))
    assert len(results[0]) == len(results[1]) == 9
    for one, other in zip(*results, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 3  # one level, in YUV and back


def test_a_video_goes_on_when_the_gpu_is_lost(tensorrt, openvino, tmp_path, monkeypatch, capsys):
    """Every frame once: those before by the engine, those after by OpenVINO on the CPU."""
    monkeypatch.chdir(tmp_path)
    _, batches = tensorrt
    engine_file(tmp_path / "edge.engine", Profile.static(1, 48, 64))
    make(tmp_path / "in.mp4", frames=12, size=(64, 48))
    really = openvino.upscale

    def upscale(batch):
        if len(batches) == 8:
            DRIVER.fake_break(46)
        return really(batch)

    monkeypatch.setattr(openvino, "upscale", upscale)
    arguments = ["upscale", "in.mp4", "-n", "edge.engine", "--crf", "0", "--json-events"]
    arguments += ["--decode", "auto"]
    with pytest.raises(SystemExit) as ended:
        app(arguments, standalone_mode=False)
    DRIVER.fake_reset()
    assert not ended.value.code
    assert "tensorrt 10.16.1 is lost (the GPU failed" in (out := capsys.readouterr().out)
    assert "going on with openvino" in out
    assert "decoding on the CPU: the " in out  # this driver is not enough for FFmpeg
    lost = frames_of(tmp_path / "in_x4.mp4")
    with pytest.raises(SystemExit):
        app(
            ["upscale", "in.mp4", "-n", "edge-x4", "--crf", "0", "-o", "b.mp4"],
            standalone_mode=False,
        )
    for one, other in zip(lost, frames_of(tmp_path / "b.mp4"), strict=True):
        off = np.abs(one.astype(int) - other)
        assert off.mean() < 0.5 and off.max() <= 10  # BF16, where the CPU has it


def test_what_make_gpu_measures_of_an_engine(tensorrt, tmp_path, monkeypatch):
    """On the driver's clock, its kernels alone and its graph; and from pixels to pixels."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    import gpu_engines

    path = engine_file(tmp_path / "a.engine", Profile.static(1, 12, 16))
    monkeypatch.setattr(gpu_engines, "_built", lambda runtime, model, size: path)
    found = gpu_engines.tensorrt_on_gpu("tensorrt fp16", "edge-x4", (16, 12))
    assert found.keys() == {"alone", "graph with copies"}
    found["end to end"] = gpu_engines.end_to_end("tensorrt fp16", "edge-x4", (16, 12))
    for times in found.values():
        assert 0 < times["p50_ms"] <= times["p90_ms"] <= times["p99_ms"]


BT_709 = YuvMatrix(0.2126, 0.0722, False)
KEPT = ("width", "height", "color", "sample_aspect_ratio", "display_matrix", "start_pts")


def decoded_frames(width, height, count=3):
    """Frames in NV12 as from NVDEC, in host memory; rows have gaps."""
    frames = []
    for seed in range(count):
        rgb = VideoFrame.from_ndarray(np.roll(images(height, width), seed), "rgb24")
        frames.append(rgb.reformat(format="nv12"))
    return frames


def planes_in(frame):
    """Luma [H, W] and chroma [H / 2, W / 2, 2] of an NV12 frame."""
    luma, chroma = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
        for plane in frame.planes
    )
    pairs = chroma[:, : frame.width].reshape(frame.height // 2, frame.width // 2, 2)
    return luma[:, : frame.width], pairs


def video_on_the_gpu(engine, width, height, tiling=None):
    plan, batch = FrameUpscaler(engine, tiling or Tiling()).plan(width, height)
    return GpuVideo(engine, plan, batch, BT_709, device=CPU)


@pytest.mark.parametrize(
    ("profile", "width", "height"),
    [
        (Profile.static(1, 36, 48), 48, 36),
        (Profile.static(1, 36, 36), 62, 50),
        (Profile.static(3, 36, 36), 50, 62),
        (Profile((1, 4, 4), (1, 40, 40), (1, 80, 80)), 70, 42),
    ],
    ids=["whole", "tiles", "batches", "dynamic"],
)
def test_frames_on_the_gpu_equal_those_through_host_memory(
    tensorrt, tmp_path, profile, width, height
):
    """To the byte: the references of the kernels, with frames of `FrameUpscaler` between."""
    with TensorRtEngine(engine_file(tmp_path / "a.engine", profile), slots=2) as engine:
        upscaler = FrameUpscaler(engine, Tiling())
        with video_on_the_gpu(engine, width, height) as video:
            for frame in decoded_frames(width, height):
                upscaled = video.upscale(frame)
                assert (upscaled.width, upscaled.height) == (4 * width, 4 * height)
                rgb = yuv420_to_rgb(*planes_in(frame), BT_709)
                expected = rgb_to_yuv420(upscaler.upscale(rgb), BT_709)
                for plane, reference in zip(planes_in(upscaled), expected, strict=True):
                    assert np.array_equal(plane, reference)
                del upscaled, plane


def test_nothing_of_a_frame_leaves_the_gpu(tensorrt, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(2, 36, 36))
    with TensorRtEngine(path) as engine, video_on_the_gpu(engine, 62, 50) as video:
        video.upscale(decoded_frames(62, 50)[0])
        for frame in decoded_frames(62, 50):
            Counts.take()
            video.upscale(frame)
            taken = Counts.take()
            assert taken == dict.fromkeys(taken, 0) | {
                "waits": 1,
                "downloads": 3,  # of six tiles, two a call: their totals
                "downloaded_bytes": 24,
            }


def test_a_frame_that_is_still_arriving_is_waited_for(tensorrt, tmp_path):
    """FFmpeg copies NVDEC's frames in the default stream and does not wait for the end."""
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 36, 48))
    frame, *_ = decoded_frames(48, 36)
    content = np.concatenate([plane.ravel() for plane in planes_in(frame)])
    with TensorRtEngine(path) as engine, engine.slot() as slot:
        canvas = engine.canvas(slot, *FrameUpscaler(engine, Tiling()).plan(48, 36))
        arriving, result = engine.cuda.memory(content.size), engine.cuda.memory(16 * content.size)
        engine.cuda.upload(content, arriving.address, engine.cuda.default_stream())
        source = Planes(arriving.address, 48, arriving.address + 48 * 36, 48)
        target = Planes(result.address, 192, result.address + 192 * 144, 192)
        canvas.upscale_planes(source, target, BT_709)
        back = np.empty(16 * content.size, np.uint8)
        engine.cuda.download(result.address, back, slot.stream)
        slot.wait()
        for memory in (arriving, result):
            memory.close()
    with TensorRtEngine(path) as engine, video_on_the_gpu(engine, 48, 36) as video:
        upscaled = video.upscale(frame)
        expected = np.concatenate([plane.ravel() for plane in planes_in(upscaled)])
        del upscaled
    assert np.array_equal(back, expected)


def test_frames_that_are_not_finite_are_not_written(tensorrt, tmp_path):
    install, _ = tensorrt
    install(totals=lambda batch: np.where(np.arange(len(batch)) == 1, np.nan, 0))
    path = engine_file(tmp_path / "a.engine", Profile.static(2, 36, 36))
    with TensorRtEngine(path) as engine, video_on_the_gpu(engine, 62, 50) as video:
        with pytest.raises(NotFinite) as raised:
            video.upscale(decoded_frames(62, 50)[0])
        assert raised.value.frames == [1, 3, 5]


def test_room_is_used_again_once_the_encoder_lets_go(tensorrt, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 36, 48))
    before = DRIVER.fake_used_bytes()
    with TensorRtEngine(path) as engine:
        frames = decoded_frames(48, 36, 9)
        with video_on_the_gpu(engine, 48, 36) as video:
            held, addresses = deque(maxlen=3), set()
            for frame in frames:
                held.append(video.upscale(frame))
                addresses.add(held[-1].planes[0].buffer_ptr)
            assert len(addresses) == 4
            del held
    assert DRIVER.fake_used_bytes() == before


def test_a_video_that_does_not_fit_is_reported_before_its_first_frame(tensorrt, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 36, 36))
    with TensorRtEngine(path, slots=2) as engine:
        used = DRIVER.fake_used_bytes()
        DRIVER.fake_limit_memory(ctypes.c_size_t(used + 200_000))  # for one of the slots
        with pytest.raises(OutOfMemory):
            video_on_the_gpu(engine, 62, 50)
        DRIVER.fake_reset()
        engine.upscale(images(1, 36, 36))


def test_a_gpu_lost_during_a_video_is_reported(tensorrt, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 36, 48))
    with TensorRtEngine(path) as engine, video_on_the_gpu(engine, 48, 36) as video:
        frame, *_ = decoded_frames(48, 36)
        video.upscale(frame)
        DRIVER.fake_break(46)
        with pytest.raises(EngineLost, match="the GPU failed"):
            video.upscale(frame)
        DRIVER.fake_reset()


def test_a_video_on_the_gpu_keeps_all_metadata(tensorrt, tmp_path):
    """Times, durations, colors, aspect and rotation, as of the video made by this machine."""
    wanted = {"time_base": MS, "pts": [0, 33, 400, 433, 1000], "last_duration": 700}
    wanted |= {"color": (1, 1, 1, 1), "aspect": Fraction(4, 3), "display": (90, False)}
    source = make(tmp_path / "in.mkv", size=(64, 48), options={"bf": "2"}, **wanted)
    size, seen = (256, 192), []
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 48, 64))
    with TensorRtEngine(path) as engine:
        upscaler = FrameUpscaler(engine, Tiling())
        with (
            VideoReader(source) as reader,
            VideoWriter(tmp_path / "here.mkv", reader, size, Encoding()) as writer,
        ):
            for frame in reader:
                writer.write(dataclasses.replace(frame, pixels=upscaler.upscale(frame.pixels)))
        with VideoReader(source) as reader:
            times = list(reader.scan())
        encoder = VideoEncoder(reader.info, size, Encoding(pixel_format="nv12"))
        with (
            video_on_the_gpu(engine, 64, 48) as video,
            av.open(str(tmp_path / "there.mkv"), "w") as container,
            av.open(str(source)) as decoded,
        ):
            encoder.add_to(container)
            for frame, time in zip(decoded.decode(video=0), times, strict=True):
                upscaled = video.upscale(frame.reformat(format="nv12"))
                container.mux(encoder.encode(CodedFrame(upscaled, *time)))
                del upscaled
            container.mux(encoder.finish())
    for name in ("here.mkv", "there.mkv"):
        with VideoReader(tmp_path / name) as reader:
            said = {field: getattr(reader.info, field) for field in KEPT}
            seen.append((said, list(reader.scan())))
    assert seen[0] == seen[1]
    here, there = (frames_of(tmp_path / name) for name in ("here.mkv", "there.mkv"))
    for one, other in zip(here, there, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 3


def test_what_make_gpu_does_with_a_video_that_stays_there(tensorrt, tmp_path, monkeypatch):
    """Software decodes and encodes in the place of NVDEC and NVENC, in NV12."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import gpu_video

    def decoded(path):
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.reformat(format="nv12")

    monkeypatch.setattr(gpu_video, "GpuVideo", partial(GpuVideo, device=CPU))
    monkeypatch.setattr(gpu_video, "_decoded_on_gpu", decoded)
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 48, 64))
    with TensorRtEngine(path) as engine:
        found = gpu_video.video_stays_on_the_gpu(tmp_path, engine, (64, 48), "libx264")
        assert found["size"] == "64x48"
        monkeypatch.setattr(gpu_video, "_apart", lambda ours, theirs: 1)
        with pytest.raises(AssertionError, match="levels apart"):
            gpu_video.video_stays_on_the_gpu(tmp_path, engine, (64, 48), "libx264")


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
