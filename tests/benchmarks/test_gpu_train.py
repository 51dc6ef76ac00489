"""Training on a rented GPU: what travels, one step of each recipe (on the CPU), what comes back."""

import argparse
import dataclasses
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from training import natural, write_benchmark, write_vgg  # noqa: E402

from srgan_edge import bicubic  # noqa: E402
from srgan_edge.errors import InputRefused, UsageError  # noqa: E402
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.train.recipe import Recipe  # noqa: E402
from srgan_edge.train.session import TIME_IS_UP, Session  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu_train  # noqa: E402
import gpu_train_back as back  # noqa: E402
import gpu_train_jobs as jobs  # noqa: E402
import gpu_train_pack as packing  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
TINY = (
    *("model.channels=4", "model.blocks=1", "data.crop_px=32", "data.batch=2"),
    *("run.precision=fp32",),
)
TINY_PERCEPTUAL = (
    *TINY,
    'perceptual.layers=["conv1_1", "conv3_2"]',
    "perceptual.layer_weights=[0.1, 1.0]",
)
TINY_GAN = (*TINY_PERCEPTUAL, "adversarial.discriminator_channels=4")


def tiny(job):
    recipe = Recipe.load(job.recipe)
    if recipe.adversarial.steps:
        return TINY_GAN
    return TINY_PERCEPTUAL if recipe.pixel.perceptual else TINY


@pytest.fixture
def photos(tmp_path):
    """Six photographs, every second of which is busy, and one smaller than a crop."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(1)
    for number in range(6):
        pixels = natural(random, 200, 210)
        if number % 2:
            rough = random.integers(0, 256, (50, 53, 3), np.uint8)
            pixels = bicubic.resize(rough, 200, 210)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.fromarray(natural(random, 100, 300)).save(folder / "small.png")
    return folder


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a file of 300 KiB, one that is new and one that git ignores."""
    tree = tmp_path / "checkout"
    tree.mkdir()
    subprocess.run(["git", "init", "-q", tree], check=True)
    (tree / "tracked").write_bytes(bytes(300 * KIB))
    (tree / ".gitignore").write_text("ignored\n")
    subprocess.run(["git", "-C", tree, "add", "."], check=True)
    (tree / "new").write_bytes(bytes(100 * KIB))
    (tree / "ignored").write_bytes(bytes(9 * MIB))
    return tree


def pack(tmp_path, checkout, photos, **changes):
    given = {
        "limit_bytes": 3 * MIB,
        "calls": 1,
        "vgg": write_vgg(tmp_path / "vgg.safetensors"),
        "teachers": [],
        "wheels": None,
        "validation": write_benchmark(tmp_path / "bench"),
        "back": None,
        "tree": checkout,
        "scratch": tmp_path / "scratch",
    }
    return packing.pack([photos], tmp_path / "carry", **(given | changes))


def carried(tmp_path):
    return sorted(
        str(path.relative_to(tmp_path / "carry"))
        for path in (tmp_path / "carry").rglob("*")
        if path.is_file() and path.name != packing.MANIFEST
    )


def start_weights(job, work):
    """The job's own model, tiny, as if it had come back."""
    recipe = Recipe.load(job.recipe, list(tiny(job)))
    name = job.starts[0]
    spec = dataclasses.replace(recipe.model, name=name)
    (work / "averages").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    save_checkpoint(work / "averages" / f"{name}.safetensors", generator_from_spec(spec), spec)


def run_job(job, work, **changes):
    given = {"seconds": 600.0, "steps": 1, "leases": 1, "device": "cpu", "overrides": tiny(job)}
    return jobs.run_job(job, work, **(given | changes))


# What travels


def test_a_part_and_the_checkout_stay_within_the_limit(tmp_path, checkout):
    taken = 300 * KIB + 100 * KIB + len("ignored\n")
    assert packing.room_bytes(3 * MIB, checkout) == 3 * MIB - packing.MARGIN_BYTES - taken
    with pytest.raises(UsageError, match="leaves no room; type --limit-mib"):
        packing.room_bytes(2 * MIB, checkout)
    with pytest.raises(UsageError, match="no checkout"):
        packing.room_bytes(3 * MIB, tmp_path)


def test_the_busiest_photographs_travel_as_they_are(tmp_path, checkout, photos):
    sizes = {path.name: path.stat().st_size for path in photos.iterdir()}
    room = sizes["1.png"] + sizes["3.png"] + sizes["5.png"] + 40 * KIB
    limit = room + packing.MARGIN_BYTES + 400 * KIB + MIB
    lines = pack(tmp_path, checkout, photos, limit_bytes=limit, vgg=None, validation=None)
    chosen = [Path(name).name for name in carried(tmp_path)]
    assert {"1.png", "3.png", "5.png"} <= set(chosen)
    assert "small.png" not in chosen
    assert lines[0].startswith(f"{len(chosen)} of 6 photographs")
    same = tmp_path / "carry" / "1" / "photos" / "photos" / "1.png"
    assert same.read_bytes() == (photos / "1.png").read_bytes()


def test_parts_are_gathered_again(tmp_path, checkout, photos):
    sizes = [path.stat().st_size for path in photos.iterdir()]
    limit = packing.MARGIN_BYTES + 400 * KIB + MIB + KIB
    (photos / "filler").mkdir()
    random = np.random.default_rng(2)
    for number in range(4):  # noise of 0.4 MiB each, so that one part does not do
        noise = random.integers(0, 256, (370, 370, 3), np.uint8)
        Image.fromarray(noise).save(photos / "filler" / f"{number}.png")
    pack(tmp_path, checkout, photos, limit_bytes=limit, calls=2)
    parts = sorted((tmp_path / "carry").iterdir())
    assert [part.name for part in parts] == ["1", "2"]
    for part in parts:
        bytes_of = [path.stat().st_size for path in part.rglob("*") if path.is_file()]
        assert sum(bytes_of) + 400 * KIB < limit
    elsewhere = tmp_path / "kept"
    elsewhere.mkdir()
    parts[0].rename(elsewhere / "1")
    with pytest.raises(InputRefused, match=r"of 2 parts \[1\] are not here"):
        packing.gather([tmp_path / "carry"], tmp_path / "work")
    names = packing.gather([tmp_path / "carry", elsewhere], tmp_path / "work")
    assert len(names) > len(sizes) - 2
    assert all((tmp_path / "work" / name).is_file() for name in names)
    assert (tmp_path / "work" / "weights" / "vgg.safetensors").is_file()
    assert (tmp_path / "work" / "validation" / "bench" / "HR" / "x.png").is_file()


def test_what_does_not_fit_is_refused(tmp_path, checkout, photos):
    (photos / "small.png").rename(tmp_path / "small.png")
    only_small = tmp_path / "only"
    only_small.mkdir()
    (tmp_path / "small.png").rename(only_small / "small.png")
    with pytest.raises(UsageError, match="no room for a photograph of at least 192x192"):
        pack(tmp_path, checkout, only_small)
    large = tmp_path / "dat-x4.pth"
    large.write_bytes(np.random.default_rng(0).bytes(2 * MIB))
    with pytest.raises(UsageError, match=r"and a part 1\.6; leave it out"):
        pack(tmp_path, checkout, photos, teachers=[large])
    with pytest.raises(UsageError, match="with the scale, as x4"):
        pack(tmp_path, checkout, photos, teachers=[tmp_path / "dat.pth"])
    (tmp_path / "carry").mkdir(exist_ok=True)
    (tmp_path / "carry" / "mine").touch()
    with pytest.raises(UsageError, match="holds something else"):
        pack(tmp_path, checkout, photos)


# One step of each recipe


@pytest.mark.parametrize("job", jobs.possible_jobs(None), ids=lambda job: job.recipe)
def test_one_step_of_each_recipe(job, tmp_path, checkout, photos):
    pack(tmp_path, checkout, photos)
    work = tmp_path / "work"
    packing.gather([tmp_path / "carry"], work)
    start_weights(job, work)
    lines = run_job(job, work)
    name = Recipe.load(job.recipe).model.name
    assert lines[-1].startswith(f"{name}.safetensors, average in")
    _, spec = load_checkpoint(work / "averages" / f"{name}.safetensors")
    assert (spec.training.steps, spec.training.hardware[:3]) == (1, "cpu")
    log = (work / "runs" / job.recipe / "log.jsonl").read_text()
    assert "validation/psnr_y" in log


def test_photographs_of_later_recipes_are_packed_beside_the_first(tmp_path, checkout, photos):
    pack(tmp_path, checkout, photos)
    work = tmp_path / "work"
    packing.gather([tmp_path / "carry"], work)
    packs = jobs.prepare(jobs.possible_jobs(None), work)
    assert [path.name for path in packs] == ["x4-96px", "x2-128px"]
    (job,) = jobs.possible_jobs(["edge-x2"])
    start_weights(job, work)
    packed = (packs[1] / "photos.json").stat().st_mtime_ns
    run_job(job, work, overrides=(*TINY, "data.crop_px=128"))
    assert (packs[1] / "photos.json").stat().st_mtime_ns == packed


def test_the_steps_follow_from_the_speed(tmp_path, checkout, photos, monkeypatch):
    monkeypatch.setattr(jobs, "TRIAL_SECONDS", 0.0)
    pack(tmp_path, checkout, photos)
    work = tmp_path / "work"
    packing.gather([tmp_path / "carry"], work)
    (job,) = jobs.possible_jobs(["edge-x2"])
    start_weights(job, work)
    lines = run_job(job, work, seconds=jobs.RELEASE_SECONDS + 2, steps=None)
    plan = json.loads((work / "runs" / "edge-x2" / "plan.json").read_text())
    assert lines[0].startswith("none: ")
    rate = float(lines[0].split()[1])
    assert 1 <= plan["steps"] <= 2 * rate + 1
    assert f"pixel.steps={plan['steps']}" in plan["settings"]


def test_a_schedule_spans_leases_where_its_state_comes_back():
    pixels, gan = jobs.possible_jobs(["srresnet", "srgan-spectrum"])
    assert jobs.planned_steps(pixels, 100, 50, leases=1) == pytest.approx(4750, abs=1)
    assert jobs.planned_steps(pixels, 100, 50, leases=3) == pytest.approx(3 * 4750, abs=1)
    assert jobs.planned_steps(gan, 100, 50, leases=3) == pytest.approx(4750, abs=1)
    assert jobs.planned_steps(gan, -3, 50, leases=1) == 1


def test_recipes_that_are_not_jobs():
    with pytest.raises(UsageError, match="no job 'edge-real'; possible: srresnet, srgan-spectrum"):
        jobs.possible_jobs(["edge-real"])


# What comes back


def test_a_run_goes_on_from_what_came_back(tmp_path, checkout, photos, monkeypatch):
    (job,) = jobs.possible_jobs(["edge-x2"])
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    pack(tmp_path, checkout, photos)
    packing.gather([tmp_path / "carry"], whole)
    start_weights(job, whole)
    run_job(job, whole, steps=6)
    wanted, _ = load_checkpoint(whole / "runs" / "edge-x2" / "edge-x2.safetensors")

    names = packing.gather([tmp_path / "carry"], first)
    (first / "photos.json").write_text(json.dumps(names))
    start_weights(job, first)
    with monkeypatch.context() as patch:
        goes_on = Session.goes_on

        def until_three(session, until_step):
            session.stopped = TIME_IS_UP if session.state.step == 3 else 0
            return not session.stopped and goes_on(session, until_step)

        patch.setattr(Session, "goes_on", until_three)
        run_job(job, first, steps=6)
    assert back.collect(first, tmp_path / "out", ["edge-x2"], back.Limits()) == []

    Image.fromarray(natural(np.random.default_rng(9), 400, 400)).save(photos / "new.png")
    pack(tmp_path, checkout, photos, back=tmp_path / "out")
    assert packing.gather([tmp_path / "carry"], second) == names
    back.unpack_state(second / "state", second / "runs")
    lines = run_job(job, second, steps=99)
    assert lines[0] == "goes on with what came back"
    found, spec = load_checkpoint(second / "runs" / "edge-x2" / "edge-x2.safetensors")
    assert spec.training.steps == 6
    pairs = zip(wanted.state_dict().values(), found.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    logs = [work / "runs" / "edge-x2" / "log.jsonl" for work in (whole, second)]
    assert logs[0].read_bytes() == logs[1].read_bytes()


@pytest.fixture
def work(tmp_path):
    """A folder as two unfinished runs with checkpoints of 100 KiB, and a finished one, leave it."""
    work = tmp_path / "work"
    for name, steps in [("first", 9), ("second", 9), ("done", 3)]:
        (work / "runs" / name / "checkpoints").mkdir(parents=True)
        (work / "runs" / name / "checkpoints" / "step-00000003.pt").write_bytes(bytes(100 * KIB))
        (work / "runs" / name / "plan.json").write_text(json.dumps({"steps": steps}))
    (work / "averages").mkdir()
    (work / "averages" / "edge-x2.safetensors").write_bytes(bytes(10 * KIB))
    (work / "photos.json").write_text("[]")
    return work


def test_files_stay_within_number_size_and_sum(work, tmp_path):
    limits = back.Limits(files=8, file_bytes=40 * KIB, total_bytes=200 * KIB)
    said = back.collect(work, tmp_path / "out", ["first", "second", "done"], limits)
    files = list((tmp_path / "out").iterdir())
    assert [path.name for path in back.state_volumes(tmp_path / "out")] == [
        f"state.{number:02}" for number in range(3)
    ]
    assert len(files) <= 8
    assert max(path.stat().st_size for path in files) <= 40 * KIB
    assert said == ["the checkpoint of second has no room; its weights are in weights.tar"]
    unpacked = back.unpack(tmp_path / "out", tmp_path / "unpacked")
    assert [path.name for path in unpacked.runs.iterdir() if (path / "checkpoints").exists()] == [
        "first"
    ]
    assert [path.name for path in unpacked.weights] == ["edge-x2.safetensors"]
    back.collect(work, tmp_path / "out", ["done"], limits)
    assert back.state_volumes(tmp_path / "out") == []


def test_a_volume_that_is_missing_or_a_path_that_leads_out(work, tmp_path):
    back.collect(work, tmp_path / "out", ["first"], back.Limits(file_bytes=40 * KIB))
    (tmp_path / "out" / "state.02").unlink()
    with pytest.raises(InputRefused, match="not all of it came back"):
        back.unpack(tmp_path / "out", tmp_path / "unpacked")
    with pytest.raises(InputRefused, match=r"no logs\.tar\.gz in it"):
        back.unpack(work, tmp_path / "unpacked")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    (tmp_path / "state.00").write_bytes(content.getvalue())
    with pytest.raises(InputRefused):
        back.unpack_state(tmp_path, tmp_path / "deep" / "runs")
    assert not (tmp_path / "deep" / "outside").exists()


# The whole command


def test_a_recipe_that_hangs_is_stopped(tmp_path, monkeypatch, capsys):
    script = tmp_path / "job.py"
    script.write_text("import time\nprint('at work')\ntime.sleep(600)\n")
    monkeypatch.setattr(gpu_train, "__file__", str(script))
    monkeypatch.setattr(gpu_train, "GRACE_SECONDS", 3.0)
    given = argparse.Namespace(
        work=tmp_path, leases=1, device="cpu", compile=[], set=[], steps=None
    )
    outcome = gpu_train._run_apart("edge-x2", 2.0, given)
    assert outcome.exit_code == -signal.SIGTERM
    assert outcome.seconds < 60
    assert "at work" in capsys.readouterr().out


@pytest.mark.slow
def test_make_gpu_train_on_the_cpu(tmp_path, checkout, photos):
    """The command itself: a recipe that fails costs the others nothing, and its output is kept."""
    pack(tmp_path, checkout, photos, vgg=None)
    options = ["--device", "cpu", "--steps", "1", "--work", tmp_path / "work"]
    options += ["--only", "srgan-spectrum", "--only", "edge-x2"]
    options += ["--set", "data.crop_px=32", "--set", "data.batch=1", "--set", "run.precision=fp32"]
    done = subprocess.run(
        [
            *("make", "gpu-train", f"CARRY={tmp_path / 'carry'}", f"OUT={tmp_path / 'out'}"),
            *(f"OPTIONS={' '.join(map(str, options))}", f"BIN={Path(sys.executable).parent}"),
        ],
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr  # make's, of our 1
    assert "needs a VGG; type: make gpu-pack VGG=" in done.stdout
    assert "edge-x2          done" in done.stdout
    unpacked = back.unpack(tmp_path / "out", tmp_path / "unpacked")
    assert [path.name for path in unpacked.weights] == ["edge-x2.safetensors"]
    assert len(unpacked.photos) == 6
