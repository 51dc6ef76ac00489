"""`--fidelity` and `--denoise`: between a model and one that shares its past."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from srgan_edge.errors import ModelRefused
from srgan_edge.model import mixture as mixing
from srgan_edge.model.library import find_model
from srgan_edge.model.mixture import DENOISE, FIDELITY, mixture
from srgan_edge.model.onnx_file import read_onnx


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(mixing.CACHE_VARIABLE, str(tmp_path / "mixtures"))
    return tmp_path / "mixtures"


def weights(path):
    model = ModelProto.FromString(read_onnx(path).content)
    return {it.name: numpy_helper.to_array(it) for it in model.graph.initializer}


def test_a_mixture_is_one_of_all_weights(cache):
    mixed = mixture("srgan-x4", FIDELITY, 0.25).file(".onnx")
    gan, pixel = (weights(find_model(name).file(".onnx")) for name in ("srgan-x4", "srresnet-x4"))
    found = weights(mixed)
    assert found.keys() == gan.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, 0.75 * gan[name] + 0.25 * pixel[name], atol=1e-6)
    assert any(not np.array_equal(found[name], gan[name]) for name in found)
    spec = read_onnx(mixed).spec
    assert spec.name == "srgan-x4-fidelity-0.25"
    assert spec.training.recipe == "0.75 srgan-x4 + 0.25 srresnet-x4"
    assert spec.may_shift_colors
    assert [path.name for path in cache.iterdir()] == [mixed.name]


def test_a_mixture_is_made_once_and_again_if_it_was_changed():
    first = mixture("srgan-x4", FIDELITY, 0.5).file(".onnx")
    content, stamp = first.read_bytes(), first.stat().st_mtime_ns
    assert mixture("srgan-x4", FIDELITY, 0.5).file(".onnx").stat().st_mtime_ns == stamp
    first.write_bytes(b"")
    assert mixture("srgan-x4", FIDELITY, 0.5).file(".onnx").read_bytes() == content


@pytest.mark.parametrize("knob", [FIDELITY, DENOISE], ids=lambda it: it.option)
def test_the_ends_are_the_two_models_themselves(cache, knob):
    for model, partner in knob.partners.items():
        assert mixture(model, knob, knob.itself_at).name == model
        assert mixture(model, knob, 1 - knob.itself_at).name == partner
    assert not cache.exists()


def test_less_denoising_has_more_of_the_other_model(cache):
    for model, partner in DENOISE.partners.items():
        mixed = mixture(model, DENOISE, 0.75).file(".onnx")
        found, ours, theirs = (
            weights(file)
            for file in (mixed, *(find_model(it).file(".onnx") for it in (model, partner)))
        )
        for name, value in found.items():
            np.testing.assert_allclose(value, 0.75 * ours[name] + 0.25 * theirs[name], atol=1e-6)
        assert read_onnx(mixed).spec.name == f"{model}-denoise-0.75"


def test_models_of_other_kinds_are_refused(monkeypatch):
    monkeypatch.setitem(FIDELITY.partners, "srgan-x4", "edge-x4")
    with pytest.raises(ModelRefused, match="srgan-x4 and edge-x4 have different graphs"):
        mixture("srgan-x4", FIDELITY, 0.5)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("-n", "srgan-x4", "--fidelity", "1.5"), "--fidelity 1.5; possible: from 0"),
        (("-n", "edge-x4", "--fidelity", "0.5"), "with -n edge-x4; possible: -n srgan-x4"),
        (("--fidelity", "0.5"), "with -n auto; possible: -n srgan-x4"),
        (("--fidelity", "much"), "--fidelity much; possible: from 0"),
        (("-n", "srgan-real-x4", "--denoise", "-0.1"), "--denoise -0.1; possible: from 0"),
        (("-n", "srgan-real-x4", "--denoise", "nan"), "--denoise nan; possible: a number"),
        (("-n", "edge-x4", "--denoise", "0.5"), "with -n edge-x4; possible: -n srgan-real-x4"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_a_line(cli, words, line):
    code, _, err = cli("upscale", "in.png", *words)
    assert code == 2
    assert line in err
    assert err.count("\n") == 1


def test_the_command_is_more_faithful_by_degrees(cli, tmp_path):
    """The distance to the pixel model shrinks."""
    from PIL import Image

    from srgan_edge.image.reader import read_pixels

    noise = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(noise).resize((30, 24), Image.BICUBIC).save(tmp_path / "in.png")
    results = {}
    for fidelity in ("0", "0.5", "1"):
        code, _, err = cli(
            *("upscale", "in.png", "-n", "srgan-x4", "--fidelity", fidelity),
            *("--no-color-lock", "--fp32", "-o", f"{fidelity}.png"),
        )
        assert code == 0, err
        results[fidelity] = read_pixels(tmp_path / f"{fidelity}.png").astype(float)
    far, near = (np.abs(results[it] - results["1"]).mean() for it in ("0", "0.5"))
    assert 0 < near < far
