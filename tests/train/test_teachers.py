"""Teachers: each image computed once on a machine, means of several, invalid files."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from srgan_edge.errors import ModelRefused, OutputFailed
from srgan_edge.model.checkpoint import save_checkpoint
from srgan_edge.model.network import generator_from_spec
from srgan_edge.model.spec import ModelSpec
from srgan_edge.train.teachers import CACHE_VARIABLE, mean_of, open_teachers, remembered

CPU = torch.device("cpu")


def doubled(batch):
    return batch.repeat(2, axis=1).repeat(2, axis=2)


def image(value, height=3, width=5):
    return np.full((1, height, width, 3), value, np.uint8)


def test_an_image_is_computed_once_for_all_runs(tmp_path):
    calls = []

    def teacher(batch):
        calls.append(batch.shape)
        return doubled(batch)

    for _ in range(2):
        kept = remembered(teacher, tmp_path / "kept", 2)
        for value in (7, 9):
            assert np.array_equal(kept(image(value)), doubled(image(value)))
    assert len(calls) == 2
    kept(image(7, height=5, width=3))  # the same bytes, another image
    assert len(calls) == 3


def test_an_incomplete_result_is_computed_again(tmp_path):
    kept = remembered(doubled, tmp_path, 2)
    kept(image(7))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert np.array_equal(kept(image(7)), doubled(image(7)))
    assert file.stat().st_size == 4 * image(7).size


def test_a_teacher_that_is_stopped_loses_only_the_current_image(tmp_path):
    def teacher(batch):
        if batch[0, 0, 0, 0] == 9:
            raise KeyboardInterrupt
        return doubled(batch)

    kept = remembered(teacher, tmp_path, 2)
    kept(image(7))
    with pytest.raises(KeyboardInterrupt):
        kept(image(9))
    assert len(list(tmp_path.iterdir())) == 1


def test_several_teachers_are_their_mean_halves_upwards():
    def constant(value):
        return lambda batch: np.full_like(batch, value)

    assert mean_of([constant(254), constant(255)])(image(0)).max() == 255
    assert mean_of([constant(0), constant(0), constant(1)])(image(0)).max() == 0
    assert mean_of([constant(0), constant(1), constant(1)])(image(0)).max() == 1


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(ModelRefused, match=r"makes \(3, 5\) of \(3, 5\)"):
        remembered(lambda batch: batch, tmp_path, 2)(image(0))
    (tmp_path / "file").touch()
    with pytest.raises(OutputFailed, match=CACHE_VARIABLE):
        remembered(doubled, tmp_path / "file" / "kept", 2)(image(0))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kept"))
    for name in ("absent.pth", "absent.param"):
        with (
            pytest.raises(ModelRefused, match="No such file"),
            open_teachers(str(tmp_path / name), 4, CPU),
        ):
            pass


def test_two_models_teach_together(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "kept"))
    paths, alone = [], []
    for seed in range(2):
        torch.manual_seed(seed)
        spec = ModelSpec(f"m{seed}", "edge", 4, 1)
        paths.append(str(tmp_path / f"m{seed}.safetensors"))
        save_checkpoint(tmp_path / f"m{seed}.safetensors", generator_from_spec(spec), spec)
    batch = np.random.default_rng(0).integers(0, 256, (1, 6, 7, 3), np.uint8)
    for names in (*paths, ", ".join(paths)):
        with open_teachers(names, 4, CPU) as teacher:
            alone.append((teacher.name, teacher.upscale(batch).astype(int)))
    (first, a), (second, b), (both, mean) = alone
    assert both == f"{first}-{second}"
    assert np.array_equal(mean, (a + b + 1) // 2)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted([first, second])
