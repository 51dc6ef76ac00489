"""Model repositories, read as Triton Inference Server reads them: by the protobuf of its client."""

import hashlib

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx

from srgan_edge.errors import ModelRefused, UsageError
from srgan_edge.export.triton import (
    MAX_BATCH,
    plan_config,
    write_onnx_repository,
    write_plan_repository,
)
from srgan_edge.model.library import find_model
from srgan_edge.model.onnx_file import read_onnx_spec
from srgan_edge.model.passport import (
    EngineKey,
    Passport,
    Profile,
    passport_path,
    read_engine,
    write_engine,
)

pytestmark = pytest.mark.slow  # each traces, compiles or builds

EDGE = find_model("edge-x4")
PLAN = b"plan"
TILE = Profile.static(2, 36, 28)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with the ONNX of edge-x4, and the lines for the user."""
    folder = tmp_path_factory.mktemp("models") / "not" / "there"
    said = []
    path = write_onnx_repository(EDGE.file(".safetensors"), folder, said.append)
    assert path == folder / "edge-x4"
    return folder, said


@pytest.fixture
def engine(tmp_path):
    """Write an engine with its passport; its bytes are never read here."""

    def engine(spec=EDGE.spec, module="tensorrt"):
        passport = Passport(
            spec=spec,
            source="edge-x4",
            key=EngineKey(
                module=module,
                version="10.13.3.9",
                graph_sha256="",
                profile=TILE,
                compute_capabilities=("8.9",),
                gpu="NVIDIA GeForce RTX 4090, 128 multiprocessors",
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
        path = tmp_path / "tile.engine"
        write_engine(path, PLAN, passport)
        return path

    return engine


def parsed(text):
    """Parse a configuration as the server does, refusing unknown fields."""
    from google.protobuf import text_format

    config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(text, config.ModelConfig()), config


def sizes(config):
    return [list(tensor.dims) for tensor in (*config.input, *config.output)]


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_onnx_lies_where_the_server_looks(repository):
    folder, said = repository
    assert files(folder) == {"edge-x4/config.pbtxt", "edge-x4/1/model.onnx"}
    assert read_onnx_spec(folder / "edge-x4" / "1" / "model.onnx") == EDGE.spec
    assert [line.split()[0] for line in said][:1] == ["openvino"]


def test_its_configuration_is_that_of_the_graph(repository):
    folder, _ = repository
    config, kinds = parsed((folder / "edge-x4" / "config.pbtxt").read_text())
    assert (config.name, config.backend) == ("edge-x4", "onnxruntime")
    assert config.max_batch_size == MAX_BATCH
    assert config.HasField("dynamic_batching")
    assert sizes(config) == [[-1, -1, 3], [-1, -1, 3]]
    graph = onnx.load(folder / "edge-x4" / "1" / "model.onnx").graph
    for tensors, values in [(config.input, graph.input), (config.output, graph.output)]:
        (tensor,), (value,) = tensors, values
        assert tensor.name == value.name
        assert tensor.data_type == kinds.TYPE_UINT8
        dims = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        assert dims == [-1, *tensor.dims]  # the server puts the batch before them


def test_batches_of_the_size_it_promises_are_computed(repository):
    runtime = pytest.importorskip("onnxruntime")
    folder, _ = repository
    session = runtime.InferenceSession(folder / "edge-x4" / "1" / "model.onnx")
    (result,) = session.run(["output"], {"input": np.zeros((MAX_BATCH, 5, 7, 3), np.uint8)})
    assert result.shape == (MAX_BATCH, 20, 28, 3)


def test_a_plan_lies_there_with_its_passport(engine, tmp_path):
    path = write_plan_repository(engine(), tmp_path / "models")
    assert path == tmp_path / "models" / "edge-x4-tensorrt"
    assert files(path) == {"config.pbtxt", "1/model.plan", "1/model.plan.json"}
    assert read_engine(path / "1" / "model.plan") == read_engine(engine())


def test_its_configuration_is_that_of_the_engine(engine, tmp_path):
    path = write_plan_repository(engine(), tmp_path)
    config, kinds = parsed((path / "config.pbtxt").read_text())
    assert (config.name, config.platform) == ("edge-x4-tensorrt", "tensorrt_plan")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert sizes(config) == [[2, 36, 28, 3], [2, 144, 112, 3], [2]]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, kinds.ModelInstanceGroup.KIND_GPU)


def test_sizes_that_an_engine_leaves_free_are_left_free():
    profile = Profile((1, 64, 48), (2, 64, 96), (4, 64, 192))
    config, _ = parsed(plan_config("a", profile, 4))
    assert sizes(config) == [[-1, 64, -1, 3], [-1, 256, -1, 3], [-1]]


def test_an_engine_of_tensorrt_rtx_is_refused(engine, tmp_path):
    folder = tmp_path / "models"
    with pytest.raises(
        ModelRefused,
        match=r"engine of tensorrt_rtx, and Triton loads only those of tensorrt; "
        r"type: srgan-edge export edge-x4 --tensorrt, on its GPU, "
        r"or: srgan-edge export edge-x4 --triton \S+models, for the ONNX",
    ):
        write_plan_repository(engine(module="tensorrt_rtx"), folder)
    assert not folder.exists()


def test_an_engine_with_other_bytes_is_refused(engine, tmp_path):
    path = engine()
    path.write_bytes(b"plane")
    with pytest.raises(ModelRefused, match="its bytes are not those of its passport"):
        write_plan_repository(path, tmp_path / "models")
    passport_path(path).unlink()
    with pytest.raises(ModelRefused, match="has no passport"):
        write_plan_repository(path, tmp_path / "models")


@pytest.mark.parametrize("name", ["a b", 'a"', ".hidden", ".."])
def test_a_name_that_is_no_folder_is_refused(engine, tmp_path, name):
    spec = EDGE.spec.__class__(**vars(EDGE.spec) | {"name": name})
    with pytest.raises(ModelRefused, match="Triton accepts letters, digits"):
        write_plan_repository(engine(spec=spec), tmp_path / "models")


def test_an_existing_model_is_kept(engine, tmp_path):
    path = write_plan_repository(engine(), tmp_path)
    before = files(tmp_path)
    with pytest.raises(UsageError, match="edge-x4-tensorrt exists; type --overwrite"):
        write_plan_repository(engine(), tmp_path)
    with pytest.raises(UsageError, match="edge-x4-tensorrt has an input itself"):
        write_plan_repository(path / "1" / "model.plan", tmp_path, overwrite=True)
    assert files(tmp_path) == before
    (path / "config.pbtxt").write_text("older")
    (path / "2").mkdir()
    others = ["labels.txt", "1/warm-up", "2/model.plan"]
    for name in others:
        (path / name).write_text("of somebody else")
    write_plan_repository(engine(), tmp_path, overwrite=True)
    assert files(path) == {"config.pbtxt", "1/model.plan", "1/model.plan.json", *others}
    assert (path / "config.pbtxt").read_text() != "older"
    assert {(path / name).read_text() for name in others} == {"of somebody else"}


def test_an_onnx_that_differs_is_not_written(tmp_path, monkeypatch):
    def off(checkpoint, path, say):
        raise ModelRefused("it is off")

    monkeypatch.setattr("srgan_edge.export.triton.prove_onnx", off)
    with pytest.raises(ModelRefused, match="it is off"):
        write_onnx_repository(EDGE.file(".safetensors"), tmp_path, print)
    assert list(tmp_path.iterdir()) == []
