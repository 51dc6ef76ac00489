"""Chromium, by Debian's name or in CHROMIUM; tests that need it are skipped without it."""

import os
import shutil
from pathlib import Path

import pytest

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def findings():
    """Return a function that lists what axe-core finds wrong with a page, except minor things."""
    if not AXE.exists():
        pytest.skip("needs axe-core: make browser")

    def findings(page):
        page.add_script_tag(path=AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [
            (it["id"], node["html"])
            for it in found
            if it["impact"] != "minor"
            for node in it["nodes"]
        ]

    return findings
