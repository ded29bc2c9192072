"""Texts side by side: nothing of either is lost, what is marked is what differs, and nothing in them is markup."""

import html
import re

import pytest
import torch

import mechsteer as ms
from mechsteer.errors import ConfigError, ShapeError
from mechsteer.report import ComparedTexts, compare_texts
from mechsteer.report.blocks import Page
from mechsteer.report.comparing import BREAKS, differences
from tests import toys

BEFORE = "He saw a dog. He was very sad and went home.\nThe end."
AFTER = "He saw a dog. He was happy and went to the park.\nThe end."


def test_both_texts_come_back_whole_and_what_is_not_marked_is_shared():
    before, after = differences(BEFORE, AFTER)
    assert "".join(text for text, _ in before) == BEFORE
    assert "".join(text for text, _ in after) == AFTER
    kept = [[word for text, marked in side if not marked for word in text.split()] for side in (before, after)]
    assert kept[0] == kept[1]
    assert [text.strip() for text, marked in before if marked] == ["very sad", "home."]
    assert [text.strip() for text, marked in after if marked] == ["happy", "to the park."]


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [("a b", "a b", ([], [])), ("", "a", ([], ["a"])), ("a  b", "a b", ([], [])), (" a", "a", ([" "], []))],
)
def test_odd_texts(before, after, marked):
    sides = differences(before, after)
    assert [[text for text, differs in side if differs] for side in sides] == list(marked)
    assert ["".join(text for text, _ in side) for side in sides] == [before, after]


def test_marks_are_in_the_page_and_hostile_text_is_not():
    hostile = 'x <img src=x onerror=alert(1)> </mark><script>alert(1)</script>"'
    block = compare_texts([BEFORE, "same"], [f"{AFTER} {hostile}", "same"], prompts=[hostile, "q"])
    page = block.html(Page())
    assert "<script" not in page
    assert "<img" not in page
    marked = [html.unescape(text).strip() for text in re.findall(r"<mark>(.*?)</mark>", page)]
    assert marked[:4] == ["very sad", "home.↵", "happy", "to the park.↵"]
    assert "word for word the same" in page
    assert "1 of 2 texts differ" in page
    assert "**very sad**" in block.markdown()
    assert "\\<script\\>" in block.markdown()
    (row, other) = block.frame().to_dict("records")
    assert (row["base"], row["differs"], other["alike"]) == (BEFORE, True, 1.0)
    assert 0 < row["alike"] < 1


def test_where_a_text_breaks_is_marked_and_nothing_of_it_is_lost():
    hostile = "</span><b>"
    block = ComparedTexts(["a b", "a", ""], [f"a {hostile} c", "a", ""], breaks=[5, None, 0])
    page = block.html(Page())
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    assert f"a </s⚠ {BREAKS} pan><b> c" in text
    assert page.count(BREAKS) == block.markdown().count(BREAKS) == 1
    assert page.count('<span class="broken">') == 1
    with pytest.raises(ShapeError, match="3 texts before and 1 breaks"):
        ComparedTexts(["a", "b", "c"], ["a", "b", "c"], breaks=[1])


def test_what_was_generated_is_compared_and_saved(tmp_path):
    model = ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())
    prompts = [[256, 7, 8], [256, 9]]
    iv = ms.Intervention(ms.adapters.Static(8 * torch.ones(toys.D_MODEL).cumsum(0)), ms.Site(1))
    before, after = (ms.generate(model, prompts, steering, max_new_tokens=6) for steering in ((), iv))
    compared = compare_texts(before, after)
    assert compared.frame()["steered"].tolist() == list(after.texts)
    for ending in (".html", ".md", ".csv"):
        assert compared.save(tmp_path / f"texts{ending}").stat().st_size > 0
    assert compared._repr_html_().startswith("<iframe")
    with pytest.raises(ConfigError, match=r"(?s)cannot be saved as 'texts.doc'.*\.html, \.md, \.csv"):
        compared.save(tmp_path / "texts.doc")
    assert not (tmp_path / "texts.doc").exists()


def test_numbers_of_texts_that_differ():
    with pytest.raises(ShapeError, match="2 texts before and 1 after"):
        compare_texts(["a", "b"], ["a"])
    with pytest.raises(ShapeError, match="1 texts before and 2 prompts"):
        ComparedTexts(["a"], ["b"], prompts=["p", "q"])
