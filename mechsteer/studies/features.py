"""Stages sae and reasonscore: an SAE at the site under study, its features of reasoning, features in context."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import DataError, MechsteerWarning
from mechsteer.features import ContextAccumulator, ReasonScoreAccumulator
from mechsteer.features.sae import SAE, encode, load_sae, train_sae
from mechsteer.models import backend_of
from mechsteer.models.sites import Site
from mechsteer.studies import traces as data
from mechsteer.studies.desk import Desk
from mechsteer.tokens import token_text

N_FEATURES, N_CONTEXTS = 8, 4
MEASURED_ON = {"eval_batches": "traces of dev problems", "training stream": "the traces it was trained on"}
N_SEEN = 32  # contexts kept while reading: samples of one problem share its text, which would fill all places


def train(run: Desk) -> dict[str, Any]:
    """sae/: an SAE of the residual stream at the adapter's site, measured on the traces of other problems."""
    how, at = run.config["sae"], data.site(run)
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
        out=run.write("sae"),
        checkpoint_every=100,
        progress=run.progress,
    )
    metrics = {k: v for k, v in trained.metrics.items() if isinstance(v, (int, float, str))}
    rows = others or [data.whole(run, trace)[0] for trace in data.load(run, "train")]
    metrics |= {
        "loss_recovered": loss_recovered(run, trained.sae, at, rows),
        "evaluated_on": MEASURED_ON[trained.metrics["evaluated_on"]],
    }
    return {"site": str(at), "metrics": metrics}


def sae(run: Desk) -> SAE[Any]:
    """The SAE of this run, refused if it is of another model or site."""
    return load_sae(run.read("sae"), fingerprint=run.fingerprint, site=str(data.site(run)))


@torch.no_grad()
def loss_recovered(run: Desk, trained: SAE[Any], at: Site, rows: list[list[int]], n: int = 24) -> float | None:
    """(loss with a zeroed site − loss with the SAE's reconstruction) / (loss with a zeroed site − loss as it is)."""
    backend = backend_of(run.model)
    assert isinstance(at.layer, int)
    name = backend.names.hook_name(at.layer, at.point)
    edits = {
        "as it is": lambda _acts: None,
        "spliced": lambda acts: trained.decode(trained.encode(acts)),
        "zeroed": torch.zeros_like,
    }
    losses = dict.fromkeys(edits, 0.0)
    for row in rows[:n]:
        tokens = torch.tensor([row])
        for how, edit in edits.items():
            remove = backend.runner.attach(name, edit)
            try:
                logits = run.model(tokens)[0, :-1].log_softmax(-1)
            finally:
                remove()
            losses[how] -= float(logits.gather(1, tokens[0, 1:, None]).mean())
    span = losses["zeroed"] - losses["as it is"]
    return (losses["zeroed"] - losses["spliced"]) / span if span > 0 else None


def encoded(run: Desk, trained: SAE[Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(tokens, feature_acts, mask) per batch of training traces."""
    with torch.no_grad():
        for batch in data.store(run)[data.site(run)].batches(64):
            yield batch.tokens, encode(trained, batch.values.float()), batch.mask


def reasonscore(run: Desk) -> dict[str, Any]:
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


def in_context(run: Desk, features: Sequence[int]) -> dict[int, dict[str, Any]]:
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
