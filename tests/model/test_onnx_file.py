"""ONNX files that are not ours, or harmful: refused before any runtime sees them."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srgan_edge.errors import ModelRefused
from srgan_edge.model import onnx_file
from srgan_edge.model.library import bundled_models, find_model
from srgan_edge.model.onnx_file import read_onnx, read_onnx_spec

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

BYTES = find_model("edge-x4").file(".onnx").read_bytes()


@pytest.fixture
def refused(tmp_path):
    """Write a model and expect it to be refused; both engines have to refuse it too."""
    from srgan_edge.engines.openvino import OpenVinoEngine

    def refused(content, message):
        path = tmp_path / "hostile.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        for read in (read_onnx_spec, OpenVinoEngine):
            with pytest.raises(ModelRefused, match=message):
                read(path)

    return refused


@pytest.fixture
def model():
    return onnx.ModelProto.FromString(BYTES)


@pytest.mark.parametrize("name", bundled_models())
def test_the_bundled_models_are_ours(name):
    assert read_onnx_spec(find_model(name).file(".onnx")).name == name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_so_are_rewritten_and_typed_ones(tmp_path, model, precision):
    pytest.importorskip("torch")
    from srgan_edge.export.half_onnx import in_half
    from srgan_edge.export.rewrites import rewritten

    path = tmp_path / "typed.onnx"
    path.write_bytes(in_half(rewritten(model), precision).SerializeToString())
    assert read_onnx_spec(path).name == "edge-x4"


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("totals", TensorProto.FLOAT, ["n", "c"]),
        ("totals", TensorProto.UINT8, ["n"]),
        ("sums", TensorProto.FLOAT, ["n"]),
    ],
)
def test_a_second_output_that_is_not_that_of_half_precision_is_refused(
    refused, model, name, kind, shape
):
    model.graph.node[-1].output.append(name)
    model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    refused(model, "it has 2 outputs, which srgan-edge never writes")


def test_a_model_of_another_program_is_refused(refused, model):
    del model.metadata_props[:]
    refused(model, "carries no srgan-edge spec")


@pytest.mark.parametrize("operation", ["Loop", "If", "Scan", "ConstantOfShape", "Expand", "Tile"])
def test_other_operations_are_refused(refused, model, operation):
    model.graph.node[5].op_type = operation
    refused(model, f"it has the operation {operation}, which srgan-edge never writes")


def test_operations_of_other_domains_are_refused(refused, model):
    model.graph.node[5].domain = "com.example"
    refused(model, r"it has the operation com\.example\.\w+, which")


def test_weights_in_another_file_are_refused(refused, model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    refused(model, "are in another file")


def test_a_promise_of_a_gigabyte_is_refused(refused, model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 15, 1 << 15]
    refused(model, r"are not \[32768, 32768\] values of a known type, in raw bytes")


def test_a_constant_is_looked_at_like_a_weight(refused, model):
    value = TensorProto(dims=[1 << 30], data_type=TensorProto.FLOAT, name="big")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["big"], value=value))
    refused(model, "the weights 'big' are not")


def test_a_graph_within_a_node_is_refused(refused, model):
    model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph))
    refused(model, "a Cast has a graph or further tensors in it")


def test_sparse_weights_and_functions_are_refused(refused, model):
    sparse = onnx.ModelProto.FromString(BYTES)
    sparse.graph.sparse_initializer.add()
    refused(sparse, "it has sparse weights")
    model.functions.add(name="f")
    refused(model, "it has functions or training in it")


@pytest.mark.parametrize("factors", [[1, 1, 4, 1000], [1, 1, np.nan, 4], [1, 1, 0, 4]], ids=str)
def test_a_resize_by_anything_else_is_refused(refused, model, factors):
    name = next(node for node in model.graph.node if node.op_type == "Resize").input[2]
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.array(factors, np.float32), name))
    refused(model, "a Resize enlarges by|not finite")


def test_a_resize_to_sizes_is_refused(refused, model):
    node = next(node for node in model.graph.node if node.op_type == "Resize")
    node.input.append("sizes")
    refused(model, "a Resize has no constant factors")


def test_a_shuffle_by_more_is_refused(refused, model):
    node = next(node for node in model.graph.node if node.op_type == "DepthToSpace")
    next(a for a in node.attribute if a.name == "blocksize").i = 64
    refused(model, "a DepthToSpace enlarges by 64")


def node_of(model, operation):
    return next(node for node in model.graph.node if node.op_type == operation)


def far_padding(model):
    next(a for a in node_of(model, "Conv").attribute if a.name == "pads").ints[:] = [1 << 30] * 4


def padding_below_zero(model):
    next(a for a in node_of(model, "Conv").attribute if a.name == "pads").ints[:] = [-1] * 4


def other_axes(model):
    node_of(model, "Transpose").attribute[0].ints[:] = [2, 3, 0, 1]


def axes_turned_round(model):
    del node_of(model, "Transpose").attribute[:]


def broadcast(model):
    large = numpy_helper.from_array(np.zeros((5000, 1, 1, 1), np.float32), "large")
    model.graph.initializer.append(large)
    node_of(model, "Add").input[1] = "large"


def broadcast_in_disguise(model):
    broadcast(model)
    model.graph.node.insert(0, helper.make_node("Identity", ["large"], ["as it was"]))
    node_of(model, "Add").input[1] = "as it was"


def broadcast_of_a_constant(model):
    value = numpy_helper.from_array(np.zeros((2, 1, 1, 1), np.float32))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["many"], value=value))
    node_of(model, "Add").input[1] = "many"


def constant_of_numbers(model):
    model.graph.node.insert(0, helper.make_node("Constant", [], ["many"], value_floats=[1.0] * 99))


def one_resize_more(model):
    again = onnx.NodeProto.FromString(node_of(model, "Resize").SerializeToString())
    model.graph.node.append(again)


def one_shuffle_more(model):
    again = onnx.NodeProto.FromString(node_of(model, "DepthToSpace").SerializeToString())
    model.graph.node.append(again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (far_padding, "a Conv has pads"),
        (padding_below_zero, "a Conv has pads"),
        (other_axes, r"a Transpose changes axes to \[2, 3, 0, 1\]"),
        (axes_turned_round, "a Transpose reverses axes"),
        (broadcast, r"a Add with \[5000, 1, 1, 1\] values"),
        (broadcast_in_disguise, r"a Add with \[5000, 1, 1, 1\] values"),
        (broadcast_of_a_constant, r"a Add with \[2, 1, 1, 1\] values"),
        (constant_of_numbers, "a Constant is not a tensor"),
        (one_resize_more, "a Resize enlarges by 16"),
        (one_shuffle_more, "a DepthToSpace enlarges by 16"),
    ],
)
def test_graphs_that_inflate_their_input_are_refused(refused, model, change, message):
    change(model)
    refused(model, message)


def test_other_inputs_and_outputs_are_refused(refused, model):
    wide = onnx.ModelProto.FromString(BYTES)
    wide.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    refused(wide, r"its input is not uint8 \[N, H, W, 3\]")
    model.graph.output.append(model.graph.output[0])
    refused(model, "it has 2 outputs")


def test_too_many_nodes_are_refused(refused, model):
    for _ in range(5000):
        model.graph.node.append(helper.make_node("Identity", ["output"], ["again"]))
    refused(model, "it has 50.. nodes")


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 1000, len(BYTES) - 1])
def test_a_cut_file_is_refused(refused, keep):
    refused(BYTES[:keep], "not an ONNX file|carries no srgan-edge spec")


def test_missing_and_huge_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    with (tmp_path / "sparse.onnx").open("wb") as file:
        file.truncate(3 << 30)
    for name, message in [
        ("", "not a file"),
        ("none.onnx", "No such file"),
        ("pipe.onnx", "not a file"),
        ("zero.onnx", "not a file"),
        ("sparse.onnx", "larger than"),
    ]:
        with pytest.raises(ModelRefused, match=message):
            read_onnx_spec(tmp_path / name)


@settings(max_examples=200)
@given(st.data())
def test_no_flipped_byte_ends_in_anything_but_a_refusal(tmp_path_factory, data):
    """Outside the weights, where any byte is as good as any other."""
    head = BYTES.index(b"generator.")
    places = st.one_of(st.integers(0, head), st.integers(len(BYTES) - 3000, len(BYTES) - 1))
    content = bytearray(BYTES)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flip") / "a.onnx"
    path.write_bytes(content)
    try:
        read_onnx_spec(path)
    except ModelRefused as refusal:
        assert str(path) in str(refusal) or "spec" in str(refusal)


def field_of(number, payload, key=None):
    """A field of bytes, as protobuf writes it."""

    def varint(value):
        digits = []
        while value > 127:
            digits.append(value & 127 | 128)
            value >>= 7
        return bytes([*digits, value])

    return (key or varint(number << 3 | 2)) + varint(len(payload)) + payload


def loop_graph():
    """A graph of one loop that runs 2^40 times."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes on"])],
        "body",
        [value("round", TensorProto.INT64, []), value("going", TensorProto.BOOL, [])],
        [value("goes on", TensorProto.BOOL, [])],
    )
    rounds = numpy_helper.from_array(np.array(2**40), "rounds")
    going = numpy_helper.from_array(np.array(True), "go")
    node = helper.make_node("Loop", ["rounds", "go"], [], body=body)
    return onnx.GraphProto(node=[node], initializer=[rounds, going])


def test_a_second_graph_is_checked_as_parsers_merge_it(refused):
    hidden = loop_graph().SerializeToString()
    for content in (field_of(7, hidden) + BYTES, BYTES + field_of(7, hidden)):
        refused(content, "it has the operation Loop")


def test_runtimes_get_what_was_checked_and_nothing_else(tmp_path):
    """A key with more than 32 bits is one field for some parsers and another for others."""
    high_bits = bytes([(7 << 3 | 2) | 0x80, 0x80, 0x80, 0x80, 0x10])
    hidden = loop_graph().SerializeToString()
    path = tmp_path / "a.onnx"
    for content in (
        BYTES + field_of(7, hidden, high_bits),
        BYTES + field_of(77, b"secret"),
    ):
        path.write_bytes(content)
        try:
            file = read_onnx(path)
        except ModelRefused:
            continue
        assert file.content == onnx.ModelProto.FromString(BYTES).SerializeToString(
            deterministic=True
        )


def test_engines_load_the_checked_bytes_and_not_the_file(tmp_path, monkeypatch):
    from srgan_edge.engines import openvino as engine

    path = tmp_path / "a.onnx"
    path.write_bytes(BYTES)
    checked = read_onnx(path)
    path.write_bytes(b"replaced after the check")
    monkeypatch.setattr(engine, "read_onnx", lambda _: checked)
    with engine.OpenVinoEngine(path) as loaded:
        assert loaded.upscale(np.full((1, 8, 8, 3), 100, np.uint8)).shape == (1, 32, 32, 3)


def many_channels(model):
    add_branch(model, "Conv", np.zeros((20_000, 3, 1, 1), np.float32))


def width_as_channels(model):
    """[N, 1, 1, W] turned to [N, W, 1, 1], times an image."""
    source = node_of(model, "Conv").input[0]
    axes = {"rows": [1, 2], "channels": [1]}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in axes.items()
    )
    insert(
        model,
        helper.make_node("ReduceSum", [source, "rows"], ["row"], keepdims=1),
        helper.make_node("Transpose", ["row"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceSum", [source, "channels"], ["gray"], keepdims=1),
        helper.make_node("Mul", ["turned", "gray"], ["huge"]),
    )


def many_multiplications(model):
    node = [n for n in model.graph.node if n.op_type == "Conv"][1]
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    wide = np.zeros((*tensor.dims[:2], 25, 25), np.float32)
    tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for attribute in node.attribute:
        if attribute.name in ("pads", "kernel_shape"):
            attribute.ints[:] = [12] * 4 if attribute.name == "pads" else [25, 25]


def many_at_once(model):
    source = node_of(model, "Conv").output[0]
    names = [f"branch {number}" for number in range(50)]
    insert(model, *(helper.make_node("Relu", [source], [name]) for name in names), after=source)


def not_finite(model):
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def one_name_twice(model):
    model.graph.initializer.append(model.graph.initializer[0])


def two_specs(model):
    model.metadata_props.append(model.metadata_props[0])


def add_branch(model, operation, weights, name="", **attributes):
    source = node_of(model, "Conv").input[0]
    model.graph.initializer.append(numpy_helper.from_array(weights, f"weights {name}"))
    insert(
        model,
        helper.make_node(operation, [source, f"weights {name}"], [f"branch {name}"], **attributes),
    )


def insert(model, *nodes, after=None):
    """Insert nodes before the first convolution, or after the node that makes `after`."""
    old = list(model.graph.node)
    place = (
        next(i for i, n in enumerate(old) if after in n.output) + 1
        if after
        else next(i for i, n in enumerate(old) if n.op_type == "Conv")
    )
    old[place:place] = nodes
    del model.graph.node[:]
    model.graph.node.extend(old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (many_channels, "a Conv makes 20000 values per pixel, and a model of its spec 48 at most"),
        (width_as_channels, "a Mul makes 99991 values per pixel"),
        (many_multiplications, "times per pixel, and a model of its spec about"),
        (many_at_once, "values per pixel at a Relu"),
        (not_finite, "hold values that are not finite"),
        (one_name_twice, "2 values have the name"),
        (two_specs, "it has two specs"),
    ],
)
def test_more_than_the_spec_needs_is_refused(refused, model, change, message):
    change(model)
    refused(model, message)


def test_a_file_whose_structure_fills_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(field_of(7, b"\x0a\x00" * (8 << 20)))
    monkeypatch.setattr(onnx_file, "PARSER_BYTES", 1 << 30)
    with pytest.raises(ModelRefused, match="not an ONNX file, or a damaged one"):
        read_onnx_spec(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelRefused):
        read_onnx_spec(path)
