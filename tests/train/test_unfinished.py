"""Unfinished runs: their averaged weights are kept small, and another run starts from them."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from training import tiny_recipe, write_photos

from srgan_edge.errors import InputRefused
from srgan_edge.model.checkpoint import load_checkpoint
from srgan_edge.model.library import read_spec
from srgan_edge.train.loop import train
from srgan_edge.train.recipe import Recipe, shipped_recipes

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "keep_unfinished.py"


@pytest.fixture
def script(monkeypatch, tmp_path):
    loader = importlib.util.spec_from_file_location("keep", SCRIPT)
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def test_the_average_is_kept_and_a_run_starts_from_it(script, tmp_path):
    photos = write_photos(tmp_path / "photos")
    settings = ("data.teacher=", "pixel.distillation=0.0", "pixel.warmup_steps=0")
    recipe = tiny_recipe("edge", *settings, "pixel.steps=4")
    released = train(recipe, [photos], tmp_path / "run")
    kept = script.keep(tmp_path / "run")
    assert kept == tmp_path / "edge-x4.safetensors"
    spec = read_spec(kept)
    assert (spec.activation, spec.training.steps) == ("relu", 4)
    assert spec.training.recipe == "edge, unfinished"
    assert not spec.may_shift_colors
    wanted, _ = load_checkpoint(released)
    found, _ = load_checkpoint(kept)
    pairs = zip(wanted.state_dict().values(), found.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, rtol=2e-3, atol=1e-6) for a, b in pairs)
    recipe = tiny_recipe("edge", *settings, "pixel.steps=1", "pixel.learning_rate=0.0")
    again, _ = load_checkpoint(train(recipe, [photos], tmp_path / "next", init=kept))
    pairs = zip(found.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_is_kept_fits_a_recipe():
    """A rented GPU starts from it: weights of another shape are refused there."""
    models = [Recipe.load(name).model for name in shipped_recipes()]
    for path in (SCRIPT.parents[1] / "train" / "unfinished").glob("*.safetensors"):
        kept = read_spec(path)
        shape = (kept.architecture, kept.channels, kept.blocks, kept.scale, kept.activation)
        assert (path.stem, *shape) in [
            (it.name, it.architecture, it.channels, it.blocks, it.scale, it.activation)
            for it in models
        ]


def test_a_run_without_a_checkpoint(script, tmp_path):
    with pytest.raises(InputRefused, match="no checkpoint"):
        script.keep(tmp_path / "none")
