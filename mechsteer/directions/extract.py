"""`extract`, `extract_each`: the direction of contrastive pairs at a site of a model, with its separation on pairs held out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.directions.direction import Direction, separation
from mechsteer.directions.methods import METHODS
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import Truncate, model_fingerprint, model_name
from mechsteer.models.sites import Site, SiteLike, Sites, as_site, as_sites
from mechsteer.prompts import ContrastivePairs, uniform_hash
from mechsteer.shapes import Samples


def extract(
    model: Any,
    pairs: ContrastivePairs | Sequence[tuple[str, str]],
    site: SiteLike,
    method: str = "mean_difference",
    *,
    position: Literal["last", "mean"] = "last",
    held_out: float = 0.3,
    seed: int = 0,
    batch_size: int = 16,
    truncate: Truncate | None = None,
) -> Direction:
    """The direction of `pairs` at `site`, computed from all of them, with the separation that its method reaches.

    Each text counts once: its last token, or the mean over its tokens without BOS. provenance["held_out"] is the
    separation of pairs held out by the direction of the others: groups of pairs are held out whole, about the
    share `held_out` of them (at least one, where there are two and `held_out` > 0), chosen by the hash of their
    names and the seed; without any it is None. At z, q, k, v the heads are flattened. Texts longer
    than the context are refused, or cut by `truncate`.

    Raises ConfigError for an unknown method or share, and as `capture` and the method.
    """
    (found,) = extract_each(
        model,
        pairs,
        as_site(site),
        method,
        position=position,
        held_out=held_out,
        seed=seed,
        batch_size=batch_size,
        truncate=truncate,
    )
    return found


def extract_each(
    model: Any,
    pairs: ContrastivePairs | Sequence[tuple[str, str]],
    sites: Sites,
    method: str = "mean_difference",
    *,
    position: Literal["last", "mean"] = "last",
    held_out: float = 0.3,
    seed: int = 0,
    batch_size: int = 16,
    truncate: Truncate | None = None,
) -> list[Direction]:
    """What `extract` gives at each of several sites, from one pass over the texts. Raises as `extract`."""
    located = as_sites(sites)
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", f"methods are {sorted(METHODS)}")
    if position not in ("last", "mean"):
        raise ConfigError(f"position is {position!r}", "it is 'last' or 'mean'")
    if not 0 <= held_out < 1:
        raise ConfigError(f"held_out is {held_out}", "it is a share in [0, 1)")
    pairs = _as_pairs(pairs)
    test = torch.tensor(_held_out(pairs.groups, held_out, seed))
    sides = [
        _pooled(model, texts, located, position, batch_size, truncate) for texts in (pairs.positive, pairs.negative)
    ]
    told = {
        "model": model_name(model),
        "model_fingerprint": model_fingerprint(model),
        "data_hash": pairs.data_hash,
        "positions": position,
        "seed": seed,
    }
    return [
        _direction(method, pos, neg, test, {**told, "site": site.at(model).to_dict()})
        for site, pos, neg in zip(located, *sides, strict=True)
    ]


def _direction(method: str, pos: Tensor, neg: Tensor, test: Tensor, told: dict[str, Any]) -> Direction:
    """Of all samples, with the separation of those in `test` by the direction of the others."""
    found = METHODS[method](pos, neg)
    measured = separation(METHODS[method](pos[~test], neg[~test]), pos[test], neg[test]) if bool(test.any()) else None
    return replace(found, provenance={**found.provenance, **told, "held_out": measured})


def pooled_pairs(
    model: Any,
    pairs: ContrastivePairs | Sequence[tuple[str, str]],
    site: SiteLike,
    *,
    position: Literal["last", "mean"] = "last",
    batch_size: int = 16,
    truncate: Truncate | None = None,
) -> tuple[Samples, Samples]:
    """(positive, negative) samples [n_pairs d_model] at `site`, of each text as `extract` takes it. Raises as `capture`."""
    pairs, sites = _as_pairs(pairs), (as_site(site),)
    (pos,), (neg,) = (
        _pooled(model, texts, sites, position, batch_size, truncate) for texts in (pairs.positive, pairs.negative)
    )
    return pos, neg


def _as_pairs(pairs: Any) -> ContrastivePairs:
    """Pairs, or a list of (positive, negative); raises DataError for anything else."""
    if isinstance(pairs, ContrastivePairs):
        return pairs
    listed = list(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, str) else None
    if not listed or any(isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2 for pair in listed):
        raise DataError(
            f"pairs are {pairs!r:.80}", "pass ContrastivePairs(positive, negative), or a list of pairs of texts"
        )
    positive, negative = zip(*listed, strict=True)
    return ContrastivePairs(positive, negative)


def _pooled(
    model: Any,
    texts: Sequence[str],
    sites: Sequence[Site],
    position: Literal["last", "mean"],
    batch_size: int,
    truncate: Truncate | None,
    chunk: int = 256,
) -> list[Tensor]:
    """[n_texts d_model] per site; only a chunk of texts is held token by token."""
    parts: list[list[Tensor]] = [[] for _ in sites]
    for start in range(0, len(texts), chunk):
        some = texts[start : start + chunk]
        acts = capture(model, some, sites, batch_size=batch_size, truncate=truncate, progress=False)
        for part, site in zip(parts, sites, strict=True):
            part.append(acts[site].pool(position).flatten(1))
    return [torch.cat(part) for part in parts]


def _held_out(groups: Sequence[str], share: float, seed: int) -> list[bool]:
    names = sorted(set(groups), key=lambda g: uniform_hash(g, seed))
    count = min(max(round(share * len(names)), 1 if share else 0), len(names) - 1)
    chosen = set(names[:count])
    return [g in chosen for g in groups]
