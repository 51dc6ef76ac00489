"""The page of `serve` in a real browser, with a real service behind it.

It needs Chromium, by Debian's name or in CHROMIUM; the check of its accessibility needs axe-core,
which `make browser` installs.
"""

import time

import clips
import numpy as np
import pytest
from PIL import Image
from serving import served

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 120
"""A busy machine takes a minute to open a model in a new process."""
MARKUP = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "data"


@pytest.fixture(scope="module")
def service(data):
    with served(data, "-n", "edge-x4", "--max-mb", "2") as service:
        yield service


@pytest.fixture
def show(browser):
    """Open the page of a service; every unexpected message of the browser is a failure."""
    messages, contexts = [], []

    def show(service, expected=(), width=1000, height=760, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()

        def keep(text):
            if not any(part in text for part in expected):
                messages.append(text)

        page.on("console", lambda message: keep(message.text))
        page.on("pageerror", lambda error: keep(str(error)))
        page.on("request", lambda request: _refuse_elsewhere(service, request.url, keep))
        page.goto(service.url)
        return page

    def _refuse_elsewhere(service, url, keep):
        if not url.startswith((service.url, "blob:")):
            keep(f"asked for {url}")

    yield show
    for context in contexts:
        context.close()
    assert messages == []


@pytest.fixture
def photo(tmp_path):
    def photo(name="a photo.png", size=(48, 32)):
        path = tmp_path / name
        shade = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3)
        Image.fromarray(shade.astype(np.uint8)).save(path)
        return path

    return photo


def line_of(page, name):
    return page.locator(".job", has=page.locator(".name", has_text=name))


def wait_for_state(page, name, state):
    line = line_of(page, name)
    line.locator(f'xpath=self::*[@data-state="{state}"]').first.wait_for()
    return line


def wait_for(page, expression):
    """Wait until JavaScript is true; the page's own policy forbids to evaluate it in there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def choose(page, *files):
    page.locator("#drop").wait_for()  # not before the page knows the service and has a session
    page.locator("#files").set_input_files([str(file) for file in files])


def test_a_file_goes_in_and_its_result_is_compared_and_downloaded(service, show, photo, tmp_path):
    page = show(service)
    choose(page, photo())
    line = wait_for_state(page, "a photo.png", "done")
    assert "192x128" in line.locator(".facts").text_content()
    with page.expect_download() as started:
        line.locator(".download").click()
    assert started.value.suggested_filename == "a photo_upscaled.png"
    started.value.save_as(tmp_path / "got.png")
    with Image.open(tmp_path / "got.png") as got:
        assert got.size == (192, 128)
    line.locator(".compare").click()
    frame = page.frame_locator("#compared")
    frame.locator("#divider").wait_for()
    assert frame.locator("#right input:checked + span").text_content() == "result"
    page.locator("#viewer-wait").wait_for(state="hidden")
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    line.locator(".cancel").click()
    line.wait_for(state="detached")


def test_a_dropped_video_shows_its_progress_and_is_cancelled(service, show, tmp_path):
    video = clips.make(tmp_path / "long.mp4", frames=1500, size=(96, 72))
    page = show(service)
    transfer = page.evaluate_handle(
        """async (bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "long.mp4"));
            return transfer;
        }""",
        list(video.read_bytes()),
    )
    page.locator("#drop").wait_for()
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": transfer})
    assert "dragging" in (page.locator("body").get_attribute("class") or "")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    line = wait_for_state(page, "long.mp4", "running")
    wait_for(page, "document.querySelector('.job progress').value > 0")
    assert "upscaling, " in line.locator(".state").text_content()
    line.locator(".cancel").click()
    wait_for_state(page, "long.mp4", "cancelled")
    line.locator(".cancel").click()
    line.wait_for(state="detached")


def test_refusals_and_names_are_text(service, show, photo, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    page = show(service, expected=["415", "413"])
    choose(page, tmp_path / "notes.txt")
    message = page.locator("#messages p span", has_text="not an image or video")
    assert message.text_content().count("notes.txt") == 1
    (tmp_path / "huge.png").write_bytes(bytes(3 << 20))
    choose(page, tmp_path / "huge.png")
    page.locator("#messages p", has_text="2097152 bytes").wait_for()
    choose(page, photo(MARKUP))
    line = wait_for_state(page, "onerror", "done")
    assert line.locator(".name").text_content() == MARKUP
    line.locator(".compare").click()
    assert page.locator("#viewer-title").text_content() == MARKUP
    page.frame_locator("#compared").locator("#divider").wait_for()
    assert page.frame_locator("#compared").locator("h1").text_content() == MARKUP
    page.locator("#close").click()
    line.locator(".cancel").click()
    line.wait_for(state="detached")


def test_the_event_stream_survives_a_restart_of_the_service(show, photo, tmp_path):
    with served(tmp_path / "data", "-n", "edge-x4") as service:
        page = show(service, expected=["ERR_", "Failed to load"])
        choose(page, photo("before.png"))
        wait_for_state(page, "before.png", "done")
        port = service.port
    page.locator("#connection", has_text="not connected").wait_for()
    with served(tmp_path / "data", "-n", "edge-x4", "--port", port) as service:
        job = service.client().submit(photo("after.png"))
        wait_for_state(page, "after.png", "done")
        assert page.locator("#connection").text_content() == ""
        service.client().cancel(job.id)
        line_of(page, "after.png").wait_for(state="detached")
        assert line_of(page, "before.png").count() == 1


def test_with_a_token_one_signs_in_and_out(show, cli, photo, tmp_path):
    data = tmp_path / "data"
    token = cli("serve", "--data", data, "--new-token", "me")[1].strip()
    with served(data, "-n", "edge-x4") as service:
        page = show(service, expected=["401"])
        page.locator("#token").fill("wrong")
        page.keyboard.press("Enter")
        page.locator("#sign-in-error", has_text="not known").wait_for()
        page.locator("#token").fill(token)
        page.keyboard.press("Enter")
        choose(page, photo())
        line = wait_for_state(page, "a photo.png", "done")
        line.locator(".compare").click()
        page.frame_locator("#compared").locator("#divider").wait_for()
        page.locator("#close").click()
        page.locator("#sign-out").click()
        page.locator("#token").wait_for()
        assert not page.context.cookies() and page.locator(".job").count() == 0


def test_phones_dark_colors_and_keys(service, show, photo):
    phone = {"has_touch": True, "is_mobile": True}
    page = show(service, width=390, height=800, color_scheme="dark", **phone)
    page.locator("#drop strong", has_text="Choose images or videos").wait_for()
    assert page.locator("#drop strong").inner_text() == "Choose images or videos"
    choose(page, photo("a-name-that-is-longer-than-any-phone-is-wide-" * 3 + ".png"))
    line = wait_for_state(page, "a-name", "done")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 18, 22)"
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
    line.locator(".compare").focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer").bounding_box()["width"] == 390
    page.frame_locator("#compared").locator("#divider").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "compare"
    line.locator(".cancel").focus()
    page.keyboard.press("Enter")
    line.wait_for(state="detached")
    assert page.evaluate("document.activeElement !== document.body")


@pytest.mark.parametrize("colors", ["light", "dark"])
def test_axe_finds_nothing_serious(findings, service, show, photo, colors):
    page = show(service, color_scheme=colors, bypass_csp=True)
    choose(page, photo())
    line = wait_for_state(page, "a photo.png", "done")
    assert findings(page) == []
    line.locator(".compare").click()
    page.frame_locator("#compared").locator("#divider").wait_for()
    time.sleep(0.2)
    assert findings(page) == []
    page.keyboard.press("Escape")
    line.locator(".cancel").click()
