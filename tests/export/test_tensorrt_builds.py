"""TensorRT 10.3, 10.16 and 11 by the path that is run for TensorRT-RTX, on their recorded API.

Their libraries are not to be had everywhere, so that what is shown here is which calls are made, in
which order, and what is made of the answers. It has not run on real ones.
"""

import json
import sys
from pathlib import Path

import onnx
import pytest

pytest.importorskip("torch")

from tensorrt_api import NAMES, RTX, VERSIONS, names_of, recorded

from srgan_edge.cli import app
from srgan_edge.engines.cache import EngineCache
from srgan_edge.engines.tensorrt_log import explained, log_of
from srgan_edge.errors import ExtraMissing, ModelRefused, ResourcesExhausted, UsageError
from srgan_edge.export.engine import Target, export_engine
from srgan_edge.export.half_onnx import in_half
from srgan_edge.export.onnx import deployment_graph
from srgan_edge.export.rewrites import rewritten
from srgan_edge.export.tensorrt import Search, build_plan, layers_in_json
from srgan_edge.machine import Gpu
from srgan_edge.model.library import find_model
from srgan_edge.model.passport import Profile, read_engine, read_passport

pytestmark = pytest.mark.slow  # each traces, compiles or builds

TILE = Profile.static(2, 36, 28)
GPU = Gpu("NVIDIA GeForce RTX 4090", 128, "8.9", "12.6")


@pytest.fixture
def install(monkeypatch):
    """Put a recorded TensorRT, and a GPU, on this machine."""

    def install(version, *failures, gpu=GPU):
        log_of.cache_clear()
        monkeypatch.setitem(sys.modules, "tensorrt", recorded(version, *failures))
        monkeypatch.setattr(Gpu, "find", classmethod(lambda cls: gpu))
        monkeypatch.setattr(
            "srgan_edge.engines.cache.installed_version",
            lambda name: version if name == "tensorrt" else None,
        )

    yield install
    log_of.cache_clear()


@pytest.fixture(scope="module")
def fast():
    return rewritten(onnx.load(find_model("edge-x4").file(".onnx")))


def record_of(plan):
    """The calls that the recorded builder received."""
    return json.loads(plan.content[4:])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_version_builds_by_the_same_calls(install, fast, version, precision):
    install(version)
    steps = []
    plan = build_plan(
        in_half(fast, precision),
        precision,
        TILE,
        "tensorrt",
        search=Search(workspace_mib=512, optimization_level=5),
        on_step=lambda *step: steps.append(step),
    )
    typed = {"fp16": "Half", "bf16": "BFloat16"}[precision]
    convolutions = [layer for layer in plan.layers if layer.kind == "CaskConvolution"]
    assert len(convolutions) == find_model("edge-x4").spec.blocks + 2
    assert {layer.inputs for layer in convolutions} == {(typed,)}
    assert {layer.weights for layer in convolutions} == {(typed, "Float")}
    assert record_of(plan)["shapes"] == {"input": [[2, 36, 28, 3]] * 3}
    assert (record_of(plan)["workspace_bytes"], record_of(plan)["level"]) == (512 << 20, 5)
    assert steps == [("Building engine", done, 2) for done in (0, 1, 2, 2)]
    assert plan.timings == b"timings of a GPU"


@pytest.mark.parametrize("version", VERSIONS)
def test_settings_not_given_are_left_to_tensorrt(install, fast, version):
    install(version)
    record = record_of(build_plan(in_half(fast, "fp16"), "fp16", TILE, "tensorrt"))
    assert (record["workspace_bytes"], record["level"]) == (None, 3)


@pytest.mark.parametrize(
    ("timings", "known"), [(b"timings of a GPU", True), (b"of another", False), (b"", False)]
)
def test_only_timings_of_this_gpu_are_used(install, fast, timings, known):
    install("10.16.1")
    plan = build_plan(in_half(fast, "fp16"), "fp16", TILE, "tensorrt", timings=timings)
    assert record_of(plan)["knew_timings"] is known


@pytest.mark.parametrize("name", ["platform_has_fast_fp16", "num_compute_capabilities"])
def test_the_record_refuses_names_that_a_version_lacks(name):
    trt = recorded("11.4.1")
    builder = trt.Builder(None)
    with pytest.raises(AttributeError, match=rf"TensorRT 11\.4\.1 has no Builder\.{name}"):
        getattr(builder, name)
    with pytest.raises(AttributeError, match="IBuilderConfig"):
        setattr(builder.create_builder_config(), name, 1)


def test_the_record_knows_when_names_came_and_went():
    assert "FP16" in names_of("BuilderFlag", "10.16.1")
    assert "FP16" not in names_of("BuilderFlag", "11.4.1")
    assert "max_num_tactics" not in names_of("IBuilderConfig", "10.3.0")
    assert "max_num_tactics" in names_of("IBuilderConfig", "10.16.1")


def test_the_record_agrees_with_a_real_binding():
    """TensorRT-RTX has the same names except for features it does not support."""
    trt = pytest.importorskip("tensorrt_rtx")
    missing = {
        f"{kind}.{name}"
        for kind, names in NAMES.items()
        for name in names.split()
        if not hasattr(trt if kind == "tensorrt" else getattr(trt, kind), name)
    }
    missing |= {
        f"{kind}.{name}"
        for kind, names in RTX.items()
        for name in names.split()
        if not hasattr(getattr(trt, kind), name)
    }
    assert missing == set()


def test_the_record_has_no_names_but_those_that_were_found(shared_data):
    found = (shared_data.parent / "research" / "perf.md").read_text()
    from_documentation = {"IProgressMonitor", "ProfilingVerbosity", "progress_monitor", "name"}
    names = {name for names in NAMES.values() for name in names.split()}
    assert {name for name in names if name not in found} <= from_documentation


def test_a_graph_in_fp32_is_no_fp16_engine(install, fast):
    install("10.3.0")
    with pytest.raises(ModelRefused, match=r"must be in Half, but its kernel \S+ reads Float"):
        build_plan(fast, "fp16", TILE, "tensorrt")


def test_a_graph_it_cannot_read_is_refused(install, fast):
    install("11.4.1")
    foreign = onnx.ModelProto.FromString(fast.SerializeToString())
    foreign.graph.node[3].op_type = "Convolve"
    with pytest.raises(ModelRefused, match=r"tensorrt cannot read the graph: .*Convolve"):
        build_plan(foreign, "fp16", TILE, "tensorrt")


@pytest.mark.parametrize(
    ("step", "said", "error", "message"),
    [
        (
            "builder",
            "CUDA initialization failure with error: 35. cudaError 35: CUDA driver version is "
            "insufficient for CUDA runtime version",
            ResourcesExhausted,
            "no NVIDIA driver here, or one too old",
        ),
        (
            "build",
            "Error Code 9: API Usage Error (Target GPU SM 120 is not supported by this TensorRT "
            "release.)",
            ModelRefused,
            r"built nothing: this TensorRT is too old for the GPU \(SM 120\); install a newer one",
        ),
        ("build", "Error Code 2: OutOfMemory", ModelRefused, "built nothing: Error Code 2"),
        (
            "load",
            "Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match",
            ModelRefused,
            "the new engine cannot be loaded: it is no engine of this runtime",
        ),
    ],
)
def test_failures_are_explained_in_a_sentence(install, fast, step, said, error, message):
    install("10.16.1", (step, said))
    with pytest.raises(error, match=message):
        build_plan(in_half(fast, "fp16"), "fp16", TILE, "tensorrt")


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0"])
def test_a_version_that_is_too_old_is_refused(install, version):
    install(version)
    with pytest.raises(ModelRefused, match=rf"tensorrt {version} is too old; possible: 10\.3 or"):
        Target.tensorrt(Search())


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'srgan-edge\[tensorrt\]'"):
        Target.tensorrt(Search())


def test_without_a_gpu_the_error_names_targets_that_need_none(install):
    install("10.16.1", gpu=None)
    with pytest.raises(ResourcesExhausted, match="this machine has none; type --rtx"):
        Target.tensorrt(Search())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, None), "--workspace 0; possible: 1 MiB"),
        ((None, 6), "--optimization-level 6; possible: 0"),
    ],
)
def test_a_search_beyond_its_limits_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Search(*options)


@pytest.fixture
def built(install, tmp_path):
    install("10.16.1")
    cache = EngineCache(tmp_path / "cache")
    target = Target.tensorrt(Search(workspace_mib=256))
    said = []
    path = export_engine("edge-x4", "fp16", TILE, target, cache, said.append)
    return cache, path, said


def test_an_engine_of_tensorrt_has_its_passport(built):
    cache, path, said = built
    plan, passport = read_engine(path)
    assert plan.startswith(b"ftrt")
    assert passport.key.module == "tensorrt"
    assert passport.key.gpu == "NVIDIA GeForce RTX 4090, 128 multiprocessors"
    assert (passport.key.compute_capabilities, passport.key.driver) == (("8.9",), "12.6")
    assert passport.rebuild_command == (
        "srgan-edge export edge-x4 --tensorrt --fp16 --shape 2x36x28 --workspace 256"
    )
    assert [engine.trouble for engine in cache.engines()] == [""]
    assert "every convolution in fp16" in said[-1]


def test_timings_serve_the_next_model_on_that_gpu(built, install):
    cache, first, _ = built
    (timings,) = cache.folder.glob("timings-*.cache")
    assert timings.name == "timings-10.16.1-NVIDIA-GeForce-RTX-4090-128-multiprocessors.cache"
    target = Target.tensorrt(Search())
    path = export_engine("edge-x4", "fp16", TILE, target, cache, lambda line: None)
    assert path != first
    assert json.loads(path.read_bytes()[4:])["knew_timings"]


def test_an_engine_of_another_gpu_is_told_apart(built, install):
    cache, path, _ = built
    install("10.16.1", gpu=Gpu("Orin", 16, "8.7", "12.6"))
    (engine,) = cache.engines()
    assert engine.trouble == (
        "built on NVIDIA GeForce RTX 4090, 128 multiprocessors, here is Orin, 16 multiprocessors"
    )
    install("10.16.1", gpu=None)
    assert cache.engines()[0].trouble.endswith("here is no GPU")
    install("11.4.1")
    assert cache.engines()[0].trouble == "built by tensorrt 10.16.1, here is 11.4.1"
    assert [engine.path for engine in cache.prune()] == [path]


def test_int8_is_built_as_bytes_with_its_ends_in_fp16(install, tmp_path):
    from tests.model.test_quantization import int8_form

    install("10.3.0")
    generator, spec = int8_form()
    typed = in_half(rewritten(deployment_graph(generator, spec)), "fp16")
    plan = build_plan(typed, "fp16", TILE, "tensorrt")
    inputs = [layer.inputs for layer in plan.layers if layer.kind == "CaskConvolution"]
    assert inputs == [("Half",), *[("Int8",)] * spec.blocks, ("Half",)]


def test_the_inspector_of_names_alone_has_no_kernels():
    assert list(layers_in_json('{"Layers": ["conv1 + relu1", "conv2"], "Bindings": ["x"]}')) == []


def test_tensorrt_is_the_default_where_it_is_installed(install, tmp_path, monkeypatch, capsys):
    install("11.4.1")
    monkeypatch.setenv("SRGAN_EDGE_CACHE", str(tmp_path / "cache"))
    app(["export", "edge-x4", "--fp16", "--shape", "1x16x17"], standalone_mode=False)
    out = capsys.readouterr().out
    path = next(line.split()[1] for line in out.splitlines() if line.startswith("file"))
    assert read_passport(Path(path)).key.module == "tensorrt"


FAILURES = [
    (
        "6: The engine plan file is generated on an incompatible device, expecting compute 8.9 got "
        "compute 8.6, please rebuild.",
        "it was built for compute capability 8.6, and this GPU has 8.9; type: REBUILD",
    ),
    (
        "Error Code 1: Serialization (Serialization assertion stdVersionRead == "
        "kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 232, "
        "Serialized Engine Version: 205)",
        "another version of TensorRT built it: its format is 205, and 232 is read here; "
        "type: REBUILD",
    ),
    (
        "The engine plan file is not compatible with this version of TensorRT, expecting library "
        "version 10.3.0.30 got 10.7.0.23, please rebuild.",
        "TensorRT 10.7.0.23 built it, and here is 10.3.0.30; type: REBUILD",
    ),
    (
        "Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed.",
        "it is no engine of this runtime, or only a part of one; type: REBUILD",
    ),
    (
        "Using an engine plan file across different models of devices is not supported and is "
        "likely to affect performance or even cause errors or deadlock.",
        "it was built on another model of GPU; type: REBUILD",
    ),
    (
        "The current device is not compatible with this hardware-compatible engine. Expected "
        "compute capability >= 8.0",
        "it was built for compute capability 8.0 or more, which this GPU lacks; type: REBUILD",
    ),
    (
        "Unsupported SM: 0x900",
        "this TensorRT is too old for the GPU (SM 0x900); install a newer one: pip install "
        "--upgrade tensorrt",
    ),
    (
        "The engine cannot run on this GPU, which has compute capability 9.0. Supported compute "
        "capabilities: 8.0, 8.6, 8.9. TensorRT-RTX does not support this compute capability, so "
        "the engine cannot be rebuilt for it.",
        "TensorRT-RTX has nothing for this GPU, of compute capability 9.0; use another engine: "
        "srgan-edge upscale --engine onnxruntime, or build with --tensorrt",
    ),
    (
        "The engine cannot run on this GPU, which has compute capability 12.0. Supported compute "
        "capabilities: 8.6, 8.9. Rebuild the engine for compute capability 12.0 with "
        "IBuilderConfig::setComputeCapability, or leave the compute capability unset",
        "it was built for compute capability 8.6, 8.9, and this GPU has 12.0; type: REBUILD",
    ),
    ("a novelty", "a novelty"),
]


@pytest.mark.parametrize(("said", "sentence"), FAILURES, ids=[it[1][:40] for it in FAILURES])
def test_every_known_text_has_its_sentence(said, sentence):
    assert explained(["something before it", said][said == "a novelty" :], "REBUILD") == sentence


def test_a_failure_without_a_message_is_explained_too():
    assert explained([], "REBUILD") == "TensorRT gave no reason"
