"""Dose and response: planted curves come back, a constant answer scores nothing, contamination is refused."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.baselines import Method, Prompted, Steered
from mechsteer.errors import ConfigError, DataError, ModelMismatchError
from mechsteer.evaluation import COEFFS, dose_response
from mechsteer.evaluation.dose_runs import Runs
from mechsteer.evaluation.dose_scores import Rows, method_dose
from mechsteer.results import from_json, to_json
from mechsteer.tasks import Question, QuestionSet

C = np.array(COEFFS)
TEXTS = [f"the cat number {i} sat on a mat and slept" for i in range(3)]
FAST = {"n_boot": 50, "least_mass": 0.0, "max_new_tokens": 2}


def questions(n: int = 16, other: int = 0) -> QuestionSet:
    """Half of each label about "good"; the first `other` of them about "side" too."""
    made = [
        Question(
            id=str(i),
            prompt=f"question {i}:",
            group=str(i),
            labels={"good": 1 if i % 2 else -1} | ({"side": 1 if i % 4 < 2 else -1} if i < other else {}),
        )
        for i in range(n)
    ]
    return QuestionSet(name="made", questions=tuple(made), target="good", yes=("y",), no=("n",))


def planted(log_odds: np.ndarray, mass: np.ndarray | None = None, loss: np.ndarray | None = None):
    """A method's figures from planted log-odds [n_coeffs n_questions] of the set above."""
    asked = questions(log_odds.shape[1], other=16)
    rows = Rows.of(asked, seed=0, calibration=0.25)
    run = Runs(
        log_odds=log_odds,
        mass=np.ones_like(log_odds) if mass is None else mass,
        loss=np.zeros((9, 2)) if loss is None else loss,
        n_tokens=np.array([10.0, 10.0]),
        texts=((),) * 9,
    )
    how = {"prompts": (), "least_mass": 0.5, "n_boot": 200, "seed": 0}
    return method_dose(name="m", n_parameters=100, run=run, coeffs=C, rows=rows, **how)


def labels(n: int = 40) -> np.ndarray:
    return np.array([1 if i % 2 else -1 for i in range(n)])


def test_a_planted_effect_comes_back() -> None:
    noise = np.random.default_rng(0).normal(size=40)
    found = planted(labels() * (1.5 * C[:, None] + noise), loss=np.abs(C)[:, None] * np.array([1.0, 3.0]))
    assert found.sign == 1
    assert found.effect.value == pytest.approx(1.5)
    assert [p.effect.value for p in found.points] == pytest.approx((1.5 * C).tolist())
    assert found.slope.value == pytest.approx(1.5)
    assert found.at(5.0).accuracy == 1.0
    assert found.at(-5.0).accuracy == 0.0
    assert found.delta_nll == pytest.approx(4 / 20)
    assert found.per_log_parameters == pytest.approx(1.5 / math.log(100))
    assert found.gain == pytest.approx(100 * 1.5 * found.rho / 1.2)
    assert (found.coherent, found.falls) == ((-5.0, 5.0), ())


def test_a_policy_that_always_says_yes_scores_nothing() -> None:
    found = planted(np.tile(3.0 * C[:, None], 40))
    assert [p.score.value for p in found.points] == pytest.approx([0.0] * 9, abs=1e-12)
    assert found.effect.value == pytest.approx(0.0, abs=1e-12)
    assert [p.accuracy for p in found.points if p.coeff] == [0.5] * 8
    assert found.breadth == 0


def test_a_sign_is_turned_by_the_rows_that_calibrate_it() -> None:
    curve = labels() * (-2 * C[:, None] + np.random.default_rng(1).normal(size=40))
    loss = np.where(C > 0, C, 0.0)[:, None] * np.ones(2)
    found = planted(curve, loss=loss)
    assert (found.sign, pytest.approx(found.effect.value)) == (-1, 2.0)
    assert found.at(-5.0).delta_nll.value == pytest.approx(0.5)  # what was 5 is −5 now
    assert found.at(5.0).delta_nll.value == 0


def test_the_calibrating_rows_are_in_no_figure() -> None:
    rows = Rows.of(questions(40), seed=0, calibration=0.25)
    assert len(rows.calibration) == 10
    assert not set(rows.calibration) & set(rows.test)
    assert rows.labels.sum() == 0
    curve = labels() * C[:, None].repeat(40, axis=1)
    curve[:, rows.calibration] *= 100
    assert planted(curve).effect.value == pytest.approx(1.0)


def test_rows_without_an_answer_are_undefined_and_end_the_coherence_range() -> None:
    mass = np.ones((9, 40))
    mass[0, :], mass[-1, ::4] = 0.1, 0.1  # label −1 loses half of its rows at 5
    found = planted(labels() * C[:, None] * np.ones(40), mass)
    assert found.coherent[0] == -2.0
    assert found.at(-5.0).valid == 0
    assert math.isnan(found.at(-5.0).score.value)
    assert found.at(5.0).score.value == pytest.approx(5.0)
    assert np.isnan(found.scores[0]).all()


def test_shifts_of_side_effects_are_corrected_and_labelled_by_their_own_value() -> None:
    side = np.array([1 if i % 4 < 2 else -1 for i in range(40)])
    noise = np.random.default_rng(0).normal(size=(9, 40)) * 0.1
    found = planted(side * C[:, None] + noise)
    by = {shift.value: shift for shift in found.shifts}
    assert by["side"].is_significant
    assert not by["good"].is_significant
    assert (by["good"].is_target, by["side"].is_target) == (True, False)
    assert by["side"].shift.value * found.sign == pytest.approx(1.0, abs=0.2)  # the target has no sign to go by
    assert found.breadth == 1


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


def static(model, seed: int = 1, name: str = "static") -> Steered:
    return Steered(name, model, ms.Intervention(ms.adapters.Static(toys.vector(seed)), "resid_post@1"))


@pytest.fixture(scope="module")
def found(model):
    methods = [static(model), Prompted("prompt", model, "be good. ", "be bad. ")]
    return dose_response(model, methods, questions(), neutral=TEXTS, **FAST)


def test_every_method_is_the_base_model_at_0(found, model) -> None:
    static_, prompt = found.methods
    np.testing.assert_array_equal(static_.scores[4], prompt.scores[4])
    assert static_.at(0.0).effect.value == 0
    assert static_.at(0.0).delta_nll.value == 0
    assert (static_.n_parameters, prompt.n_parameters) == (toys.D_MODEL, None)
    assert math.isnan(prompt.per_log_parameters)


def test_scores_are_those_of_a_plain_steered_forward(found, model) -> None:
    one = found.of("static")
    at = list(found.coeffs).index(2.0 * one.sign)
    asked = questions()
    iv = ms.Intervention(ms.adapters.Static(toys.vector(1)), "resid_post@1", coeff=2.0)
    for column, (group, label) in enumerate(zip(found.groups, found.labels, strict=True)):
        with torch.no_grad(), ms.steer(model, iv):
            logits = model(model.to_tokens(asked.questions[int(group)].prompt))[0, -1]
        yes, no = (logits[ord(letter) - 33] for letter in "yn")
        assert one.scores[at, column] == pytest.approx(label * float(yes - no), abs=2e-4)


def test_neutral_loss_is_that_of_the_text_without_its_head(found, model) -> None:
    one = found.of("static")
    losses = {}
    for c in (0.0, 1.0 * one.sign):
        total = n = 0.0
        for text in TEXTS:
            head = len(model.to_tokens(" ".join(text.split()[:4]))[0])
            ids = model.to_tokens(text)
            iv = ms.Intervention(ms.adapters.Static(toys.vector(1)), "resid_post@1", coeff=c)
            with torch.no_grad(), ms.steer(model, iv, warn=False):
                log_p = model(ids)[0].double().log_softmax(-1)
            total -= float(log_p[:-1].gather(1, ids[0, 1:, None])[head - 1 :].sum())
            n += len(ids[0]) - head
        losses[abs(c)] = total / n
    assert one.at(1.0).delta_nll.value == pytest.approx(losses[1.0] - losses[0.0], abs=1e-4)


def test_examples_are_written_at_three_coefficients(found) -> None:
    assert [e.coeff for e in found.of("static").examples] == [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]


def test_frames_and_files(found) -> None:
    assert found.frame()["method"].tolist() == ["static", "prompt"]
    assert len(found.point_frame()) == 18
    assert set(found.value_frame()["value"]) == {"good"}
    assert from_json(type(found), to_json(found)) == found
    table = found.at_equal_loss(1e-3)
    assert table["method"].tolist() == ["static", "prompt"]
    with pytest.raises(ConfigError, match="a loss of 0"):
        found.at_equal_loss(0)
    with pytest.raises(ConfigError, match=r"no method 'statik' .*\n\nhint: closest are \['static'\]"):
        found.of("statik")


class LeftOn(Method):
    """Its adapter stays on: at 0 it is still there."""

    name, n_parameters = "left on", 1

    def __init__(self, model) -> None:
        self.model = model

    @contextlib.contextmanager
    def at(self, coeff: float):
        with ms.steer(
            self.model, ms.Intervention(ms.adapters.Static(toys.vector(2)), "resid_post@1", coeff=coeff or 0.01)
        ):
            yield self.model


class Leaking(LeftOn):
    """It changes a weight and does not change it back."""

    name = "leaking"

    @contextlib.contextmanager
    def at(self, coeff: float):
        if coeff > 0:
            with torch.no_grad():
                next(self.model.parameters()).add_(0.01 * coeff)
        yield self.model


def test_a_method_that_contaminates_the_next_is_refused_by_name(model) -> None:
    with pytest.raises(ModelMismatchError, match=r"'left on' at c = 0 differs from the base model by"):
        dose_response(model, [static(model), LeftOn(model)], questions(), **FAST)
    own = toys.load("llama")
    with pytest.raises(ModelMismatchError, match=r"'leaking' after its run differs .* the table is refused"):
        dose_response(own, [static(own), Leaking(own)], questions(), **FAST)


def test_settings_that_make_no_table_are_refused(model) -> None:
    method = static(model)
    for coeffs in ((-1, 0, 1, 2), (-2, 0, 2), (-1, 0, 0, 1), (-1, 0, math.nan, 1)):
        with pytest.raises(ConfigError, match="coefficients"):
            dose_response(model, [method], questions(), coeffs=coeffs, **FAST)
    for methods in ([], [method, method]):
        with pytest.raises(ConfigError, match="the methods are"):
            dose_response(model, methods, questions(), **FAST)
    with pytest.raises(DataError, match=r"-1 more questions whose yes serves 'good'"):
        dose_response(model, [method], questions(15), **FAST)
    with pytest.raises(DataError, match="none is left to calibrate"):
        dose_response(model, [method], questions(2), **FAST)
    with pytest.raises(DataError, match="neutral text 0 has 2 words"):
        dose_response(model, [method], questions(), neutral=["two words"], **FAST)


def test_an_unbalanced_set_is_measured_where_it_is_asked_for(model) -> None:
    found = dose_response(model, [static(model)], questions(15), coeffs=(-1, 0, 1), require_balance=False, **FAST)
    assert not found.is_balanced
    assert found.base.delta_nll is None
