"""SAEs of several sites, held side by side (`mechsteer.features.sae.train_saes` trains them).

What a layer adds is told by the same figures at each: L0, FVU, loss recovered, density, ReasonScore. Whether the top
features of two layers are the same ones is read from their decoder rows, which share the residual stream's basis:

    overlap(a, b) = mean over top features i of a of max over top features j of b of cos(d_i, d_j)
    chance(a, b)  = the same with as many of b's other features, drawn at random, in place of its top ones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.features.sparse import SparseActs
from mechsteer.models.sites import Site
from mechsteer.results import Result
from mechsteer.shapes import Mask

QUANTILES = (0.5, 0.9, 0.99, 0.997)
N_DRAWS = 20  # of other features


@dataclass(frozen=True, kw_only=True)
class LayerFeatures(Result):
    """The SAE of one site. Quantiles are over features, at `QUANTILES`; of scores empty where no word occurs."""

    site: Site
    l0: float
    """active features per token"""
    fvu: float
    dead_share: float
    loss_recovered: float
    density_quantiles: tuple[float, ...]
    """of the share of tokens on which a feature fires"""
    score_quantiles: tuple[float, ...]
    """of ReasonScore"""
    top: tuple[int, ...]
    """features with the highest ReasonScore, best first"""
    top_scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LayersCompared(Result):
    """SAEs of several sites side by side."""

    _rows = "layers"

    layers: tuple[LayerFeatures, ...]
    overlap: Float[Tensor, "n_sites n_others"]
    """mean largest cosine of the row's top features with the column's; nan where there are no scores"""
    chance: Float[Tensor, "n_sites n_others"]
    """the same with other features of the column; nan where it has too few"""
    together: float
    """loss recovered with all SAEs spliced into the same forward passes"""
    n_tokens: int
    """behind L0, FVU and the dead share"""
    evaluated_on: str
    not_scored: str = ""
    """why there is no ReasonScore"""


def n_firing(acts: Tensor | SparseActs, mask: Mask) -> Int[Tensor, " d_sae"]:
    """On how many of the tokens of `mask` [batch pos] each feature is active, `acts` [batch pos d_sae]."""
    if isinstance(acts, SparseActs):
        active = acts.indices[(acts.values > 0) & mask[..., None]]
        return torch.bincount(active, minlength=acts.d_sae).cpu()
    return (acts[mask] > 0).sum(0).cpu()


def quantiles(values: Float[Tensor, " d_sae"]) -> tuple[float, ...]:
    """At `QUANTILES`."""
    return tuple(torch.quantile(values.double(), torch.tensor(QUANTILES, dtype=torch.float64)).tolist())


def overlaps(
    decoders: Sequence[Float[Tensor, "d_sae d_model"]], tops: Sequence[Sequence[int]], *, seed: int = 0
) -> tuple[Float[Tensor, "n_sites n_sites"], Float[Tensor, "n_sites n_sites"]]:
    """(overlap, chance) of the top features of each site, as the module's docstring has them; float64."""
    rows = [torch.nn.functional.normalize(decoder.detach().double().cpu(), dim=1) for decoder in decoders]
    generator = torch.Generator().manual_seed(seed)
    overlap, chance = (torch.full((len(rows), len(rows)), torch.nan, dtype=torch.float64) for _ in range(2))
    for a, top_a in enumerate(tops):
        for b, top_b in enumerate(tops):
            if not top_a or not top_b:
                continue
            cosines = rows[a][list(top_a)] @ rows[b].T
            overlap[a, b] = cosines[:, list(top_b)].max(1).values.mean()
            others = torch.tensor([i for i in range(len(rows[b])) if i not in set(top_b)], dtype=torch.long)
            if len(others) >= len(top_b):
                drawn = [others[torch.randperm(len(others), generator=generator)[: len(top_b)]] for _ in range(N_DRAWS)]
                chance[a, b] = torch.stack([cosines[:, each].max(1).values.mean() for each in drawn]).mean()
    return overlap, chance
