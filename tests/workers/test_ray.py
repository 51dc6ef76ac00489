"""Nodes of a Ray cluster make the bytes of one engine, whichever of them dies."""

import hashlib
import os
import signal
from dataclasses import replace

import clips
import pytest
from streams import Listener, Watching

from srgan_edge.errors import InputRefused, ResourcesExhausted, UsageError
from srgan_edge.files import content_sha256, sha256_of
from srgan_edge.jobs.plan import Job, Options
from srgan_edge.model.library import find_model
from srgan_edge.run import open_upscaler
from srgan_edge.tiling import Tiling
from srgan_edge.transcode import segments
from srgan_edge.transcode.fanout import MadeSegment, Order, Task, tiles_of
from srgan_edge.transcode.upscale import upscale_video_file
from srgan_edge.video.frame import Encoding
from srgan_edge.workers import on_ray
from srgan_edge.workers.answers import result_of
from srgan_edge.workers.crew import crew_beside
from srgan_edge.workers.worker import Start

pytest.importorskip("ray", reason="needs the extra [ray]")

OPTIONS = Options(
    "edge-x4", Encoding(preset="ultrafast"), Tiling(), device="cpu", existing="replace"
)
SEGMENT = 5


@pytest.fixture
def cluster(monkeypatch):
    """Yield a cluster of three nodes, each a process of this machine."""
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "100000")  # for busy machines
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        try:
            cluster.add_node(num_cpus=1, include_dashboard=False)
            cluster.add_node(num_cpus=1)
            cluster.add_node(num_cpus=1)
        except Exception as error:  # Ray gives its processes 30 s, whatever the machine does
            if "timed out during startup" not in str(error):
                raise
            pytest.skip("Ray does not start on so busy a machine")
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_an_actor_and_a_node_that_are_lost_cost_no_byte(tmp_path, cluster, monkeypatch):
    """One cluster for all of this, since starting one takes longer than the work."""
    monkeypatch.setattr(segments, "SEGMENT_FRAMES", SEGMENT)
    source = clips.make(tmp_path / "in.mp4", frames=120, size=(32, 24), audio=["eng"])
    with open_upscaler(OPTIONS, lambda line: None, 1) as opened:

        def upscale(target, listener, crew=None):
            upscale_video_file(
                *(Job(source, target, "video"), opened.upscaler, OPTIONS, opened.made_by),
                listener,
                crew=crew,
            )
            return target.read_bytes()

        whole = upscale(tmp_path / "one.mkv", Listener())
        options = replace(OPTIONS, ray=cluster.address)
        with crew_beside(opened, options, 1, lambda line: None) as crew:
            assert len(crew.present) == 3
            import ray

            def kill_actor():
                pid = ray.get(crew._placed[0].actor.process.remote())
                os.kill(pid, signal.SIGKILL)

            heard = Watching(2 * SEGMENT, kill_actor)
            assert upscale(tmp_path / "two.mkv", heard, lambda: crew) == whole
            assert any("is made again" in note for note in heard.notes)
            assert len(crew.present) == 3

            ours = ray.get_runtime_context().get_node_id()
            kept = (ours, cluster.head_node.node_id)
            node = next(it for it in cluster.list_all_nodes() if it.node_id not in kept)
            heard = Watching(2 * SEGMENT, lambda: cluster.remove_node(node, allow_graceful=False))
            assert upscale(tmp_path / "three.mkv", heard, lambda: crew) == whole
            assert len(crew.present) == 2


def test_a_node_without_the_input_and_the_model_gets_them(tmp_path):
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
    assert isinstance(result_of(actor.make(task)[0], MadeSegment, "a"), InputRefused)
    actor.take("in.mp4", content, source.read_bytes())
    answer, segment = actor.make(task)
    made = result_of(answer, MadeSegment, "a")
    assert (made.number, len(made.pts), made.ended) == (1, 4, True)
    assert made.sha256 == hashlib.sha256(segment).hexdigest()
    actor.tidy()
    assert not actor._folder.exists()


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
        on_ray._connected(address)


def test_no_such_cluster_is_an_exit_code(cli, tmp_path):
    clips.make(tmp_path / "in.mp4", frames=1)
    options = ("-n", "edge-x4", "--device", "cpu", "--ray", "127.0.0.1:1")
    code, _, err = cli("upscale", "in.mp4", *options)
    assert code == 7
    assert "begin one with: ray start --head, or type --ray local" in err
