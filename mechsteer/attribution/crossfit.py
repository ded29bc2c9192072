"""Selecting on some contexts and checking on others, to first order: projections of recorded gradients.

Contexts are split in folds by group. For every fold the directions are selected on all others and checked on it, so
sufficiency = Σ_p effect of the kept part, selected without the fold of p / Σ_p effect of the whole. It estimates what
this procedure, given as many contexts as a selection has here, recovers on new ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.attribution.selection import Evidence, Selection, gains, kept, weighted
from mechsteer.errors import ConfigError, DataError

_ENTRIES = 2**23  # of the largest intermediate tensor


def split(groups: Sequence[Hashable] | None, n: int, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(group number, fold) of each of `n` contexts; a group is in one fold, folds have as many contexts as can be.

    Raises DataError where labels do not fit, or there are fewer groups than folds; ConfigError for fewer than 2 folds.
    """
    if folds < 2:
        raise ConfigError(f"folds={folds}", "at least 2: directions are selected on some contexts, checked on others")
    if groups is not None and len(groups) != n:
        raise DataError(f"{len(groups)} group labels for {n} prompts", "give one per prompt")
    numbers: dict[Hashable, int] = {}
    group_of = np.asarray([numbers.setdefault(g, len(numbers)) for g in (range(n) if groups is None else groups)])
    if len(numbers) < folds:
        raise DataError(
            f"{len(numbers)} group(s) of contexts for {folds} folds",
            "pass more prompts, other groups, or fewer folds",
        )
    sizes, fold_of, filled = np.bincount(group_of), np.zeros(len(numbers), int), np.zeros(folds, int)
    order = np.random.default_rng(seed).permutation(len(numbers))
    for group in sorted(order, key=lambda g: -sizes[g]):  # stable: equal sizes stay in random order
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return group_of, fold_of[group_of]


def selected(
    found: Evidence, fold_of: np.ndarray, k: int, select: Selection, weights: Tensor | None = None
) -> list[Int[Tensor, "n_draws k"]]:
    """For every fold the candidates selected on all the others."""
    weights = torch.ones(1, len(fold_of), dtype=torch.float64) if weights is None else weights
    rest = [torch.as_tensor(fold_of != fold) for fold in range(fold_of.max() + 1)]
    return [select(found, weights * outside, k) for outside in rest]


def crossfitted(
    found: Evidence,
    fold_of: np.ndarray,
    sizes: Sequence[int],
    select: Selection,
    weights: Tensor | None = None,
    chosen: list[Tensor] | None = None,
) -> Float[Tensor, "n_draws n_sizes"]:
    """Cross-fitted sufficiency at each of `sizes`, for each row of `weights` over contexts (default: all count once).

    Given `chosen` (of one draw) nothing is selected anew.
    """
    weights = torch.ones(1, len(fold_of), dtype=torch.float64) if weights is None else weights
    step = max(1, _ENTRIES // (len(found.number) * len(found.axes) + max(sizes) * found.directions.shape[1]))
    if len(weights) > step:
        parts = [crossfitted(found, fold_of, sizes, select, part, chosen) for part in weights.split(step)]
        return torch.cat(parts)
    picks = selected(found, fold_of, max(sizes), select, weights) if chosen is None else chosen
    total = torch.zeros(len(weights), len(sizes), dtype=torch.float64)
    for fold, pick in enumerate(picks):
        inside = weights * torch.as_tensor(fold_of == fold)
        effect = kept(found, inside, pick)
        total += effect[:, [min(size, effect.shape[1]) - 1 for size in sizes]]
    whole = (weighted(found, weights) * found.axes).sum((1, 2))
    return total / whole[:, None]


def counted_twice(
    found: Evidence,
    group_of: np.ndarray,
    fold_of: np.ndarray,
    sizes: Sequence[int],
    select: Selection,
    weights: Tensor,
) -> Float[np.ndarray, " n_sizes"]:
    """The part of the variance over resamples `weights` that is there twice.

    Selecting anew in each resample moves sufficiency because other directions are better or worse on any contexts, as
    it should, and because those at hand happen to like them or not: the checking contexts' noise, which resampling
    these counts already. For the selections of the resamples it is the variance over groups of how far a group's
    effect lies from its own mean over selections.
    """
    picks = selected(found, fold_of, max(sizes), select, weights)
    twice = torch.zeros(len(sizes), dtype=torch.float64)
    for fold, pick in enumerate(picks):
        groups, place = np.unique(group_of[fold_of == fold], return_inverse=True)
        inside = replace(found, moments=found.moments[torch.as_tensor(fold_of == fold)])
        effects = torch.zeros(len(pick), len(groups), len(sizes), dtype=torch.float64)
        for draw, chosen in enumerate(pick):
            kept_parts = gains(inside, chosen[None]).cumsum(1)
            columns = kept_parts[:, [min(size, kept_parts.shape[1]) - 1 for size in sizes]]
            effects[draw].index_add_(0, torch.as_tensor(place), columns)
        apart = effects - effects.mean(0)
        twice += len(groups) * apart.var(1).mean(0) if len(groups) > 1 else 0
    return (twice / (found.moments.sum(0) * found.axes).sum().square()).numpy()


def resampled(
    group_of: np.ndarray, fold_of: np.ndarray, n_draws: int, seed: int
) -> Float[Tensor, "n_draws n_contexts"]:
    """Weights of bootstrap resamples of groups, as many from every fold as it has."""
    rng, weights = np.random.default_rng(seed), np.zeros((n_draws, group_of.max() + 1))
    for fold in range(fold_of.max() + 1):
        own = np.unique(group_of[fold_of == fold])
        weights[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=n_draws)
    return torch.as_tensor(weights[:, group_of])
