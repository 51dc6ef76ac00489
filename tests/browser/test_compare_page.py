"""The page of `compare` in a real browser, driven as people drive it.

It needs Chromium, by Debian's name or in CHROMIUM, and is skipped without one.
"""

import io
import time

import clips
import numpy as np
import pytest
from PIL import Image

from srgan_edge import bicubic
from srgan_edge.compare.clips import Excerpt, compare_videos
from srgan_edge.compare.layers import Comparison, image_layer
from srgan_edge.compare.page import write_page

pytestmark = pytest.mark.slow
SIZE = (96, 64)


def flat(value):
    return np.full((SIZE[1], SIZE[0], 3), value, np.uint8)


@pytest.fixture
def show(browser, tmp_path):
    """Open a comparison; every message of the browser's console is a failure."""
    messages, contexts = [], []

    def show(comparison, width=800, height=700, **options):
        write_page(tmp_path / "page.html", comparison, "test")
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: _refuse_network(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        wait_for(page, "[...document.images].every(image => image.complete)")
        return page

    def _refuse_network(url):
        if not url.startswith(("file:", "blob:")):
            messages.append(f"asked for {url}")

    yield show
    for context in contexts:
        context.close()
    assert messages == []


def wait_for(page, expression):
    """Wait until JavaScript is true; the page's own policy forbids to evaluate it in there."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


@pytest.fixture
def images():
    layers = [image_layer(name, flat(v), {}) for name, v in [("a", 40), ("b", 90), ("c", 200)]]
    return Comparison(*SIZE, layers, (0, 2))


def color_at(page, x, y):
    """The gray level of the screen at a place of the view."""
    box = page.locator("#view").bounding_box()
    clip = {"x": box["x"] + x, "y": box["y"] + y, "width": 1, "height": 1}
    with Image.open(io.BytesIO(page.screenshot(clip=clip))) as pixel:
        return pixel.convert("RGB").getpixel((0, 0))[0]


def middle_of(page):
    box = page.locator("#view").bounding_box()
    return box["width"] / 2, box["height"] / 2


def drag(page, start, end):
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + start[0], box["y"] + start[1])
    page.mouse.down()
    page.mouse.move(box["x"] + end[0], box["y"] + end[1], steps=4)
    page.mouse.up()


def test_the_divider_is_dragged_and_moved_by_keys(show, images):
    page = show(images)
    x, y = middle_of(page)
    assert (color_at(page, x - 60, y), color_at(page, x + 60, y)) == (40, 200)
    drag(page, (x, y), (x + 120, y))
    assert color_at(page, x + 60, y) == 40
    page.locator("#divider").focus()
    before = int(page.locator("#divider").get_attribute("aria-valuenow"))
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert int(page.locator("#divider").get_attribute("aria-valuenow")) == before - 3
    page.keyboard.press("Home")
    assert color_at(page, x - 60, y) == 200


def test_layers_are_chosen_and_swapped(show, images):
    page = show(images)
    x, y = middle_of(page)
    page.locator("#right label", has_text="b").click()
    assert color_at(page, x + 60, y) == 90
    page.locator("#swap").click()
    assert (color_at(page, x - 60, y), color_at(page, x + 60, y)) == (90, 40)
    page.keyboard.press("]")
    assert page.locator("#right input:checked").get_attribute("value") == "1"


def test_both_sides_share_zoom_and_place(show):
    ramp = bicubic.resize(
        np.arange(0, 250, 10, dtype=np.uint8).repeat(75).reshape(25, 25, 3), 64, 96
    )
    page = show(Comparison(96, 64, [image_layer(n, ramp, {}) for n in "ab"], (0, 1)))
    for key in "1++++p":
        page.keyboard.press(key)
    drag(page, (100, 200), (60, 150))
    places = page.eval_on_selector_all(".media", "them => them.map(it => it.style.transform)")
    assert places[0] == places[1] and "scale(4)" in places[0]
    assert page.locator("#zoom").text_content() == "400 %"
    assert page.locator(".pane.crisp").count() == 2 and page.locator(".pane.gridded").count() == 0
    for _ in range(4):
        page.keyboard.press("+")
    assert page.locator(".pane.gridded").count() == 2
    page.keyboard.press("0")
    x, _ = middle_of(page)
    fitted = page.eval_on_selector(".media", "it => it.getBoundingClientRect().width")
    assert fitted <= x + 1


def test_the_wheel_enlarges_what_is_under_it(show, images):
    page = show(images)
    box = page.locator("#view").bounding_box()
    page.keyboard.press("1")
    left = page.eval_on_selector(".media", "it => it.getBoundingClientRect().left")
    page.mouse.move(left + 30, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -480)
    after = page.eval_on_selector(".media", "it => it.getBoundingClientRect().left")
    assert page.locator("#zoom").text_content() == "400 %"
    assert abs((left + 30 - after) / 4 - 30) <= 1


class Fingers:
    """Touches the view, at places within it, by the protocol of Chromium's own tools."""

    def __init__(self, page):
        self.session = page.context.new_cdp_session(page)
        box = page.locator("#view").bounding_box()
        self.corner = box["x"], box["y"]

    def _send(self, kind, *places):
        x, y = self.corner
        points = [{"x": x + it[0], "y": y + it[1], "id": n} for n, it in enumerate(places)]
        event = {"type": kind, "touchPoints": points}
        self.session.send("Input.dispatchTouchEvent", event)

    def move(self, *ways):
        """Put a finger down for each way, (from, to), move all in step, and lift them."""
        starts, ends = np.array(ways, float).transpose(1, 0, 2)
        for fingers in range(1, len(ways) + 1):
            self._send("touchStart", *starts[:fingers].tolist())
        for share in np.linspace(0.2, 1, 5):
            self._send("touchMove", *(starts + share * (ends - starts)).tolist())
        self._send("touchEnd")


@pytest.fixture
def touched(show, images):
    page = show(images, width=390, height=800, has_touch=True, is_mobile=True)
    page.locator("#whole").tap()
    return page, Fingers(page)


def place_of(page):
    """Left, top and width of the images on the screen, within the view."""
    place = page.eval_on_selector("#pane-left .media", "it => it.getBoundingClientRect().toJSON()")
    view = page.locator("#view").bounding_box()
    return np.array([place["left"] - view["x"], place["top"] - view["y"], place["width"]])


def test_two_fingers_enlarge_what_is_between_them(touched):
    page, fingers = touched
    before = place_of(page)
    at, near, far = np.array(middle_of(page)) + 8, np.array([20, 0]), np.array([60, 0])
    fingers.move((at - near, at - far), (at + near, at + far))
    after = place_of(page)
    assert after[2] == pytest.approx(3 * before[2], rel=0.02)
    under = [(at - place[:2]) / place[2] for place in (before, after)]
    np.testing.assert_allclose(under[0], under[1], atol=0.02)
    fingers.move((at - far, at - near), (at + far, at + near))
    np.testing.assert_allclose(place_of(page), before, atol=3)


def test_fingers_move_the_images_and_the_divider(touched):
    page, fingers = touched
    before = place_of(page)
    fingers.move(((100, 100), (130, 80)))
    np.testing.assert_allclose(place_of(page) - before, [30, -20, 0], atol=1)
    fingers.move(((100, 100), (80, 130)), ((260, 150), (240, 180)))
    np.testing.assert_allclose(place_of(page) - before, [10, 10, 0], atol=3)
    x, y = middle_of(page)
    fingers.move(((x, y), (x + 90, y)))
    share = int(page.locator("#divider").get_attribute("aria-valuenow"))
    assert share == pytest.approx(100 * (x + 90) / (2 * x), abs=1)
    assert page.evaluate("window.scrollY") == 0


def test_the_difference_is_amplified(show, images):
    page = show(images)
    page.locator("#right label", has_text="b").click()
    page.keyboard.press("d")
    x, y = middle_of(page)
    page.locator("#gain").select_option("1")
    assert color_at(page, x, y) == 50
    page.locator("#gain").select_option("4")
    assert color_at(page, x, y) == 200


def test_phones_and_dark_colors(show, images):
    page = show(images, width=390, height=800, color_scheme="dark", has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 18, 22)"
    page.keyboard.press("p")
    boxes = [page.locator(f"#pane-{side}").bounding_box() for side in ("left", "right")]
    assert boxes[0]["y"] < boxes[1]["y"] and boxes[0]["x"] == boxes[1]["x"]
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"


def test_everything_is_reached_by_keys_and_has_a_name(show, images):
    page = show(images)
    named = page.eval_on_selector_all(
        "button, select, [role=slider], fieldset, section:not([hidden])",
        """them => them.map(it => it.getAttribute("aria-label") || it.textContent.trim())""",
    )
    assert all(named)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()


@pytest.mark.parametrize("colors", ["light", "dark"])
def test_axe_finds_nothing_serious(findings, show, images, tmp_path, colors):
    page = show(images, color_scheme=colors, bypass_csp=True)
    assert findings(page) == []
    page.keyboard.press("?")
    assert findings(page) == []
    files = [clips.gray(tmp_path / f"{scale}.mkv", [0, 40, 80], scale) for scale in (1, 2)]
    video = compare_videos(files[0], files[1:], {}, None, Excerpt(0, 10), {})
    assert findings(show(video, color_scheme=colors, bypass_csp=True)) == []


def test_every_frame_of_a_video_is_stepped_to(show, tmp_path):
    starts = [0, 40, 80, 200, 240, 250, 300, 333, 380, 420, 460, 500, 540, 580, 620, 700]
    files = [clips.gray(tmp_path / f"{scale}.mkv", starts, scale) for scale in (1, 2)]
    page = show(compare_videos(files[0], files[1:], {}, None, Excerpt(0, 10), {}))
    x, y = middle_of(page)

    def shown(number):
        wait_for(
            page,
            "[...document.querySelectorAll('video')].every(it => !it.seeking && it.readyState > 1)",
        )
        page.wait_for_timeout(150)  # the frame is painted after the seek has ended
        assert page.locator("#time").text_content().startswith(f"frame {number + 1} of 16")
        levels = [color_at(page, x - 60, y), color_at(page, x + 60, y)]
        assert levels == pytest.approx([10 + 12 * number] * 2, abs=4), f"frame {number}"

    shown(0)
    for number in range(1, 16):
        page.keyboard.press(".")
        shown(number)
    for number in (14, 13):
        page.keyboard.press(",")
        shown(number)
    page.locator("#frame").fill("5")
    shown(5)


def test_playback_stays_within_the_loop(show, tmp_path):
    starts = list(range(0, 800, 40))
    files = [clips.gray(tmp_path / f"{scale}.mkv", starts, scale) for scale in (1, 2)]
    page = show(compare_videos(files[0], files[1:], {}, None, Excerpt(0, 10), {}))
    page.locator("#frame").fill("4")
    page.keyboard.press("i")
    page.locator("#frame").fill("9")
    page.keyboard.press("o")
    assert "loop 5 to 10" in page.locator("#time").text_content()
    page.keyboard.press(" ")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    seen = set()
    for _ in range(25):
        page.wait_for_timeout(60)
        seen.add(int(page.locator("#time").text_content().split()[1]))
    page.keyboard.press(" ")
    assert seen and min(seen) >= 5 and max(seen) <= 10 and len(seen) > 1
    times = page.eval_on_selector_all("video.shown", "them => them.map(it => it.currentTime)")
    assert times[0] == times[1]
