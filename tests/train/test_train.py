"""Training: a falling loss, two phases, and every way of stopping and resuming."""

import dataclasses
import errno
import importlib.util
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from training import (  # noqa: E402
    TINY,
    TINY_GAN,
    tiny_recipe,
    write_benchmark,
    write_photos,
    write_vgg,
)
from typer.testing import CliRunner  # noqa: E402

from srgan_edge.cli import app  # noqa: E402
from srgan_edge.errors import (  # noqa: E402
    InputDamaged,
    InputRefused,
    Interrupted,
    ModelRefused,
    OutputFailed,
    ResourcesExhausted,
    SrganEdgeError,
    UsageError,
)
from srgan_edge.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from srgan_edge.model.network import generator_from_spec  # noqa: E402
from srgan_edge.model.spec import ModelSpec  # noqa: E402
from srgan_edge.signals import STOPPING  # noqa: E402
from srgan_edge.train.log import RunLog, read_log  # noqa: E402
from srgan_edge.train.loop import (  # noqa: E402
    adversarial_weight_at,
    leak_at,
    leak_into,
    schedule_at,
    train,
)
from srgan_edge.train.optimizer import Optimizer  # noqa: E402
from srgan_edge.train.photos import PhotoPack  # noqa: E402
from srgan_edge.train.processes import Processes  # noqa: E402
from srgan_edge.train.recipe import PARTS, AdversarialPhase, PixelPhase  # noqa: E402
from srgan_edge.train.run_folder import RunFolder, lock_run_folder  # noqa: E402
from srgan_edge.train.session import update_average  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def one_thread():
    """Tiny networks gain nothing from more, and lose much to a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return write_benchmark(tmp_path_factory.mktemp("data") / "bench")


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    return write_vgg(tmp_path_factory.mktemp("vgg") / "vgg11.safetensors")


def weights_of(path):
    generator, _ = load_checkpoint(path)
    return generator.state_dict()


def assert_same_run(one, other):
    """The weights and the log, bit for bit."""
    (a,), (b,) = (list(run.glob("*-x4.safetensors")) for run in (one, other))
    for name, tensor in weights_of(a).items():
        assert torch.equal(tensor, weights_of(b)[name]), name
    assert (one / "log.jsonl").read_text() == (other / "log.jsonl").read_text()


class Killed(Exception):
    """Raised in the middle of a run, in place of a power cut."""


def kill_at(step):
    def on_progress(progress):
        if progress.step >= step:
            raise Killed

    return on_progress


# The two phases


def test_training_lowers_the_loss_and_releases_a_checkpoint(photos, benchmark, tmp_path):
    seen = []
    recipe = tiny_recipe(
        "srresnet",
        "pixel.steps=80",
        "pixel.warmup_steps=5",
        "pixel.learning_rate=3e-3",
        "run.validate_every_steps=40",
    )
    path = train(recipe, [photos], tmp_path, validation=benchmark, on_progress=seen.append)
    early, late = (np.mean([p.values["l1"] for p in part]) for part in (seen[:8], seen[-8:]))
    assert late < early, (early, late)
    assert (seen[-1].step, seen[-1].steps, seen[-1].phase) == (80, 80, "pixel")
    _, spec = load_checkpoint(path)
    assert spec.training.steps == 80
    assert "3 photographs" in spec.training.data
    assert set(spec.training.scores) == {"bench"}
    assert "broken.jpg" in (tmp_path / "left_out.txt").read_text()
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert load_checkpoint(tmp_path / "best.safetensors")[1].architecture == "srresnet"


def test_two_phases_in_one_run(photos, benchmark, vgg_file, tmp_path):
    seen = []
    recipe = tiny_recipe("srgan", "adversarial.ramp_steps=4", "adversarial.warmup_steps=1")
    path = train(
        recipe,
        [photos],
        tmp_path,
        validation=benchmark,
        vgg_weights=vgg_file,
        on_progress=seen.append,
    )
    assert [p.phase for p in seen] == ["pixel"] * 3 + ["adversarial"] * 3
    log = read_log(tmp_path / "log.jsonl")
    adversarial = [entry for entry in log if "discriminator" in entry]
    for entry in adversarial:
        assert 0 < entry["D(real)"] < 1
        assert 0 < entry["D(fake)"] < 1
        for key in ("l1", "perceptual", "consistency", "adversarial", "scale/discriminator"):
            assert np.isfinite(entry[key]), key
        assert entry["gradient_norm/generator"] > 0
        assert entry["gradient_norm/discriminator"] > 0
    validated = [entry for entry in log if "validation/psnr_y" in entry]
    assert [entry["step"] for entry in validated] == [4, 8, 12]
    assert "validation/perceptual" not in validated[0]
    assert validated[-1]["validation/perceptual"] > 0
    assert load_checkpoint(path)[1].training.steps == 12


@pytest.mark.slow
def test_every_adversarial_recipe_trains(photos, vgg_file, tmp_path):
    for name, layer in [("mse", "conv5_2"), ("vgg22", "conv2_1"), ("vgg54", "conv5_2")]:
        recipe = tiny_recipe(
            f"srgan-{name}",
            "pixel.steps=2",
            "adversarial.steps=2",
            f'perceptual.layers=["{layer}"]',
            "perceptual.layer_weights=[1.0]",
        )
        path = train(recipe, [photos], tmp_path / name, vgg_weights=vgg_file)
        before, after = generator_from_spec(recipe.model), weights_of(path)
        assert before.state_dict().keys() == after.keys()


def test_a_gan_alone_starts_from_given_weights(photos, vgg_file, tmp_path):
    first = train(tiny_recipe("srresnet", "pixel.steps=4"), [photos], tmp_path / "pixels")
    recipe = tiny_recipe("srgan", "adversarial.learning_rate=0.0")
    path = train(recipe, [photos], tmp_path / "gan", init=first, vgg_weights=vgg_file)
    for name, tensor in weights_of(first).items():
        assert torch.allclose(tensor, weights_of(path)[name], atol=1e-7), name
    training = load_checkpoint(path)[1].training
    assert (training.recipe, training.steps) == ("srgan from srresnet-x4", 6)


def test_only_the_named_parts_learn(photos, tmp_path):
    first = train(tiny_recipe("srresnet", "pixel.steps=4"), [photos], tmp_path / "all")
    recipe = tiny_recipe("srresnet", "pixel.steps=4", 'pixel.parts=["upsample", "tail"]')
    last = train(recipe, [photos], tmp_path / "last", init=first)
    before, after = weights_of(first), weights_of(last)
    changed = {
        name.partition(".")[0]
        for name in before
        if not torch.equal(*(w[name] for w in (before, after)))
    }
    assert changed == {"upsample", "tail"}


@pytest.mark.parametrize("architecture", PARTS)
def test_parts_are_those_of_the_network(architecture):
    network = generator_from_spec(ModelSpec("a-x4", architecture, channels=8, blocks=2))
    assert tuple(name for name, _ in network.named_children()) == PARTS[architecture]


def test_a_student_learns_from_its_teachers_images(photos, tmp_path, monkeypatch):
    """A teacher that paints everything gray, and nothing else to learn from."""
    monkeypatch.setenv("SRGAN_EDGE_TEACHERS", str(tmp_path / "teachers"))
    spec = ModelSpec("gray", "edge", channels=4, blocks=1)
    teacher = generator_from_spec(spec)
    for parameter in teacher.parameters():
        parameter.data.zero_()
    save_checkpoint(tmp_path / "gray.safetensors", teacher, spec)
    recipe = tiny_recipe(
        "edge",
        f"data.teacher={tmp_path / 'gray.safetensors'}",
        "pixel.steps=4",
        "pixel.l1=0.0",
        "pixel.distillation=1.0",
        "pixel.learning_rate=0.0",
    )
    train(recipe, [photos], tmp_path / "run")
    # Its image is the nearest upscale, from which an untrained student differs little.
    entry = read_log(tmp_path / "run" / "log.jsonl")[-1]
    assert 0 < entry["distillation"] < 0.1
    assert "l1" not in entry


def test_the_learning_rate_warms_up_and_decays():
    phase = PixelPhase(steps=1000, warmup_steps=10)
    rates = [schedule_at(step, phase) for step in range(1001)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert max(rates) == pytest.approx(1.0, rel=1e-3)
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    paper = AdversarialPhase(steps=1000, warmup_steps=0, decay="halfway")
    assert [schedule_at(step, paper) for step in (0, 499, 500)] == [1.0, 1.0, 0.1]


def test_the_adversarial_weight_ramps():
    phase = AdversarialPhase(adversarial=0.1, ramp_steps=10)
    assert [adversarial_weight_at(step, phase) for step in (0, 5, 10, 99)] == [0, 0.05, 0.1, 0.1]
    assert adversarial_weight_at(0, AdversarialPhase(adversarial=0.1)) == 0.1


def test_relu_leaks_in_training_alone_and_ever_less():
    phase = PixelPhase(steps=1000, leak=0.1)
    leaks = [leak_at(step, phase) for step in (0, 350, 700, 999)]
    assert leaks == pytest.approx([0.1, 0.05, 0, 0])
    generator = generator_from_spec(ModelSpec("edge", "edge", 8, 2, activation="relu"))
    layer, x = generator.body[1], torch.tensor([-2.0, 0.0, 3.0])
    leak_into(generator).fill_(0.25)
    assert layer(x).tolist() == [-0.5, 0, 3]
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    compiled = torch.compile(layer, backend="eager")  # which reads the slope at each call
    assert compiled(x).tolist() == [-0.5, 0, 3]
    layer.slope.fill_(0.5)
    assert compiled(x).tolist() == layer(x).tolist() == [-1.0, 0, 3]
    assert layer.eval()(x).tolist() == [0, 0, 3]
    assert not [name for name in generator.state_dict() if "slope" in name]


def test_a_dead_feature_learns_while_relu_leaks(photos, tmp_path):
    """Its bias is so low that no input passes."""
    recipe = tiny_recipe(
        "edge", "data.teacher=", "pixel.distillation=0.0", "pixel.l1=1.0", "pixel.steps=3"
    )
    torch.manual_seed(0)
    generator = generator_from_spec(recipe.model)
    with torch.no_grad():
        generator.body[0].bias[0] = -100
    start = tmp_path / "start.safetensors"
    save_checkpoint(start, generator, recipe.model)
    learned = []
    for leak in (0.0, 0.1):
        phase = dataclasses.replace(recipe.pixel, leak=leak)
        run = dataclasses.replace(recipe, pixel=phase)
        trained, _ = load_checkpoint(train(run, [photos], tmp_path / f"{leak}", init=start))
        learned.append(not torch.equal(trained.body[0].weight[0], generator.body[0].weight[0]))
    assert learned == [False, True]


def test_the_average_moves_towards_the_weights():
    ours, theirs = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(ours.weight)
    torch.nn.init.ones_(theirs.weight)
    update_average(ours, theirs, torch.tensor(0.1))
    assert ours.weight.item() == pytest.approx(0.1)
    update_average(ours, theirs, torch.tensor(0.0))
    assert ours.weight.item() == pytest.approx(0.1)


# Stopping and resuming


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [2, 6, 10])
def test_a_killed_run_ends_like_an_uninterrupted_one(
    photos, benchmark, vgg_file, tmp_path, killed_at
):
    """The run is killed in either phase, between checkpoints that contain partial sums."""
    recipe = tiny_recipe("srgan", "run.log_every_steps=1", "run.checkpoint_every_steps=3")
    given = {"validation": benchmark, "vgg_weights": vgg_file}
    train(recipe, [photos], tmp_path / "whole", **given)
    with pytest.raises(Killed):
        train(recipe, [photos], tmp_path / "parts", on_progress=kill_at(killed_at), **given)
    train(recipe, [photos], tmp_path / "parts", max_minutes=0, **given)
    train(recipe, [photos], tmp_path / "parts", **given)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_signal_in_the_middle_of_a_mean(photos, tmp_path, monkeypatch):
    """Partial sums are saved too, so the next line of the log covers all of its steps."""
    recipe = tiny_recipe("srresnet", "pixel.steps=8", "run.log_every_steps=4")
    train(recipe, [photos], tmp_path / "whole")
    crops = PhotoPack.crops

    def interrupted(pack, seed, step, indices, **options):
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return crops(pack, seed, step, indices, **options)

    monkeypatch.setattr(PhotoPack, "crops", interrupted)
    with pytest.raises(Interrupted, match="step 6 is saved"):
        train(recipe, [photos], tmp_path / "parts")
    monkeypatch.undo()
    train(recipe, [photos], tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_time_limit_ends_a_run_as_a_release(photos, tmp_path):
    said = []
    recipe = tiny_recipe("srresnet", "pixel.steps=8")
    path = train(recipe, [photos], tmp_path, max_minutes=0, say=said.append)
    assert load_checkpoint(path)[1].training.steps == 0
    assert "time is up after step 0; the same command goes on from there" in said
    said.clear()
    train(recipe, [photos], tmp_path, say=said.append)
    assert load_checkpoint(path)[1].training.steps == 8


def arguments(run, photos, vgg_file, *more):
    settings = [f"--set={change}" for change in [*TINY_GAN, *more]]
    return [
        *(sys.executable, "-m", "srgan_edge", "train", "--recipe", "srgan", "--device", "cpu"),
        *("--data", str(photos), "-o", str(run), "--vgg-weights", str(vgg_file), *settings),
    ]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""Sums depend on the number of threads, so every process of a comparison uses the same."""


def start(command):
    return subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.PIPE, text=True)


def finish(command):
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def wait_for_line(run, process, lines):
    log = run / "log.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_text().count("\n") >= lines:
            return
        time.sleep(0.01)
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_sigkill_at_any_step_changes_nothing(photos, vgg_file, tmp_path):
    long = ["pixel.steps=30", "adversarial.steps=40", "run.checkpoint_every_steps=7"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(arguments(whole, photos, vgg_file, *long))
    for lines in (5, 12, 30):
        process = start(arguments(parts, photos, vgg_file, *long))
        wait_for_line(parts, process, lines)
        process.kill()
        process.wait()
    finish(arguments(parts, photos, vgg_file, *long))
    assert_same_run(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_the_step_and_reports_it(photos, vgg_file, tmp_path, number):
    endless = ["pixel.steps=100000", "run.checkpoint_every_steps=100000"]
    process = start(arguments(tmp_path / "run", photos, vgg_file, *endless))
    wait_for_line(tmp_path / "run", process, 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in said
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.pt"))) == 1


def test_handlers_of_signals_are_restored(photos, tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(progress):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="step 2 is saved") as caught:
        train(tiny_recipe("srresnet"), [photos], tmp_path, on_progress=interrupt)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_the_newest_checkpoints_are_kept(photos, tmp_path):
    recipe = tiny_recipe("srresnet", "pixel.steps=20", "run.checkpoints_kept=3")
    train(recipe, [photos], tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{step:08}.pt" for step in (12, 16, 20)]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(photos, tmp_path):
    """The system's limit on file sizes stands in for a full disk; it is lifted before the end."""
    said = []
    recipe = tiny_recipe("srresnet", "model.channels=16", "pixel.steps=12")
    train(recipe, [photos], tmp_path / "run", max_minutes=0)  # packs the photographs
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift(progress):
        if progress.step == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        train(recipe, [photos], tmp_path / "run", on_progress=lift, say=said.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [line.split(":")[0] for line in said if "failed" in line] == [
        "checkpoint of step 4 failed"
    ]
    train(recipe, [photos], tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_the_last_checkpoint_must_succeed(photos, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputFailed, match="No space left"):
        train(tiny_recipe("srresnet", "pixel.steps=2"), [photos], tmp_path)


# Half precision, and values that are not finite


def test_fp16_scales_losses_with_one_scale_per_network(photos, vgg_file, tmp_path):
    recipe = tiny_recipe("srgan", "run.precision=fp16", "run.log_every_steps=1")
    train(recipe, [photos], tmp_path, vgg_weights=vgg_file)
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert last["scale/generator"] >= 256
    assert last["scale/discriminator"] >= 256


def test_bf16_stays_close_to_fp32(photos, tmp_path):
    runs = {}
    for precision in ("fp32", "bf16"):
        recipe = tiny_recipe("srresnet", f"run.precision={precision}", "pixel.steps=8")
        train(recipe, [photos], tmp_path / precision)
        runs[precision] = read_log(tmp_path / precision / "log.jsonl")[-1]["l1"]
    assert runs["bf16"] == pytest.approx(runs["fp32"], rel=0.05)
    assert runs["bf16"] != runs["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_that_is_not_finite_is_not_taken(precision):
    layer = torch.nn.Linear(1, 1)
    optimizer = Optimizer(layer.parameters(), (0.9, 0.99), precision, Processes())
    optimizer.minimize(layer(torch.ones(1)).sum(), 0.1)
    before, scale = layer.weight.item(), optimizer.scale
    norm = optimizer.minimize((layer(torch.ones(1)) * float("inf")).sum(), 0.1)
    assert not norm.isfinite()
    assert layer.weight.item() == before
    assert optimizer.scale == (scale / 2 if precision == "fp16" else 1.0)
    norm = optimizer.minimize(layer(torch.ones(1)).sum(), 0.1)
    assert norm.item() == pytest.approx(2**0.5)
    assert layer.weight.item() != before


class Poison(torch.nn.Module):
    """The loss of some steps is NaN."""

    def __init__(self, sick):
        super().__init__()
        self.sick, self.calls = sick, 0

    def __call__(self, sr, hr):
        self.calls += 1
        return (sr - hr).abs().mean() * (float("nan") if self.calls in self.sick else 1.0)


def test_single_bad_steps_are_skipped_counted_and_not_averaged(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_edge.train.loop.F.l1_loss", Poison({3}))
    path = train(tiny_recipe("srresnet", "pixel.steps=6"), [photos], tmp_path)
    log = read_log(tmp_path / "log.jsonl")
    assert [entry["skipped_steps"] for entry in log] == [0, 1, 0]
    assert all(np.isfinite(entry["l1"]) for entry in log)
    assert all(tensor.isfinite().all() for tensor in weights_of(path).values())


def test_a_row_of_bad_steps_rolls_back_to_other_crops(photos, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("srgan_edge.train.loop.F.l1_loss", Poison({7, 8, 9, 10}))
    recipe = tiny_recipe("srresnet", "pixel.steps=12", "run.skips_before_rollback=3")
    train(recipe, [photos], tmp_path / "sick", say=said.append)
    assert any("back to step-00000004.pt" in line for line in said), said
    monkeypatch.undo()
    train(recipe, [photos], tmp_path / "well")
    sick, well = (read_log(tmp_path / run / "log.jsonl") for run in ("sick", "well"))
    assert [entry["step"] for entry in sick] == [entry["step"] for entry in well]
    assert sick[1] == well[1]  # up to step 4
    assert sick[2]["l1"] != well[2]["l1"]


def test_rolling_back_within_the_adversarial_phase(photos, vgg_file, tmp_path, monkeypatch):
    """The restored discriminator is the one that is trained afterwards."""
    said = []
    monkeypatch.setattr("srgan_edge.train.loop.F.l1_loss", Poison({7, 8}))
    pixels_alone = ["adversarial.consistency=0.0", "perceptual.distance=mse"]  # use l1_loss
    recipe = tiny_recipe("srgan", "run.skips_before_rollback=2", *pixels_alone)
    train(recipe, [photos], tmp_path, vgg_weights=vgg_file, say=said.append)
    assert any("back to step-00000006.pt" in line for line in said), said
    record, _ = RunFolder(tmp_path).newest()
    judge = record["opponent"]["optimizer"]["method"]["state"]
    assert {int(moments["step"]) for moments in judge.values()} == {6}
    assert record["rollbacks"] == 1


def test_a_run_that_always_diverges_ends_with_advice(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("srgan_edge.train.loop.F.l1_loss", Poison(range(5, 1000)))
    recipe = tiny_recipe("srresnet", "pixel.steps=40", "run.skips_before_rollback=2")
    with pytest.raises(ResourcesExhausted, match="lower the learning rate"):
        train(recipe, [photos], tmp_path)


@pytest.mark.slow
def test_compiled_networks_compute_what_plain_ones_do(photos, vgg_file, tmp_path):
    logs = {}
    for mode in ("none", "inductor"):
        recipe = tiny_recipe("srgan", f"run.compile={mode}", "pixel.steps=2", "adversarial.steps=2")
        train(recipe, [photos], tmp_path / mode, vgg_weights=vgg_file)
        logs[mode] = read_log(tmp_path / mode / "log.jsonl")
    for plain, compiled in zip(logs["none"], logs["inductor"], strict=True):
        assert plain == pytest.approx(compiled, rel=1e-3)


# Several processes


@pytest.mark.slow
def test_two_processes_are_one_with_the_same_batch(photos, benchmark, vgg_file, tmp_path):
    more = ["data.batch=4", "adversarial.discriminator=unet", "run.log_every_steps=1"]
    command = arguments(tmp_path / "two", photos, vgg_file, *more)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    finish([sys.executable, "-m", *launcher, *command[1:], "--val", str(benchmark)])
    command = arguments(tmp_path / "one", photos, vgg_file, *more)
    finish([*command, "--val", str(benchmark)])
    one, two = (read_log(tmp_path / run / "log.jsonl") for run in ("one", "two"))
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3), ours["step"]


@pytest.mark.slow
def test_a_process_that_is_killed_is_started_again_from_the_last_checkpoint(photos, tmp_path):
    """torchrun restarts all processes when one dies, as docs/training.md says."""
    settings = [*TINY, "pixel.steps=24", "run.checkpoint_every_steps=5", "run.log_every_steps=1"]

    def command(run):
        launcher = ["--standalone", "--nproc-per-node=2", "--max-restarts=1"]
        return [
            *(sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "srgan_edge"),
            *("train", "--recipe", "srresnet", "--device", "cpu", "--data", str(photos)),
            *("-o", str(run), *(f"--set={change}" for change in settings)),
        ]

    finish(command(tmp_path / "whole"))
    process = start(command(tmp_path / "killed"))
    wait_for_line(tmp_path / "killed", process, 12)
    second = psutil.Process(process.pid).children()[-1]
    second.kill()
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_batch_that_cannot_be_shared_is_refused():
    assert Processes(rank=1, size=2).share(6) == range(3, 6)
    with pytest.raises(UsageError, match="multiple of 4"):
        Processes(size=4).share(6)


# Bad input


def test_no_photographs_and_no_benchmark(photos, tmp_path):
    recipe = tiny_recipe("srresnet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match="no photograph in it or below it"):
        train(recipe, [tmp_path / "empty"], tmp_path / "run")
    with pytest.raises(InputRefused, match="no such folder"):
        train(recipe, [tmp_path / "missing"], tmp_path / "run")
    with pytest.raises(InputRefused, match="HR/"):
        train(recipe, [photos], tmp_path / "run", validation=tmp_path / "empty")


def test_a_run_of_another_recipe_is_refused_and_the_difference_shown(photos, tmp_path):
    train(tiny_recipe("srresnet", "pixel.steps=2"), [photos], tmp_path)
    changed = tiny_recipe("srresnet", "pixel.steps=3", "data.seed=7")
    with pytest.raises(UsageError, match="belongs to another run") as caught:
        train(changed, [photos], tmp_path)
    assert "data.seed: there 0, here 7" in str(caught.value)
    assert "pixel.steps: there 2, here 3" in str(caught.value)
    assert "crop_px" not in str(caught.value)


def test_the_command_names_what_differs_from_another_run_in_one_line(photos, tmp_path, cli):
    settings = [f"--set={change}" for change in [*TINY, "pixel.steps=2"]]
    given = ("train", "--recipe", "srresnet", "--data", photos, "-o", "run", *settings)
    assert cli(*given)[0] == 0
    code, _, err = cli(*given, "--set=data.seed=7")
    assert code == 2
    assert err.splitlines()[-1] == (
        "srgan-edge: error: run/checkpoints/step-00000002.pt belongs to another run "
        "(data.seed: there 0, here 7); choose another folder with -o, or delete run to start over"
    )
    code, _, err = cli(*given, *(f"--set=pixel.{name}=0.5" for name in ("mse", "l1", "grid")))
    assert "pixel.l1: there" in err
    assert "; pixel.mse: there" in err
    assert "\\n" not in err


def test_a_long_list_of_differences_is_cut(photos, tmp_path):
    train(tiny_recipe("srresnet", "pixel.steps=2"), [photos], tmp_path)
    with pytest.raises(UsageError, match=r"; and \d+ more\); choose another folder"):
        train(tiny_recipe("edge"), [photos], tmp_path)


def test_the_monitoring_of_a_run_may_change(photos, tmp_path):
    train(tiny_recipe("srresnet", "pixel.steps=4"), [photos], tmp_path, max_minutes=0)
    train(tiny_recipe("srresnet", "pixel.steps=4", "run.log_every_steps=1"), [photos], tmp_path)
    assert len(read_log(tmp_path / "log.jsonl")) == 4


def test_other_photographs_are_another_run(photos, tmp_path):
    recipe = tiny_recipe("srresnet", "pixel.steps=2")
    train(recipe, [photos], tmp_path / "run")
    more = tmp_path / "more"
    more.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(more / "black.png")
    with pytest.raises(UsageError, match="photographs: there"):
        train(recipe, [photos, more], tmp_path / "run")


def test_init_of_another_architecture_is_refused(photos, vgg_file, tmp_path):
    first = train(tiny_recipe("srresnet", "pixel.steps=2"), [photos], tmp_path / "run")
    recipe = tiny_recipe("srgan", "model.blocks=2")
    with pytest.raises(ModelRefused, match=r"blocks 1, the recipe 2.*model\.blocks=1"):
        train(recipe, [photos], tmp_path / "gan", init=first, vgg_weights=vgg_file)


def test_a_deeper_network_starts_as_the_function_of_the_shallower_one(photos, tmp_path):
    first = train(tiny_recipe("edge", "pixel.steps=2"), [photos], tmp_path / "run")
    still = ("pixel.steps=2", "pixel.learning_rate=1e-12", "model.name=deeper", "model.blocks=4")
    path = train(tiny_recipe("edge", *still), [photos], tmp_path / "deeper", init=first)
    (shallow, _), (deep, spec) = load_checkpoint(first), load_checkpoint(path)
    assert (spec.name, spec.blocks) == ("deeper", 4)
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.allclose(deep(lr), shallow(lr), atol=1e-5)


def test_a_run_in_use_is_refused(photos, tmp_path):
    with (
        lock_run_folder(tmp_path),
        pytest.raises(OutputFailed, match=f"in use by process {os.getpid()}"),
    ):
        train(tiny_recipe("srresnet"), [photos], tmp_path)


def _tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("run", "init", "said"),
    [
        ("photos/run", None, "lies in .*photos, which the run reads"),
        ("photos", None, "lies in .*photos, which the run reads"),
        ("link/run", None, "lies in .*photos, which the run reads"),
        (".", None, r"photos is where \S* keeps its own files"),
        ("used", None, r"used/report\.md exists and no run made it"),
        ("packed", None, r"packed/photos exists and no run made it"),
        ("old", "old/best.safetensors", r"old/best\.safetensors, an input, would be replaced"),
        ("old", "hard.safetensors", r"hard\.safetensors, an input, would be replaced"),
    ],
)
def test_a_run_replaces_neither_inputs_nor_files_of_others(photos, tmp_path, run, init, said):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "link").symlink_to("photos")
    for name in ("used/report.md", "packed/photos/mine", "old/best.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("somebody's")
    (tmp_path / "old/lock").touch()  # a run's
    (tmp_path / "hard.safetensors").hardlink_to(tmp_path / "old/best.safetensors")
    before = _tree(tmp_path)
    with pytest.raises(UsageError, match=said):
        train(
            tiny_recipe("srresnet", "pixel.steps=2"),
            [tmp_path / "photos"],
            tmp_path / run,
            init=None if init is None else tmp_path / init,
            device="cpu",
        )
    assert _tree(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_refused(photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputFailed, match="cannot write"):
        train(tiny_recipe("srresnet"), [photos], tmp_path / "file" / "run")


def test_a_damaged_checkpoint_is_named_with_the_one_before(photos, tmp_path):
    recipe = tiny_recipe("srresnet", "pixel.steps=8")
    train(recipe, [photos], tmp_path)
    newest = tmp_path / "checkpoints" / "step-00000008.pt"
    newest.write_bytes(newest.read_bytes()[:500])
    with pytest.raises(InputDamaged, match=r"damaged.*remove it to go on from step-00000004.pt"):
        train(recipe, [photos], tmp_path)
    newest.unlink()
    train(recipe, [photos], tmp_path)


@pytest.fixture
def saved(tmp_path):
    """A run folder with one checkpoint, of a record as small as they get."""
    with lock_run_folder(tmp_path) as folder:
        record = {"identity": {}, "weights": torch.arange(64, dtype=torch.float32)}
        folder.save(record, 4, 1)
    return folder


def test_any_flipped_bit_of_a_checkpoint_is_noticed(saved):
    (path,) = saved.checkpoints()
    whole = path.read_bytes()
    for place in range(0, len(whole), 61):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(InputDamaged, match=r"damaged checkpoint.*; remove .* to start over"):
            saved.newest()
    path.write_bytes(whole)
    assert saved.newest()[1] == path


def test_checkpoints_of_others_are_refused(saved):
    (path,) = saved.checkpoints()
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputDamaged, match="made by another program"):
        saved.newest()
    saved.save([1, 2], 4, 1)
    with pytest.raises(InputDamaged, match="no state of a training"):
        saved.newest()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputDamaged, match="damaged checkpoint"):
        saved.newest()


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"loss": 1}', b'{"step": "4"}', b'{"step": 4, "l1": []}', b"\xff\xfe", b""],
)
def test_a_damaged_log_is_named_before_the_first_step(tmp_path, line):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(InputDamaged, match=r"log\.jsonl, line 2: damaged; remove the file"):
        RunLog(tmp_path, 8, print)


def test_the_log_waits_for_room_and_lacks_nothing(tmp_path):
    said = []
    with RunLog(tmp_path, 0, said.append) as log:
        log.write(1, {"l1": 0.5})
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
        try:
            log.write(2, {"l1": 0.4})
            log.write(3, {"l1": 0.3})
            with pytest.raises(OutputFailed, match="cannot write"):
                log.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.write(4, {"l1": 0.2})
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
    assert sum("waits for room" in line for line in said) == 1


def test_names_that_are_not_utf_8_train(photos, tmp_path):
    folder = tmp_path / os.fsdecode(b"d\xff")
    shutil.copytree(photos, folder)
    (folder / os.fsdecode(b"\xfe.png")).write_bytes(b"bad")
    path = train(tiny_recipe("srresnet", "pixel.steps=2"), [folder], tmp_path / "run")
    assert r"\xfe.png" in (tmp_path / "run" / "left_out.txt").read_text()
    assert load_checkpoint(path)[1].training.data.startswith(r"d\xff: ")
    if importlib.util.find_spec("matplotlib"):
        assert r"\xfe.png" in (tmp_path / "run" / "report.md").read_text()


def test_an_incomplete_line_of_the_log_is_ignored(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}]


@pytest.mark.parametrize(
    ("more", "exit_code", "said"),
    [
        (["--recipe", "esrgan"], 2, "no recipe 'esrgan'"),
        (["--set", "pixel.step=3"], 2, "did you mean 'steps'"),
        (["--device", "cuda:7"], 2, "no CUDA device"),
        (["--init", "srgan-x3"], 2, "no model 'srgan-x3'"),
        (["--degradation", "jpeg"], 2, "possible: 'bicubic', 'real'"),
        (["--vgg-weights", "nowhere.pth"], 6, "nowhere.pth: No such file"),
    ],
)
def test_the_command_line_refuses_with_one_line(photos, tmp_path, more, exit_code, said):
    given = ["--data", str(photos), "-o", str(tmp_path), *more]
    result = CliRunner().invoke(app, ["train", *given])
    assert isinstance(result.exception, SrganEdgeError), result.output
    assert result.exception.exit_code == exit_code
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_command_line_trains(photos, benchmark, tmp_path):
    settings = [f"--set={change}" for change in [*TINY, "pixel.steps=4", "data.crop_px=32"]]
    given = ["--recipe", "srresnet", "--data", str(photos), "-o", str(tmp_path), *settings]
    options = ["--degradation", "real", "--precision", "fp32", "--val", str(benchmark)]
    result = CliRunner().invoke(app, ["train", *given, *options])
    assert result.exit_code == 0, result.output
    assert f"wrote {tmp_path / 'srresnet-x4.safetensors'}" in result.output
    assert "`'real'`" in (tmp_path / "report.md").read_text()


def test_a_finished_run_keeps_what_was_measured_and_written_since(photos, benchmark, tmp_path):
    recipe, said = tiny_recipe("srresnet", "pixel.steps=2"), []
    path, report = train(recipe, [photos], tmp_path, validation=benchmark), tmp_path / "report.md"
    network, spec = load_checkpoint(path)
    measured = dataclasses.replace(spec, halo_px=3)
    save_checkpoint(path, network, measured)  # as `verify-tiles --write`
    report.write_text("with my notes")
    whole = path.read_bytes()
    train(recipe, [photos], tmp_path, say=said.append)
    assert path.read_bytes() == whole and report.read_text() == "with my notes"
    assert f"kept {report}; remove it to have it written again" in said
    save_checkpoint(path, network, dataclasses.replace(measured, training=None))
    report.unlink()
    train(recipe, [photos], tmp_path, validation=benchmark)
    _, again = load_checkpoint(path)
    assert again.halo_px == 3 and again.training.scores == spec.training.scores
    assert "srresnet" in report.read_text()
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    save_checkpoint(path, network, measured)  # the halo of other weights
    train(recipe, [photos], tmp_path)
    assert load_checkpoint(path)[1].halo_px is None


# The report


def test_the_report_shows_curves_scores_and_images(photos, benchmark, vgg_file, tmp_path):
    path = train(
        tiny_recipe("srgan"), [photos], tmp_path, validation=benchmark, vgg_weights=vgg_file
    )
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# srgan-x4\n")
    assert "| system | psnr_y | ssim_y | perceptual |" in text
    rows = {
        cells[0]: cells[1:]
        for cells in (line.strip("| ").split(" | ") for line in text.split("\n"))
    }
    score = load_checkpoint(path)[1].training.scores["bench"]
    assert float(rows["srgan-x4"][0]) == pytest.approx(score, abs=1e-3)
    assert float(rows["bicubic"][0]) > 20
    assert "broken.jpg" in text
    assert "| `adversarial.discriminator` | `'paper'` |" in text
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size[0] > 1000
        assert np.asarray(curves.convert("L")).std() > 5
    with Image.open(tmp_path / "samples.png") as samples:
        assert samples.size == (4 * 32, 4 * 32)
