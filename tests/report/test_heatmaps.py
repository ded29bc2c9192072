"""Heatmaps: any token survives the way to circuitsvis and back, and none of them is markup."""

import html
import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from mechsteer.errors import DataError, FileFormatError, ShapeError
from mechsteer.report import heatmaps
from mechsteer.report.blocks import Page, visible
from mechsteer.report.heatmaps import Heatmap, bundle, token_html

HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "</SCRIPT ><img src=x onerror=alert(1)>",
    "<!--",
    "]]>",
    "\"quoted\" 'single'",
    "&lt;",
    "\u200b",
    "\u202eabc",
    "\n",
    "\t",
    "\x00",
    "\ud800",
    "\u2028",
    " leading",
    "漢字",
    "`${x}`",
    "\\u003cscript\\u003e",
]


def call_props(call: str) -> dict:
    head, component, rest = call.split(", ", 2)
    assert head.startswith("CircuitsVis.render(")
    assert component == "CircuitsVis.ColoredTokens"
    return json.loads(rest.removesuffix(");"))


class Elements(HTMLParser):
    """Every element and the text of a fragment."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_tokens_come_back_from_the_payload():
    page = Page()
    Heatmap(HOSTILE, np.arange(len(HOSTILE)), "hostile").html(page)
    (call,) = page.calls
    assert call.isascii()
    assert "</" not in call
    assert "<script" not in call
    for token, sent in zip(HOSTILE, call_props(call)["tokens"], strict=True):
        assert not Elements(sent).tags
        assert html.unescape(sent).replace("↵\n", "↵") == visible(token)


def test_fallback_text_is_escaped():
    fragment = Elements(Heatmap(HOSTILE, np.zeros(len(HOSTILE)), "<b>caption</b>", label="<i>").html(Page()))
    assert [tag for tag, _ in fragment.tags] == ["figure", "div", "figcaption", "span", "i"]
    assert "".join(map(visible, HOSTILE)) in fragment.text
    assert "<b>caption</b>" in fragment.text


def test_token_html():
    assert token_html("") == "⟨empty⟩"
    assert token_html("\n\n") == "↵\n↵\n"
    assert token_html("a\u200b") == "a⟨U+200B⟩"


def test_values_scale_and_nan():
    props = Heatmap(["a", "b", "c"], [0.123456789, float("nan"), -0.5], "c").props()
    assert props["values"] == [0.123457, None, -0.5]
    assert (props["minValue"], props["maxValue"]) == (-0.5, 0.5)
    assert "1 undefined" in Heatmap(["a"], [float("nan")], "c").html(Page())
    assert Heatmap(["a"], [0.0], "c").props()["maxValue"] == 1.0  # circuitsvis divides by it
    assert Heatmap(["a"], [1.0], "c", scale=4).props()["maxValue"] == 4
    assert Heatmap([], [], "c").props()["tokens"] == []


def test_markdown_names_the_strongest_tokens():
    text = Heatmap(["a", "<b>", "c"], [0.1, -3.0, float("nan")], "cap", "act").markdown()
    assert "Strongest (act): '\\<b\\>' −3.00, 'a' 0.100" in text


def test_wrong_input():
    with pytest.raises(ShapeError, match="2 tokens got values of shape \\(3,\\)"):
        Heatmap(["a", "b"], [1, 2, 3], "c")
    with pytest.raises(DataError, match="infinite"):
        Heatmap(["a"], [float("inf")], "c")
    with pytest.raises(DataError, match="scale"):
        Heatmap(["a"], [1], "c", scale=0)


def test_bundle_can_stand_in_a_script_element():
    source = bundle()
    assert "CircuitsVis=" in source
    assert "</script" not in source.lower()
    assert "<!--" not in source
    assert "sourceMappingURL" not in source
    assert "\r" not in source


def test_bundle_is_read_without_importing_circuitsvis():
    before = set(sys.modules)
    assert bundle.__wrapped__() == bundle()
    assert not [name for name in set(sys.modules) - before if name.startswith("circuitsvis")]


def test_missing_bundle(monkeypatch):
    monkeypatch.setattr(heatmaps.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileFormatError, match="bundle"):
        bundle.__wrapped__()
