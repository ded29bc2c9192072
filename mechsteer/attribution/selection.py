"""How directions are selected: from what a basis makes of recorded gradients to the first k of them.

A selection is a function (evidence, weights [n_draws n_prompts], k) -> [n_draws k] of candidates, best first: the
evidence of the prompts that weigh something, and nothing else. It is the same function for a basis and for its nulls.

    share    the largest |share|, one direction at a time: both signs matter. The default: on planted mechanisms
             (`scripts/court.py attribution --seeds 200-219`) it is at least as good, but for .01 in superposed dictionaries
    effect   pursuit of the effect: each next direction is the one whose addition changes the effect of the kept part
             most, given those taken; a near-copy of one that is taken adds nothing. In overcomplete dictionaries with
             large inert directions it takes some of those
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.attribution.decompose import code
from mechsteer.attribution.gradients import Recorded
from mechsteer.bases import Basis

_ENTRIES = 2**22  # of the largest intermediate tensor
_DEPENDENT = 1e-6  # norm of what a unit direction has outside the span of others, up to which it lies in it
MOST_CODED = 256  # distinct deltas that are coded for a null and for what is compared with it

Selection = Callable[["Evidence", Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a basis makes of recorded gradients. Candidates are all directions that are not zero."""

    number: Int[Tensor, " n_candidates"]  # of each candidate in the basis
    directions: Float[Tensor, "n_candidates d_model"]
    contributions: Float[Tensor, "n_prompts n_candidates"]  # Σ_t c_ti ⟨G_t, d_i⟩, in the metric's units
    axes: Float[Tensor, "rank d_model"]
    moments: Float[Tensor, "n_prompts rank d_model"]
    is_orthonormal: bool


def evidence(recorded: Recorded, basis: Basis, atoms: int, *, most: int = MOST_CODED) -> Evidence:
    """Codes and contributions of one basis, over at most `most` distinct deltas (tokens evenly spaced beyond that)."""
    axes, moments = recorded.moments
    directions = basis.directions.double()
    if basis.is_orthonormal:
        n = max(1, _ENTRIES // (len(axes) * len(directions)))
        along = axes @ directions.T
        parts = [((part @ directions.T) * along).sum(1) for part in moments.split(n)]
        return Evidence(torch.arange(len(basis)), directions, torch.cat(parts), axes, moments, True)
    rows = torch.arange(len(recorded.deltas))
    if len(axes) > 1 and len(rows) > most:
        rows = torch.linspace(0, len(rows) - 1, most).long()
    contributions, _, _ = coded(recorded, rows, basis, atoms)
    number = directions.norm(dim=1).nonzero()[:, 0]
    return Evidence(number, directions[number], contributions[:, number], axes, moments, False)


def coded(recorded: Recorded, rows: Tensor, basis: Basis, atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """(contributions [n_prompts n_dirs], mean coefficients [n_dirs], of the residual [n_prompts]) of these tokens."""
    codes, distinct, code_of = code(recorded.deltas[rows], basis, atoms)
    directions = basis.directions.double()
    # tokens of one prompt with equal deltas have equal coefficients: their gradients add up
    pairs, pair_of = torch.unique(recorded.prompt_of[rows] * len(distinct) + code_of, return_inverse=True)
    summed = torch.zeros(len(pairs), basis.d_model, dtype=torch.float64)
    summed.index_add_(0, pair_of, recorded.gradients[rows])
    prompt, of = pairs // len(distinct), pairs % len(distinct)
    residuals = distinct.double() - torch.sparse.mm(codes, directions)
    left = torch.zeros(recorded.n_prompts, dtype=torch.float64)
    left.index_add_(0, prompt, (summed * residuals[of]).sum(1))
    (row, column), value = codes.indices(), codes.values()
    used = column.unique()
    rows_used, codes_used = directions.index_select(0, used), codes.index_select(1, used)
    by_prompt = torch.zeros(recorded.n_prompts, len(used), dtype=torch.float64)
    # dense, over what is used: much faster than entry by entry, and less than the pursuit took
    for part in torch.arange(len(pairs)).split(_ENTRIES // max(1, len(used)) + 1):
        products = codes_used.index_select(0, of[part]).to_dense() * (summed[part] @ rows_used.T)
        by_prompt.index_add_(0, prompt[part], products)
    contributions = torch.zeros(recorded.n_prompts, len(basis), dtype=torch.float64)
    contributions[:, used] = by_prompt
    coefficients = torch.zeros(len(basis), dtype=torch.float64)
    coefficients.index_add_(0, column, value * code_of.bincount(minlength=len(distinct))[row] / len(code_of))
    return contributions, coefficients, left


def by_share(found: Evidence, weights: Tensor, k: int) -> Tensor:
    """The k largest |Σ_p w_p contribution_pi|."""
    return (weights @ found.contributions).abs().topk(min(k, len(found.number)), dim=1).indices


def by_effect(found: Evidence, weights: Tensor, k: int) -> Tensor:
    """Greedy: the direction that changes the first-order effect of the kept part most, given those already taken.

    Keeping a span with orthonormal rows q_j has the effect Σ_j Σ_r ⟨q_j, axes_r⟩ ⟨q_j, M_r⟩: one term per direction.
    Only directions that take part in some code are candidates: among all of a large dictionary the best at this are
    some that lie by chance between the delta and the gradient.
    """
    moments = weighted(found, weights)
    sizes = found.contributions.abs().sum(0)
    k = min(k, len(sizes))
    shortlist = sizes.topk(max(k, int((sizes > 0).sum()))).indices
    rows = found.directions[shortlist]
    slopes = rows @ moments.transpose(1, 2)  # [b m rank]
    along = (rows @ found.axes.T).expand_as(slopes).clone()
    free = torch.ones(slopes.shape[:2], dtype=torch.float64)  # ‖part of a direction outside what is taken‖²
    axes, taken = rows.new_zeros(len(weights), 0, rows.shape[1]), []
    for _ in range(k):
        gain = ((along * slopes).sum(2) / free.clamp(min=1e-9)).abs().where(free > 1e-6, -1)
        for earlier in taken:
            gain.scatter_(1, earlier[:, None], -2)
        pick = gain.argmax(1)
        new = rows[pick]
        new = new - ((axes @ new[:, :, None]) * axes).sum(1)
        new = new / new.norm(dim=1, keepdim=True).clamp(min=1e-12)
        overlap = new @ rows.T  # [b m]
        along -= overlap[:, :, None] * (new @ found.axes.T)[:, None]
        slopes -= overlap[:, :, None] * (moments @ new[:, :, None])[:, None, :, 0]
        free -= overlap.square()
        axes = torch.cat([axes, new[:, None]], 1)
        taken.append(pick)
    return shortlist[torch.stack(taken, 1)]


def largest_alone(found: Evidence, k: int) -> Int[Tensor, "1 k"]:
    """The k whose own first-order effect is largest: of the delta projected on one direction, whatever its code holds."""
    moments = found.moments.mean(0)
    parts = found.directions.split(max(1, _ENTRIES // len(found.axes)))
    effects = torch.cat([((rows @ moments.T) * (rows @ found.axes.T)).sum(1) for rows in parts])
    return effects.abs().topk(min(k, len(effects))).indices[None]


SELECTIONS: dict[str, Selection] = {"share": by_share, "effect": by_effect}


def weighted(found: Evidence, weights: Tensor) -> Tensor:
    """Σ_p w_p M[p], [n_draws rank d_model]."""
    return (weights.to(found.moments) @ found.moments.flatten(1)).unflatten(1, found.moments.shape[1:])


def spanned(found: Evidence, chosen: Tensor) -> Tensor:
    """Orthonormal rows [n_draws k d_model], the first j of which span the first j of `chosen`; dependent ones are 0."""
    rows = found.directions[chosen]
    if found.is_orthonormal:
        return rows
    if rows.shape[1] <= rows.shape[2]:
        q, r = torch.linalg.qr(rows.transpose(1, 2))
        if bool((r.diagonal(dim1=1, dim2=2).abs() > _DEPENDENT).all()):
            return q.transpose(1, 2)
    axes = torch.zeros_like(rows)  # QR spends an arbitrary axis on a dependent row
    for i in range(rows.shape[1]):
        new = rows[:, i]
        for _ in range(2):  # twice is enough for orthogonality to rounding
            new = new - ((axes @ new[:, :, None]) * axes).sum(1)
        norm = new.norm(dim=1, keepdim=True)
        axes[:, i] = torch.where(norm > _DEPENDENT, new / norm, 0)
    return axes


def kept(found: Evidence, weights: Tensor, chosen: Tensor) -> Tensor:
    """[n_draws k]: first-order effect, summed with `weights`, of the delta on the first 1, 2, ..., k of `chosen`."""
    axes, moments = spanned(found, chosen), weighted(found, weights)
    return ((axes @ found.axes.T) * (axes @ moments.transpose(1, 2))).sum(2).cumsum(1)


def gains(found: Evidence, chosen: Tensor) -> Float[Tensor, "n_prompts k"]:
    """What each next one of `chosen` [1 k] adds to the first-order effect of the kept part, on every prompt."""
    axes = spanned(found, chosen)[0]
    return (found.moments @ axes.T).mul(found.axes @ axes.T).sum(1)
