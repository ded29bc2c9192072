"""What a mixture of vectors does at which tokens, and which of its atoms work on which task."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from booster_makes import Make, Workshop, everywhere_of

from mechsteer import pocket
from mechsteer.adapters import Dictionary
from mechsteer.evaluation.likelihoods import log_likelihoods
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.runtime.batches import Sample, encode_samples, make_batches
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import hints
from mechsteer.steering.interventions import Steering, steer, writing

CONCLUSIONS = ("The answer is", "####")  # where an answer begins to be drawn
TASKS = ("arithmetic", "comparison", "honesty", "answer format")


def readings(model: Any, steering: Steering, pairs: Sequence[Any], name: str) -> list[torch.Tensor]:
    """Per (prompt ids, target ids) the reading `name` [n_tokens ...] of the steering's first intervention; NaN outside its scope."""
    found: dict[int, torch.Tensor] = {}
    for batch in make_batches(model, pairs, 32):
        with torch.no_grad(), steer(model, steering, record=True, warn=False) as session:
            with hints(model, batch.prompt_lengths, batch.rows):
                model(batch.tokens, attention_mask=batch.mask.long())
            values = session.readings[0][name][-1]
        assert values is not None
        for row, one, mask in zip(batch.rows.tolist(), values, batch.mask, strict=True):
            found[row] = one[mask].float()
    return [found[i] for i in range(len(pairs))]


def quiet(shop: Workshop, make: Make, seed: int, coeff: float, texts: Sequence[Any]) -> dict[str, Any]:
    """Mean ‖delta‖ per token, steered everywhere: on neutral texts, and on what the traces of dev problems say."""
    if not math.isfinite(coeff):
        return {"neutral": math.nan, "traces": math.nan}
    steering = everywhere_of(shop.trained(make, seed).with_coeff(coeff))
    apart = encode_samples(shop.model, shop.samples("dev", "all", 100))
    plain = [(row, []) for row in tokenize(shop.model, list(texts), truncate="right", room=0)]
    worked = readings(shop.model, steering, apart, "delta_norm")
    said = torch.cat([values[len(prompt) :] for values, (prompt, _) in zip(worked, apart, strict=True)])
    other = torch.cat([values[1:] for values in readings(shop.model, steering, plain, "delta_norm")])
    return {"neutral": float(other.mean()), "traces": float(said.mean())}


def moved(shop: Workshop, make: Make, seed: int) -> dict[str, Any]:
    """Total variation of the mean weights: conclusion against working, and first against second half of the working."""
    traces = [trace for trace in shop.kept.traces("dev") if trace.correct][:200]
    pairs, ends = [], []
    for trace in traces:
        at = max(trace.text.rfind(words) for words in CONCLUSIONS)
        if at > 0:
            working = len(tokenize_continuation(shop.model, trace.text[:at].rstrip()))
            pairs.append((tokenize(shop.model, [trace.prompt])[0], tokenize_continuation(shop.model, trace.text)))
            ends.append(working)
    if not pairs:
        return {"conclusion": math.nan, "within": math.nan}
    apart = []
    for values, (prompt, _), n in zip(
        readings(shop.model, shop.trained(make, seed), pairs, "weights"), pairs, ends, strict=True
    ):
        values = values[len(prompt) :]
        if 2 <= n < len(values):
            halves = values[: n // 2].mean(0), values[n // 2 : n].mean(0)
            apart.append((_variation(values[n:].mean(0), values[:n].mean(0)), _variation(*halves)))
    means = np.array(apart).mean(0) if apart else (math.nan, math.nan)
    return {"conclusion": float(means[0]), "within": float(means[1])}


def _variation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().sum()) / 2


def task_samples(split: str, n: int, seed: int) -> dict[str, list[Sample]]:
    """`n` samples of each of `TASKS` in the bundled models' words."""
    rng = random.Random(f"universal/{split}/{seed}")
    made: dict[str, list[Sample]] = {name: [] for name in TASKS}
    while len(made["arithmetic"]) < n:
        task, result, *_ = pocket.practice(rng)
        made["arithmetic"].append(Sample(task, result))
    positive, negative = (
        [pair[i] for pair in pocket.contrast_pairs("true", n, seed=rng.randrange(10**6))] for i in (0, 1)
    )
    for i in range(n):
        text, said = (positive[i], " True.") if i % 2 else (negative[i], " False.")
        made["comparison"].append(Sample(text, said))
    for i, pair in enumerate(pocket.contrast_pairs("honest", n, seed=rng.randrange(10**6))):
        made["honesty"].append(Sample(pair[i % 2], (" you can trust me.", " you cannot trust me.")[i % 2]))
    for problem in pocket.problems(n, seed=rng.randrange(10**6), split="train" if split == "train" else "test"):
        made["answer format"].append(Sample(problem.prompt, f" The answer is {problem.answer}."))
    return made


def universal(shop: Workshop, make: Make, seed: int, rates: list[float], epochs: int) -> dict[str, Any]:
    """One dictionary on four tasks: loss of each task as it is, trained, and without each atom; tasks named by weights."""
    scope = TokenScope.generated(include_last_prompt=True)
    train, test = (task_samples(split, make.n_samples // len(TASKS), seed) for split in ("train", "test"))
    mixed = [sample for samples in train.values() for sample in samples]
    random.Random(seed).shuffle(mixed)
    n_dev = max(len(mixed) // 8, 1)
    steering = shop.fitted(make, seed, mixed[n_dev:], mixed[:n_dev], scope=scope, rates=rates, epochs=epochs)
    fresh = shop.start(make, seed, scope)
    pairs = {name: encode_samples(shop.model, samples) for name, samples in test.items()}
    (trained,) = writing(steering)
    assert isinstance(trained.adapter, Dictionary)
    n_atoms = len(trained.adapter.atoms)
    rows = {"the model": (), "trained": steering}
    for k in range(n_atoms):
        gains = [0.0 if i == k else 1.0 for i in range(n_atoms)]
        rows[f"without atom {k}"] = Steering([_with(trained, trained.adapter.with_gains(gains))])
    losses = {name: {task: _loss(shop.model, pairs[task], one) for task in TASKS} for name, one in rows.items()}
    return {
        "losses": losses,
        "named": _named(shop.model, steering, pairs, seed),
        "named untrained": _named(shop.model, fresh, pairs, seed),
        "weights": {task: _mean_weights(shop.model, steering, pairs[task]).mean(0).tolist() for task in TASKS},
    }


def _with(iv: Any, adapter: Any) -> Any:
    return type(iv)(adapter, iv.site, read=iv.read, scope=iv.scope, coeff=iv.coeff)


def _loss(model: Any, pairs: Sequence[Any], steering: Any) -> float:
    return float(-log_likelihoods(model, pairs, steering).sum() / sum(len(target) for _, target in pairs))


def _mean_weights(model: Any, steering: Steering, pairs: Sequence[Any]) -> torch.Tensor:
    """[n_samples n_atoms] over the tokens in the scope."""
    return torch.stack([values.nanmean(0) for values in readings(model, steering, pairs, "weights")])


def _named(model: Any, steering: Steering, pairs: Mapping[str, Sequence[Any]], seed: int) -> float:
    """Share of samples whose task is the nearest centre's, centres of the other half, both ways."""
    values = torch.cat([_mean_weights(model, steering, pairs[task]) for task in TASKS]).numpy()
    labels = np.repeat(np.arange(len(TASKS)), [len(pairs[task]) for task in TASKS])
    fold = np.random.default_rng(seed).permutation(len(labels)) % 2
    right = np.zeros(len(labels), bool)
    for half in (0, 1):
        centres = np.stack([values[(labels == k) & (fold != half)].mean(0) for k in range(len(TASKS))])
        far = np.linalg.norm(values[:, None] - centres, axis=-1)
        right |= (far.argmin(1) == labels) & (fold == half)
    return float(right.mean())
