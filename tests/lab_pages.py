"""A lab that is served by its command, and Chromium on it: what leaves this machine is stopped, and noted."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import extras
import pytest

UNCHECKED = Path(__file__).with_name("lab_unchecked.py")
PATIENCE = 30_000  # milliseconds
SETTLED = 400  # milliseconds in which lists are filled again when a tab opens
OWN = re.compile(r"http://127\.0\.0\.1:|data:|blob:|about:")
CONTROLS = """() => {
  const own = [...document.querySelectorAll('button, input, textarea, select, a[href]')];
  return own.filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0 && !e.closest('[aria-hidden=true]'));
}"""
"""JavaScript: the controls that a visitor sees."""


@contextlib.contextmanager
def served(folder: Path, *words: str, script: Path | None = None) -> Iterator[str]:
    """The address of a lab in a process of its own, with these words behind `mechsteer lab`, or by a script of one's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = ["-m", "mechsteer", "lab"] if script is None else [str(script)]
    command = [sys.executable, *started, f"port={port}", f"folder={folder}", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if f"http://127.0.0.1:{port}" in line:
                break
        assert process.poll() is None, told
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=60)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=extras.CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser: Any, address: str, *, width: int = 1280, height: int = 900) -> Any:
    """A page of a visitor's own; `page.outside` are the addresses beyond this machine that it asked for, in vain."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.outside = []

    def guard(route: Any) -> None:
        if OWN.match(route.request.url):
            route.continue_()
        else:
            page.outside.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    page.goto(address)
    page.get_by_role("tab").first.wait_for(timeout=4 * PATIENCE)
    page.wait_for_timeout(SETTLED)
    return page


def open_tab(page: Any, name: str) -> None:
    """Open a tab, on a narrow page by the menu of those that have no room."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if tab.count():
        tab.click()
    else:
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True).click()
    page.wait_for_function(
        "name => document.querySelector('[role=tab][aria-selected=true]').innerText.trim() === name", arg=name
    )
    page.wait_for_timeout(SETTLED)


def fill(page: Any, **fields: str) -> None:
    """Fill in numbers and texts of the open tab by their labels (blanks as underscores); sliders by their number."""
    for label, value in fields.items():
        label = label.replace("_", " ")
        number = page.get_by_label(f"number input for {label}", exact=True).filter(visible=True)
        field = number if number.count() else page.get_by_label(label, exact=True).filter(visible=True)
        field.first.fill(value)
        field.first.blur()


def choose(page: Any, label: str, option: str) -> None:
    """Choose in a list of the open tab; behind the name may stand that the model does not know it."""
    page.get_by_role("combobox", name=label, exact=True).filter(visible=True).click()
    page.get_by_role("option", name=re.compile(rf"^{option}( \(|$)")).filter(visible=True).click()


def press(page: Any, name: str, frame: str) -> Any:
    """Press a button, and wait for a new frame below the element `frame`; returns the frame's content."""
    page.evaluate("id => document.querySelector(id + ' iframe')?.setAttribute('data-old', '')", frame)
    page.get_by_role("button", name=name, exact=True).filter(visible=True).click()
    page.wait_for_selector(f"{frame} iframe:not([data-old])")
    return page.frame_locator(f"{frame} iframe")


def written(page: Any) -> tuple[str, str]:
    """Both texts of the playground as they stand."""
    base, steered = (page.locator(f"#{side} textarea").input_value() for side in ("base", "steered"))
    return base, steered


def write(page: Any, **fields: str) -> tuple[str, str]:
    """Both texts after Write, with these fields filled in."""
    open_tab(page, "Playground")
    fill(page, **fields)
    press(page, "Write", "#differences")
    return written(page)
