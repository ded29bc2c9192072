"""Trajectories that grow: every line has its birth and death, tokens are escaped, the slider hides what is not there."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
import torch

from mechsteer.errors import DataError
from mechsteer.report import Report, Section, TrajectoryView, barcode, trajectory_map
from mechsteer.report.blocks import Page
from mechsteer.report.escaping import visible
from mechsteer.report.templates import source
from mechsteer.topology import summarize, trajectory_maps
from tests.report.browser import BROWSER
from tests.report.test_heatmaps import HOSTILE, Elements
from tests.report.test_report import Parsed, our_scripts
from tests.report.test_token_bars import dumped

ANGLES = np.linspace(0, 2 * np.pi, 8, endpoint=False)
RING = torch.from_numpy(np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]))
SIDE = 2 * np.sin(np.pi / 8)
_PROBE = """<script>addEventListener('load', () => {
  const slider = document.querySelector('.trajectory input'), found = [];
  const note = () => found.push([document.querySelector('.count').textContent,
    document.querySelectorAll('.panel svg:not(.bars) .gone').length, document.querySelector('output').textContent]);
  const to = (value) => { slider.value = value; slider.dispatchEvent(new Event('input')); note(); };
  note(); to(0); to(100); to(200);
  document.body.innerHTML = '<pre id="found"></pre>';
  document.getElementById('found').textContent = JSON.stringify(found);
})</script></body>"""


def view(tokens=None, clouds=None):
    clouds = clouds or {"ring": RING}
    return TrajectoryView(trajectory_maps(clouds, tokens), "caption")


def page_of(block):
    return Report("t", sections=[Section("s", [block])]).to_html()


def test_lines_live_from_birth_to_death():
    drawn = view().html(Page())
    tree = re.findall(r'<line class="tree"[^>]*data-birth="([\d.]+)"', drawn.partition('class="bars"')[0])
    loop = re.findall(
        r'<line class="loop0"[^>]*data-birth="([\d.]+)" data-death="([\d.]+)"', drawn.partition('class="bars"')[0]
    )
    assert len(tree) == 7
    assert len(loop) == 8  # all round
    assert [float(t) for t in tree] == pytest.approx([SIDE] * 7, rel=1e-5)
    assert [float(birth) for birth, _ in loop] == pytest.approx([SIDE] * 8, rel=1e-5)
    assert all(float(death) > 1.5 for _, death in loop)
    assert drawn.count("<circle") == 8


def test_tokens_of_a_model_are_shown_and_do_nothing():
    names, texts = [f"trace {text}" for text in HOSTILE[:3]], (HOSTILE * 8)[:8]
    plain = Elements(view(clouds=dict.fromkeys("abc", RING)).html(Page()))
    shown = view(dict.fromkeys(names, texts), dict.fromkeys(names, RING))
    hostile = Elements(shown.html(Page()))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    for text in texts:
        assert visible(text).strip() in hostile.text
    (script,) = our_scripts(Parsed(page_of(shown)))  # the bundle is not there
    assert script.startswith(str(source("trajectory_view.js")).strip()[:20])
    assert not any(text in script for text in HOSTILE if len(text) > 3)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, as scripts/screenshot.py does")
def test_the_slider_hides_what_is_not_there(tmp_path):
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(view()))  # for the script that asks
    done = dumped(page.replace("</body>", _PROBE), tmp_path)
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done, re.DOTALL)[1]))
    whole, nothing, half, again = found
    assert whole[0] == again[0] == "8 points, all joined at 0.765; loops from 0.765 to 1.85"
    assert nothing[:2] == ["8 components, 0 drawn loops", 15]
    assert half[:2] == ["1 component, 1 drawn loop", 0]  # half way: the ring is closed and not yet filled
    assert again[1] == 0


def test_markdown_says_what_is_drawn():
    text = view().markdown()
    assert "8 points, all joined at 0.765; loops from 0.765 to 1.85" in text
    line = view(clouds={"line": torch.arange(4.0)[:, None]}).markdown()
    assert "all joined at 1.00; no loop" in line
    with pytest.raises(DataError, match="no trajectory to show"):
        TrajectoryView([], "c")


def test_pictures_for_files(tmp_path):
    maps = trajectory_maps({"before": RING, "after": RING * 2})
    figure = trajectory_map(maps)
    one, two = figure.canvas.axes
    assert (one.get_xlim(), one.get_title(), two.get_title()) == (two.get_xlim(), "before", "after")
    assert len(one.lines) == 7 + 8  # the tree and the cycle
    assert figure.save(tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    summary = summarize(RING.numpy())
    bars = barcode({"a": summary, "b": summary})
    segments = [len(lines.get_segments()) for lines in bars.canvas.axes[0].collections]
    assert segments == [7, 1]
    assert "7 bars of H0, components, 1 bars of H1, loops" in bars.alt
    assert barcode(summarize(np.zeros((3, 2)))).alt.startswith("Barcode up to 0")
