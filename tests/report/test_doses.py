"""The section of dose and response: the caption comes from the data, hostile text is escaped, all methods stand in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import toys

import mechsteer as ms
from mechsteer.baselines import Prompted, Steered
from mechsteer.evaluation import DoseResponse, dose_response
from mechsteer.report import Report, dose_figures
from mechsteer.report.sections import doses
from mechsteer.tasks import Question, QuestionSet

BAD = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def result() -> DoseResponse:
    model = toys.shared("llama")
    made = tuple(
        Question(
            id=str(i),
            prompt=f"{BAD} {i}",
            group=str(i),
            labels={"good": 1 if i % 2 else -1, "side": 1 if i % 4 < 2 else -1},
        )
        for i in range(16)
    )
    asked = QuestionSet(name=f"set {BAD}", questions=made, target="good", yes=("y",), no=("n",))
    methods = [
        Steered(f"a {BAD}", model, ms.Intervention(ms.adapters.Static(toys.vector(1)), "resid_post@1")),
        Prompted("prompt", model, "be good. ", "be bad. "),
    ]
    told = {"command": "mechsteer dose seed=3", "commit": "abc1234", "seeds": (0, 1), "seed": 3}
    neutral = ["one two three four five six"]
    return dose_response(model, methods, asked, neutral=neutral, least_mass=0.0, n_boot=50, max_new_tokens=2, **told)


def test_the_caption_tells_what_made_the_table(result: DoseResponse) -> None:
    told = doses.caption(result)
    made = result.provenance
    for part in (
        *(
            "12 questions of 12 situations, after 4 that calibrated signs",
            "1 neutral texts",
            "seed 3, of the trainings 0, 1",
        ),
        *(made.config_hash, made.data_hash, made.model, "commit abc1234", "made by: mechsteer dose seed=3"),
    ):
        assert part in told
    assert "commit" not in doses.caption(dataclasses.replace(result, provenance=dataclasses.replace(made, commit="")))


def test_the_page_holds_every_method_and_no_markup_of_others(result: DoseResponse, tmp_path: Path) -> None:
    html = result.save(tmp_path / "dose.html").read_text("utf-8")
    assert BAD not in html
    text = result.save(tmp_path / "dose.md").read_text("utf-8").replace("\\", "")
    for part in ("prompt", "Effect against coherence", "What else moves", "Example answers", "side"):
        assert part in text
    assert "<iframe" in result._repr_html_()
    assert len(result.save(tmp_path / "dose.csv").read_text("utf-8").splitlines()) == 3


def test_warnings_name_what_is_not_comparable(result: DoseResponse) -> None:
    first, second = result.methods
    odd = dataclasses.replace(first, falls=((1.0, 2.0),), sign=-1, coherent=None, name="odd")
    told = doses.warnings_of(dataclasses.replace(result, methods=(odd, second), is_balanced=False))
    for part in ("odd from 1 to 2", "Turned round", "even at c = 0: odd", "balance"):
        assert any(part in one for one in told)
    assert "odd" in Report("t", sections=doses.dose(dataclasses.replace(result, methods=(odd,)))).to_markdown()


def test_the_pictures_describe_themselves(result: DoseResponse) -> None:
    drawn = dose_figures.curves(result)
    assert f"{result.methods[1].at(5.0).effect.value:.1f}"[:3] in drawn.alt
    assert drawn.picture("svg") == dose_figures.curves(result).picture("svg")
    assert dose_figures.against_loss(dataclasses.replace(result, n_neutral=0)) is None
