"""Stage evaluate: every arm once, on the same held-out problems, and the comparisons between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.directions import mean_difference, random_direction
from mechsteer.evaluation import compare_paired, compare_scores, holm
from mechsteer.models.sites import Site
from mechsteer.steering.interventions import Steering
from mechsteer.studies import traces as data
from mechsteer.studies.desk import Desk
from mechsteer.studies.scoring import continuation, dev_scorer, outcomes
from mechsteer.studies.train import adapter, intervention, vector_of
from mechsteer.tasks import Trace


def evaluate(run: Desk) -> dict[str, Any]:
    """Every arm on the same held-out problems, greedy, once."""
    task, problems = data.items(run, "test", run.config["evaluate"]["n_problems"])
    arms = all_arms(run, adapter(run))
    found = {
        name: outcomes(run, task, problems, steering, kept=name, prefix=prefix)
        for name, (steering, prefix, _) in arms.items()
    }
    report = {name: arm_summary(run, *found[name]) | {"note": arms[name][2]} for name in arms}
    return {
        "metric": data.metric(run),
        "n_problems": len(problems),
        "noop_equals_base": bool(np.array_equal(found["base"][0], found["no-op hook"][0]))
        and found["base"][2] == found["no-op hook"][2],
        "arms": report,
        "comparisons": comparisons(run, found, [item.group for item in problems]),
        "style": style_share(found, run.seed("style")) if data.metric(run) == "accuracy" else None,
    }


def all_arms(run: Desk, chosen: Steering) -> dict[str, tuple[Any, str, str]]:
    """Name -> (steering, what is put behind the prompt, a note on what the arm controls for)."""
    iv = chosen.flat()[0]
    vector = vector_of(chosen) * iv.coeff
    difference = control_direction(run, iv.site, float(vector.norm()))
    arms: dict[str, tuple[Any, str, str]] = {
        "base": ((), "", "the model as it is"),
        "adapter": (chosen, "", f"one trained vector at {iv.site}"),
        "no-op hook": (intervention(run, torch.zeros_like(vector), iv.site), "", "a hook that adds zero"),
        "careful prefix": ((), data.careful_prefix(run), "the prompt asks for care"),
    }
    if difference is not None:
        ends = "mean(right) − mean(wrong)" if data.metric(run) == "accuracy" else "mean(positive) − mean(negative)"
        note = f"{ends}, norm of the adapter, sign chosen on dev"
        arms["mean difference"] = (intervention(run, difference, iv.site), "", note)
    for i in range(run.config["evaluate"]["n_random"]):
        noise = random_direction(vector, run.generator("random", i)).vector
        arms[f"random {i + 1}"] = (intervention(run, noise, iv.site), "", "a random direction of equal norm")
    if data.metric(run) == "log_odds":
        del arms["careful prefix"]
    return arms


def arm_summary(run: Desk, scores: np.ndarray, judged: list[Trace], tokens: list[list[int]]) -> dict[str, Any]:
    result: dict[str, Any] = {"score": float(scores.mean())}
    if judged:
        result |= {k: v for k, v in data.summary(judged).items() if k == "styles"}
        result["mean_new_tokens"] = float(np.mean([len(t) for t in tokens]))
        result["hit_limit"] = float(np.mean([len(t) >= run.config["max_new_tokens"] for t in tokens]))
        result["by_steps"] = {
            str(n): float(np.mean([bool(t.correct) for t in judged if t.n_steps == n]))
            for n in sorted({t.n_steps for t in judged if t.n_steps is not None})
        }
    return result


def comparisons(run: Desk, found: dict[str, Any], groups: list[str]) -> dict[str, Any]:
    """Each arm against base; the adapter also against every control. p-values of the controls are Holm-corrected."""
    names = np.array(groups)
    compare = compare_paired if found["base"][0].dtype == bool else compare_scores
    pairs = [(arm, "base") for arm in found if arm != "base"]
    pairs += [("adapter", arm) for arm in found if arm not in ("base", "adapter", "no-op hook")]
    results = {
        f"{a} − {b}": compare(found[b][0], found[a][0], names, seed=run.seed("compare")).to_dict() for a, b in pairs
    }
    rest = {key: value["p_value"] for key, value in results.items() if key != "adapter − base"}
    for key, p in holm(rest).items():
        results[key]["p_holm"] = p
    return results


def style_share(found: dict[str, Any], seed: int) -> dict[str, Any] | None:
    """How much of adapter − base a mere switch of style explains.

    Had each style kept base's accuracy, the adapter's mix of styles alone would give `switch`; `beyond` is the
    rest of the difference. Intervals resample problems. None where texts have no style.
    """
    base, treated = found["base"], found["adapter"]
    styles = sorted({t.style for t in base[1] + treated[1] if t.style is not None})
    if not styles:
        return None
    code = {style: i for i, style in enumerate(styles)}
    before, after = (np.array([code[t.style] for t in arm[1]]) for arm in (base, treated))
    right, right_after = base[0].astype(float), treated[0].astype(float)

    def parts(index: np.ndarray) -> tuple[float, float]:
        rate = np.full(len(styles), right[index].mean())
        for i in range(len(styles)):
            here = index[before[index] == i]
            if len(here):
                rate[i] = right[here].mean()
        switch = float(rate[after[index]].mean() - right[index].mean())
        return switch, float(right_after[index].mean() - right[index].mean()) - switch

    rng = np.random.default_rng(seed)
    n = len(right)
    value = parts(np.arange(n))
    draws = np.array([parts(rng.integers(n, size=n)) for _ in range(2000)])
    result: dict[str, Any] = {}
    for i, name in enumerate(("switch", "beyond")):
        low, high = np.quantile(draws[:, i], [0.025, 0.975])
        result[name] = {"value": value[i], "low": float(low), "high": float(high)}
    return result


def control_direction(run: Desk, site: Site, norm: float) -> Tensor | None:
    """mean(right) − mean(wrong) of the training traces at the site, scaled to `norm`; its sign is chosen on dev."""
    if data.metric(run) == "log_odds":
        ends = [continuation(run, run.config[name]) for name in ("positive", "negative")]
        _, problems = data.items(run, "train", run.config["traces"]["n_problems"])
        prompts = [data.prompt_ids(run, item) for item in problems]
        pos, neg = (data.states(run, [p + end for p in prompts], site).pool("last") for end in ends)
    else:
        states = torch.stack([r.mean(0) for r in data.responses(run, site)])
        labels = torch.tensor([bool(t.correct) for t in data.load(run, "train")])
        if labels.all() or not labels.any():
            return None
        pos, neg = states[labels], states[~labels]
    vector = mean_difference(pos, neg).vector
    vector = vector * (norm / float(vector.norm()))
    score = dev_scorer(run)
    plus, minus = (score(intervention(run, sign * vector, site), f"sign {sign:+g}") for sign in (1.0, -1.0))
    return vector if plus >= minus else -vector
