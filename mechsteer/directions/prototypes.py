"""Prototypes of contrastive differences: the k-means centres of pos − neg, for `mechsteer.adapters.Prototypes`."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.cluster import KMeans

from mechsteer.directions.direction import checked_samples
from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.shapes import Directions, Samples


def cluster_differences(pos: Samples, neg: Samples, n_prototypes: int, *, seed: int = 0) -> Directions:
    """[n_prototypes d_model]: the k-means centres of pos − neg, of samples [n_pairs d_model], row i of both a pair.

    The best of ten starts drawn from `seed`; the prototype of most pairs first. With one prototype it is the mean
    difference. Raises ConfigError for a count that is none, ShapeError where the sides differ in length, DataError for
    fewer distinct differences than prototypes.
    """
    p, n = checked_samples(pos, neg)
    if len(p) != len(n):
        raise ShapeError(
            f"{len(p)} positive and {len(n)} negative samples are no pairs", "pass row i of both as a pair"
        )
    if isinstance(n_prototypes, bool) or not isinstance(n_prototypes, int) or n_prototypes < 1:
        raise ConfigError(f"n_prototypes is {n_prototypes!r}", "give a whole number from 1 on")
    differences = (p - n).cpu()
    distinct = len(differences.unique(dim=0))
    if distinct < n_prototypes:
        raise DataError(
            f"{distinct} distinct differences cannot have {n_prototypes} prototypes",
            "pass more pairs, or ask for fewer",
        )
    starts: Any = 10  # the annotation of scikit-learn is that of its default, "auto"
    found = KMeans(n_prototypes, n_init=starts, random_state=seed).fit(differences.numpy())
    sizes = torch.bincount(torch.from_numpy(found.labels_).long(), minlength=n_prototypes)
    order = sizes.argsort(descending=True, stable=True)
    dtype = pos.dtype if pos.dtype in (torch.float32, torch.float64) else torch.float32
    return torch.from_numpy(found.cluster_centers_)[order].to(dtype)
