"""The lab as its command serves it, in Chromium: nothing but this machine is asked, and what a visitor does first works."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import extras
import pytest

pytestmark = [extras.needs_lab, extras.needs_browser]
HOSTILE = "<img src=x onerror=window.hit=1><script>window.hit=1</script> [a](javascript:window.hit=1) \u202eabc"
TABS = ("Playground", "Concepts", "Layers explained", "Visualiser", "Experiments")
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("lab")
    command = [sys.executable, "-m", "mechsteer", "lab", f"port={port}", f"folder={folder}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if f"http://127.0.0.1:{port}" in line:
                break
        assert process.poll() is None, told
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def page(address):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=extras.CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        yield page
        browser.close()


def write(page, **fields: str) -> tuple[str, str]:
    """Both texts after Write, with these fields filled in."""
    page.get_by_role("tab", name="Playground").click()
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).first.fill(value)
    page.get_by_role("button", name="Write").click()
    page.wait_for_function("document.querySelector('#differences iframe') === null")
    page.wait_for_selector("#differences iframe")
    return tuple(page.locator(f"#{side} textarea").input_value() for side in ("base", "steered"))


def test_every_tab_opens(page):
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        assert page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true"
    outside = [url for url in page.asked if not re.match(r"http://127\.0\.0\.1:|data:|blob:|about:", url)]
    assert outside == []


def test_texts_are_written_and_hostile_ones_run_nothing(page):
    base, steered = write(page, number_input_for_Strength="0", number_input_for_New_tokens="6")
    assert base == steered != ""
    base, steered = write(page, number_input_for_Strength="3")
    assert base != steered
    write(page, Prompt=HOSTILE)
    assert page.evaluate("window.hit") is None
    frame = page.frame_locator("#differences iframe")
    assert "<img src=x" in frame.locator(".prompt").inner_text()
    assert frame.locator("img, script[src]").count() == 0


def test_a_mistake_is_told_in_the_page_and_nothing_is_lost(page):
    page.get_by_role("tab", name="Concepts").click()
    page.get_by_label("Name", exact=True).fill("pirate")
    page.get_by_label("Words that show it").fill("arr")
    page.get_by_role("button", name="Make the concept").click()
    page.get_by_text("there is a concept 'pirate' already").wait_for()
    assert page.get_by_label("Words that show it").input_value() == "arr"


def test_a_telephones_width_is_usable(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("tab", name="Playground").click()
    time.sleep(0.3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
