"""Numbers and tables: what is shown is what was given."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from mechsteer.errors import DataError
from mechsteer.report.blocks import Page
from mechsteer.report.tables import Table, aligned, cell, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "undefined"),
        (9.996, "10.0"),
        (0.99996, "1.00"),
        (123456.7, "123457"),
        (1234567.0, "1.23e6"),
        (-0.0, "0"),
        (np.float32(0.25), "0.250"),
        (np.int64(-12), "−12"),
        (10**7, "10000000"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize("exponent", range(-9, 9))
def test_number_keeps_the_significant_digits(exponent):
    value = 1.2345 * 10.0**exponent
    assert float(number(value, 4)) == pytest.approx(value, rel=5e-4)


def test_missing_values_are_undefined_and_never_zero():
    assert {cell(value) for value in (None, math.nan, np.float32("nan"), pd.NA, pd.NaT)} == {"undefined"}
    assert (cell(0.0), cell(True), cell(np.bool_(False)), cell("nan")) == ("0", "yes", "no", "nan")


def test_aligned_signs():
    assert aligned([-0.001, 0.0, 12.5], signed=True) == ["0.0", "0.0", "+12.5"]
    assert aligned([math.nan, math.nan]) == ["undefined", "undefined"]
    assert aligned([0.0, 0.0]) == ["0", "0"]


def unescape_markdown(text: str) -> str:
    return re.sub(r"\\([\\`*_{}\[\]<>|~&#!$])", r"\1", text)


def markdown_cells(markdown: str) -> list[list[str]]:
    rows = [line for line in markdown.split("\n") if line.startswith("| ")]
    split = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    return [[unescape_markdown(text.strip().strip("*")) for text in row] for row in split]


FRAME = pd.DataFrame(
    {
        "token": ["a|b", "<img src=x>", "back\\slash", "[x](y)"],
        "score": [0.5, math.nan, -2.0, 1e-9],
        "n": [1, 2, 3, 4],
    }
)


def test_markdown_and_html_show_the_same_cells():
    table = Table(FRAME, "scores", highlight=1)
    names, rows = table.cells()
    head, rule, *body = markdown_cells(table.markdown())
    assert head == names
    assert set(rule) == {"---"}
    assert body == rows
    html = table.html(Page())
    texts = re.findall(r"<td[^>]*>(.*?)</td>", html)
    assert len(texts) == 12
    assert "&lt;img src=x&gt;" in texts
    assert html.count('<tr class="highlight">') == 1
    assert '<th scope="col" class="num">score</th>' in html
    assert '<th scope="col">token</th>' in html


def test_index_columns_and_digits():
    frame = pd.DataFrame({"auroc": [0.71234], "n": [30]}, index=pd.Index([7], name="layer"))
    assert Table(frame, "c", digits={"auroc": 2}).cells() == (["layer", "auroc", "n"], [["7", "0.71", "30"]])
    assert Table(frame, "c", columns=["n"]).cells() == (["n"], [["30"]])
    assert Table([{"a": 1, "b": "x"}], "c").cells() == (["a", "b"], [["1", "x"]])
    assert Table([], "c", columns=["a"]).cells() == (["a"], [])
    # integers beside a missing value stay integers
    assert Table([(1,), (None,)], "c", columns=["n"]).cells()[1] == [["1"], ["undefined"]]


def test_rows_that_do_not_fit():
    with pytest.raises(DataError, match="do not fit"):
        Table([(1, 2, 3)], "c", columns=["a", "b"]).cells()
