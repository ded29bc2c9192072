"""Compares the streamed ReasonScore with a dense reference: largest difference and time ratio.

python scripts/bench_features.py
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from mechsteer.features import ReasonScoreAccumulator

N_ROWS, N_POS, D_SAE, VOCAB, SHARD = 256, 128, 512, 300, 16
GROUPS = {f"word {i}": [(i,), (i + 20, i)] for i in range(10)}


def dense(tokens: Tensor, acts: Tensor, window: tuple[int, int], alpha: float) -> Tensor:
    """The definition on whole float64 tensors, with one loop per match."""
    inside = torch.zeros(len(GROUPS), *tokens.shape, dtype=torch.bool)
    for word, members in enumerate(GROUPS.values()):
        for row, ids in enumerate(tokens.tolist()):
            for first in range(len(ids)):
                for member in members:
                    if tuple(ids[first : first + len(member)]) == member:
                        last = first + len(member) + window[1]
                        inside[word, row, max(first - window[0], 0) : last] = True
    wide = acts.double()
    mu_words = torch.stack([wide[own].mean(0) for own in inside])
    mu_pos, mu_neg = wide[inside.any(0)].mean(0), wide[~inside.any(0)].mean(0)
    p = mu_words / (mu_words.sum(0) + 1e-12)
    entropy = -torch.xlogy(p, p).sum(0) / torch.tensor(float(len(GROUPS))).log()
    return mu_pos / mu_pos.sum() * entropy**alpha - mu_neg / mu_neg.sum()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCAB, (N_ROWS, N_POS), generator=generator)
    acts = (torch.randn(N_ROWS, N_POS, D_SAE, generator=generator) - 1.5).relu()

    start = time.perf_counter()
    expected = dense(tokens, acts, (2, 3), 0.7)
    dense_s = time.perf_counter() - start

    start = time.perf_counter()
    streamed = ReasonScoreAccumulator(GROUPS, D_SAE, window=(2, 3), alpha=0.7)
    for shard in zip(tokens.split(SHARD), acts.split(SHARD), strict=True):
        streamed.update(*shard)
    scores = streamed.result()
    streamed_s = time.perf_counter() - start

    print(f"{N_ROWS * N_POS} tokens, d_sae {D_SAE}, {N_ROWS // SHARD} shards, matches {sum(scores.counts.values())}")
    print(f"max abs difference {float((scores.score - expected).abs().max()):.2e}")
    print(f"dense {dense_s:.2f} s, streamed {streamed_s:.2f} s, ratio {streamed_s / dense_s:.2f}")


if __name__ == "__main__":
    main()
