"""As repeng's default, pca_diff: a unit vector in every layer, added to the residual stream times the coefficient.

    v_L = first principal axis of D_L − mean D_L,   D_L = h_positive − h_negative at the last token  [n_pairs d_model]

on the side where more positive than negative texts have the larger projection. PCA takes the mean away, and with it what
the pairs have in common; `pairwise_pca` is the same about zero. The library itself asks for a numpy before 2, so its
algorithm is written out here (repeng 0.4, extract.py, vogel 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.baselines.base import Method, Steered
from mechsteer.baselines.setup import Setup
from mechsteer.directions import pooled_pairs
from mechsteer.errors import DataError
from mechsteer.shapes import Samples
from mechsteer.steering.interventions import Intervention, Steering


def pca_diff(pos: Samples, neg: Samples) -> Tensor:
    """[d_model] of length 1, from samples [n_pairs d_model]; row i of both is a pair. Raises DataError for one pair."""
    if len(pos) < 2:
        raise DataError(f"{len(pos)} pairs have no principal axis about their mean", "give two or more")
    differences = (pos - neg).double()
    axis = torch.linalg.svd(differences - differences.mean(0), full_matrices=False).Vh[0]
    along_pos, along_neg = pos.double() @ axis, neg.double() @ axis
    if int((along_pos < along_neg).sum()) > int((along_pos > along_neg).sum()):
        axis = -axis
    return axis.to(pos.dtype)


def by_repeng(setup: Setup) -> Method:
    """One such vector behind each of the layers."""
    found = []
    for layer in setup.layers:
        pos, neg = pooled_pairs(setup.model, setup.pairs, layer, batch_size=setup.config.batch_size)
        found.append(Intervention(Static(pca_diff(pos.float(), neg.float())), layer))
    return Steered("repeng", setup.model, Steering(found))
