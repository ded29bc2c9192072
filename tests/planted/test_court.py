"""The court itself: good competitors win, broken ones lose, senseless ones are named."""

import json
import math

import court_attribution
import pytest
import torch

from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.planted import COMPETITORS, Claims, bars, frame, judge, plant, summary
from mechsteer.planted.competitors import checked
from mechsteer.planted.dictionaries import learned, random_rows

FAMILIES = ("linear", "relu", "and", "upstream")


@pytest.fixture(scope="module")
def cases():
    return [plant(family, seed, "overcomplete") for family in FAMILIES for seed in (100, 101)]


def means(cases, name, competitor=None):
    return frame([judge(case, name, competitor) for case in cases]).mean(numeric_only=True)


def test_effects_find_what_energy_does_not(cases):
    found = means(cases, "integrated gradients")
    assert found["recall"] >= 0.95
    assert found["gap"] < 0.05
    assert found["decoys_in_top"] <= 0.05
    assert found["calibration"] < 0.05
    assert means(cases, "matching pursuit")["recall"] < 0.8
    assert means(cases, "random")["recall"] < 0.3


def test_exact_shapley_values_are_the_truth():
    trial = judge(plant("saturated", 100), "shapley")
    assert trial.recall == 1
    assert trial.calibration < 1e-3
    assert trial.decoy_share < 1e-3


def test_a_broken_competitor_loses(cases):
    def reversed_scores(*case):
        scores = COMPETITORS["integrated gradients"](*case).scores.abs()
        return scores.max() - scores

    found = means(cases, "broken", reversed_scores)
    assert found["recall"] < 0.1
    assert found["gap"] > 0.5


def test_the_default_reaches_its_figures_and_its_nulls_rank_nothing(cases):
    found = means(cases, "default")
    assert found["recall"] >= 0.95
    assert found["decoys_in_top"] <= 0.05
    case = cases[0]
    arguments = (case.model, case.intervention, case.contexts, case.basis, case.metric)
    plain, beside_nulls = (COMPETITORS[name](*arguments) for name in ("default", "default with nulls"))
    assert torch.equal(plain.scores, beside_nulls.scores)
    assert plain.illusions == beside_nulls.illusions
    trial = judge(plant("illusions", 100), "default")
    assert trial.marked == trial.recall == 1


def test_an_illusion_that_the_code_passes_by_is_marked():
    """In overcomplete dictionaries pursuit may take other atoms in its place: it is no less one for that."""
    passed_by = 0
    for seed in (132, 155):
        case = plant("illusions", seed, "overcomplete")
        claims = COMPETITORS["default"](case.model, case.intervention, case.contexts, case.basis, case.metric)
        assert claims.shares is not None
        passed_by += int((claims.shares[list(case.illusions)] == 0).sum())
        assert set(case.illusions) <= set(claims.illusions)
        assert not set(case.planted) & set(claims.illusions)
    assert passed_by == 3


@pytest.mark.parametrize("name", [name for name in COMPETITORS if "default" not in name])
def test_every_competitor_answers_for_any_delta(name):
    case = plant("upstream", 100, "exact")
    scores = checked(
        name, COMPETITORS[name](case.model, case.intervention, case.contexts, case.basis, case.metric), case.basis
    )
    assert scores.scores.shape == (len(case.basis),)
    assert float(scores.scores.abs().max()) > 0


def test_a_null_is_called_nothing():
    case = plant("nulls", 100)
    trial = judge(case, "default")
    assert not trial.claimed
    assert math.isnan(trial.recall)


def test_a_near_duplicate_counts_as_the_direction_and_takes_one_place():
    case = plant("duplicates", 100)
    rows = case.basis.directions
    cosines = (rows @ rows[list(case.planted)].T).abs()
    twins = ((cosines > 0.89) & (cosines < 0.99)).int().argmax(0)  # one duplicate of each

    def of_twins(*case):
        scores = torch.zeros(len(rows))
        scores[twins] = 1.0
        scores[list(plant("duplicates", 100).planted)] = 2.0
        return scores

    assert judge(case, "twins", of_twins).recall == 1

    def of_one(*case):
        scores = torch.zeros(len(rows))
        scores[cosines[:, 0] > 0.89] = 1.0
        return scores

    assert judge(case, "one", of_one).recall == 0.25


def test_what_is_called_an_illusion_is_not_claimed():
    case = plant("illusions", 100)

    def marks(*arguments):
        scores = torch.zeros(len(case.basis))
        scores[list(case.illusions)] = 9.0
        scores[list(case.planted)] = 1.0
        return Claims(scores, illusions=case.illusions)

    trial = judge(case, "marks", marks)
    assert trial.recall == trial.marked == 1
    assert judge(case, "blind", lambda *a: marks().scores).recall < 1


def test_senseless_answers_are_errors_that_name_the_competitor():
    case = plant("linear", 0)
    n = len(case.basis)
    with pytest.raises(NonFiniteError, match="competitor 'mine' returned nan for direction 0"):
        judge(case, "mine", lambda *a: torch.full((n,), math.nan))
    with pytest.raises(ShapeError, match="competitor 'mine' returned \\[3\\]"):
        judge(case, "mine", lambda *a: torch.zeros(3))
    with pytest.raises(ShapeError, match="competitor 'mine' returned list"):
        judge(case, "mine", lambda *a: [0.0] * n)
    with pytest.raises(ConfigError, match="marks \\[64\\]"):
        judge(case, "mine", lambda *a: Claims(torch.ones(n), illusions=(64,)))
    with pytest.raises(ConfigError, match="no competitor 'cosin'"):
        judge(case, "cosin")


def test_the_table_and_the_bars():
    trials = [judge(plant("linear", seed), name) for seed in (0, 1) for name in ("default", "random")]
    assert type(trials[0]).from_dict(trials[0].to_dict()) == trials[0]
    table = summary(trials).set_index("competitor")
    assert table.loc["default", "recall"] == frame(trials).query("competitor == 'default'")["recall"].mean()
    assert list(table["n_seeds"]) == [2, 2]
    by_what = {bar.what: bar for bar in bars(trials)}
    assert by_what["recall"].met == (by_what["recall"].value >= 0.95)
    worst = {bar.what: bar for bar in bars(trials, "random")}
    assert not worst["recall"].met


def test_a_learned_dictionary_has_most_features():
    generator = torch.Generator().manual_seed(0)
    features = random_rows(48, 32, generator)
    active = torch.stack([torch.randperm(48, generator=generator)[:2] for _ in range(600)])
    sizes = 0.5 + torch.rand(600, 2, generator=generator, dtype=torch.float64)
    atoms = learned((features[active] * sizes[..., None]).sum(1), 48, 2, generator)
    assert float(((features @ atoms.T).abs().amax(1) > 0.9).double().mean()) > 0.8


def test_the_command_prints_and_writes(tmp_path, capsys):
    path = tmp_path / "trials.json"
    options = [
        "--seeds",
        "100-100",
        "--families",
        "nulls",
        "--competitors",
        "default,court_attribution:competitor_of_zeros",
    ]
    with pytest.raises(ConfigError, match="competitor_of_zeros"):
        court_attribution.competitor("court_attribution:competitor_of_zeros")
    assert court_attribution.main([*options]) == 2
    assert "competitor_of_zeros" in capsys.readouterr().err
    code = court_attribution.main(
        [*options[:4], "--competitors", "default,random", "--processes", "1", "--json", str(path)]
    )
    told = capsys.readouterr().out
    assert "nothing to attribute" in told
    written = json.loads(path.read_text("utf-8"))
    assert code == int(not all(bar["met"] for bar in written["bars"]))
    assert [trial["competitor"] for trial in written["trials"]] == 2 * ["default", "random", "default with nulls"]
    assert list(court_attribution.seeds_of("3")) == [0, 1, 2]
    with pytest.raises(ConfigError, match="seeds 'x'"):
        court_attribution.seeds_of("x")
