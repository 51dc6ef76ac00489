"""Tiles that leave FP16's range are done again in FP32; all other pixels stay as they were."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from srgan_edge.engines.base import EngineInfo, NotFinite, finite  # noqa: E402
from srgan_edge.engines.openvino import OpenVinoEngine  # noqa: E402
from srgan_edge.engines.torch import TorchEngine  # noqa: E402
from srgan_edge.errors import ModelRefused  # noqa: E402
from srgan_edge.export.graph import with_totals  # noqa: E402
from srgan_edge.export.half_onnx import (  # noqa: E402
    Conv,
    TypedReference,
    in_half,
)
from srgan_edge.export.onnx import onnx_from_checkpoint  # noqa: E402
from srgan_edge.export.rewrites import rewritten  # noqa: E402
from srgan_edge.model.checkpoint import save_checkpoint  # noqa: E402
from srgan_edge.model.half import HalfDeployment  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.onnx_file import TOTALS  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402
from srgan_edge.tiling import (  # noqa: E402
    Tiling,
    plan_tiles,
)
from srgan_edge.upscaler import FrameUpscaler  # noqa: E402

SPEC = ModelSpec("large", "edge", 6, 2)
BRIGHT = (slice(20, 26), slice(30, 37))
"""Tiles that are bright, with activations that are too large."""
TILING = Tiling(tile=16, batch=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The network, and its files: a common one in FP32, of which FP16 holds dark images only."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(2)
    generator = generator_from_spec(SPEC).eval().requires_grad_(False)
    for layer in (generator.body[0], generator.body[2]):
        layer.weight *= 200  # to which all that follows is proportional, having no bias yet
    generator.tail.weight /= 200**2
    save_checkpoint(folder / "m.safetensors", generator, SPEC)
    onnx_from_checkpoint(folder / "m.safetensors", folder / "m.onnx")
    return generator, folder / "m.safetensors", folder / "m.onnx"


class Half:
    """`HalfDeployment` on the CPU as an engine, which counts its calls."""

    def __init__(self, generator):
        self._network, self.calls = HalfDeployment(generator), 0
        self.info = EngineInfo("torch", "cuda:0", "fp16", SPEC, slots=3)

    @torch.inference_mode()
    def compute(self, batch):
        return [tensor.numpy() for tensor in self._network(torch.from_numpy(np.array(batch)))]

    def upscale(self, batch):
        self.calls += 1
        return finite(*self.compute(batch))


def image(height=61, width=83):
    """Dark, with one bright spot."""
    frame = np.random.default_rng(1).integers(0, 24, (height, width, 3), np.uint8)
    frame[BRIGHT] = 250
    return frame


def test_only_the_bright_tiles_are_done_again(model):
    generator, _, path = model
    half, frame, said = Half(generator), image(), []
    plan = plan_tiles(frame.shape[1], frame.shape[0], 16, SPEC.auto_halo_px)
    with OpenVinoEngine(path, fp32=True) as exact:
        upscaler = FrameUpscaler(half, TILING, said.append, in_fp32=lambda: exact)
        result = upscaler.upscale(frame)
        redone = 0
        for tile in plan.tiles:
            window = frame[tile.window_y.slice(), tile.window_x.slice()]
            pixels, totals = half.compute(window[None])
            if not np.isfinite(totals).all():
                redone += 1
                pixels = exact.upscale(window[None])
            inner = (
                tile.core_y.slice(4, tile.window_y.start),
                tile.core_x.slice(4, tile.window_x.start),
            )
            core = result[tile.core_y.slice(4), tile.core_x.slice(4)]
            assert np.array_equal(core, pixels[0][inner])
        whole = exact.upscale(frame[None])[0]
    assert 0 < redone == upscaler.tiles_redone < len(plan.tiles) // 2
    assert half.calls == -(-len(plan.tiles) // 3)
    assert np.abs(result.astype(int) - whole).max() <= 2
    (line,) = said
    assert "is not finite in fp16: done again, as will be others like it, in fp32 by open" in line


def test_without_that_there_would_be_a_hole(model):
    """The test above is one of something: as bytes, what is not finite is black or white."""
    generator, checkpoint, _ = model
    pixels, totals = Half(generator).compute(image()[None])
    assert not np.isfinite(totals).any()
    with TorchEngine(checkpoint) as reference:
        wrong = np.abs(pixels.astype(int) - reference.upscale(image()[None])) > 50
    assert wrong[0][80:104, 120:148].mean() > 0.5


def test_the_second_output_of_an_engine_says_so(model):
    """Its graph, computed to the letter; the bytes are those without it."""
    plain = in_half(rewritten(onnx.load(model[2])), "fp16")
    watched = with_totals(plain)
    assert [output.name for output in watched.graph.output] == ["output", TOTALS]
    batch = np.stack([image()[:13, 10:29], image()[15:28, 25:44], image()[40:53, :19]])
    with np.errstate(all="ignore"):
        expected = TypedReference(plain).upscale(batch)
        result, totals = ReferenceEvaluator(watched, new_ops=[Conv]).run(None, {"input": batch})
    assert np.array_equal(result, expected)
    assert (totals.dtype, np.isfinite(totals).tolist()) == (np.float32, [True, False, True])


def test_a_frame_is_repeated_as_a_whole(model):
    generator, checkpoint, _ = model
    with TorchEngine(checkpoint) as exact:
        upscaler = FrameUpscaler(Half(generator), Tiling(tile=0), in_fp32=lambda: exact)
        assert np.array_equal(upscaler.upscale(image()), exact.upscale(image()[None])[0])
        dark = np.zeros((7, 3, 3), np.uint8)
        upscaler.upscale(dark)
    assert upscaler.tiles_redone == 1


def test_slots_open_one_engine_between_them(model):
    generator, checkpoint, _ = model
    opened = []

    def in_fp32():
        opened.append(TorchEngine(checkpoint))
        return opened[-1]

    upscaler = FrameUpscaler(Half(generator), TILING, in_fp32=in_fp32)
    frames = [image(40 + n, 50) for n in range(8)]
    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(upscaler.upscale, frames))
    once = FrameUpscaler(Half(generator), TILING, in_fp32=lambda: opened[0])
    assert all(np.array_equal(once.upscale(f), r) for f, r in zip(frames, results, strict=True))
    assert (len(opened), upscaler.tiles_redone) == (1, once.tiles_redone)


def test_without_an_engine_in_fp32_it_is_refused(model):
    with pytest.raises(ModelRefused, match=r"tile at x 20, y 0 of a frame is not finite in fp16"):
        FrameUpscaler(Half(model[0]), TILING).upscale(image())


@pytest.mark.parametrize("engine", [TorchEngine, OpenVinoEngine])
def test_values_beyond_fp32_are_refused(engine, tmp_path):
    """A model beyond repair: of these layers, even FP32 holds no product."""
    generator = generator_from_spec(SPEC).eval().requires_grad_(False)
    for layer in (generator.body[0], generator.body[2], generator.tail):
        layer.weight *= 1e15
    checkpoint, path = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    save_checkpoint(checkpoint, generator, SPEC)
    onnx_from_checkpoint(checkpoint, path)
    half = Half(generator_from_spec(SPEC))
    half.compute = lambda batch: (np.zeros(1, np.uint8), np.full(len(batch), np.nan, np.float32))
    with engine({TorchEngine: checkpoint, OpenVinoEngine: path}[engine], fp32=True) as exact:
        dark = np.zeros((2, 8, 9, 3), np.uint8)
        dark[1, 3, 4] = 200
        with pytest.raises(NotFinite) as raised:
            exact.upscale(dark)
        assert raised.value.frames == [1]
        upscaler = FrameUpscaler(half, TILING, in_fp32=lambda: exact)
        with pytest.raises(ModelRefused, match=r"neither in fp16 nor in FP32.*with -n") as raised:
            upscaler.upscale(dark[1])
    assert raised.value.exit_code == 6
