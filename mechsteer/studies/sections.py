"""The report's sections on what was measured and explained: attribution, features, probe, topology."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mechsteer.report import Details, Heatmap, Note, Section, Table, Text, decimal, figures

Results = dict[str, Any]

_SAE_METRICS = {
    "l0": "active per token",
    "explained_variance": "explained variance",
    "loss_recovered": "loss recovered",
    "dead_share": "dead features",
    "n_tokens": "tokens",
    "evaluated_on": "measured on",
}


def interval(value: Results | None) -> str:
    if value is None or value.get("value") is None:
        return "undefined"
    return f"{decimal(value['value'])} [{decimal(value['low'])}, {decimal(value['high'])}]"


def p_value(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else decimal(value)


def attribution(result: Results) -> list[Section]:
    readings = result["readings"]
    blocks: list[Any] = [
        Text(
            f"The vector at {result['site']}, over {result['n_prompts']} contexts. Metric of the effect: {result['metric']}."
        )
    ]
    shares = [
        {"reading": name, **_share_row(r)}
        for name, r in (("SAE decoder (sparse code)", readings["decoder"]), ("SAE encoder", readings["encoder"]))
    ]
    shares += [
        {"reading": f"singular directions read by {name}", **_share_row(r)}
        for name, r in readings["read downstream"].items()
    ]
    shares += [
        {"reading": f"singular directions written by {name}", **_share_row(r)}
        for name, r in readings["written upstream"].items()
    ]
    blocks.append(
        Table(
            pd.DataFrame(shares),
            caption="How much of the delta each reading explains; components + residual = delta in all of them",
        )
    )
    for name, key in (("SAE features by the decoder", "decoder"), ("SAE features by the encoder", "encoder")):
        blocks.append(
            Table(
                _directions(readings[key]["top"]),
                caption=f"{name}: the directions with the most energy",
            )
        )
    logits = readings["logits"]
    words = pd.DataFrame({"promoted": _tokens(logits["promoted"]), "suppressed": _tokens(logits["suppressed"])})
    blocks.append(
        Table(words, caption="Direct effect on logits: the tokens raised and lowered most, mean change in logit units")
    )
    for name, effect in result["effects"].items():
        blocks.append(
            Text(f"{name[0].upper()}{name[1:]}. The whole adapter changes the metric by {_total(effect)} nats.")
        )
        if effect["nothing_to_attribute"]:
            blocks.append(Note(f"There is nothing to attribute: {effect['reason']}."))
            continue
        blocks += [
            Table(_contributions(effect), caption=_reading(effect)),
            _recovery(name, effect),
            _check(name, effect),
        ]
        if contexts := [block for row in effect["directions"][:4] for block in _contexts(row["label"], row)]:
            blocks.append(Details("The directions with the largest shares, in context", contexts))
        blocks.append(
            Details(
                f"The check in figures ({name})",
                [
                    Table(
                        pd.DataFrame(effect["check"]),
                        caption="Recovered share of the effect: kept alone (sufficiency), removed (necessity), beside random controls",
                    )
                ],
            )
        )
    singular = [
        Table(_directions(r["top"]), caption=f"{name}")
        for part in ("read downstream", "written upstream")
        for name, r in readings[part].items()
    ]
    blocks.append(Details("Singular directions, map by map", singular))
    return [Section("What the adapter is made of", blocks)]


def _total(effect: Results) -> str:
    low, high = effect["interval"]
    return interval({"value": effect["total"], "low": low, "high": high})


def _contributions(effect: Results) -> pd.DataFrame:
    rows = effect["directions"][:8]
    return pd.DataFrame(
        [
            {
                "direction": r["label"],
                "coefficient": r["coefficient"],
                "nats": decimal(r["contribution"]),
                "share": decimal(r["share"]),
                **_known(r),
            }
            for r in rows
        ]
    )


def _reading(effect: Results) -> str:
    steps = effect["settings"]["integrated"]
    how = f"integrated gradients ({steps} steps)" if steps else "gradient at the unsteered run"
    return (
        f"Directions with the largest share of the effect: {how} x delta. "
        f"The whole delta adds up to {decimal(effect['linear'])} nats this way; what no direction holds has a share of "
        f"{decimal(effect['residual_share'])}"
    )


def _check(name: str, effect: Results) -> Text:
    """The check at the largest k in words, controls beside the claim."""
    row = effect["check"][-1]
    claim = " and ".join(
        f"{label} {interval({'value': row[key], 'low': row[f'{key}_low'], 'high': row[f'{key}_high']})}"
        for key, label in (("sufficiency", "kept alone they recover"), ("necessity", "removed they take away"))
    )
    return Text(
        f"The top {row['k']} of the {name}: {claim} of the effect. Controls: {row['k']} random ones recover "
        f"{decimal(row['random_sufficiency'])} and take away {decimal(row['random_necessity'])}; a random direction of the "
        f"same norm recovers {decimal(row['matched_norm_random'])}."
    )


def _recovery(name: str, effect: Results) -> Any:
    check = pd.DataFrame(effect["check"]).astype(float)
    return figures.recovery_curve(
        check["k"],
        check["sufficiency"],
        check["necessity"],
        (check["random_sufficiency_low"], check["random_sufficiency_high"]),
        title=f"Does keeping or removing the top {name} keep or remove the effect?",
        caption=f"The model really ran with the edited vector. Band: k random directions of the basis, {effect['settings']['n_random']} draws.",
    )


def _share_row(reading: Results) -> Results:
    return {
        "explained share": reading["explained"],
        "residual norm": reading["residual_norm"],
        "delta norm": reading["norm"],
        "expressed": reading["expressed"],
        "atoms": "all" if reading["k"] is None else str(reading["k"]),
    }


def _directions(rows: list[Results]) -> pd.DataFrame:
    return pd.DataFrame(
        [{"direction": r["label"], "coefficient": r["coefficient"], "energy": r["energy"], **_known(r)} for r in rows]
    )


def _known(row: Results) -> Results:
    """What is known of a direction: of a feature also its ReasonScore, density and the tokens it fires on."""
    found = {"ReasonScore": row["reason_score"], "density": row["density"]} if "density" in row else {}
    if "density" in row:
        found["fires on"] = spoken([t for t, _ in row["top_tokens"][:3]])
    return found | {"promotes": spoken(row["promotes"][:3])}


def _contexts(name: str, feature: Results) -> list[Heatmap]:
    return [
        Heatmap(
            c["tokens"],
            c["values"],
            caption=f"{name} in trace {c['trace']}: activation per token",
            label="activation",
        )
        for c in feature.get("contexts", [])[:2]
    ]


def spoken(tokens: list[str]) -> str:
    return " ".join(map(repr, tokens))


def _tokens(rows: list[Results]) -> list[str]:
    return [f"{row['token']!r} {'+' if row['direct'] >= 0 else ''}{decimal(row['direct'])}" for row in rows]


def features(result: Results, sae: Results) -> list[Section]:
    metrics = pd.DataFrame([{name: sae["metrics"].get(key) for key, name in _SAE_METRICS.items()}])
    blocks: list[Any] = [Table(metrics, caption=f"The sparse autoencoder at {sae['site']}")]
    if result["dropped"]:
        return [Section("Features of reasoning", [*blocks, Note(f"No ReasonScore: {result['dropped']}.")])]
    counts = pd.DataFrame([{"word": k, "matches": v} for k, v in result["counts"].items()])
    rows = [
        {
            "feature": f"f{f['feature']}",
            "ReasonScore": f["score"],
            "density": f["density"],
            "mass on 5 tokens": f["top5_token_share"],
            "fires on": spoken([t for t, _ in f["top_tokens"]]),
        }
        for f in result["top"]
    ]
    blocks += [
        Table(
            pd.DataFrame(rows),
            caption="Features with the highest ReasonScore. A feature whose mass sits on five tokens detects these tokens, not reasoning.",
        ),
        figures.score_histogram(
            np.array(result["scores"]),
            cutoff=result["cutoff_0.997"],
            title="ReasonScore of all features",
            caption=f"Window −{result['window'][0]}/+{result['window'][1]} tokens, alpha {result['alpha']}; line: quantile 0.997.",
        ),
        Details("Matches per word", [Table(counts, caption="How often each reasoning word occurs in the traces")]),
    ]
    for feature in result["top"][:4]:
        blocks += _contexts(f"f{feature['feature']}", feature)
    return [Section("Features of reasoning", blocks)]


def probe(result: Results) -> list[Section]:
    if result["dropped"]:
        return [Section("Probe of right and wrong", [Note(f"No probe: {result['dropped']}.")])]
    rows = [
        ("probe", result["probe"]),
        *((k.replace("n_steps", "number of steps"), v) for k, v in result["baselines"].items()),
    ]
    kinds = {"all traces": "auroc", "within problems": "within_group_auroc"}
    table = pd.DataFrame(
        [{"predictor": name, **{label: interval(scores[key]) for label, key in kinds.items()}} for name, scores in rows]
    )
    arms = [
        (
            name,
            scores["within_group_auroc"]["value"],
            (scores["within_group_auroc"]["low"], scores["within_group_auroc"]["high"]),
            "",
        )
        for name, scores in rows
        if scores["within_group_auroc"]["value"] is not None
    ]
    blocks: list[Any] = [
        Text(
            f"Is the answer going to be right? Logistic probe on the {result['pooling']} at {result['site']}; folds hold whole problems. {result['n_samples']} traces, base rate {result['base_rate']:.3f}."
        ),
        Table(
            table,
            caption="AUROC on held-out problems with 95 % intervals; within problems only right and wrong traces of one problem are compared",
        ),
        Text(f"With shuffled labels the probe reaches {interval(result['shuffled'])}."),
    ]
    if arms:
        blocks.insert(
            2,
            figures.bars(
                arms,
                unit="AUROC within problems",
                reference=0.5,
                highlight="probe",
                title="Right or wrong, within problems",
                caption="0.5 is chance; baselines see one number (or the style) per trace.",
            ),
        )
    return [Section("Probe of right and wrong", blocks)]


def topology(result: Results) -> list[Section]:
    if result["dropped"]:
        return [Section("Topology of trajectories", [Note(f"No topology: {result['dropped']}.")])]
    effects = pd.DataFrame(
        [
            {
                "feature": name,
                "alone [95 %]": e.get("dropped") or interval(e["alone"]),
                "beside length and token limit [95 %]": ""
                if e.get("dropped")
                else ("" if e["beside_length"] is None else interval(e["beside_length"])),
            }
            for name, e in result["effects"].items()
        ]
    )
    rank = result["spearman_with_length"]
    correct = result["correct"]
    blocks: list[Any] = [
        Text(
            f"{result['n_traces']} trajectories at {result['site']}, resampled to {result['n_points']} points ({result['n_too_short']} were shorter and are left out). "
            f"Rank correlation of H0 entropy with length: {decimal(rank['raw'])} raw, {decimal(rank['matched'])} at matched length."
        ),
    ]
    if None not in correct:
        blocks.append(
            figures.length_scatter(
                np.array(result["lengths"]),
                np.array([np.nan if v is None else v for v in result["h0_entropy_nats"]["raw"]]),
                np.array(correct, dtype=bool),
                matched_length=result["n_points"],
                title="Raw H0 entropy follows length",
                caption="Each dot is one trace. This is why entropies are compared at matched length only.",
            )
        )
    if len(effects):
        blocks.append(
            Table(
                effects,
                caption="Log-odds of a right answer per standard deviation (logistic regression, intervals resample problems)",
            )
        )
    else:
        blocks.append(Note(f"No claim about right answers: {result.get('effects_dropped', '')}."))
    return [Section("Topology of trajectories", blocks)]
