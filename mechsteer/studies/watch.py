"""`mechsteer watch`: the run's probe at each token while the model writes, told as it goes and as a heatmap."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from mechsteer.errors import ConfigError
from mechsteer.models import tokenize
from mechsteer.probes import OnlineProbe
from mechsteer.report import Report
from mechsteer.report.sections.where import readings
from mechsteer.steering.generated import Step
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Observation
from mechsteer.studies.graph import PROBLEMS, Declaration
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems, room
from mechsteer.studies.results import ProbeResult
from mechsteer.studies.run import Run

READS = Declaration(
    about="a probe while the model writes",
    reads=("traces", "capture", "train", "site", "probe"),
    keys=(*PROBLEMS, "positive", "negative", "watch", "batch_size"),
)
WHAT = (
    "The probability of a right answer as the run's probe reads it off the mean of the states from the first new token on, "
    "minus one half. Tokens of the prompt have none; nor has the last one where the text was cut: no state stands behind it."
)


def watch(run: Run, tell: Callable[[str], None]) -> Path:
    """watch.html: the probe's score per token while the model continues `watch.text` (or the first dev problem).

    `tell` is given each token as it is written, with the score (minus one half) of the text before it. With `watch.steered` the run's steering is on. Raises
    ConfigError where there is no probe, or nothing to steer with.
    """
    desk, results = run.handed(READS, "watch")
    how, result, site = desk.settings.watch, results["probe"], results["site"].site
    probe = online(result)
    if how.steered and results["train"] is None:
        raise ConfigError("nothing is steered in this run", "leave out watch.steered")
    if how.text is not None:
        prompt = tokenize(desk.model, [how.text])[0]
    else:
        prompt = Problems(desk, results["traces"].metric).prompts("dev", 1)[0]
    steering = [Kept(desk).steering()] if how.steered else []

    def told(step: Step) -> None:
        for token, score in zip(step.tokens, step.readings[-1]["probe"].tolist(), strict=True):
            before = "      " if math.isnan(score) else f"{score - 0.5:+.3f}"
            tell(f"{before}  {desk.model.tokenizer.decode([token])!r}")

    out = generate(
        desk.model,
        [prompt],
        [*steering, Observation(probe, site)],
        max_new_tokens=room(desk.model, [prompt], desk.settings.max_new_tokens),
        record=True,
        on_token=told,
    )
    (row,) = out.by_token(desk.model.tokenizer, "probe", intervention=len(out.readings) - 1)
    title = "A probe of right answers while the model writes"
    page = readings([row.tokens], [row.values - 0.5], label="probability minus one half", what=WHAT, title=title)
    report = Report(title=f"mechsteer watch: {site}", sections=page, question=title)
    return report.save_html(run.folder / "watch.html")


def online(result: ProbeResult) -> OnlineProbe:
    """The probe of a run as an observer of probabilities. Raises ConfigError where there is none."""
    if result.direction is None:
        raise ConfigError(f"there is no probe: {result.dropped}", "give problems with answers")
    return OnlineProbe(
        result.direction, result.intercept, scale=result.scale, pooling="mean", since="generated", output="probability"
    )
