"""`--multirun key=a,b,c`: one study per combination, each in a folder of its own, and one table over all.

`--ablate`: one configuration per row instead, which differs from the first in one key alone; seeds are crossed with all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mechsteer.cluster import Work, workers
from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import cells, explicit
from mechsteer.errors import ConfigError
from mechsteer.files import folder_lock, write_atomically
from mechsteer.report import Block, Note, Report, Section, Text
from mechsteer.report import Table as TableBlock
from mechsteer.studies.cell import DONE, FAILURES, STATUS, failed, run_cell
from mechsteer.studies.over_seeds import LEAST, few_seeds, over_seeds
from mechsteer.studies.run import Say
from mechsteer.studies.spread import AT_ONCE, RAY

LAUNCH = ("workers", "launcher", "gpus")  # keys that say how the runs go; the first is a run's own without Ray
CELL = "mechsteer.studies.cell:cell_maker"
LONGEST = 120  # characters of a folder's name


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
    imports: Sequence[str] = (),
) -> Sweep:
    """Run every combination of the swept keys, up to a stage or as whole studies, and write runs.csv, .md, .html.

    `one_by_one`: see `cells`. Where seeds are swept, over-seeds.csv has a row per configuration. With launcher=ray
    runs go on Ray workers, `workers` at once (by default two), each with `gpus` graphics cards and a torch thread of
    its own; `imports` are modules that these import first, which register adapters. The table is the same.

    A run that is done is read back, one that was interrupted goes on, one that fails is named and the others run.
    Raises ConfigError where nothing is swept, or for a mistake in any combination, before the first one runs;
    ClusterError without Ray, or of a cluster that does not fit.
    """
    say = say or (lambda _text: None)
    runs = [(swept, explicit(None, cell)) for swept, cell in cells(overrides, one_by_one=one_by_one)]
    planned = [swept for swept, _ in runs]
    if of_launch := [key for key in LAUNCH if key in planned[0]]:
        raise ConfigError(f"{of_launch[0]} says how all runs go, and is swept", "give one")
    root = Path(runs[0][1].get("out", Settings().out))
    launch = {key: runs[0][1].get(key, getattr(Settings(), key)) for key in LAUNCH}
    names = [folder_name(swept) for swept in planned]
    given = [of_run(own, launch, root / name) for (_, own), name in zip(runs, names, strict=True)]
    if launch["launcher"] == RAY:
        made = by_workers(given, launch, root, {"until": until, "again": again}, imports)
    else:
        made = one_after_another(given, names, until, again=again, progress=progress, say=say)
    rows: dict[int, dict[str, Any]] = {}
    for number, figures in made:
        rows[number] = {**planned[number], "folder": names[number], **figures}
        if launch["launcher"] == RAY or figures[STATUS] != DONE:
            say(f"{names[number]} {figures[STATUS]}")
        in_order = [rows[i] for i in sorted(rows)]
        write_table(root, in_order, title=f"mechsteer sweep: {', '.join(planned[0])}", planned=planned)
    in_order = [rows[i] for i in sorted(rows)]
    left = tuple(row["folder"] for row in in_order if row[STATUS] != DONE)
    return Sweep(csv=root / "runs.csv", report=root / "runs.html", rows=tuple(in_order), failed=left)


def of_run(given: Mapping[str, Any], launch: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of one run, without what says how all go; on a worker a graphics card is whichever it was given."""
    own = {**given, "out": str(folder)}
    for key in LAUNCH if launch["launcher"] == RAY else LAUNCH[1:]:
        own.pop(key, None)
    if launch["launcher"] == RAY and launch["gpus"] > 0:
        own["device"] = "cuda"
    return own


def one_after_another(
    given: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    until: str | None,
    *,
    again: bool,
    progress: bool,
    say: Say,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of a run, its row) in this process."""
    for number, own in enumerate(given):
        say(f"run {number + 1} of {len(given)}: {names[number]}")
        yield number, run_cell(own, until, again=again, progress=progress, say=say)


def by_workers(
    given: Sequence[Mapping[str, Any]],
    launch: Mapping[str, Any],
    root: Path,
    setup: Mapping[str, Any],
    imports: Sequence[str],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of a run, its row) as they end on Ray workers."""
    work = Work(make=CELL, setup=setup, folder=root, imports=tuple(imports), n_gpus=launch["gpus"])
    with folder_lock(root), workers(root, launch["workers"] or AT_ONCE, n_gpus=launch["gpus"]) as pool:
        for number, answer in pool.each(work, [dict(own) for own in given]):
            if answer.error is not None and not isinstance(answer.error, FAILURES):
                raise answer.error
            yield number, answer.value if answer.error is None else failed(answer.error)


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


def write_table(
    root: Path, rows: Sequence[Mapping[str, Any]], *, title: str, planned: Sequence[Mapping[str, str]]
) -> None:
    """runs.csv, runs.md and runs.html of the runs so far, of all that are `planned`; over-seeds.csv where seeds are swept."""
    n = len(planned)
    frame = pd.DataFrame(list(rows))
    n_failed = sum(row[STATUS] != DONE for row in rows)
    write_atomically(root / "runs.csv", frame.to_csv(index=False))
    told = f"{len(rows)} of {n} runs, {n_failed} failed. Each folder holds its own report."
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
