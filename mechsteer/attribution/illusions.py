"""Shares that the rest of the delta takes back (Makelov, Lange & Nanda 2023, arXiv 2311.17030).

A direction d between a part of the delta that nobody reads and a reading direction that the delta has no part in gets
a share, c ⟨G, d⟩, although the delta does nothing along it: what is left of the delta, delta − c d, has the opposite
one. Its sign: directions kept alone do more than the whole, and many small ones and the residual bring it back.

Shares here are those of the check: what each next direction adds to the effect of the kept span. A direction is marked
if its share is large (.1), and the share of the rest, the residual and all directions with less than half of its
share and less than a fifth of the effect, has the other sign and at least a third of its size. So opposite directions of
like size, or large in themselves, a true mixture of signs, do not mark each other. Several may be marked for one rest.

Where contexts differ the rest tells which it takes back: its effect on each context follows minus theirs (least squares,
coefficients between 0 and 1), and a direction with a coefficient under one half is cleared. Here all directions of the
other sign are of the rest, however large: part of what is taken back may have been given to some of them, and those that
mean something by themselves follow nothing. Where contexts do not differ nothing can clear it: in a linear model a
rotation turns a true share beside an illusion into an illusion beside a true share, so the mark says "perhaps".
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from scipy.optimize import lsq_linear
from torch import Tensor

LARGE, HALF, THIRD, NAMED = 0.1, 0.5, 1 / 3, 0.2
_VARIES = 0.05  # standard deviation over contexts, in means, from which on contexts are taken to differ


def marked(gains: Float[Tensor, "n_prompts n_dirs"], effect: Float[Tensor, " n_prompts"]) -> Bool[Tensor, " n_dirs"]:
    """Which directions may be illusions: `gains` and a residual add up to the `effect` of every prompt.

    >>> one = torch.ones(4, 1)
    >>> marked(one * torch.tensor([1.0, 0.8, 0.0]), one[:, 0]).tolist()  # the residual takes .8 back
    [True, True, False]
    >>> marked(one * torch.tensor([1.0, 0.8, -0.8]), one[:, 0]).tolist()  # a third direction does
    [False, False, False]
    >>> marked(one * torch.tensor([0.6, 0.5, 0.45, -0.28, -0.27]), one[:, 0]).tolist()  # two that are large themselves do
    [False, False, False, False, False]
    """
    shares = gains.mean(0) / effect.mean()
    rests, suspects = [], []
    for i in (shares.abs() >= LARGE).nonzero()[:, 0].tolist():
        share = float(shares[i])
        is_named = shares.abs() >= min(HALF * abs(share), NAMED)
        of_rest = 1 - float(shares[is_named].sum())
        if of_rest * share < 0 and abs(of_rest) >= THIRD * abs(share):
            suspects.append(i)
            rests.append(effect - gains[:, is_named & (shares * share > 0)].sum(1))
    marks = torch.zeros(gains.shape[1], dtype=torch.bool)
    for number, (i, rest) in enumerate(zip(suspects, rests, strict=True)):
        own = gains[:, suspects] - gains[:, suspects].mean(0)
        marks[i] = True
        if len(effect) > len(suspects) + 1 and _varies(rest) and _varies(gains[:, i]):
            fit = lsq_linear(own.numpy(), (rest.mean() - rest).numpy(), bounds=(0, 1))
            marks[i] = bool(fit.x[number] >= HALF)
    return marks


def _varies(values: Tensor) -> bool:
    return float(values.std()) > _VARIES * float(values.mean().abs())
