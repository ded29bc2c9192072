"""The paired loop: every problem answered as the model is and steered, with the same draws, and both answers judged.

success     the steered answer is right where the base one is wrong
failure     the other way about
unchanged   both right, or both wrong
unjudged    of one of the two the judge could not say; no part of any rate or test

Beside it controls of the same kind (random features, random directions of equal norm): what any of them does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.arms import Arm
from mechsteer.evaluation.judges import Judge, Judgement, judge_texts
from mechsteer.evaluation.paired import PairedComparison, ScoreComparison, compare_paired, compare_scores
from mechsteer.evaluation.scoring import Keep, at_once
from mechsteer.evaluation.verified import room, rows_at_once
from mechsteer.models import tokenize
from mechsteer.results import Result
from mechsteer.runtime.threads import each_of
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions
from mechsteer.tasks import Item
from mechsteer.tokens import continuation_text

LEAST_CONTROLS = 20


@dataclass(frozen=True, kw_only=True)
class OutcomePair(Result):
    """One problem, answered twice."""

    item_id: str
    prompt: str
    seed: int | None
    """of the draws, the same on both sides; None: greedy"""
    base: str
    steered: str
    base_judgement: Judgement
    steered_judgement: Judgement


@dataclass(frozen=True, kw_only=True)
class Outcome(Result):
    """Counts of one steering against base; a control has no texts."""

    name: str
    note: str
    success: int
    failure: int
    unchanged: int
    unjudged: int
    comparison: PairedComparison | None
    """of the judged pairs (McNemar); None without any"""
    lengths: ScoreComparison
    """new tokens, steered − base, of all pairs"""
    base_length: float
    """mean new tokens of base"""

    @property
    def net(self) -> float:
        """(success − failure) / judged pairs; nan without any."""
        judged = self.success + self.failure + self.unchanged
        return (self.success - self.failure) / judged if judged else math.nan


@dataclass(frozen=True, kw_only=True)
class PairedOutcomes(Result):
    """A steering against base, and controls on the same problems with the same draws."""

    _rows = "controls"

    steered: Outcome
    controls: tuple[Outcome, ...]
    pairs: tuple[OutcomePair, ...]

    def p_value(self, kind: str = "") -> float:
        """(1 + controls that do at least as well) / (1 + their number); of those whose name begins with `kind`.

        nan without any. Exact where the steering is exchangeable with its controls.
        """
        nets = [control.net for control in self.controls if control.name.startswith(kind)]
        nets = [net for net in nets if not math.isnan(net)]
        return (1 + sum(net >= self.steered.net for net in nets)) / (1 + len(nets)) if nets else math.nan

    def p_length(self, kind: str = "") -> float:
        """The same for a change of length, to either side: (1 + controls that change it as much) / (1 + their number)."""
        own = abs(self.steered.lengths.difference.value)
        sizes = [abs(c.lengths.difference.value) for c in self.controls if c.name.startswith(kind)]
        return (1 + sum(size >= own for size in sizes)) / (1 + len(sizes)) if sizes else math.nan


def paired_outcomes(
    model: Any,
    steering: Interventions,
    items: Sequence[Item | str],
    judge: Judge,
    *,
    controls: Sequence[Arm] = (),
    name: str = "steered",
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
    batch_size: int | None = None,
    retries: int = 2,
    wait_s: float = 1.0,
    n_workers: int = 1,
    n_boot: int = 10_000,
    seed: int = 0,
    keep: Keep = at_once,
    progress: bool = False,
) -> PairedOutcomes:
    """Answer `items` (or bare prompts) with and without `steering`, and with each of `controls`, and judge the answers.

    Greedy, or at a `temperature` once per seed of `seeds`: row and seed alone say what is drawn, on both sides. `controls`:
    arms such as `random_feature_arms` and `random_arms` make. `judge_texts` has the rest of what is said of judges.
    `keep(name, compute)` may return the tokens that an earlier run kept.

    Raises ConfigError (seeds without a temperature, or the other way about; two arms of one name), DataError (no items).
    """
    if bool(seeds) != (temperature > 0):
        raise ConfigError(f"temperature={temperature} with seeds={list(seeds)}", "greedy takes no seeds, sampling some")
    asked = [
        item if isinstance(item, Item) else Item(id=str(i), prompt=item, answer=None, group=str(i))
        for i, item in enumerate(items)
    ]
    if not asked:
        raise DataError("there are no items", "give at least one")
    names = ["base", name, *(arm.name for arm in controls)]
    if len(set(names)) != len(names):
        raise ConfigError(f"two arms have one name: {sorted(names)}", "name each differently")
    draws: list[int | None] = list(seeds) or [None]
    write = _Writer(model, asked, max_new_tokens, temperature, draws, batch_size, keep, progress)
    rows = [(item, drawn) for drawn in draws for item in asked]
    groups = np.array([item.group for item, _ in rows])

    def answered(arm: Arm) -> tuple[list[str], list[int], list[Judgement]]:
        texts, lengths = write(arm)
        pairs = [(item, text) for (item, _), text in zip(rows, texts, strict=True)]
        return texts, lengths, judge_texts(judge, pairs, retries=retries, wait_s=wait_s, n_workers=n_workers)

    def against_base(arm: Arm, lengths: list[int], judged: list[Judgement]) -> Outcome:
        return _outcome(arm, base_judged, judged, base_lengths, lengths, groups, n_boot, seed)

    base_texts, base_lengths, base_judged = answered(Arm(name="base", role="base"))
    treated = Arm(name=name, steering=steering, role="treated")
    texts, lengths, judged = answered(treated)
    return PairedOutcomes(
        steered=against_base(treated, lengths, judged),
        controls=tuple(each_of(lambda arm: against_base(arm, *answered(arm)[1:]), controls)),
        pairs=tuple(
            OutcomePair(
                item_id=item.id,
                prompt=item.prompt,
                seed=drawn,
                base=base_texts[i],
                steered=texts[i],
                base_judgement=base_judged[i],
                steered_judgement=judged[i],
            )
            for i, (item, drawn) in enumerate(rows)
        ),
    )


def _outcome(
    arm: Arm,
    before: Sequence[Judgement],
    after: Sequence[Judgement],
    base_lengths: Sequence[int],
    lengths: Sequence[int],
    groups: np.ndarray,
    n_boot: int,
    seed: int,
) -> Outcome:
    both = np.array([x != "unjudged" != y for x, y in zip(before, after, strict=True)])
    x, y = (np.array([said == "success" for said in side])[both] for side in (before, after))
    compared = compare_paired(x, y, groups[both], n_boot=n_boot, seed=seed) if both.any() else None
    longer = compare_scores(np.array(base_lengths, float), np.array(lengths, float), groups, n_boot=n_boot, seed=seed)
    return Outcome(
        name=arm.name,
        note=arm.note,
        success=int((y & ~x).sum()),
        failure=int((x & ~y).sum()),
        unchanged=int((x == y).sum()),
        unjudged=int((~both).sum()),
        comparison=compared,
        lengths=longer,
        base_length=float(np.mean(base_lengths)),
    )


@dataclass(frozen=True)
class _Writer:
    """Answers of an arm to all items, once per seed: texts and their lengths in tokens."""

    model: Any
    items: Sequence[Item]
    max_new_tokens: int
    temperature: float
    draws: Sequence[int | None]
    batch_size: int | None
    keep: Keep
    progress: bool

    def __call__(self, arm: Arm) -> tuple[list[str], list[int]]:
        tail = arm.prefix_ids(self.model)
        prompts = [row + tail for row in tokenize(self.model, [item.prompt for item in self.items])]
        runs = [self._run(arm, prompts, drawn) for drawn in self.draws]
        tokens = [ids for run in runs for ids in run]
        tokenizer, prefix = self.model.tokenizer, arm.prefix_text(self.model)
        texts = ["" if tokenizer is None else prefix + continuation_text(tokenizer, ids) for ids in tokens]
        return texts, [len(ids) for ids in tokens]

    def _run(self, arm: Arm, prompts: list[list[int]], drawn: int | None) -> list[list[int]]:
        most = room(self.model, prompts, self.max_new_tokens)

        def write() -> list[list[int]]:
            return generate(
                self.model,
                prompts,
                arm.steering,
                max_new_tokens=most,
                temperature=self.temperature,
                generator=None if drawn is None else torch.Generator().manual_seed(drawn),
                batch_size=self.batch_size or rows_at_once(self.model, max(map(len, prompts)) + most),
                progress=self.progress,
            ).tokens

        return self.keep(arm.name if drawn is None else f"{arm.name}, seed {drawn}", write)
