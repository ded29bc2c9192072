"""The page: safe with hostile text, self-contained, whole or not there, the same bytes for the same input."""

import base64
import errno
import hashlib
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mechsteer.errors import DataError, StorageError
from mechsteer.files import write_atomically
from mechsteer.report import (
    Code,
    Details,
    Heatmap,
    Note,
    Page,
    Report,
    Section,
    Table,
    Text,
    Verdict,
    figures,
    heatmaps,
    visible,
)  # fmt: skip

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover=alert(1) x='</title></style></pre>--><!--\u200b\n\t\x00"
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Parsed(HTMLParser):
    """Elements with their attributes, the text outside scripts and styles, and the open elements at the end."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.stack: list[str] = []
        self.page_tags: list[str] = []
        self.drawing_tags: set[str] = set()  # long labels leave room for fewer ticks: drawings differ
        self.text = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "svg" or "svg" in self.stack:
            self.drawing_tags.add(tag)
        else:
            self.page_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] in self.raw:
            self.raw[self.stack[-1]].append(data)
        else:
            self.text += data

    def handle_comment(self, data):
        raise AssertionError("no comments in our pages")


def make_report(n_heatmaps: int = 2, text: str = "plain") -> Report:
    verdict = Verdict(
        f"Does it help? {text}",
        0.1,
        (-2.0, 2.2),
        text,
        f"No effect: the interval holds 0. {text}",
        arms=[(f"base {text}", 61.2, (57.0, 65.4), text), ("adapter", 61.3, (57.1, 65.5), "")],
        detectable=3.1,
        compared=text,
        reference=61.2,
        highlight="adapter",
    )
    maps = [Heatmap([text, " b"], [0.5, -1.0], f"cap {text}", text) for _ in range(n_heatmaps)]
    blocks = [
        Text(f"one {text}\n\ntwo"),
        Table([(text, math.nan)], text, columns=[text, "x"]),
        figures.bars([(text, 1.0, (0.5, 2.0), "")], unit=text, title=text, caption=text),
        Note(text, "limits"),
        Details(text, [Code(text), *maps]),
    ]
    provenance = {"versions": {text: text}, "seeds": {text: 1}, "timings": {text: 61.0}, "fingerprint": text}
    sections = [Section(f"Part {text}", blocks), Section(f"Part {text}", [])]
    return Report(text, verdict=verdict, sections=sections, config={text: [text]}, command=text, **provenance)


def our_scripts(parsed: Parsed) -> list[str]:
    return parsed.raw["script"]


def test_hostile_text_is_shown_and_is_never_markup():
    plain, hostile = Parsed(make_report().to_html()), Parsed(make_report(text=HOSTILE).to_html())
    # The same elements in the same order: text, whatever it says, adds or ends none.
    assert hostile.page_tags == plain.page_tags
    assert hostile.drawing_tags <= {"svg", "g", "defs", "path", "use", "text", "line", "circle", "clippath", "rect"}
    assert not hostile.stack
    assert not [tag for tag, _ in hostile.elements if tag in {"img", "iframe", "object", "link", "base"}]
    assert not [key for _, attrs in hostile.elements for key in attrs if key.startswith("on")]
    assert hostile.text.count(visible(HOSTILE)) > 15
    assert len(our_scripts(hostile)) == 2
    assert "alert(1)</" not in our_scripts(hostile)[1]


def test_hostile_text_in_markdown():
    text = make_report(text=HOSTILE).to_markdown()
    for line in text.split("\n"):
        if not line.startswith("    "):
            assert not re.search(r"(?<!\\)<", line)
    assert "\u200b" not in text


@pytest.mark.parametrize(("n", "scripts"), [(0, 0), (1, 2), (5, 2)])
def test_bundle_is_embedded_once_or_not_at_all(n, scripts):
    html = make_report(n).to_html()
    assert html.count(heatmaps.bundle()) == (1 if n else 0)
    assert len(our_scripts(Parsed(html))) == scripts
    assert html.count("CircuitsVis.render(") == n
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched():
    parsed = Parsed(make_report(text=HOSTILE).to_html())
    for _, attrs in parsed.elements:
        for key in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert attrs.get(key, "#").startswith("#")
        assert not re.search(r"url\((?!#)", attrs.get("style") or "")
    (style,) = parsed.raw["style"]
    assert not re.search(r"url\(|@import|https?:", style)
    html = make_report(0).to_html()
    assert "http:" not in html
    assert "https:" not in html


def test_policy_allows_our_scripts_and_nothing_else():
    parsed = Parsed(make_report().to_html())
    (policy,) = [a["content"] for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in our_scripts(parsed)]
    assert rules["script-src"].split() == [f"'sha256-{value}'" for value in hashes]
    assert rules["default-src"] == "'none'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert "script-src 'none'" in make_report(0).to_html()


def test_same_input_same_bytes():
    report = make_report(text=HOSTILE)
    assert report.to_html() == make_report(text=HOSTILE).to_html() == report.to_html()


def test_first_screen_comes_first():
    parsed = Parsed(make_report().to_html()).text.replace("\N{NO-BREAK SPACE}", " ")
    marks = ["Does it help?", "No effect", "+0.10", "[−2.00, +2.20]", "3.1", "adapter", "Part plain"]
    places = [parsed.index(mark, parsed.index("Does it help?")) for mark in marks]
    assert places[:-2] == sorted(places[:-2])
    assert max(places[:-1]) < parsed.index("one plain")


def test_every_verdict_looks_the_same():
    def shape(difference, statement):
        verdict = Verdict("q", difference, (difference - 1, difference + 1), "points", statement)
        return [(t, a.get("class")) for t, a in Parsed(Report("t", verdict=verdict).to_html()).elements]

    assert shape(5.0, "It helps.") == shape(0.0, "No effect.") == shape(-5.0, "It harms.")


def test_undefined_verdict_and_arms():
    nan = (math.nan, math.nan)
    verdict = Verdict("q", math.nan, nan, "points", "Undefined.", arms=[("base", math.nan, nan, "")])
    html = Report("t", verdict=verdict).to_html()
    assert html.count("<b>undefined</b>") == 3
    assert "nan" not in Parsed(html).text
    assert "undefined" in Report("t", verdict=verdict).to_markdown()


def test_forest_positions_are_linear_in_the_values():
    arms = [("a", 0.0, (-1.0, 1.0), ""), ("b", 2.0, (1.0, 3.0), ""), ("c", 4.0, (3.0, 5.0), "")]
    html = Verdict("q", 1, (0, 2), "u", "s", arms=arms, reference=2.0).html(Page())
    x = [float(v) for v in re.findall(r'<circle cx="([\d.]+)%"', html)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.02)
    assert {float(v) for v in re.findall(r'"reference" x1="([\d.]+)%"', html)} == {x[1]}


def test_exchanged_interval():
    with pytest.raises(DataError, match="give \\(low, high\\)"):
        Verdict("q", 1, (2, 0), "u", "s")


def test_contents_lead_to_the_sections():
    parsed = Parsed(make_report().to_html())
    ids = {attrs["id"] for _, attrs in parsed.elements if "id" in attrs}
    links = {attrs["href"][1:] for tag, attrs in parsed.elements if tag == "a"}
    assert links <= ids
    assert {"part-plain", "part-plain-2", "reproduce"} <= links


def test_provenance_is_in_both_forms():
    report = Report(
        "t", config={"sae": {"k": 16}}, versions={"torch": "2.13.0"}, seeds={"study": 7},
        timings={"a": 61.0, "b": 4.0}, fingerprint="f00d", command="mechsteer study seed=7",
    )  # fmt: skip
    for text in (Parsed(report.to_html()).text, report.to_markdown().replace("\\_", "_")):
        for piece in ("k: 16", "2.13.0", "f00d", "mechsteer study seed=7", "1 min 05 s"):
            assert piece in text


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_disk_full_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "report.html"
    make_report(0).save_html(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="No space left on device"):
        make_report(0, "new").save_html(path)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == ["report.html"]


def test_unwritable_place(tmp_path):
    write_atomically(tmp_path / "file", "x")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomically(tmp_path / "file" / "report.html", "x")
    assert leftovers(tmp_path) == ["file"]


def test_saved_files_hold_what_was_made(tmp_path):
    report = make_report(1, HOSTILE)
    assert report.save_html(tmp_path / "new" / "r.html").read_text(encoding="utf-8") == report.to_html()
    assert report.save_markdown(tmp_path / "r.md").read_text(encoding="utf-8") == report.to_markdown()
