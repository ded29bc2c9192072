"""Rank-one writes at a named map of a model that nobody drew: random weights with norms and gates, or a bundled one.

delta = coeff · Σ_i ⟨read_i, x⟩ write_i, where x is the input of the map "down" and the delta joins its output: W is
in effect W + Σ_i write_i read_iᵀ.

Which of the writes matter is not known beforehand: of all directions of a random frame, each is written alone and
the model run; those that do most are planted, those that do least, alone
and beside the planted ones, are the decoys.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Adapter
from mechsteer.attribution import deltas, metrics
from mechsteer.errors import ShapeError
from mechsteer.models import load_model
from mechsteer.models.native import random_model
from mechsteer.models.sites import Site
from mechsteer.planted.blueprint import rotation
from mechsteer.planted.scenes import D_VOCAB, LENGTH, N_CONTEXTS, Scene, contexts
from mechsteer.planted.subsets import Subsets
from mechsteer.runtime.context import Context
from mechsteer.steering.interventions import Intervention

N_TRIED, SHARE = 48, 0.1


class RankOnes(Adapter):
    """`reads` [n d_in] and `writes` [n d_out]: coeff · (x readsᵀ) writes. Raises ShapeError where they do not pair up."""

    linear_in_coeff = True
    identity_at_init = True

    def __init__(self, reads: Tensor, writes: Tensor) -> None:
        super().__init__()
        if reads.ndim != 2 or writes.ndim != 2 or len(reads) != len(writes):
            raise ShapeError(f"reads {list(reads.shape)}, writes {list(writes.shape)}", "one of each a rank")
        self.reads = torch.nn.Parameter(reads.detach().clone())
        self.writes = torch.nn.Parameter(writes.detach().clone())

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:  # noqa: ARG002
        return coeff * (acts @ self.reads.T.to(acts.dtype)) @ self.writes.to(acts.dtype), None

    def weight_change(self, coeff: float, weight: Tensor) -> Tensor:
        return (coeff * self.writes.T @ self.reads).to(weight.dtype)

    def config(self) -> dict[str, Any]:
        return {"reads": list(self.reads.shape), "writes": list(self.writes.shape)}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> RankOnes:
        return cls(torch.zeros(*config["reads"]), torch.zeros(*config["writes"]))


def rank_one(generator: torch.Generator) -> Scene:
    """In a random model: gated, RMSNorm, rotary."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    config = {"d_model": 64, "n_layers": 3, "n_heads": 4, "d_head": 16, "d_mlp": 96, "n_ctx": 8, "d_vocab": D_VOCAB}
    return _scene(random_model(config, seed=seed), contexts(generator), 1, generator)


def in_model(generator: torch.Generator, name: str = "pocket") -> Scene:
    """In a model by its name, as `load_model` takes it: half way up."""
    model = _loaded(name)
    ids = torch.randint(5, int(model.cfg.d_vocab), (N_CONTEXTS, LENGTH), generator=generator).tolist()
    return _scene(model, ids, int(model.cfg.n_layers) // 2, generator)


@lru_cache(maxsize=1)
def _loaded(name: str) -> Any:
    return load_model(name)


def _scene(model: Any, prompts: list[list[int]], layer: int, generator: torch.Generator, n: int = 4) -> Scene:
    d_model, d_mlp = int(model.cfg.d_model), int(model.cfg.d_mlp)
    metric = metrics.log_odds(5, 6)
    frame = rotation(d_model, generator)
    reads = torch.randn(N_TRIED, d_mlp, generator=generator, dtype=torch.float64) / d_mlp**0.5
    site, read = Site(layer, "down_out"), Site(layer, "down_in")
    everything = Intervention(RankOnes(reads.float(), frame[:N_TRIED].float()), site, read=read)
    found = deltas(model, everything, prompts).at()
    assert found.resid is not None
    size = found.resid[found.touched].square().sum(-1).mean().sqrt()  # each write is of this share of the stream
    reads *= (SHARE * size / (found.rows @ frame[:N_TRIED].T.float()).square().mean(0).sqrt())[:, None]
    everything = Intervention(RankOnes(reads.float(), frame[:N_TRIED].float()), site, read=read)
    subsets = Subsets(model, everything, prompts, metric, frame[:N_TRIED])
    alone = torch.tensor([subsets.alone([i]) for i in range(N_TRIED)])
    strongest = alone.abs().argsort(descending=True)[:n]
    together = subsets.alone(strongest.tolist())
    beside = torch.tensor([subsets.alone([*strongest.tolist(), i]) - together for i in range(N_TRIED)])
    weakest = torch.maximum(alone.abs(), beside.abs()).argsort()
    weakest = weakest[~torch.isin(weakest, strongest)][:n]
    chosen = torch.cat([strongest, weakest])
    signed = reads[chosen] * torch.where(alone[chosen] < 0, -1.0, 1.0)[:, None]  # one way, so that they add up
    iv = Intervention(RankOnes(signed.float(), frame[chosen].float()), site, read=read)
    left = [i for i in range(d_model) if i not in set(chosen.tolist())]
    return Scene(
        model=model,
        intervention=iv,
        contexts=prompts,
        planted=frame[strongest],
        decoys=frame[weakest],
        spare=frame[left],
        illusions=frame[:0],
        extra=frame[:0],
        metric=metric,
    )
