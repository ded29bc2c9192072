"""One trained vector: more right, or only more careful, and which few directions carry it? See README.md.

python analyses/style_or_skill/run.py seeds=5 model=pocket
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import Cells, Claim, Finding, Found, pooled, within_and_switch
from running import main

from mechsteer.attribution import EffectAttribution, attribute_effect
from mechsteer.bases import from_sae
from mechsteer.configs.settings import explicit
from mechsteer.evaluation import Evaluation, base_arm, evaluate, forced_arms, pool_seeds, treated_arm
from mechsteer.steering.interventions import Steering, writing
from mechsteer.studies.contexts import contexts
from mechsteer.studies.graph import STAGES, Declaration
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.study import finish, opened

MARGIN = 0.03  # of accuracy: less would not matter
SOURCE = "Sinii et al. 2025, arXiv 2505.18706: trained bias vectors alone raise reasoning accuracy"

CLAIMS = (
    Claim(
        key="more right",
        text="One trained vector makes a model solve more problems",
        source=SOURCE,
        decides="accuracy on held-out problems, treated − base, pooled over adapter seeds: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="skill",
        text="It reasons better: within one and the same style of writing, too, it solves more",
        source=SOURCE,
        decides="treated − base within styles (both written in the same style), pooled over adapter seeds: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="style",
        text="It makes the model write in its more careful style more often, and that alone solves more",
        source="doubt about the claim above",
        decides="treated − base less the effect within styles, pooled over adapter seeds: at least .03",
        bound=MARGIN,
    ),
    Claim(
        key="few features carry it",
        text="A few features of a sparse autoencoder carry a steering vector's effect",
        source="common practice: the top features of a steering vector explain it",
        decides="sufficiency of the first 16 on other contexts, less that of meaningless bases, pooled: above 0",
        bound=0.0,
        tolerance=0.1,
    ),
    Claim(
        key="the same features",
        text="Another training of the same vector is carried by the same features",
        source="common practice: features found once are spoken of as those of the behaviour",
        decides="share of the first 8 features that two adapter seeds have in common, mean over pairs: at least .5",
        bound=0.5,
        tolerance=0.15,
    ),
)


def measure(settings: Mapping[str, Any], cells: Cells) -> Found:
    """One study with several adapter seeds; every seed's vector is evaluated within styles, and attributed."""
    given = [f"{key}={settings[key]}" for key in ("preset", "model", "data") if settings[key]]
    given += [f"out={settings['study']}", f"adapter.seeds={settings['seeds']}", "sae.seeds=1"]
    with opened(explicit(None, [*given, f"evaluate.n_problems={settings['n_problems']}"]), progress=True) as run:
        needed = ("traces", "capture", "train", "sae")
        keys = tuple(dict.fromkeys(itertools.chain(*(STAGES[n].keys for n in (*needed, "evaluate", "attribute")))))
        desk, results = run.handed(Declaration(about="style or skill", reads=needed, keys=keys), "style-or-skill")
        kept, problems = Kept(desk), Problems(desk, results["traces"].metric)
        steerings = [Steering(writing(steering)) for steering in kept.steerings(results["train"])]
        seen = contexts(desk, kept, problems, settings["n_contexts"])
        key = {"of": run.fingerprint, "settings": {k: v for k, v in settings.items() if k != "study"}}
        basis, data = from_sae(kept.sae(results["sae"].site)), results["train"].fitted[0].data_hash
        key |= {"trained on": data, "site": str(results["sae"].site)}
        found: list[tuple[Evaluation, EffectAttribution]] = []
        for i, steering in enumerate(steerings):

            def evaluated(steering: Steering = steering) -> dict[str, Any]:
                task = problems.task("test", settings["n_problems"])
                arms = [base_arm(), treated_arm(steering), *forced_arms(steering, problems.openings())]
                scored = evaluate(desk.model, arms, problems.scoring(task), task.items, progress=True)
                return scored.without_texts().to_dict()

            def attributed(steering: Steering = steering) -> dict[str, Any]:
                options = {"k": sorted({1, 4, settings["k"]}), "groups": seen.groups, "site": results["sae"].site}
                options |= {"nulls": settings["nulls"], "nulls_run": min(20, settings["nulls"]), "progress": True}
                return attribute_effect(desk.model, steering, seen.prompts, basis, seen.metric, **options).to_dict()

            found.append(
                (
                    Evaluation.from_dict(cells.of(key | {"evaluated": i}, evaluated)),
                    EffectAttribution.from_dict(cells.of(key | {"attributed": i}, attributed)),
                )
            )
        model = run.fingerprint
        finish(run)
    rows = _rows(found, settings)
    return Found(
        findings=_findings(found, settings),
        model=model,
        data={"training samples": data},
        links=("study/report.html",),
        figures={"per seed": rows},
        tables={"Every adapter seed": rows},
    )


def _findings(found: Sequence[tuple[Evaluation, EffectAttribution]], settings: Mapping[str, Any]) -> dict[str, Finding]:
    evaluations, attributions, n = [e for e, _ in found], [a for _, a in found], len(found)
    treated = [each.treated.scored for each in evaluations if each.treated is not None]
    whole = pool_seeds([each.base.scored for each in evaluations], treated).mean
    parts = [_parts(each) for each in evaluations]
    beyond, switch = ([part[i] for part in parts] for i in (0, 1))
    rows = [each.check.set_index("k").loc[settings["k"]] for each in attributions if not each.nothing_to_attribute]
    more = [(row["beyond_null"], (row["beyond_null_high"] - row["beyond_null_low"]) / 3.92) for row in rows]
    tops = [set(each.order[: settings["n_top"]].tolist()) for each in attributions]
    shared = [len(a & b) / settings["n_top"] for a, b in itertools.combinations(tops, 2)]
    features = len(attributions[0].labels)
    nulls = ", ".join(f"{row['null_sufficiency']:.2f}" for row in rows)
    return {
        "more right": Finding(
            value=whole.value, low=whole.low, high=whole.high, n_seeds=n, null="the same accuracy: 0"
        ),
        "skill": pooled(beyond, n, "no effect within styles: 0"),
        "style": pooled(switch, n, "no switch: 0"),
        "few features carry it": pooled(more, n, f"the first {settings['k']} of meaningless bases recover {nulls}"),
        "the same features": pooled(
            [(value, 0.0) for value in shared],
            n,
            f"two random sets of {settings['n_top']}: {settings['n_top'] / features:.3f}",
        ),
    }


def _parts(evaluation: Evaluation) -> tuple[tuple[float, float], tuple[float, float]]:
    return within_and_switch(None if evaluation.verdict is None else evaluation.verdict.within)


def _rows(found: Sequence[tuple[Evaluation, EffectAttribution]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for i, (evaluation, attribution) in enumerate(found):
        (beyond, _), (switch, _) = _parts(evaluation)
        check = attribution.check.set_index("k").loc[settings["k"]]
        rows.append(
            {
                "seed": i,
                "base": evaluation.base.score,
                "treated": evaluation.treated.score if evaluation.treated is not None else math.nan,
                "within styles": beyond,
                "switch of style": switch,
                "sufficiency": float(check["sufficiency"]),
                "meaningless bases": float(check["null_sufficiency"]),
                "first features": " ".join(
                    attribution.labels[j] for j in attribution.order[: settings["n_top"]].tolist()
                ),
            }
        )
    return rows


if __name__ == "__main__":
    raise SystemExit(main(__file__, CLAIMS, measure))
