"""Stages evaluate and where: every arm once on the same held-out problems; where the steering acts, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from mechsteer.evaluation import (
    Arm,
    Evaluation,
    Verified,
    base_arm,
    delta_vectors,
    forced_arms,
    magnitude_only_arm,
    mean_difference_steerings,
    no_op_arm,
    pool_seeds,
    prompt_arm,
    random_arms,
    shuffled_router_arm,
    treated_arm,
)
from mechsteer.evaluation import evaluate as evaluate_arms
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions, Steering, flatten, writing
from mechsteer.studies.choosing import Dev, sized
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept, states
from mechsteer.studies.places import observations
from mechsteer.studies.problems import Problems, Split, room
from mechsteer.studies.results import (
    CaptureResult,
    EvaluateResult,
    SplitRecord,
    TextPair,
    TokenReading,
    TracesResult,
    TrainResult,
    WhereResult,
)
from mechsteer.studies.train import median_norm
from mechsteer.tasks import require_disjoint
from mechsteer.tokens import continuation_text, token_text

N_RECORDED = 8  # dev prompts on which the norm of what a steering adds is measured
N_NEUTRAL = 64  # dev questions on which harm is measured
N_TEXTS, N_TOKENS = 4, 128  # of the texts on which it is shown where the steering acts, and what it changes


def evaluate(desk: Desk, traces: TracesResult, capture: CaptureResult, train: TrainResult) -> EvaluateResult:
    """Every arm on the same held-out problems, greedy, once. What is chosen is chosen on dev, as the adapter was."""
    settings, kept, problems = desk.settings, Kept(desk), Problems(desk, traces.metric)
    task = problems.task("test", settings.evaluate.n_problems)
    splits = frozen_splits(problems)
    arms = all_arms(desk, kept, problems, capture, train, kept.steerings(train))
    result = evaluate_arms(
        desk.model,
        arms,
        sized(problems.scoring(task), settings.evaluate.batch_size),
        task.items,
        equivalent=settings.evaluate.margin,
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
    sampled = None
    if settings.evaluate.n_sampled:
        sampled = sampled_answers(desk, problems.sampled(task), arms).without_texts()
    return EvaluateResult(evaluation=result.without_texts(), seeds=seeds, sampled=sampled, splits=splits)


def frozen_splits(problems: Problems) -> tuple[SplitRecord, ...]:
    """The problems of all three splits by their hashes. Raises DataError where two share a group or a prompt."""
    settings = problems.settings
    sizes: dict[Split, int] = {
        "train": settings.traces.n_problems,
        "dev": settings.traces.n_dev,
        "test": settings.evaluate.n_problems,
    }
    drawn = {split: problems.drawn(split, n) for split, n in sizes.items()}
    require_disjoint({f"the {split} split": task for split, task in drawn.items()})
    return tuple(
        SplitRecord(split=split, n_items=len(task.items), data_hash=task.data_hash) for split, task in drawn.items()
    )


def sampled_answers(desk: Desk, scoring: Verified, arms: Sequence[Arm]) -> Evaluation:
    """Base, treated and prompt arms with sampled answers; no arm is chosen or judged by them."""
    return evaluate_arms(
        desk.model,
        [arm for arm in arms if arm.role in ("base", "treated", "no_op", "prompt")],
        sized(scoring, desk.settings.evaluate.batch_size),
        scoring.task.items,
        equivalent=desk.settings.evaluate.margin,
        keep=lambda name, compute: desk.piece(f"sampled, {name}", compute),
        seed=desk.seed("compare"),
        style_seed=desk.seed("style"),
        progress=desk.progress,
    )


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
    arms += dynamic_controls(desk, chosen)
    openings = problems.openings()
    if problems.metric == "accuracy":
        careful = problems.careful_prefix()
        style = next((style for style, words in openings.items() if words == careful), "")
        arms.append(prompt_arm(careful, note="the prompt asks for care", style=style))
        # the model as it is behind these words is the prompt's arm
        arms += [arm for arm in forced_arms(chosen, openings) if arm.steering or arm.prefix != careful]
    recorded = problems.prompts("dev", N_RECORDED)[:N_RECORDED]
    if not all(train.choice.strengths.raw):
        return arms  # where nothing is added (untrained was best on dev) no direction has its norm
    factors = strengths_tried(train)
    dev = Dev(desk, problems, batch_size=desk.settings.evaluate.batch_size)
    if (difference := mean_difference(desk, kept, problems, capture, chosen, recorded, dev, factors)) is not None:
        arms.append(difference)

    def choose(name: str, candidates: Sequence[Interventions]) -> int:
        return dev.halve(name, candidates, [f"x{factor:g}" for factor in factors])[0]

    arms += random_arms(
        desk.model,
        chosen,
        recorded,
        desk.settings.evaluate.n_random,
        factors=factors,
        choose=choose,
        generator=lambda i: desk.generator("random", i),
        max_new_tokens=room(desk.model, recorded, 32),
    )
    return arms


def dynamic_controls(desk: Desk, chosen: Steering) -> list[Arm]:
    """What a steering that is more than vectors is told apart from: its size alone; its weights on other atoms."""
    adapters = [iv.adapter for iv in writing(chosen)]
    if all(adapter.as_bias(1.0) is not None for adapter in adapters):
        return []
    arms = [magnitude_only_arm(desk.model, chosen, generator=desk.generator("magnitude only"))]
    if any(adapter.shuffled(desk.generator("shuffled router")) is not None for adapter in adapters):
        arms.append(shuffled_router_arm(chosen, generator=desk.generator("shuffled router")))
    return arms


def strengths_tried(train: TrainResult) -> list[float]:
    """The strengths that the steering was chosen from, as shares of the chosen one; the weakest first."""
    chosen = train.choice.chosen.coeff
    return sorted({candidate.coeff / chosen for candidate in train.choice.tried}, key=abs)


def mean_difference(
    desk: Desk,
    kept: Kept,
    problems: Problems,
    capture: CaptureResult,
    chosen: Steering,
    recorded: list[list[int]],
    dev: Dev,
    factors: Sequence[float],
) -> Arm | None:
    """mean(right) − mean(wrong) of the training traces; place, sign and strength chosen on dev as the steering's were.

    The strengths are those that the steering was chosen from, at another place in units of its residual stream. None
    where all traces are right or all wrong, and where the steering writes elsewhere than in one residual stream.
    """
    (first, *rest), settings = writing(chosen), desk.settings
    site = first.site.at(desk.model)
    if rest or site not in capture.sites:
        return None
    labels = torch.tensor([bool(trace.correct) for trace in kept.traces("train")])
    if problems.metric != "log_odds" and (labels.all() or not labels.any()):
        return None
    (vector,) = delta_vectors(desk.model, chosen, recorded, max_new_tokens=room(desk.model, recorded, 32))
    share = float(vector.norm()) / median_norm(desk, kept, site)
    candidates: list[Interventions] = []
    names: list[str] = []
    for place in capture.sites:
        if problems.metric == "log_odds":
            prompts = problems.prompts("train", settings.traces.n_problems)
            pos, neg = (
                states(desk.model, [p + end for p in prompts], place, settings.batch_size).pool("last")
                for end in problems.ends()
            )
        else:
            means = torch.stack([acts.mean(0) for acts in kept.responses(capture, place)])
            pos, neg = means[labels], means[~labels]
        size = share * median_norm(desk, kept, place)
        norms = [size * factor for factor in factors if factor > 0]
        candidates += mean_difference_steerings(place, pos, neg, norms, scope=first.scope)
        names += [f"{sign}{norm:.3g} at {place}" for norm in norms for sign in "+-"]
    best, _ = dev.halve("mean difference", candidates, names)
    ends, others = ("positive", "negative") if problems.metric == "log_odds" else ("right", "wrong")
    note = f"mean({ends}) − mean({others}), {names[best]}: place, sign and strength chosen on dev"
    return Arm(name="mean difference", steering=candidates[best], note=note, role="control")


def _named(train: TrainResult) -> str:
    names = {"static": "one trained vector", "bias_only": "trained vectors", "own": "a steering of one's own"}
    return names.get(train.kind, f"a trained adapter of kind {train.kind}")


def where(desk: Desk, traces: TracesResult, capture: CaptureResult, train: TrainResult) -> WhereResult:
    """What was added at which token of dev texts that the steered model writes, beside what it writes as it is, and
    what else its adapters noted. The first dev problems: none is chosen."""
    problems = Problems(desk, traces.metric)
    prompts = problems.prompts("dev", N_TEXTS)[:N_TEXTS]
    names = [f"dev problem {i + 1}" for i in range(len(prompts))]
    watched = [Kept(desk).steering(), *observations(desk.model, desk.settings.observers)]
    result = steered_texts(desk.model, watched, prompts, names, desk.settings.max_new_tokens)
    if problems.metric != "accuracy":
        return result
    return replace(result, pairs=tuple(judged(problems, i, pair) for i, pair in enumerate(result.pairs)))


def judged(problems: Problems, i: int, pair: TextPair) -> TextPair:
    """The pair on dev problem `i` with both answers verified."""
    task = problems.task("dev", N_TEXTS)
    base, steered = (task.trace(task.items[i], text, source="dev", sample=0) for text in (pair.base, pair.steered))
    return replace(
        pair,
        base_correct=base.correct,
        steered_correct=steered.correct,
        base_style=base.style,
        steered_style=steered.style,
    )


def steered_texts(
    model: Any, steering: Interventions, prompts: Sequence[list[int]], names: Sequence[str], most: int
) -> WhereResult:
    """The prompts and what the steered model writes after them, with all readings; at most N_TOKENS, or `most`.

    Beside it what the model writes as it is.
    """
    n_tokens = room(model, prompts, min(N_TOKENS, most))
    out = generate(model, prompts, steering, max_new_tokens=n_tokens, record=True)
    plain = generate(model, prompts, max_new_tokens=n_tokens)
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
        pairs=tuple(
            TextPair(
                name=names[i],
                prompt=model.tokenizer.decode(prompt, skip_special_tokens=True),
                base=continuation_text(model.tokenizer, plain.tokens[i]),
                steered=continuation_text(model.tokenizer, out.tokens[i]),
                cut=not (plain.stopped[i] and out.stopped[i]),
            )
            for i, prompt in enumerate(out.prompt_tokens)
        ),
    )
