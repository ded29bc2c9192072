"""Every analysis, or those that are named, each in a process and a folder of its own, and one table over them.

    python analyses/all.py                                      one after another
    python analyses/all.py quick=true launcher=ray workers=4    four at once, on Ray (docs/guides/cluster.md)
    python analyses/all.py planted_mechanisms style_or_skill seeds=5

key=value goes to all of them; out= (by default runs/analyses) is where their folders lie. Beside these runs.csv, runs.md
and runs.html say how many claims of each hold. One that fails is named, its folder's log.txt says why, and the others go
on; started again each goes on where it was. Exit status: 0, 1 where one failed, 2 for a mistake in what was given.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import HERE, OUTCOMES, read_answer, resolve
from running import RUNS

from mechsteer.cluster import Work, workers
from mechsteer.errors import ConfigError, MechsteerError
from mechsteer.files import folder_lock
from mechsteer.studies.cell import DONE, FAILURES, STATUS, failed
from mechsteer.studies.spread import AT_ONCE, RAY
from mechsteer.studies.sweep import write_table

KEYS = {"launcher": "local", "workers": str(AT_ONCE), "out": str(RUNS)}
LOG = "log.txt"


def known() -> list[str]:
    """The analyses that there are."""
    return sorted(path.parent.name for path in HERE.glob("*/run.py"))


def asked(arguments: Sequence[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """(analyses, key=value for each, launcher / workers / out). Raises ConfigError before any of them runs."""
    names = [each for each in arguments if "=" not in each] or known()
    if unknown := [name for name in names if name not in known()]:
        raise ConfigError(f"no analysis {unknown[0]!r}", f"there are {known()}")
    own, given = dict(KEYS), []
    for each in arguments:
        key, equals, value = each.partition("=")
        if key in own and equals:
            own[key] = value
        elif equals:
            given.append(each)
    if own["launcher"] not in ("local", RAY):
        raise ConfigError(f"launcher is {own['launcher']!r}", f"give local or {RAY}")
    if not own["workers"].isdigit() or int(own["workers"]) < 1:
        raise ConfigError(f"workers is {own['workers']!r}", "give at least 1")
    for name in names:
        resolve(HERE / name, given)
    return list(dict.fromkeys(names)), given, own


def run_one(folder: Path, given: Sequence[str], root: Path) -> dict[str, Any]:
    """A row of the table: "done" and how many claims came out how, or "failed: why"."""
    out = root / folder.name
    out.mkdir(parents=True, exist_ok=True)
    places = [f"study={out / 'study'}"] if root != RUNS and "study" in resolve(folder, given)[0] else []
    command = [sys.executable, str(folder / "run.py"), *given, *places, f"out={out}"]
    with (out / LOG).open("w", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        told = (out / LOG).read_text("utf-8", errors="replace").splitlines()
        said = [line for line in told if line.startswith("error: ")] or [line for line in told if line.strip()]
        why = said[-1].removeprefix("error: ") if said else f"exit status {ended.returncode}"
        return {STATUS: f"failed: {why[:200]}"}
    counted = Counter(each.outcome for each in read_answer(out / "answer.json").settled)
    return {STATUS: DONE, **{outcome: counted[outcome] for outcome in OUTCOMES}}


def analysis_maker(setup: Mapping[str, Any]) -> Callable[[str], dict[str, Any]]:
    """On a worker: what runs the analysis of a name."""
    return lambda name: run_one(Path(setup["analyses"]) / name, setup["given"], Path(setup["root"]))


def rows(names: Sequence[str], given: Sequence[str], own: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of an analysis, its row) as they end. The caller holds the folder."""
    root = Path(own["out"])
    if own["launcher"] != RAY:
        for number, name in enumerate(names):
            print(f"{name} ... (how it goes: {root / name / LOG})", flush=True)
            yield number, run_one(HERE / name, given, root)
        return
    setup = {"analyses": str(HERE), "given": list(given), "root": str(root)}
    own_file = Path(__file__).resolve()
    make = f"{own_file.stem}:analysis_maker"
    work = Work(make=make, setup=setup, folder=root, paths=(str(own_file.parent),))
    with workers(root, int(own["workers"])) as pool:
        for number, answer in pool.each(work, list(names)):
            if answer.error is not None and not isinstance(answer.error, FAILURES):
                raise answer.error
            yield number, answer.value if answer.error is None else failed(answer.error)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(each in ("-h", "--help") for each in arguments):
        print(__doc__)
        return 0
    found: dict[int, dict[str, Any]] = {}
    try:
        names, given, own = asked(arguments)
        root, planned = Path(own["out"]), [{"analysis": name} for name in names]
        with folder_lock(root):
            for number, row in rows(names, given, own):
                found[number] = {"analysis": names[number], **row}
                print(f"{names[number]} {row[STATUS]}", flush=True)
                in_order = [found[i] for i in sorted(found)]
                write_table(root, in_order, title="mechsteer analyses", planned=planned)
    except MechsteerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"table: {root / 'runs.csv'}\nreport: {root / 'runs.html'}")
    return 1 if any(row[STATUS] != DONE for row in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
