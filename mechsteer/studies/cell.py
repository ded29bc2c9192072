"""One run of a sweep: its settings and how far it goes in, the figures that a table over runs has room for out.

All that it makes lies in its own folder. The same run goes in the driver's process or, by its name, on a Ray worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mechsteer.errors import MechsteerError
from mechsteer.studies.graph import STAGES, before
from mechsteer.studies.page import StageResults
from mechsteer.studies.run import Run, Say
from mechsteer.studies.study import complete, finish, opened, stage

# what a machine, a model or a disk does to one run; a bug of ours is not hidden behind a row of a table
FAILURES = (MechsteerError, RuntimeError, OSError, MemoryError)
MANY_SITES = 4  # that a table names no more one by one
STATUS, DONE = "status", "done"


def run_cell(
    given: Mapping[str, Any], until: str | None, *, again: bool, progress: bool = False, say: Say | None = None
) -> dict[str, Any]:
    """{"status": "done", figures} of a study, or of its stages up to one; {"status": "failed: why"} of one that fails."""
    anew = () if not again else STAGES if until is None else {until}
    try:
        with opened(given, progress=progress, say=say, again=set(anew)) as run:
            if until is None:
                complete(run)
            else:
                stage(run, until)
                finish(run)
            return {STATUS: DONE, **as_json(headline(run, until))}
    except FAILURES as error:
        return failed(error)


def failed(error: BaseException) -> dict[str, Any]:
    """What a table says of a run that failed."""
    return {STATUS: f"failed: {first_line(error)}"}


def first_line(error: BaseException) -> str:
    """What an error says first; its kind where it says nothing.

    >>> first_line(ValueError()), first_line(ValueError("no\\nmore"))
    ('ValueError', 'no')
    """
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def as_json(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as they come back from a worker: numpy's as Python's."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in figures.items()}


def cell_maker(setup: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """On a worker: what runs the cell of some settings."""
    return lambda given: run_cell(given, setup["until"], again=setup["again"])


def headline(run: Run, until: str | None) -> dict[str, Any]:
    """The figures of a run that a table over runs has room for."""
    wanted = set(STAGES) if until is None else {until, *before(until)}
    results = StageResults(**{name: result for name, result in run.finished().items() if name in wanted})
    row: dict[str, Any] = {}
    if results.train is not None:
        choice = results.train.choice
        row |= {"site": sites_in_short(choice.chosen.sites), "coeff": choice.chosen.coeff, "KL": choice.strengths.kl}
    if results.evaluate is not None and (main := results.evaluate.evaluation.primary) is not None:
        row |= {"base": main.base_score, "adapter": main.treated_score, "difference": main.difference.value}
        row |= {"low": main.difference.low, "high": main.difference.high, "p": main.p_value}
        judged = results.evaluate.evaluation.verdict
        row["verdict"] = "" if judged is None else judged.kind
    if results.evaluate is not None and (pooled := results.evaluate.seeds) is not None:
        row |= {"over seeds": pooled.mean.value, "seeds low": pooled.mean.low, "seeds high": pooled.mean.high}
    if results.probe is not None and results.probe.evaluation is not None:
        row["probe AUROC within problems"] = results.probe.evaluation.probe.within_group_auroc.value
    if results.sae is not None:
        row["SAE loss recovered"] = results.sae.quality.loss_recovered
    if results.dose is not None:
        own = results.dose.response.methods[0]
        row |= {"effect": own.effect.value, "rho": own.rho, "delta NLL": own.delta_nll, "gain": own.gain}
        row |= {"valid": own.at(1.0).valid, "values shifted": own.breadth}
    return row


def sites_in_short(sites: Sequence[str]) -> str:
    """At most three by name.

    >>> sites_in_short(["resid_post@3"]), sites_in_short(["q_out@1", "k_out@1", "q_out@2", "k_out@2"])
    ('resid_post@3', '4 sites, q_out@1 to k_out@2')
    """
    return " ".join(sites) if len(sites) < MANY_SITES else f"{len(sites)} sites, {sites[0]} to {sites[-1]}"
