"""What an effect is measured by: one number per row, from the logits of a teacher-forced forward.

A metric is any function (logits [batch pos d_vocab], tokens [batch pos], mask [batch pos]) -> [batch]; rows may be
padded on either side. A `Metric` may also say which positions it reads, so that only those are unembedded.
"""

from __future__ import annotations

import abc
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mechsteer.attribution.running import last_positions
from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.models import tokenize_continuation
from mechsteer.tokens import continuation_ids, token_text

MetricFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


class Metric(abc.ABC):
    """A metric that knows what it needs.

    `tail`: it reads the logits of each row's last `tail` real positions alone, and is then given these,
    right-aligned; None for all. `continuations`: texts to put after the prompts, one each; None for none.
    """

    tail: int | None = None
    continuations: Sequence[str | Sequence[int]] | None = None

    @abc.abstractmethod
    def __call__(self, logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """[batch]"""

    def prepared(self, model: Any) -> Metric:  # noqa: ARG002  # most have nothing to look up
        """The same with everything that depends on the model looked up."""
        return self

    def of(self, rows: Sequence[int]) -> Metric:  # noqa: ARG002  # most treat all rows alike
        """The metric of these rows alone."""
        return self


@dataclass(frozen=True)
class LogOdds(Metric):
    """See `log_odds`."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    tail = 1

    def __call__(self, logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002  # the protocol's
        columns, _ = last_positions(mask, 1)
        last = logits.gather(1, columns[:, :, None].expand(-1, -1, logits.shape[-1]))[:, 0]
        return last[:, list(self.positive)].logsumexp(-1) - last[:, list(self.negative)].logsumexp(-1)


NextTokens = int | str | Sequence[int | str]


def log_odds(positive: NextTokens, negative: NextTokens, model: Any = None) -> LogOdds:
    """log p(positive) − log p(negative) of the next token after each row's last real one, in nats.

    Token ids, or words of one token as they continue a text (" happy") with the `model` (or tokenizer) that reads
    them. Several (variants of a word) are summed in probability. Raises ConfigError without tokens, for a token on
    both sides, for words without a model, and for a word of several tokens.

    >>> log_odds(3, [4, 5])
    LogOdds(positive=(3,), negative=(4, 5))
    """
    pos, neg = (_next_ids(tokens, model) for tokens in (positive, negative))
    if not pos or not neg or set(pos) & set(neg):
        raise ConfigError(f"log-odds of {list(pos)} against {list(neg)}", "give tokens on both sides, none on both")
    return LogOdds(pos, neg)


def _next_ids(tokens: NextTokens, model: Any) -> tuple[int, ...]:
    listed = [tokens] if isinstance(tokens, (int, str)) or not isinstance(tokens, Iterable) else list(tokens)
    return tuple(_word_id(each, model) if isinstance(each, str) else _token_id(each) for each in listed)


def _token_id(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(
            f"{value!r:.80} is no token", "give token ids, or words with a model: log_odds(' happy', ' sad', model)"
        ) from None


def _word_id(word: str, model: Any) -> int:
    tokenizer = getattr(model, "tokenizer", model)
    if not callable(getattr(tokenizer, "encode", None)):
        why = "no model came with it" if model is None else "the model has no tokenizer"
        raise ConfigError(f"{word!r} is a word, and {why}", "give log_odds(' happy', ' sad', model), or token ids")
    ids = continuation_ids(tokenizer, word)
    if len(ids) != 1:
        raise ConfigError(
            f"{word!r} has {len(ids)} tokens: {[token_text(tokenizer, i) for i in ids]}",
            "log-odds are of one next token: give a word of one token (mind its leading space), or use target_logprob",
        )
    return ids[0]


@dataclass(frozen=True)
class TargetLogprob(Metric):
    """See `target_logprob`."""

    targets: tuple[str | tuple[int, ...], ...]
    is_mean: bool = False
    weights: tuple[float, ...] | None = None

    @property
    def continuations(self) -> Sequence[str | Sequence[int]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.targets

    @property
    def tail(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 + max(len(target) for target in self.targets)

    def prepared(self, model: Any) -> TargetLogprob:
        targets = tuple(tuple(tokenize_continuation(model, target)) for target in self.targets)
        empty = [i for i, target in enumerate(targets) if not target]
        if empty:
            raise DataError(f"target {empty[0]} is empty", "leave out prompts without a target")
        return replace(self, targets=targets)

    def of(self, rows: Sequence[int]) -> TargetLogprob:
        weights = None if self.weights is None else tuple(self.weights[i] for i in rows)
        return replace(self, targets=tuple(self.targets[i] for i in rows), weights=weights)

    def __call__(self, logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        if len(self.targets) != len(tokens) or any(isinstance(target, str) for target in self.targets):
            raise ShapeError(
                f"{len(self.targets)} targets for {len(tokens)} rows, as token ids",
                "use prepared(model) and of(rows) where you call this metric yourself",
            )
        counts = torch.tensor([len(target) for target in self.targets], device=tokens.device)
        columns, is_real = last_positions(mask, int(counts.max()) + 1)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        log_p = logits[rows, columns[:, :-1]].log_softmax(-1)
        picked = log_p.gather(2, tokens[rows, columns[:, 1:]][:, :, None])[..., 0]
        offset = torch.arange(picked.shape[1], device=tokens.device) - picked.shape[1] + counts[:, None]
        scored = (offset >= 0) & is_real[:, :-1]
        total = torch.where(scored, picked, 0).sum(1)
        value = total / counts if self.is_mean else total
        return value if self.weights is None else value * value.new_tensor(self.weights)


def target_logprob(
    targets: Sequence[str | Sequence[int]], *, mean: bool = False, weights: Sequence[float] | None = None
) -> TargetLogprob:
    """Log-probability in nats of each prompt's continuation, which is put after it: summed, or the mean per token.

    `weights`, one per target, multiply the rows: with +1 for right and -1 for wrong texts the effect is how much
    further the intervention sets right ones above wrong ones. Strings get no BOS. Raises DataError for empty
    targets, ShapeError for weights that do not fit.
    """
    if isinstance(targets, str) or not len(targets):
        raise DataError("targets is one string, or empty", "give one target per prompt")
    if weights is not None and len(weights) != len(targets):
        raise ShapeError(f"{len(weights)} weights for {len(targets)} targets", "give one weight per target")
    return TargetLogprob(
        tuple(t if isinstance(t, str) else tuple(int(i) for i in t) for t in targets),
        mean,
        None if weights is None else tuple(float(w) for w in weights),
    )


@dataclass(frozen=True)
class PlainMetric(Metric):
    """A function taken as a metric: it is given every position."""

    function: MetricFunction

    def __call__(self, logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.function(logits, tokens, mask)


def as_metric(metric: MetricFunction) -> Metric:
    """`metric` itself, or the function as one; raises ConfigError for what cannot be called."""
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise ConfigError(f"the metric is a {type(metric).__name__}", "pass metrics.log_odds(...) or a function")
    return PlainMetric(metric)


__all__ = ["LogOdds", "Metric", "MetricFunction", "PlainMetric", "TargetLogprob", "log_odds", "target_logprob"]
