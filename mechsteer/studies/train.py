"""Stage train: one static vector, its layer and strength chosen on dev."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.errors import DataError
from mechsteer.models.sites import Site
from mechsteer.runtime.batches import Sample
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.calibration import strengths
from mechsteer.steering.files import load_steering, save_steering
from mechsteer.steering.generation import default_stop_tokens
from mechsteer.steering.interventions import Intervention, Steering
from mechsteer.studies import traces as data
from mechsteer.studies.desk import Desk
from mechsteer.studies.scoring import continuation, dev_scorer
from mechsteer.training import CrossEntropy, FitConfig, fit

FILE = "adapter.safetensors"
N_KL = 64  # dev prompts on which the adapter's strength in nats is measured


def train(run: Desk) -> dict[str, Any]:
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
            CrossEntropy(
                samples,
                dev=dev,
                neutral=neutral,
                kl_weight=how["kl_weight"],
                l2_weight=how["l2_weight"] / rms**2,  # the penalty, as the step, is in the residual's own units
            ),
            FitConfig(lr=how["lr"] * rms, epochs=how["epochs"], seed=run.seed("adapter", site.layer)),
            checkpoint=run.checkpoint(f"adapter-{site.layer}.safetensors"),
            progress=run.progress,
        )
    score = dev_scorer(run)
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
    save_steering(chosen, run.write(FILE), run.model, provenance=provenance)
    return {
        "n_samples": len(samples),
        "n_neutral": len(neutral),
        "layer": site.layer,
        "site": str(site),
        "coeff": best["coeff"],
        "norm": float(vector.norm()) * abs(best["coeff"]),
        "median_resid_norm": median_norm(run, site),
        "kl": strengths(run.model, chosen, prompts).kl,
        "base_dev_score": score((), "base"),
        "tried": tried,
        "best_epoch": fitted[site].best_epoch,
        "history": [
            {
                name: epoch[name] and dict(sorted(epoch[name].items()))
                if isinstance(epoch[name], dict)
                else epoch[name]
                for name in sorted(epoch)
            }
            for epoch in fitted[site].to_dict()["history"]
        ],
    }


def training_samples(run: Desk, split: str, most: int) -> list[Sample]:
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


def questions(run: Desk) -> list[list[int]]:
    """The training problems, on which the steered model is to predict as it did; without them nothing would hold
    back a vector whose scope holds only target tokens. Log-odds steers every token, so its prompts do that."""
    if data.metric(run) == "log_odds":
        return []
    _, problems = data.items(run, "train", run.config["traces"]["n_problems"])
    return [data.prompt_ids(run, item) for item in problems]


def median_norm(run: Desk, site: Site) -> float:
    """Median norm of the residual over the training traces at a site (a mean would be that of attention sinks)."""
    norms = [chunk.float().norm(dim=-1) for chunk in data.store(run)[site].flat_batches()]
    return float(torch.cat(norms).median())


def scope(run: Desk) -> TokenScope:
    """What the model writes, and the position that predicts its first token; every token where one answer is scored."""
    return TokenScope.all() if data.metric(run) == "log_odds" else TokenScope.generated(include_last_prompt=True)


def intervention(run: Desk, vector: Tensor, site: Site, coeff: float = 1.0) -> Intervention:
    return Intervention(Static(vector), site, scope=scope(run), coeff=coeff)


def vector_of(steering: Steering) -> Tensor:
    adapter = steering.interventions[0].adapter
    assert isinstance(adapter, Static)
    return adapter.vector.detach().clone()


def adapter(run: Desk) -> Steering:
    """The chosen adapter."""
    return load_steering(run.read(FILE), run.model)
