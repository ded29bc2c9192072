"""ReasonScore and the per-prompt ratio as their definitions read: python loops, one token at a time."""

import math


def _matches(row, members):
    return [(s, ids) for ids in members for s in range(len(row)) if tuple(row[s : s + len(ids)]) == tuple(ids)]


def dense_scores(tokens, acts, groups, window=(2, 3), alpha=0.7, ignore_ids=(), mask=None, eps=1e-12):
    """-> (score, mu_pos, mu_neg, entropy, counts); nested lists in, lists out."""
    d_sae = len(acts[0][0])
    positive, negative = [], []
    by_word = {name: [] for name in groups}
    starts = {name: 0 for name in groups}
    for r, row in enumerate(tokens):
        kept = {p for p in range(len(row)) if row[p] not in ignore_ids and (mask is None or mask[r][p])}
        union = set()
        for name, members in groups.items():
            own, begins = set(), set()
            for s, ids in _matches(row, members):
                if all(p in kept for p in range(s, s + len(ids))):
                    begins.add(s)
                    own |= {p for p in range(s - window[0], s + len(ids) + window[1]) if p in kept}
            starts[name] += len(begins)
            by_word[name] += [(r, p) for p in own]
            union |= own
        positive += [(r, p) for p in union]
        negative += [(r, p) for p in kept - union]

    def mean(places, i):
        return sum(float(acts[r][p][i]) for r, p in places) / len(places) if places else 0.0

    mu_pos = [mean(positive, i) for i in range(d_sae)]
    mu_neg = [mean(negative, i) for i in range(d_sae)]
    entropy = []
    for i in range(d_sae):
        mu = [mean(places, i) for places in by_word.values()]
        p = [m / (sum(mu) + eps) for m in mu]
        h = -sum(q * math.log(q) for q in p if q > 0)
        entropy.append(h / math.log(len(mu)) if len(mu) > 1 else 1.0)
    score = [
        a / (sum(mu_pos) + eps) * max(h, 0.0) ** alpha - b / (sum(mu_neg) + eps)
        for a, b, h in zip(mu_pos, mu_neg, entropy, strict=True)
    ]
    return score, mu_pos, mu_neg, entropy, starts


def dense_ratio(tokens, acts, groups, k, ignore_ids=()):
    """-> list of [d_sae] ratios."""
    d_sae = len(acts[0][0])
    ratios = [[] for _ in range(d_sae)]
    for r, row in enumerate(tokens):
        kept = [p for p in range(len(row)) if row[p] not in ignore_ids]
        on_word = {
            s + j
            for members in groups.values()
            for s, ids in _matches(row, members)
            for j in range(len(ids))
            if all(p in kept for p in range(s, s + len(ids)))
        }
        if not on_word:
            continue
        mean = [sum(float(acts[r][p][i]) for p in kept) / len(kept) for i in range(d_sae)]
        for i in sorted(range(d_sae), key=lambda i: -mean[i])[:k]:
            if mean[i] > 0:
                ratios[i].append(sum(float(acts[r][p][i]) for p in on_word) / len(on_word) / mean[i])
    return [sum(found) / len(found) if found else 0.0 for found in ratios]
