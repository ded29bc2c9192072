"""Right or wrong, read from SAE features and from the residual stream: trained on short problems, asked about longer ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import ndarray
from reason_makes import Workshop

from mechsteer.features.encoding import encode
from mechsteer.probes import LinearProbe, grouped_folds, weighted_auroc
from mechsteer.results import cluster_weights
from mechsteer.studies.measure import judged
from mechsteer.studies.results import CaptureResult

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse, of the penalty; chosen on the training problems alone
N_FOLDS, N_BOOT = 4, 2000
SHORT = 2  # steps of the problems that are trained on, at most


def transfer(shop: Workshop, capture: CaptureResult, seed: int) -> dict[str, Any]:
    """AUROC on longer problems of both probes, of the length alone, and the difference with its standard error.

    Means over what is written. The penalty of each is chosen by the same folds of whole problems; of a tenth of the short
    problems, which neither was trained on, the AUROC within the distribution.
    """

    def compute() -> dict[str, Any]:
        traces, acts = judged(shop.kept, capture, shop.site)
        steps = {i.id: i.meta["n_steps"] for i in shop.problems.items("train", shop.desk.settings.traces.n_problems)}
        short = np.array([steps[trace.item_id] <= SHORT for trace in traces])
        labels = np.array([bool(trace.correct) for trace in traces]).astype(int)
        groups = np.unique([trace.group for trace in traces], return_inverse=True)[1]
        sae = shop.sae(seed).sae
        read = {
            "residual": torch.stack([each.mean(0) for each in acts]).numpy(),
            "SAE": torch.stack([encode(sae, each).mean(0) for each in acts]).detach().numpy(),
            "length": np.log([[float(len(each))] for each in acts]),
        }
        held = np.random.default_rng(shop.drawn("held out", seed)).permutation(np.unique(groups[short]))
        within = short & np.isin(groups, held[: len(held) // 10])
        train, far = short & ~within, ~short
        scores = {name: _decisions(x, labels, groups, train) for name, x in read.items()}
        weights = cluster_weights(int(groups.max()) + 1, N_BOOT, np.random.default_rng(shop.drawn("boot", seed)))
        draws = {name: weighted_auroc(s[far], labels[far], weights[:, groups[far]]) for name, s in scores.items()}
        found = {name: _auroc(s[far], labels[far]) for name, s in scores.items()}
        return {
            "far": found,
            "within": {name: _auroc(s[within], labels[within]) for name, s in scores.items()},
            "difference": found["SAE"] - found["residual"],
            "error": float(np.nanstd(draws["SAE"] - draws["residual"])),
            "n": [int(train.sum()), int(within.sum()), int(far.sum())],
        }

    more = {"seed": seed, "strengths": list(STRENGTHS), "short": SHORT, "site": str(shop.site)}
    return shop.cell("probes", more, compute)


def _decisions(x: ndarray, labels: ndarray, groups: ndarray, train: ndarray) -> ndarray:
    """Of all rows, by a probe of the training rows whose penalty was chosen on them."""
    rows = np.flatnonzero(train)
    folds = grouped_folds(labels[rows], groups[rows], n_splits=N_FOLDS)
    chosen = []
    for strength in STRENGTHS:
        values = []
        for fold in range(N_FOLDS):
            inside, outside = rows[folds != fold], rows[folds == fold]
            probe = LinearProbe(C=strength).fit(x[inside], labels[inside])
            values.append(_auroc(probe.decision_function(x[outside]), labels[outside]))
        chosen.append(float(np.mean(values)))
    best = STRENGTHS[int(np.argmax(chosen))]
    return LinearProbe(C=best).fit(x[rows], labels[rows]).decision_function(x)


def _auroc(scores: ndarray, labels: ndarray) -> float:
    return float(weighted_auroc(scores, labels, np.ones((1, len(labels))))[0])
