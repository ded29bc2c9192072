"""The sign of a trained steering, decided on pairs that it was not trained on; its parameters are negated if need be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mechsteer.results import Result, live
from mechsteer.runtime.batches import by_length, make_batches
from mechsteer.runtime.restart import Start, logits_from
from mechsteer.steering.calibration import Metric, calibrate_sign
from mechsteer.steering.interventions import Intervention, Interventions, Steering, flatten, steer
from mechsteer.training.objectives.pairs import PairsLike, scored_rows
from mechsteer.training.parts import wide


@dataclass(frozen=True, kw_only=True)
class Orientation(Result):
    """A steering that at c = +1 goes towards the positive side of held-out pairs."""

    steering: Steering = live()
    sign: int
    """−1: its parameters were negated"""
    score_plus: float
    """of the steering as it was given, at c = +1"""
    score_minus: float
    n_held_out: int


def pair_log_odds(model: Any, steering: Interventions, pairs: PairsLike, *, batch_size: int = 32) -> list[float]:
    """Per pair the mean log-likelihood of a token of the positive text, less that of the negative one, in nats."""
    rows = scored_rows(model, pairs)
    means = torch.zeros(len(rows), dtype=torch.float64)
    for batch in make_batches(model, rows, batch_size, by_length(rows)):
        at = batch.predicts_target
        with torch.no_grad(), steer(model, steering, prompt_lengths=batch.prompt_lengths, warn=False):
            log_p = wide(logits_from(model, batch, Start(), at)).log_softmax(-1)
        picked = log_p.gather(1, batch.next_tokens[at][:, None])[:, 0].double()
        totals = picked.new_zeros(len(at)).index_add(0, at.nonzero()[:, 0], picked)
        means[batch.rows.cpu()] = (totals / at.sum(1)).cpu()
    return (means[::2] - means[1::2]).tolist()


def oriented(
    model: Any, steering: Interventions, held_out: Sequence[Any], *, metric: Metric = pair_log_odds
) -> Orientation:
    """The steering, its parameters negated where c = −1 scores higher on `held_out`; a tie leaves it as it is.

    `metric(model, steering, held_out)`: higher is more of the positive side; by default the pairs' log-odds. An adapter
    that is reversed by its coefficient alone gets the other coefficient. Raises as `calibrate_sign`.
    """
    given = steering if isinstance(steering, Steering) else Steering(flatten(steering))
    choice = calibrate_sign(model, given, metric, held_out)
    return Orientation(
        steering=given if choice.sign > 0 else _reversed(given),
        sign=choice.sign,
        score_plus=choice.score_plus,
        score_minus=choice.score_minus,
        n_held_out=choice.n_held_out,
    )


def _reversed(steering: Steering) -> Steering:
    made = {}
    for iv in steering.interventions:
        if isinstance(iv, Intervention):
            made.setdefault(id(iv.adapter), iv.adapter.reversed())

    def turned(iv: Any) -> Any:
        if not isinstance(iv, Intervention):
            return iv
        other = made[id(iv.adapter)]
        return iv.with_coeff(-iv.coeff) if other is None else replace(iv, adapter=other)

    return Steering([turned(iv) for iv in steering.interventions], steering.coeff)
