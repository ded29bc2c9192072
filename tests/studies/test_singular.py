"""A study of a singular adapter: stage attribute tells it in its own triples, and the page shows them."""

from __future__ import annotations

import extras
import pytest
from study_toys import TEXTS, desk_of, prompts_file, stage_result

from mechsteer import cli
from mechsteer.attribution import SingularAttribution
from mechsteer.studies.kept import Kept
from mechsteer.studies.own_triples import has_triples
from mechsteer.studies.page import attribute_sections

TITLE = "What of the singular adapter carries its effect"
OPTIONS = [
    *(option for option in TEXTS if not option.startswith(("adapter.epochs", "attribute.", "layers", "traces.n_dev"))),
    *("adapter.kind=singular", "adapter.args={rank: 6}", "adapter.sites=[v_in:v_out,up_in:up_out]", "adapter.epochs=8"),
    *("adapter.lr=0.05", "attribute.k=[2,40]", "positive=' love'", "negative=' hate'", "suffix=' I'", "layers=[1]"),
    *("traces.n_dev=60", "attribute.n_prompts=24", "attribute.nulls=6", "attribute.nulls_run=2"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    extras.require_sae_lens()
    folder = tmp_path_factory.mktemp("singular")
    data = prompts_file(folder / "texts.json")
    assert cli.main(["attribute", f"out={folder / 'run'}", f"data={data}", *OPTIONS]) == 0
    return folder / "run"


def test_a_singular_adapter_is_attributed_to_its_own_triples(run) -> None:
    with desk_of(run, "outcome") as (_, results):
        found = results["attribute"]
    assert isinstance(found.triples, SingularAttribution)
    assert (found.effects, found.readings, found.logits) == ({}, {}, None)
    labels = {f"{name}.1.sv{i}" for name in ("v", "up") for i in range(6)}
    assert set(found.triples.directions["label"]) == labels
    assert found.triples.settings.k == (2, 12)  # no more than there are
    assert found.triples.settings.nulls_run == 2
    assert found.n_prompts == len(found.triples.base) > 3
    assert {"feature", "feature_cosine", "reason_score"} <= set(found.triples.directions.columns)
    last = found.triples.check.set_index("k").loc[12]
    assert last["sufficiency"] == pytest.approx(1.0, abs=1e-4)
    assert last["off"] == pytest.approx(0.0, abs=1e-4)


def test_the_page_shows_it_and_outcome_says_why_not(run, capsys) -> None:
    page = (run / "report.md").read_text("utf-8")
    assert f"## {TITLE}" in page
    assert "What the adapter is made of" not in page
    assert "closest feature" in page
    assert cli.main(["outcome", f"out={run}"]) == 0
    assert "does not write into the residual stream" in capsys.readouterr().out
    assert stage_result(run, "outcome")["parts"] == {}


def test_a_vector_has_no_triples(run, tmp_path) -> None:
    with desk_of(run, "outcome") as (desk, results):
        steering = Kept(desk).steering()
        (section,) = attribute_sections(results["attribute"])
    assert section.title == TITLE
    assert has_triples(steering)
    assert not has_triples(steering.with_coeff(0.0))
