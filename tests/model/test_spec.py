"""ModelSpec, and reading it back out of files made with the real libraries."""

import dataclasses
import json
import math
import struct

import onnx
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from srgan_edge.errors import ModelRefused
from srgan_edge.model.library import MAX_HEADER_BYTES, read_spec
from srgan_edge.model.spec import METADATA_KEY, ModelSpec, Training

SPEC = ModelSpec(
    "tiny", "edge", 4, 2, halo_px=3, licence="CC0-1.0",
    training=Training("edge", "two photos", 5, scores={"Set5": 28.4}),
)  # fmt: skip

LINE = st.characters(categories=["L", "N", "P", "S"])
TEXT = st.text(LINE, max_size=255)
NAME = st.text(LINE.filter(lambda it: it != "/"), min_size=1, max_size=255)
TRAINING = {"recipe": "edge", "data": "two photos", "steps": 5}


def test_receptive_radius_of_the_papers_generator_is_40():
    assert ModelSpec("paper", "srresnet", 64, 16).receptive_radius_px == 40
    assert ModelSpec("eight", "srresnet", 64, 8).receptive_radius_px == 24
    assert ModelSpec("edge", "edge", 24, 8).receptive_radius_px == 10


@pytest.mark.parametrize(
    ("recipe", "may"),
    [
        ("edge", False),
        ("srresnet", False),
        ("edge, in INT8 with the scales of 134 images", False),
        ("srgan from srresnet-x4", True),
        ("srresnet-vgg22", True),
        ("0.2 srresnet-x4 + 0.8 srgan-x4", True),
        ("my-own", True),
    ],
)
def test_only_training_on_pixels_alone_keeps_colors(recipe, may):
    training = Training(recipe, "two photos", 5)
    assert dataclasses.replace(SPEC, training=training).may_shift_colors == may
    assert dataclasses.replace(SPEC, training=None).may_shift_colors


@given(
    st.builds(
        ModelSpec,
        name=NAME,
        architecture=st.sampled_from(["srresnet", "edge"]),
        channels=st.integers(1, 1024),
        blocks=st.integers(1, 256),
        norm=st.sampled_from(["none", "batch"]),
        licence=TEXT,
    )
)
def test_json_round_trip(spec):
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_files_from_before_there_was_a_choice_of_activations_still_load():
    record = json.loads(SPEC.to_json())
    del record["activation"]
    assert ModelSpec.from_json(json.dumps(record)) == SPEC


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channels": 0}, "channels 0"),
        ({"blocks": "8"}, "blocks '8'"),
        ({"scale": 9}, "scale 9; possible: 1 to 8"),
        ({"scale": 0}, "scale 0"),
        ({"name": 5}, "name 5"),
        ({"licence": ["MIT"]}, r"licence \['MIT'\]"),
        ({"architecture": "rrdb"}, "architecture 'rrdb'"),
        ({"halo_px": 99}, "halo_px 99"),
        ({"activation": "gelu"}, "activation 'gelu'"),
        ({"architecture": "srresnet", "halo_px": None, "activation": "relu"}, "'relu' in srresnet"),
        ({"surprise": 1}, "surprise"),
        ({"channels": True}, "channels True"),
        ({"halo_px": True}, "halo_px True"),
        ({"halo_px": 1.5}, "halo_px 1.5"),
        ({"name": ""}, "no name"),
        ({"name": "a\0b"}, r"name 'a\\x00b'"),
        ({"name": "../photos/x"}, "possible: a line of text without '/'"),
        ({"name": "\ud800"}, "possible: a line of text"),
        ({"name": "A" * 800_000}, "800002 characters"),
        ({"training": []}, "Expected `object`"),
        ({"training": TRAINING | {"recipe": 5}}, r"got `int` - at `\$\.recipe`"),
        ({"training": TRAINING | {"recipe": None}}, r"got `null` - at `\$\.recipe`"),
        ({"training": TRAINING | {"recipe": "\x1b]0;title"}}, "possible: a line of text"),
        ({"training": TRAINING | {"data": {}}}, r"at `\$\.data`"),
        ({"training": TRAINING | {"steps": "x"}}, r"at `\$\.steps`"),
        ({"training": TRAINING | {"steps": -1}}, "-1 steps"),
        ({"training": TRAINING | {"scores": [1]}}, r"at `\$\.scores`"),
        ({"training": TRAINING | {"scores": {"Set5": "x"}}}, r"at `\$\.scores"),
        ({"training": TRAINING | {"scores": {"Set5": math.inf}}}, "score inf"),
        ({"training": TRAINING | {"more": 1}}, "unknown field 'more'"),
        ({"receptive_radius_px": 3}, "radius of 3 px"),
    ],
)
def test_edited_specs_are_refused(change, said):
    record = json.loads(SPEC.to_json()) | change
    with pytest.raises(ModelRefused, match=said):
        ModelSpec.from_json(json.dumps(record))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"name": 1}'])
def test_other_json_is_refused(text):
    with pytest.raises(ModelRefused):
        ModelSpec.from_json(text)


@pytest.fixture
def onnx_file(tmp_path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 2, 2, 3])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [1, 2, 2, 3])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [result])
    model = onnx.helper.make_model(graph)
    spec = dataclasses.replace(SPEC, scale=1)  # what the graph does
    onnx.helper.set_model_props(model, {"other": "thing", METADATA_KEY: spec.to_json()})
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    return path


def save_safetensors(path, metadata):
    safetensors.numpy.save_file({}, path, metadata=metadata)
    return path


def test_spec_of_an_onnx_written_by_onnx(onnx_file):
    assert read_spec(onnx_file) == dataclasses.replace(SPEC, scale=1)


def test_spec_of_a_safetensors_written_by_safetensors(tmp_path):
    path = save_safetensors(tmp_path / "a.safetensors", {METADATA_KEY: SPEC.to_json()})
    assert read_spec(path) == SPEC


def test_files_of_others_are_refused(tmp_path, onnx_file):
    foreign = save_safetensors(tmp_path / "a.safetensors", {"format": "pt"})
    with pytest.raises(ModelRefused, match="carries no srgan-edge spec"):
        read_spec(foreign)
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, onnx_file)
    with pytest.raises(ModelRefused, match="carries no srgan-edge spec"):
        read_spec(onnx_file)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, 60])
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_truncated_files_are_refused(tmp_path, onnx_file, suffix, length):
    source = onnx_file
    if suffix == ".safetensors":
        source = save_safetensors(tmp_path / "a.safetensors", {METADATA_KEY: SPEC.to_json()})
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(source.read_bytes()[:length])
    with pytest.raises(ModelRefused):
        read_spec(cut)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 26) + b'{"a": 1, "a": 2, "b": 3  }',
        struct.pack("<Q", 5000) + b"[" * 5000,
    ],
)
def test_hostile_safetensors_headers_are_refused(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelRefused):
        read_spec(path)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(tmp_path_factory, content):
    for suffix in (".onnx", ".safetensors"):
        path = tmp_path_factory.mktemp("bytes") / f"x{suffix}"
        path.write_bytes(content)
        with pytest.raises(ModelRefused):
            read_spec(path)


def test_a_pickle_is_sent_to_convert(tmp_path):
    with pytest.raises(ModelRefused, match=r"srgan-edge convert .*x\.pth"):
        read_spec(tmp_path / "x.pth")


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.scale = 2
