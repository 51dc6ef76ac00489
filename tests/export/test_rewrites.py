"""Every rewrite preserves the results of the graph, on natural crops of awkward sizes."""

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import onnx_ir as ir  # noqa: E402
import torch  # noqa: E402

from srgan_edge.bicubic import resize  # noqa: E402
from srgan_edge.export.float_onnx import float_graph  # noqa: E402
from srgan_edge.export.graph import cost_of  # noqa: E402
from srgan_edge.export.half_onnx import in_half  # noqa: E402
from srgan_edge.export.onnx import deployment_graph, unfolded_graph  # noqa: E402
from srgan_edge.export.rewrites import (  # noqa: E402
    REWRITES,
    prelu_as_max,
    rewritten,
    with_folded_tail,
)
from srgan_edge.export.verify import PHOTO  # noqa: E402
from srgan_edge.image.reader import read_pixels  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint  # noqa: E402
from srgan_edge.model.library import find_model  # noqa: E402
from srgan_edge.model.network import (  # noqa: E402
    generator_from_spec,
    kernel_before_shuffle,
)
from srgan_edge.model.spec import ModelSpec  # noqa: E402

pytestmark = pytest.mark.slow  # each traces, compiles or builds

SHAPES = [(1, 17, 31), (3, 20, 13), (1, 1, 1), (3, 2, 3)]
SMALL = {
    "plain": ModelSpec("tiny", "srresnet", 14, 2),
    "batch norm": ModelSpec("tiny", "srresnet", 12, 1, norm="batch"),
    "tanh": ModelSpec("tiny", "srresnet", 4, 1, head="tanh"),
    "edge": ModelSpec("tiny", "edge", 7, 2),
    "edge-relu": ModelSpec("edge-relu", "edge", 6, 3, activation="relu"),
}


def graph_of(spec, slopes=(-0.3, 0.9)):
    """A generator whose PReLU slopes and norms are as odd as those of trained ones."""
    torch.manual_seed(0)
    generator = generator_from_spec(spec).eval()
    for module in generator.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.uniform_(*slopes)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 2)
            module.bias.data.uniform_(-1, 1)
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.1, 3)
    return unfolded_graph(generator, spec)


@pytest.fixture(scope="module")
def graphs():
    return {name: graph_of(spec) for name, spec in SMALL.items()}


def crops(shape):
    batch, height, width = shape
    photo = read_pixels(PHOTO)
    places = [(10 * i, 7 * i) for i in range(batch)]
    return np.stack([photo[y : y + height, x : x + width] for y, x in places])


def before_the_bytes(model, batch):
    """The values that the graph rounds to bytes, in units of 1, not of 255."""
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.append(
        onnx.helper.make_empty_tensor_value_info(shown.graph.node[-1].input[0])
    )
    return run(shown, batch)[1] / 255


def run(model, batch):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    return session.run(None, {"input": batch})


def agree(one, other):
    for shape in SHAPES:
        batch = crops(shape)
        ours, theirs = before_the_bytes(one, batch), before_the_bytes(other, batch)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-5, shape


def op_types(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.__name__)
@pytest.mark.parametrize("name", SMALL)
def test_a_rewrite_alone_changes_no_result(graphs, rewrite, name):
    model = ir.from_proto(graphs[name])
    rewrite(model)
    agree(ir.to_proto(model), graphs[name])


@pytest.mark.parametrize("name", SMALL)
def test_all_rewrites_change_no_result(graphs, name):
    agree(rewritten(graphs[name]), graphs[name])


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_left_that_a_runtime_cannot_fuse(graphs, name):
    ops = op_types(rewritten(graphs[name]))
    assert "PRelu" not in ops
    assert "BatchNormalization" not in ops
    assert ops[-3:] == ["DepthToSpace", "Transpose", "Cast"] or name in (
        "edge-relu",
        "edge",
        "tanh",
    )  # they add, or are narrow


def test_inputs_outputs_and_spec_stay_as_they_are(graphs):
    before, after = graphs["plain"], rewritten(graphs["plain"])
    assert after.metadata_props == before.metadata_props
    assert after.graph.input == before.graph.input
    assert [(o.name, o.type) for o in after.graph.output] == [
        (o.name, o.type) for o in before.graph.output
    ]


def test_rewriting_twice_changes_nothing_more(graphs):
    once = rewritten(graphs["plain"])
    assert op_types(rewritten(once)) == op_types(once)


@pytest.mark.parametrize(
    ("slopes", "expected"),
    [((-0.5, 1.0), "Max"), ((1.0, 1.7), "Min"), ((0.5, 1.5), "Add")],
    ids=["at most one", "at least one", "both"],
)
def test_a_prelu_of_any_slopes_is_exact(slopes, expected):
    before = graph_of(SMALL["edge"], slopes)
    model = ir.from_proto(before)
    prelus = op_types(before).count("PRelu")
    had = op_types(before).count(expected)
    prelu_as_max(model)
    after = ir.to_proto(model)
    assert op_types(after).count(expected) == had + prelus
    agree(after, before)


@pytest.mark.parametrize("side", [1, 3, 5, 7, 9])
def test_a_kernel_before_the_shuffle_is_the_kernel_after_it(side):
    random = np.random.default_rng(side)
    kernel = random.normal(size=(3, 5, side, side))
    deep = torch.from_numpy(random.normal(size=(2, 20, 7, 6)))
    folded = torch.from_numpy(kernel_before_shuffle(kernel, 2))
    shuffled = torch.nn.functional.pixel_shuffle(deep, 2)
    after = torch.conv2d(shuffled, torch.from_numpy(kernel), padding=side // 2)
    before = torch.conv2d(deep, folded, padding=folded.shape[2] // 2)
    assert torch.allclose(torch.nn.functional.pixel_shuffle(before, 2), after, atol=1e-12)


def test_the_cost_is_that_of_the_paper():
    generator, spec = load_checkpoint(find_model("srgan-x4").file(".safetensors"))
    model = unfolded_graph(generator, spec)
    assert cost_of(model).macs_per_pixel == 2_218_176
    tail, folded = 9 * 9 * 64 * 3 * 16, 5 * 5 * 256 * 12 * 4
    assert cost_of(rewritten(model)).macs_per_pixel == 2_218_176 - tail + folded


def test_what_is_deployed_has_its_last_convolution_before_the_shuffle(graphs):
    """In every ONNX and form, as CPUs and GPUs compute at least eight to sixteen channels."""
    spec = SMALL["plain"]
    generator = generator_from_spec(spec).eval()
    for graph in (
        deployment_graph(generator, spec),
        float_graph(generator, spec),
        *(onnx.load(find_model(name).file(".onnx")) for name in ("srgan-x4", "srresnet-x4")),
    ):
        convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
        weights = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
        channels = convolutions[1].input[1]
        assert weights[convolutions[-1].input[1]] == [12, 4 * weights[channels][0], 5, 5]


def test_a_graph_without_such_a_tail_keeps_its_bytes(graphs):
    for name in ("edge", "edge-relu"):
        assert with_folded_tail(graphs[name]) is graphs[name]


@pytest.mark.parametrize("name", ["srgan-x4", "srresnet-x4", "edge-x4"])
def test_in_fp16_every_weight_is_half_and_the_bytes_stay(name):
    model = rewritten(onnx.load(find_model(name).file(".onnx")))
    half = in_half(model, "fp16")
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    for node in half.graph.node:
        if node.op_type == "Conv":
            kinds = {weights[name] for name in node.input[1:]}
            assert kinds == {onnx.TensorProto.FLOAT16}, node.name
    assert half.graph.input == model.graph.input
    assert half.metadata_props == model.metadata_props
    batch = resize(read_pixels(PHOTO), 45, 59)[None]
    difference = run(half, batch)[0].astype(int) - run(model, batch)[0]
    assert np.abs(difference).max() <= 1
    assert np.abs(difference).mean() <= 0.1


def test_bf16_is_a_valid_graph(graphs):
    for graph in graphs.values():
        half = in_half(rewritten(graph), "bf16")
        types = {tensor.data_type for tensor in half.graph.initializer if len(tensor.dims) == 4}
        assert types == {onnx.TensorProto.BFLOAT16}


def test_a_weight_too_large_for_half_is_refused(graphs):
    from srgan_edge.errors import ModelRefused

    model = ir.from_proto(graphs["plain"])
    name = next(name for name in model.graph.initializers if name.endswith("head.0.weight"))
    weight = model.graph.initializers[name]
    weight.const_value = ir.tensor(weight.const_value.numpy() * 1e7, name=name)
    with pytest.raises(ModelRefused, match=rf"{name}\S* holds values too large for fp16"):
        in_half(ir.to_proto(model), "fp16")
