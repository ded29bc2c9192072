"""An objective: what `fit` minimises.

    loss = Σ over terms of  weight · (sum of the term / how many it is a sum of)

It gives rows of token ids and says which positions it asks the logits of; given a batch under the steering as it
stands it returns named terms. Batches, restart, caching, checkpoints, schedules and early stopping are `fit`'s.

    class Sure(Objective):
        def __init__(self, samples):
            self.samples, self.weights = samples, {"entropy": 1.0}

        def rows(self, model):
            return Rows(train=encode_samples(model, self.samples))

        def terms(self, steered):
            log_q = steered.log_probs(steered.part.scored)
            rows = steered.part.scored.nonzero()[:, 0]
            return {"entropy": steered.term("entropy", -(log_q.exp() * log_q).sum(-1), rows)}
"""

from __future__ import annotations

import abc
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.models.sites import Site
from mechsteer.runtime.batches import Batch, Pair, make_batches
from mechsteer.runtime.scopes import TokenScope
from mechsteer.shapes import Mask
from mechsteer.steering.interventions import Intervention
from mechsteer.training.config import FitConfig
from mechsteer.training.parts import Part, Parts, Steered

Terms = Mapping[str, tuple[Tensor | float, int]]  # name -> (sum, how many)
Split = Literal["train", "dev"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What an objective trains on, as token ids; targets may be empty.

    `train_groups`, `dev_groups`: sizes of groups of consecutive rows that must share a batch (the options of one
    problem); empty where each row stands by itself.
    """

    train: Sequence[Pair]
    dev: Sequence[Pair] = ()
    neutral: Sequence[Pair] = ()  # steered at every token, whatever the scope
    train_groups: Sequence[int] = ()
    dev_groups: Sequence[int] = ()

    @property
    def hash(self) -> str:
        """16 hex digits."""
        plain: list[Any] = [[list(map(list, pair)) for pair in pairs] for pairs in (self.train, self.dev, self.neutral)]
        if self.train_groups or self.dev_groups:
            plain += [list(self.train_groups), list(self.dev_groups)]
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


class Objective(abc.ABC):
    """Base of all objectives. `weights`: term -> its weight in the loss, in the order in which terms are reported."""

    weights: Mapping[str, float]

    @abc.abstractmethod
    def rows(self, model: Any) -> Rows:
        """Everything it trains on, as token ids of `model`. Raises DataError for data that cannot be used."""

    def prepared(self, model: Any, config: FitConfig) -> Objective:  # noqa: ARG002  # most have nothing to look up
        """The same with everything that depends on the model looked up; `fit` asks once, before anything else."""
        return self

    def renewed(
        self,
        model: Any,  # noqa: ARG002
        interventions: Sequence[Intervention],  # noqa: ARG002
        config: FitConfig,  # noqa: ARG002
        *,
        split: Split,  # noqa: ARG002
        epoch: int,  # noqa: ARG002
    ) -> Objective:
        """The same with rows that follow from the steering as it stands after `epoch` epochs: sampled answers, say.

        `fit` asks before every epoch of training (`split` "train") and before every look at dev ("dev"); rows of the
        other split are not used then. Training rows must keep their number, and everything random must come from
        the arguments: a resumed run asks again. Most objectives have fixed rows and return themselves.
        """
        return self

    @abc.abstractmethod
    def terms(self, steered: Steered) -> Terms:
        """Loss terms of one batch; a term that has nothing to say about it may be left out.

        `steered.term(name, values, rows)` makes one that tells which row has what.
        """

    def samples_of(self, part: Part) -> Tensor:
        """[batch] number of the sample that each row is of: what standard errors are taken over. By default its own."""
        return part.batch.rows

    def scored(self, batch: Batch, interventions: Sequence[Intervention]) -> Mask:  # noqa: ARG002  # others ask both
        """[batch pos] positions whose logits `terms` needs: by default those that predict a target token."""
        return batch.predicts_target

    def reads(self, model: Any) -> tuple[Site, ...]:  # noqa: ARG002  # most look at logits alone
        """Sites whose activations under the steering `terms` needs (`Steered.acts`), later than all that is skipped."""
        return ()

    def identity(self) -> dict[str, Any]:
        """What tells it from others on the same data, JSON-able: a checkpoint of another identity is refused."""
        return {"objective": type(self).__name__, "weights": dict(self.weights)}

    def parts(self, model: Any, interventions: Sequence[Intervention], config: FitConfig) -> Parts:
        """The rows in batches.

        Which rows share a batch is drawn from the seed once, so that what a batch starts from can be kept.
        """
        rows = self.rows(model)
        everywhere = [replace(iv, scope=TokenScope.all()) for iv in interventions]

        def parts(
            pairs: Sequence[Pair], steering: Sequence[Intervention], sizes: Sequence[int] = (), *, mixed: bool = False
        ) -> tuple[Part, ...]:
            groups = _groups(len(pairs), sizes)
            if mixed:
                order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(config.seed)).tolist()
                groups = [groups[i] for i in order]
            if config.group_lengths:  # by targets first: a kept prefix costs nothing
                groups.sort(key=lambda rows: max((len(pairs[i][1]), len(pairs[i][0])) for i in rows))
            return tuple(self._part(model, pairs, some, steering) for some in _filled(groups, config.batch_size))

        return Parts(
            train=parts(rows.train, interventions, rows.train_groups, mixed=True),
            dev=parts(rows.dev, interventions, rows.dev_groups),
            neutral=parts(rows.neutral, everywhere),
            data_hash=rows.hash,
        )

    def _part(
        self, model: Any, pairs: Sequence[Pair], groups: Sequence[Sequence[int]], steering: Sequence[Intervention]
    ) -> Part:
        """One batch of some groups of rows."""
        index = [i for rows in groups for i in rows]
        (batch,) = make_batches(model, pairs, len(index), index)
        numbers = [number for number, rows in enumerate(groups) for _ in rows]
        return Part(
            batch=batch,
            interventions=tuple(steering),
            scored=self.scored(batch, steering),
            groups=torch.tensor(numbers, device=batch.tokens.device),
            reads=self.reads(model),
        )


def _groups(n_rows: int, sizes: Sequence[int]) -> list[list[int]]:
    """Rows that must share a batch."""
    if not sizes:
        return [[i] for i in range(n_rows)]
    assert sum(sizes) == n_rows, f"groups of {sum(sizes)} rows for {n_rows}"
    ends = list(itertools.accumulate(sizes))
    return [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def _filled(groups: Sequence[list[int]], batch_size: int) -> Iterator[list[list[int]]]:
    """Groups together as long as their rows fit a batch; one that is larger has a batch of its own."""
    batch: list[list[int]] = []
    for rows in groups:
        if batch and sum(map(len, batch)) + len(rows) > batch_size:
            yield batch
            batch = []
        batch.append(rows)
    if batch:
        yield batch


@dataclass(frozen=True)
class Tally:
    """Sums and counts of loss terms: tallies of several batches add up."""

    sums: Mapping[str, Tensor | float]
    counts: Mapping[str, int]

    @classmethod
    def of(cls, terms: Terms, weights: Mapping[str, float]) -> Tally:
        """Raises ConfigError for a term that has no weight."""
        if unknown := [name for name in terms if name not in weights]:
            raise ConfigError(
                f"the objective gives terms without weights: {unknown}",
                "name every term in its `weights`, 0.0 for none",
            )
        return cls({k: total for k, (total, _) in terms.items()}, {k: n for k, (_, n) in terms.items()})

    def __add__(self, other: Tally) -> Tally:
        names = dict.fromkeys((*self.sums, *other.sums))
        return Tally(
            {k: self.sums.get(k, 0.0) + other.sums.get(k, 0.0) for k in names},
            {k: self.counts.get(k, 0) + other.counts.get(k, 0) for k in names},
        )

    def means(self, weights: Mapping[str, float]) -> dict[str, Tensor | float]:
        """Each term per position; 0 where there is none (no position to be left alone costs nothing)."""
        return {k: self.sums.get(k, 0.0) / max(self.counts.get(k, 0), 1) for k in weights}

    def loss(self, weights: Mapping[str, float]) -> Tensor | float:
        """Σ weight · mean."""
        first, *rest = (weights[name] * mean for name, mean in self.means(weights).items())
        return sum(rest, first)

    def summary(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The loss and each term as plain numbers."""
        return {"loss": float(self.loss(weights))} | {k: float(v) for k, v in self.means(weights).items()}

    def detached(self) -> Tally:
        """The same as plain numbers."""
        sums = {k: v.item() if isinstance(v, Tensor) else v for k, v in self.sums.items()}
        return Tally(sums, self.counts)
