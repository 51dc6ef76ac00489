"""`srgan-edge submit`: the exit codes of `upscale`, from the other end of a connection."""

import av
import clips
import numpy as np
import pytest
from PIL import Image
from serving import served

from srgan_edge.client import Client
from srgan_edge.errors import UsageError


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with served(tmp_path_factory.mktemp("submit") / "data", "-n", "edge-x4") as service:
        yield service


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_file_is_sent_and_its_result_fetched(service, cli, photo, tmp_path):
    address = f"127.0.0.1:{service.port}"
    code, out, err = cli("submit", address, photo, "--wait")
    assert (code, out) == (0, "") and f"wrote {tmp_path / 'a_upscaled.png'}  96x64" in err
    with Image.open(tmp_path / "a_upscaled.png") as result:
        assert result.size == (96, 64)
    code, _, err = cli(
        "submit", address, photo, "--wait", "-o", photo.with_name("b.webp"), "-f", "webp"
    )
    assert code == 0, err
    with Image.open(tmp_path / "b.webp") as result:
        assert result.format == "WEBP"


def test_the_result_is_of_the_type_that_its_name_states(service, cli, photo, tmp_path):
    sent = ("submit", service.url, photo, "--wait")
    assert cli(*sent, "-o", tmp_path / "b.JPG")[0] == 0
    with Image.open(tmp_path / "b.JPG") as result:
        assert result.format == "JPEG"
    code, _, err = cli(*sent, "-o", tmp_path / "b.mkv")
    assert code == 2 and "possible: bmp, gif" in err
    code, _, err = cli(*sent, "-o", tmp_path / "c.png", "-f", "jpg")
    assert code == 2 and "possible: one of them" in err
    jobs = len(service.client().jobs())
    (tmp_path / "a_upscaled.png").write_bytes(b"mine")
    code, _, err = cli(*sent)
    assert code == 2 and "--overwrite" in err and len(service.client().jobs()) == jobs
    assert (tmp_path / "a_upscaled.png").read_bytes() == b"mine"


def test_a_file_whose_name_says_nothing_is_known_by_its_content(service, cli, photo, tmp_path):
    named = photo.rename(tmp_path / "photo 2.0")
    code, _, err = cli("submit", service.url, named, "--wait")
    assert code == 0 and f"wrote {tmp_path / 'photo 2.0_upscaled.png'}" in err, err
    service.client().upscale(named, tmp_path / "waited.png")
    whole = (tmp_path / "waited.png").read_bytes()
    assert whole == (tmp_path / "photo 2.0_upscaled.png").read_bytes()
    clip = clips.make(tmp_path / "clip.mkv", frames=3, size=(32, 24)).rename(tmp_path / "clip")
    assert cli("submit", service.url, clip, "--wait")[0] == 0
    assert (tmp_path / "clip_upscaled.mkv").exists()
    (tmp_path / "notes").write_text("text")
    code, _, err = cli("submit", service.url, tmp_path / "notes", "--wait")
    assert code == 3 and "error: notes: not an image or video by its name or its first" in err, err


def test_what_could_be_decoded_of_a_damaged_video_is_fetched(service, cli, tmp_path):
    source = clips.make(tmp_path / "cut.mkv", frames=40, size=(32, 24))
    source.write_bytes(source.read_bytes()[:-2000])
    code, _, err = cli("submit", service.url, source, "--wait", "-q")
    part = tmp_path / "cut_upscaled.partial.mkv"
    assert code == 4
    assert f"wrote {part}, which is what could be decoded" in err
    assert "error: cut.mkv: damaged" in err and "what could be decoded is in the result" in err
    with av.open(str(part)) as video:
        assert 0 < len(list(video.decode(video=0))) < 40


def test_without_waiting_the_job_is_named(service, cli, photo):
    code, out, _ = cli("submit", service.url, photo, "-s", "2", "--priority", "3")
    assert code == 0
    job = service.client().wait(out.strip())
    assert (job.size, job.priority, job.outscale) == ("48x32", 3, 2.0)


def test_refusals_have_the_exit_codes_of_upscale(service, cli, photo, tmp_path):
    (tmp_path / "bad.png").write_text("text")
    code, _, err = cli("submit", service.url, tmp_path / "bad.png", "--wait")
    assert code == 3 and "bad.png" in err and err.count("\n") <= 2
    assert cli("submit", service.url, tmp_path / "missing.png")[0] == 3
    code, _, err = cli("submit", service.url, photo, "-n", "none")
    assert code == 2 and "possible: auto" in err
    code, _, err = cli("submit", service.url, photo, "-o", "b.png")
    assert code == 2 and "--wait -o b.png" in err
    code, _, err = cli("submit", service.url, photo, "--wait", "-o", photo)
    assert code == 2 and "input" in err
    code, _, err = cli("submit", "127.0.0.1:1", photo)
    assert code == 7 and "is `srgan-edge serve` running?" in err


def test_advice_works_where_it_says(service, cli, tmp_path):
    pages = Image.fromarray(np.full((16, 24, 3), 90, np.uint8))
    (tmp_path / "my scans").mkdir()
    pages.save(tmp_path / "my scans/two.tif", save_all=True, append_images=[pages.resize((9, 9))])
    code, _, err = cli("submit", service.url, tmp_path / "my scans/two.tif", "--wait")
    assert code == 3 and "magick 'two.tif[0]'" in err
    assert err.rstrip().endswith(f"; to type that, first: cd '{tmp_path / 'my scans'}'")


def test_what_is_no_address_is_refused():
    for url in ("ftp://box", "http://", "http://box?token=secret"):
        with pytest.raises(UsageError, match="possible: http://HOST:PORT"):
            Client(url)
