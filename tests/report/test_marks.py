"""What the report says of its own tables: true by construction, never fires, fails the page's criteria."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.attribution.facts import DirectionFacts
from mechsteer.features.in_words import FeatureInWords
from mechsteer.features.reason_score import reason_score
from mechsteer.report import Table
from mechsteer.report.blocks import Page
from mechsteer.report.sections import checks, directions, features, readings
from mechsteer.report.sections.words import count, listed, spoken
from mechsteer.report.tables import Tokens, column
from tests import toys
from tests.attribution.toy_adapters import PROMPTS, Linear, ToySAE

SITE = ms.Site(1, "resid_post")


@pytest.fixture(scope="module")
def deltas():
    model = ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())
    return ms.deltas(model, ms.Intervention(Linear(), SITE), PROMPTS)


def basis(n: int) -> ms.bases.Basis:
    rows, _ = torch.linalg.qr(torch.randn(toys.D_MODEL, toys.D_MODEL, generator=torch.Generator().manual_seed(0)))
    return ms.bases.Basis(directions=rows[:n], labels=tuple(f"d{i}" for i in range(n)), source={"kind": "made up"})


def test_a_complete_basis_explains_everything_by_construction_and_a_part_of_it_does_not(deltas) -> None:
    whole, part = (ms.attribute(deltas, basis(n)) for n in (toys.D_MODEL, toys.D_MODEL // 2))
    assert readings.is_complete(whole)
    assert not readings.is_complete(part)
    assert not readings.is_complete(ms.attribute(deltas, ms.bases.from_sae(ToySAE()), k=3))
    text = readings.attribution(whole, name="the whole")[0].markdown()
    assert "1.000 \\(by construction\\)" in text or "1.000 (by construction)" in text
    assert "True by construction: the whole explains 1.00" in text
    assert "construction" not in readings.attribution(part)[0].markdown()


def test_a_finding_of_one_is_not_called_construction(deltas) -> None:
    """A delta that lies in the basis is explained as a finding: a turned one would not be."""
    found = ms.attribute(deltas, basis(toys.D_MODEL))
    assert found.beside_null is not None
    null = dataclasses.replace(found.beside_null.null, value=0.3, low=0.2, high=0.4)
    lucky = dataclasses.replace(found, beside_null=dataclasses.replace(found.beside_null, null=null))
    assert not readings.is_complete(lucky)


def feature(number: int, density: float = 0.1, top5: float = 0.5) -> FeatureInWords:
    fires = (("a", 0.5),) if density else ()
    return FeatureInWords(feature=number, density=density, top5_share=top5, fires_on=fires, contexts=())


def test_a_feature_that_never_fires_is_marked() -> None:
    silent, alive = (DirectionFacts(promotes=("x",), feature=feature(i, d)) for i, d in ((514, 0.0), (7, 0.1)))
    assert directions.known(silent)["fires on"] == "never, on these traces"
    assert str(directions.known(alive)["fires on"]) == "'a'"
    assert directions.silent([("f514", silent), ("f7", alive)]).startswith("f514 never fires on the traces (density 0)")
    assert directions.silent([("f7", alive), ("sv1", None)]) == ""


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([("f1", feature(1), 0.5), ("f2", feature(2), 0.9)], "All two of these features fail the criteria"),
        (
            [("f1", feature(1, top5=0.95), 0.01), ("f2", feature(2), 0.01)],
            "One of these two features fails the criteria",
        ),
        ([("f1", feature(1, density=0.0, top5=math.nan), None)], "f1 active on no token of the traces"),
        ([("f1", feature(1), 0.01), ("f2", None, None)], ""),
    ],
)
def test_features_that_fail_the_pages_own_criteria_are_said_to(shown, said) -> None:
    told = features.failing(shown)
    assert said in told
    assert bool(said) == bool(told)


def test_scores_that_are_not_positive_are_said_to_be() -> None:
    tokens = torch.randint(0, 9, (4, 12), generator=torch.Generator().manual_seed(0))
    scores = reason_score(tokens, torch.rand(4, 12, 5, generator=torch.Generator().manual_seed(1)), {"w": [(3,)]})
    assert features.below_zero(dataclasses.replace(scores, score=torch.ones(5)), [0, 1]) == ""
    told = features.below_zero(dataclasses.replace(scores, score=torch.tensor([1.0, -1.0, 0.0, 2.0, 3.0])), [4, 1, 2])
    assert told.startswith("Of the highest scores f1 and f2 are not above 0")


def test_one_number_format_a_column() -> None:
    assert column([0.008, 1.0, 0.0]) == ["0.008", "1.000", "0.000"]
    assert column([24.26, 38.5, 1e-6, 0.51, -1e-6]) == ["24.3", "38.5", "< 0.1", "0.5", "> −0.1"]
    assert column([3, None, 12]) == ["3", "undefined", "12"]
    assert column([1.5, 2, math.nan, "x"]) == ["1.50", "2.00", "undefined", "x"]
    assert column([1e7, 1.0]) == ["1.00e7", "1.00"]  # no decimals are enough for both
    rows = np.array(Table([(0.008,), (1.0,), (0,)], "c", columns=["x"]).cells()[1]).ravel()
    assert len({len(text.partition(".")[2]) for text in rows}) == 1


def test_tokens_in_cells_are_spans_that_the_style_does_not_break() -> None:
    cell = spoken([" wait", "</span><b>", "x" * 99])
    page = Table([{"fires on": cell}], "c").html(Page())
    assert '<span class="token">&#39; wait&#39;</span>' in page
    assert "<b>" not in page
    assert "x" * 40 not in page  # cut: it would widen the table
    assert str(Tokens((" a",), ("+0.1",))) == "' a' +0.1"
    style = (ms.report.templates._FOLDER / "style.css").read_text()
    assert ".token { white-space: pre;" in style


def test_checks_have_a_value_and_its_interval_in_one_cell(deltas) -> None:
    frame = checks.in_words(
        pd.DataFrame({"k": [1.0], "x_y": [0.5], "x_y_low": [-0.25], "x_y_high": [1.0], "p": [1e-5], "p_holm": [0.04]})
    )
    assert frame.to_dict("records") == [{"k": 1, "x y": "0.500 [−0.250, 1.000]", "p": "< 0.001", "p holm": "0.040"}]


def test_words_of_lists() -> None:
    assert (count(8), count(13)) == ("eight", "13")
    assert listed(["a"]) == "a"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"
