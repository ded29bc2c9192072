"""S-space vector: the leading singular values of each map are changed by a fixed δ, found from activations.

    ΔW(c) = c U diag(δ) Vᵀ,   δ_i = sign(u_i · ȳ) (u_i · d)

y = W x is the map's output, ȳ its mean over all texts and d its mean difference, positive less negative, at the last
token. Without the sign ΔW depends on the signs of u_i and v_i, which are the decomposition's choice: turning both round
leaves W as it is and turns δ_i. Identity at c = 0. It is a `Singular` adapter whose S(c) = S + c·δ and whose bases stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mechsteer.adapters.singular import Singular
from mechsteer.baselines.base import Method, Steered
from mechsteer.baselines.setup import Setup
from mechsteer.directions import pooled_pairs
from mechsteer.shapes import Samples
from mechsteer.steering.interventions import writing
from mechsteer.steering.singular import singular_steering


def oriented_delta(u: Tensor, pos: Samples, neg: Samples) -> Tensor:
    """δ [rank] of left singular vectors u [d_out rank] and outputs [n_pairs d_out] of both sides."""
    mean = torch.cat([pos, neg]).mean(0)
    return torch.sign(mean.to(u) @ u) * ((pos.mean(0) - neg.mean(0)).to(u) @ u)


def by_singular_values(setup: Setup) -> Method:
    """One δ per map and layer."""
    model = setup.model
    steering = singular_steering(model, setup.maps, setup.layers, rank=setup.rank, mode="add", rotate_v=False)
    for iv in writing(steering):
        adapter = iv.adapter
        assert isinstance(adapter, Singular)
        assert adapter.scale is not None
        pos, neg = pooled_pairs(model, setup.pairs, iv.site, batch_size=setup.config.batch_size)
        with torch.no_grad():
            adapter.scale.copy_(oriented_delta(adapter.u, pos, neg))
    return Steered("s_space", model, steering)
