"""The documentation builds; its pages load nothing from a network, and every link on them leads somewhere."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from doc_pages import ROOT
from extras import needs_zensical

import mechsteer as ms

_LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}


class _Page(HTMLParser):
    """What a page loads, links to, and offers to links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(given["id"])
        if tag in _LOADS and given.get(_LOADS[tag]) and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given[_LOADS[tag]])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: {path: page}."""
    where = tmp_path_factory.mktemp("docs")
    (where / "mechsteer").symlink_to(ROOT / "mechsteer")
    shutil.copytree(ROOT / "docs", where / "docs")
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md", "scripts/griffe_doctests.py"):
        (where / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, where / name)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=where, env=os.environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = where / "site"
    return folder, {path: _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}


@needs_zensical
def test_there_is_a_page_for_every_source(site):
    folder, pages = site
    sources = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {folder / path for path in sources} <= set(pages)


@needs_zensical
def test_pages_load_nothing_from_a_network(site):
    folder, pages = site
    for path, page in pages.items():
        assert page.loads
        for address in page.loads:
            assert not urlsplit(address).scheme or address.startswith("data:"), f"{path} loads {address}"
            assert not address.startswith("//"), f"{path} loads {address}"
    for sheet in folder.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//[^)]*", sheet.read_text(encoding="utf-8"))
        assert not found, sheet


@needs_zensical
def test_every_link_leads_somewhere(site):
    folder, pages = site
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.relative_to(folder)}: {link}"
            if parts.fragment and target in pages and parts.fragment != "__skip":
                assert unquote(parts.fragment) in pages[target].ids, f"{path.relative_to(folder)}: {link}"


@needs_zensical
def test_search_works_without_a_server_and_the_reference_holds_every_public_function_and_class(site):
    folder, pages = site
    assert "attribute_effect" in (folder / "search.js").read_text(encoding="utf-8")
    offered = {name for page in pages.values() for name in page.ids}
    for room in sorted(set(ms._MODULES.values())):
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()) if hasattr(module, "__path__") else ():
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert {f"{room}.{name}", f"{value.__module__}.{name}"} & offered, f"{room}.{name}"


def test_the_reference_lists_every_public_name():
    text = (ROOT / "docs/reference/index.md").read_text(encoding="utf-8")
    for name in [*ms._NAMES, *ms._MODULES]:
        assert f"`{name}`" in text, name


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {ms.__version__}\n" in text
    assert f"## [{ms.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
