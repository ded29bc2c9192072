"""Where a feature fires: its strongest contexts, its density, and the tokens it fires on.

The share of a feature's activation mass that falls on its five commonest tokens is the cheap part of the
falsification of arXiv 2601.05679: a "reasoning feature" whose mass sits on a handful of tokens detects those
tokens. (The dear part, injecting these tokens into neutral text, needs the model and lies elsewhere.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, ShapeError
from mechsteer.features.around import NO_TOKEN, around, chosen_acts
from mechsteer.results import Result
from mechsteer.shapes import FeatureActs, Mask, Tokens


@dataclass(frozen=True, kw_only=True)
class Context(Result):
    """A stretch of one prompt around an activation; `activations[i]` belongs to `tokens[i]`.

    `position` is the peak's index in its row; `tokens[peak]` is the same token. Masked tokens are left out.
    """

    prompt_id: int
    position: int
    activation: float
    peak: int
    tokens: list[int]
    activations: list[float]


@dataclass(frozen=True, kw_only=True)
class FeatureContexts(Result):
    """One feature over a corpus. Activations are in the units that were passed in.

    `density`: share of kept tokens with activation > 0; `mean` is over all kept tokens; `f_max` is 0 for a dead
    feature. `contexts`: the strongest of each prompt, strongest first. `token_shares`: (token id, share of the
    feature's total activation), largest first; `top5_share` is the sum of the first five (nan for a dead one).
    """

    feature: int
    density: float
    f_max: float
    mean: float
    n_tokens: int
    contexts: tuple[Context, ...]
    token_shares: tuple[tuple[int, float], ...]
    top5_share: float


class ContextAccumulator:
    """Contexts and token shares of chosen features, in one pass over shards.

    Memory O(n_features · (n + distinct tokens each fires on)), whatever the corpus. The result does not depend on
    how rows are grouped into `update` calls: among equal activations the prompt that came first is kept.

    `features`: feature ids; `n`: contexts per feature, at most one per prompt (its strongest position);
    `before`, `after`: tokens shown around the peak.

    >>> seen = ContextAccumulator([1], n=1, before=1, after=1)
    >>> seen.update(torch.tensor([[7, 8, 9]]), torch.tensor([[[0.0, 0.0], [0.0, 2.0], [0.0, 0.5]]]))
    >>> report = seen.result()[0]
    >>> report.contexts[0].tokens, report.contexts[0].activations, report.token_shares
    ([7, 8, 9], [0.0, 2.0, 0.5], ((8, 0.8), (9, 0.2)))
    """

    def __init__(self, features: Sequence[int], *, n: int = 10, before: int = 10, after: int = 5) -> None:
        if n < 1 or before < 0 or after < 0:
            raise ConfigError(f"n={n}, before={before}, after={after}", "n is at least 1, the others 0 or more")
        self.features = torch.as_tensor(list(features), dtype=torch.long)
        n_features, width = len(self.features), before + 1 + after
        if n_features == 0 or int(self.features.min()) < 0 or len(self.features.unique()) != n_features:
            raise ConfigError("`features` must be distinct feature ids, at least one", f"got {list(features)}")
        self.n, self.before, self.after = n, before, after
        self._peak = torch.full((n_features, n), -torch.inf, dtype=torch.float64)
        self._where = torch.full((n_features, n, 2), -1)  # prompt id, position
        self._tokens = torch.full((n_features, n, width), -1)  # -1: no token there
        self._acts = torch.zeros(n_features, n, width, dtype=torch.float64)
        self._sum = torch.zeros(n_features, dtype=torch.float64)
        self._n_firing = torch.zeros(n_features, dtype=torch.long)
        self._n_tokens = self._n_prompts = 0
        self._shares = _TokenMass(n_features)

    def update(
        self,
        tokens: Tokens,
        feature_acts: FeatureActs,
        mask: Mask | None = None,
        prompt_ids: Sequence[int] | None = None,
    ) -> None:
        """Adds prompts: `tokens` [n_rows pos], `feature_acts` [n_rows pos d_sae], one prompt per row.

        `prompt_ids` default to the running row number. Raises ShapeError, NonFiniteError.
        """
        tokens, kept, acts = chosen_acts(self.features, tokens, feature_acts, mask)
        n_rows, n_pos = tokens.shape
        ids = range(self._n_prompts, self._n_prompts + n_rows) if prompt_ids is None else prompt_ids
        if len(ids) != n_rows:
            raise ShapeError(f"{len(ids)} prompt ids for {n_rows} rows", "one id per row")
        self._n_tokens += int(kept.sum())
        self._n_prompts += n_rows
        self._sum += acts.sum((1, 2))
        self._n_firing += (acts > 0).sum((1, 2))
        self._shares.add(tokens, acts)
        if n_pos:
            self._keep_strongest(torch.where(kept, tokens, NO_TOKEN), acts, torch.tensor(list(ids)))

    def _keep_strongest(self, tokens: Tensor, acts: Tensor, prompt_ids: Tensor) -> None:
        peak, position = acts.max(-1)  # [n_features n_rows]
        peak, rows = peak.sort(descending=True, stable=True, dim=1)
        peak, rows = peak[:, : self.n], rows[:, : self.n]
        position = position.gather(1, rows)
        place = (torch.arange(len(acts))[:, None], rows, position)
        near, near_acts = around(tokens, acts, place, self.before, self.after)
        new = {"_where": torch.stack([prompt_ids[rows], position], -1), "_tokens": near, "_acts": near_acts}
        # earlier prompts stand first, so that the stable sort keeps them among equals
        merged, order = torch.cat([self._peak, peak], 1).sort(descending=True, stable=True, dim=1)
        self._peak, order = merged[:, : self.n], order[:, : self.n]
        for name, value in new.items():
            both = torch.cat([getattr(self, name), value], 1)
            index = order[..., None].expand(-1, -1, both.shape[-1])
            setattr(self, name, both.gather(1, index))

    def result(self) -> list[FeatureContexts]:
        """One `FeatureContexts` per feature, in the order asked for."""
        n_tokens = max(self._n_tokens, 1)
        reports = []
        for i, feature in enumerate(self.features.tolist()):
            shares = self._shares.ranked(i)
            reports.append(
                FeatureContexts(
                    feature=feature,
                    density=int(self._n_firing[i]) / n_tokens,
                    f_max=max(float(self._peak[i, 0]), 0.0),
                    mean=float(self._sum[i]) / n_tokens,
                    n_tokens=self._n_tokens,
                    contexts=tuple(self._context(i, j) for j, peak in enumerate(self._peak[i].tolist()) if peak > 0),
                    token_shares=tuple(shares[: max(self.n, 5)]),
                    top5_share=sum(share for _, share in shares[:5]) if shares else float("nan"),
                )
            )
        return reports

    def _context(self, i: int, j: int) -> Context:
        prompt_id, position = self._where[i, j].tolist()
        return context_of(prompt_id, position, self._tokens[i, j], self._acts[i, j], before=self.before)


def context_of(prompt_id: int, position: int, tokens: Tensor, acts: Tensor, *, before: int) -> Context:
    """The context at a place, of the tokens and activations around it (see `around`)."""
    real = tokens >= 0
    return Context(
        prompt_id=prompt_id,
        position=position,
        activation=float(acts[before]),
        peak=int(real[:before].sum()),
        tokens=tokens[real].tolist(),
        activations=acts[real].tolist(),
    )


class _TokenMass:
    """Sum of activation per (feature, token) pair that occurs; pairs are kept sorted, as one integer key each."""

    _STRIDE = 2**32  # above any token id

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.keys = torch.zeros(0, dtype=torch.long)
        self.mass = torch.zeros(0, dtype=torch.float64)

    def add(self, tokens: Tensor, acts: Tensor) -> None:
        feature, row, position = (acts > 0).nonzero(as_tuple=True)
        keys = torch.cat([self.keys, feature * self._STRIDE + tokens[row, position].long()])
        mass = torch.cat([self.mass, acts[feature, row, position]])
        self.keys, inverse = keys.unique(return_inverse=True)
        self.mass = torch.zeros(len(self.keys), dtype=torch.float64).index_add_(0, inverse, mass)

    def ranked(self, i: int) -> list[tuple[int, float]]:
        """(token id, share) of feature `i`, largest first; equal shares by token id."""
        of_feature = self.keys // self._STRIDE == i
        tokens, mass = self.keys[of_feature] % self._STRIDE, self.mass[of_feature]
        order = mass.argsort(descending=True, stable=True)
        return list(zip(tokens[order].tolist(), (mass[order] / mass.sum()).tolist(), strict=True))


def token_shares(
    tokens: Tokens,
    feature_acts: FeatureActs,
    features: Sequence[int],
    *,
    k: int = 5,
    mask: Mask | None = None,
) -> dict[int, list[tuple[int, float]]]:
    """{feature: its top `k` (token id, share of the feature's total activation)}, largest first.

    Shapes as in `ContextAccumulator.update`. The sum of a feature's five shares near 1 says that it is a token
    detector.
    """
    seen = ContextAccumulator(features, n=k, before=0, after=0)
    seen.update(tokens, feature_acts, mask)
    return {report.feature: list(report.token_shares[:k]) for report in seen.result()}
