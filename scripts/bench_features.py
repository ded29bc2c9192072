"""ReasonScore and SAE encoding beside straightforward code.

python scripts/bench_features.py            the streamed ReasonScore against one loop per match: difference, time ratio
python scripts/bench_features.py sparse     a million tokens of 16,384 features, 32 active: peak memory and time of one
                                            sparse pass; a dense two-pass implementation on a slice, scaled up
python scripts/bench_features.py encode     tokens per second of a TopK SAE, beside sae_lens' own encode
"""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import Tensor

from mechsteer.features import ReasonScoreAccumulator, SparseActs, sae_library
from mechsteer.features.encoding import encode_sparse
from mechsteer.features.reason_score import WordMatcher, score_of

N_ROWS, N_POS, D_SAE, VOCAB, SHARD = 256, 128, 512, 300, 16
GROUPS = {f"word {i}": [(i,), (i + 20, i)] for i in range(10)}

WIDE, K, MANY_WORDS = 16_384, 32, 5000
N_SHARDS, N_SLICE = 512, 8  # of 16 rows of 128 tokens: 1,048,576 tokens, and 16,384 of them
D_IN, N_ENCODED, REPEATS = 768, 2048, 5


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
    """The streamed score beside loops."""
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


def sparse_shard(number: int) -> tuple[Tensor, SparseActs]:
    """Tokens [16 128] and what a TopK SAE might give for them, from a seed."""
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(0, MANY_WORDS, (SHARD, N_POS), generator=generator)
    indices = torch.randint(0, WIDE, (SHARD, N_POS, K), generator=generator)
    return tokens, SparseActs(indices=indices, values=torch.rand(indices.shape, generator=generator), d_sae=WIDE)


class TwoPasses:
    """ReasonScore of dense shards as products with masks: means inside and outside, then in another pass each word's."""

    def __init__(self) -> None:
        self.matcher = WordMatcher(GROUPS, (2, 3), ())
        self.sums = {"both": torch.zeros(2, WIDE), "words": torch.zeros(len(GROUPS), WIDE)}
        self.counts = {"both": torch.zeros(2, 1), "words": torch.zeros(len(GROUPS), 1)}
        self.seconds = 0.0

    def run(self, which: str, tokens: Tensor, acts: Tensor) -> None:
        """One pass over one shard."""
        start = time.perf_counter()
        sets = self.matcher.windows(tokens, torch.ones_like(tokens, dtype=torch.bool)).flatten(1)
        if which == "both":
            sets = torch.stack([sets.any(0), ~sets.any(0)])
        self.sums[which] += sets.float() @ acts.flatten(0, 1)
        self.counts[which] += sets.sum(1, keepdim=True)
        self.seconds += time.perf_counter() - start

    def score(self) -> Tensor:
        """[d_sae]"""
        (inside, outside), words = (self.sums[which] / self.counts[which] for which in ("both", "words"))
        return score_of(outside.double(), inside.double(), words.double(), 0.7)[0]


def large() -> None:
    """One sparse pass over a million tokens; the dense passes on a slice of them, making shards dense left out."""
    before = peak_mib()
    streamed, seconds, on_slice = ReasonScoreAccumulator(GROUPS, WIDE), 0.0, torch.empty(0)
    for number in range(N_SHARDS):
        shard = sparse_shard(number)
        start = time.perf_counter()
        streamed.update(*shard)
        seconds += time.perf_counter() - start
        if number + 1 == N_SLICE:
            on_slice = streamed.result().score
    peak = peak_mib()  # before anything dense is made
    dense_score = TwoPasses()
    for which in ("both", "words"):
        for number in range(N_SLICE):
            tokens, acts = sparse_shard(number)
            dense_score.run(which, tokens, acts.dense())
    scaled = dense_score.seconds * N_SHARDS / N_SLICE
    n = SHARD * N_POS
    print(f"{N_SHARDS * n} tokens, d_sae {WIDE}, k {K}, {torch.get_num_threads()} threads")
    print(f"sparse {seconds:.2f} s; the process' peak {peak:.0f} MiB, {before:.0f} MiB of it before the first shard")
    print(f"dense {dense_score.seconds:.2f} s on {N_SLICE * n} tokens: {scaled:.1f} s scaled up")
    print(f"ratio {scaled / seconds:.1f}; max abs difference {float((on_slice - dense_score.score()).abs().max()):.2e}")


def encoding() -> None:
    """Tokens per second, the best of some repeats, the two taking turns."""
    torch.manual_seed(0)
    config = {"architecture": "topk", "d_in": D_IN, "d_sae": WIDE, "k": K}
    sae = sae_library.SAE.from_dict(config).requires_grad_(False)
    x = torch.randn(N_ENCODED, D_IN)
    best = {"mechsteer": float("inf"), "sae_lens": float("inf")}
    for _ in range(REPEATS):
        for name, encode in (("mechsteer", lambda x: encode_sparse(sae, x)), ("sae_lens", sae.encode)):
            start = time.perf_counter()
            encode(x)
            best[name] = min(best[name], time.perf_counter() - start)
    same = torch.allclose(encode_sparse(sae, x).dense(), sae.encode(x) * sae.W_dec.norm(dim=-1), atol=1e-5)
    print(f"{N_ENCODED} tokens, d_in {D_IN}, d_sae {WIDE}, k {K}, {torch.get_num_threads()} threads; equal: {same}")
    print(", ".join(f"{name} {N_ENCODED / seconds:.0f} tokens/s" for name, seconds in best.items()))
    print(f"ratio {best['sae_lens'] / best['mechsteer']:.2f}")


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    {"small": main, "sparse": large, "encode": encoding}[sys.argv[1] if len(sys.argv) > 1 else "small"]()
