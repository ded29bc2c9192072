"""Would any words do? ReasonScore of lists of ordinary words, matched in number and frequency with the vocabulary.

A feature that fires on commas is also more active around *some* list of words than elsewhere. So every list is
scored as the vocabulary is, with the same windows and formula: each of its words stands for one group of the
vocabulary, spelled with as many tokens and about as frequent in the same text (drawn among the nearest in frequency). Ordinary are spellings
with a letter, that share no token with the vocabulary, and that stand outside its windows more often than inside:
"check" behind "let me" is no ordinary word.

    p of the best feature = (1 + lists whose maximum reaches it) / (1 + lists)

All lists are scored in one pass over the activations; memory O(d_sae · (2 · lists + words)).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.features.reason_score import FeatureScores, Groups, WordMatcher, check_acts, row_chunks, score_of
from mechsteer.features.sparse import SparseActs, sums_over
from mechsteer.results import Result
from mechsteer.shapes import FeatureActs, Mask, Tokens

N_LISTS = 99
NEAREST = 8  # ordinary words that one is drawn from

Spelling = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MatchedWords(Result):
    """ReasonScore under lists of ordinary words."""

    lists: tuple[tuple[str, ...], ...]
    """words of each list"""
    n_matches: tuple[int, ...]
    """how often words of each list occur; the vocabulary's own number is `n_vocabulary`"""
    n_vocabulary: int
    maxima: Float[Tensor, " n_lists"]
    """highest score of any feature"""
    p_best: float
    """of the vocabulary's highest score among these"""
    p_feature: Float[Tensor, " d_sae"]
    """of each feature's score among its own under the lists"""
    p_any: Float[Tensor, " d_sae"]
    """of each feature's score among the highest scores of the lists: with all features tested at once"""


class MatchedLists:
    """Chooses the lists: one pass over tokens with `update`, then `draw`."""

    def __init__(self, groups: Groups, *, window: tuple[int, int] = (2, 3), ignore_ids: Iterable[int] = ()) -> None:
        self._matcher = WordMatcher(groups, window, ignore_ids)
        self._sizes = sorted({len(ids) for members in self._matcher.groups.values() for ids in members})
        self._seen: Counter[Spelling] = Counter()
        self._inside: Counter[Spelling] = Counter()

    def update(self, tokens: Tokens, mask: Mask | None = None) -> None:
        """Counts whole documents, `tokens` [n_rows pos]."""
        kept = self._matcher.kept(tokens, mask)
        windows = self._matcher.windows(tokens, kept).any(0)
        for size in self._sizes:
            if tokens.shape[1] < size:
                continue
            spelled, whole, inside = (part.unfold(1, size, 1) for part in (tokens, kept, windows))
            whole = whole.all(-1)
            for counter, which in ((self._seen, whole), (self._inside, whole & inside[..., 0])):
                found, counts = torch.unique(spelled[which], dim=0, return_counts=True)
                counter.update(dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True)))

    def draw(self, text: Callable[[int], str], *, n_lists: int = N_LISTS, seed: int = 0) -> list[list[Spelling]]:
        """`n_lists` lists, each with one spelling for every group that occurs. `text` of a token id.

        Raises DataError where no word of the vocabulary occurs, or there are fewer ordinary words than a list needs.
        """
        taken = {token for members in self._matcher.groups.values() for ids in members for token in ids}
        ordinary: dict[int, list[Spelling]] = {size: [] for size in self._sizes}
        for ids, n in sorted(self._seen.items()):
            free = taken.isdisjoint(ids) and all(any(map(str.isalpha, text(token))) for token in ids)
            if free and 2 * self._inside[ids] <= n:
                ordinary[len(ids)].append(ids)
        wanted = [
            (self._matcher.counts[name], self._size(members))
            for name, members in self._matcher.groups.items()
            if self._matcher.counts[name]
        ]
        if not wanted:
            raise DataError("no word of the vocabulary occurs", "choose a vocabulary that fits the text")
        for size in {size for _, size in wanted}:
            needed = sum(other == size for _, other in wanted)
            if len(ordinary[size]) < needed:
                raise DataError(
                    f"{needed} words of {size} tokens have only {len(ordinary[size])} ordinary ones to be matched with",
                    "there is no null for a vocabulary that is most of the text: give fewer words, or more text",
                )
        rng = np.random.default_rng(seed)
        return [self._one(wanted, ordinary, rng) for _ in range(n_lists)]

    def _one(
        self, wanted: Sequence[tuple[int, int]], ordinary: dict[int, list[Spelling]], rng: np.random.Generator
    ) -> list[Spelling]:
        drawn: list[Spelling] = []
        for i in rng.permutation(len(wanted)):  # no word always has the first choice
            n, size = wanted[i]
            free = [ids for ids in ordinary[size] if ids not in drawn]
            distance = np.array([abs(np.log(self._seen[ids] / n)) for ids in free])
            nearest = np.argsort(distance, kind="stable")[:NEAREST]
            drawn.append(free[int(rng.choice(nearest))])
        return drawn

    def _size(self, members: Sequence[Spelling]) -> int:
        """Tokens of a group's commonest spelling."""
        return len(max(members, key=lambda ids: self._seen[ids]))


class MatchedWordsAccumulator:
    """ReasonScore of many lists of words in one pass; `n_words` is the vocabulary's |R|, absent words included."""

    def __init__(
        self,
        lists: Sequence[Sequence[Spelling]],
        d_sae: int,
        *,
        n_words: int,
        window: tuple[int, int] = (2, 3),
        alpha: float = 0.7,
        ignore_ids: Iterable[int] = (),
    ) -> None:
        words = sorted({ids for each in lists for ids in each})
        self.lists, self.words = [[words.index(ids) for ids in each] for each in lists], words
        self._matcher = WordMatcher({str(i): [ids] for i, ids in enumerate(words)}, window, ignore_ids)
        self.d_sae, self.alpha, self.n_words = d_sae, float(alpha), n_words
        n_rows = 2 * len(lists) + len(words)  # outside and inside of each list, then each word
        self._sums = torch.zeros(n_rows, d_sae, dtype=torch.float64)
        self._counts = torch.zeros(n_rows, dtype=torch.long)

    def update(self, tokens: Tokens, feature_acts: FeatureActs | SparseActs, mask: Mask | None = None) -> None:
        """As `ReasonScoreAccumulator.update`."""
        check_acts(tokens, feature_acts, mask, self.d_sae)
        kept = self._matcher.kept(tokens, mask)
        words = self._matcher.windows(tokens, kept).flatten(1)
        inside = torch.stack([words[each].any(0) for each in self.lists])
        rows = torch.cat([kept.flatten() & ~inside, inside, words])
        if isinstance(feature_acts, SparseActs):
            self._sums += sums_over(rows, feature_acts.flat())
        else:
            flat = feature_acts.flatten(0, 1)
            for part in row_chunks(kept.flatten(), max(self.d_sae, len(rows))):
                self._sums += (rows[:, part].double() @ flat[part].double()).cpu()
        self._counts += rows.sum(1).cpu()

    def result(self, scores: FeatureScores, text: Callable[[int], str]) -> MatchedWords:
        """`scores` of the vocabulary beside those of the lists; `text` of a token id."""
        means = self._sums / self._counts.clamp(min=1)[:, None]
        n = len(self.lists)
        found = torch.stack(
            [
                score_of(means[i], means[n + i], self._padded(means[2 * n :][each]), self.alpha)[0]
                for i, each in enumerate(self.lists)
            ]
        )
        maxima = found.max(1).values
        counts = [self._matcher.counts[str(i)] for i in range(len(self.words))]

        def p(null: Tensor) -> Tensor:
            return (1 + (null >= scores.score).sum(0)) / (1 + n)

        any_feature = p(maxima[:, None].expand(-1, self.d_sae))
        return MatchedWords(
            lists=tuple(tuple("".join(map(text, self.words[word])) for word in each) for each in self.lists),
            n_matches=tuple(sum(counts[word] for word in each) for each in self.lists),
            n_vocabulary=sum(scores.counts.values()),
            maxima=maxima,
            p_best=float(any_feature[scores.score.argmax()]),
            p_feature=p(found),
            p_any=any_feature,
        )

    def _padded(self, mu_words: Tensor) -> Tensor:
        """With zeros for the words of the vocabulary that never occur: they count in |R|."""
        return torch.cat([mu_words, mu_words.new_zeros(max(0, self.n_words - len(mu_words)), self.d_sae)])
