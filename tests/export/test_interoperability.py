"""The float ONNX means the same to other programs: ONNX Runtime, OpenVINO, ncnn through pnnx."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx
import torch

from srgan_edge.errors import ModelRefused
from srgan_edge.export.float_onnx import (
    MAX_DIFFERENCE,
    RUNTIMES,
    Runtime,
    float_onnx_from_checkpoint,
    max_difference,
    prove_float_onnx,
    torch_reference,
)
from srgan_edge.export.verify import natural_batches
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint
from srgan_edge.model.library import find_model
from srgan_edge.model.network import generator_from_spec
from srgan_edge.model.onnx_file import read_onnx_spec
from srgan_edge.model.quantization import quantized_state
from srgan_edge.model.spec import METADATA_KEY

pytestmark = pytest.mark.slow  # each traces, compiles or builds

NAMES = ("edge-x4", "srgan-x4")


def checkpoint(name):
    return find_model(name).file(".safetensors")


def crops():
    """uint8 [N, H, W, 3], odd and tiny: 1x1, 3x2 and 17x31, by three."""
    return [batch for batch in natural_batches() if batch.shape[1] < 20]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The float ONNX of both models, by name."""
    folder = tmp_path_factory.mktemp("float")
    paths = {name: folder / f"{name}-float.onnx" for name in NAMES}
    for name, path in paths.items():
        assert float_onnx_from_checkpoint(checkpoint(name), path) == find_model(name).spec
    return paths


@pytest.mark.parametrize("name", NAMES)
def test_it_declares_its_input_and_its_spec(exported, name):
    model = onnx.load(exported[name])
    onnx.checker.check_model(model, full_check=True)
    types = [tensor.type.tensor_type for tensor in (model.graph.input[0], model.graph.output[0])]
    assert [kind.elem_type for kind in types] == [onnx.TensorProto.FLOAT] * 2
    shapes = [[dim.dim_param or dim.dim_value for dim in kind.shape.dim] for kind in types]
    assert shapes == [["n", 3, "h", "w"], ["n", 3, "4*h", "4*w"]]
    assert {"Cast", "Transpose"} & {node.op_type for node in model.graph.node} == set()
    (entry,) = model.metadata_props
    assert (entry.key, entry.value) == (METADATA_KEY, find_model(name).spec.to_json())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_agree_with_pytorch(exported, runtime, name):
    pytest.importorskip(runtime)
    candidate = RUNTIMES[runtime](exported[name])
    reference = torch_reference(checkpoint(name))
    assert max_difference(reference, candidate.run, crops()) < MAX_DIFFERENCE / 10


@pytest.mark.parametrize("name", NAMES)
def test_ncnn_agrees_with_pytorch(exported, tmp_path, name):
    """One conversion serves every size."""
    stem = converted_by_pnnx(exported[name], tmp_path)
    reference = torch_reference(checkpoint(name))
    assert max_difference(reference, load_ncnn(stem), crops()) < MAX_DIFFERENCE / 10


def converted_by_pnnx(path, folder):
    """The ncnn model, as docs/interoperability.md makes it: its path without `.param`, `.bin`."""
    pytest.importorskip("pnnx")
    source = folder / path.name  # it writes beside what it reads
    source.write_bytes(path.read_bytes())
    program = Path(sys.executable).with_name("pnnx")
    command = [program, source.name, "fp16=0", "inputshape=[1,3,64,64]f32"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / f"{source.stem.replace('-', '_')}.ncnn"


def load_ncnn(stem):
    """Run float32 [N, 3, H, W] -> float32 [N, 3, 4H, 4W] in ncnn, one image at a time."""
    ncnn = pytest.importorskip("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    assert net.load_param(f"{stem}.param") == 0
    assert net.load_model(f"{stem}.bin") == 0

    def one(image):
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(image))
            status, result = extractor.extract("out0")
            assert status == 0
            return np.array(result)

    return lambda batch: np.stack([one(image) for image in batch])


def test_values_are_clamped(exported):
    pytest.importorskip("onnxruntime")
    run = RUNTIMES["onnxruntime"](exported["edge-x4"]).run
    edges = np.kron(np.array([[0, 1], [1, 0]]), np.ones((8, 8))).astype(np.float32)
    result = run(np.broadcast_to(edges, (1, 3, 16, 16)))
    assert (result.min(), result.max()) == (0, 1)


@pytest.mark.parametrize("wrong", [2e-4, np.nan])
def test_a_runtime_that_is_off_is_refused(exported, monkeypatch, wrong):
    reference = torch_reference(checkpoint("edge-x4"))
    off = Runtime("openvino 0", lambda batch: reference(batch) + np.float32(wrong))
    monkeypatch.setitem(RUNTIMES, "openvino", lambda path: off)
    said = []
    with pytest.raises(ModelRefused, match=r"openvino 0: max (2\.0e-04|nan) where 0\.0001 is"):
        prove_float_onnx(checkpoint("edge-x4"), exported["edge-x4"], said.append)
    assert len(said) == 1


def test_our_own_engines_name_the_command_to_type_instead(exported):
    with pytest.raises(
        ModelRefused, match=r"float form of edge-x4, .*type: srgan-edge export MODEL --onnx"
    ):
        read_onnx_spec(exported["edge-x4"])


def test_a_model_in_int8_has_no_float_form(tmp_path):
    generator, spec = load_checkpoint(checkpoint("edge-x4"))
    state = quantized_state(generator, [torch.zeros(1, 3, 8, 8)])
    spec = replace(spec, quantized_from="edge-x4")
    generator = generator_from_spec(spec)
    generator.load_state_dict(state)
    save_checkpoint(tmp_path / "a.safetensors", generator, spec)
    with pytest.raises(ModelRefused, match=r"in INT8.*type: srgan-edge export edge-x4 --onnx --io"):
        float_onnx_from_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.onnx")


@pytest.mark.parametrize("target", ["--openvino", "--onnx"])
def test_a_full_disk_is_reported_and_leaves_nothing(cli, tmp_path, target):
    """A limit on the size of files is as good: the weights have 360 KB."""
    name = {"--openvino": "m.xml", "--onnx": "m.onnx"}[target]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        code, _, err = cli("export", "edge-x4", target, "-o", name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 5, err
    assert err.splitlines()[-1].startswith("srgan-edge: error: ")
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []
