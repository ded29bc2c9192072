"""Stages 3 to 5 on the training traces: SAE and ReasonScore, probe, topology; each beside its baselines."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from mechsteer.errors import DataError, MechsteerWarning
from mechsteer.features import ContextAccumulator, ReasonScoreAccumulator
from mechsteer.features.sae import SAE, encode, load_sae, train_sae
from mechsteer.models import backend_of
from mechsteer.probes import LinearProbe, evaluate_probe, partial_effect
from mechsteer.sites import Site
from mechsteer.study import traces as data
from mechsteer.study.run import Run
from mechsteer.tasks import Trace
from mechsteer.tokens import token_text
from mechsteer.topology import trace_frame

N_FEATURES, N_CONTEXTS = 8, 4
N_SEEN = 32  # contexts kept while reading: samples of one problem share its text, which would fill all places


def site(run: Run) -> Site:
    """The adapter's; where nothing is steered, the middle one of the candidates."""
    if not data.is_ready_made(run):
        return Site(run.result("train")["layer"], "resid_post")
    sites = data.sites(run)
    return sites[len(sites) // 2]


# -- features ----------------------------------------------------------------------------------------------------


def sae_stage(run: Run) -> dict[str, Any]:
    """sae/: an SAE of the residual stream at the adapter's site, measured on the traces of other problems."""
    how, at = run.config["sae"], site(run)
    acts = data.store(run)[at]
    others = [data.whole(run, trace)[0] for trace in data.load(run, "dev")]
    unseen = [data.states(run, others, at).flat()] if others else None
    trained = train_sae(
        lambda: iter(acts.flat_batches()),
        d_in=run.model.cfg.d_model,
        d_sae=how["d_sae"],
        architecture=how["architecture"],
        k=min(how["k"], how["d_sae"]),
        n_tokens=how["n_tokens"],
        seed=run.seed("sae"),
        metadata={"model_fingerprint": run.fingerprint, "site": str(at)},
        eval_batches=unseen,
        out=run.folder / "sae",
        checkpoint_every=100,
        progress=run.progress,
    )
    metrics = {k: v for k, v in trained.metrics.items() if isinstance(v, (int, float, str))}
    rows = others or [data.whole(run, trace)[0] for trace in data.load(run, "train")]
    metrics |= {
        "loss_recovered": loss_recovered(run, trained.sae, at, rows),
        "evaluated_on": "traces of dev problems" if others else "the traces it was trained on",
    }
    return {"site": str(at), "metrics": metrics}


def sae(run: Run) -> SAE[Any]:
    """The SAE of this run, refused if it is of another model or site."""
    run.result("sae")
    return load_sae(run.folder / "sae", fingerprint=run.fingerprint, site=str(site(run)))


@torch.no_grad()
def loss_recovered(run: Run, trained: SAE[Any], at: Site, rows: list[list[int]], n: int = 24) -> float | None:
    """(loss with a zeroed site − loss with the SAE's reconstruction) / (loss with a zeroed site − loss as it is)."""
    backend = backend_of(run.model)
    assert isinstance(at.layer, int)
    name = backend.hook_name(at.layer, at.point)
    edits = {
        "as it is": lambda _acts: None,
        "spliced": lambda acts: trained.decode(trained.encode(acts)),
        "zeroed": torch.zeros_like,
    }
    losses = dict.fromkeys(edits, 0.0)
    for row in rows[:n]:
        tokens = torch.tensor([row])
        for how, edit in edits.items():
            remove = backend.attach(name, edit)
            try:
                logits = run.model(tokens)[0, :-1].log_softmax(-1)
            finally:
                remove()
            losses[how] -= float(logits.gather(1, tokens[0, 1:, None]).mean())
    span = losses["zeroed"] - losses["as it is"]
    return (losses["zeroed"] - losses["spliced"]) / span if span > 0 else None


def encoded(run: Run, trained: SAE[Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(tokens, feature_acts, mask) per batch of training traces."""
    with torch.no_grad():
        for batch in data.store(run)[site(run)].batches(64):
            yield batch.tokens, encode(trained, batch.values.float()), batch.mask


def reasonscore(run: Run) -> dict[str, Any]:
    """ReasonScore of every feature, the top ones in context; dropped, with the reason, where no word occurs."""
    trained = sae(run)
    groups, tokenizer = data.vocabulary(run), run.model.tokenizer
    ignore = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None]
    scores = ReasonScoreAccumulator(groups, trained.cfg.d_sae, ignore_ids=ignore)
    for tokens, feature_acts, mask in encoded(run, trained):
        scores.update(tokens, feature_acts, mask)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MechsteerWarning)  # words without a match: the counts are in the report
            found = scores.result()
    except DataError as error:
        return {"dropped": error.message, "top": []}
    top = [int(i) for i in found.score.topk(min(N_FEATURES, len(found.score))).indices]
    seen = in_context(run, top)
    rows = [
        {"feature": i, **{k: float(getattr(found, k)[i]) for k in ("score", "mu_pos", "mu_neg", "entropy")}, **seen[i]}
        for i in top
    ]
    return {
        "dropped": None,
        "top": rows,
        "counts": found.counts,
        "scores": [float(s) for s in found.score],
        "window": list(found.window),
        "alpha": found.alpha,
        "cutoff_0.997": float(found.score.quantile(0.997)),
    }


def in_context(run: Run, features: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Density, the tokens a feature fires on and its strongest contexts in the training traces, per feature."""
    trained, tokenizer = sae(run), run.model.tokenizer
    seen = ContextAccumulator(features, n=N_SEEN)
    for tokens, feature_acts, mask in encoded(run, trained):
        seen.update(tokens, feature_acts, mask)

    def text(token: int) -> str:
        return token_text(tokenizer, token)

    found = {}
    for feature in seen.result():
        distinct = {tuple(c.tokens): c for c in reversed(feature.contexts)}  # of equal ones the strongest, last
        strongest = sorted(distinct.values(), key=lambda c: -max(c.activations))[:N_CONTEXTS]
        found[feature.feature] = {
            "density": feature.density,
            "top5_token_share": feature.top5_share,
            "top_tokens": [[text(token), share] for token, share in feature.token_shares[:5]],
            "contexts": [
                {"tokens": [text(t) for t in c.tokens], "values": list(c.activations), "trace": c.prompt_id}
                for c in strongest
            ],
        }
    return found


# -- probe -------------------------------------------------------------------------------------------------------


def judged(run: Run) -> tuple[list[Trace], list[Tensor]]:
    """Training traces with a verdict and a text, and their activations at the site."""
    pairs = zip(data.load(run, "train"), data.responses(run, site(run)), strict=True)
    kept = [(t, acts) for t, acts in pairs if t.correct is not None and len(acts)]
    return [t for t, _ in kept], [acts for _, acts in kept]


def probe(run: Run) -> dict[str, Any]:
    """Right or wrong from the mean state of what the model wrote, beside length, steps and style alone."""
    found, acts = judged(run)
    try:
        return _probe(run, found, acts)
    except DataError as error:
        return {"dropped": error.message}


def _probe(run: Run, found: list[Trace], acts: list[Tensor]) -> dict[str, Any]:
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
        "site": str(site(run)),
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


# -- topology ----------------------------------------------------------------------------------------------------


def topology(run: Run) -> dict[str, Any]:
    """Persistent entropy of each trajectory at matched length, and whether it says more than length does."""
    found, acts = judged(run)
    if not found:
        found = data.load(run, "train")
        acts = data.responses(run, site(run))
    n_points = run.config["topology"]["n_points"]
    long_enough = [i for i, a in enumerate(acts) if len(a) >= n_points]
    if len(long_enough) < 10:
        return {"dropped": f"only {len(long_enough)} of {len(acts)} traces have {n_points} tokens"}
    matched = trace_frame([acts[i] for i in long_enough], n_points=n_points, dims=(0, 1))
    raw = trace_frame([acts[i] for i in long_enough], dims=(0,))
    lengths = np.array([len(acts[i]) for i in long_enough], dtype=float)
    result: dict[str, Any] = {
        "dropped": None,
        "site": str(site(run)),
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
