"""Jobs over HTTP, by the typed client: from the upload to bytes that `upscale` would have made."""

import hashlib
import threading

import clips
import numpy as np
import pytest
from PIL import Image
from serving import kill_again_and_again, served

from srgan_edge.client import Client
from srgan_edge.errors import InputDamaged, InputRefused, OutputFailed, UsageError

SIZE = (24, 16)


def photo(path, seed=0, size=SIZE):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    root = folder / "root"
    (root / "inner").mkdir(parents=True)
    photo(root / "inner" / "a.png")
    photo(folder / "outside.png")
    (root / "link.png").symlink_to(folder / "outside.png")
    (root / "folder").symlink_to(folder)
    with served(folder / "data", "-n", "edge-x4", "--root", root) as service:
        yield service


def test_an_image_becomes_the_bytes_of_the_command(service, cli, tmp_path):
    source = photo(tmp_path / "a.png")
    assert cli("upscale", source, "-n", "edge-x4", "-o", "direct.png")[0] == 0
    with service.client() as client:
        job = client.submit(source)
        assert job.state in ("queued", "running") and job.name == "a.png"
        done = client.wait(job.id)
        assert (done.size, done.frames, done.kind) == ("96x64", 1, "image")
        client.download(done, tmp_path / "queued.png")
        client.upscale(source, tmp_path / "waited.png")
    whole = (tmp_path / "direct.png").read_bytes()
    assert (tmp_path / "queued.png").read_bytes() == whole
    assert (tmp_path / "waited.png").read_bytes() == whole
    assert done.sha256 == sha256(tmp_path / "queued.png")


def test_a_video_becomes_the_bytes_of_the_command(service, cli, tmp_path):
    source = clips.make(tmp_path / "a.mp4", frames=6, audio=["eng"])
    assert cli("upscale", source, "-n", "edge-x4", "-o", "direct.mp4")[0] == 0
    seen = []
    with service.client() as client:
        done = client.wait(client.submit(source).id, seen.append)
        assert client.result_name(done) == "a_upscaled.mp4"
        client.download(done, tmp_path / "result.mp4")
    assert (tmp_path / "result.mp4").read_bytes() == (tmp_path / "direct.mp4").read_bytes()
    assert [job.state for job in seen][-1] == "done" and done.frames == 6
    changes = [job.change for job in seen]
    assert changes == sorted(set(changes))


def test_images_do_not_wait_for_videos(service, tmp_path):
    video = clips.make(tmp_path / "a.mp4", frames=80)
    with service.client() as client:
        long = client.submit(video)
        for number in range(3):
            image = client.wait(client.submit(photo(tmp_path / f"{number}.png", number)).id)
            assert image.state == "done"
        assert not client.job(long.id).has_ended
        client.cancel(long.id)
        assert client.job(long.id).state == "cancelled"


def test_a_running_video_is_cancelled_and_the_most_urgent_one_starts(service, tmp_path):
    short = clips.make(tmp_path / "b.mp4", frames=2)
    with service.client() as client:
        long = client.submit(clips.make(tmp_path / "a.mp4", frames=200))
        service.wait_for(lambda: client.job(long.id).frames_expected)
        low, high = client.submit(short, priority=-1), client.submit(short, priority=5)
        assert (client.job(high.id).position, client.job(low.id).position) == (0, 1)
        client.cancel(long.id)
        assert client.wait(high.id).state == "done"
        assert client.job(low.id).state in ("queued", "running")
        assert client.job(long.id).state == "cancelled"
        for job in (long, low, low):  # one that has ended is deleted
            client.cancel(job.id)
        for job in (long, low):
            with pytest.raises(InputRefused, match="got"):
                client.job(job.id)


def test_results_come_in_ranges(service, tmp_path):
    with service.client() as client:
        done = client.wait(client.submit(photo(tmp_path / "a.png")).id)
        client.download(done, tmp_path / "whole.png")
    whole, path = (tmp_path / "whole.png").read_bytes(), f"/v1/jobs/{done.id}/result"
    status, headers, part = service.request("GET", path, headers={"range": "bytes=10-19"})
    assert (status, part) == (206, whole[10:20])
    assert headers["content-range"] == f"bytes 10-19/{len(whole)}"
    status, headers, _ = service.request("GET", path, headers={"range": f"bytes={len(whole)}-"})
    assert status == 416 and headers["content-type"] == "application/problem+json"
    status, headers, body = service.request("HEAD", path)
    assert (status, body, int(headers["content-length"])) == (200, b"", len(whole))


def test_a_file_below_the_root_is_named_instead(service, tmp_path):
    with service.client() as client:
        assert client.wait(client.submit_path("inner/a.png").id).name == "a.png"
        outside = ("../outside.png", "/etc/passwd", "link.png", "folder/outside.png", "inner", ".")
        for path in (*outside, "inner/../inner/a.png", "inner//a.png", "missing.png", "a\0.png"):
            with pytest.raises(UsageError, match="below the folder"):
                client.submit_path(path)


def test_a_cache_that_cannot_be_written_is_not_missed(tmp_path, monkeypatch):
    """In a container with `--read-only`, not even root can write to the home and cache folders."""
    monkeypatch.setenv("HOME", "/proc")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    sources = [photo(tmp_path / "a.png"), clips.make(tmp_path / "b.mp4", frames=2)]
    with served(tmp_path / "data", "-n", "auto") as service, service.client() as client:
        jobs = [client.wait(client.submit(source).id) for source in sources]
        client.upscale(sources[0], tmp_path / "waited.png")
        assert [job.state for job in jobs] == ["done", "done"]
        assert not [line for line in service.log if line.get("level") in ("warning", "error")]


def test_what_is_no_job_is_refused_with_what_is_possible(service, tmp_path):
    with service.client() as client:
        image = photo(tmp_path / "a.png")
        with pytest.raises(UsageError, match=r"model 'none'; possible: auto, edge-int8-x4"):
            client.submit(image, model="none")
        with pytest.raises(UsageError, match=r"model '/etc/passwd'"):
            client.submit(image, model="/etc/passwd")
        with pytest.raises(UsageError, match=r"outscale '17'; possible: above 0, up to 16"):
            client.submit(image, outscale=17)
        with pytest.raises(UsageError, match=r"format 'exe'; possible: bmp"):
            client.submit(image, format="exe")
        with pytest.raises(UsageError, match=r"priority '10'"):
            client.submit(image, priority=10)
        (tmp_path / "a.txt").write_text("text")
        with pytest.raises(InputRefused, match="not an image or video by its name"):
            client.submit(tmp_path / "a.txt")
        (tmp_path / "text.png").write_text("text")
        with pytest.raises(InputRefused, match=r"text\.png"):
            client.upscale(tmp_path / "text.png", tmp_path / "out.png")
        job = client.submit(tmp_path / "text.png")
        with pytest.raises(InputRefused, match=r"text\.png"):
            client.wait(job.id)
        with pytest.raises(InputRefused, match=r"text\.png"):
            client.download(job, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_messages_do_not_name_places_of_the_service(service, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clips.make(tmp_path / "b.mp4", frames=9).read_bytes()[:-900])
    with service.client() as client:
        job = client.submit(tmp_path / "a.mp4")
        with pytest.raises((InputDamaged, InputRefused), match=r"a\.mp4") as failed:
            client.wait(job.id)
    assert "source" not in str(failed.value) and "/" not in str(failed.value)


def test_a_lost_event_stream_goes_on_after_its_last_event(service, tmp_path):
    with service.client() as client:
        done = client.wait(client.submit(photo(tmp_path / "a.png")).id)
    path = f"/v1/jobs/{done.id}/events"
    status, headers, body = service.request("GET", path)
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    assert f"id: {done.change}\n".encode() in body and b'"state": "done"' in body
    earlier = {"last-event-id": str(done.change - 1)}
    assert f"id: {done.change}\n".encode() in service.request("GET", path, headers=earlier)[2]
    latest = {"last-event-id": str(done.change)}
    assert service.request("GET", path, headers=latest)[0] == 204


@pytest.mark.slow
def test_after_kills_every_job_goes_on_to_the_same_bytes(tmp_path):
    """Real SIGKILLs at random moments, of the service and thereby of its process for the video."""
    video = clips.make(tmp_path / "a.mp4", frames=24, audio=["eng"])
    sources = [video, *(photo(tmp_path / f"{number}.png", number) for number in range(3))]
    calm = kill_again_and_again(tmp_path / "calm", sources, 0, seed=0)
    shaken = kill_again_and_again(tmp_path / "data", sources, 2, seed=7)
    assert [job.state for job in shaken] == ["done"] * 4
    assert [job.sha256 for job in shaken] == [job.sha256 for job in calm]
    for job in shaken:
        result = tmp_path / "data" / "jobs" / job.id
        (path,) = result.glob("result.*")
        assert sha256(path) == job.sha256


@pytest.mark.slow
def test_the_client_follows_over_a_restart(tmp_path):
    video = clips.make(tmp_path / "a.mp4", frames=24)
    ended = []
    with served(tmp_path / "data", "-n", "edge-x4") as service:
        port = service.port
        job = service.client().submit(video)
        following = threading.Thread(
            target=lambda: ended.append(Client(f"http://127.0.0.1:{port}").wait(job.id))
        )
        following.start()
        service.wait_for(lambda: service.client().job(job.id).frames_expected)
        service.process.terminate()
        assert service.process.wait(30) == 0
        assert service.events("stopped")[0]["queued"] == 1  # handed back, not lost
    with served(tmp_path / "data", "-n", "edge-x4", "--port", port):
        following.join(120)
    assert ended and ended[0].state == "done" and ended[0].frames == 24


def test_downloads_are_checked_and_replace_nothing(service, tmp_path):
    with service.client() as client:
        done = client.wait(client.submit(photo(tmp_path / "a.png")).id)
        client.download(done, tmp_path / "b.png")
        with pytest.raises(UsageError, match="exists"):
            client.download(done, tmp_path / "b.png")
        wrong = type(done)(**{**vars(done), "sha256": "0" * 64})
        with pytest.raises(OutputFailed, match="damaged"):
            client.download(wrong, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
