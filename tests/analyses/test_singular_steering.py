"""What analyses/singular_steering reckons with: planted effects at equal loss, reversibility, Holm; one real steering of each sort."""

import math
import sys
from types import SimpleNamespace

import common
import numpy as np
import pytest
import verify
from common import Cells, Finding

from mechsteer.attribution import SingularAttribution
from mechsteer.baselines import Prompted, Scaled
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import answer_tokens
from mechsteer.results import Interval

FOLDER = common.HERE / "singular_steering"
sys.path.insert(0, str(FOLDER))

import singular_claims  # noqa: E402
import singular_compared  # noqa: E402
import singular_found  # noqa: E402
import singular_makes  # noqa: E402
import singular_readings  # noqa: E402
import singular_tasks  # noqa: E402

COEFFS = (-2.0, -1.0, 0.0, 1.0, 2.0)
N = 24
LABELS = tuple([1, -1] * (N // 2))
GROUPS = tuple(str(i // 2) for i in range(N))


def planted(effect, even=0.0, loss=0.1, coherent=(-2.0, 2.0), spread=0.0, base=1.0):
    """score(c) = 3 + effect c + even c² and some noise of the rows that is the same in all; loss c² of neutral text."""
    c = np.array(COEFFS)
    rows = spread * np.random.default_rng(0).normal(size=N)
    scores = 3 + (effect + rows) * c[:, None] + even * (c**2)[:, None] + np.zeros(N)
    points = [SimpleNamespace(delta_nll=SimpleNamespace(value=loss * x**2), valid=1.0) for x in c]
    method = SimpleNamespace(
        scores=scores, points=points, coherent=coherent, examples=(), rho=1.0, n_parameters=8, delta_nll=loss
    )
    method.effect = SimpleNamespace(value=effect)
    method.at = lambda coeff: points[COEFFS.index(coeff)]
    score = Interval(value=base, low=base - 0.5, high=base + 0.5)
    dose = SimpleNamespace(methods=[method], coeffs=COEFFS, labels=LABELS, groups=GROUPS)
    dose.base = SimpleNamespace(score=score, accuracy=0.8)
    dose.at_equal_loss = lambda loss: {"effect": SimpleNamespace(iloc=[effect])}
    return singular_makes.Swept.of(dose, 1.0)


class Shop:
    """Planted effects by the make's name; the second seed's are .2 larger for everything."""

    seeds = range(3)
    settings = {"loss": 0.1, "n_boot": 100, "coeffs": COEFFS}  # noqa: RUF012

    def __init__(self, effects, name="honesty", base=1.0):
        transfers = (("honest", "honesty"), ("honest", "asked")) if name == "honesty" else ()
        self.of = SimpleNamespace(name=name, transfers=transfers)
        self.effects, self.base = effects, base

    def swept(self, make, seed, pairs="", asked=""):
        name = make.name.rstrip(" 01")
        effect = self.effects.get((name, asked), self.effects.get(name, 0.5))
        return planted(effect + 0.2 * (seed == 1), even=0.1, spread=0.3, base=self.base)


def test_effects_are_two_sided_and_linear_between_coefficients():
    swept = planted(0.7, even=5.0, loss=0.1)  # what is even in c is no effect
    assert swept.coeff_at(0.1) == 1.0
    assert swept.coeff_at(0.25) == pytest.approx(1.5)
    np.testing.assert_allclose(swept.at(0.25), 1.05)
    np.testing.assert_allclose(swept.at(0.1), 0.7)


def test_beyond_what_it_loses_or_answers_it_is_taken_where_it_last_answers():
    assert planted(0.7, loss=0.001).coeff_at(0.1) == 2.0
    assert planted(0.7, loss=0.001, coherent=(-1.0, 2.0)).coeff_at(0.1) == 1.0
    assert planted(0.7, loss=0.04, coherent=(-1.0, 2.0)).coeff_at(0.1) == 1.0
    nothing = planted(0.7, coherent=None)
    assert nothing.coeff_at(0.1) == 0.0
    assert not nothing.at(0.1).any()


def test_asymmetry_is_0_of_the_odd_and_1_of_the_even():
    assert singular_compared.asymmetry(planted(0.7), 1.0, 50).value == pytest.approx(0, abs=1e-12)
    assert singular_compared.asymmetry(planted(0.0, even=0.7), 1.0, 50).value == pytest.approx(1)
    some = singular_compared.asymmetry(planted(0.75, even=0.25), 2.0, 50)  # changes 2.5 and −.5
    assert some.value == pytest.approx(2 / 3)


def test_differences_are_paired_by_question_and_pooled():
    shop = Shop({"singular": 1.5, "lora": 0.5})
    own, lora = singular_found.equal(singular_found.OWN), singular_found.equal(singular_found.LORA)
    found = singular_compared.differences([shop], own, lora, "lora")
    assert found.value == pytest.approx(1.0)
    assert found.high - found.low < 1e-6  # the noise of rows and seeds is the same on both sides
    assert found.n_seeds == 3
    alone = singular_compared.differences([shop], own, None, "nothing")
    assert alone.value == pytest.approx(1.5 + 0.2 / 3, abs=0.2)
    assert alone.high - alone.low > 0.1
    both = singular_compared.differences([shop, Shop({"singular": 0.5}, "sentiment")], own, lora, "lora")
    assert both.value == pytest.approx(0.5)
    assert both.words.startswith("honesty 1.00")
    assert "sentiment 0.00" in both.words


def test_the_strongest_rival_is_the_one_that_is_held_against():
    shop = Shop({"singular": 1.5, "U alone": 0.3, "both sides": 1.2, "no rotation": 0.1, "untrained": 0.9})
    found = singular_found.rivals([shop], "beats ")
    assert found["beats V alone"].value == pytest.approx(0.3)
    assert found["beats V alone"].null.startswith("both sides: 1.2")
    assert found["beats chance"].value == pytest.approx(0.6)
    assert found["beats chance"].null.startswith("untrained adapters")
    assert found["beats mean difference"].value == pytest.approx(1.0)


def test_the_rate_of_a_seed_is_chosen_on_the_others():
    class Uneven(Shop):
        def swept(self, make, seed, pairs="", asked=""):
            lucky = {"lora": (9.0, 0.1, 0.1)}.get(make.name, (0.5, 0.5, 0.5))  # by far the best, in one seed alone
            return planted(lucky[seed])

    of = singular_found.tuned((singular_found.LORA, *singular_found.LORA_SLOWER))
    found = [of(Uneven({}), seed)[1].mean() for seed in range(3)]
    np.testing.assert_allclose(found, [0.5, 0.1, 0.1])


def test_every_variant_has_a_finding():
    effects = {"singular": 1.5, "margin 2, long": 1.9, "up alone": 0.7, "k alone": 0.6, "q alone": 0.1}
    effects |= {
        "v alone": 0.1,
        "gate alone": 0.2,
        "loss at N - 2": 1.4,
        "loss at N - 1": 0.3,
        ("singular", "honesty"): 0.8,
    }
    found = singular_found.variants([Shop(effects)])
    assert found["margin 2"].value == pytest.approx(0.4)
    assert found["up is best"].value == pytest.approx(0.1)
    assert found["after N - 3"].value == pytest.approx(0.1)
    assert found["transfers"].value == pytest.approx(0.3)
    assert found["angle costs"].value < 0  # the same even part beside a larger effect
    assert 0 < found["reversible"].value < 0.2
    assert found["honest when asked"].outcome is None


def test_a_model_that_does_not_know_cannot_be_asked():
    found = singular_found.variants([Shop({}, base=0.4)])["honest when asked"]
    assert found.outcome == "not testable here"
    assert "right in 0.80" in found.words


def finding(value, half, **more):
    return Finding(value=value, low=value - half, high=value + half, n_seeds=3, null="", **more)


def test_holm_undoes_what_many_claims_find_by_chance():
    claims = singular_claims.CLAIMS[:6]
    keys = [claim.key for claim in claims]
    barely, clear = finding(0.1 + 1.05, 1.0), finding(5.0, 1.0)
    assert claims[0].outcome(barely) == "holds"
    found = singular_claims.family(claims, dict.fromkeys(keys, finding(0.1, 1.0)) | {keys[0]: barely, keys[1]: clear})
    assert found[keys[0]].outcome == "undecided at this power"
    assert claims[1].outcome(found[keys[1]]) == "holds"
    assert "after Holm over 6 claims" in found[keys[1]].words
    unasked = finding(0.3, 0.1, outcome="not testable here")
    left = singular_claims.family(
        claims, dict.fromkeys(keys, singular_found.none("x")) | {keys[0]: barely, keys[1]: unasked}
    )
    assert claims[0].outcome(left[keys[0]]) == "holds"  # the only claim of its family
    assert left[keys[1]] == unasked
    assert math.isnan(left[keys[2]].value)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Both preferences of the bundled model, little of everything."""
    settings, _ = common.resolve(FOLDER, ["quick=true", "n_pairs=4"])
    cells = Cells(tmp_path_factory.mktemp("cells"))
    found = singular_tasks.preferences(settings)
    return [singular_makes.Workshop(of=one, settings=settings, cells=cells) for one in found]


def test_moods_are_asked_both_ways(tiny):
    questions = tiny[1].of.asked["sentiment"]
    assert len(questions) == 16
    assert questions.imbalance == 0
    tokens = answer_tokens(tiny[1].of.model, questions.yes, questions.no)
    assert len(tokens.yes) == len(tokens.no) == 2  # all four words are tokens
    with pytest.raises(DataError, match="3 questions about moods"):
        singular_tasks.moods(3)


def test_a_steering_is_trained_and_swept_once(tiny, monkeypatch):
    shop = tiny[0]
    swept = shop.swept(singular_found.OWN, 0)
    assert swept.effects.shape == (2, len(swept.dose.labels))
    assert swept.angle > 0.01  # it was trained
    assert np.nanmax(np.abs(swept.effects[1])) > 1e-3
    monkeypatch.setattr(singular_makes, "dose_response", None)  # what was kept is read
    again = shop.swept(singular_found.OWN, 0)
    np.testing.assert_array_equal(again.effects, swept.effects)


def test_makes_differ_in_what_they_say(tiny):
    shop, honest = tiny[0], ("happy", "sad")
    assert shop.layers(singular_found.OWN) == ([1, 2], 3)
    assert shop.layers(singular_found.LATER[1])[1] == 5
    prompt = shop.method(singular_found.PROMPT, 0)
    assert isinstance(prompt, Prompted)
    assert "person" in prompt.positive  # of the honest and the dishonest, not of a statement
    assert prompt.positive != prompt.negative
    assert isinstance(shop.method(singular_found.LORA, 0), Scaled)
    first, second = (shop.method(make, 0).steering for make in singular_found.UNTRAINED)
    assert not np.allclose(*(s.interventions[0].adapter.scale.detach() for s in (first, second)))
    assert honest[0] not in prompt.positive


def test_triples_are_attributed_once_and_told(tiny):
    found, tables = singular_readings.carried([tiny[1]])
    assert found.n_seeds in (0, 1)
    rows = tables["The effect in the adapter's own triples, beside meaningless bases"]
    assert rows[0]["preference"] == "sentiment"
    again = singular_readings._attributed(tiny[1], 0)
    assert isinstance(again, SingularAttribution)
    assert again.settings.nulls == 19


def test_a_story_model_needs_stories(tmp_path):
    settings, _ = common.resolve(FOLDER, ["quick=true", "stories=some-model"])
    with pytest.raises(ConfigError, match=r"stories is 'some-model', stories_text ''"):
        verify.load(FOLDER).measure(settings, Cells(tmp_path))


def test_without_a_story_model_its_claims_are_not_run(tmp_path, monkeypatch, capsys):
    module = verify.load(FOLDER)
    of = SimpleNamespace(fingerprint="planted", asked={}, name="honesty")
    shop = Shop({"singular": 1.5})
    shop.of = SimpleNamespace(**(vars(shop.of) | vars(of)))
    monkeypatch.setattr(module, "preferences", lambda settings: [of])
    monkeypatch.setattr(module, "Workshop", lambda **_: shop)
    monkeypatch.setattr(module, "carried", lambda shops: (finding(0.5, 0.1), {}))
    assert module.main(str(FOLDER / "run.py"), module.CLAIMS, module.measure, [f"out={tmp_path}"]) == 0
    answer = common.read_answer(tmp_path / "answer.json")
    outcomes = {each.claim.key: each.outcome for each in answer.settled}
    assert outcomes["beats LoRA"] == outcomes["few triples carry it"] == "holds"
    assert outcomes["margin 2"] == "does not hold"
    stories = [each for each in answer.settled if each.claim.key.startswith("stories: ")]
    assert len(stories) == 6
    assert all(each.finding.null.startswith("not run here") for each in stories)
    rows = answer.figures["Effect at equal loss"]
    assert {row["steering"] for row in rows} == {make.name for make in singular_found.EVERY}
    assert "beats LoRA" in capsys.readouterr().out


def test_the_readmes_table_is_of_the_answer():
    text = (FOLDER / "README.md").read_text("utf-8")
    rows = common.read_answer(FOLDER / "answer.json").figures["Effect at equal loss"]
    effects = {(row["steering"], row["preference"]): f"{row['effect']:.2f}".replace("0.", ".") for row in rows}
    for line, name in {
        "singular adapter, V alone": "singular",
        "mult in place of add": "mult",
        "mean difference": "mean_difference",
        "pairwise PCA": "pairwise_pca",
        "S-space vector": "s_space",
    }.items():
        told = [effects.get((name, preference), "not run") for preference in ("honesty", "sentiment", "stories")]
        assert f"| {line} | {' | '.join(told)} |" in text
    lora = [effects["lora", preference] for preference in ("honesty", "sentiment", "stories")]
    slow = effects["lora, a tenth of the rate", "stories"]
    assert f"| LoRA, at the rate .03 | {' | '.join(lora)} ({slow} at .003) |" in text
