"""The page of `compare` in Firefox: it shows the frame that was stepped to, and its divider moves.

It needs Firefox, by Debian's name or in FIREFOX, and is skipped without one.
"""

import io
import time

import clips
import firefox
import numpy as np
import pytest
from PIL import Image

from srgan_edge.compare.clips import Excerpt, compare_videos
from srgan_edge.compare.layers import Comparison, image_layer
from srgan_edge.compare.page import write_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(firefox.FIREFOX is None, reason="needs Firefox"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with firefox.opened(tmp_path_factory.mktemp("firefox")) as opened:
        yield opened


@pytest.fixture
def show(browser, tmp_path):
    def show(comparison):
        write_page(tmp_path / "page.html", comparison, "test")
        browser.goto(tmp_path / "page.html")
        return browser

    return show


def middle_of(page):
    box = page.evaluate("document.getElementById('view').getBoundingClientRect().toJSON()")
    return box["left"] + box["width"] / 2, box["top"] + box["height"] / 2


def level_at(page, x, y):
    """The gray level of the page at a place."""
    with Image.open(io.BytesIO(page.screenshot())) as shown:
        return shown.convert("RGB").getpixel((round(x), round(y)))[0]


def test_the_divider_is_dragged(show):
    layers = [
        image_layer(n, np.full((64, 96, 3), v, np.uint8), {}) for n, v in [("a", 40), ("b", 200)]
    ]
    page = show(Comparison(96, 64, layers, (0, 1)))
    x, y = middle_of(page)
    assert (level_at(page, x - 60, y), level_at(page, x + 60, y)) == (40, 200)
    page.drag((x, y), (x + 120, y))
    assert level_at(page, x + 60, y) == 40


def test_every_frame_of_a_video_is_stepped_to(show, tmp_path):
    starts = [0, 40, 80, 200, 240, 250, 300, 333, 380, 420]
    files = [clips.gray(tmp_path / f"{scale}.mkv", starts, scale) for scale in (1, 2)]
    page = show(compare_videos(files[0], files[1:], {}, None, Excerpt(0, 10), {}))
    x, y = middle_of(page)

    def shown(number):
        expected = [10 + 12 * number] * 2
        ends = time.monotonic() + 30
        levels = []
        while levels != pytest.approx(expected, abs=4):
            assert time.monotonic() < ends, f"frame {number}: {levels}"
            levels = [level_at(page, x - 60, y), level_at(page, x + 60, y)]
        text = page.evaluate("document.getElementById('time').value")
        assert text.startswith(f"frame {number + 1} of 10")

    shown(0)
    for number in range(1, 10):
        page.press(".")
        shown(number)
    for number in (8, 7):
        page.press(",")
        shown(number)
