"""Crops drawn for several steps at once are those of the specification, `PhotoPack.crops`."""

import dataclasses
import itertools

import pytest

torch = pytest.importorskip("torch")

from training import tiny_recipe, write_photos  # noqa: E402

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint  # noqa: E402
from srgan_edge.train import crops_ahead  # noqa: E402
from srgan_edge.train import session as session_module  # noqa: E402
from srgan_edge.train.crops_ahead import CropsAhead  # noqa: E402
from srgan_edge.train.derived import add_sources, add_teacher  # noqa: E402
from srgan_edge.train.loop import train  # noqa: E402
from srgan_edge.train.photos import PhotoPack  # noqa: E402

SCALE, CROP_PX = 4, 32
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def pack(tmp_path):
    photos = write_photos(tmp_path / "photos")
    return PhotoPack.open([photos], tmp_path / "cache", crop_px=CROP_PX, scale=SCALE)


def same(ours, theirs):
    pairs = [(ours.lr, theirs.lr), (ours.hr, theirs.hr)]
    if theirs.teacher is not None:
        pairs.append((ours.teacher, theirs.teacher))
    return (ours.teacher is None) == (theirs.teacher is None) and all(
        torch.equal(one.cpu(), other) and one.stride() == other.stride() for one, other in pairs
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("candidates", [1, 2, 5])
def test_every_step_is_that_of_the_specification(pack, device, candidates, monkeypatch):
    monkeypatch.setattr(crops_ahead, "PIXELS_AHEAD", 3 * 12 * CROP_PX**2)  # three steps
    ahead = CropsAhead(pack.to(device), candidates)
    for step in (*range(8), 5, 1 << 40, 2):  # then back, as after a rollback, and far on
        assert same(
            ahead.at(7, step, range(12)), pack.crops(7, step, range(12), candidates=candidates)
        )
    for seed, indices in itertools.product((7, 8 + (1 << 32)), (range(3, 12), [11, 2])):
        assert same(ahead.at(seed, 2, indices), pack.crops(seed, 2, indices, candidates=candidates))


@pytest.mark.parametrize("device", DEVICES)
def test_every_turn_of_a_teachers_and_a_sources_pack(pack, device):
    def darker(hr, random):
        small = bicubic.resize(hr, hr.shape[0] // SCALE, hr.shape[1] // SCALE)
        return small // random.integers(2, 6, dtype=small.dtype)

    def nearest(batch):
        return 255 - batch.repeat(SCALE, axis=1).repeat(SCALE, axis=2)

    pack = add_sources(pack, darker, "darker", 3, 0)
    pack = add_teacher(pack, nearest, "nearest", halo_px=0)
    ahead = CropsAhead(pack.to(device), 2)
    for step in range(2):
        assert same(ahead.at(0, step, range(200)), pack.crops(0, step, range(200), candidates=2))


def test_of_candidates_that_are_alike_the_first_is_taken(pack):
    plain = dataclasses.replace(pack, lr=torch.full_like(pack.lr, 9))
    assert same(
        CropsAhead(plain, 4).at(0, 0, range(50)), plain.crops(0, 0, range(50), candidates=4)
    )


def test_a_run_with_crops_drawn_ahead_is_the_same(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos")
    recipe = tiny_recipe("srresnet", "pixel.steps=6", "data.candidates=2")
    plain = train(recipe, [photos], tmp_path / "plain", device="cpu")
    drawn = []

    class Counted(CropsAhead):
        def at(self, seed, step, indices):
            drawn.append(step)
            return super().at(seed, step, indices)

    monkeypatch.setattr(
        session_module,
        "crops_ahead",
        lambda photos, recipe: Counted(photos, recipe.data.candidates),
    )
    ahead = train(recipe, [photos], tmp_path / "ahead", device="cpu")
    assert drawn == list(range(6))
    states = (load_checkpoint(path)[0].state_dict() for path in (plain, ahead))
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    logs = [tmp_path / name / "log.jsonl" for name in ("plain", "ahead")]
    assert logs[0].read_bytes() == logs[1].read_bytes()
