"""Every native architecture at every scale: trained, exported, run in every runtime, tiled."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from training import TINY, write_benchmark, write_photos  # noqa: E402

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.color_lock import locked, locked_stripes  # noqa: E402
from srgan_edge.engines import KINDS  # noqa: E402
from srgan_edge.engines.torch import TorchEngine  # noqa: E402
from srgan_edge.errors import ModelRefused  # noqa: E402
from srgan_edge.evaluation.evaluate import evaluate_folder  # noqa: E402
from srgan_edge.evaluation.parity import compare  # noqa: E402
from srgan_edge.evaluation.systems import bicubic_upscale, read_pairs  # noqa: E402
from srgan_edge.export.half_onnx import TypedReference, in_half  # noqa: E402
from srgan_edge.export.onnx import deployment_graph, onnx_from_checkpoint  # noqa: E402
from srgan_edge.export.rewrites import rewritten  # noqa: E402
from srgan_edge.export.verify import natural_batches  # noqa: E402
from srgan_edge.image.coding import Coding  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from srgan_edge.model.half import HalfDeployment  # noqa: E402
from srgan_edge.model.library import bundled_models  # noqa: E402
from srgan_edge.model.network import (  # noqa: E402
    Deployment,
    generator_from_spec,
    kernel_before_shuffle,
)
from srgan_edge.model.onnx_file import read_onnx  # noqa: E402
from srgan_edge.model.quantization import quantized_state  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402
from srgan_edge.suited import suited_to  # noqa: E402
from srgan_edge.tiling import Tiling, plan_tiles, upscale_tiled  # noqa: E402
from srgan_edge.train import losses  # noqa: E402
from srgan_edge.train.loop import train  # noqa: E402
from srgan_edge.train.recipe import Recipe  # noqa: E402
from srgan_edge.upscaler import FrameUpscaler  # noqa: E402

SCALES = (1, 2, 3, 4, 8)
KINDS_OF_NETWORK = {
    "srresnet": ModelSpec("tiny", "srresnet", 28, 1),
    "edge": ModelSpec("tiny", "edge", 8, 2),
    "relu": ModelSpec("tiny", "edge", 8, 2, activation="relu"),
}


def spec_of(kind, scale):
    return dataclasses.replace(KINDS_OF_NETWORK[kind], scale=scale)


def network_of(spec):
    torch.manual_seed(5)
    generator = generator_from_spec(spec).eval().requires_grad_(False)
    for module in generator.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.uniform_(-0.4, 1.3)
    return generator


@pytest.fixture(params=[(kind, scale) for kind in KINDS_OF_NETWORK for scale in SCALES], ids=str)
def made(request):
    """A tiny generator with odd slopes, and its spec."""
    spec = spec_of(*request.param)
    return network_of(spec), spec


@torch.inference_mode()
def run(module, batch):
    result = module(torch.from_numpy(np.ascontiguousarray(batch)))
    return (result[0] if isinstance(result, tuple) else result).numpy()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS_OF_NETWORK)
def test_an_untrained_generator_enlarges_already(kind, scale):
    torch.manual_seed(1)
    lr = F.interpolate(torch.rand(1, 3, 4, 4), (17, 22), mode="bicubic").clamp(0.1, 0.9)
    sr = generator_from_spec(spec_of(kind, scale))(lr)
    assert sr.shape == (1, 3, 17 * scale, 22 * scale)
    enlarged = F.interpolate(lr, scale_factor=scale, mode="bilinear")
    inner = (..., slice(6 * scale, -6 * scale), slice(6 * scale, -6 * scale))
    most = 0.05 if kind == "srresnet" else 0.2  # an edge tail starts at random, and small
    assert (sr - enlarged)[inner].abs().mean() < most


def test_the_stated_radius_covers_all_that_the_network_sees(made):
    """And no pixel fewer: one changed pixel reaches that far, and not farther."""
    generator, spec = made
    generator = generator.double()
    for parameter in generator.parameters():
        parameter.abs_().add_(1e-3)  # nothing cancels, no ReLU ends the way
    side = 2 * spec.receptive_radius_px + 5
    image = torch.rand(1, 3, side, side, dtype=torch.float64)
    changed = image.clone()
    changed[..., side // 2, side // 2] += 0.5
    moved = ((generator(changed) - generator(image)).abs() > 1e-12).any(1)[0].nonzero()
    first, last = int(moved.min()), int(moved.max())
    reach = max(side // 2 - first // spec.scale, last // spec.scale - side // 2)
    assert spec.receptive_radius_px - 1 <= reach <= spec.receptive_radius_px


@pytest.mark.parametrize("factor", [2, 3, 5])
@pytest.mark.parametrize("side", [1, 3, 5, 7, 9])
def test_a_kernel_before_the_shuffle_is_the_kernel_after_it(side, factor):
    random = np.random.default_rng(side)
    kernel = random.normal(size=(3, 5, side, side))
    deep = torch.from_numpy(random.normal(size=(2, 5 * factor**2, 7, 6)))
    folded = torch.from_numpy(kernel_before_shuffle(kernel, factor))
    shuffled = F.pixel_shuffle(deep, factor)
    after = torch.conv2d(shuffled, torch.from_numpy(kernel), padding=side // 2)
    before = torch.conv2d(deep, folded, padding=folded.shape[2] // 2)
    assert torch.allclose(F.pixel_shuffle(before, factor), after, atol=1e-12)


def test_the_form_for_gpus_is_exact(made, monkeypatch):
    generator, _ = made
    for kind in (torch.nn.Module, torch.Tensor):
        monkeypatch.setattr(kind, "half", kind.float)
    half = HalfDeployment(generator)
    for shape in [(1, 1, 1, 3), (2, 3, 2, 3), (3, 17, 31, 3)]:
        batch = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        one, other = run(Deployment(generator), batch), run(half, batch)
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "kind", ["edge", *(pytest.param(it, marks=pytest.mark.slow) for it in ("srresnet", "relu"))]
)
def test_every_runtime_has_the_pixels_of_the_network(kind, scale, tmp_path):
    spec = spec_of(kind, scale)
    generator = network_of(spec)
    checkpoint, path = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    save_checkpoint(checkpoint, generator, spec)
    assert onnx_from_checkpoint(checkpoint, path) == spec
    batches = [batch[:, :48, :56] for batch in natural_batches()]
    for kind in (it for it in KINDS.values() if it.installed and it.suffix == ".onnx"):
        with kind.open(path, "cpu", True, 1) as engine:
            parity = compare(lambda it: run(Deployment(generator), it), engine.upscale, batches)
            assert parity.max_levels <= 1, (kind.name, parity)


@pytest.mark.slow
def test_graphs_for_engines_compute_the_same(made, tmp_path):
    """Rewritten, then in FP16; and each is a graph that an engine may load."""
    generator, spec = made
    plain = deployment_graph(generator, spec)
    fast = rewritten(plain)
    half = in_half(fast, "fp16")
    batch = next(natural_batches())[:, :40, :36]
    expected = run(Deployment(generator), batch).astype(int)
    for model, levels in [(fast, 1), (half, 3)]:
        assert np.abs(TypedReference(model).upscale(batch) - expected).max() <= levels
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        assert read_onnx(tmp_path / "m.onnx").spec == spec
    ops = [node.op_type for node in fast.graph.node]
    assert "PRelu" not in ops
    if spec.scale % 2 == 0 and spec.architecture == "srresnet":  # the tail is before the shuffle
        assert ops[-3:] == ["DepthToSpace", "Transpose", "Cast"]


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_int8_computes_in_openvino_as_in_pytorch(scale, tmp_path):
    generator = network_of(spec_of("relu", scale))
    spec = dataclasses.replace(spec_of("relu", scale), name="q", quantized_from="tiny")
    photo = torch.from_numpy(next(natural_batches())[:, :64, :64].copy()).permute(0, 3, 1, 2) / 255
    quantized = generator_from_spec(spec).eval()
    quantized.load_state_dict(quantized_state(generator, [photo]))
    checkpoint, path = tmp_path / "q.safetensors", tmp_path / "q.onnx"
    save_checkpoint(checkpoint, quantized, spec)
    onnx_from_checkpoint(checkpoint, path)
    with (
        TorchEngine(checkpoint) as reference,
        KINDS["openvino"].open(path, "cpu", True, 1) as engine,
    ):
        parity = compare(reference.upscale, engine.upscale, natural_batches())
    assert parity.psnr_db > 55


@pytest.mark.parametrize("kind", ["srresnet", "edge"])
@pytest.mark.parametrize("scale", SCALES)
def test_tiles_and_stripes_are_the_whole_frame(kind, scale):
    spec = spec_of(kind, scale)
    frame = next(natural_batches())[0, :70, :90]
    with TorchEngine.from_generator(network_of(spec), spec) as engine:
        whole = engine.upscale(frame[None])[0]
        halo_px = spec.receptive_radius_px
        for tile_px in (17, 32):
            plan = plan_tiles(90, 70, tile_px, halo_px)
            tiled = upscale_tiled(engine.upscale, frame, plan, scale, batch=3)
            assert np.abs(tiled.astype(int) - whole).max() <= 1
        upscaler = FrameUpscaler(engine, Tiling(tile=32, overlap="exact"), color_lock=True)
        stripes = list(upscaler.upscale_rows(lambda first, last: frame[first:last], 90, 70))
        assert np.array_equal(np.concatenate(stripes), upscaler.upscale(frame))


@pytest.mark.parametrize("lock", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_tiles_of_the_frame_before_are_reused_at_their_place(scale, lock):
    spec = spec_of("edge", scale)
    before = next(natural_batches())[0, :70, :90]
    after = before.copy()
    after[60:64, 70:75] = 0
    with TorchEngine.from_generator(network_of(spec), spec) as engine:
        upscaler = FrameUpscaler(engine, Tiling(tile=32, overlap="exact"), color_lock=lock)
        earlier, _ = upscaler.upscale_after(before, None, {})
        tiles = upscaler.plan(90, 70)[0].tiles
        same = {
            tile: np.array_equal(*(it[tile.window_y.slice(), tile.window_x.slice()] for it in pair))
            for tile in tiles
            for pair in [(before, after)]
        }
        made, reused = upscaler.upscale_after(after, earlier, same)
        assert 0 < reused == sum(same.values()) < len(tiles)
        assert np.array_equal(made.pixels, upscaler.upscale(after))


@pytest.mark.parametrize("scale", SCALES)
def test_locked_colors_are_those_of_the_input(scale):
    source = bicubic.resize(np.random.default_rng(2).integers(0, 256, (5, 7, 3), np.uint8), 53, 71)
    red = source.repeat(scale, 0).repeat(scale, 1).astype(int) + np.array([3, -2, 0])
    result = locked(source, red.clip(0, 255).astype(np.uint8))
    assert np.abs(result.mean((0, 1)) - source.mean((0, 1))).max() < 0.1
    stripes = [red[5 * scale * n : 5 * scale * (n + 1)].clip(0, 255) for n in range(11)]
    held = locked_stripes(
        lambda first, last: source[first:last], (it.astype(np.uint8) for it in stripes), 71, 53
    )
    assert np.array_equal(np.concatenate(list(held)), result)


@pytest.mark.parametrize("scale", range(1, 9))
def test_the_consistency_loss_reduces_as_the_benchmarks_do(scale):
    photo = bicubic.resize(
        np.random.default_rng(4).integers(0, 256, (9, 9, 3), np.uint8), 13 * scale, 9 * scale
    )
    images = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    reduced = losses.bicubic_reduced(images, scale)[0].permute(1, 2, 0).numpy()
    assert reduced.shape == (13, 9, 3)
    exact = [bicubic.resize_float(photo[..., color].astype(float), 13, 9) for color in range(3)]
    assert np.abs(reduced - np.stack(exact, axis=-1)).max() < 1e-3


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", ["edge", pytest.param("srresnet", marks=pytest.mark.slow)])
def test_a_recipe_is_trained_exported_and_run_in_tiles_at_every_scale(recipe, scale, tmp_path):
    changes = [*TINY, f"model.scale={scale}", "pixel.steps=4", "pixel.consistency=1.0"]
    changes += ["pixel.grid=1.0", "data.teacher=", "pixel.distillation=0.0", "pixel.l1=1.0"]
    changes += ["data.degradation=real", f"data.crop_px={48 if scale == 3 else 32}"]
    chosen = Recipe.load(recipe, changes)
    assert chosen.model.name == f"{recipe}-x{scale}"
    validation = write_benchmark(tmp_path / "bench") if scale > 1 else None
    photos = write_photos(tmp_path / "photos")
    path = train(chosen, [photos], tmp_path / "run", validation=validation)
    generator, spec = load_checkpoint(path)
    assert onnx_from_checkpoint(path, tmp_path / "m.onnx") == spec
    assert spec.scale == scale
    frame = next(natural_batches())[0, :37, :53]
    whole = run(Deployment(generator), frame[None])[0]
    assert whole.shape == (37 * scale, 53 * scale, 3)
    kind = next(it for it in KINDS.values() if it.installed and it.suffix == ".onnx")
    with kind.open(tmp_path / "m.onnx", "cpu", True, 1) as engine:
        tiles = FrameUpscaler(engine, Tiling(tile=16, overlap="exact"), color_lock=False)
        assert np.abs(tiles.upscale(frame).astype(int) - whole).max() <= 1


def test_a_gan_trains_at_x3(tmp_path):
    changes = [*TINY, "model.scale=3", "data.crop_px=48", "pixel.steps=2", "adversarial.steps=2"]
    changes += ["adversarial.discriminator_channels=4", "adversarial.perceptual=0.0"]
    chosen = Recipe.load("srgan", changes)
    path = train(chosen, [write_photos(tmp_path / "photos")], tmp_path / "run")
    assert path.name == "srgan-x3.safetensors"


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_a_benchmark_is_reduced_where_it_has_no_images_of_that_scale(scale, tmp_path):
    folder = write_benchmark(tmp_path / "bench")  # with LRx4 alone, of 64 px
    (pair,) = read_pairs(folder, scale)
    assert pair.lr.shape == (64 // scale, 64 // scale, 3)
    assert pair.hr.shape[0] == scale * pair.lr.shape[0]
    assert np.array_equal(bicubic.resize(pair.hr, *pair.lr.shape[:2]), pair.lr)
    assert evaluate_folder(bicubic_upscale(scale), folder, scale).mean.psnr_y > 15


def test_the_small_x2_recipe_has_at_most_45_k_parameters():
    recipe = Recipe.load("edge-x2")
    assert (recipe.model.name, recipe.model.scale) == ("edge-x2", 2)
    generator = generator_from_spec(recipe.model)
    assert sum(it.numel() for it in generator.parameters()) <= 45_000
    assert not recipe.model.may_shift_colors or recipe.model.training is None


def test_a_clean_source_gets_a_model_of_the_final_scale_where_there_is_one(monkeypatch):
    for name, files in bundled_models().items():
        assert name.endswith(f"-x{files.spec.scale}")
    bundled = bundled_models()
    monkeypatch.setattr(
        "srgan_edge.suited.bundled_models", lambda: bundled | {"edge-x2": bundled["edge-x4"]}
    )
    clean, lossy = Coding("PNG", False), Coding("JPEG of quality 40", True)
    assert suited_to("image", clean, 2, on_gpu=False).model == "edge-x2"
    assert suited_to("image", lossy, 2, on_gpu=False).model == "edge-l-real-x4"
    assert suited_to("image", clean, 1.5, on_gpu=False).model == "edge-l-x4"
    assert suited_to("image", clean, on_gpu=True).model == "srgan-x4"


def test_a_graph_of_another_scale_than_its_spec_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    spec = spec_of("edge", 2)
    model = deployment_graph(network_of(spec), spec)
    other = dataclasses.replace(spec, scale=3)
    onnx.helper.set_model_props(model, {"srgan_edge.spec": other.to_json()})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match="its output is not 3 times as large as its input"):
        read_onnx(tmp_path / "m.onnx")
