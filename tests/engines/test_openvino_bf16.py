"""BF16 in OpenVINO: taken where it is faster, and exact enough for its gate on every model."""

import pytest

pytest.importorskip("torch")

from srgan_edge.engines import choose_engine, open_engine, openvino_bf16
from srgan_edge.engines.openvino import shared_core
from srgan_edge.evaluation.parity import compare, gate_of
from srgan_edge.export.verify import natural_batches
from srgan_edge.machine import cpu_flags
from srgan_edge.model.library import bundled_models, find_model


class Core:
    """A runtime that states its capabilities."""

    def __init__(self, *capabilities):
        self.capabilities = capabilities

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return [*self.capabilities, "FP32"]


@pytest.mark.parametrize(
    ("capabilities", "flags", "expected"),
    [
        ((), {"AuthenticAMD"}, False),
        (("BF16",), {"AuthenticAMD", "avx512_bf16"}, True),
        (("BF16",), {"GenuineIntel", "avx512_bf16"}, False),
        (("BF16",), {"GenuineIntel", "avx512_bf16", "amx_bf16"}, True),
        (("BF16",), set(), True),
    ],
)
def test_bf16_is_taken_where_it_multiplies_faster(monkeypatch, capabilities, flags, expected):
    monkeypatch.setattr(openvino_bf16, "cpu_flags", lambda: flags)
    assert openvino_bf16.pays(Core(*capabilities)) is expected


def test_flags_are_read_as_linux_writes_them(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu amx_bf16\n\n"
        "processor\t: 1\nvendor_id\t: GenuineIntel\nflags\t\t: fpu\n"
    )
    assert cpu_flags(cpuinfo) == {"GenuineIntel", "fpu", "amx_bf16"}
    assert cpu_flags(tmp_path / "none") == set()


@pytest.fixture
def in_bf16(monkeypatch):
    if "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("needs a CPU with BF16")
    monkeypatch.setattr(openvino_bf16, "pays", lambda core: True)


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_models())
def test_bf16_meets_its_gate_on_every_bundled_model(in_bf16, name):
    choice = choose_engine(find_model(name), "openvino")
    batches = [batch[:, :90, :120] for batch in natural_batches()]
    with open_engine(choice, fp32=True) as reference, open_engine(choice) as engine:
        assert engine.info.precision == "bf16"
        parity = compare(reference.upscale, engine.upscale, batches)
    assert gate_of(engine.info.spec, "bf16").refusals(parity) == []


def test_what_carries_the_image_stays_in_fp32(in_bf16):
    """The first convolution and all sums of residual branches; the others do not."""
    with open_engine(choose_engine(find_model("srgan-x4"), "openvino")) as engine:
        sums = list(openvino_bf16._residual_sums(engine._model.get_ordered_ops()))
        assert len(sums) == engine.info.spec.blocks + 1
        assert all(openvino_bf16._MARK in op.get_rt_info() for op in sums)
        compiled = engine._compile((1, 12, 16, 3)).model
    facts = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    precisions = [
        fact["runtimePrecision"].astype(str)
        for fact in facts
        if fact["layerType"].astype(str) == "Convolution"
    ]
    assert precisions[0] == "f32"
    assert set(precisions[1:]) == {"bf16"}
