"""From a method's log-odds to its figures: rows of the target, calibration of the sign, points, shifts of every value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from mechsteer.errors import DataError
from mechsteer.evaluation import dose_metrics as metrics
from mechsteer.evaluation.dose_results import DosePoint, ExampleAnswer, MethodDose, ValueShift
from mechsteer.evaluation.dose_runs import Runs
from mechsteer.evaluation.paired import compare_scores, holm, resamples
from mechsteer.evaluation.yes_no import defined
from mechsteer.results import Interval
from mechsteer.tasks.questions import QuestionSet

LEAST_ROWS = 4  # of a value, for its shift to be tested


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which questions are about the target, and which of them calibrate signs."""

    target: str
    test: ndarray
    """[n_rows] numbers of questions"""
    calibration: ndarray
    """[n_calibration] the same"""
    labels: ndarray
    """[n_rows] +1 or −1"""
    calibration_labels: ndarray
    groups: ndarray
    """[n_rows] number of each row's situation, from 0"""
    others: tuple[tuple[str, ndarray, ndarray, ndarray], ...]
    """every value with its questions that did not calibrate, their labels, and their situations"""

    @classmethod
    def of(cls, questions: QuestionSet, *, seed: int, calibration: float) -> Rows:
        """Draw the situations that calibrate, in proportion from those with more of either label.

        Raises DataError where a label of the target has fewer than two situations, or the share is not within (0, 1).
        """
        if not 0 < calibration < 1:
            raise DataError(f"{calibration} of the situations calibrate signs", "give a share above 0 and below 1")
        asked = questions.questions
        at = {i: q.labels[questions.target] for i, q in enumerate(asked) if questions.target in q.labels}
        totals: dict[str, int] = {}
        for i, label in at.items():
            totals[asked[i].group] = totals.get(asked[i].group, 0) + label
        rng, drawn = np.random.default_rng(seed), set()
        for total in sorted(set(totals.values())):
            same = [group for group, t in totals.items() if t == total]
            if len(same) > 1:
                n = min(max(1, round(calibration * len(same))), len(same) - 1)
                drawn |= {same[i] for i in rng.permutation(len(same))[:n]}
        if not drawn:
            raise DataError(
                f"{questions.name} has {len(totals)} situations about {questions.target!r}: none is left to calibrate signs",
                "give at least two of each label",
            )
        test = np.array([i for i in at if asked[i].group not in drawn])
        held = np.array([i for i in at if asked[i].group in drawn])
        return cls(
            target=questions.target,
            test=test,
            calibration=held,
            labels=np.array([at[i] for i in test]),
            calibration_labels=np.array([at[i] for i in held]),
            groups=_numbers([asked[i].group for i in test]),
            others=tuple(_of_value(questions, value, drawn) for value in questions.values),
        )


def _numbers(groups: Sequence[str]) -> ndarray:
    return np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)[1]


def _of_value(questions: QuestionSet, value: str, drawn: set[str]) -> tuple[str, ndarray, ndarray, ndarray]:
    chosen = [i for i, q in enumerate(questions.questions) if value in q.labels and q.group not in drawn]
    labels = np.array([questions.questions[i].labels[value] for i in chosen], dtype=int)
    return value, np.array(chosen, dtype=int), labels, _numbers([questions.questions[i].group for i in chosen])


def method_dose(
    *,
    name: str,
    n_parameters: int | None,
    run: Runs,
    coeffs: ndarray,
    rows: Rows,
    prompts: Sequence[str],
    least_mass: float,
    n_boot: int,
    seed: int,
) -> MethodDose:
    """The figures of one method; coefficients are turned round where the calibration rows say so."""
    how = {"n_boot": n_boot, "seed": seed}
    odds = defined(run.log_odds, run.mass, least_mass)
    one, minus = (int(np.flatnonzero(coeffs == c)[0]) for c in (1.0, -1.0))
    held = odds[:, rows.calibration] * rows.calibration_labels
    sign = metrics.sign_of(held[one] - held[minus], rows.calibration_labels)
    if sign < 0:  # the coefficients are symmetric: c stands where −c stood
        odds, loss, texts = odds[::-1], run.loss[::-1], run.texts[::-1]
    else:
        loss, texts = run.loss, run.texts
    scores = odds[:, rows.test] * rows.labels
    points = _points(coeffs, scores, loss, run.n_tokens, rows, how)
    effect = metrics.mean_interval((scores[one] - scores[minus]) / 2, rows.labels, rows.groups, **how)
    valid = np.array([point.valid for point in points])
    coherent = metrics.coherent_range(coeffs, valid)
    rho = metrics.rank_correlation(coeffs, scores)
    lost = [each.delta_nll.value for each in (points[one], points[minus]) if each.delta_nll is not None]
    delta_nll = max(lost) if lost else math.nan
    within = coherent or (0.0, 0.0)
    return MethodDose(
        name=name,
        n_parameters=n_parameters,
        sign=sign,
        points=points,
        effect=effect,
        slope=metrics.slope(coeffs, scores, rows.groups),
        rho=rho,
        delta_nll=delta_nll,
        coherent=coherent,
        per_log_parameters=metrics.per_log_parameters(effect.value, n_parameters),
        gain=metrics.normalised_gain(effect.value, rho, delta_nll),
        falls=metrics.falls(coeffs, scores, rows.labels, rows.groups, within, **how),
        smoothness=metrics.smoothness(coeffs, [point.score.value for point in points]),
        shifts=_shifts(odds[one], odds[minus], rows, how),
        examples=tuple(
            ExampleAnswer(coeff=float(c), prompt=prompt, text=text)
            for c, written in zip(coeffs, texts, strict=True)
            if written
            for prompt, text in zip(prompts, written, strict=True)
        ),
        scores=scores,
    )


def _points(
    coeffs: ndarray, scores: ndarray, loss: ndarray, n_tokens: ndarray, rows: Rows, how: dict[str, int]
) -> tuple[DosePoint, ...]:
    zero = int(np.flatnonzero(coeffs == 0)[0])
    found = []
    for i, coeff in enumerate(coeffs):
        s, known = scores[i], np.isfinite(scores[i])
        right = np.where(known, s > 0, np.nan)
        own = np.where(known, 1 / (1 + np.exp(-np.clip(s, -700, 700))), np.nan)
        found.append(
            DosePoint(
                coeff=float(coeff),
                score=metrics.mean_interval(s, rows.labels, rows.groups, **how),
                effect=metrics.mean_interval(s - scores[zero], rows.labels, rows.groups, **how),
                accuracy=float(metrics.balanced_mean(right, rows.labels)),
                probability=float(metrics.balanced_mean(own, rows.labels)),
                valid=float(known.mean()),
                delta_nll=_delta_nll(loss[i] - loss[zero], n_tokens, how) if len(n_tokens) else None,
            )
        )
    return tuple(found)


def _delta_nll(change: ndarray, n_tokens: ndarray, how: dict[str, int]) -> Interval:
    """Per token; intervals resample texts. nan where a loss is."""
    weights = resamples(len(change), how["n_boot"], how["seed"])[0]
    return Interval.from_draws(change.sum() / n_tokens.sum(), (weights @ change) / (weights @ n_tokens))


def _shifts(up: ndarray, down: ndarray, rows: Rows, how: dict[str, int]) -> tuple[ValueShift, ...]:
    """Every value from c = −1 to 1, halved, with Holm's correction over those that can be tested."""
    found: list[tuple[str, int, Interval | None, float]] = []
    for value, at, labels, groups in rows.others:
        change = (up[at] - down[at]) * labels / 2
        known = np.isfinite(change)
        if not {1, -1} <= set(labels[known].tolist()) or known.sum() < LEAST_ROWS:
            found.append((value, int(known.sum()), None, math.nan))
            continue
        numbers = np.unique(groups[known], return_inverse=True)[1]
        balanced = change[known] / _shares(labels[known])
        tested = compare_scores(np.zeros(len(balanced)), balanced, numbers, **how)
        shift = metrics.mean_interval(change[known], labels[known], numbers, **how)
        found.append((value, int(known.sum()), shift, tested.p_value))
    corrected = holm({value: p for value, _, _, p in found})
    return tuple(
        ValueShift(value=v, n=n, shift=shift, p_value=p, p_corrected=corrected[v], is_target=v == rows.target)
        for v, n, shift, p in found
    )


def _shares(labels: ndarray) -> ndarray:
    """Per row 2 · its label's share of the rows: dividing by it makes a mean that of both labels' means."""
    plus = float((labels == 1).mean())
    return np.where(labels == 1, 2 * plus, 2 * (1 - plus))
