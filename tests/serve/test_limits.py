"""What strangers may not do: guess, flood, dawdle, climb out of folders, or write into headers."""

import json
import resource
import socket
import time
from contextlib import closing
from http.client import HTTPResponse

import numpy as np
import pytest
from PIL import Image
from serving import multipart, served

from srgan_edge.errors import InputRefused, OutputFailed, ResourcesExhausted, UsageError
from srgan_edge.serve import guard, server
from srgan_edge.serve.log import Log
from srgan_edge.serve.service import Service
from srgan_edge.serve.settings import Settings
from srgan_edge.serve.store import JobStore, NewJob, new_id
from srgan_edge.serve.tokens import FAILURES, Tokens

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service, and connections that dawdle from its start on."""
    data = tmp_path_factory.mktemp("limits") / "data"
    options = ("-n", "edge-x4", "--max-mb", "0.25", "--max-pixels", "10000", "--max-jobs", "3")
    with served(data, *options) as service:
        service.data = data
        service.slow = {
            "head": connected(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: "),
            "silent": connected(service, b""),
            "body": connected(
                service,
                b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
                b"Content-Type: multipart/form-data; boundary=xyz\r\n\r\n--xyz\r\n",
            ),
        }
        yield service
        for it in service.slow.values():
            it.close()


def connected(service, data):
    it = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    it.sendall(data)
    return it


def refused(answer, status, name):
    got, headers, body = answer
    assert (got, headers["content-type"]) == (status, PROBLEM), body
    assert body["type"] == f"urn:srgan-edge:problem:{name}" and body["status"] == status
    return body


def test_names_of_files_are_neither_paths_nor_headers(service, photo):
    hostile = [
        "../../../../etc/cron.d/a.png",
        "C:\\windows\\a.png",
        'a"; filename=b.exe.png',
        "<img src=x onerror=alert(1)>.png",
        "\u202egnp.png",
        "a" * 900 + ".png",
    ]
    for name in hostile:
        status, _, job = service.post("/v1/jobs", {}, name.replace('"', "%22"), photo.read_bytes())
        assert status == 202, job
        assert not set(job["name"]) & set("/:\r\n\0\u202e") and len(job["name"]) <= 200
        with service.client() as client:
            done = client.wait(job["id"])
        names = {path.name for path in (service.data / "jobs" / job["id"]).iterdir()}
        assert names == {"source.png", "result.png"}
        status, headers, _ = service.request("GET", f"/v1/jobs/{done.id}/result")
        assert status == 200 and headers["content-disposition"].startswith("attachment; filename")
        assert headers["x-content-type-options"] == "nosniff"
        client.cancel(done.id)
    body = multipart({}, "a.png\r\nX-Evil: 1", photo.read_bytes())
    kind = {"content-type": "multipart/form-data; boundary=xyz"}
    status, headers, answer = service.request("POST", "/v1/jobs", body, kind)
    assert b"X-Evil" not in answer and "x-evil" not in {name.lower() for name in headers}
    assert status == 202 and json.loads(answer)["name"].endswith("a.png")


def test_uploads_that_are_none_are_refused(service, photo):
    content = photo.read_bytes()
    refused(service.post("/v1/jobs", {}, "a.png", b""), 415, "input-refused")
    refused(service.post("/v1/jobs", {}), 422, "invalid")
    refused(service.post("/v1/jobs", {"path": "a.png"}), 403, "outside-root")
    refused(service.post("/v1/jobs", {"evil": "1"}, "a.png", content), 422, "invalid")
    refused(service.post("/v1/jobs", {"model": "x" * 9000}, "a.png", content), 413, "too-large")
    many = {f"f{number}": "" for number in range(40)}
    refused(service.post("/v1/jobs", many, "a.png", content), 413, "too-large")
    refused(service.post("/v1/upscale", {}, "a.mp4", content), 422, "invalid")
    refused(service.post("/v1/jobs", {}, "a.png", bytes(300_000)), 413, "too-large")
    for kind in ("text/plain", "multipart/form-data", "multipart/form-data; boundary=other", ""):
        answer = service.post("/v1/jobs", {}, "a.png", content, {"content-type": kind})
        refused(answer, 400, "not-multipart")
    cut = multipart({}, "a.png", content)[:-9]
    status, headers, body = service.request(
        "POST", "/v1/jobs", cut, {"content-type": "multipart/form-data; boundary=xyz"}
    )
    refused(
        (status, {"content-type": headers["content-type"]}, json.loads(body)), 400, "not-multipart"
    )
    assert not list((service.data / "incoming").iterdir()) or service.slow


def test_the_upload_of_a_client_that_goes_away_is_removed(service):
    incoming = service.data / "incoming"
    before = set(incoming.iterdir())
    leaving = connected(
        service,
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n"
        b"Content-Type: multipart/form-data; boundary=xyz\r\n\r\n--xyz\r\n"
        b'content-disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + bytes(50_000),
    )
    service.wait_for(lambda: set(incoming.iterdir()) - before)
    leaving.close()
    service.wait_for(lambda: not set(incoming.iterdir()) - before)
    assert service.request("GET", "/healthz")[0] == 200


def test_images_over_the_limits_are_refused(service, tmp_path):
    Image.fromarray(np.zeros((101, 100, 3), np.uint8)).save(tmp_path / "large.png")
    with service.client() as client:
        with pytest.raises(InputRefused, match=r"10,?100|pixels"):
            client.upscale(tmp_path / "large.png", tmp_path / "out.png")
        (tmp_path / "big.png").write_bytes(bytes(400_000))
        with pytest.raises(InputRefused, match="up to 262144 bytes"):
            client.submit(tmp_path / "big.png")


def test_pages_of_other_sites_and_other_names_are_refused(service):
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        status, _, body = service.request("GET", "/v1/jobs", headers=headers)
        assert status == 403 and b"other-origin" in body
    status, headers, _ = service.request("GET", "/v1/jobs", headers={"host": "evil.example"})
    assert status == 421
    status, headers, _ = service.request("OPTIONS", "/v1/jobs")
    assert status == 405 and "access-control-allow-origin" not in headers
    own = {"origin": service.url, "host": service.url.removeprefix("http://")}
    assert service.request("GET", "/v1/jobs", headers=own)[0] == 200


def test_paths_lead_nowhere_else(service):
    for path in (
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
        "/assets/..%2fapp.py",
        "/v1/jobs/..%2f..%2fjobs.sqlite3",
        "/v1/jobs/../../etc/passwd",
        "//etc/passwd",
    ):
        status, headers, _ = service.request("GET", path)
        assert status in (404, 422) and headers["content-type"] == PROBLEM, path
    assert service.request("GET", "/assets/page.css")[0] == 200


def test_what_is_no_http_gets_a_problem(service):
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"A" * 40_000,
    ):
        with closing(connected(service, garbage)) as it:
            answer = it.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400") and PROBLEM.encode() in answer


def test_a_client_has_a_limit_of_jobs_and_learns_when_to_try_again(tmp_path, photo):
    with served(tmp_path / "data", "--max-jobs", "2", "--max-queue", "2") as service:
        import clips

        video = clips.make(tmp_path / "a.mp4", frames=100)
        with service.client() as client:
            jobs = [client.submit(video) for _ in range(2)]
            status, headers, body = service.post("/v1/jobs", {}, "a.png", photo.read_bytes())
            assert body["possible"] == "2 of a client"
            refused((status, headers, body), 429, "too-many")
            assert int(headers["retry-after"]) > 0
            with pytest.raises(ResourcesExhausted, match="2 of a client"):
                client.submit(photo)
            client.upscale(photo, tmp_path / "out.png")  # images that are waited for go on
            for job in jobs:
                client.cancel(job.id)
            assert client.wait(client.submit(photo).id).state == "done"


def test_a_full_disk_is_507_and_the_service_goes_on(tmp_path, photo):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))

    with (
        served(tmp_path / "data", "-n", "edge-x4", preexec_fn=limit) as service,
        service.client() as client,
    ):
        refused(service.post("/v1/jobs", {}, "a.png", bytes(4 << 20)), 507, "disk-full")
        assert not list((tmp_path / "data" / "incoming").iterdir())
        assert client.wait(client.submit(photo).id).state == "done"
    with served(tmp_path / "data", "--keep-free-mb", 1 << 40) as service:
        answer = service.post("/v1/jobs", {}, "a.png", photo.read_bytes())
        assert "stay free" in refused(answer, 507, "disk-full")["detail"]
        assert service.request("GET", "/readyz")[0] == 503
        assert service.request("GET", "/healthz")[0] == 200


def test_with_tokens_everybody_needs_one(tmp_path, photo, cli):
    data = tmp_path / "data"
    token = cli("serve", "--data", data, "--new-token", "phone")[1].strip()
    other = cli("serve", "--data", data, "--new-token", "tablet")[1].strip()
    assert token.encode() not in b"".join(path.read_bytes() for path in data.glob("jobs.sqlite3*"))
    with served(data, "-n", "edge-x4") as service:
        refused(service.post("/v1/jobs", {}, "a.png", photo.read_bytes()), 401, "token-required")
        for path in (
            "/v1/jobs",
            "/metrics",
            "/openapi.json",
            "/v1/events",
            f"/v1/jobs?token={token}",
        ):
            assert service.request("GET", path)[0] == 401
        for path in ("/", "/healthz", "/readyz", "/assets/page.css"):
            assert service.request("GET", path)[0] == 200
        with service.client(token) as client:
            job = client.wait(client.submit(photo).id)
        with service.client(other) as client, pytest.raises(InputRefused, match="got"):
            client.job(job.id)
        bearer = {"authorization": f"Bearer {token}"}
        status, headers, _ = service.request("POST", "/v1/session", headers=bearer)
        cookie = headers["set-cookie"]
        assert status == 204 and "HttpOnly" in cookie and "SameSite=strict" in cookie
        session = {"cookie": cookie.partition(";")[0]}
        assert service.request("GET", f"/v1/jobs/{job.id}", headers=session)[0] == 200
        assert service.request("POST", "/v1/session", headers=session)[0] == 401
        assert service.request("DELETE", "/v1/session", headers=session)[0] == 204
        assert service.request("GET", f"/v1/jobs/{job.id}", headers=session)[0] == 401
        for _ in range(FAILURES):
            service.request("GET", "/v1/jobs", headers={"authorization": "Bearer sge_wrong"})
        status, headers, _ = service.request("GET", "/v1/jobs", headers=bearer)
        assert status == 429 and 0 < int(headers["retry-after"]) <= 60
        assert token not in json.dumps(service.log)
    assert cli("serve", "--data", data, "--revoke-token", "phone")[0] == 0
    code, _, err = cli("serve", "--data", data, "--revoke-token", "phone")
    assert code == 2 and "there are: tablet" in err


def test_beyond_this_machine_only_with_a_token(cli, tmp_path):
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(UsageError, match="--new-token NAME"):
            Service(Settings(tmp_path / "data", host=host))
    with closing(JobStore(tmp_path / "data")) as store:
        Tokens(store.database).make("box")
    Service(Settings(tmp_path / "data", host="0.0.0.0")).close()


def test_a_data_folder_has_one_service(service):
    with pytest.raises(OutputFailed, match="another service has"):
        Service(Settings(service.data))


def test_results_are_deleted_by_age_and_size(tmp_path):
    quiet = Log(open("/dev/null", "w"))  # noqa: PTH123, SIM115
    service = Service(Settings(tmp_path / "data", keep_days=1, keep_bytes=100_000), quiet)

    def ended(age_days, size):
        job = NewJob(
            new_id(), "me", "image", "a.png", "source.png", "result.png", "auto", None, 0, 1
        )
        service.store.folder_of(job.id).mkdir()
        (service.store.folder_of(job.id) / "result.png").write_bytes(bytes(size))
        service.store.add(job)
        service.store.end(job.id, "done")
        service.store.database.write(
            "UPDATE jobs SET ended = ? WHERE id = ?", (time.time() - age_days * 86400, job.id)
        )
        return job.id

    old, fresh = ended(2, 10), ended(0.5, 10)
    assert service.keeper.clean() == [old]
    assert not service.store.folder_of(old).exists() and service.store.find(fresh)
    large = ended(0.4, 300_000)
    assert service.keeper.clean() == [fresh, large]
    service.close()


def test_the_log_is_json_and_the_metrics_are_numbers(service, photo):
    with service.client() as client:
        client.wait(client.submit(photo).id)
    service.wait_for(lambda: service.events("ended"))  # a client may know before it is counted
    page = service.request("GET", "/metrics")[2].decode()
    assert 'srgan_edge_jobs{state="done"}' in page and "srgan_edge_request_seconds_bucket" in page
    assert 'srgan_edge_jobs_ended_total{exit_code="0",kind="image"}' in page
    assert all({"time", "level", "event"} <= set(line) for line in service.log)
    assert {"client", "ms", "status", "route"} <= set(service.events("request")[-1])


def test_connections_that_dawdle_are_closed(service):
    """The last test of this file: the connections were opened before the first one."""
    it = service.slow["head"]
    it.settimeout(server.HEAD_SECONDS + 5)
    assert it.recv(100) == b""
    assert service.slow["silent"].recv(100) == b""
    service.slow["body"].settimeout(guard.IDLE_SECONDS + 5)
    answer = HTTPResponse(service.slow["body"])  # whose head and body may come one by one
    answer.begin()
    assert answer.version == 11 and answer.status == 408 and b"too-slow" in answer.read()
