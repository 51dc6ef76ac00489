"""The trainer: recipes, batches, a loss that falls, and resuming to the bit."""

import itertools

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.checkpoint import load_checkpoint  # noqa: E402
from srgan_edge.errors import InputRefused, UsageError  # noqa: E402
from srgan_edge.train.data import PhotoSet  # noqa: E402
from srgan_edge.train.loop import learning_rate_at, train, update_average  # noqa: E402
from srgan_edge.train.recipe import PixelPhase, Recipe  # noqa: E402

TINY = ["model.channels=4", "model.blocks=1", "data.crop_px=32", "data.batch=2"]
QUIET = ["run.log_every_steps=5", "run.validate_every_steps=10", "run.checkpoint_every_steps=5"]


def tiny_recipe(*overrides):
    return Recipe.load("edge", [*TINY, *QUIET, *overrides])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photographs of odd sizes, one that is too small, and one that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(5)
    for name, height, width in [("a", 67, 90), ("b", 40, 33), ("c", 100, 41), ("small", 30, 90)]:
        coarse = random.integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(bicubic.resize(coarse, height, width)).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    return folder


@pytest.fixture
def benchmark(tmp_path):
    random = np.random.default_rng(6)
    for name, size in [("HR", 64), ("LRx4", 16)]:
        (tmp_path / "bench" / name).mkdir(parents=True)
        picture = bicubic.resize(random.integers(0, 256, (5, 5, 3), np.uint8), size, size)
        Image.fromarray(picture).save(tmp_path / "bench" / name / "x.png")
    return tmp_path / "bench"


def weights_of(path):
    generator, _ = load_checkpoint(path)
    return generator.state_dict()


def assert_same_weights(a, b):
    for name, tensor in weights_of(a).items():
        assert torch.equal(tensor, weights_of(b)[name]), name


def test_the_shipped_recipes_load():
    assert Recipe.load("edge").model.architecture == "edge"
    paper = Recipe.load("srresnet").model
    assert (paper.architecture, paper.blocks, paper.channels) == ("srresnet", 16, 64)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pixel.lerning_rate=1", "did you mean 'learning_rate'"),
        ("pixel=1", "section.key=value"),
        ("pixel.steps=many", "must be of type int"),
        ("wheels.size=1", "unknown section 'wheels'"),
        ("data.crop_px=30", "multiple of 4"),
        ("model.channels=0", "channels 0"),
    ],
)
def test_slips_in_a_recipe_are_refused(override, said):
    with pytest.raises(Exception, match=said) as caught:
        Recipe.load("edge", [override])
    assert caught.value.exit_code in (2, 6)


def test_an_unknown_recipe_names_the_known():
    with pytest.raises(UsageError, match="edge, srresnet"):
        Recipe.load("esrgan")


def test_photographs_that_cannot_serve_are_named(photos):
    loaded = PhotoSet([photos], crop_px=32, scale=4)
    assert [photo.path.stem for photo in loaded.photos] == ["a", "b", "c"]
    assert len(loaded.left_out) == 2
    assert any("small.png: 90x30 is smaller" in line for line in loaded.left_out)
    assert any("broken.jpg" in line for line in loaded.left_out)


def test_no_photographs_at_all(tmp_path, photos):
    with pytest.raises(InputRefused, match="no usable photograph"):
        PhotoSet([tmp_path], crop_px=32, scale=4)
    with pytest.raises(InputRefused, match="no such folder"):
        PhotoSet([tmp_path / "missing"], crop_px=32, scale=4)


def test_crops_are_aligned_and_a_function_of_seed_and_step(photos):
    loaded = PhotoSet([photos], crop_px=32, scale=4)
    lr, hr = loaded.batch(seed=1, step=7, size=40)
    assert lr.shape == (40, 3, 8, 8)
    assert hr.shape == (40, 3, 32, 32)
    for low, high in zip(lr, hr, strict=True):
        shrunk = bicubic.resize(high.permute(1, 2, 0).numpy(), 8, 8)
        # Inside, where the crop's own edge does not reach, the LR is the bicubic of the HR.
        difference = np.abs(shrunk.astype(int) - low.permute(1, 2, 0).numpy())[3:-3, 3:-3]
        assert difference.max() <= 2
    again = loaded.batch(seed=1, step=7, size=40)
    assert torch.equal(lr, again[0])
    assert torch.equal(hr, again[1])
    assert not torch.equal(lr, loaded.batch(seed=1, step=8, size=40)[0])
    assert not torch.equal(lr, loaded.batch(seed=2, step=7, size=40)[0])


def test_the_learning_rate_warms_up_and_ends_at_zero():
    phase = PixelPhase(steps=1000, learning_rate=1e-3, warmup_steps=10)
    rates = [learning_rate_at(step, phase) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-4, rel=1e-3)
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_average_moves_towards_the_weights():
    ours, theirs = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(ours.weight)
    torch.nn.init.ones_(theirs.weight)
    update_average(ours, theirs, step=100_000, decay=0.9)
    assert ours.weight.item() == pytest.approx(0.1)
    update_average(ours, theirs, step=100_000, decay=0.9)
    assert ours.weight.item() == pytest.approx(0.19)


def test_training_lowers_the_loss_and_releases_a_checkpoint(photos, benchmark, tmp_path):
    seen = []
    recipe = tiny_recipe("pixel.steps=120", "pixel.warmup_steps=5", "pixel.learning_rate=3e-3")
    path = train(recipe, [photos], tmp_path / "run", validation=benchmark, on_progress=seen.append)
    early, late = (np.mean([p.loss for p in part]) for part in (seen[:4], seen[-4:]))
    assert late < early, (early, late)
    assert seen[-1].step == 120
    assert seen[-1].psnr_y is not None
    _, spec = load_checkpoint(path)
    assert spec.training.steps == 120
    assert "3 photographs" in spec.training.data
    assert set(spec.training.scores) == {"bench"}
    assert "broken.jpg" in (tmp_path / "run" / "left_out.txt").read_text()
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("recipe_name", ["edge", "srresnet"])
def test_resuming_is_the_same_as_never_stopping(photos, tmp_path, recipe_name):
    recipe = Recipe.load(recipe_name, [*TINY, *QUIET, "pixel.steps=12"])
    whole = train(recipe, [photos], tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(progress):
        raise Killed

    with pytest.raises(Killed):  # at step 5, before that step's checkpoint
        train(recipe, [photos], tmp_path / "parts", on_progress=kill)
    train(recipe, [photos], tmp_path / "parts", max_minutes=0)
    resumed = train(recipe, [photos], tmp_path / "parts")
    assert_same_weights(whole, resumed)


def test_time_limit_stops_cleanly_and_the_same_command_goes_on(photos, tmp_path):
    recipe = tiny_recipe("pixel.steps=8")
    whole = train(recipe, [photos], tmp_path / "whole")
    stopped = train(recipe, [photos], tmp_path / "parts", max_minutes=1e-9)
    assert load_checkpoint(stopped)[1].training.steps < 8
    assert_same_weights(whole, train(recipe, [photos], tmp_path / "parts"))


def test_a_run_of_another_recipe_is_refused(photos, tmp_path):
    train(tiny_recipe("pixel.steps=2"), [photos], tmp_path)
    with pytest.raises(UsageError, match="belongs to another recipe"):
        train(tiny_recipe("pixel.steps=3"), [photos], tmp_path)
