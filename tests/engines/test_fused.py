"""The network by kernels of our own: the order of its layers and weights, by the reference.

The kernels themselves run on a GPU alone: `make gpu` compares them with cuDNN's.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from srgan_edge.engines.fused import FusedDeployment, NoKernel, _Convolution, _Library  # noqa: E402
from srgan_edge.kernels import convolution as reference  # noqa: E402
from srgan_edge.kernels import source  # noqa: E402
from srgan_edge.machine import Gpu  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint  # noqa: E402
from srgan_edge.model.half import HalfDeployment  # noqa: E402
from srgan_edge.model.library import find_model  # noqa: E402

HOPPER = Gpu("H200", 132, "9.0", "13.0")


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Kernels are the numpy reference, which reads the packed weights."""
    monkeypatch.setattr("srgan_edge.engines.fused.nvidia_bindings", lambda: None)
    monkeypatch.setattr("srgan_edge.engines.fused.machine_code", lambda *_: b"")
    monkeypatch.setattr(_Library, "kernel", lambda self, name: None)
    monkeypatch.setattr(_Convolution, "_launch", launched)


def launched(self, source, target, added=None, pixels=None, totals=None):
    form = self._form
    given = (source, target, added, pixels)
    assert all(it is None or it.is_contiguous() for it in given), "a kernel knows addresses alone"
    kernel = reference.unpacked(self._weights.numpy(), form)
    sums = reference.convolved(source.numpy(), kernel, self.biases.numpy().ravel())
    if totals is None:
        more = None if added is None else added.numpy()
        found = reference.features(sums, self._slopes.numpy().ravel(), form.factor, more)
    else:
        values = 3 * form.factor**2
        found, sum_of_levels = reference.image(
            sums[..., :values], form.factor, None if pixels is None else pixels.numpy()
        )
        totals[:] = torch.from_numpy(sum_of_levels)
    target[:] = torch.from_numpy(found)


@pytest.mark.parametrize("model", ["srgan-x4", "srresnet-x4", "edge-x4"])
def test_computes_the_same_as_cudnn(on_the_cpu, model):
    generator, _ = load_checkpoint(find_model(model).file(".safetensors"))
    half = HalfDeployment(generator)
    fused = FusedDeployment(half, HOPPER)
    random = np.random.default_rng(0)
    turned = torch.from_numpy(random.integers(0, 256, (2, 7, 5, 3), np.uint8))
    pixels = turned.transpose(1, 2)
    with torch.inference_mode():
        (got, totals), (expected, expected_totals) = fused(pixels), half(pixels)
    assert got.shape == expected.shape
    assert (got.int() - expected.int()).abs().max() <= 1
    assert torch.allclose(totals, expected_totals, rtol=1e-3)


@pytest.mark.parametrize("name", reference.FORMS)
def test_packed_weights_are_all_there(name):
    form = reference.FORMS[name]
    random = np.random.default_rng(0)
    outputs, inputs = form.outputs * 2 - 5, form.inputs * form.passes - 3
    kernel = random.normal(size=(outputs, inputs, form.side, form.side)).astype(np.float16)
    packed = reference.packed(kernel, form)
    unpacked = reference.unpacked(packed, form)
    assert np.array_equal(unpacked[:outputs, :inputs], kernel)
    assert np.count_nonzero(packed) == np.count_nonzero(kernel)


def test_the_table_is_that_of_the_source(tmp_path):
    """Sizes of tiles and of shared memory are known on both sides."""
    text = (source.FOLDER / "convolution.cu").read_text()
    checks = ['#include "convolution.cu"']
    for name, form in reference.FORMS.items():
        pitch, warpgroups = form.tile[0] + 2 * (form.side // 2), form.group_threads // 128
        rows_of_64 = pitch * form.tile[1] // 64 // warpgroups
        is_image = str(name.startswith("image")).lower()
        sizes = (form.inputs, form.outputs, form.side, form.passes, form.factor, is_image)
        arguments = ", ".join(map(str, (*sizes, pitch, form.groups, warpgroups, rows_of_64)))
        assert f"CONVOLUTION({name}, {form.blocks_at_once}, {arguments})" in text
        checks.append(f"static_assert(Shape<{arguments}>::kSharedBytes == {form.shared_bytes});")
    assert text.count("\nCONVOLUTION(") == len(reference.FORMS)
    path = tmp_path / "sizes.cu"
    path.write_text("\n".join(checks))
    assert source.compile_with_nvrtc(path, "9.0a")


def test_other_gpus_have_no_kernels():
    generator, _ = load_checkpoint(find_model("edge-x4").file(".safetensors"))
    with pytest.raises(NoKernel):
        FusedDeployment(HalfDeployment(generator), Gpu("RTX 4090", 128, "8.9", "13.0"))
