"""A disk that is full, fails or is gone: the work waits for it, and nobody is told otherwise."""

import asyncio
import errno
import io
import json
import resource
import shutil
from contextlib import closing
from pathlib import Path

import clips
import numpy as np
import pytest
from PIL import Image
from serving import served

from srgan_edge.errors import OutputFailed, ResourcesExhausted
from srgan_edge.files import output_failed
from srgan_edge.serve.app import app_of
from srgan_edge.serve.log import Log
from srgan_edge.serve.service import Service
from srgan_edge.serve.settings import Settings
from srgan_edge.serve.store import JobStore, NewJob, new_id
from srgan_edge.serve.work import in_clients_words


def photo(path):
    Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(path)
    return path


def image_job():
    return NewJob(
        *(new_id(), "me", "image", "a.png", "source.png", "result.png", "edge-x4", None, 0, 1)
    )


def test_work_goes_on_when_the_disk_can_be_written_again(tmp_path):
    """A limit on its files makes the service fail where a full disk does."""
    data, job = tmp_path / "data", image_job()
    with served(data, "-n", "edge-x4") as service, service.client() as client:
        video = client.submit(clips.make(tmp_path / "a.mp4", frames=900))
        service.wait_for(lambda: client.job(video.id).frames)
        pid = service.process.pid
        none, most = 0, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (none, most))
        with closing(JobStore(data)) as other:  # a process that may still write
            other.folder_of(job.id).mkdir()
            photo(other.folder_of(job.id) / job.source)
            other.add(job)
        service.wait_for(lambda: len(service.events("disk")) == 2)  # of images, and of videos
        status, _, body = service.request("GET", "/readyz")
        assert status == 503 and json.loads(body)["type"].endswith("not-ready"), body
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
        assert client.wait(video.id).state == client.wait(job.id).state == "done"
        assert service.request("GET", "/readyz")[0] == 200
        client.upscale(photo(tmp_path / "b.png"), tmp_path / "c.png")
    assert not [line for line in service.log if "Traceback" in str(line)]


def test_a_start_on_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def fail(store):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(JobStore, "recover", fail)
    with pytest.raises(OutputFailed, match="full; name another folder with --data"):
        Service(Settings(tmp_path / "data"))


@pytest.mark.parametrize("gone", ["incoming", "jobs", "jobs.sqlite3"])
def test_a_service_whose_files_are_gone_says_so(tmp_path, cli, gone):
    with served(tmp_path / "data", "-n", "edge-x4") as service, service.client() as client:
        (tmp_path / "data" / gone).rename(tmp_path / "away")
        status, _, body = service.request("GET", "/readyz")
        assert status == 503 and f"{gone} of the service" in json.loads(body)["detail"]
        with pytest.raises(ResourcesExhausted, match=f"{gone} of the service"):
            client.submit(photo(tmp_path / "a.png"))
        shutil.move(tmp_path / "away", tmp_path / "data" / gone)
        assert client.wait(client.submit(tmp_path / "a.png").id).state == "done"


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (RuntimeError("a bug"), 500, "bug"),
        (OSError(errno.ENOSPC, "full"), 507, "disk-full"),
        (OSError(errno.EIO, "broken"), 503, "not-ready"),
    ],
)
def test_what_the_service_cannot_do_is_no_fault_of_the_request(tmp_path, error, status, name):
    def fail(*arguments):
        raise error

    service = Service(Settings(tmp_path / "data"), Log((tmp_path / "log").open("w")))
    service.store.latest = fail
    status_of, body = asyncio.run(answer_of(service, "/v1/jobs"))
    service.close()
    assert (status_of, json.loads(body)["type"]) == (status, f"urn:srgan-edge:problem:{name}")
    assert "Traceback" in (tmp_path / "log").read_text()


async def answer_of(service, path):
    """Return status and body of a GET, by ASGI."""
    messages = []
    scope = {
        **{"type": "http", "method": "GET", "path": path, "query_string": b""},
        **{"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1)},
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)

    await app_of(service)(scope, receive, send)
    return messages[0]["status"], b"".join(it.get("body", b"") for it in messages[1:])


def test_a_change_that_the_disk_has_no_room_for_leaves_nothing_behind(tmp_path):
    with closing(JobStore(tmp_path)) as store:
        ((pages,),) = store.database.rows("PRAGMA page_count")
        store.database.rows(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="full") as full:
            for _ in range(1000):
                store.add(image_job())
        kept = store.waiting()
        assert full.value.errno == errno.ENOSPC and store.last_change() == kept
        store.database.rows("PRAGMA max_page_count = 1000000")
        store.add(image_job())
        assert store.waiting() == store.last_change() == kept + 1


def test_a_log_that_cannot_be_written_ends_nothing():
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "full")

    Log(Full()).info("started")


def test_clients_get_no_advice_that_they_cannot_type():
    source, target = Path("/data/a/source.png"), Path("/data/a/result.png")
    for file, option in (("report.json", "--report"), ("result.png", "-o")):
        full = output_failed(source.with_name(file), OSError(errno.ENOSPC, "full"), option)
        line = in_clients_words(str(full), source, target, "a.png")
        assert line.endswith(": full; free some space") and "/data" not in line
