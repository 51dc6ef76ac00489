"""Every installed engine returns the pixels of `Deployment`, at any size."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from srgan_edge.engines import KINDS, Choice, choose_engine, open_engine  # noqa: E402
from srgan_edge.errors import ExtraMissing, ModelRefused, UsageError  # noqa: E402
from srgan_edge.evaluation.parity import (  # noqa: E402
    compare,
    halo_errors,
    smallest_halo_px,
)
from srgan_edge.export.onnx import onnx_from_checkpoint  # noqa: E402
from srgan_edge.export.verify import natural_batches  # noqa: E402
from srgan_edge.machine import Gpu  # noqa: E402
from srgan_edge.model.checkpoint import save_checkpoint  # noqa: E402
from srgan_edge.model.library import ModelFiles, find_model  # noqa: E402
from srgan_edge.model.network import Deployment, generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402
from srgan_edge.tiling import plan_tiles, upscale_tiled  # noqa: E402

SPECS = {
    "edge": ModelSpec("edge", "edge", 6, 3),
    "edge-relu": ModelSpec("edge-relu", "edge", 6, 3, activation="relu"),
    "srresnet": ModelSpec("srresnet", "srresnet", 8, 2),
    "paper": ModelSpec("paper", "srresnet", 8, 2, norm="batch"),
    "tanh": ModelSpec("tanh", "srresnet", 8, 1, head="tanh"),
}
INSTALLED = [kind for kind in KINDS.values() if kind.installed and kind.suffix != ".engine"]

QUICK = ("edge",)  # exporting and running the others takes as long again, each


@pytest.fixture(
    scope="session",
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SPECS
    ],
)
def model(request, tmp_path_factory):
    """A tiny generator of each architecture, with slopes of either sign, as both kinds of file."""
    folder = tmp_path_factory.mktemp(request.param)
    spec = SPECS[request.param]
    torch.manual_seed(3)
    generator = generator_from_spec(spec)
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, torch.nn.PReLU):
                module.weight.uniform_(-0.4, 1.3)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    checkpoint, onnx = folder / "m.safetensors", folder / "m.onnx"
    save_checkpoint(checkpoint, generator, spec)
    onnx_from_checkpoint(checkpoint, onnx)
    return ModelFiles("m", {".safetensors": checkpoint, ".onnx": onnx}), generator.eval()


@pytest.fixture(params=INSTALLED, ids=lambda kind: kind.name)
def engine(request, model):
    files, _ = model
    choice = Choice(request.param, files.file(request.param.suffix), "cpu", "test")
    with open_engine(choice, fp32=True) as engine:
        yield engine


def test_pixels_are_those_of_the_network(engine, model):
    """Rounding may only differ where a sum lies halfway between two levels."""
    deployment = Deployment(model[1])

    def reference(batch):
        with torch.inference_mode():
            return deployment(torch.tensor(batch)).numpy()

    parity = compare(reference, engine.upscale, natural_batches())
    assert parity.max_levels <= 1, parity
    assert parity.psnr_db >= 60, parity


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2), (3, 17, 31), (2, 5, 64)])
def test_shape_type_and_ownership(engine, shape):
    batch = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    given = batch.copy()
    first = engine.upscale(batch)
    kept = first.copy()
    assert first.shape == (shape[0], 4 * shape[1], 4 * shape[2], 3)
    assert first.dtype == np.uint8
    engine.upscale(255 - batch)
    np.testing.assert_array_equal(first, kept, err_msg="a later call changed an earlier result")
    np.testing.assert_array_equal(batch, given, err_msg="the input was changed")


def test_read_only_input_is_fine(engine):
    batch = np.zeros((1, 4, 5, 3), np.uint8)
    batch.flags.writeable = False
    engine.upscale(batch)


def test_extremes_neither_wrap_nor_overflow(engine, model):
    """An edge between black and white drives the network past the ends of the range."""
    batch = np.zeros((1, 24, 24, 3), np.uint8)
    batch[:, :, 12:] = 255
    deployment = Deployment(model[1])
    with torch.inference_mode():
        image = deployment.image(torch.tensor(batch))
        reference = deployment.rounded(image).numpy().astype(int)
    levels = image.permute(0, 2, 3, 1).numpy()
    below, above = levels < -0.01, levels > 1.01
    if engine.info.spec.head == "linear":
        assert above.any(), "nothing would overflow"
    if engine.info.spec.architecture == "edge":
        assert below.any(), "nothing would wrap"
    result = engine.upscale(batch)
    assert (result[below] == 0).all()
    assert (result[above] == 255).all()
    assert np.abs(result - reference).max() <= 1


@pytest.mark.parametrize("kind", INSTALLED, ids=lambda kind: kind.name)
def test_black_stays_black_and_white_stays_white(kind):
    files = find_model("edge-x4")
    batch = np.zeros((2, 24, 24, 3), np.uint8)
    batch[1] = 255
    with open_engine(Choice(kind, files.file(kind.suffix), "cpu", "test"), fp32=True) as engine:
        black, white = engine.upscale(batch)[:, 32:-32, 32:-32]
    assert black.max() <= 5
    assert white.min() >= 250


@pytest.mark.parametrize(
    "kind", [kind for kind in INSTALLED if kind.suffix == ".onnx"], ids=lambda kind: kind.name
)
def test_slots_run_at_once_and_change_no_pixel(kind, model):
    """Several threads, as for a video, while the main thread keeps needing Python's lock."""
    choice = Choice(kind, model[0].file(kind.suffix), "cpu", "test")
    batches = np.random.default_rng(4).integers(0, 256, (20, 1, 12, 16, 3), np.uint8)
    with open_engine(choice, fp32=True, slots=3) as engine:
        one_by_one = [engine.upscale(batch) for batch in batches]
        with ThreadPoolExecutor(engine.info.slots) as executor:
            futures = [executor.submit(engine.upscale, batch) for batch in batches for _ in "123"]
            while not all(future.done() for future in futures):
                hashlib.sha256(b"busy").hexdigest()
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(), one_by_one[number // 3])


def test_info_describes_the_engine(engine, model):
    assert engine.info.device == "cpu"
    assert engine.info.precision == "fp32"
    assert engine.info.spec == model[0].spec
    assert any(character.isdigit() for character in engine.info.name), "no version"


@pytest.mark.slow
def test_tiled_equals_untiled_bit_for_bit_with_torch_in_fp32(model):
    """With the exact halo, every tile size gives the same sums."""
    files, _ = model
    halo_px = files.spec.receptive_radius_px
    frame = next(natural_batches())[0]
    height, width = frame.shape[:2]
    with open_engine(choose_engine(files, "torch", "cpu")) as engine:
        whole = engine.upscale(frame[None])[0]
        for tile_px in (16, 33, 48, 71):
            plan = plan_tiles(width, height, tile_px, halo_px)
            assert len(plan.tiles) > 1
            tiled = upscale_tiled(engine.upscale, frame, plan, 4, batch=3)
            np.testing.assert_array_equal(tiled, whole, err_msg=f"tile {tile_px}")


@pytest.mark.slow
def test_the_halo_is_measured_down_to_zero_error(model):
    files, _ = model
    frame = next(natural_batches())[0, :90, :100]
    with open_engine(choose_engine(files, "torch", "cpu")) as engine:
        errors = list(halo_errors(engine, [frame], tile_px=24))
    assert [error.halo_px for error in errors] == [*range(files.spec.receptive_radius_px + 1)]
    assert errors[0].max_levels > 1, "without a halo the seams must show"
    assert errors[-1].max_levels == 0, "at the exact halo nothing differs"
    assert 0 < smallest_halo_px(errors) <= files.spec.receptive_radius_px


def test_auto_says_why(model, monkeypatch):
    files, _ = model
    choice = choose_engine(files)
    assert (choice.kind.name, choice.reason) == ("openvino", "first choice")
    gpu = Gpu("Some GPU", 128, "8.9", "13.0")
    monkeypatch.setattr(Gpu, "find", classmethod(lambda cls: gpu))  # no runtime can use it
    choice = choose_engine(files)
    assert choice.kind.name == "openvino"
    assert "torch on cuda: no CUDA device; onnxruntime on cuda: no CUDA device" in choice.reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choice = choose_engine(files)
    assert (choice.kind.name, choice.device, choice.reason) == ("torch", "cuda", "first choice")
    assert choose_engine(files, "torch").device == "cuda"
    assert choose_engine(files, "openvino").device == "cpu"


def test_without_the_file_that_an_engine_reads_another_is_taken(model):
    files, _ = model
    only_weights = ModelFiles("m", {".safetensors": files.file(".safetensors")})
    choice = choose_engine(only_weights)
    assert choice.kind.name == "torch"
    assert "openvino on cpu: m has no .onnx file" in choice.reason


def test_impossible_choices_are_refused(model, tmp_path):
    files, _ = model
    with pytest.raises(UsageError, match="no engine 'tensorflow'"):
        choose_engine(files, "tensorflow")
    with pytest.raises(UsageError, match="openvino runs on cpu, not on 'cuda'"):
        open_engine(choose_engine(files, "openvino", "cuda"))
    with pytest.raises(UsageError, match="CUDAExecutionProvider"):
        open_engine(choose_engine(files, "onnxruntime", "cuda"))
    with pytest.raises(ModelRefused, match=r"export .*safetensors --onnx"):
        choose_engine(ModelFiles("m", {".safetensors": tmp_path / "m.safetensors"}), "openvino")


def test_a_missing_runtime_is_one_line_with_the_pip_command(model, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'srgan-edge\[onnx\]'"):
        open_engine(choose_engine(model[0], "onnxruntime"))


@pytest.mark.parametrize("kind", INSTALLED, ids=lambda kind: kind.name)
def test_damaged_models_are_refused(kind, model, tmp_path):
    content = model[0].file(kind.suffix).read_bytes()
    damaged = tmp_path / f"damaged{kind.suffix}"
    for cut in (0, 20, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:cut])
        with pytest.raises(ModelRefused):
            open_engine(Choice(kind, damaged, "cpu", "test"))


def test_names_are_suggested():
    with pytest.raises(UsageError, match="did you mean 'edge-x4'"):
        find_model("edg-x4")
    assert find_model("edge-x4").has(".onnx")


def test_weights_without_pytorch_say_what_to_install_and_type(tmp_path, monkeypatch):
    path = tmp_path / "mine x4.safetensors"
    path.write_bytes(find_model("edge-x4").file(".safetensors").read_bytes())
    monkeypatch.setitem(KINDS, "torch", replace(KINDS["torch"], runtimes=("no_such_module",)))
    with pytest.raises(UsageError) as refused:
        choose_engine(find_model(str(path)))
    advice = f"type: pip install 'srgan-edge[export]', then: srgan-edge export '{path}' --onnx"
    assert str(refused.value).endswith(advice)
    assert choose_engine(find_model("edge-x4")).kind.name == "openvino"


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_a_graph_that_its_runtime_cannot_run_is_refused_in_one_line(kind, tmp_path, capfd):
    """It passes all checks, and the name of its node would be a command to the terminal."""
    pytest.importorskip(kind)
    graph = onnx.load(find_model("srgan-x4").file(".onnx"))
    node = next(node for node in graph.graph.node if node.op_type == "PRelu")
    node.op_type, node.name = "Conv", "\x1b]0;pwned\x07"  # of slopes, which are no kernel
    onnx.save(graph, tmp_path / "odd.onnx")
    with pytest.raises(ModelRefused) as refused:
        files = ModelFiles("odd", {".onnx": tmp_path / "odd.onnx"})
        with open_engine(choose_engine(files, kind)) as engine:
            engine.upscale(np.zeros((1, 8, 9, 3), np.uint8))
    assert "cannot" in str(refused.value)
    assert "\x1b" not in capfd.readouterr().err
