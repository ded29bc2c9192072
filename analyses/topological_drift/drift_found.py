"""What was found of the controller: a finding per claim about what steering does, and the tables behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import Finding, interval, pooled
from drift_makes import CONTROLLER, ONE, PER_LAYER, RANDOM, WITH_TOPOLOGY, Workshop
from drift_traces import Findings, Tables, none
from torch.utils.flop_counter import FlopCounterMode

from mechsteer.adapters import Gru
from mechsteer.evaluation import Scored, pool_seeds
from mechsteer.steering.interventions import Steering, steer, writing

N_COUNTED = 64  # tokens of the row whose multiply-adds are counted
SIGNAL_OPS = 3 + 1 + 2 * 16 + 2  # per coordinate: cosine, step, variance over 16 tokens, unit size
THERE = {"n_layers": 28, "d_model": 1024, "d_q": 2048, "d_kv": 1024, "d_mlp": 3072, "d_vocab": 151_936}  # Qwen3-0.6B


def steered(shop: Workshop) -> tuple[Findings, Tables, dict[str, Any]]:
    """Accuracy beside rivals, the gate, the shape of what is written, a topology loss; figures for the parity table."""
    base, names = shop.base(), (CONTROLLER, PER_LAYER, ONE, RANDOM)
    rows_of_seed = [[shop.scored(name, seed) for name in names] for seed in shop.seeds]  # a stopped run has whole seeds
    scores = {name: [row[i] for row in rows_of_seed] for i, name in enumerate(names)}
    first = range(min(shop.settings["topology_seeds"], len(shop.seeds)))
    scores[WITH_TOPOLOGY] = [shop.scored(WITH_TOPOLOGY, seed) for seed in first]
    own, teacher = scores[CONTROLLER], shop.teacher()
    changes = [shop.change(CONTROLLER, seed) for seed in shop.seeds]
    with_loss = [shop.change(WITH_TOPOLOGY, seed) for seed in first]
    matched, gates = (
        [_changed(each, matched=True) for each in changes],
        [shop.gate(CONTROLLER, seed) for seed in shop.seeds],
    )
    loss_words = (
        f"change of H0 entropy at matched length: with it {_listed(with_loss)}, without {_listed(changes)} nats"
    )
    raw = np.mean([_changed(each, matched=False)[0] for each in changes])
    findings = {
        "controller helps": _told(_pooled([base] * len(own), own, "base"), f"the teacher solves {teacher.score:.3f}"),
        "beats vectors": _pooled(scores[PER_LAYER], own, "bias_only"),
        "beats one vector": _pooled(scores[ONE], own, "static"),
        "beats random": _pooled(scores[RANDOM], own, "a random direction as long"),
        "opens seldom": pooled(
            [(gate, 0.0) for gate in gates], len(gates), f"trained to {shop.settings['open_rate']}; untrained 0.1"
        ),
        "entropy falls": _told(
            pooled(matched, len(matched), "no change: 0"), f"raw, which follows length: {raw:.3f} nats"
        ),
        "topology loss helps": _told(_pooled(own[: len(first)], scores[WITH_TOPOLOGY], "without"), loss_words)
        if first
        else none("not run: topology_seeds=0"),
    }
    rows = [_row(shop, base, name, of) for name, of in scores.items() if of]
    rows.insert(0, {"arm": "base", "accuracy": base.score})
    rows.append({"arm": "the teacher alone", "accuracy": teacher.score})
    cost, size, more = overhead(shop)
    findings["overhead"] = _told(cost, size)
    told = {
        "accuracy": (base.score, _mean(own)),
        "entropy": _sides(changes, matched=True),
        "raw entropy": _sides(changes, matched=False),
        "overhead there": more,
    }
    shapes = [
        row for name, of in ((CONTROLLER, changes), (WITH_TOPOLOGY, with_loss)) if of for row in _shapes(name, of)
    ]
    title = "Accuracy on held-out problems"
    return findings, {title: rows, "Before and after, mean over seeds": shapes}, told


def untrained(shop: Workshop) -> tuple[Findings, Tables, dict[str, Any]]:
    """What can be said of a controller that is not trained: what it costs."""
    keys = ("controller helps", "beats vectors", "beats one vector", "beats random", "opens seldom", "entropy falls")
    findings = {key: none("not run: controller=false") for key in (*keys, "topology loss helps")}
    cost, size, more = overhead(shop)
    return findings | {"overhead": _told(cost, size)}, {}, {"overhead there": more}


def overhead(shop: Workshop) -> tuple[Finding, str, str]:
    """(share of the model's multiply-adds per token, parameters in words, the same of a model of 1024 numbers)."""
    steering, model = shop.start(CONTROLLER, 0), shop.model
    tokens = torch.tensor([shop.prompts[0][:1] * N_COUNTED], device=next(iter(model.parameters())).device)
    alone = _products(model, tokens, None)
    with_it = _products(model, tokens, Steering(writing(steering)[0].with_coeff(1.0)))
    share = (with_it - alone + SIGNAL_OPS * model.cfg.d_model * N_COUNTED) / alone
    n = sum(p.numel() for p in steering.parameters())
    there = THERE
    per_layer = there["d_model"] * (2 * there["d_q"] + 2 * there["d_kv"] + 3 * there["d_mlp"])
    of_model = there["n_layers"] * per_layer + there["d_model"] * there["d_vocab"]
    large = Gru.fresh(there["d_model"], there["d_model"])
    of_large = sum(p.numel() for p in large.parameters() if p.ndim > 1) + SIGNAL_OPS * there["d_model"]
    n_large = sum(p.numel() for p in large.parameters())
    found = Finding(value=share, low=share, high=share, n_seeds=1, null="a vector: 0")
    size = f"{n:,} parameters here"
    return found, size, f"{100 * of_large / of_model:.2f} % and {n_large:,} parameters at the size of Qwen3-0.6B"


@torch.no_grad()
def _products(model: Any, tokens: torch.Tensor, steering: Steering | None) -> float:
    """Multiply-adds of matrix products in one forward."""
    with FlopCounterMode(display=False) as counter:
        if steering is None:
            model(tokens)
        else:
            with steer(model, steering):
                model(tokens)
    return counter.get_total_flops() / 2


def _pooled(before: Sequence[Scored | None], after: Sequence[Scored | None], null: str) -> Finding:
    """after - before over seeds and problems; not defined where one could not be set to the controller's divergence."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if len(pairs) < len(after) or not pairs:
        return none(f"{null}: not every seed's vector reaches the controller's divergence")
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    mean = pool_seeds(first, second).mean
    words = f"{_mean(second):.3f} against {_mean(first):.3f}"
    return Finding(value=mean.value, low=mean.low, high=mean.high, n_seeds=len(pairs), null=f"{null}: 0", words=words)


def _told(finding: Finding, words: str) -> Finding:
    return replace(finding, words="; ".join(each for each in (finding.words, words) if each))


def _row(shop: Workshop, base: Scored, name: str, scores: Sequence[Scored | None]) -> dict[str, Any]:
    seeds, source = range(len(scores)), CONTROLLER if name == RANDOM else name
    row = {
        "arm": name,
        "seeds": len(scores),
        "accuracy": _mean(scores),
        "more than base": interval(_pooled([base] * len(scores), scores, "")),
        "parameters": sum(p.numel() for p in shop.start(source, 0).parameters()),
        "coefficient": float(np.mean([shop.strength(source, seed) for seed in seeds])),
    }
    if name != RANDOM:
        row["KL as trained"] = float(np.mean([shop.divergence(name, seed) for seed in seeds]))
    return row


def _mean(scores: Sequence[Scored | None]) -> float:
    return float(np.mean([math.nan if each is None else each.score for each in scores]))


def _changed(change: Any, *, matched: bool) -> tuple[float, float]:
    difference = change.of("H0 entropy (nats)", matched=matched).comparison.difference
    return difference.value, (difference.high - difference.low) / 3.92


def _listed(changes: Sequence[Any]) -> str:
    return ", ".join(f"{_changed(each, matched=True)[0]:.3f}" for each in changes)


def _sides(changes: Sequence[Any], *, matched: bool) -> tuple[float, float]:
    found = [each.of("H0 entropy (nats)", matched=matched) for each in changes]
    return float(np.mean([each.before.mean() for each in found])), float(np.mean([each.after.mean() for each in found]))


def _shapes(name: str, changes: Sequence[Any]) -> list[dict[str, Any]]:
    rows = []
    for at in changes[0].changes:
        same = [each.of(at.name, matched=at.matched) for each in changes]
        rows.append(
            {
                "arm": name,
                "summary": f"{at.name}, {'matched' if at.matched else 'whole texts'}",
                "before": float(np.mean([each.before.mean() for each in same])),
                "after": float(np.mean([each.after.mean() for each in same])),
                "change per seed": ", ".join(f"{each.comparison.difference.value:.3f}" for each in same),
            }
        )
    return rows
