"""Architectures of other programs: the ONNX has the pixels of PyTorch, and harm is refused."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("spandrel")

import onnx  # noqa: E402
import spandrel  # noqa: E402
from clips import make  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact  # noqa: E402
from spandrel.architectures.DnCNN.__arch.network_dncnn import DnCNN  # noqa: E402
from spandrel.architectures.DRUNet.__arch.network_unet import DRUNet  # noqa: E402
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet  # noqa: E402
from spandrel.architectures.OmniSR.__arch.OmniSR import OmniSR  # noqa: E402
from spandrel.architectures.PLKSR.__arch.RealPLKSR import RealPLKSR  # noqa: E402
from spandrel.architectures.SPAN.__arch.span import SPAN  # noqa: E402
from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR  # noqa: E402

from srgan_edge.engines import KINDS  # noqa: E402
from srgan_edge.errors import ModelRefused  # noqa: E402
from srgan_edge.evaluation.parity import compare  # noqa: E402
from srgan_edge.export import foreign_child  # noqa: E402
from srgan_edge.export.foreign import (  # noqa: E402
    POSSIBLE_VALUES,
    Origin,
    deployment_of,
    deployment_of_graph,
    onnx_from_weights,
)
from srgan_edge.export.prelu_srgan import PReluSRGAN  # noqa: E402
from srgan_edge.export.reach import Reach, reach_of  # noqa: E402
from srgan_edge.export.verify import PHOTO, natural_batches  # noqa: E402
from srgan_edge.export.wrapper import UNIT, Sizes, Values, with_spec, wrapped  # noqa: E402
from srgan_edge.image.reader import read_pixels  # noqa: E402
from srgan_edge.model.foreign_graph import PROBES_PX, cost_at  # noqa: E402
from srgan_edge.model.onnx_file import read_onnx  # noqa: E402
from srgan_edge.model.spec import Foreign, ModelSpec  # noqa: E402
from srgan_edge.tiling import Tiling, plan_tiles  # noqa: E402
from srgan_edge.upscaler import FrameUpscaler  # noqa: E402

ORIGIN = Origin("tiny", "CC-BY-NC-4.0", "a test")


def old_keys(state):
    """ESRGAN as its first repository wrote it: `RRDB_trunk.0.RDB1.conv1`, not `model.1.sub.0`."""
    names = {"model.0.": "conv_first.", "model.3.": "upconv1.", "model.6.": "upconv2."}
    names |= {"model.8.": "HRconv.", "model.10.": "conv_last.", "model.1.sub.1.": "trunk_conv."}
    renamed = {}
    for key, value in state.items():
        for old, new in names.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
        key = key.replace("model.1.sub.", "RRDB_trunk.")
        key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        renamed[key] = value
    return renamed


def real_esrgan_keys(state):
    """ESRGAN as Real-ESRGAN and BasicSR write it: `body.0.rdb1.conv1`."""
    names = {"HRconv": "conv_hr", "RRDB_trunk": "body", "trunk_conv": "conv_body"}
    names |= {"upconv": "conv_up", "RDB": "rdb"}
    renamed = {}
    for key, value in old_keys(state).items():
        for old, new in names.items():
            key = key.replace(old, new)
        renamed[key] = value
    return renamed


LAYOUTS = {"ESRGAN x4, old keys": old_keys, "RealESRGAN_x4plus": real_esrgan_keys}


def esrgan(**options):
    return RRDBNet(num_filters=8, num_blocks=1, **options)


NETWORKS = {
    "ESRGAN x4": (lambda: esrgan(scale=4), 4, "traced"),
    "ESRGAN+ x2": (lambda: esrgan(scale=2, plus=True), 2, "traced"),
    "RealESRGAN_x2plus": (lambda: esrgan(in_nc=12, scale=4, shuffle_factor=2), 2, "traced"),
    "ESRGAN x1": (lambda: esrgan(scale=1), 1, "traced"),
    "Compact x2": (lambda: SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2), 2, "traced"),
    "SRGAN with PReLU x2": (lambda: PReluSRGAN(8, 1, 1), 2, "traced"),
    "SPAN x2": (
        lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2), 2, "traced",
    ),
    "RealPLKSR x2": (lambda: RealPLKSR(dim=8, n_blocks=2, upscaling_factor=2), 2, "measured"),
    "SwinIR x2": (
        lambda: SwinIR(
            img_size=16, embed_dim=12, depths=(2,), num_heads=(2,), window_size=4, upscale=2,
            upsampler="pixelshuffledirect",
        ),
        2, "window",
    ),
    "OmniSR x2": (
        lambda: OmniSR(num_feat=8, res_num=1, block_num=1, up_scale=2, window_size=8), 2, "window",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NETWORKS, *LAYOUTS])
def test_every_runtime_has_the_pixels_of_pytorch(name, tmp_path):
    network, scale, kind = NETWORKS.get(name) or NETWORKS["ESRGAN x4"]
    torch.manual_seed(0)
    state = network().state_dict()
    state = LAYOUTS.get(name, dict)(state)
    torch.save({"params_ema": state}, tmp_path / "w.pth")
    made = deployment_of(tmp_path / "w.pth", ORIGIN)
    foreign = made.spec.foreign
    assert made.parity.max_levels <= 1
    assert (made.spec.scale, made.spec.licence, foreign.source) == (scale, "CC-BY-NC-4.0", "a test")
    assert (foreign.is_traced, foreign.window_px > 0) == (kind == "traced", kind == "window")
    (tmp_path / "w.onnx").write_bytes(made.content)
    assert read_onnx(tmp_path / "w.onnx").spec == made.spec
    frame = read_pixels(PHOTO)[:70, :101]
    results = []
    for runtime in (it for it in KINDS.values() if it.suffix == ".onnx" and it.installed):
        with runtime.open(tmp_path / "w.onnx", "cpu", True, 1) as engine:
            upscaler = FrameUpscaler(engine, Tiling(overlap="exact"), color_lock=False)
            results.append(upscaler.upscale(frame))
            assert results[-1].shape == (70 * scale, 101 * scale, 3)
            if kind == "traced":  # then tiles are exact
                tiles = FrameUpscaler(engine, Tiling(tile=32, overlap="exact"), color_lock=False)
                tiled = tiles.upscale(frame)
                assert np.abs(tiled.astype(int) - results[-1]).max() <= 1
    assert np.abs(results[0].astype(int) - results[-1]).max() <= 1


def convolution_graph(scale=2, multiple=1, kind=TensorProto.FLOAT, sides=("h", "w"), extra=()):
    """A float graph as other programs export it: a shuffle of repeated pixels."""
    kernel = np.zeros((3 * scale**2, 3, 3, 3), np.float32)
    for color in range(3):
        kernel[scale**2 * color : scale**2 * (color + 1), color, 1, 1] = 1
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["deep"], ["y"], blocksize=scale, mode="CRD"),
        *extra,
    ]
    if scale == 1:
        nodes[1:2] = [helper.make_node("Identity", ["deep"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 3, *sides])],
        [helper.make_tensor_value_info("y", kind, ["n", 3, "rows", "columns"])],
        [numpy_helper.from_array(kernel.astype(dtype), "kernel")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("options", "scale", "window_px"),
    [
        ({}, 2, 0),
        ({"scale": 1}, 1, 0),
        ({"scale": 3}, 3, 0),
        ({"scale": 8}, 8, 0),
        ({"kind": TensorProto.FLOAT16}, 2, 0),
        ({"sides": (64, 64)}, 2, 64),
    ],
)
def test_a_float_graph_of_another_program_is_recognized(tmp_path, options, scale, window_px):
    onnx.save(convolution_graph(**options), tmp_path / "f.onnx")
    spec = onnx_from_weights(tmp_path / "f.onnx", tmp_path / "out.onnx", ORIGIN)
    assert (spec.scale, spec.foreign.window_px) == (scale, window_px)
    assert (spec.foreign.is_traced, spec.foreign.radius_px) == (True, 1)
    frame = read_pixels(PHOTO)[:90, :75]
    with KINDS["openvino"].open(tmp_path / "out.onnx", "cpu", True, 1) as engine:
        result = FrameUpscaler(engine, Tiling(), color_lock=False).upscale(frame)
    assert np.array_equal(result, frame.repeat(scale, 0).repeat(scale, 1))


def graph_of_values(taken, made):
    """A float graph that brightens what is almost black, and repeats pixels."""
    model = convolution_graph()
    convolution, shuffle = model.graph.node
    convolution.input[0], shuffle.output[0] = "unit", "larger"
    numbers = {
        "black": taken.black,
        "spread": taken.white - taken.black,
        "new_black": made.black,
        "new_spread": made.white - made.black,
        "darkest": 0.02,
        "one": 1,
    }
    steps = [
        ("Sub", ["x", "black"], "from_black"),
        ("Div", ["from_black", "spread"], "scaled"),
        ("Clip", ["scaled", "darkest", "one"], "unit"),
    ]
    model.graph.ClearField("node")
    model.graph.node.extend(
        [
            *(helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps),
            *(convolution, shuffle),
            helper.make_node("Mul", ["larger", "new_spread"], ["spread_again"]),
            helper.make_node("Add", ["spread_again", "new_black"], ["y"]),
        ]
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(number), name) for name, number in numbers.items()
    )
    return model


@pytest.mark.parametrize("taken", POSSIBLE_VALUES, ids=str)
@pytest.mark.parametrize("made", POSSIBLE_VALUES, ids=str)
def test_the_values_of_a_float_graph_are_found(tmp_path, taken, made):
    onnx.save(graph_of_values(taken, made), tmp_path / "f.onnx")
    said = []
    onnx_from_weights(tmp_path / "f.onnx", tmp_path / "out.onnx", ORIGIN, say=said.append)
    either = taken == made != Values(0, 255)  # what is [-1, 1] twice does the same to [0, 1]
    line = f"takes values in {taken} and makes values in {made}, as a photograph shows"
    assert said == ([] if either else [line])
    frame = read_pixels(PHOTO)[:33, :45]
    with KINDS["openvino"].open(tmp_path / "out.onnx", "cpu", True, 1) as engine:
        result = engine.upscale(frame[None])[0]
    assert np.abs(result - frame.repeat(2, 0).repeat(2, 1).astype(int)).max() <= 5


def test_a_float_graph_that_makes_no_image_is_refused(tmp_path):
    onnx.save(graph_of_values(UNIT, Values(1, 0)), tmp_path / "negative.onnx")
    with pytest.raises(ModelRefused, match=r"values in none of \[0, 1\], \[0, 255\], \[-1, 1\]"):
        onnx_from_weights(tmp_path / "negative.onnx", tmp_path / "out.onnx", ORIGIN)
    assert not (tmp_path / "out.onnx").exists()


def test_a_float_graph_is_never_loaded_raw(tmp_path):
    onnx.save(convolution_graph(), tmp_path / "f.onnx")
    for kind in (it for it in KINDS.values() if it.suffix == ".onnx" and it.installed):
        with pytest.raises(ModelRefused, match="carries no srgan-edge spec"):
            kind.open(tmp_path / "f.onnx", "cpu", True, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.graph.node[1], "op_type", "Loop"), "has the operation Loop"),
        (lambda m: setattr(m.graph.node[1], "domain", "com.x"), r"the operation com\.x\."),
        (lambda m: m.graph.output.append(m.graph.output[0]), "1 inputs and 2 outputs"),
        (
            lambda m: m.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 4),
            "its input is not an image",
        ),
        (
            lambda m: m.graph.initializer[0].external_data.add(key="location", value="/etc/passwd"),
            "its weights are in another file",
        ),
        (lambda m: m.functions.add(name="f"), "has functions or training"),
        (
            lambda m: m.graph.node[1].attribute[0].__setattr__("i", 64),
            "its result is not the image, 1 to 8 times as large",
        ),
    ],
)
def test_a_graph_that_does_more_is_refused(tmp_path, change, said):
    model = convolution_graph()
    change(model)
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match=said):
        deployment_of_graph(tmp_path / "f.onnx", ORIGIN)


def test_a_graph_with_weights_that_are_not_finite_is_refused_by_its_name(tmp_path):
    model = convolution_graph()
    kernel = model.graph.initializer[0]
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.nan, "kernel"))
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(ModelRefused) as refused:
        deployment_of_graph(tmp_path / "f.onnx", ORIGIN)
    assert str(refused.value).startswith(f"{tmp_path / 'f.onnx'}: the weights 'kernel' hold values")


def test_a_graph_that_makes_no_image_is_refused(tmp_path):
    model = convolution_graph()
    kernel = model.graph.initializer[0]
    kernel.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(kernel), "kernel"))
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(ModelRefused, match=r"a photograph upscaled by it has \d+\.\d dB where"):
        onnx_from_weights(tmp_path / "f.onnx", tmp_path / "out.onnx", ORIGIN)
    assert not (tmp_path / "out.onnx").exists()


def described(model, scale=2, **facts):
    facts = {"values_per_px": 100, "multiplications_per_px": 1000} | facts
    foreign = Foreign(1, True, **facts)
    return with_spec(model, ModelSpec("x", "Some", 0, 0, scale=scale, foreign=foreign))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"values_per_px": 5}, "values per pixel, and its spec states 5"),
        ({"multiplications_per_px": 20}, "multiplications per pixel, and its spec states 20"),
        ({"window_px": 64}, "its output is not 2 times|Got invalid dimensions|not sound"),
    ],
)
def test_a_graph_must_need_what_its_spec_states(tmp_path, facts, said):
    model = wrapped(convolution_graph(), 2, Sizes())
    (tmp_path / "ok.onnx").write_bytes(described(model))
    assert read_onnx(tmp_path / "ok.onnx").spec.architecture == "Some"
    (tmp_path / "f.onnx").write_bytes(described(model, **facts))
    if "window_px" in facts:  # one that takes any size takes this one too
        assert read_onnx(tmp_path / "f.onnx").spec.foreign.window_px == 64
        return
    with pytest.raises(ModelRefused, match=said):
        read_onnx(tmp_path / "f.onnx")


@pytest.mark.parametrize("field", ["architecture", "channels"])
def test_native_and_foreign_specs_are_told_apart(field):
    foreign = Foreign(1, True, 100, 1000)
    with pytest.raises(ModelRefused, match="facts of a foreign graph in 'edge'"):
        ModelSpec("x", "edge", 8, 2, foreign=foreign)
    with pytest.raises(ModelRefused, match="architecture 'ESRGAN'; possible"):
        ModelSpec("x", "ESRGAN", 8, 2)
    spec = ModelSpec("x", "ESRGAN", 0, 0, scale=8, foreign=foreign, licence="CC-BY-NC-SA-4.0")
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert not spec.is_commercial
    assert dataclasses.replace(spec, licence="CC-BY-4.0").is_commercial


def test_padding_to_multiples_is_in_the_graph(tmp_path):
    """A network of stride 4 inside gets multiples of 4, and its result the size that was asked."""
    kernel = np.ones((48, 3, 4, 4), np.float32) / 48
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["deep"], strides=[4, 4]),
        helper.make_node("DepthToSpace", ["deep"], ["y"], blocksize=4, mode="CRD"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g",
        [info("x", 1, ["n", 3, "h", "w"])], [info("y", 1, ["n", 3, "r", "c"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "f")
    (tmp_path / "f").rename(tmp_path / "f.onnx")
    made = deployment_of_graph(tmp_path / "f.onnx", ORIGIN)
    assert made.spec.foreign.multiple == 4
    (tmp_path / "m.onnx").write_bytes(made.content)
    for kind in (it for it in KINDS.values() if it.suffix == ".onnx" and it.installed):
        with kind.open(tmp_path / "m.onnx", "cpu", True, 1) as engine:
            for shape in [(1, 1, 1, 3), (2, 5, 7, 3), (1, 33, 64, 3)]:
                batch = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
                padded = np.pad(
                    batch, ((0, 0), (0, -shape[1] % 4), (0, -shape[2] % 4), (0, 0)), "edge"
                )
                assert engine.upscale(batch).shape == shape
                whole = engine.upscale(padded)[:, : shape[1], : shape[2]]
                assert np.array_equal(engine.upscale(batch), whole)
            frame = read_pixels(PHOTO)[:90, :103]
            tiled = FrameUpscaler(engine, Tiling(tile=24, overlap="exact"), color_lock=False)
            assert np.array_equal(tiled.upscale(frame), engine.upscale(frame[None])[0])


def test_a_mask_of_infinity_becomes_a_number(tmp_path):
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"], axis=1),
    ]
    image = [helper.make_tensor_value_info(it, 1, ["n", 3, "h", "w"]) for it in "xy"]
    mask = np.array([-np.inf, 0, 0], np.float32).reshape(1, 3, 1, 1)
    graph = helper.make_graph(
        nodes, "g", image[:1], image[1:], [numpy_helper.from_array(mask, "mask")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    content = described(wrapped(model, 1, Sizes()), 1)
    (tmp_path / "m.onnx").write_bytes(content)
    assert read_onnx(tmp_path / "m.onnx").spec.scale == 1
    frame = read_pixels(PHOTO)[None, :5, :7].copy()
    (made,) = ReferenceEvaluator(content).run(None, {"pixels": frame})
    assert (made[..., 0] == 0).all()
    assert np.abs(made[..., 1:].astype(int).sum(-1) - 255).max() <= 1


@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_tiles_begin_at_multiples_and_cover_the_frame(multiple):
    for width, height in [(97, 64), (130, 201), (16, 16), (1000, 333)]:
        plan = plan_tiles(width, height, 48, 9, multiple)
        covered = np.zeros((height, width), int)
        for tile in plan.tiles:
            covered[tile.core_y.slice(), tile.core_x.slice()] += 1
            for window, core, side in [
                (tile.window_y, tile.core_y, height), (tile.window_x, tile.core_x, width),
            ]:  # fmt: skip
                assert window.start % multiple == core.start % multiple == 0
                assert window.start == 0 or core.start - window.start >= 9
                assert window.stop == side or window.stop - core.stop >= 9
        assert (covered == 1).all()
        assert len({(t.window_x.length, t.window_y.length) for t in plan.tiles}) == 1


def test_the_reach_of_our_own_graphs_is_that_of_their_specs():
    from srgan_edge.export.onnx import deployment_graph
    from srgan_edge.model.network import generator_from_spec

    for spec in [ModelSpec("e", "edge", 4, 3, scale=2), ModelSpec("s", "srresnet", 4, 2, scale=4)]:
        found = reach_of(deployment_graph(generator_from_spec(spec).eval(), spec))
        assert found == Reach(spec.receptive_radius_px, 1)


def test_attention_over_the_image_is_seen_in_its_cost():
    """Every pixel with every other: the values grow with the square of the size."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["columns", "rows"], ["all"]),
        helper.make_node("ReduceMean", ["all", "last"], ["mean"], keepdims=1),
        helper.make_node("ReduceMean", ["mean", "middle"], ["one"], keepdims=1),
        helper.make_node("Unsqueeze", ["one", "middle"], ["four"]),
        helper.make_node("Add", ["x", "four"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    constants = {"flat": [0, 3, -1], "last": [2], "middle": [1]}
    graph = helper.make_graph(
        nodes, "g",
        [info("x", 1, ["n", 3, "h", "w"])], [info("y", 1, ["n", 3, "h", "w"])],
        [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model = wrapped(model, 1, Sizes())
    assert "values per pixel" in cost_at(model, *PROBES_PX[1], 1)


@pytest.mark.parametrize(
    "network",
    [
        lambda: DRUNet(in_nc=4, out_nc=3, nc=[4, 4, 4, 4], nb=2),
        lambda: DnCNN(in_nc=4, out_nc=3, nc=4, nb=12, act_mode="R", mode="FDnCNN"),
    ],
    ids=["DRUNet", "FDnCNN"],
)
def test_denoisers_get_the_noise_level_for_any_batch(network):
    torch.manual_seed(0)
    descriptor = spandrel.MAIN_REGISTRY.load(network().state_dict())
    batch = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        made = foreign_child._Network(descriptor)(batch).clamp(0, 1)
    assert torch.allclose(made, torch.cat([descriptor(it[None]) for it in batch]), atol=1e-6)


class Exploit:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (open, (self.canary, "w"))


def hostile(name, path):
    """Write a file of weights that is none, or too much."""
    state = esrgan(scale=4).state_dict()
    first = next(iter(state))
    if name == "a zip bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(1 << 28))
        return
    if name == "a zip bomb of tensors":
        torch.save(state, path)
        with zipfile.ZipFile(path) as archive:
            content = {it: archive.read(it) for it in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, data in content.items():
                archive.writestr(entry, bytes(1 << 28) if entry.endswith("data/0") else data)
        return
    if name == "safetensors of 10 GB":
        end = 8 * 3 * 30_000 * 4_000 * 4
        header = {first: {"dtype": "F32", "shape": [8, 3, 30_000, 4_000], "data_offsets": [0, end]}}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        return
    if name == "safetensors of an endless header":
        path.write_bytes((1 << 40).to_bytes(8, "little") + b"{")
        return
    if name == "code in its pickle":
        state[first] = Exploit(str(path.with_name("canary")))
    elif name == "NaN":
        state[first][0] = torch.nan
    elif name == "infinity":
        state[first][0] = torch.inf
    elif name == "a 10 GB tensor":
        state[first] = torch.zeros(()).expand(8, 3, 30_000, 4_000)
    elif name == "other shapes":
        state[first] = torch.zeros(8, 3, 5, 7)
    elif name == "a missing tensor":
        del state[first]
    elif name == "a million blocks":
        state["model.1.sub.1000000.RDB1.conv1.0.weight"] = torch.zeros(8, 8, 3, 3)
    torch.save(state, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("a zip bomb", "a zip bomb of tensors", "code in its pickle", "NaN", "infinity"),
        *("a 10 GB tensor", "other shapes", "a missing tensor", "a million blocks"),
        *("safetensors of 10 GB", "safetensors of an endless header"),
    ],
)
def test_hostile_weights_are_refused(name, tmp_path):
    path = tmp_path / ("w.safetensors" if name.startswith("safetensors") else "w.pth")
    hostile(name, path)
    assert path.stat().st_size < 4 << 20
    with pytest.raises(ModelRefused) as refused:
        deployment_of(path, ORIGIN)
    assert refused.value.exit_code == 6
    assert str(refused.value).startswith(str(path))
    assert len(str(refused.value).splitlines()) == 1
    assert [it.name for it in tmp_path.iterdir()] == [path.name]  # and no canary


@pytest.mark.slow
def test_the_command_asks_for_the_licence_and_names_it_at_each_run(cli, tmp_path):
    onnx.save(convolution_graph(), tmp_path / "f.onnx")
    code, _, err = cli("convert", "f.onnx")
    assert (code, "type --licence NAME" in err) == (2, True)
    for option in (("--weights", "model_ema"), ("--head", "tanh"), ("--bn-epsilon", "1e-3")):
        code, _, err = cli("convert", "f.onnx", "--licence", "MIT", *option)
        assert code == 2 and err.count(option[0]) == 1 and err.endswith("leave it out\n")
    code, _, err = cli("convert", ".")
    assert code == 6 and ". is a folder; name the file" in err
    code, out, _ = cli("convert", "f.onnx", "--licence", "CC-BY-NC-4.0", "-o", "g.onnx")
    assert (code, "not for commercial use" in out) == (0, True)
    photo = tmp_path / "p.png"
    photo.write_bytes(PHOTO.read_bytes())
    code, out, err = cli("upscale", "p.png", "-n", "g.onnx")
    assert code == 0
    assert "g is licensed CC-BY-NC-4.0: not for commercial use" in out + err
    assert read_pixels(tmp_path / "p_x2.png").shape[0] == 2 * read_pixels(PHOTO).shape[0]
    make(tmp_path / "v.mkv", frames=2, codec="ffv1", options={})
    for _ in range(2):  # at each run, of whatever
        code, out, err = cli("upscale", "v.mkv", "-n", "g.onnx", "--overwrite")
        assert code == 0, err
        assert "g is licensed CC-BY-NC-4.0: not for commercial use" in out + err
    code, out, _ = cli("info", "g.onnx")
    assert "traced" in out
    assert "not measured" not in out
    code, _, err = cli("verify", "g.onnx")
    assert (code, "type: srgan-edge bench g.onnx to see" in err) == (2, True)
    for command in ("bench", "tune"):
        code, _, err = cli(command, "g.onnx", "--seconds", "1", "--size", "32x32")
        assert (code, err.count("g is licensed CC-BY-NC-4.0: not for commercial use")) == (0, 1)
    code, _, err = cli("plan", "p.png", "-n", "g.onnx")
    assert (code, err.count("not for commercial use")) == (0, 1)
    assert compare(lambda it: it, lambda it: it, natural_batches()).max_levels == 0
