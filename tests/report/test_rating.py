"""Sheets: side by side for who may know, blind for who rates, and the two come together by the key."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, FileFormatError
from mechsteer.evaluation.sheets import GAMMAS, Sheet, SheetText, sheet
from mechsteer.report.rating import rating_html, read_ratings, sheet_html, write_sheet
from mechsteer.results import from_json, to_json
from mechsteer.tokens import continuation_text
from tests.report.browser import BROWSER, found_by

HOSTILE = '</div><script>alert("x")</script>\n"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def made():
    vector = 4 * toys.vector()
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(1, "resid_post"))
    prompts = [f"prompt {i}" for i in range(4)]
    return sheet(toys.shared("llama"), iv, prompts, max_new_tokens=6, seed=3, title="Feature 7, at five strengths")


class Tags(HTMLParser):
    """The tags of a page and the fields of its form."""

    def __init__(self):
        super().__init__()
        self.tags, self.fields = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "input":
            self.fields.append((dict(attrs)["name"], dict(attrs)["value"]))


def tags(page):
    found = Tags()
    found.feed(page)
    return found


def test_each_text_is_what_is_written_at_its_strength(made):
    assert made.gammas == GAMMAS
    iv = ms.Intervention(ms.adapters.Static(4 * toys.vector()), ms.Site(1, "resid_post"))
    model = toys.shared("llama")
    for text in made.at(2):
        own = ms.Intervention(iv.adapter, iv.site, coeff=text.gamma)
        out = ms.generate(model, ["prompt 2"], own, max_new_tokens=6)
        assert text.text == continuation_text(model.tokenizer, out.tokens[0])
    plain = ms.generate(model, ["prompt 2"], max_new_tokens=6)
    (unsteered,) = [text.text for text in made.at(2) if text.gamma == 0]
    assert unsteered == continuation_text(model.tokenizer, plain.tokens[0])
    assert len({text.text for text in made.at(2)}) > 1
    assert from_json(Sheet, to_json(made)) == made


def test_the_form_tells_nothing_of_strengths(made):
    page = rating_html(made)
    assert not re.search(r"γ|gamma|Feature 7", page)
    found = tags(page)
    assert {name for name, _ in found.fields} == {f"{row} {letter}" for row in range(4) for letter in "ABCDE"}
    assert len(found.fields) == 4 * 5 * 5
    orders = {tuple(text.gamma for text in made.at(row, blind=True)) for row in range(4)}
    assert len(orders) > 1  # drawn for each prompt
    assert "http" not in page
    assert "γ = −4" in sheet_html(made)


FILLED = """<script>addEventListener('load', () => {
  const found = {told: [document.getElementById('told').textContent]};
  URL.createObjectURL = blob => { blob.text().then(text => {
    found.saved = JSON.parse(text);
    found.told.push(document.getElementById('told').textContent);
    document.body.innerHTML = '<pre id="found"></pre>';
    document.getElementById('found').textContent = JSON.stringify(found);
  }); return '#'; };
  for (const [name, value] of [['0 A', 4], ['2 C', 1], ['0 A', 5]])
    document.querySelector(`input[name="${name}"][value="${value}"]`).click();
  found.told.push(document.getElementById('told').textContent);
  document.querySelector('button').click();
})</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, as scripts/screenshot.py does")
def test_the_form_counts_and_saves_what_is_rated(made, tmp_path):
    found = found_by(FILLED, rating_html(made), tmp_path)
    assert found["saved"] == {"ratings": {"0 A": 5, "2 C": 1}}
    assert found["told"] == [
        "0 of 20 texts are rated",
        "2 of 20 texts are rated",
        "2 of 20 texts are rated; saved as ratings.json",
    ]


def test_ratings_come_back_by_strength(made, tmp_path):
    files = write_sheet(made, tmp_path)
    key = [json.loads(line) for line in files.key.read_text().splitlines()]
    assert len(key) == 20
    rated = {f"{line['row']} {line['letter']}": 5 - abs(line["gamma"]) for line in key if line["gamma"] != -4}
    (tmp_path / "ratings.json").write_text(json.dumps({"ratings": rated}))
    found = made.rated(read_ratings(tmp_path / "ratings.json"))
    assert {gamma: found[gamma] for gamma in (-2, 0, 2, 4)} == {-2: (3, 4), 0: (5, 4), 2: (3, 4), 4: (1, 4)}
    assert math.isnan(found[-4][0])
    with pytest.raises(DataError, match="'9 A' is of no text"):
        made.rated({"9 A": 3})
    for wrong in ("{", "[]", '{"ratings": {"0 A": "5"}}', '{"ratings": {"0 A": true}}'):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(FileFormatError, match="holds no ratings"):
            read_ratings(tmp_path / "wrong.json")


def test_texts_are_shown_and_are_never_markup():
    text = SheetText(row=0, letter="A", gamma=1.0, text=HOSTILE)
    hostile = Sheet(title=HOSTILE, prompts=(HOSTILE,), gammas=(1.0,), texts=(text,))
    harmless = Sheet(
        title="t", prompts=("p",), gammas=(1.0,), texts=(SheetText(row=0, letter="A", gamma=1.0, text="x"),)
    )
    for page in (sheet_html, rating_html):
        assert tags(page(hostile)).tags == tags(page(harmless)).tags


def test_refusals():
    iv = ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(1, "resid_post"))
    with pytest.raises(ConfigError, match="each once"):
        sheet(toys.shared("llama"), iv, ["a"], [1.0, 1.0])
    with pytest.raises(DataError, match="no prompts"):
        sheet(toys.shared("llama"), iv, [])
