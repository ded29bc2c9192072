"""Gradients of the metric by the deltas of every touched token, along the straight line from the base to the steered run.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365): G_t = ∫₀¹ ∂metric(α · delta) / ∂(α · delta_t) dα, so
that Σ_t ⟨G_t, delta_t⟩ is the effect. How well it is, the completeness, is known for every piece of the line: the
integral of the slope over it against the difference of the metric at its ends. So the line is refined where it bends,
for each row where that row bends: the piece with the largest error is halved until the errors are small beside the
effect. A step of width 1/100, in front of which the gradient is 0, takes about 20 gradients in place of 500.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.attribution.replay import Prepared, Runner
from mechsteer.errors import ConfigError, NonFiniteError

FIRST_PIECES, MOST_STEPS = 8, 512
_TOLERANCE = 0.01  # Σ |errors of the pieces| of a row beside its effect, or a tenth of the mean |effect|
_ENTRIES = 2**27  # of the gradients kept while a batch is refined, and of the moments

Steps = int | Literal["auto"]


@dataclass(frozen=True, eq=False)
class Recorded:
    """Touched tokens of all prompts, batch after batch: their deltas and the gradients of the metric by them."""

    deltas: Float[Tensor, "n_tokens d_model"]
    gradients: Float[Tensor, "n_tokens d_model"]  # float64
    prompt_of: Int[Tensor, " n_tokens"]
    n_prompts: int
    steps: int  # gradients a row took, at most

    @cached_property
    def linear(self) -> Float[Tensor, " n_prompts"]:
        """Σ_t ⟨G_t, delta_t⟩ of every prompt: its effect, up to completeness."""
        rows = (self.gradients * self.deltas.double()).sum(1)
        return torch.zeros(self.n_prompts, dtype=torch.float64).index_add_(0, self.prompt_of, rows)

    @cached_property
    def moments(self) -> tuple[Float[Tensor, "rank d_model"], Float[Tensor, "n_prompts rank d_model"]]:
        """(axes, M) with M[p] = Σ_t (axes @ delta_t) G_tᵀ over the tokens of p: all that projections of deltas need.

        For any projection P the effect of P delta on prompt p is, to first order, Σ_r ⟨P axes_r, M[p, r]⟩. A static
        vector has rank 1. Where the whole would not fit in memory, the leading axes of the deltas stand for them.
        """
        deltas = self.deltas.double()
        if bool((self.deltas == self.deltas[0]).all()):
            norm = deltas[0].norm().clamp(min=1e-300)
            axes = deltas[:1] / norm
        else:
            sizes, vectors = torch.linalg.eigh(deltas.T @ deltas)
            most = max(1, _ENTRIES // (self.n_prompts * deltas.shape[1]))
            axes = vectors.T[sizes > 1e-12 * sizes.max()].flip(0)[:most]
        along = deltas @ axes.T
        moments = torch.zeros(self.n_prompts, len(axes), deltas.shape[1], dtype=torch.float64)
        for prompt in range(self.n_prompts):
            own = self.prompt_of == prompt
            moments[prompt] = along[own].T @ self.gradients[own]
        return axes, moments


def record(runner: Runner, steps: Steps) -> Recorded:
    """Gradients of every batch: at the base run (`steps` 0), at so many midpoints, or refined ("auto").

    Raises ConfigError for a metric that cannot be differentiated, NonFiniteError for a gradient that is NaN.
    """
    deltas, gradients, prompts, most = [], [], [], 0
    least = 0.1 * float((runner.gather("steered") - runner.gather("base")).abs().mean())
    for each in runner.batches:
        gradient, n_taken = _refined(runner, each, least) if steps == "auto" else _uniform(runner, each, steps)
        if not bool(torch.isfinite(gradient[each.touched]).all()):
            raise NonFiniteError("a gradient of the metric is NaN or infinite", "look at the metric's derivative")
        most = max(most, n_taken)
        deltas.append(each.delta[each.touched].cpu())
        gradients.append(gradient[each.touched].double().cpu())
        prompts.append(each.batch.rows[:, None].expand_as(each.touched)[each.touched].cpu())
    n_prompts = sum(len(each.base) for each in runner.batches)
    return Recorded(torch.cat(deltas), torch.cat(gradients), torch.cat(prompts), n_prompts, most)


def _slope(runner: Runner, each: Prepared, at: Tensor) -> tuple[Tensor, Tensor]:
    """(metric [batch], its gradient [batch pos d_model]) where row i has `at[i]` times its delta."""
    leaf = (at.to(each.delta)[:, None, None] * each.delta).requires_grad_()
    with torch.enable_grad():
        values = runner.score(each, leaf)
        if not values.requires_grad:
            raise ConfigError("the metric does not depend on the logits differentiably", "avoid argmax, counts")
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach().double().cpu(), gradient


def _uniform(runner: Runner, each: Prepared, steps: int) -> tuple[Tensor, int]:
    points = [(step + 0.5) / steps for step in range(steps)] or [0.0]
    total = torch.zeros_like(each.delta)
    for point in points:
        total += _slope(runner, each, torch.full((len(each.base),), point))[1] / len(points)
    return total, len(points)


def _refined(runner: Runner, each: Prepared, least: float) -> tuple[Tensor, int]:
    """The trapezoid rule on points that are each row's own, whatever else is in its batch."""
    n_rows = len(each.base)
    enough = _TOLERANCE * (each.steered - each.base).double().cpu().abs().clamp(min=least)
    most = max(2 * FIRST_PIECES, min(MOST_STEPS, _ENTRIES // max(1, each.delta.numel())))
    points, values, slopes, gradients = [], [], [], []
    for at in _points(n_rows, points, values, slopes, enough, most):
        value, gradient = _slope(runner, each, at)
        points.append(at)
        values.append(value)
        slopes.append((gradient * each.delta).double().sum((1, 2)).cpu())
        gradients.append(gradient)
    at, order = torch.stack(points).sort(dim=0)
    width = at.diff(dim=0) / 2
    pad = width.new_zeros(1, n_rows)
    weights = torch.empty_like(at).scatter_(0, order, torch.cat([width, pad]) + torch.cat([pad, width]))
    total = torch.zeros_like(each.delta)
    for weight, gradient in zip(weights, gradients, strict=True):
        total += weight.to(gradient)[:, None, None] * gradient
    return total, len(points)


def _points(
    n_rows: int, points: list[Tensor], values: list[Tensor], slopes: list[Tensor], enough: Tensor, most: int
) -> Iterator[Tensor]:
    """Where to take the next gradient, [n_rows]; the lists are what was found so far."""
    for step in range(FIRST_PIECES + 1):
        yield torch.full((n_rows,), step / FIRST_PIECES, dtype=torch.float64)
    while len(points) < most:
        at, order = torch.stack(points).sort(dim=0)
        value, slope = (torch.stack(kept).gather(0, order) for kept in (values, slopes))
        width = at.diff(dim=0)
        errors = (value.diff(dim=0) - width * (slope[1:] + slope[:-1]) / 2).abs()
        is_done = errors.sum(0) <= enough
        if bool(is_done.all()):
            return
        worst = errors.where(width > 1e-6, -1).argmax(0)[None]
        halved = (at[:-1].gather(0, worst) + width.gather(0, worst) / 2)[0]
        yield halved.where(~is_done, 1)  # the end once more: a piece of width 0
