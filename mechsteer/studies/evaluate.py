"""Stages evaluate and where: every arm once on the same held-out problems; where the steering acts, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mechsteer.evaluation import (
    Arm,
    base_arm,
    delta_vectors,
    mean_difference_arm,
    mean_score,
    no_op_arm,
    pool_seeds,
    prompt_arm,
    random_arms,
    treated_arm,
)
from mechsteer.evaluation import evaluate as evaluate_arms
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions, Steering, flatten, writing
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept, states
from mechsteer.studies.places import observations
from mechsteer.studies.problems import Problems, room
from mechsteer.studies.results import (
    CaptureResult,
    EvaluateResult,
    TokenReading,
    TracesResult,
    TrainResult,
    WhereResult,
)
from mechsteer.tokens import token_text

N_RECORDED = 8  # dev prompts on which the norm of what a steering adds is measured
N_NEUTRAL = 64  # dev questions on which harm is measured
N_TEXTS, N_TOKENS = 4, 64  # of the texts on which it is shown where the steering acts


def evaluate(desk: Desk, traces: TracesResult, capture: CaptureResult, train: TrainResult) -> EvaluateResult:
    """Every arm on the same held-out problems, greedy, once."""
    settings, kept, problems = desk.settings, Kept(desk), Problems(desk, traces.metric)
    task = problems.task("test", settings.evaluate.n_problems)
    steerings = kept.steerings(train)
    result = evaluate_arms(
        desk.model,
        all_arms(desk, kept, problems, capture, train, steerings),
        problems.scoring(task),
        task.items,
        neutral=problems.prompts("dev", N_NEUTRAL)[:N_NEUTRAL],
        keep=desk.piece,
        seed=desk.seed("compare"),
        style_seed=desk.seed("style"),
        progress=desk.progress,
    )
    treated = result.with_role("treated")
    seeds = None
    if len(treated) > 1:
        seeds = pool_seeds(result.base.scored, [arm.scored for arm in treated], seed=desk.seed("seeds"))
    return EvaluateResult(evaluation=result.without_texts(), seeds=seeds)


def all_arms(
    desk: Desk,
    kept: Kept,
    problems: Problems,
    capture: CaptureResult,
    train: TrainResult,
    steerings: list[Steering],
) -> list[Arm]:
    """Base, the steering (one per adapter seed), and what it must be told apart from.

    Observations are left out: no score reads what they note, and arms without them share what is read of prompts.
    """
    steerings = [Steering(writing(steering)) for steering in steerings]
    chosen = steerings[0]
    where = ", ".join(train.choice.chosen.sites)
    arms = [base_arm(), treated_arm(chosen, note=f"{_named(train)} at {where}")]
    for i, other in enumerate(steerings[1:], start=1):
        arms.append(treated_arm(other, name=f"adapter, seed {i}", note="the same training with other random numbers"))
    arms.append(no_op_arm(chosen))
    if problems.metric == "accuracy":
        arms.append(prompt_arm(problems.careful_prefix(), note="the prompt asks for care"))
    recorded = problems.prompts("dev", N_RECORDED)[:N_RECORDED]
    if not all(train.choice.strengths.raw):
        return arms  # where nothing is added (untrained was best on dev) no direction has its norm
    if (difference := mean_difference(desk, kept, problems, capture, chosen, recorded)) is not None:
        arms.append(difference)
    arms += random_arms(
        desk.model,
        chosen,
        recorded,
        desk.settings.evaluate.n_random,
        generator=lambda i: desk.generator("random", i),
        max_new_tokens=room(desk.model, recorded, 32),
    )
    return arms


def mean_difference(
    desk: Desk, kept: Kept, problems: Problems, capture: CaptureResult, chosen: Steering, recorded: list[list[int]]
) -> Arm | None:
    """mean(right) − mean(wrong) of the training traces at the steering's site, of its norm; sign chosen on dev.

    None where all traces are right or all wrong, and where the steering writes elsewhere than in one residual stream.
    """
    (first, *rest), settings = writing(chosen), desk.settings
    site = first.site.at(desk.model)
    if rest or site not in capture.sites:
        return None
    if problems.metric == "log_odds":
        ends = "mean(positive) − mean(negative)"
        prompts = problems.prompts("train", settings.traces.n_problems)
        pos, neg = (
            states(desk.model, [p + end for p in prompts], site, settings.batch_size).pool("last")
            for end in problems.ends()
        )
    else:
        ends = "mean(right) − mean(wrong)"
        means = torch.stack([acts.mean(0) for acts in kept.responses(capture, site)])
        labels = torch.tensor([bool(trace.correct) for trace in kept.traces("train")])
        if labels.all() or not labels.any():
            return None
        pos, neg = means[labels], means[~labels]
    (vector,) = delta_vectors(desk.model, chosen, recorded, max_new_tokens=room(desk.model, recorded, 32))
    task = problems.task("dev", settings.traces.n_dev)
    return mean_difference_arm(
        site,
        pos,
        neg,
        float(vector.norm()),
        score=mean_score(desk.model, problems.scoring(task), task.items, keep=desk.piece),
        scope=first.scope,
        note=f"{ends}, norm of the adapter, sign chosen on dev",
    )


def _named(train: TrainResult) -> str:
    names = {"static": "one trained vector", "bias_only": "trained vectors", "own": "a steering of one's own"}
    return names.get(train.kind, f"a trained adapter of kind {train.kind}")


def where(desk: Desk, traces: TracesResult, capture: CaptureResult, train: TrainResult) -> WhereResult:
    """What was added at which token of dev texts that the steered model writes, and what else its adapters noted."""
    prompts = Problems(desk, traces.metric).prompts("dev", N_TEXTS)[:N_TEXTS]
    names = [f"dev problem {i + 1}" for i in range(len(prompts))]
    watched = [Kept(desk).steering(), *observations(desk.model, desk.settings.observers)]
    return steered_texts(desk.model, watched, prompts, names, desk.settings.max_new_tokens)


def steered_texts(
    model: Any, steering: Interventions, prompts: Sequence[list[int]], names: Sequence[str], most: int
) -> WhereResult:
    """The prompts and what the steered model writes after them, with all readings; at most N_TOKENS, or `most`."""
    out = generate(model, prompts, steering, max_new_tokens=room(model, prompts, min(N_TOKENS, most)), record=True)
    rows = [[*prompt, *new] for prompt, new in zip(out.prompt_tokens, out.tokens, strict=True)]
    readings = [
        TokenReading(
            name=name,
            site="+".join(map(str, iv.reads)) if iv.writes is None else str(iv.writes),
            values=tuple(values[i, : len(row)].float().cpu() for i, row in enumerate(rows)),
        )
        for iv, noted in zip(flatten(steering), out.readings, strict=True)
        for name, values in sorted(noted.items())
    ]
    return WhereResult(
        texts=tuple(tuple(token_text(model.tokenizer, token) for token in row) for row in rows),
        names=tuple(names),
        readings=tuple(readings),
    )
