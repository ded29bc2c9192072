"""`--multirun key=a,b,c`: one study per combination, each in a folder of its own, and one table over all.

`--ablate`: one configuration per row instead, which differs from the first in one key alone; seeds are crossed with all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import cells, explicit
from mechsteer.errors import MechsteerError
from mechsteer.files import write_atomically
from mechsteer.report import Block, Note, Report, Section, Text
from mechsteer.report import Table as TableBlock
from mechsteer.studies.graph import STAGES, before
from mechsteer.studies.over_seeds import LEAST, few_seeds, over_seeds
from mechsteer.studies.page import StageResults
from mechsteer.studies.run import Run, Say
from mechsteer.studies.study import complete, finish, opened, stage

# what a machine, a model or a disk does to one run; a bug of ours is not hidden behind a row of a table
FAILURES = (MechsteerError, RuntimeError, OSError, MemoryError)
LONGEST = 120  # characters of a folder's name
MANY_SITES = 4  # that a table names no more one by one


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The table of a sweep as files, and the folders whose runs failed."""

    csv: Path
    report: Path
    rows: tuple[Mapping[str, Any], ...]
    failed: tuple[str, ...]


def sweep(
    overrides: Sequence[str],
    *,
    until: str | None = None,
    progress: bool = False,
    say: Say | None = None,
    again: bool = False,
    one_by_one: bool = False,
) -> Sweep:
    """Run every combination of the swept keys, up to a stage or as whole studies, and write runs.csv, .md, .html.

    `one_by_one`: see `cells`. Where seeds are swept, over-seeds.csv has a row per configuration.

    A run that is done is read back, one that was interrupted goes on, one that fails is named and the others run.
    Raises ConfigError where nothing is swept, or for a mistake in any combination, before the first one runs.
    """
    say = say or (lambda _text: None)
    runs = [(swept, explicit(None, cell)) for swept, cell in cells(overrides, one_by_one=one_by_one)]
    planned = [swept for swept, _ in runs]
    root = Path(runs[0][1].get("out", Settings().out))
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for number, (swept, given) in enumerate(runs, start=1):
        name = folder_name(swept)
        say(f"run {number} of {len(runs)}: {name}")
        row: dict[str, Any] = {**swept, "folder": name, "status": "done"}
        anew = () if not again else STAGES if until is None else {until}
        try:
            with opened({**given, "out": str(root / name)}, progress=progress, say=say, again=set(anew)) as run:
                if until is None:
                    complete(run)
                else:
                    stage(run, until)
                    finish(run)
                row |= headline(run, until)
        except FAILURES as error:
            row["status"] = f"failed: {first_line(error)}"
            failed.append(name)
            say(f"{name} {row['status']}")
        rows.append(row)
        write_table(root, rows, title=f"mechsteer sweep: {', '.join(swept)}", planned=planned)
    return Sweep(csv=root / "runs.csv", report=root / "runs.html", rows=tuple(rows), failed=tuple(failed))


def first_line(error: BaseException) -> str:
    """What an error says first; its kind where it says nothing.

    >>> first_line(ValueError()), first_line(ValueError("no\\nmore"))
    ('ValueError', 'no')
    """
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def folder_name(swept: Mapping[str, str]) -> str:
    """A folder's name for a combination: its keys and values, shortened with a digest where that is long or odd.

    >>> folder_name({"seed": "1", "adapter.lr": "0.1"})
    'seed=1,adapter.lr=0.1'
    """
    told = ",".join(f"{key}={value}" for key, value in swept.items())
    safe = re.sub(r"[^\w.=,+-]+", "_", told)
    if safe == told and len(told) <= LONGEST:
        return told
    return f"{safe[:LONGEST]}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


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


def write_table(
    root: Path, rows: Sequence[Mapping[str, Any]], *, title: str, planned: Sequence[Mapping[str, str]]
) -> None:
    """runs.csv, runs.md and runs.html of the runs so far, of all that are `planned`; over-seeds.csv where seeds are swept."""
    n = len(planned)
    frame = pd.DataFrame(list(rows))
    failed = sum(row["status"] != "done" for row in rows)
    write_atomically(root / "runs.csv", frame.to_csv(index=False))
    told = f"{len(rows)} of {n} runs, {failed} failed. Each folder holds its own report."
    report = Report(
        title=title,
        question="What changes from run to run?",
        sections=[
            *_over_seeds(root, rows, planned),
            Section("Runs", [Text(told), TableBlock(frame, caption="One row per run")]),
        ],
    )
    report.save_html(root / "runs.html")
    report.save_markdown(root / "runs.md")


def _over_seeds(root: Path, rows: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, str]]) -> list[Section]:
    """The configurations, mean ± standard deviation over their seeds; nothing where seeds are not swept."""
    table = over_seeds(planned, rows)
    if table is None:
        return []
    write_atomically(root / "over-seeds.csv", table.to_csv(index=False))
    blocks: list[Block] = [TableBlock(table, caption="One row per configuration: mean ± standard deviation over seeds")]
    if few_seeds(planned):
        blocks.insert(0, Note(f"Fewer than {LEAST} seeds: a spread over them says little.", "warning"))
    return [Section("Configurations", blocks)]
