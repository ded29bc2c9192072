"""What a feature fires on when it does not fire its most: a fair sample of its firings, split at activation quantiles.

The strongest contexts flatter a feature: most of its activation lies below them, often on something else. The sample
holds the places with the smallest hash of (seed, feature, prompt, position), so that every firing is as likely as any
other to be in it, in one pass, whatever the batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.features.around import NO_TOKEN, around, chosen_acts
from mechsteer.features.contexts import Context, context_of
from mechsteer.results import Result
from mechsteer.shapes import FeatureActs, Mask, Tokens

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Firings(Result):
    """A sample of the places where a feature is active, without replacement; all of them where there are no more.

    `n_firing`: how many there are. `contexts` are in random order; two may be of one prompt.
    """

    feature: int
    n_firing: int
    contexts: tuple[Context, ...]


@dataclass(frozen=True, kw_only=True)
class QuantileBand(Result):
    """Firings between two quantiles of a feature's positive activations. `low`, `high`: the weakest and the strongest
    sampled in it (nan where none is); `n_sampled` behind them, of which `contexts` are some, strongest first."""

    from_quantile: float
    to_quantile: float
    low: float
    high: float
    n_sampled: int
    contexts: tuple[Context, ...]


class FiringAccumulator:
    """Samples of the firings of chosen features, in one pass over shards. Memory O(n_features · n).

    `n`: firings kept per feature; `before`, `after`: tokens shown around each; `seed` of the sample. The result does
    not depend on how rows are grouped into `update` calls, as long as prompts keep their numbers.

    >>> seen = FiringAccumulator([0], n=9, before=1, after=0)
    >>> seen.update(torch.tensor([[7, 8, 9]]), torch.tensor([[[0.0], [2.0], [1.0]]]))
    >>> sorted(c.tokens for c in seen.result()[0].contexts)
    [[7, 8], [8, 9]]
    """

    def __init__(
        self, features: Sequence[int], *, n: int = 512, before: int = 10, after: int = 5, seed: int = 0
    ) -> None:
        if n < 1 or before < 0 or after < 0 or seed < 0:
            raise ConfigError(
                f"n={n}, before={before}, after={after}, seed={seed}", "n is at least 1, the others 0 or more"
            )
        self.features = torch.as_tensor(list(features), dtype=torch.long)
        if len(self.features) == 0 or int(self.features.min()) < 0 or len(self.features.unique()) != len(features):
            raise ConfigError("`features` must be distinct feature ids, at least one", f"got {list(features)}")
        self.n, self.before, self.after, self.seed = n, before, after, seed
        self._n_firing = torch.zeros(len(self.features), dtype=torch.long)
        self._n_prompts = 0
        width = before + 1 + after
        self._key = np.zeros(0, dtype=np.uint64)
        self._place = torch.zeros(0, 3, dtype=torch.long)  # row of `features`, prompt id, position
        self._tokens, self._acts = torch.zeros(0, width, dtype=torch.long), torch.zeros(0, width, dtype=torch.float64)

    def update(
        self,
        tokens: Tokens,
        feature_acts: FeatureActs,
        mask: Mask | None = None,
        prompt_ids: Sequence[int] | None = None,
    ) -> None:
        """Adds prompts, as `ContextAccumulator.update` does. Raises ShapeError, NonFiniteError."""
        tokens, kept, acts = chosen_acts(self.features, tokens, feature_acts, mask)
        n_rows = len(tokens)
        ids = range(self._n_prompts, self._n_prompts + n_rows) if prompt_ids is None else prompt_ids
        if len(ids) != n_rows:
            raise ShapeError(f"{len(ids)} prompt ids for {n_rows} rows", "one id per row")
        self._n_prompts += n_rows
        self._n_firing += (acts > 0).sum((1, 2))
        feature, row, position = (acts > 0).nonzero(as_tuple=True)
        prompt = torch.tensor(list(ids), dtype=torch.long)[row]
        key = _hashed(self.seed, self.features[feature], prompt, position)
        chosen = _smallest(key, feature.numpy(), self.n)  # before their surroundings are looked up
        feature, row, position, prompt = (each[chosen] for each in (feature, row, position, prompt))
        if not len(feature):
            return
        near, near_acts = around(
            torch.where(kept, tokens, NO_TOKEN), acts, (feature, row, position), self.before, self.after
        )
        self._key = np.concatenate([self._key, key[chosen]])
        self._place = torch.cat([self._place, torch.stack([feature, prompt, position], 1)])
        self._tokens, self._acts = torch.cat([self._tokens, near]), torch.cat([self._acts, near_acts])
        self._take(_smallest(self._key, self._place[:, 0].numpy(), self.n))

    def _take(self, chosen: ndarray) -> None:
        self._key = self._key[chosen]
        self._place, self._tokens, self._acts = (each[chosen] for each in (self._place, self._tokens, self._acts))

    def result(self) -> list[Firings]:
        """One `Firings` per feature, in the order asked for."""
        found: list[list[Context]] = [[] for _ in self.features]
        for (i, prompt_id, position), tokens, acts in zip(self._place.tolist(), self._tokens, self._acts, strict=True):
            found[i].append(context_of(prompt_id, position, tokens, acts, before=self.before))
        return [
            Firings(feature=feature, n_firing=int(self._n_firing[i]), contexts=tuple(found[i]))
            for i, feature in enumerate(self.features.tolist())
        ]


def quantile_bands(firings: Firings, edges: Sequence[float] = QUARTERS, *, n: int = 2) -> tuple[QuantileBand, ...]:
    """The sample split at quantiles of its activations, strongest band first; `n` random contexts of each are kept.

    Of contexts with equal tokens one is kept. The quantiles are those of all firings where all were sampled. Raises
    ConfigError for edges that do not rise within 0 to 1.
    """
    if len(edges) < 2 or edges[0] < 0 or edges[-1] > 1 or any(a >= b for a, b in itertools.pairwise(edges)):
        raise ConfigError(f"edges of quantiles {list(edges)}", "give at least two that rise, from 0 to 1")
    ranked = np.argsort([context.activation for context in firings.contexts], kind="stable")
    bands = []
    for start, end in itertools.pairwise(edges):
        within = sorted(ranked[round(start * len(ranked)) : round(end * len(ranked))])  # in the sample's random order
        contexts = [firings.contexts[i] for i in within]
        acts: Float[ndarray, " n"] = np.array([context.activation for context in contexts])
        distinct = {tuple(context.tokens): context for context in reversed(contexts)}
        shown = list(reversed(distinct.values()))[:n]
        bands.append(
            QuantileBand(
                from_quantile=start,
                to_quantile=end,
                low=float(acts.min()) if len(acts) else float("nan"),
                high=float(acts.max()) if len(acts) else float("nan"),
                n_sampled=len(contexts),
                contexts=tuple(sorted(shown, key=lambda context: -context.activation)),
            )
        )
    return tuple(reversed(bands))


def _smallest(key: ndarray, feature: ndarray, n: int) -> ndarray:
    """Where the `n` smallest keys of each feature are, by feature and key."""
    order = np.lexsort((key, feature))
    start = np.searchsorted(feature[order], feature[order])
    return order[np.arange(len(order)) - start < n]


def _hashed(seed: int, *parts: Tensor) -> ndarray:
    """A hash of each row of `parts` [n] that any seed shuffles anew: splitmix64's finaliser, chained."""
    state = np.full(len(parts[0]), seed % 2**64, dtype=np.uint64)
    for part in parts:
        state = state + part.numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
