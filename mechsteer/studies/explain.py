"""Stage attribute: what the adapter is made of, and the check of every such claim by running the model."""

from __future__ import annotations

from typing import Any

from mechsteer.attribution import (
    attribute,
    attribute_effect,
    attribute_encoder,
    attribute_logits,
    attribute_maps,
    deltas,
    metrics,
)
from mechsteer.bases import Basis, from_sae, singular, top_tokens
from mechsteer.studies import features
from mechsteer.studies import traces as data
from mechsteer.studies.desk import Desk
from mechsteer.studies.scoring import continuation
from mechsteer.studies.train import adapter


def attribution(run: Desk) -> dict[str, Any]:
    """The adapter in SAE features, singular directions and logits; effect shares, sufficiency and necessity."""
    how, model = run.config["attribute"], run.model
    chosen = adapter(run)
    prompts, continuations, metric, named = contexts(run)
    d = deltas(model, chosen, prompts, continuations=continuations)
    atoms = from_sae(features.sae(run))
    layer = chosen.interventions[0].site.layer
    n_layers = model.cfg.n_layers
    reading = singular(
        model, layers=[n for n in (layer + 1,) if n < n_layers] or [layer], site=chosen.interventions[0].site
    )
    writing = singular(model, maps=("o", "down"), layers=[layer], side="left")
    written, down = one_map(writing)
    readings = {
        "decoder": named_directions(run, attribute(d, atoms, k=max(how["k"])), 10),
        "encoder": named_directions(run, attribute_encoder(d, atoms), 10),
        "read downstream": {name: named_directions(run, att) for name, att in attribute_maps(d, reading).items()},
        "written upstream": {name: named_directions(run, att) for name, att in attribute_maps(d, writing).items()},
        "logits": attribute_logits(model, d).summary(k=12),
    }
    effects = {}
    for name, basis in {"SAE features": atoms, f"singular directions written by {written}": down}.items():

        def effect(basis: Basis = basis) -> dict[str, Any]:
            found = attribute_effect(
                model,
                chosen,
                prompts,
                basis,
                metric,
                k=tuple(how["k"]),
                n_random=how["n_random"],
                integrated=how["integrated"],
                seed=run.seed("attribute"),  # one bootstrap: one total effect, whatever the basis
                progress=run.progress,
            )
            return found.summary(k=12)

        effects[name] = run.piece(name, effect)
        promoted(run, basis, effects[name]["directions"])
    join_features(run, [readings["decoder"]["top"], readings["encoder"]["top"], effects["SAE features"]["directions"]])
    return {
        "metric": named,
        "n_prompts": len(prompts),
        "site": str(d.sites[0]),
        "readings": readings,
        "effects": effects,
    }


def contexts(run: Desk) -> tuple[list[list[int]], list[list[int]] | None, Any, str]:
    """(prompts, continuations, metric, its name): dev problems with the model's own right and wrong traces; or dev prompts."""
    n = run.config["attribute"]["n_prompts"]
    if data.metric(run) == "log_odds":
        _, problems = data.items(run, "dev", n)
        pos, neg = (continuation(run, run.config[name]) for name in ("positive", "negative"))
        shared = next((i for i, (x, y) in enumerate(zip(pos, neg, strict=False)) if x != y), 0)
        ids = [pos[shared], neg[shared]]
        where = "" if len(pos) == len(neg) == 1 else ", at the token where they part"
        prompts = [data.prompt_ids(run, item) + pos[:shared] for item in problems]
        return (
            prompts,
            None,
            metrics.log_odds(*ids),
            f"ln P({run.config['positive']!r}) − ln P({run.config['negative']!r}){where}",
        )
    found = data.load(run, "dev")
    right, wrong = ([t for t in found if bool(t.correct) is verdict] for verdict in (True, False))
    chosen = right[: n - min(n // 2, len(wrong))] + wrong[: n // 2]
    rows = [data.whole(run, t) for t in chosen]
    prompts, targets = [ids[:k] for ids, k in rows], [ids[k:] for ids, k in rows]
    signs = [1.0 if t.correct else -1.0 for t in chosen]
    name = "log-probability of the model's own dev traces, right ones minus wrong ones, nats per trace"
    return prompts, targets, metrics.target_logprob(targets, weights=signs), name


def one_map(basis: Basis) -> tuple[str, Basis]:
    """The `down` map of a union over maps, with its name: one orthonormal block."""
    return next((name, block) for name, block in basis.split().items() if name.startswith("down"))


def join_features(run: Desk, tables: list[list[dict[str, Any]]]) -> None:
    """Put ReasonScore, density, tokens and contexts of each SAE feature into the rows that name it."""
    scores = run.result("reasonscore").get("scores")
    rows = [row for table in tables for row in table]
    seen = features.in_context(run, sorted({row["direction"] for row in rows}))
    for row in rows:
        row |= {"reason_score": None if scores is None else scores[row["direction"]], **seen[row["direction"]]}


def named_directions(run: Desk, att: Any, k: int = 5) -> dict[str, Any]:
    """Shares of the deltas, and the top directions with what the unembedding makes of them."""
    return shares(att) | {"top": promoted(run, att.basis, att.top(k).to_dict("records"))}


def promoted(run: Desk, basis: Basis, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with the tokens that its direction promotes through the unembedding."""
    if rows:
        tokens = top_tokens(run.model, basis.select([row["direction"] for row in rows]), 5)["promoted"]
        for row, found in zip(rows, tokens, strict=True):
            row["promotes"] = list(found)
    return rows


def shares(att: Any) -> dict[str, Any]:
    return {
        "explained": att.explained,
        "residual_norm": att.residual,
        "norm": att.norm,
        "n_tokens": att.n_tokens,
        "expressed": att.expressed,
        "k": att.k,
    }
