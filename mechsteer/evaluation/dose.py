"""Dose and response: methods of steering over a sweep of coefficients, on questions that are answered yes or no.

Each situation is asked once; its score is the log-odds of yes, signed by what a yes says about the target value. A quarter
of the situations calibrates each method's sign (negative where more of it lowers the score) and is in no other figure.
Every method at c = 0 equals the base model to 1e-6 nats, or there is no table.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mechsteer.baselines import Method
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.dose_results import DoseResponse, MethodDose, Provenance
from mechsteer.evaluation.dose_runs import Asked, Runs, all_runs
from mechsteer.evaluation.dose_scores import Rows, method_dose
from mechsteer.evaluation.scoring import Keep, at_once
from mechsteer.evaluation.yes_no import LEAST_MASS, answer_tokens
from mechsteer.models import model_fingerprint
from mechsteer.tasks.questions import Question, QuestionSet

COEFFS = (-5.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0)
NEEDED = (-1.0, 0.0, 1.0)
HELD_OUT = 0.25


def dose_response(
    model: Any,
    methods: Sequence[Method],
    questions: QuestionSet,
    *,
    coeffs: Sequence[float] = COEFFS,
    neutral: Sequence[str] = (),
    calibration: float = HELD_OUT,
    require_balance: bool = True,
    least_mass: float = LEAST_MASS,
    n_examples: int = 2,
    max_new_tokens: int = 12,
    batch_size: int = 64,
    n_boot: int = 2000,
    seed: int = 0,
    seeds: Sequence[int] = (),
    command: str = "",
    commit: str = "",
    keep: Keep = at_once,
) -> DoseResponse:
    """Run every method at every coefficient on the questions and report each on the rows that did not calibrate its sign.

    `model` is the base model that the methods steer. `coeffs` rise symmetrically about 0 and hold −1, 0 and 1.
    `neutral`: texts for ΔNLL, of more than four words each. `calibration`: the share of situations that decides signs.
    `least_mass`: of yes and no together, below which a row has no answer. `seeds`, `command`, `commit`: for the caption.

    Raises ConfigError (coefficients, no methods or two of one name, words that are no single tokens), DataError (labels
    of the target that do not balance, unless `require_balance` is False; fewer than two situations per label),
    ModelMismatchError where a method at c = 0 is not the base model.
    """
    swept = coefficients(coeffs)
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"the methods are {names}", "give at least one, each under its own name")
    if require_balance and questions.imbalance:
        raise DataError(
            f"{questions.name} has {questions.imbalance:+d} more questions whose yes serves {questions.target!r} than "
            "violates it: a model that always says yes would not score 0",
            "take as many of each: questions.balanced(), or say require_balance=False",
        )
    rows = Rows.of(questions, seed=seed, calibration=calibration)
    asked = Asked(
        prompts=tuple(q.prompt for q in questions.questions),
        tokens=answer_tokens(model, questions.yes, questions.no),
        neutral=tuple(neutral),
        examples=tuple(q.prompt for q in _examples(questions, rows, n_examples)),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    told = [swept, names, [m.n_parameters for m in methods], len(neutral), calibration, least_mass, n_boot, seed]
    measured = all_runs(model, methods, swept, asked, keep)
    how = {"n_boot": n_boot, "seed": seed}
    found = [_dose(m, r, swept, rows, asked, least_mass, how) for m, r in zip(methods, measured, strict=True)]
    return DoseResponse(
        questions=questions.name,
        target=questions.target,
        is_balanced=not questions.imbalance,
        coeffs=swept,
        methods=tuple(found),
        n_rows=len(rows.test),
        n_calibration=len(rows.calibration),
        n_situations=int(rows.groups.max()) + 1,
        n_neutral=len(neutral),
        least_mass=least_mass,
        provenance=Provenance(
            data_hash=questions.data_hash,
            config_hash=hashlib.sha256(repr(told).encode()).hexdigest()[:16],
            seed=seed,
            seeds=tuple(seeds),
            command=command,
            commit=commit,
            model=model_fingerprint(model),
        ),
        groups=tuple(questions.questions[i].group for i in rows.test),
        labels=tuple(rows.labels.tolist()),
    )


def _dose(
    method: Method, run: Runs, coeffs: Sequence[float], rows: Rows, asked: Asked, least_mass: float, how: dict[str, int]
) -> MethodDose:
    return method_dose(
        name=method.name,
        n_parameters=method.n_parameters,
        run=run,
        coeffs=np.array(coeffs),
        rows=rows,
        prompts=asked.examples,
        least_mass=least_mass,
        **how,
    )


def _examples(questions: QuestionSet, rows: Rows, n: int) -> list[Question]:
    """The first questions of either label in turn, none of them used for calibration."""
    sides = [[i for i, label in zip(rows.test, rows.labels, strict=True) if label == one] for one in (1, -1)]
    mixed = [i for pair in zip(*sides, strict=False) for i in pair] or [*sides[0], *sides[1]]
    return [questions.questions[i] for i in mixed[:n]]


def coefficients(coeffs: Sequence[float]) -> tuple[float, ...]:
    """In rising order. Raises ConfigError where they are not symmetric, not different, or lack −1, 0 or 1."""
    swept = sorted(float(c) + 0.0 for c in coeffs)
    if not all(map(math.isfinite, swept)) or len(set(swept)) < len(swept) or swept != sorted(-c + 0.0 for c in swept):
        raise ConfigError(f"coefficients {list(coeffs)}", "give finite ones, each once, and with each c its -c")
    if not set(NEEDED) <= set(swept):
        raise ConfigError(f"coefficients {list(coeffs)}", "-1, 0 and 1 must be among them")
    return tuple(swept)
