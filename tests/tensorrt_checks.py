"""The TensorRT engine on the driver without a GPU: slots, graphs, shapes, failures, whole films.

What TensorRT would compute, OpenVINO computes, in the stream and on the memory that TensorRT would
use: what is upscaled by the engine has to be what OpenVINO alone gives, byte for byte. It is not
collected by itself; tests/test_cuda.py runs it.
"""

import ctypes
import dataclasses
import hashlib
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from clips import make
from tensorrt_api import recorded

from srgan_edge.cli import app
from srgan_edge.engines.base import NotFinite
from srgan_edge.engines.openvino import OpenVinoEngine
from srgan_edge.engines.tensorrt import TensorRtEngine
from srgan_edge.errors import ModelRefused, ResourcesExhausted, UsageError
from srgan_edge.gpu import Gpu
from srgan_edge.kernels import cuda
from srgan_edge.models import find_model
from srgan_edge.passport import Passport, Profile, passport_path, write_engine
from srgan_edge.tensorrt_log import log_of
from srgan_edge.tiling import plan_windows
from srgan_edge.upscaler import Tiling, Upscaler

VERSION = "10.16.1"
DRIVER = ctypes.CDLL(os.environ["SRGAN_EDGE_FAKE_DRIVER"], ctypes.RTLD_GLOBAL)
DRIVER.fake_used_bytes.restype = ctypes.c_size_t
MODEL = find_model("edge-x4")
PLAN = b"ftrt" + b'{"Layers": []}'


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
            "srgan_edge.engine_cache.installed_version",
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
        module="tensorrt",
        version=VERSION,
        precision="fp16",
        profile=profile,
        compute_capabilities=("8.9",),
        gpu=str(Gpu.find()),
        driver="13.0",
        workspace_mib=None,
        optimization_level=None,
        platform="Linux x86_64",
        graph_sha256="",
        engine_sha256=hashlib.sha256(PLAN).hexdigest(),
        build_seconds=1.0,
        parity={},
        layers=(),
    )
    write_engine(path, PLAN, dataclasses.replace(passport, **changes))
    return path


def pictures(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def test_the_gpu_is_found():
    assert str(Gpu.find()) == "Fake GPU, 128 multiprocessors"


def test_a_fixed_engine_upscales_what_openvino_upscales(tensorrt, openvino, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(2, 9, 7))
    with TensorRtEngine(path) as engine:
        assert engine.info.fixed_shape == (2, 9, 7)
        assert (engine.info.name, engine.info.device) == ("tensorrt 10.16.1", "cuda:0")
        for seed in range(3):
            batch = np.roll(pictures(2, 9, 7), seed)
            assert np.array_equal(engine.upscale(batch), openvino.upscale(batch))
        single = pictures(1, 9, 7)  # fewer frames than it has
        assert np.array_equal(engine.upscale(single), openvino.upscale(single))


def test_no_later_call_changes_a_result(tensorrt, tmp_path):
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 5, 6))) as engine:
        first = engine.upscale(pictures(1, 5, 6))
        kept = first.copy()
        engine.upscale(255 - pictures(1, 5, 6))
        assert np.array_equal(first, kept)


def test_a_dynamic_engine_changes_shape(tensorrt, openvino, tmp_path):
    profile = Profile((1, 4, 4), (1, 8, 8), (3, 20, 30))
    with TensorRtEngine(engine_file(tmp_path / "a.engine", profile), slots=2) as engine:
        assert engine.info.fixed_shape is None
        for shape in [(1, 8, 8), (3, 20, 30), (1, 4, 5), (1, 8, 8)]:
            batch = pictures(*shape)
            assert np.array_equal(engine.upscale(batch), openvino.upscale(batch))
        with pytest.raises(UsageError, match="was given 1x21x30; build one for that"):
            engine.upscale(pictures(1, 21, 30))


@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 9, 7)])
def test_another_shape_is_refused(tensorrt, tmp_path, shape):
    path = engine_file(tmp_path / "a.engine", Profile.static(2, 9, 7))
    with (
        TensorRtEngine(path) as engine,
        pytest.raises(UsageError, match=r"the engine takes 2x9x7, and was given"),
    ):
        engine.upscale(pictures(*shape))


def test_slots_work_at_once_and_none_mixes_them_up(tensorrt, openvino, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 6, 5))
    batches = [np.roll(pictures(1, 6, 5), i) for i in range(40)]
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
        batch = pictures(1, 8, 8)
        assert np.array_equal(engine.upscale(batch), openvino.upscale(batch))


def test_too_little_memory_for_one_slot_is_told(tensorrt, tmp_path):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 8, 8))
    DRIVER.fake_limit_memory(ctypes.c_size_t(DRIVER.fake_used_bytes() + 100))
    with pytest.raises(ResourcesExhausted, match="too little memory for this engine; build one"):
        TensorRtEngine(path)


def test_a_gpu_lost_at_work_is_told(tensorrt, tmp_path):
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 5, 5))) as engine:
        DRIVER.fake_break(46)
        with pytest.raises(ResourcesExhausted, match="the GPU failed"):
            engine.upscale(pictures(1, 5, 5))
        DRIVER.fake_reset()


def bright(batch):
    """NaN for pictures that have a white pixel, as if they went beyond FP16."""
    return np.where((batch == 255).any((1, 2, 3)), np.nan, 1)


def test_what_is_not_finite_is_told_of_the_frames_that_are_there(tensorrt, openvino, tmp_path):
    install, _ = tensorrt
    install(totals=bright)
    path = engine_file(tmp_path / "a.engine", Profile.static(3, 5, 6))
    dark = pictures(3, 5, 6) // 2
    light = dark.copy()
    light[1, 2, 3] = 255
    with TensorRtEngine(path) as engine:
        engine.upscale(dark)
        with pytest.raises(NotFinite) as raised:
            engine.upscale(light)
        assert raised.value.frames == [1]
        assert np.array_equal(raised.value.result, openvino.upscale(light))
        engine.upscale(light[:1])  # behind it is still the bright one of before


def test_a_film_has_in_fp32_what_is_not_finite(tensorrt, openvino, tmp_path, monkeypatch, capsys):
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
    with pytest.raises(ModelRefused, match="writes input, output, as no engine of this version"):
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
        ({"engine_sha256": "0"}, "its bytes are not those of its passport"),
    ],
)
def test_an_engine_for_elsewhere_is_refused(tensorrt, tmp_path, changes, message):
    path = engine_file(tmp_path / "a.engine", Profile.static(1, 5, 5))
    text = passport_path(path).read_text()
    for name, value in changes.items():
        old = getattr(Passport.from_json(text), name)
        text = text.replace(f'"{name}": "{old}"', f'"{name}": "{value}"')
    passport_path(path).write_text(text)
    with pytest.raises(ModelRefused, match=message):
        TensorRtEngine(path)


def test_what_tensorrt_says_of_an_engine_is_told(tensorrt, tmp_path):
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
    """And runs without a graph where it says that it cannot be recorded."""
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("srgan_edge.engine_cache.installed_version", lambda name: "1.7.1.116")
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
                batch = np.roll(pictures(1, 9, 7), seed)
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
    frame = pictures(height, width)
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(2, 36, 36))) as engine:
        tiled = Upscaler(engine, Tiling(overlap="exact")).upscale(frame)
    whole = openvino.upscale(frame[None])[0]
    assert np.abs(tiled.astype(int) - whole).max() <= 1


def test_a_frame_that_is_too_small_is_refused(tensorrt, tmp_path):
    with TensorRtEngine(engine_file(tmp_path / "a.engine", Profile.static(1, 36, 36))) as engine:
        upscaler = Upscaler(engine, Tiling())
        with pytest.raises(
            UsageError, match="of 30x50 is smaller than what the engine takes, 36x36"
        ):
            upscaler.upscale(pictures(50, 30))
        with pytest.raises(UsageError, match="--tile 64 with halos of 7 px, but the engine takes"):
            Upscaler(engine, Tiling(tile=64))
        with pytest.raises(UsageError, match="--batch 3, but the engine takes 1"):
            Upscaler(engine, Tiling(batch=3))
        Upscaler(engine, Tiling(tile=22)).upscale(pictures(50, 40))  # 22 + 2 * 7 is its size


def test_windows_no_larger_than_their_halos_are_refused():
    with pytest.raises(UsageError, match="leave nothing"):
        plan_windows(100, 100, (20, 20), 10)


@pytest.mark.parametrize("profile", [Profile.static(1, 48, 64), Profile.static(2, 40, 40)], ids=str)
def test_a_film_goes_through_the_slots(tensorrt, openvino, tmp_path, monkeypatch, profile):
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


def test_a_film_goes_on_when_the_gpu_is_lost(tensorrt, openvino, tmp_path, monkeypatch, capsys):
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
    with pytest.raises(SystemExit) as ended:
        app(arguments, standalone_mode=False)
    DRIVER.fake_reset()
    assert not ended.value.code
    assert "tensorrt 10.16.1 is lost (the GPU failed" in (out := capsys.readouterr().out)
    assert "going on with openvino" in out
    lost = frames_of(tmp_path / "in_x4.mp4")
    with pytest.raises(SystemExit):
        app(
            ["upscale", "in.mp4", "-n", "edge-x4", "--crf", "0", "-o", "b.mp4"],
            standalone_mode=False,
        )
    for one, other in zip(lost, frames_of(tmp_path / "b.mp4"), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 6  # BF16, where the CPU has it


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


def frames_of(path):
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
