"""Real engines of TensorRT-RTX, built without a GPU: their kernels, precision and passports."""

import hashlib
import json
import signal

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("tensorrt_rtx")

import onnx

from srgan_edge.engines.cache import EngineCache
from srgan_edge.errors import Interrupted, ModelRefused, UsageError
from srgan_edge.export.engine import Target, export_engine
from srgan_edge.export.half_onnx import in_half
from srgan_edge.export.onnx import unfolded_graph
from srgan_edge.export.rewrites import rewritten
from srgan_edge.export.tensorrt import build_plan, convolutions_of, layers_in_log
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint
from srgan_edge.model.library import find_model
from srgan_edge.model.passport import (
    Profile,
    passport_path,
    read_engine,
    read_passport,
    write_engine,
)
from srgan_edge.signals import STOPPING

pytestmark = pytest.mark.slow  # each traces, compiles or builds

TILE = Profile.static(2, 36, 28)
ALL = ("8.6", "8.9", "12.0")
BOTH_HALOS_PX = 2 * find_model("edge-x4").spec.halo_px


def graph_of(name):
    return onnx.load(find_model(name).file(".onnx"))


@pytest.fixture(scope="module")
def fast():
    """The bundled models, rewritten."""
    return {name: rewritten(graph_of(name)) for name in ("srgan-x4", "edge-x4")}


@pytest.mark.parametrize(
    ("name", "plain", "rewritten_to"), [("srgan-x4", 58, 41), ("edge-x4", 14, 14)]
)
def test_rewriting_leaves_fewer_kernels(fast, name, plain, rewritten_to):
    """Counted with TensorRT-RTX 1.7.1; more kernels would be an unnoticed loss of speed."""
    layer_by_layer = unfolded_graph(*load_checkpoint(find_model(name).file(".safetensors")))
    before = build_plan(in_half(layer_by_layer, "fp16"), "fp16", TILE, "tensorrt_rtx", ["8.9"])
    after = build_plan(in_half(fast[name], "fp16"), "fp16", TILE, "tensorrt_rtx", ["8.9"])
    assert len(before.layers) == plain
    assert len(after.layers) <= rewritten_to


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    "profile", [TILE, Profile((1, 1, 1), (1, 180, 320), (4, 1080, 1920))], ids=["static", "dynamic"]
)
def test_every_convolution_is_in_half_precision(fast, precision, profile):
    plan = build_plan(in_half(fast["edge-x4"], precision), precision, profile, "tensorrt_rtx", ALL)
    typed = {"fp16": "Half", "bf16": "BFloat16"}[precision]
    convolutions = convolutions_of(plan.layers)
    assert len(convolutions) == 10
    for layer in convolutions:
        assert layer.inputs == (typed,)
    assert [layer.inputs for layer in plan.layers].count(("UInt8",)) >= 1  # bytes in
    assert plan.layers[-1].outputs == ("UInt8",)  # bytes out


def test_a_graph_in_fp32_is_no_fp16_engine(fast):
    with pytest.raises(
        ModelRefused, match=r"node_conv2d must be in Half, but its kernel \S+ reads Float"
    ):
        build_plan(fast["edge-x4"], "fp16", TILE, "tensorrt_rtx", ["8.9"])


def test_an_engine_whose_kernels_are_not_listed_is_refused(fast, monkeypatch):
    monkeypatch.setattr("srgan_edge.export.tensorrt.layers_in_log", lambda lines: iter(()))
    with pytest.raises(ModelRefused, match="list of 0 kernels does not name the convolution"):
        build_plan(in_half(fast["edge-x4"], "fp16"), "fp16", TILE, "tensorrt_rtx", ["8.9"])


def test_a_log_without_a_list_has_no_kernels():
    assert list(layers_in_log(["Engine generation completed", "Layersaurus:"])) == []


def test_the_builder_reports_its_progress(fast):
    steps = []
    on_step = lambda *step: steps.append(step)  # noqa: E731 - as callers write it
    typed = in_half(fast["edge-x4"], "fp16")
    build_plan(typed, "fp16", TILE, "tensorrt_rtx", ["8.9"], on_step=on_step)
    phase, done, all_steps = steps[-1]
    assert (phase, done) == ("Building engine", all_steps)
    assert all(0 <= done <= steps for _, done, steps in steps)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_aborts_the_build(fast, number):
    """The signal is sent during the build; Python handles it at the builder's next step."""
    heard = []

    def on_step(phase, done, steps):
        if done == 3:
            heard.append(phase)
            signal.raise_signal(number)

    before = signal.getsignal(number)
    typed = in_half(fast["edge-x4"], "fp16")
    with pytest.raises(Interrupted, match="no engine was written") as stopped:
        build_plan(typed, "fp16", TILE, "tensorrt_rtx", ["8.9"], on_step=on_step)
    assert stopped.value.exit_code == 128 + number
    assert heard == ["Cloning network graph"]
    assert signal.getsignal(number) is before


def test_int8_is_not_for_tensorrt_rtx(tmp_path):
    from tests.model.test_quantization import int8_form

    path = tmp_path / "edge-int8.safetensors"
    save_checkpoint(path, *int8_form())
    with pytest.raises(ModelRefused, match="has no convolutions in INT8; type --tensorrt, or: srg"):
        export_engine(
            str(path), "fp16", TILE, Target.rtx(("8.9",)), EngineCache(tmp_path / "c"), print
        )


def test_an_unknown_compute_capability_is_refused(fast):
    with pytest.raises(UsageError, match=r"--compute-capability 9\.0; possible: 7\.5, .*12\.1"):
        build_plan(in_half(fast["edge-x4"], "fp16"), "fp16", TILE, "tensorrt_rtx", ["9.0"])


def test_a_graph_with_an_unknown_operation_is_refused(fast):
    foreign = onnx.ModelProto.FromString(fast["edge-x4"].SerializeToString())
    foreign.graph.node[3].op_type = "Convolve"
    with pytest.raises(ModelRefused, match="tensorrt_rtx cannot read the graph"):
        build_plan(foreign, "fp16", TILE, "tensorrt_rtx", ["8.9"])


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    cache = EngineCache(tmp_path_factory.mktemp("cache"))
    said = []
    path = export_engine("edge-x4", "fp16", TILE, Target.rtx(("8.9",)), cache, said.append)
    return path, read_passport(path), said


def test_an_export_reports_its_steps(engine):
    _, _, said = engine
    assert [line.split()[0] for line in said] == ["graph", "parity", "engine"]
    assert "88,416 MAC a pixel" in said[0]
    assert "every convolution in fp16" in said[2]


def test_a_passport_is_complete(engine):
    path, passport, _ = engine
    plan, read = read_engine(path)
    assert read == passport == read_passport(path)
    assert read.spec == find_model("edge-x4").spec
    assert read.engine_sha256 == hashlib.sha256(plan).hexdigest()
    assert read.parity["fp16 graph"]["psnr_db"] > 65
    assert (read.key.module, read.key.version.count(".")) == ("tensorrt_rtx", 3)
    assert plan.startswith(b"vtrt")


@pytest.fixture
def copy(engine, tmp_path):
    """A copy that a test may damage."""
    path, _, _ = engine
    target = tmp_path / "copy.engine"
    target.write_bytes(path.read_bytes())
    passport_path(target).write_text(passport_path(path).read_text())
    return target


REBUILD = r"type: srgan-edge export edge-x4 --rtx --fp16 --shape 2x36x28 --compute-capability 8\.9"


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_a_flipped_bit_is_noticed(copy, place):
    plan = bytearray(copy.read_bytes())
    plan[place] ^= 1
    copy.write_bytes(plan)
    with pytest.raises(ModelRefused, match=REBUILD):
        read_engine(copy)


@pytest.mark.parametrize("keep", [0, 1, 5000])
def test_a_cut_engine_is_noticed(copy, keep):
    copy.write_bytes(copy.read_bytes()[:keep])
    with pytest.raises(ModelRefused, match=REBUILD):
        read_engine(copy)


def test_an_engine_without_its_passport_is_refused(copy):
    passport_path(copy).unlink()
    with pytest.raises(ModelRefused, match=r"has no passport \(copy\.engine\.json\)"):
        read_engine(copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record["key"].pop("version"),
        lambda record: record.update(color="blue"),
        lambda record: record["spec"].update(scale=9),
        lambda record: record["key"].update(profile=[1, 2, 3]),
        lambda record: record.update(layers=7),
    ],
    ids=["missing", "unknown", "spec", "profile", "layers"],
)
def test_a_passport_of_another_kind_is_refused(copy, damage):
    record = json.loads(passport_path(copy).read_text())
    damage(record)
    passport_path(copy).write_text(json.dumps(record))
    with pytest.raises(ModelRefused):
        read_engine(copy)


def test_an_engine_that_is_gone_is_refused(copy):
    copy.unlink()
    with pytest.raises(ModelRefused, match="No such file"):
        read_engine(copy)


def test_a_newer_engine_never_has_an_older_passport(copy, engine, monkeypatch):
    """A crash between the two files leaves an engine that nothing loads."""
    _, passport, _ = engine
    new = b"another plan"
    passport = passport.__class__(
        **{**vars(passport), "engine_sha256": hashlib.sha256(new).hexdigest()}
    )
    monkeypatch.setattr(passport.__class__, "to_json", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_engine(copy, new, passport)
    with pytest.raises(ModelRefused, match="its bytes are not those of its passport"):
        read_engine(copy)


def test_a_weak_precision_is_refused_with_the_figures(tmp_path):
    """Detail that is eight times as strong has eight times the error."""
    generator, spec = load_checkpoint(find_model("edge-x4").file(".safetensors"))
    generator.tail.weight.mul_(8)
    strong = tmp_path / "strong.safetensors"
    save_checkpoint(strong, generator, spec)
    cache = EngineCache(tmp_path / "cache")
    with pytest.raises(ModelRefused, match=r"dB where 52 are needed;.* type --fp16 instead"):
        export_engine(str(strong), "bf16", TILE, Target.rtx(("8.9",)), cache, lambda line: None)
    assert cache.engines() == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((None, None, None, None), Profile.static(1, 128 + BOTH_HALOS_PX, 128 + BOTH_HALOS_PX)),
        ((64, 3, None, None), Profile.static(3, 64 + BOTH_HALOS_PX, 64 + BOTH_HALOS_PX)),
        ((None, None, "1x270x480", None), Profile.static(1, 270, 480)),
        (
            (None, None, None, "1x1x1,1x2x3,4x5x6"),
            Profile((1, 1, 1), (1, 2, 3), (4, 5, 6)),
        ),
    ],
)
def test_shapes_are_taken_as_typed(options, expected):
    profile = Profile.from_options(find_model("edge-x4").spec, *options)
    assert profile == expected
    assert Profile.from_options(find_model("edge-x4").spec, None, None, *_typed(profile)) == profile


def _typed(profile):
    name, value = profile.option.split()
    return (value, None) if name == "--shape" else (None, value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((64, None, "1x2x3", None), "--tile or --batch and --shape; possible: one of them"),
        ((0, None, None, None), "--tile 0; possible: 1 or more"),
        ((None, -2, None, None), "--batch -2; possible: 1 or more"),
        ((None, None, "270x480", None), "--shape 270x480; possible: NxHxW, such as 1x270x480"),
        ((None, None, "1x0x480", None), "--shape 1x0x480"),
        ((None, None, None, "1x1x1,1x2x3"), "--dynamic 1x1x1,1x2x3; possible: smallest"),
        ((None, None, None, "1x1x1,1x9x9,1x2x3"), "possible: smallest, best and largest"),
    ],
)
def test_invalid_shapes_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Profile.from_options(find_model("edge-x4").spec, *options)
