"""Bars that follow the reader: escaped, runnable without the bundle, and right when a token is chosen in a browser."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mechsteer.errors import DataError, ShapeError
from mechsteer.report import Report, Section, TokenBars
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import visible
from mechsteer.report.templates import source
from tests.report.browser import BROWSER
from tests.report.test_heatmaps import HOSTILE, Elements
from tests.report.test_report import Parsed, our_scripts

VALUES = np.array([[np.nan, np.nan], [0.25, 0.5], [np.nan, 0.1], [-1.0, 0.128]])
BARS = TokenBars(["Once", " upon", " a", " time"], VALUES, ["doubt", "haste"], "cap", "weight")
_PROBE = """<script>addEventListener('load', () => {
  const field = document.querySelector('.token-bars .tokens'), found = [];
  const note = (name) => found.push([name, document.querySelector('.said').textContent,
    ...Array.from(document.querySelectorAll('.bar'), (b) => [b.querySelector('i').style.width,
      b.querySelector('i').className, b.querySelector('.value').textContent]),
    Array.from(document.querySelectorAll('.chosen'), (t) => t.textContent)]);
  const key = (name) => { field.dispatchEvent(new KeyboardEvent('keydown', {key: name})); note(name); };
  const over = (i) => { field.children[i].dispatchEvent(new MouseEvent('mouseenter')); note('over ' + i); };
  note('start'); over(1); over(0); field.dispatchEvent(new MouseEvent('mouseleave')); note('leave');
  key('ArrowRight'); key('ArrowRight'); key('ArrowRight'); over(1); field.dispatchEvent(new MouseEvent('mouseleave'));
  note('back'); key('x'); key('ArrowLeft'); key('Escape'); field.children[3].click(); note('click');
  document.body.innerHTML = '<pre id="found"></pre>';
  document.getElementById('found').textContent = JSON.stringify(found);
})</script></body>"""
MEAN = ["Mean over 2 tokens", ["37.5%", "negative", "−0.375"], ["31.4%", "", "0.314"], []]  # of the tokens with values
SECOND = ["Token 2: upon", ["25%", "", "0.250"], ["50%", "", "0.500"], [" upon"]]
LAST = ["Token 4: time", ["100%", "negative", "−1.000"], ["12.8%", "", "0.128"], [" time"]]


def dumped(page: str, folder: Path) -> str:
    """The page's elements after its scripts have run, with no network."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    switches = "headless no-sandbox disable-gpu no-first-run disable-background-networking virtual-time-budget=3000"
    command = [str(BROWSER), *(f"--{s}" for s in switches.split()), "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout


def page_of(bars: TokenBars) -> str:
    return Report("t", sections=[Section("s", [bars])]).to_html()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, as scripts/screenshot.py does")
def test_pointing_keys_and_clicks_choose_a_token(tmp_path):
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(BARS))  # for the script that asks
    found = re.search(r'<pre id="found">(.*?)</pre>', dumped(page.replace("</body>", _PROBE), tmp_path), re.DOTALL)
    assert found is not None
    assert json.loads(html.unescape(found[1])) == [
        ["start", *MEAN],
        ["over 1", *SECOND],
        ["over 0", *SECOND],  # it has no values
        ["leave", *MEAN],
        ["ArrowRight", *SECOND],
        ["ArrowRight", *LAST],  # over the one without
        ["ArrowRight", *LAST],
        ["over 1", *SECOND],
        ["back", *LAST],
        ["x", *LAST],
        ["ArrowLeft", *SECOND],
        ["Escape", *MEAN],
        ["click", *LAST],
    ]


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, as scripts/screenshot.py does")
def test_the_policy_of_the_page_lets_it_run(tmp_path):
    """The script makes the tokens reachable by keys."""
    page = page_of(BARS)
    assert "Content-Security-Policy" in page
    assert 'tabindex="0"' not in re.findall(r'<div class="tokens"[^>]*>', page)[0]
    assert 'tabindex="0"' in re.findall(r'<div class="tokens"[^>]*>', dumped(page, tmp_path))[0]
    other = page.replace('mechsteerTokenBars("token-bars"', 'mechsteerTokenBars( "token-bars"')
    assert 'tabindex="0"' not in re.findall(r'<div class="tokens"[^>]*>', dumped(other, tmp_path))[0]


def test_hostile_tokens_and_names_are_shown_and_are_never_markup():
    names = [f"atom {text}" for text in HOSTILE]
    values = np.arange(len(HOSTILE) ** 2, dtype=float).reshape(len(HOSTILE), -1)
    bars = TokenBars(HOSTILE, values, names, "<b>caption</b>", "<i>")
    fragment = Elements(bars.html(Page()))
    assert {tag for tag, _ in fragment.tags} == {"figure", "div", "span", "p", "i", "figcaption"}
    assert len([tag for tag, _ in fragment.tags if tag == "i"]) == len(names)
    assert "<b>caption</b>" in fragment.text
    for name in names:
        assert visible(name) in fragment.text
    page = Parsed(page_of(bars))
    (script,) = our_scripts(page)  # the bundle is not there
    assert script.isascii()
    assert "alert" not in script
    assert not re.search(r"(?<!\\)<", bars.markdown())


def test_the_script_can_stand_in_a_page_once():
    script = str(source("token_bars.js"))
    assert not re.search(r"</|<!--|innerHTML|insertAdjacent|document\.write|eval|https?:", script)
    page = Report("t", sections=[Section("s", [BARS, BARS])]).to_html()
    assert page.count("function mechsteerTokenBars") == 1
    assert page.count('mechsteerTokenBars("token-bars') == 2


def test_without_values_there_is_no_mean():
    fragment = Elements(TokenBars(["a"], [[np.nan]], ["x"], "c").html(Page()))
    assert "undefined" in fragment.text
    assert "Mean over 0 tokens" in fragment.text


def test_markdown_names_the_strongest_tokens():
    text = BARS.markdown()
    assert "| doubt | −0.375 | ' time' −1.000, ' upon' 0.250 |" in text


def test_wrong_input():
    with pytest.raises(ShapeError, match=r"1 tokens and 2 names got values of shape \(1, 1\)"):
        TokenBars(["a"], [[1.0]], ["x", "y"], "c")
    with pytest.raises(DataError, match="infinite"):
        TokenBars(["a"], [[np.inf]], ["x"], "c")
