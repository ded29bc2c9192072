"""Stages probe and topology: what tells right from wrong traces, beside what needs no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from mechsteer.errors import DataError
from mechsteer.probes import LinearProbe, evaluate_probe, partial_effect
from mechsteer.studies import traces as data
from mechsteer.studies.desk import Desk
from mechsteer.tasks import Trace
from mechsteer.topology import trace_frame


def judged(run: Desk) -> tuple[list[Trace], list[Tensor]]:
    """Training traces with a verdict and a text, and their activations at the site."""
    pairs = zip(data.load(run, "train"), data.responses(run, data.site(run)), strict=True)
    kept = [(t, acts) for t, acts in pairs if t.correct is not None and len(acts)]
    return [t for t, _ in kept], [acts for _, acts in kept]


def probe(run: Desk) -> dict[str, Any]:
    """Right or wrong from the mean state of what the model wrote, beside length, steps and style alone."""
    found, acts = judged(run)
    try:
        return _probe(run, found, acts)
    except DataError as error:
        return {"dropped": error.message}


def _probe(run: Desk, found: list[Trace], acts: list[Tensor]) -> dict[str, Any]:
    if not found:
        raise DataError("no trace has a verified answer", "give problems with answers")
    how = run.config["probe"]
    labels = np.array([bool(t.correct) for t in found])
    groups = np.array([t.group for t in found])
    states = torch.stack([a.mean(0) for a in acts]).numpy()
    evaluation = evaluate_probe(
        states,
        labels,
        groups,
        baselines=baselines(found, acts),
        n_splits=how["n_splits"],
        n_boot=how["n_boot"],
        seed=run.seed("probe"),
    )
    summary = {k: v for k, v in evaluation.to_dict().items() if k not in ("scores", "folds")}
    direction = LinearProbe().fit(states, labels).direction_
    return {
        "dropped": None,
        "site": str(data.site(run)),
        "pooling": "mean over the tokens of each trace, its prompt left out,",
        **summary,
        "direction": [float(x) for x in direction],
    }


def baselines(found: list[Trace], acts: list[Tensor]) -> dict[str, np.ndarray]:
    """What a probe must beat: the length of the text alone, the number of steps alone, the style alone."""
    known: dict[str, np.ndarray] = {"length": np.array([len(a) for a in acts], dtype=float)}
    if all(t.n_steps is not None for t in found):
        known["n_steps"] = np.array([t.n_steps for t in found], dtype=float)
    if all(t.style is not None for t in found):
        known["style"] = np.array([t.style for t in found])
    return known


def topology(run: Desk) -> dict[str, Any]:
    """Persistent entropy of each trajectory at matched length, and whether it says more than length does."""
    found, acts = judged(run)
    if not found:
        found = data.load(run, "train")
        acts = data.responses(run, data.site(run))
    n_points = run.config["topology"]["n_points"]
    long_enough = [i for i, a in enumerate(acts) if len(a) >= n_points]
    if len(long_enough) < 10:
        return {"dropped": f"only {len(long_enough)} of {len(acts)} traces have {n_points} tokens"}
    matched = trace_frame([acts[i] for i in long_enough], n_points=n_points, dims=(0, 1))
    raw = trace_frame([acts[i] for i in long_enough], dims=(0,))
    lengths = np.array([len(acts[i]) for i in long_enough], dtype=float)
    result: dict[str, Any] = {
        "dropped": None,
        "site": str(data.site(run)),
        "n_points": n_points,
        "n_traces": len(long_enough),
        "n_too_short": len(acts) - len(long_enough),
        "h0_entropy_nats": {"raw": list(raw["h0_entropy_nats"]), "matched": list(matched["h0_entropy_nats"])},
        "lengths": list(lengths),
        "correct": [found[i].correct for i in long_enough],
        "spearman_with_length": {
            "raw": spearman(raw["h0_entropy_nats"].to_numpy(), lengths),
            "matched": spearman(matched["h0_entropy_nats"].to_numpy(), lengths),
        },
        "means": {
            k: float(v) for k, v in matched.mean(numeric_only=True).items() if str(k).startswith(("h0_", "h1_", "kin_"))
        },
        "effects": {},
    }
    labels = [found[i].correct for i in long_enough]
    if None in labels or len(set(labels)) < 2:
        result["effects_dropped"] = "the traces are not both right and wrong"
        return result
    covariates = {"length": lengths, "hit_limit": (lengths >= run.config["max_new_tokens"] - 1).astype(float)}
    groups = np.array([found[i].group for i in long_enough])
    y = np.array(labels, dtype=bool)
    features = {
        "raw H0 entropy": raw["h0_entropy_nats"],
        "H0 entropy at matched length": matched["h0_entropy_nats"],
        "H0 deficit at matched length": matched["h0_deficit"],
        "H1 total persistence at matched length": matched["h1_total"],
        "length alone": None,
    }
    for name, values in features.items():
        try:
            if values is None:
                effect = partial_effect(lengths, y, {}, groups, n_boot=300, seed=run.seed("topology"))
            else:
                effect = partial_effect(values.to_numpy(), y, covariates, groups, n_boot=300, seed=run.seed("topology"))
            result["effects"][name] = {
                "alone": effect.alone.to_dict(),
                "beside_length": None if values is None else effect.effect.to_dict(),
            }
        except DataError as error:
            result["effects"][name] = {"dropped": error.message}
    return result


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; nan where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(a, b))[0])
