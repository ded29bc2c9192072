"""Stage 3 and 6: the adapter, chosen on dev, and every arm evaluated once on the same held-out problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.calibration import strengths
from mechsteer.directions import mean_difference, random_direction
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import compare_paired, holm
from mechsteer.generation import default_stop_tokens, generate
from mechsteer.interventions import Intervention, Steering, steer
from mechsteer.models import tokenize_continuation
from mechsteer.scopes import TokenScope
from mechsteer.sites import Site
from mechsteer.steering_files import load_steering, save_steering
from mechsteer.study import traces as data
from mechsteer.study.run import Run
from mechsteer.tasks import Item, Task, Trace
from mechsteer.tokens import continuation_text
from mechsteer.training import Sample, Start, fit, logits_from, make_batches

FILE = "adapter.safetensors"
N_KL = 64  # dev prompts on which the adapter's strength in nats is measured


def scope(run: Run) -> TokenScope:
    """What the model writes, and the position that predicts its first token; every token where one answer is scored."""
    return TokenScope.all() if data.metric(run) == "log_odds" else TokenScope.generated(include_last_prompt=True)


def intervention(run: Run, vector: Tensor, site: Site, coeff: float = 1.0) -> Intervention:
    return Intervention(Static(vector), site, scope=scope(run), coeff=coeff)


# -- training ----------------------------------------------------------------------------------------------------


def train(run: Run) -> dict[str, Any]:
    """adapter.safetensors: one static vector; layer and strength are chosen on dev.

    Cross-entropy on the model's own verified-correct training samples (or the positive continuation) + KL on what
    is to stay as it is: the text of the questions (or of the prompts).
    """
    how = run.config["adapter"]
    samples, dev = training_samples(run, "train", how["n_samples"]), training_samples(run, "dev", 100)
    neutral = questions(run)
    tried: list[dict[str, Any]] = []
    fitted: dict[Site, Any] = {}
    d_model = run.model.cfg.d_model
    for site in data.sites(run):
        rms = median_norm(run, site) / d_model**0.5
        start = intervention(run, torch.zeros(d_model), site)
        fitted[site] = fit(
            run.model,
            start,
            samples,
            dev=dev,
            neutral=neutral,
            epochs=how["epochs"],
            lr=how["lr"] * rms,
            kl_weight=how["kl_weight"],
            l2_weight=how["l2_weight"] / rms**2,  # the penalty, as the step, is in the residual's own units
            seed=run.seed("adapter", site.layer),
            checkpoint=run.checkpoint("train", f"adapter-{site.layer}.safetensors"),
            progress=run.progress,
        )
    score = dev_scorer(run, "train")
    prompts = [data.prompt_ids(run, item) for item in data.items(run, "dev", N_KL)[1]]
    coeffs = how["coeffs"] if data.metric(run) == "accuracy" else [1.0]
    for site, result in fitted.items():
        for coeff in coeffs:
            steering = result.steering.with_coeff(coeff)
            tried.append({"layer": site.layer, "coeff": coeff, "score": score(steering, f"{site.layer}-{coeff}")})
    best = max(tried, key=lambda t: (t["score"], -abs(t["coeff"])))
    site = next(s for s in fitted if s.layer == best["layer"])
    vector = vector_of(fitted[site].steering)
    chosen = Steering([intervention(run, vector, site, coeff=best["coeff"])])
    provenance = {
        "trained_on": fitted[site].data_hash,
        "n_samples": len(samples),
        "chosen_on_dev": best,
        "metric": data.metric(run),
    }
    save_steering(chosen, run.folder / FILE, run.model, provenance=provenance)
    return {
        "n_samples": len(samples),
        "n_neutral": len(neutral),
        "layer": site.layer,
        "site": str(site),
        "coeff": best["coeff"],
        "norm": float(vector.norm()) * best["coeff"],
        "median_resid_norm": median_norm(run, site),
        "kl": strengths(run.model, chosen, prompts).kl,
        "base_dev_score": score((), "base"),
        "tried": tried,
        "best_epoch": fitted[site].best_epoch,
        "history": fitted[site].to_dict()["history"],
    }


def training_samples(run: Run, split: str, most: int) -> list[Sample]:
    """Verified-correct traces with the stop token behind them; or prompts with the positive continuation."""
    found = data.load(run, split)
    if data.metric(run) == "log_odds":
        _, problems = data.items(run, split, most)
        positive = continuation(run, run.config["positive"])
        return [Sample(data.prompt_ids(run, item), positive) for item in problems[:most]]
    right = [trace for trace in found if trace.correct]
    if len(right) < 4:
        raise DataError(
            f"the model solved {len(right)} of {len(found)} {split} traces: there is nothing to train on",
            "use easier problems or a stronger model, or set metric=log_odds",
        )
    stop = list(default_stop_tokens(run.model)[:1])
    order = torch.randperm(len(right), generator=run.generator("samples", split))[:most].tolist()
    rows = [data.whole(run, right[i]) for i in order]
    return [Sample(ids[:n], ids[n:] + stop) for ids, n in rows if len(ids) + 1 <= run.model.cfg.n_ctx]


def questions(run: Run) -> list[list[int]]:
    """The training problems, on which the steered model is to predict as it did; without them nothing would hold
    back a vector whose scope holds only target tokens. Log-odds steers every token, so its prompts do that."""
    if data.metric(run) == "log_odds":
        return []
    _, problems = data.items(run, "train", run.config["traces"]["n_problems"])
    return [data.prompt_ids(run, item) for item in problems]


def continuation(run: Run, text: str) -> list[int]:
    """Token ids of a continuation. Raises ConfigError for an empty one."""
    ids = tokenize_continuation(run.model, text)
    if not ids:
        raise ConfigError(f"{text!r} has no tokens", "give a word, with its leading space")
    return ids


def dev_scorer(run: Run, stage: str) -> Callable[[Any, str], float]:
    """Mean dev score of a steering, kept by name: accuracy of greedy traces, or log-odds."""
    task, problems = data.items(run, "dev", run.config["traces"]["n_dev"])

    def score(steering: Any, name: str) -> float:
        return float(np.mean(outcomes(run, task, problems, steering, kept=(stage, f"dev-{name}"))[0]))

    return score


def median_norm(run: Run, site: Site) -> float:
    """Median norm of the residual over the training traces at a site (a mean would be that of attention sinks)."""
    norms = [chunk.float().norm(dim=-1) for chunk in data.store(run)[site].flat_batches()]
    return float(torch.cat(norms).median())


def vector_of(steering: Steering) -> Tensor:
    adapter = steering.interventions[0].adapter
    assert isinstance(adapter, Static)
    return adapter.vector.detach().clone()


def adapter(run: Run) -> Steering:
    """The chosen adapter."""
    run.result("train")
    return load_steering(run.folder / FILE, run.model)


# -- evaluation --------------------------------------------------------------------------------------------------


def outcomes(
    run: Run, task: Task, problems: Sequence[Item], steering: Any, *, kept: tuple[str, str], prefix: str = ""
) -> tuple[np.ndarray, list[Trace], list[list[int]]]:
    """Score per problem (right or wrong; or log-odds), greedy traces and their tokens.

    `kept`: the stage, and the name under which what the model said outlives an interruption.
    """
    prompts = [data.prompt_ids(run, item) for item in problems]
    if prefix:
        tail = continuation(run, prefix)
        prompts = [p + tail for p in prompts]
    if data.metric(run) == "log_odds":
        return np.array(run.piece(*kept, lambda: log_odds(run, prompts, steering).tolist())), [], []
    most, size = data.room(run, prompts), run.config["batch_size"]
    new = run.piece(
        *kept,
        lambda: (
            generate(run.model, prompts, steering, max_new_tokens=most, batch_size=size, progress=run.progress).tokens
        ),
    )
    texts = [continuation_text(run.model.tokenizer, ids) for ids in new]
    judged = [task.trace(item, prefix + text) for item, text in zip(problems, texts, strict=True)]
    return np.array([bool(t.correct) for t in judged]), judged, new


@torch.no_grad()
def log_odds(run: Run, prompts: Sequence[Sequence[int]], steering: Any) -> np.ndarray:
    """ln P(positive) − ln P(negative), each summed over the continuation's tokens, per prompt."""
    scores = torch.zeros(len(prompts), dtype=torch.float64)
    for sign, name in ((1, "positive"), (-1, "negative")):
        end = continuation(run, run.config[name])
        for batch in make_batches(run.model, [(list(p), end) for p in prompts], run.config["batch_size"]):
            at = batch.predicts_target
            with steer(run.model, steering):
                log_p = logits_from(run.model, batch, Start(), at).double().log_softmax(-1)
            of_targets = log_p.gather(1, batch.tokens.roll(-1, 1)[at][:, None])[:, 0]
            scores.index_add_(0, batch.rows[at.nonzero()[:, 0]].cpu(), sign * of_targets.cpu())
    return scores.numpy()


def evaluate(run: Run) -> dict[str, Any]:
    """Every arm on the same held-out problems, greedy, once."""
    how = run.config["evaluate"]
    chosen = adapter(run)
    iv = chosen.flat()[0]
    vector = vector_of(chosen) * iv.coeff
    task, problems = data.items(run, "test", how["n_problems"])
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
    for i in range(how["n_random"]):
        noise = random_direction(vector, run.generator("random", i)).vector
        arms[f"random {i + 1}"] = (intervention(run, noise, iv.site), "", "a random direction of equal norm")
    if data.metric(run) == "log_odds":
        del arms["careful prefix"]
    found = {
        name: outcomes(run, task, problems, steering, kept=("evaluate", name), prefix=prefix)
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


def arm_summary(run: Run, scores: np.ndarray, judged: list[Trace], tokens: list[list[int]]) -> dict[str, Any]:
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


def comparisons(run: Run, found: dict[str, Any], groups: list[str]) -> dict[str, Any]:
    """Each arm against base; the adapter also against every control. p-values of the controls are Holm-corrected."""
    names = np.array(groups)
    pairs = [(arm, "base") for arm in found if arm != "base"]
    pairs += [("adapter", arm) for arm in found if arm not in ("base", "adapter", "no-op hook")]
    results = {f"{a} − {b}": compare(found[b][0], found[a][0], names, run.seed("compare")) for a, b in pairs}
    rest = {
        key: value["p_value"]
        for key, value in results.items()
        if key != "adapter − base" and value["p_value"] is not None
    }
    for key, p in holm(rest).items():
        results[key]["p_holm"] = p
    return results


def compare(base: np.ndarray, treated: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, Any]:
    if base.dtype == bool:
        return compare_paired(base, treated, groups, seed=seed).to_dict()
    change = treated - base
    rng = np.random.default_rng(seed)
    draws = change[rng.integers(len(change), size=(10_000, len(change)))].mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    flips = np.sign(rng.random((10_000, len(change))) - 0.5)
    p = float((np.abs((flips * change).mean(1)) >= abs(change.mean()) - 1e-12).mean())
    return {
        "difference": {"value": float(change.mean()), "low": float(low), "high": float(high)},
        "p_value": max(p, 1e-4),
        "test": "sign_flip",
        "detectable": float(2.8 * change.std(ddof=1) / np.sqrt(len(change))) if len(change) > 1 else None,
    }


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


def control_direction(run: Run, site: Site, norm: float) -> Tensor | None:
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
    score = dev_scorer(run, "evaluate")
    plus, minus = (score(intervention(run, sign * vector, site), f"sign {sign:+g}") for sign in (1.0, -1.0))
    return vector if plus >= minus else -vector
