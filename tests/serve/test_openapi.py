"""Requests made from the service's own description, and hostile files: no refusal is a crash."""

import io
import json
from contextlib import suppress

import hypothesis
import pytest
from hypothesis import strategies as st
from PIL import Image
from serving import served

from srgan_edge.serve.files import notes_header
from srgan_edge.serve.problems import BY_EXIT_CODE, OWN

schemathesis = pytest.importorskip("schemathesis")

checks = pytest.importorskip("schemathesis.specs.openapi.checks")

NEVER_ENDS = "/v1/events"
CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
POSSIBLE_5XX = (503, 507)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    data = tmp_path_factory.mktemp("openapi") / "data"
    with served(data, "-n", "edge-x4", "--max-jobs", "1000", "--max-mb", "8") as service:
        service.data = data
        yield service


@pytest.mark.slow
def test_answers_are_as_described(service):
    """Each operation gets requests of its description, and others that contradict it."""
    document = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [it.ok() for it in document.exclude(path=NEVER_ENDS).get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @hypothesis.settings(
                max_examples=5, suppress_health_check=list(hypothesis.HealthCheck), database=None
            )
            @hypothesis.given(operation.as_strategy(generation_mode=mode))
            def answers(case):
                response = case.call(timeout=60)
                assert response.status_code < 500 or response.status_code in POSSIBLE_5XX
                case.validate_response(response, checks=[getattr(checks, it) for it in CHECKS])

            with suppress(hypothesis.errors.Unsatisfiable):  # nothing about it can be wrong
                answers()


def test_every_route_has_a_summary_and_its_refusals(service):
    document = json.loads(service.request("GET", "/openapi.json")[2])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            refusals = [it for it in operation["responses"] if int(it) >= 400]
            assert {"400", "503"} <= set(refusals)
            for status in refusals:
                assert list(operation["responses"][status]["content"]) == [
                    "application/problem+json"
                ]
    body = document["paths"]["/v1/upscale"]["post"]["requestBody"]["content"]
    assert body["multipart/form-data"]["example"]
    assert document["components"]["schemas"]["JobInfo"]["example"]["state"] == "running"
    described = document["components"]["schemas"]["JobInfo"]["properties"]["priority"]
    assert "higher ones start first" in described["description"]


@hypothesis.settings(
    max_examples=40, suppress_health_check=list(hypothesis.HealthCheck), database=None
)
@hypothesis.given(
    name=st.text(max_size=40).map(lambda it: it + ".png") | st.sampled_from(["a.tif", "b.jp2"]),
    head=st.sampled_from(
        [b"\x89PNG\r\n\x1a\n", b"II*\0", b"\xff\xd8\xff", b"RIFF", b"P6 9 9 255 "]
    ),
    content=st.binary(max_size=200),
    fields=st.dictionaries(st.sampled_from(["model", "outscale", "format"]), st.text(max_size=9)),
)
def test_no_upload_crashes_the_service(service, name, head, content, fields):
    clean = "".join(it for it in name if it not in '"\r\n\0' and not "\ud800" <= it <= "\udfff")
    status, headers, body = service.post("/v1/upscale", fields, clean, head + content)
    assert status < 500 or status in POSSIBLE_5XX, body
    assert status == 200 or headers["content-type"] == "application/problem+json"


def test_what_a_waiting_image_lacks_is_in_a_header(service):
    image = Image.linear_gradient("L").convert("RGB").resize((9, 8))
    for lost, wanted in [
        ({}, None),
        ({"comment": b"hello", "xmp": b"<x/>"}, ["XMP", "text: hello"]),
    ]:
        file = io.BytesIO()
        image.save(file, "JPEG", **lost)
        status, headers, _ = service.post(
            "/v1/upscale", {"model": "edge-x4"}, "n.jpg", file.getvalue()
        )
        assert status == 200
        found = headers.get("x-upscaled-notes")
        assert (found and [it.split("left out: ")[1] for it in json.loads(found)]) == wanted


def test_a_header_of_notes_is_ascii_and_short():
    few, many = ["a\n", "\u00e9\x7f"], [f"{number:0100}" for number in range(100)]
    header = notes_header(few)["x-upscaled-notes"]
    assert header.isascii() and header.isprintable() and json.loads(header) == few
    header = notes_header(many)["x-upscaled-notes"]
    *kept, last = json.loads(header)
    assert 3900 < len(header) <= 4096 and kept == many[: len(kept)]
    assert last == f"{100 - len(kept)} more"
    assert json.loads(notes_header(["x" * 5000])["x-upscaled-notes"]) == ["1 more"]


def cases(folder, suffixes, below_bytes):
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size < below_bytes and path.suffix in suffixes
    ]
    assert files
    return files


@pytest.mark.slow
def test_the_hostile_corpus_through_http(service, shared_cases):
    images = (".png", ".jpg", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif")
    files = cases(shared_cases, images, 200_000)
    for path in files[:60]:
        status, _, body = service.post("/v1/upscale", {}, path.name, path.read_bytes())
        assert status < 500 or status in POSSIBLE_5XX, (path, body)
    assert service.request("GET", "/healthz")[0] == 200


@pytest.mark.slow
def test_hostile_videos_end_as_jobs_with_an_exit_code_of_their_own(service, shared_cases):
    """Some of the corpus: each is an `upscale` process of its own."""
    videos = (".mp4", ".mov", ".mkv", ".avi", ".ts", ".m2ts", ".flv", ".vob", ".wmv")
    files = cases(shared_cases, videos, 300_000)[::6]
    with service.client() as client:
        ids = [client.submit(path).id for path in files]
        jobs = [[*client.follow(job_id)][-1] for job_id in ids]
    for path, job in zip(files, jobs, strict=True):
        assert job.has_ended and job.exit_code != 1, (path, job)
        assert str(service.data) not in f"{job.error} {job.notes}", job
    assert not [line for line in service.log if line["level"] == "error"]


def test_names_of_problems_are_unique():
    assert not set(OWN) & {name for name, _ in BY_EXIT_CODE.values()}
