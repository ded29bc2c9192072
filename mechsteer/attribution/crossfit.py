"""Selecting on some contexts and checking on others, to first order: projections of recorded gradients.

Contexts are split in folds by group. For every fold the directions are selected on all others and checked on it, so
sufficiency = Σ_p effect of the kept part, selected without the fold of p / Σ_p effect of the whole. It estimates what
the sets of directions selected here, one for each fold, recover on new contexts (`intervals`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.attribution.selection import Evidence, Selection, kept
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


def selected(found: Evidence, fold_of: np.ndarray, k: int, select: Selection) -> list[Int[Tensor, "1 k"]]:
    """For every fold the candidates selected on all the others."""
    rest = [torch.as_tensor(fold_of != fold).double()[None] for fold in range(fold_of.max() + 1)]
    return [select(found, outside, k) for outside in rest]


def crossfitted(
    found: Evidence, fold_of: np.ndarray, sizes: Sequence[int], select: Selection
) -> Float[Tensor, " n_sizes"]:
    """Cross-fitted sufficiency at each of `sizes`, to first order."""
    total = torch.zeros(len(sizes), dtype=torch.float64)
    for fold, pick in enumerate(selected(found, fold_of, max(sizes), select)):
        inside = torch.as_tensor(fold_of == fold).double()[None]
        total += _at(sizes, kept(found, inside, pick))[0]
    return total / (found.moments.sum(0) * found.axes).sum()


def redrawn(
    group_of: np.ndarray, fold_of: np.ndarray, n_draws: int, seed: int
) -> Float[Tensor, "n_folds n_draws n_contexts"]:
    """Weights of other contexts of the same kind: for every fold as many groups as it has, drawn from all groups."""
    rng, n_groups = np.random.default_rng(seed), group_of.max() + 1
    sizes = [len(np.unique(group_of[fold_of == fold])) for fold in range(fold_of.max() + 1)]
    drawn = [rng.multinomial(size, np.full(n_groups, 1 / n_groups), size=n_draws) for size in sizes]
    return torch.as_tensor(np.stack(drawn)[:, :, group_of]).double()


@dataclass(frozen=True, eq=False)
class Repeated:
    """What selecting on other contexts of the same kind shows, at each number of directions."""

    alike: Float[np.ndarray, " n_sizes"]
    """variance of the sum of the folds' errors / sum of their variances, at least 1 (see `repeated`)"""
    chosen_again: Float[np.ndarray, " n_sizes"]
    """share of the directions selected here that are selected there too, mean over draws and folds"""


def repeated(
    found: Evidence,
    fold_of: np.ndarray,
    chosen: Sequence[Tensor],
    sizes: Sequence[int],
    select: Selection,
    draws: Float[Tensor, "n_folds n_draws n_contexts"],
) -> Repeated:
    """The procedure once more on every one of `draws`, where what a set recovers of all contexts is known.

    The contexts that check one set have selected the others. Where two directions are nearly as good, either both folds
    like the same one, each more than it deserves, or each likes the one that the other does not check: errors of the
    folds have one sign, and their sum varies more than errors of folds that know nothing of each other (the covariance
    of cross-validation: Bates, Hastie & Tibshirani 2021, arXiv 2104.00673).
    """
    step = max(1, _ENTRIES // (len(found.number) * len(found.axes) + max(sizes) * found.directions.shape[1]))
    errors, again = [], []
    for part in draws.split(step, dim=1):
        picks = [select(found, part.sum(0) - own, max(sizes)) for own in part]
        errors.append(_errors(found, fold_of, picks, sizes, part))
        again.append(torch.stack([_share_of(*pair, sizes) for pair in zip(picks, chosen, strict=True)]).mean(0))
    error = torch.cat(errors, 1)
    apart = error.square().sum(0).mean(0)
    alike = torch.where(apart > 0, error.sum(0).square().mean(0) / apart.clamp(min=1e-300), 1).clamp(min=1)
    return Repeated(alike.numpy(), torch.cat(again).mean(0).numpy())


def _errors(
    found: Evidence, fold_of: np.ndarray, picks: Sequence[Tensor], sizes: Sequence[int], draws: Tensor
) -> Float[Tensor, "n_folds n_draws n_sizes"]:
    """How far what the drawn contexts say of the sets selected there lies from the truth, the mean over all contexts."""
    everywhere = torch.ones(1, len(fold_of), dtype=torch.float64)
    whole = found.moments.mul(found.axes).sum((1, 2))
    shares = np.bincount(fold_of) / len(fold_of)
    truths = [_at(sizes, kept(found, everywhere, pick)) / whole.sum() for pick in picks]
    truth = sum((share * each for share, each in zip(shares, truths, strict=True)), torch.zeros(()))
    beyond = draws - draws.mean(2, keepdim=True)
    kept_beyond = [_at(sizes, kept(found, own, pick)) for own, pick in zip(beyond, picks, strict=True)]
    return torch.stack(kept_beyond) - truth * (beyond @ whole)[:, :, None]


def _share_of(picks: Tensor, chosen: Tensor, sizes: Sequence[int]) -> Float[Tensor, "n_draws n_sizes"]:
    """How many of the first of `chosen` [1 k] are among the first of `picks` [n_draws k]."""
    among = [(chosen[:, :size, None] == picks[:, None, :size]).any(2) for size in sizes]
    return torch.stack([each.double().mean(1) for each in among], 1)


def _at(sizes: Sequence[int], curve: Tensor) -> Tensor:
    """[n k] at each of `sizes`; the last where a selection has fewer directions."""
    return curve[:, [min(size, curve.shape[1]) - 1 for size in sizes]]
