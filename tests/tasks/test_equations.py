"""Equations in texts: what is counted as right, as wrong, and not at all."""

import time

import pytest

from mechsteer.tasks import equation_counts


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("12+7=19", (1, 0)),
        (" So 12 + 7 = 20.", (0, 1)),
        ("(12+7)*2-4=34", (1, 0)),
        ("10 - 4 x 2 = 12", (0, 1)),  # multiplication first
        ("48 ÷ 2 = 24 − 0 = 23", (1, 1)),  # a chain
        ("2 x 36 = $72 and $1,000 - $250 = $750", (2, 0)),
        ("100 * 20% = 20", (1, 0)),
        ("10/3 = 3.33, 10/3 = 3.4, 10/3 = 3", (1, 2)),
        ("007+1=8", (1, 0)),
        ("5=5, x = 5, the answer is 5", (0, 0)),
        ("3/0=0 and (3+4 = 7", (0, 0)),  # cannot be read
        ("3+4\n=7", (0, 0)),  # two lines
        ("", (0, 0)),
    ],
)
def test_counts(text, counts):
    assert equation_counts(text) == counts


def test_a_hostile_text_takes_no_time():
    begun = time.perf_counter()
    for text in (
        "1 + " * 2000,
        "1" + " " * 5000 + "x",
        "(" * 3000 + "1",
        "1" * 5000,
        "9*" * 3000 + "9=1",
        "((1)" * 900,
    ):
        equation_counts(text)
    assert time.perf_counter() - begun < 5
