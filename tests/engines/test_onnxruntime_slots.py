"""ONNX Runtime on a GPU, as far as its CPU provider shows it: bound memory, nodes, failures."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

onnxruntime = pytest.importorskip("onnxruntime")

from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: E402

from srgan_edge.cli import app  # noqa: E402
from srgan_edge.engines import choose_engine, open_engine  # noqa: E402
from srgan_edge.engines import onnxruntime as engine_module  # noqa: E402
from srgan_edge.engines.base import Idle  # noqa: E402
from srgan_edge.engines.onnxruntime import OnnxRuntimeEngine, refuse_other_nodes  # noqa: E402
from srgan_edge.errors import (  # noqa: E402
    EngineLost,
    ExtraMissing,
    ModelRefused,
    OutOfMemory,
    UsageError,
)
from srgan_edge.evaluation.parity import GATES, compare  # noqa: E402
from srgan_edge.model.library import find_model  # noqa: E402
from srgan_edge.model.onnx_file import OnnxFile, read_onnx  # noqa: E402
from srgan_edge.run import spare_for  # noqa: E402
from srgan_edge.tiling import Tiling  # noqa: E402
from srgan_edge.upscaler import FrameUpscaler  # noqa: E402

MODEL = find_model("edge-x4")
PHOTO = Path(__file__).resolve().parents[2] / "srgan_edge" / "demo" / "photo.png"


@pytest.fixture(scope="module")
def engine():
    with OnnxRuntimeEngine(MODEL.file(".onnx")) as engine:
        yield engine


@pytest.fixture
def slot(engine):
    return engine_module._Slot(engine._session, ("cpu", 0), MODEL.spec)


def images(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


def test_bound_memory_has_the_same_inputs_and_results_as_a_call(engine, slot):
    """Shapes that alternate, frames cut out of larger ones, and read-only frames."""
    for _ in range(2):
        for shape in [(1, 7, 9), (2, 7, 9), (1, 1, 1), (1, 7, 9), (1, 7, 9)]:
            batch = images(*shape)
            batch.flags.writeable = False
            assert np.array_equal(slot.run(batch)[0], engine.upscale(batch))
    frame = images(1, 20, 20)
    assert np.array_equal(
        slot.run(frame[:, 3:12, 4:9])[0], engine.upscale(frame[:, 3:12, 4:9].copy())
    )


def test_repeated_shapes_get_a_graph_up_to_a_limit(slot):
    for shape in [(1, 7, 9), (1, 7, 9), (1, 5, 5), (1, 7, 9), (1, 5, 5)]:
        slot.run(images(*shape))
    assert {shape: bound.graph for shape, bound in slot._bound.items()} == {
        (1, 7, 9, 3): 1,
        (1, 5, 5, 3): 2,
    }
    for number in range(4):
        for _ in range(2):
            slot.run(images(1, 2, 2 + number))
    assert len(slot._bound) == 2


def test_slots_work_at_once_and_none_mixes_them_up(engine):
    class Copying(engine_module._Slot):
        """On a GPU, results leave a slot as copies anyway."""

        def run(self, batch):
            return super().run(batch)[0].copy()

    made = [Copying(engine._session, ("cpu", 0), MODEL.spec) for _ in "123"]
    slots = partial(engine_module._in_a_slot, Idle(made))
    batches = [np.roll(images(1, 6, 5), number) for number in range(30)]
    with ThreadPoolExecutor(5) as executor:
        results = list(executor.map(slots, batches))
    for batch, result in zip(batches, results, strict=True):
        assert np.array_equal(result, engine.upscale(batch))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (state.RuntimeException("Failed to allocate memory for requested buffer"), OutOfMemory),
        (state.Fail("CUDA failure 2: out of memory ; GPU=0"), OutOfMemory),
        (state.Fail("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0"), OutOfMemory),
        (state.RuntimeException("CUDA failure 700: an illegal memory access"), EngineLost),
        (state.EPFail("TensorRT EP execution context enqueue failed."), EngineLost),
    ],
)
def test_failures_have_their_class(error, kind):
    with pytest.raises(kind), engine_module._translated():
        raise error


def test_every_node_is_on_the_provider_asked_for(engine):
    refuse_other_nodes(engine._session, "CPUExecutionProvider", MODEL.file(".onnx"))
    with pytest.raises(ModelRefused, match="Cast to CPUExecutionProvider, not to CUDAExec"):
        refuse_other_nodes(engine._session, "CUDAExecutionProvider", MODEL.file(".onnx"))


@pytest.mark.parametrize(
    ("device", "kind", "message"),
    [
        ("tensorrt", UsageError, r"no TensorrtExecutionProvider.*pip install 'srgan-edge\[cuda\]'"),
        ("rtx", ExtraMissing, r"--device rtx needs .*onnxruntime-ep-nv-tensorrt-rtx"),
        ("npu", UsageError, "--device npu; possible: auto, cpu, cuda"),
        ("cuda:x", UsageError, "--device cuda:x; possible: auto, cpu, cuda, cuda:1"),
    ],
)
def test_providers_that_are_not_there_are_refused(device, kind, message):
    if (
        device == "tensorrt"
        and "TensorrtExecutionProvider" in onnxruntime.get_available_providers()
    ):
        pytest.skip("it is there")
    with pytest.raises(kind, match=message):
        open_engine(choose_engine(MODEL, "onnxruntime", device))


def test_tf32_is_not_fp32():
    with pytest.raises(UsageError, match=r"tensorrt runs in tf32; --fp32 works with"):
        open_engine(choose_engine(MODEL, "onnxruntime", "tensorrt"), fp32=True)


def test_out_of_memory_leads_to_smaller_tiles(engine, slot):
    """Through `FrameUpscaler`, by a slot that has memory for so many pixels."""

    class Small:
        info = engine.info

        def upscale(self, batch):
            if batch.size > 3 * 3000:
                with engine_module._translated():
                    raise state.RuntimeException("Failed to allocate memory")
            return slot.run(batch)[0].copy()

    said = []
    frame = images(60, 90)
    tiled = FrameUpscaler(Small(), Tiling(tile=0, overlap="exact"), said.append).upscale(frame)
    assert np.abs(tiled.astype(int) - engine.upscale(frame[None])[0]).max() <= 1
    assert said == [f"out of memory: going on with tiles of {side} px" for side in (45, 22)]


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """`edge-x4` in FP16, as the command line exports it."""
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("half") / "edge-x4-fp16.onnx"
    app(["export", "edge-x4", "--onnx", "--fp16", "-o", str(path)], standalone_mode=False)
    return path


def test_an_onnx_in_fp16_is_for_a_gpu(half):
    assert read_onnx(half) == OnnxFile(MODEL.spec, "fp16")
    for name in ("openvino", "onnxruntime"):
        with pytest.raises(
            ModelRefused, match=r"is in fp16, for a GPU; type: .*or on a CPU: -n ed"
        ):
            open_engine(choose_engine(find_model(str(half)), name, "cpu"))
    with pytest.raises(UsageError, match=r"fp16.onnx on cuda runs in fp16; --fp32"):
        open_engine(choose_engine(find_model(str(half)), "onnxruntime", "cuda"), fp32=True)


def test_tiles_are_repeated_by_the_model_behind_the_engine(half):
    files = find_model(str(half))
    spare = spare_for(choose_engine(files, "onnxruntime", "cuda"), files)
    assert (spare.kind.name, spare.path) == ("openvino", MODEL.file(".onnx"))


def test_its_second_output_is_bound_too(engine, half):
    """On a CPU, which computes in FP32: this only shows that both outputs are returned."""
    session = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"])
    slot = engine_module._Slot(session, ("cpu", 0), MODEL.spec)
    photo = np.asarray(Image.open(PHOTO).convert("RGB"))[None, :70, :90]
    for batch in (photo, photo[:, :9, :9].repeat(3, axis=0)):
        result, totals = slot.run(batch)
        assert not GATES["fp16"].refusals(compare(engine.upscale, lambda _, r=result: r, [batch]))
        assert (totals.dtype, totals.shape) == (np.float32, (len(batch),))
        detail = result.astype(int) - batch.repeat(4, 1).repeat(4, 2)  # which the network makes
        assert np.abs(totals - detail.sum((1, 2, 3)) / 255).max() < 1e-4 * result.size
