"""ReasonScore: which SAE features fire around reasoning words and nowhere else (arXiv 2503.18878).

    score_i = μ⁺_i / Σ_j μ⁺_j · H_i^α − μ⁻_i / Σ_j μ⁻_j
    H_i     = − Σ_r p_i(r) ln p_i(r) / ln |R|,   p_i(r) = μ_i(r) / Σ_r' μ_i(r')

A match of word r at tokens s..e has the window s−a..e+b, cut to its row; rows are documents, so no window
reaches another. *Kept* tokens are those under the mask and not in `ignore_ids`; the others belong to no mean,
and a match that touches one does not count.

- μ⁺_i: mean activation over the union of all windows, every kept token once.
- μ⁻_i: mean over all other kept tokens.
- μ_i(r): mean over the union of the windows of word r: a token in two windows of the same word counts once, one
  in windows of two words counts once for each. So matches near an end or near each other are neither lost nor
  doubled; the number of matches itself is in `counts` (members of a group that start at one token: one match).

A word that never occurs has μ_i(r) = 0 and still counts in |R|. |R| = 1 gives H = 1. Every denominator
of means has ε = 1e-12 added, and 0 ln 0 = 0. Sums are float64.

Activations are dense, or `SparseActs`: the active features of each token alone. The scores are the same to rounding.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import ConfigError, DataError, MechsteerWarning, NonFiniteError, ShapeError
from mechsteer.features.sparse import SparseActs, sums_over
from mechsteer.results import Result
from mechsteer.shapes import FeatureActs, Mask, Tokens

EPS = 1e-12
_CHUNK_ELEMENTS = 2**22  # of activations copied at a time: bounds the working memory whatever the shard size

Groups = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class _Ranked(Result):
    score: Float[Tensor, " d_sae"]

    def top(self, k: int) -> Int[Tensor, " k"]:
        """The `k` features with the highest score, best first."""
        return self.score.argsort(descending=True, stable=True)[:k]

    def quantile(self, q: float = 0.997) -> Int[Tensor, " n"]:
        """The features whose score is at or above the `q` quantile of all scores, best first."""
        order = self.score.argsort(descending=True, stable=True)
        return order[self.score[order] >= torch.quantile(self.score, q)]


@dataclass(frozen=True, kw_only=True)
class FeatureScores(_Ranked):
    """ReasonScore of every feature with what it is made of; float64, [d_sae] each.

    `counts`: matches per word. `n_pos`, `n_neg`: kept tokens inside and outside the windows.
    """

    mu_pos: Float[Tensor, " d_sae"]
    mu_neg: Float[Tensor, " d_sae"]
    entropy: Float[Tensor, " d_sae"]
    counts: dict[str, int]
    alpha: float
    window: tuple[int, int]
    n_pos: int
    n_neg: int


@dataclass(frozen=True, kw_only=True)
class RatioScores(_Ranked):
    """Per-prompt ratio of every feature. `n_prompts` [d_sae]: prompts behind each; `n_with_words`: all that could."""

    n_prompts: Int[Tensor, " d_sae"]
    counts: dict[str, int]
    k: int
    n_with_words: int


class WordMatcher:
    """Finds the words of `groups` in rows of tokens and counts them."""

    def __init__(self, groups: Groups, window: tuple[int, int], ignore_ids: Iterable[int]) -> None:
        if not groups:
            raise ConfigError("no word groups", "see mechsteer.features.groups_for")
        if len(window) != 2 or min(window) < 0:
            raise ConfigError(
                f"window {window!r} is not (tokens before, tokens after)", "both are 0 or more, as (2, 3)"
            )
        self.groups = {name: [tuple(ids) for ids in members] for name, members in groups.items()}
        if any(len(ids) == 0 for members in self.groups.values() for ids in members):
            raise ConfigError("a word group has an empty token tuple", "leave the tuple out")
        self.window = (int(window[0]), int(window[1]))
        self.ignore_ids = sorted({int(i) for i in ignore_ids})
        self.counts = dict.fromkeys(self.groups, 0)

    def kept(self, tokens: Tokens, mask: Mask | None) -> Mask:
        kept = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        if self.ignore_ids:
            kept = kept & ~torch.isin(tokens, torch.tensor(self.ignore_ids, device=tokens.device))
        return kept

    def windows(self, tokens: Tokens, kept: Mask) -> Bool[Tensor, "n_words batch pos"]:
        """For each word the kept tokens in its windows; adds to `counts`."""
        before, after = self.window
        n_rows, n_pos = tokens.shape
        # +1 where a window begins and -1 behind its end: the running sum is positive inside any window
        edges = torch.zeros(len(self.groups), n_rows, n_pos + 1, dtype=torch.int32, device=tokens.device)
        for edge, (name, members) in zip(edges, self.groups.items(), strict=True):
            any_start = torch.zeros_like(kept)
            for ids in members:
                n_starts = n_pos - len(ids) + 1
                if n_starts <= 0:
                    continue
                start = torch.ones_like(kept[:, :n_starts])
                for j, token_id in enumerate(ids):
                    start &= (tokens[:, j : j + n_starts] == token_id) & kept[:, j : j + n_starts]
                any_start[:, :n_starts] |= start
                row, first = start.nonzero(as_tuple=True)
                one = torch.ones_like(row, dtype=torch.int32)
                edge.index_put_((row, (first - before).clamp(min=0)), one, accumulate=True)
                edge.index_put_((row, (first + len(ids) + after).clamp(max=n_pos)), -one, accumulate=True)
            self.counts[name] += int(any_start.sum())
        inside = edges.cumsum(-1)[..., :-1] > 0
        return inside & kept

    def require_matches(self) -> None:
        """Raises DataError where no word occurred; warns of each word that did not."""
        absent = [name for name, n in self.counts.items() if n == 0]
        if len(absent) == len(self.counts):
            raise DataError(
                f"none of the words {absent} occurs in the corpus",
                "choose a vocabulary that fits the text, and check that its ids come from the same tokenizer",
            )
        if absent:
            warnings.warn(f"words without a match: {absent}", MechsteerWarning, stacklevel=3)


class ReasonScoreAccumulator:
    """ReasonScore over shards in one pass; memory O(d_sae · |R|) whatever the corpus.

    The result does not depend on how rows are grouped into `update` calls (to float64 rounding).
    """

    def __init__(
        self,
        groups: Groups,
        d_sae: int,
        *,
        window: tuple[int, int] = (2, 3),
        alpha: float = 0.7,
        ignore_ids: Iterable[int] = (),
    ) -> None:
        self._matcher = WordMatcher(groups, window, ignore_ids)
        self.d_sae, self.alpha = d_sae, float(alpha)
        n_words = len(self._matcher.groups)
        # rows: outside all windows, the union of all windows, then each word's
        self._sums = torch.zeros(2 + n_words, d_sae, dtype=torch.float64)
        self._counts = torch.zeros(2 + n_words, dtype=torch.long)

    def update(self, tokens: Tokens, feature_acts: FeatureActs | SparseActs, mask: Mask | None = None) -> None:
        """Adds whole documents: `tokens` [n_rows pos], `feature_acts` [n_rows pos d_sae] scaled by the decoder norms.

        Raises ShapeError, and NonFiniteError for NaN or infinity at a kept token.
        """
        check_acts(tokens, feature_acts, mask, self.d_sae)
        kept = self._matcher.kept(tokens, mask)
        words = self._matcher.windows(tokens, kept).flatten(1)
        union = words.any(0)
        outside = kept.flatten() & ~union
        if isinstance(feature_acts, SparseActs):
            sums = sums_over(torch.cat([torch.stack([outside, union]), words]), feature_acts.flat())
        else:
            sums = self._dense_sums(outside, union, words, feature_acts.flatten(0, 1))
        self._sums += sums
        self._counts += torch.cat([torch.stack([outside.sum(), union.sum()]), words.sum(1)]).cpu()

    def _dense_sums(self, outside: Tensor, union: Tensor, words: Tensor, flat: Tensor) -> Tensor:
        """[2 + n_words d_sae] of `flat` [n_tokens d_sae]."""
        sums = torch.zeros_like(self._sums)
        for rows in row_chunks(outside, self.d_sae):
            # subtracting μ⁺'s sum from the total instead would leave rounding where there is no activation at all
            sums[0] += flat[rows].sum(0, dtype=torch.float64).cpu()
        for rows in row_chunks(union, self.d_sae):
            weights = torch.cat([union[None, rows], words[:, rows]]).double()
            sums[1:] += (weights @ flat[rows].double()).cpu()
        if not sums.isfinite().all():
            raise NonFiniteError(
                "NaN or infinity in the feature activations", "mask the positions that were not computed"
            )
        return sums

    def result(self) -> FeatureScores:
        """The scores so far. Raises DataError if no word occurred; warns of words without a match."""
        self._matcher.require_matches()
        means = self._sums / self._counts.clamp(min=1)[:, None]
        mu_neg, mu_pos, mu_words = means[0], means[1], means[2:]
        n_neg, n_pos = int(self._counts[0]), int(self._counts[1])
        if n_neg == 0:
            warnings.warn(
                "the windows cover every kept token: μ⁻ is 0 for want of data", MechsteerWarning, stacklevel=2
            )
        score, entropy = score_of(mu_neg, mu_pos, mu_words, self.alpha)
        return FeatureScores(
            score=score,
            mu_pos=mu_pos,
            mu_neg=mu_neg,
            entropy=entropy,
            counts=dict(self._matcher.counts),
            alpha=self.alpha,
            window=self._matcher.window,
            n_pos=n_pos,
            n_neg=n_neg,
        )


class ReasonRatioAccumulator:
    """`reason_ratio` over shards in one pass; memory O(d_sae)."""

    def __init__(self, groups: Groups, d_sae: int, *, k: int = 32, ignore_ids: Iterable[int] = ()) -> None:
        if k < 1:
            raise ConfigError(f"k = {k}", "k is the number of features taken per prompt, 1 or more")
        self._matcher = WordMatcher(groups, (0, 0), ignore_ids)
        self.d_sae, self.k = d_sae, k
        self._ratios = torch.zeros(d_sae, dtype=torch.float64)
        self._n_prompts = torch.zeros(d_sae, dtype=torch.long)
        self._n_with_words = 0

    def update(self, tokens: Tokens, feature_acts: FeatureActs | SparseActs, mask: Mask | None = None) -> None:
        """Adds whole prompts, one per row; shapes and errors as in `ReasonScoreAccumulator.update`."""
        check_acts(tokens, feature_acts, mask, self.d_sae)
        kept = self._matcher.kept(tokens, mask)
        reasoning = self._matcher.windows(tokens, kept).any(0)
        for row in reasoning.any(1).nonzero().flatten().tolist():
            mean_all, mean_reasoning = _means(feature_acts[row], torch.stack([kept[row], reasoning[row]]))
            if not mean_all.isfinite().all():
                raise NonFiniteError(f"NaN or infinity in the activations of row {row}", "mask what was not computed")
            top = mean_all.topk(min(self.k, self.d_sae)).indices
            top = top[mean_all[top] > 0]  # a silent feature is not among the top, it only fills them up
            self._ratios[top] += mean_reasoning[top] / mean_all[top]
            self._n_prompts[top] += 1
            self._n_with_words += 1

    def result(self) -> RatioScores:
        """The ratios so far. Raises DataError if no word occurred; warns of words without a match."""
        self._matcher.require_matches()
        return RatioScores(
            score=self._ratios / self._n_prompts.clamp(min=1),
            n_prompts=self._n_prompts.clone(),
            counts=dict(self._matcher.counts),
            k=self.k,
            n_with_words=self._n_with_words,
        )


def reason_score(
    tokens: Tokens,
    feature_acts: FeatureActs | SparseActs,
    groups: Groups,
    *,
    window: tuple[int, int] = (2, 3),
    alpha: float = 0.7,
    ignore_ids: Iterable[int] = (),
    mask: Mask | None = None,
) -> FeatureScores:
    """ReasonScore of every feature; the definition is in the module docstring.

    `tokens` [n_rows pos], one document per row; `feature_acts` [n_rows pos d_sae], already scaled by the decoder
    norms; `groups` {name: [token-id tuples]}; `window` (tokens before, tokens after), the paper's second
    version by default ((1, 2) in its first code); `mask` [n_rows pos] True at real tokens.

    Raises ShapeError, NonFiniteError, and DataError if no word occurs; warns (MechsteerWarning) of words that do not.

    >>> acts = torch.zeros(1, 9, 2)
    >>> acts[0, 4, 0] = acts[0, 8, 1] = 1.0
    >>> scores = reason_score(torch.arange(9)[None], acts, {"wait": [(4,)]}, window=(1, 1))
    >>> scores.score.round(decimals=6).tolist(), scores.counts, scores.n_pos
    ([1.0, -1.0], {'wait': 1}, 3)
    """
    accumulator = ReasonScoreAccumulator(
        groups, feature_acts.shape[-1], window=window, alpha=alpha, ignore_ids=ignore_ids
    )
    accumulator.update(tokens, feature_acts, mask)
    return accumulator.result()


def reason_ratio(
    tokens: Tokens,
    feature_acts: FeatureActs | SparseActs,
    groups: Groups,
    *,
    k: int = 32,
    ignore_ids: Iterable[int] = (),
    mask: Mask | None = None,
) -> RatioScores:
    """The per-prompt variant: how much stronger a feature is on reasoning words than in the rest of its prompt.

    Over the prompts (rows) that hold a reasoning word and in which the feature is among the `k` with the
    largest mean activation, the mean of (mean activation on the words' own tokens) / (mean over all kept
    tokens). 0 for features that are never among them. Arguments and errors as in `reason_score`.
    """
    accumulator = ReasonRatioAccumulator(groups, feature_acts.shape[-1], k=k, ignore_ids=ignore_ids)
    accumulator.update(tokens, feature_acts, mask)
    return accumulator.result()


def score_of(
    mu_neg: Float[Tensor, " d_sae"],
    mu_pos: Float[Tensor, " d_sae"],
    mu_words: Float[Tensor, "n_words d_sae"],
    alpha: float,
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """(score, entropy) of every feature from its means outside, inside and around each word."""
    entropy = torch.ones_like(mu_pos)
    if len(mu_words) > 1:
        p = mu_words / (mu_words.sum(0) + EPS)
        entropy = torch.special.entr(p).sum(0) / math.log(len(mu_words))
    return mu_pos / (mu_pos.sum() + EPS) * entropy**alpha - mu_neg / (mu_neg.sum() + EPS), entropy


def row_chunks(selected: Bool[Tensor, " n"], d_sae: int) -> Sequence[Tensor]:
    """Numbers of the selected rows, in pieces whose activations fit into the working memory."""
    rows = selected.nonzero().flatten()
    return rows.split(max(1, _CHUNK_ELEMENTS // max(d_sae, 1))) if len(rows) else ()


def _means(acts: Tensor | SparseActs, sets: Bool[Tensor, "n_sets pos"]) -> Float[Tensor, "n_sets d_sae"]:
    """Mean activation over each set of positions of one row, float64."""
    if isinstance(acts, SparseActs):
        return sums_over(sets, acts) / sets.sum(1, keepdim=True).cpu()
    return torch.stack([acts[own].mean(0, dtype=torch.float64) for own in sets]).cpu()


def check_acts(tokens: Tensor, feature_acts: Tensor | SparseActs, mask: Tensor | None, d_sae: int) -> None:
    """Raises ShapeError unless tokens, activations and mask are of the same positions."""
    if tokens.ndim != 2 or tuple(feature_acts.shape) != (*tokens.shape, d_sae):
        raise ShapeError(
            f"tokens {tuple(tokens.shape)} and feature_acts {tuple(feature_acts.shape)} do not fit d_sae {d_sae}",
            "expected tokens [n_rows pos] and feature_acts [n_rows pos d_sae]",
        )
    if mask is not None and mask.shape != tokens.shape:
        raise ShapeError(f"mask {tuple(mask.shape)} does not fit tokens {tuple(tokens.shape)}", "one flag per token")
