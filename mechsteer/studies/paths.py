"""Stage paths: through which heads and MLPs the effect of the steering reaches the logits."""

from __future__ import annotations

from mechsteer.attribution import attribute_paths
from mechsteer.errors import ConfigError
from mechsteer.steering.interventions import Steering, writing
from mechsteer.studies.attribute import stream_site
from mechsteer.studies.contexts import contexts
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.results import PathsResult, TracesResult, TrainResult


def paths(desk: Desk, traces: TracesResult, train: TrainResult) -> PathsResult:
    """Heads, MLPs and edges behind the steering's last site in the residual stream; each claim by holding it."""
    kept, problems = Kept(desk), Problems(desk, traces.metric)
    steering = Steering(writing(kept.steering()))
    seen, site = contexts(desk, kept, problems, desk.settings.attribute.n_paths), stream_site(desk.model, steering)
    if site is None:
        return PathsResult(metric=seen.named, dropped="the adapter does not write into the residual stream")
    try:
        found = attribute_paths(
            desk.model, steering, seen.prompts, seen.metric, site=site, seed=desk.seed("paths"), progress=desk.progress
        )
    except ConfigError as error:  # an architecture whose parts cannot be held apart
        return PathsResult(metric=seen.named, dropped=error.message)
    return PathsResult(metric=seen.named, paths=found)
