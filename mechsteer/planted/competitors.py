"""Ways to say which directions carry an effect, from cosine to the library's own; each is one function.

    competitor(model, intervention, contexts, basis, metric) -> scores [n_dirs], or Claims

A direction is claimed by the size of its score. What says more returns `Claims`: shares of the effect, that there is
nothing to attribute, which directions are illusions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from mechsteer.attribution import EffectAttribution, attribute, attribute_effect, attribute_encoder, deltas
from mechsteer.attribution.decompose import code
from mechsteer.attribution.metrics import Metric
from mechsteer.attribution.replay import prepare
from mechsteer.bases import Basis
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError, closest
from mechsteer.planted.dictionaries import tied_sae
from mechsteer.planted.subsets import Subsets, exact_shapley
from mechsteer.steering.interventions import Intervention

N_ATOMS, N_STEPS, N_PLAYERS = 32, 32, 8


@dataclass(frozen=True, eq=False)
class Claims:
    """What a competitor says: `scores` [n_dirs] rank directions by size.

    `shares` [n_dirs]: of the effect, where scores are in its units. `nothing`: there is nothing to attribute.
    `illusions`: directions whose share the rest of the delta takes back.
    """

    scores: Tensor
    shares: Tensor | None = None
    nothing: bool = False
    illusions: tuple[int, ...] = ()


Competitor = Callable[[Any, Intervention, Sequence[Sequence[int]], Basis, Metric], Tensor | Claims]


def checked(name: str, given: Any, basis: Basis) -> Claims:
    """What a competitor returned, as Claims. Raises ShapeError, NonFiniteError, ConfigError, all of them naming it."""
    claims = given if isinstance(given, Claims) else Claims(given)
    scores = claims.scores
    if not isinstance(scores, Tensor) or scores.shape != (len(basis),):
        what = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ShapeError(
            f"competitor {name!r} returned {what}", f"it is to return {len(basis)} scores, one a direction"
        )
    if not claims.nothing and not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).nonzero()[0])
        raise NonFiniteError(
            f"competitor {name!r} returned {float(scores[bad])} for direction {bad}",
            "scores are finite; where there is nothing to attribute return Claims(..., nothing=True)",
        )
    if any(not 0 <= i < len(basis) for i in claims.illusions):
        raise ConfigError(f"competitor {name!r} marks {list(claims.illusions)}", f"there are {len(basis)} directions")
    return claims


def cosine(model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric) -> Tensor:  # noqa: ARG001
    """|cosine| of the mean delta."""
    mean = deltas(model, iv, contexts).at().rows.mean(0)
    return torch.cosine_similarity(basis.directions, mean[None].to(basis.directions.dtype))


def least_squares(
    model: Any,
    iv: Intervention,
    contexts: Sequence[Sequence[int]],
    basis: Basis,
    metric: Metric,  # noqa: ARG001
) -> Tensor:
    """Root mean square of the smallest coefficients that reproduce the deltas best."""
    rows = deltas(model, iv, contexts).at().rows.double()
    return (rows @ torch.linalg.pinv(basis.directions.double())).square().mean(0).sqrt()


def encoder_difference(
    model: Any,
    iv: Intervention,
    contexts: Sequence[Sequence[int]],
    basis: Basis,
    metric: Metric,  # noqa: ARG001
) -> Tensor:
    """What an encoder sees of the deltas, f(h + delta) − f(h): the basis' own, or relu(⟨direction, h⟩)."""
    sae = basis.sae if basis.sae is not None else tied_sae(basis.directions, 0.0)
    return attribute_encoder(deltas(model, iv, contexts), sae).energy.sqrt()


def pursuit(
    model: Any,
    iv: Intervention,
    contexts: Sequence[Sequence[int]],
    basis: Basis,
    metric: Metric,  # noqa: ARG001
) -> Tensor:
    """Energy of the sparse code of the deltas: a projection where the basis is orthonormal."""
    return attribute(deltas(model, iv, contexts), basis, k=N_ATOMS).energy.sqrt()


def gradient_times_delta(
    model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric
) -> Claims:
    """Coefficient x slope of the metric at the base run."""
    return _by_slopes(model, iv, contexts, basis, metric, [0.0])


def integrated_gradients(
    model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric
) -> Claims:
    """Coefficient x slope, averaged over 32 points of the straight line (Sundararajan et al. 2017, arXiv 1703.01365)."""
    return _by_slopes(model, iv, contexts, basis, metric, [(i + 0.5) / N_STEPS for i in range(N_STEPS)])


def shapley(model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric) -> Claims:
    """Exact Shapley values of the 8 directions with the most energy in the deltas' code; the others have none."""
    energy = attribute(deltas(model, iv, contexts), basis, k=N_ATOMS).energy
    chosen = energy.argsort(descending=True)[:N_PLAYERS]
    subsets = Subsets(model, iv, contexts, metric, basis.directions[chosen])
    scores = torch.zeros(len(basis), dtype=torch.float64)
    scores[chosen] = exact_shapley(subsets.alone, len(chosen))
    return Claims(scores, scores / subsets.total)


def random(model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric) -> Tensor:  # noqa: ARG001
    """Nothing is looked at; the same basis gets the same scores."""
    seed = xxhash.xxh3_64_intdigest(basis.directions.contiguous().numpy().tobytes()) >> 1
    return torch.rand(len(basis), generator=torch.Generator().manual_seed(seed))


def default(model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric) -> Claims:
    """`attribute_effect`, its default selection; without the nulls it is compared with, which rank nothing."""
    return of_effect(attribute_effect(model, iv, contexts, basis, metric, nulls=0, nulls_run=0))


def with_nulls(model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric) -> Claims:
    """`attribute_effect` as it comes: the same claims, and the time that its nulls take."""
    return of_effect(attribute_effect(model, iv, contexts, basis, metric))


def by_effect(model: Any, iv: Intervention, contexts: Sequence[Sequence[int]], basis: Basis, metric: Metric) -> Claims:
    """The same with pursuit of the effect in place of ranking by |share|."""
    return of_effect(attribute_effect(model, iv, contexts, basis, metric, selection="effect", nulls=0, nulls_run=0))


def of_effect(found: EffectAttribution) -> Claims:
    """The claims of an EffectAttribution: ranked as it ranks."""
    scores = torch.zeros(len(found.order), dtype=torch.float64)
    scores[found.order] = torch.arange(len(found.order), 0, -1).double()
    marked = tuple(found.illusions.nonzero()[:, 0].tolist())
    return Claims(scores, found.shares, found.nothing_to_attribute, marked)


COMPETITORS: dict[str, Competitor] = {
    "default": default,
    "default with nulls": with_nulls,
    "effect pursuit": by_effect,
    "shapley": shapley,
    "integrated gradients": integrated_gradients,
    "gradient x delta": gradient_times_delta,
    "matching pursuit": pursuit,
    "least squares": least_squares,
    "encoder difference": encoder_difference,
    "cosine": cosine,
    "random": random,
}


def named(name: str) -> Competitor:
    """The shipped competitor of this name. Raises ConfigError with the nearest names."""
    if name not in COMPETITORS:
        raise ConfigError(
            f"no competitor {name!r}",
            f"the nearest are {closest(name, COMPETITORS) or list(COMPETITORS)}; your own is package.module:function",
        )
    return COMPETITORS[name]


def _by_slopes(
    model: Any,
    iv: Intervention,
    contexts: Sequence[Sequence[int]],
    basis: Basis,
    metric: Metric,
    points: Sequence[float],
) -> Claims:
    runner = prepare(model, iv, contexts, None, metric, None, len(contexts))
    directions = basis.directions.double()
    scores = torch.zeros(len(basis), dtype=torch.float64)
    for each in runner.batches:
        slope = torch.zeros_like(each.delta)
        for point in points:
            leaf = (point * each.delta).requires_grad_()
            with torch.enable_grad():
                slope += torch.autograd.grad(runner.score(each, leaf).sum(), leaf)[0] / len(points)
        codes, _, code_of = code(each.delta[each.touched], basis, N_ATOMS)
        coefficients = codes.to_dense()[code_of]
        scores += (coefficients * (slope[each.touched].double() @ directions.T)).sum(0)
    total = float((runner.gather("steered") - runner.gather("base")).sum())
    return Claims(scores / len(contexts), scores / total if total else None)
