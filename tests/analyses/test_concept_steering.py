"""What analyses/concept_steering reckons with: choices on one half of the prompts, planted sums, breaking; one real model."""

import math
import sys
from types import SimpleNamespace

import common
import numpy as np
import pytest
import torch
from common import Cells
from scipy.special import expit

import mechsteer as ms

FOLDER = common.HERE / "concept_steering"
sys.path.insert(0, str(FOLDER))

import concept_claims  # noqa: E402
import concept_found  # noqa: E402
import concept_texts  # noqa: E402
from concept_found import Reading, breaking_share, carried_over, choose, middle_third  # noqa: E402
from concept_texts import CHOOSING, HELD_OUT, Grid, Writer  # noqa: E402

N_PROMPTS, N_LAYERS, SHARES = 24, 6, [0.25, 0.5, 1.0]
NAMES = ("happy", "pirate", "sad", "formal")
ODDS = {"happy": 1.0, "pirate": 0.5, "sad": 1.5, "formal": 0.2}  # that a concept's vector adds to those of its texts


class Planted:
    """A writer whose texts are as they are told to be: concepts show at `best` of the layers, texts break at the last strength."""

    n_layers, middle, shares = N_LAYERS, 3, SHARES
    seeds = range(3)
    settings = {"n_repeats": 4}  # noqa: RUF012

    def __init__(self, best=(2, 3), interference=0.0, unit=1.0):
        self.best, self.interference, self.unit = best, interference, unit
        self.concepts = [
            SimpleNamespace(name=name, opposite={"happy": "sad", "sad": "happy"}.get(name)) for name in NAMES
        ]
        units = zip(NAMES, torch.eye(4), strict=True)
        self.vectors = {(name, self.middle): SimpleNamespace(vector=unit) for name, unit in units}

    def grid(self, each):
        shown = np.zeros((N_LAYERS, 3, N_PROMPTS), bool)
        shown[:, 1, :6] = True  # a few everywhere: 3 of 12 of either half
        shown[list(self.best), 1, :20] = True  # 10 of 12 of either half
        broken = np.zeros_like(shown)
        broken[:, 2] = True
        raw = self.unit * np.array([SHARES] * N_LAYERS)
        return [Grid(shown=shown, broken=broken, raw=raw)] * 3

    def random(self, seed):
        shown = np.zeros((2, N_LAYERS, 3, N_PROMPTS), bool)
        shown[:, seed, 0, 0] = True  # is chosen for it, and nothing is left on the others
        return dict.fromkeys(NAMES, shown)

    def base(self, seed):
        return dict.fromkeys(NAMES, np.zeros(N_PROMPTS, bool))

    def prompted(self, each, seed):
        shown = np.zeros((3, N_PROMPTS), bool)
        shown[1, :22] = True
        shown[2, HELD_OUT] = True  # best on those that nothing is chosen on
        return shown

    def raw(self, name, layer, share):
        return self.unit * share

    def mixed(self, parts, seed, *, second_random=False):
        if second_random:
            parts = parts[:1]
        odds = sum(ODDS[name] * np.sign(coeff) for name, coeff in parts)
        less = self.interference if len(parts) > 1 else 0.0
        return {name: float(expit(odds - less)) for name in NAMES}


def reading(**planted):
    return Reading(of=Planted(**planted))


def test_cells_are_chosen_on_one_half_and_reported_on_the_other():
    shown = np.zeros((3, 2, 6), bool)
    shown[1, 1, CHOOSING] = [1, 1, 0]
    shown[1, 1, HELD_OUT] = [0, 0, 1]
    shown[2, 1, HELD_OUT] = [1, 1, 1]
    best = choose(shown, range(3))
    assert (best.layer, best.share, best.held_out) == (1, 1, pytest.approx(1 / 3))
    assert (choose(shown, [0, 2]).layer, choose(shown, [0, 2]).share) == (0, 0)  # of equals the weakest and lowest
    assert middle_third(8) == [3, 4]
    assert middle_third(6) == [2, 3]


def test_where_half_of_the_texts_break_is_found_between_strengths():
    assert breaking_share(np.array([0.0, 0.25, 0.75]), SHARES) == pytest.approx(math.sqrt(0.5))
    assert breaking_share(np.array([0.6, 0.9, 1.0]), SHARES) == 0.25
    assert breaking_share(np.array([0.0, 0.0, 0.1]), SHARES) == 1.0


def test_planted_answers_are_found():
    found = reading()
    assert found.shows().value == pytest.approx(10 / 12)  # random directions are chosen by luck that does not last
    assert found.middle().value == pytest.approx(7 / 12)
    assert reading(best=(0, 5)).middle().value == pytest.approx(-7 / 12)
    assert found.whole().value == 0
    assert found.same_share().value == 0
    assert found.prompting().value == pytest.approx(11 / 12 - 10 / 12)
    assert "2 examples 12" in found.prompting().null


def test_sums_are_held_against_what_log_odds_foretell():
    linear, chance, rows = reading().sums()
    assert {row["sum"] for row in rows} == {"happy + pirate", "sad + formal"}
    assert len(rows) == 3 * 2 * 2
    assert linear.value == pytest.approx(0, abs=0.02)  # half a text more of each
    assert chance.value > 0.1  # every vector adds to every concept here
    assert reading(interference=3.0).sums()[0].value < -0.3
    less = reading().less()
    # happy - sad shows expit(1 - 1.5), happy alone expit(1); and the other way round
    wanted = np.mean([expit(-0.5) - expit(1.0), expit(0.5) - expit(1.5)])
    assert less.value == pytest.approx(wanted)
    few = Reading(of=Planted(best=()))
    few.of.grid = lambda each: [Grid(shown=np.zeros((6, 3, 24)), broken=np.zeros((6, 3, 24)), raw=np.ones((6, 3)))] * 3
    assert math.isnan(few.sums()[0].value)
    assert few.less().null == "too few concepts work"


def test_a_raw_strength_that_is_four_times_another_models_does_not_carry_over():
    raw, better = carried_over(reading(), reading(unit=4.0))
    assert (raw.value, better.value) == (2.0, 2.0)
    assert carried_over(reading(), reading())[1].value == 0


def test_every_claim_is_of_a_model_or_not_run():
    keys = [claim.key for claim in concept_claims.CLAIMS]
    assert len(set(keys)) == len(keys)
    assert sum(key.startswith("second: ") for key in keys) == sum(key.startswith("stories: ") for key in keys) == 9
    assert concept_claims.INTROSPECTION in concept_claims.CLAIMS


@pytest.fixture
def writer(tmp_path):
    settings = {"seeds": 2, "concepts": ["happy", "sad"], "shares": [0.5, 2.0], "max_new_tokens": 3, "n_random": 1}
    settings |= {"n_own": 24, "n_repeats": 1, "model": "pocket", "second": "", "stories": ""}
    return Writer(model=ms.load_model("pocket"), settings=settings, cells=Cells(tmp_path))


def test_a_real_model_writes_every_cell_once(writer, monkeypatch):
    happy = writer.concepts[0]
    site = ms.Site(2, "resid_post")
    lengths = ms.capture(writer.model, list(concept_texts.NEUTRAL), site, progress=False)[site]
    norms = lengths.values.norm(dim=-1)[lengths.mask]
    assert writer.unit_coeffs[2] == pytest.approx(float(norms.mean()), rel=0.3)  # those of its own texts count, too
    length = float(writer.vectors["happy", 2].vector.norm())
    assert writer.raw("happy", 2, 0.5) * length == pytest.approx(0.5 * writer.unit_coeffs[2])
    monkeypatch.setattr(Writer, "n_layers", 2)
    first = writer.grid(happy)
    assert first[0].shown.shape == first[1].broken.shape == (2, 2, N_PROMPTS)
    assert first[0].broken[1, 1].mean() > first[0].broken[1, 0].mean()  # twice the residual is too much
    random, base, prompted = writer.random(0), writer.base(0), writer.prompted(happy, 0)
    assert random["sad"].shape == (1, 2, 2, N_PROMPTS)
    assert base["happy"].shape == (N_PROMPTS,)
    assert prompted.shape == (3, N_PROMPTS)
    mixed = writer.mixed((("happy", 1.0), ("sad", -1.0)), 0)
    monkeypatch.setattr(concept_texts, "generate", None)
    assert np.array_equal(writer.grid(happy)[1].shown, first[1].shown)
    assert np.array_equal(writer.random(0)["happy"], random["happy"])
    assert writer.mixed((("happy", 1.0), ("sad", -1.0)), 0) == mixed
    with pytest.raises(TypeError):
        writer.random(1)
    assert concept_found.PAIRS[0] == ("happy", "pirate")
