"""`srgan-edge compare` as it is typed."""

import clips
import pytest
from PIL import Image

EDGE = "edge-x4"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").convert("RGB").resize((24, 18)).save("a.png")
    Image.open("a.png").resize((96, 72), Image.Resampling.BICUBIC).save("a4.png")
    return tmp_path


def test_a_page_of_results_and_models(cli, here):
    code, out, err = cli("compare", "a.png", "a4.png", "-n", EDGE)
    assert (code, out) == (0, "wrote a_compared.html\n"), err
    page = (here / "a_compared.html").read_text()
    for name in ("bicubic", "a4.png", EDGE):
        assert f'"name": "{name}"' in page
    code, _, err = cli("compare", "a.png", "a4.png")
    assert code == 2 and "a_compared.html exists" in err


def test_an_image_shows_one_result(cli, here):
    assert cli("compare", "a.png", "a4.png", "-o", "both.png")[0] == 0
    with Image.open("both.png") as image:
        assert image.width > 2 * 96
    code, _, err = cli("compare", "a.png", "a4.png", "-n", EDGE, "-o", "more.png")
    assert code == 2 and "type: -o more.html" in err
    (here / "more.html").touch()
    for words, named in [(("-n", EDGE), "-n"), (("a4.png", "a4.png"), "2 results")]:
        code, _, err = cli("compare", "a.png", *words, "-o", "more.png")
        assert code == 2 and f"one result that is a file; for {named}, type: -o more-2.html" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.png",), "a.png alone is no comparison; name its result, or type -n edge-x4"),
        (("a.png", "-o", "b.png"), "a.png alone is no comparison; name its result, or type"),
        (("a.png", "a.mkv"), "a.png is an image and a.mkv a video; possible: images, or videos"),
        (("a.mkv", "-n", EDGE, "--crop", "0,0,8,8"), "--crop is for images"),
        (("a.png", "-n", EDGE, "--start", "1"), "--start and --duration are for videos; a.png is"),
        (("a.png", "a4.png", "--duration", "1", "-o", "b.png"), "are for videos; a.png is"),
        (
            ("a.mkv", "a.mkv", "-o", "b.png"),
            "b.png is an image, and a.mkv a video; type: -o b.html",
        ),
        (("a.png", "a4.png", "--reference", "a4.png", "-o", "a4.png"), "a4.png"),
        (("a.png", "-n", "edge-y4"), "edge-y4"),
        ((".", "a.png"), ".: not an image or video"),
    ],
    ids=str,
)
def test_what_is_no_comparison_is_refused(cli, here, words, message):
    clips.make(here / "a.mkv", frames=2, size=(32, 24))
    code, _, err = cli("compare", *words)
    assert code in (2, 3) and message in err
    assert not list(here.glob("*.html"))


@pytest.mark.children
def test_an_excerpt_of_a_video(cli, here):
    clips.make(here / "a.mkv", frames=6, size=(32, 24))
    code, out, err = cli("compare", "a.mkv", "-n", EDGE, "--start", "0.04", "--duration", "0.1")
    assert (code, out) == (0, "wrote a_compared.html\n"), err
    assert "videos are shown as H.264 at CRF 12, 8 bits, without audio" in err
    assert '"times": [0.0, 0.04' in (here / "a_compared.html").read_text()
