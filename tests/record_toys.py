"""Records for tests: one of each kind, with what is hard to keep."""

from __future__ import annotations

from mechsteer.records import (
    ActivationsRecord,
    EvaluationRecord,
    FeatureScoreRecord,
    MetricsRecord,
    RunRecord,
    TraceRecord,
    config_of,
)

RUN = "r" * 32
CONFIG = config_of({"model": "pocket", "seed": 0, "adapter": {"args": {"rank": 4}, "layers": [0.5, 3]}})
HOSTILE = "<script>\n\u2028 \x1b[31m 'quoted\" \\ émoji 🙂"


def run(run_id=RUN, started="2030-01-02T03:04:05.678+00:00"):
    return RunRecord(
        run_id=run_id,
        name="study",
        started=started,
        folder="runs/study",
        model="pocket",
        model_fingerprint="f" * 16,
        config_id=CONFIG.config_id,
        versions={"torch": "2"},
    )


def trace(row, text=HOSTILE, run_id=RUN):
    return TraceRecord(
        run_id=run_id,
        split="train",
        row=row,
        item_id=f"item {row}",
        group="g",
        prompt=HOSTILE,
        text=text,
        correct=[True, False, None][row % 3],
        style=None,
        sample=row,
    )


def one_of_each():
    return [
        CONFIG,
        run(),
        MetricsRecord(run_id=RUN, stage="train", metrics={"loss": 0.1 + 0.2, "none": None, "k": [1, 2]}, seconds=1e-3),
        trace(0),
        ActivationsRecord(
            run_id=RUN, path="a/b", site="resid_post@3", d_model=128, dtype="float32", n_prompts=3, n_tokens=2**40
        ),
        FeatureScoreRecord(
            run_id=RUN, site="resid_post@3", score="reason_score", feature=7, rank=0, value=1 / 3, mu_pos=5e-324
        ),
        EvaluationRecord(
            run_id=RUN, arm="adapter", role="treated", metric="accuracy", n=12, score=0.5, difference=-0.0
        ),
    ]
