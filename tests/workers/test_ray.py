"""Nodes of a Ray cluster make the bytes of one engine, whichever of them dies."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import clips
import numpy as np
import psutil
import pytest
from PIL import Image
from processes import stopped
from streams import Listener, Watching

from srgan_edge.errors import InputRefused, ResourcesExhausted, UsageError
from srgan_edge.files import content_sha256, sha256_of
from srgan_edge.isolation.images import ImageProcess
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.jobs.reporters import Heard
from srgan_edge.model.library import find_model
from srgan_edge.run import do_job, open_upscaler
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import segments
from srgan_edge.transcode.fanout import MadeSegment, Order, Task, tiles_of
from srgan_edge.transcode.upscale import upscale_video_file
from srgan_edge.video.frame import Encoding
from srgan_edge.workers import on_ray
from srgan_edge.workers.answers import result_of
from srgan_edge.workers.cluster import Cluster
from srgan_edge.workers.crew import crew_beside
from srgan_edge.workers.images import (
    Asked,
    Chunk,
    ImageFanout,
    ImageOrder,
    MadeChunk,
    MadeImage,
)
from srgan_edge.workers.worker import Start

pytest.importorskip("ray", reason="needs the extra [ray]")

OPTIONS = Options(
    "edge-x4", Encoding(preset="ultrafast"), Tiling(), device="cpu", existing="replace"
)
SEGMENT = 5
STORE_BYTES = 80 << 20
MOST_TARGETS = 60
ROOT = Path(__file__).resolve().parents[2]

said = []
"""Lines of the crew for the user."""


@pytest.fixture(scope="module")
def cluster():
    """Yield a cluster of three nodes, each a process of this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_agent_register_timeout_ms", "100000")  # for busy machines
        cluster = Cluster()
        try:
            try:
                node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
                cluster.add_node(**node, include_dashboard=False)
                cluster.add_node(**node)
                cluster.add_node(**node)
            except Exception as error:  # Ray gives its processes 30 s, whatever the machine does
                if "timed out during startup" not in str(error):
                    raise
                pytest.skip("Ray does not start on so busy a machine")
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def crew(alone, cluster):
    options = replace(OPTIONS, ray=cluster.address)
    with crew_beside(alone, options, 1, said.append) as started:
        yield started


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    return clips.make(path, frames=40, size=(32, 24), audio=["eng"], options={"g": "10"})


@pytest.fixture(scope="module")
def whole(source, alone, tmp_path_factory):
    """Return the bytes that one engine makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SEGMENT_FRAMES", SEGMENT)
        return upscaled(source, tmp_path_factory.mktemp("one") / "one.mkv", alone)


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", SEGMENT)


def upscaled(source, target, alone, crew=None, listener=None, options=OPTIONS):
    upscale_video_file(
        *(Job(source, target, "video"), alone.upscaler, options, alone.made_by),
        listener or Listener(),
        crew=None if crew is None else lambda: crew,
    )
    return target.read_bytes()


def targets_until(folder, happened):
    """Yield results until a loss is noticed: others may be done before Ray knows of it."""
    for number in range(MOST_TARGETS):
        yield folder / f"{number}.mkv"
        if happened():
            return
        time.sleep(1)
    raise AssertionError(f"nothing was noticed during {MOST_TARGETS} videos")


class Told(Heard):
    """Remembers outcomes, and calls `react` as soon as workers are asked for images."""

    def __init__(self, react):
        super().__init__()
        self.outcomes, self.react = [], react

    def images_done(self, done, total):
        self.react(done)

    def ended(self, outcome):
        self.outcomes.append(outcome)


def images(folder):
    (folder / "in").mkdir()
    rng = np.random.default_rng(2)
    for number in range(24):
        pixels = rng.integers(0, 256, (10, 20 + number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "in" / f"{number}.png")
    (folder / "in" / "bad.png").write_bytes(b"no image")
    return sorted((folder / "in").iterdir())


def shared(alone, crew, sources, target, react=lambda done: None):
    asked = [Asked(Job(it, target / it.name, "image")) for it in sources]
    heard = Told(react)
    ImageFanout(lambda: crew, asked, alone.upscaler, OPTIONS, heard).run()
    (error,) = [outcome.error for outcome in heard.outcomes if outcome.error]
    assert f"{sources[-1].with_name('bad.png')}: not a PNG" in str(error)
    return heard


def images_of_one(alone, sources, target):
    with ImageProcess() as process:
        for it in sources:
            do_job(Job(it, target / it.name, "image"), alone, process, OPTIONS, Heard())
    return as_files(target)


def as_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("short_segments")
class TestThreeNodes:
    """In this order, since a node is lost at the end."""

    def test_segments_come_through_the_object_store(
        self, tmp_path, source, whole, alone, crew, monkeypatch
    ):
        assert len(crew.present) == 3
        monkeypatch.setattr(crew, "_shares", lambda placed, folder: False)
        heard = Listener()
        assert upscaled(source, tmp_path / "out.mkv", alone, crew, heard) == whole
        # The video may be done before the third one has its first segment.
        assert any(re.match(r"in\.mp4: made by [23] workers: ", note) for note in heard.notes)

    def test_a_full_object_store_costs_no_byte(self, tmp_path, alone, crew, monkeypatch):
        import ray

        monkeypatch.setattr(crew, "_shares", lambda placed, folder: False)
        source = clips.make(tmp_path / "in.mp4", frames=20, size=(160, 120), options={"g": "5"})
        lossless = replace(OPTIONS, encoding=Encoding(crf=1, preset="ultrafast"))
        one = upscaled(source, tmp_path / "one.mkv", alone, options=lossless)
        assert len(one) > 4 * 100_000  # smaller segments do not pass through the store
        held = [ray.put(bytes(STORE_BYTES // 4)) for _ in range(6)]
        assert upscaled(source, tmp_path / "out.mkv", alone, crew, options=lossless) == one
        del held

    def test_an_actor_that_is_lost_costs_no_byte(self, tmp_path, source, whole, alone, crew):
        import ray

        lost = crew._placed[0].actor

        def kill():
            os.kill(ray.get(lost.process.remote()), signal.SIGKILL)

        heard = Watching(SEGMENT, kill)
        for target in targets_until(tmp_path, lambda: crew._placed[0].actor is not lost):
            assert upscaled(source, target, alone, crew, heard) == whole
        assert len(crew.present) == 3

    def test_images_are_made_by_all_and_come_through_the_object_store(
        self, tmp_path, alone, crew, monkeypatch
    ):
        """Half of the workers, as it were on other machines, see neither input nor result."""

        class Elsewhere:
            """An actor whose node has other folders."""

            def __init__(self, actor):
                self._actor, self.make_images = actor, self
                self.got, self.sent = 0, 0

            def __getattr__(self, name):
                return getattr(self._actor, name)

            def remote(self, chunk, contents):
                away = [
                    replace(it, source=f"/nowhere{it.source}", file=f"/nowhere{it.file}")
                    for it in chunk.images
                ]
                self.sent += len(contents)
                return self._actor.make_images.remote(replace(chunk, images=away), contents)

        sources = images(tmp_path)
        far = Elsewhere(crew._placed[1].actor)
        monkeypatch.setattr(crew._placed[1], "actor", far)
        heard = shared(alone, crew, sources, tmp_path / "out")
        assert far.sent > 0
        assert {outcome.worker for outcome in heard.outcomes} > {crew.name(1)}
        assert images_of_one(alone, sources, tmp_path / "one") == as_files(tmp_path / "out")

    def test_an_actor_that_is_lost_costs_no_image(self, tmp_path, alone, crew):
        import ray

        killed = []

        def kill(done):
            if not killed:
                killed.append(ray.get(crew._placed[0].actor.process.remote()))
                os.kill(killed[0], signal.SIGKILL)

        sources = images(tmp_path)
        heard = shared(alone, crew, sources, tmp_path / "out", kill)
        assert any("is made again: its worker on" in note for note in heard.notes)
        assert images_of_one(alone, sources, tmp_path / "one") == as_files(tmp_path / "out")

    def test_a_node_that_is_lost_costs_no_byte(self, tmp_path, source, whole, alone, crew, cluster):
        import ray

        kept = (ray.get_runtime_context().get_node_id(), cluster.head_node.node_id)
        node = next(it for it in cluster.list_all_nodes() if it.node_id not in kept)
        heard = Watching(SEGMENT, lambda: cluster.remove_node(node, allow_graceful=False))
        for target in targets_until(tmp_path, lambda: len(crew.present) == 2):
            assert upscaled(source, target, alone, crew, heard) == whole
        assert any("is lost; the others go on" in line for line in said)


def test_a_node_without_input_model_and_work_folder_does_without(tmp_path):
    source = clips.make(tmp_path / "in.mp4", frames=9, size=(32, 24))
    content = content_sha256(source)
    model = find_model("edge-x4").file(".onnx")
    start = Start("a", replace(OPTIONS, model=f"/nowhere/{model.name}"), 1)
    actor = on_ray._Actor(start, model.read_bytes())
    facts = result_of(actor.facts(), dict, "a")
    assert facts["model"]["sha256"] == sha256_of(model)
    with open_upscaler(OPTIONS, lambda line: None, 1) as opened:
        tiles = tiles_of(opened.upscaler, 32, 24)
    order = Order("/nowhere/in.mp4", content, OPTIONS, SEGMENT, tiles)
    task = Task("", order, 1, "/nowhere/segment.nut", False)
    assert not actor.has(order.source, content)
    assert isinstance(result_of(actor.make(task, shared=False)[0], MadeSegment, "a"), InputRefused)
    actor.take("in.mp4", content, source.read_bytes())
    answer, segment = actor.make(task, shared=False)
    made = result_of(answer, MadeSegment, "a")
    assert (made.number, len(made.pts), made.ended) == (1, 4, True)
    assert made.sha256 == hashlib.sha256(segment).hexdigest()
    away = replace(task, file=str(tmp_path / "work" / "segment.nut"))
    assert not actor.sees(str(tmp_path / "work"))
    assert actor.make(away, shared=True)[1] == segment  # as it was shared a moment ago
    (tmp_path / "work").mkdir()
    answer, content = actor.make(away, shared=True)
    assert (content, (tmp_path / "work" / "segment.nut").read_bytes()) == (b"", segment)
    assert result_of(answer, MadeSegment, "a").sha256 == made.sha256
    actor.tidy()
    assert not actor._folder.exists()


def test_a_node_that_sees_neither_image_nor_result(tmp_path):
    source = tmp_path / "in.png"
    Image.new("RGB", (8, 6), "teal").save(source)
    actor = on_ray._Actor(Start("a", OPTIONS, 1), b"")
    actor.facts()
    orders = [
        ImageOrder(0, "/nowhere/in.png", "/out/in.png", content_sha256(source), "/nowhere/o.png"),
        ImageOrder(1, "/nowhere/bad.png", "/out/bad.png", "other", "/nowhere/p.png"),
    ]
    chunk = Chunk("", OPTIONS, orders)
    answer, results = actor.make_images(chunk, {})
    assert result_of(answer, MadeChunk, "a") == MadeChunk(["", ""])
    assert results == {}
    contents = {0: source.read_bytes(), 1: source.read_bytes()}
    answer, results = actor.make_images(chunk, contents)
    good, bad = (
        result_of(it.encode(), MadeImage, "a") for it in result_of(answer, MadeChunk, "a").answers
    )
    assert good.sha256 == hashlib.sha256(results[0]).hexdigest()
    assert (good.size, isinstance(bad, InputRefused)) == ("32x24", True)
    assert str(bad) == "/nowhere/bad.png was changed, or is another file for a worker"
    actor.tidy()


@pytest.mark.slow
def test_a_stopped_command_leaves_no_process_and_goes_on(tmp_path):
    """Neither while its cluster starts, nor at work; and Ray no token in the home folder.

    Ray prints to stdout what it knows of a worker that is lost; results of programs go there.
    """
    clips.make(tmp_path / "in.mp4", frames=480, size=(32, 24), options={"g": "10"})
    (tmp_path / "one").mkdir()

    def begun(target, *options):
        command = [sys.executable, "-m", "srgan_edge", "upscale", str(tmp_path / "in.mp4")]
        command += ["-n", "edge-x4", "--device", "cpu", "-o", str(tmp_path / target), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        home = os.environ | {"HOME": str(tmp_path / "home")}
        return subprocess.Popen(command, **pipes, cwd=ROOT, env=home, start_new_session=True)

    def has_cluster(command):
        return any("raylet" in process.name() for process in session_of(command))

    def has_segments(command, number=1):
        return (tmp_path / "out.mkv.partial" / f"segment-00000{number}.nut").exists()

    def wait_until(condition, command):
        while not condition(command):
            assert command.poll() is None, command.communicate()
            time.sleep(0.01)

    for signum, has_begun in ((signal.SIGTERM, has_cluster), (signal.SIGINT, has_segments)):
        command = begun("out.mkv", "--ray", "local")
        wait_until(has_begun, command)
        err = stopped(command, signum)
        assert command.returncode == 128 + signum, err
        _, alive = psutil.wait_procs(session_of(command), timeout=20)
        assert alive == [], err
    again, one = begun("out.mkv", "--ray", "local"), begun("one/out.mkv")
    wait_until(lambda command: has_segments(command, 4), again)
    for process in session_of(again):
        if process.name().startswith("ray::_Actor"):
            process.kill()
    out, err = again.communicate()
    assert (again.returncode, out, one.wait()) == (0, "", 0), err
    assert "resuming after" in err
    assert "its worker on" in err
    assert not (tmp_path / "home" / ".ray").exists()
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "one" / "out.mkv").read_bytes()


def session_of(command):
    """Return the living processes of a command that leads a session, its orphans among them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == command.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("127.0.0.1:1", ResourcesExhausted, r"no Ray cluster at 127\.0\.0\.1:1 .*ray start --head"),
        ("nowhere", UsageError, r"possible: HOST:PORT, auto or local"),
        ("ray://a:1", UsageError, r"on a machine of the cluster"),
    ],
)
def test_no_such_cluster(address, error, said):
    with pytest.raises(error, match=said):
        Cluster(address)


def test_a_cluster_with_a_token(monkeypatch):
    import ray

    def refused(*arguments, **named):
        try:
            raise RuntimeError("RPC error: InvalidAuthToken: Authentication token is missing")
        except RuntimeError as error:
            raise ConnectionError("Failed to connect") from error  # as Ray 2.60 does

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(ResourcesExhausted, match=r"copy ~/\.ray/auth_token .*RAY_AUTH_MODE=token"):
        Cluster("auto")


def test_no_such_cluster_is_an_exit_code(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=1)
    options = ("-n", "edge-x4", "--device", "cpu", "--ray", "127.0.0.1:1")
    code, _, err = cli("upscale", "in.mp4", *options)
    assert code == 7
    assert "begin one with: ray start --head, or type --ray local" in err
