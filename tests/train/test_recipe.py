"""Recipes: shipped ones load, and every mistake is refused with a correction."""

import dataclasses
import os

import pytest

pytest.importorskip("torch")

from srgan_edge.errors import UsageError
from srgan_edge.model.spec import PIXEL_RECIPES
from srgan_edge.train.recipe import RECIPES_FOLDER, Recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.model.licence == "Apache-2.0"
    assert (RECIPES_FOLDER / f"{name}.toml").read_text().startswith("#")
    perceptual = any(phase.perceptual for phase in recipe.phases.values())
    only_pixels = not perceptual and not recipe.adversarial.steps
    assert only_pixels == (name in PIXEL_RECIPES)
    assert perceptual == (recipe.perceptual.layers != ("conv5_4",) or name == "srgan-vgg54")


def test_the_papers_five_variants_are_among_them():
    variants = {name: Recipe.load(name) for name in shipped_recipes()}
    paper = ["srresnet", "srresnet-vgg22", "srgan-mse", "srgan-vgg22", "srgan-vgg54"]
    for name in paper:
        model = variants[name].model
        assert (model.architecture, model.blocks, model.channels) == ("srresnet", 16, 64)
        assert bool(variants[name].adversarial.steps) == name.startswith("srgan")
    assert variants["srgan-vgg54"].perceptual.layers == ("conv5_4",)
    assert variants["srgan-mse"].adversarial.mse == 1.0
    assert Recipe.load("srresnet", ["pixel.l1=0", "pixel.mse=1"]).pixel.mse == 1.0


def test_the_adversarial_phase_alone_is_the_same_phase():
    recipe = Recipe.load("srgan")
    alone = recipe.adversarial_alone()
    assert list(recipe.phases) == ["pixel", "adversarial"]
    assert alone.phases == {"adversarial": recipe.adversarial}
    assert (alone.data, alone.perceptual) == (recipe.data, recipe.perceptual)


def test_two_shipped_models_never_share_a_name():
    names = [Recipe.load(name).model.name for name in shipped_recipes()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pixel.lerning_rate=1", "did you mean 'learning_rate'"),
        ("pixel=1", r"section\.key=value"),
        ("pixel.steps=many", "must be of type int"),
        ("pixel.l1=true", "must be of type float"),
        ("wheels.size=1", "unknown section 'wheels'; possible: model, data"),
        ("data.crop_px=30", "multiple of 4"),
        ("data.batch=0", r"data\.batch is 0; possible: 1 or more"),
        ("run.log_every_steps=0", r"run\.log_every_steps is 0; possible: 1 or more"),
        ("pixel.steps=-5", r"pixel\.steps is -5; possible: 0 or more"),
        ("pixel.learning_rate=nan", r"pixel\.learning_rate is nan; possible: 0 or more"),
        ("adversarial.learning_rate=inf", r"adversarial\.learning_rate is inf"),
        ("data.reduced=[0.5, nan]", r"data\.reduced is nan"),
        ("data.reduced=0.5", "must be a list"),
        ('data.reduced=["half"]', r"data\.reduced is 'half'"),
        ('pixel.parts=["tails"]', "'tails'; possible for srresnet: head, trunk, "),
        ("data.degradation=jpeg", "possible: 'bicubic', 'real'"),
        ("model.channels=0", "channels 0"),
        ("pixel.steps=0", "no steps"),
        ("pixel.l1=0", r"\[pixel\] has no loss"),
        ("pixel.distillation=1", r"needs data\.teacher"),
        ("pixel.leak=0.1", r"leak is 0\.1 and model\.activation 'prelu'; possible: 0 to 1, with"),
        ('perceptual.layers=["conv1_1", "conv2_1"]', "names 2 layers"),
    ],
)
def test_mistakes_are_refused(override, said):
    with pytest.raises(Exception, match=said) as caught:
        Recipe.load("srresnet", [override])
    assert caught.value.exit_code in (2, 6)


def test_files_that_are_not_recipes_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"edge, .*srresnet.*or a TOML file"):
        Recipe.load("esrgan")
    path = tmp_path / "mine.toml"
    for text, said in [
        ("[model", "mine.toml"),
        ("model = 3", "'model' is not a section"),
        ("[pixel]\nsteps = 3\nl1 = 1.0", r"lacks model\.name"),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            Recipe.load(str(path))


def test_a_users_recipe_is_read_completely(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[model]\nname = 'm'\narchitecture = 'edge'\nchannels = 8\nblocks = 2\n"
        "[degradation]\njpeg_quality = [40.0, 90]\n[pixel]\nsteps = 3\nl1 = 1\n"
    )
    recipe = Recipe.load(str(path), ["model.halo_px=3", "data.degradation=real"])
    assert (recipe.model.halo_px, recipe.pixel.l1, recipe.name) == (3, 1.0, "mine")
    assert recipe.degradation.jpeg_quality == (40.0, 90.0)


def test_flat_names_every_choice():
    recipe = Recipe.load("srgan")
    flat = recipe.flat
    assert flat["adversarial.discriminator"] == "'paper'"
    fields = sum(
        len(dataclasses.fields(getattr(recipe, field.name)))
        for field in dataclasses.fields(recipe)
        if field.name != "name"
    )
    assert len(flat) == fields


def test_a_pipe_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UsageError, match=r"no recipe .*pipe\.toml"):
        Recipe.load(str(tmp_path / "pipe.toml"))
