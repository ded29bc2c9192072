"""Running an analysis: settings in, claims measured and decided, answer and report out."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import OWN, Answer, Cells, Claim, Measure, Settled, changed, interval, processor, resolve
from pages import report, write_readmes

from mechsteer.errors import DataError, MechsteerError
from mechsteer.files import digest_of, write_atomically
from mechsteer.results import plain, to_json
from mechsteer.studies.study import versions

RUNS = Path("runs/analyses")


def main(run: str, claims: Sequence[Claim], measure: Measure, argv: Sequence[str] | None = None) -> int:
    """Entry point of a run.py (its `__file__`): exit status 0, or 2 for an error of the user's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    folder = Path(run).resolve().parent
    try:
        settings, own = resolve(folder, arguments)
        answer, out = settle(folder, claims, measure, settings, own)
    except MechsteerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for each in answer.settled:
        print(f"{each.outcome:<24} {each.claim.key:<22} {interval(each.finding)}")
    print(f"\n{out / 'report.html'}")
    return 0


def settle(
    folder: Path,
    claims: Sequence[Claim],
    measure: Measure,
    settings: Mapping[str, Any],
    own: Mapping[str, Any] = OWN,
) -> tuple[Answer, Path]:
    """(answer, its folder): measure, decide, write. Raises DataError for a claim that nothing was found for."""
    out = Path(own["out"] or RUNS / folder.name)
    found = measure(settings, Cells(out / "cells"))
    missing = [claim.key for claim in claims if claim.key not in found.findings]
    if missing:
        raise DataError(f"nothing was found for {missing}", "measure gives a Finding for every claim")
    arguments = ["quick=true"] if own["quick"] else changed(folder, settings)
    answer = Answer(
        analysis=folder.name,
        command=shlex.join(["python", f"analyses/{folder.name}/run.py", *arguments]),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        model=found.model,
        seeds=int(settings["seeds"]),
        settings=dict(settings),
        settings_hash=digest_of(plain(dict(settings))),
        data=found.data,
        versions=versions(),
        processor=processor(),
        settled=tuple(Settled.of(claim, found.findings[claim.key]) for claim in claims),
        figures=plain(found.figures),
    )
    write_atomically(out / "answer.json", to_json(answer) + "\n")
    report(answer, found).save_html(out / "report.html")
    if own["commit"]:
        write_atomically(folder / "answer.json", to_json(answer) + "\n")
        write_readmes(folder, answer)
    return answer, out
