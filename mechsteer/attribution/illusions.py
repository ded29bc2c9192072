"""Shares that the rest of the delta takes back (Makelov, Lange & Nanda 2023, arXiv 2311.17030).

A direction d between a part of the delta that nobody reads and a reading direction that the delta has no part in gets
a share, c ⟨G, d⟩, although the delta does nothing along it: what is left of the delta, delta − c d, has the opposite
one. Its sign: directions kept alone do more than the whole, and many small ones and the residual bring it back.

Shares here are those of the check: what each next direction adds to the effect of the kept span. A direction is marked
if its share is large (.1), and the share of the rest, the residual and all directions with less than half of its
share and less than a fifth of the effect, has the other sign and at least a third of its size. So opposite directions of
like size, or large in themselves, a true mixture of signs, do not mark each other. Several may be marked for one rest. Where contexts differ the rest tells which it takes back: its
effect on each context follows minus theirs (least squares, coefficients between 0 and 1), and a direction with a
coefficient under one half is cleared. Where contexts do not differ nothing can clear it: in a linear model a rotation
turns a true share beside an illusion into an illusion beside a true share, so the mark says "perhaps".

In an overcomplete basis the code of the delta often passes an illusion by, for other directions that hold as much of it.
It is one all the same to whoever looks at directions one at a time, so those that are not selected are judged too, in the
order of what they do alone. Those that are selected are not: beside large inert parts of the delta that order starts with
chance directions between these and what is read, and a true one may be marked with them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import lsq_linear
from torch import Tensor

from mechsteer.attribution.selection import Evidence, gains, largest_alone

LARGE, HALF, THIRD, NAMED = 0.1, 0.5, 1 / 3, 0.2
JUDGED = 32  # directions by what they do alone; with 8 or 16 as many planted illusions are marked
_VARIES = 0.05  # standard deviation over contexts, in means, from which on contexts are taken to differ


def suspected(
    found: Evidence, picked: Int[Tensor, "1 k"], effect: Float[Tensor, " n_prompts"]
) -> Bool[Tensor, " n_candidates"]:
    """Which candidates may be illusions: those `picked`, in that order, and others by what they do alone."""
    marks = torch.zeros(len(found.number), dtype=torch.bool)
    alone = largest_alone(found, JUDGED)
    marks[alone[0]] = marked(gains(found, alone), effect)
    marks[picked[0]] = marked(gains(found, picked), effect)
    return marks


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
        rest = effect - gains[:, shares.abs() >= min(HALF * abs(float(shares[i])), NAMED)].sum(1)
        of_rest = float(rest.mean() / effect.mean())
        if of_rest * float(shares[i]) < 0 and abs(of_rest) >= THIRD * abs(float(shares[i])):
            suspects.append(i)
            rests.append(rest)
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
