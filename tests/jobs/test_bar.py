"""The bar of a job stays to be seen, and a log without a terminal gets a line a minute."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from srgan_edge.jobs import bar
from srgan_edge.jobs.bar import JobBar, shortened


@pytest.mark.parametrize(
    ("text", "cells", "short"),
    [
        ("short.png", 9, "short.png"),
        ("a-much-longer-name.png", 11, "a-muc…e.png"),
        ("日本語の長い名前.png", 12, "日本語….png"),
        ("日本語", 2, "…"),
        ("abc", 0, "…"),
        ("", 5, ""),
    ],
)
def test_a_name_keeps_its_beginning_and_its_end(text, cells, short):
    assert shortened(text, cells) == short
    assert cell_len(short) <= max(cells, 1)


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("name", ["a.mkv", "long-" * 40 + ".mkv", "日本語" * 60 + ".mkv"])
def test_the_bar_is_there_however_long_the_name(columns, name):
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=columns, legacy_windows=False)
    shown = JobBar(console)
    shown.begin(name, "3 of 400", 10_000, 0, "frames")
    for done in (1, 5_000):
        shown.show(done, 10_000)
    shown.end()
    assert "━" * 4 in written.getvalue().replace("\x1b[0m", "").replace("╸", "━")
    assert "3 of 400" in written.getvalue()


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch):
    written, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    shown = JobBar(Console(file=written, emoji=False))
    shown.begin("a:cat:[b].mkv", "3 of 400", 1200, 100, "frames")
    for done in range(101, 901):
        now[0] += 0.5
        shown.show(done, 1200)
    shown.begin("big.png", "", None, 0, "tiles")
    for done in range(1, 4):
        now[0] += 50
        shown.show(done, 7)
    shown.end()
    *minutes, tiles = written.getvalue().splitlines()
    assert minutes == [
        f"3 of 400, a:cat:[b].mkv: {done}/1200 frames, 2.0 fps, {left} min left"
        for done, left in [(220, 8), (340, 7), (460, 6), (580, 5), (700, 4), (820, 3)]
    ]
    assert tiles == "big.png: 2/7 tiles, 4 min left"


@pytest.mark.parametrize(
    ("columns", "texts"), [(80, set()), (94, {"1.5 to 3.0 each"}), (200, {"1.5 by 1, 3.0 by 2"})]
)
def test_the_speeds_of_workers_have_the_room_that_is_left(columns, texts):
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=columns, legacy_windows=False)
    shown = JobBar(console)
    shown.begin("quite-short.mkv", "", 100, 0, "frames")
    possible = ("1.5 by 1, 3.0 by 2", "1.5 to 3.0 each")
    shown.workers_at(*possible)
    shown.show(50, 100)
    shown.end()
    assert {text for text in possible if text in written.getvalue()} == texts
    assert "quite-short.mkv" in written.getvalue()


def test_a_line_has_the_speeds_of_workers(monkeypatch):
    monkeypatch.setattr(bar, "SECONDS_BETWEEN_LINES", 0)
    written = io.StringIO()
    shown = JobBar(Console(file=written))
    shown.begin("40 images", "", 40, 0, "images")
    shown.workers_at("1.5 by 1, 3.0 by 2", "1.5 to 3.0 each")
    shown.show(10, 40)
    shown.begin("a.mkv", "", 40, 0, "frames")
    shown.show(10, 40)
    images, frames = written.getvalue().splitlines()
    assert images.startswith("40 images: 10/40 images, ")
    assert images.endswith(" min left, 1.5 by 1, 3.0 by 2")
    assert frames.endswith(" min left")


def test_quiet_means_quiet(monkeypatch):
    monkeypatch.setattr(bar, "SECONDS_BETWEEN_LINES", 0)
    written = io.StringIO()
    shown = JobBar(Console(file=written), quiet=True)
    shown.begin("a.mkv", "", 3, 0, "frames")
    shown.show(1, 3)
    shown.end()
    assert written.getvalue() == ""
