"""Run an analysis again from its answer.json and say, claim by claim, whether it comes out the same.

    python analyses/verify.py planted_mechanisms      again, with the settings of the answer
    python analyses/verify.py planted_mechanisms --answer runs/analyses/planted_mechanisms/answer.json    one of your own
    python analyses/verify.py --tables                write the generated parts of the READMEs again, run nothing

same          the same outcome, and the value within the claim's tolerance
different     another outcome or value, on the same processor and versions, or beyond both intervals
undecidable   it differs, and so do processor or versions, while the intervals meet: that amplifies last bits; or the
              claim has no answer yet

Everything is computed again, in runs/analyses/NAME-again; only a verification that was interrupted goes on where it stopped.
Exit status: 0 all the same, 1 something is different, 3 something is undecidable.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import HERE, OWN, Answer, Settled, interval, read_answer, resolve
from pages import answers, write_readmes
from running import RUNS, settle

from mechsteer.errors import ConfigError, MechsteerError


def compare(before: Settled, after: Settled, *, same_machine: bool) -> str:
    """ "same", "different" or "undecidable": see the module."""
    old, new = before.finding, after.finding
    if before.outcome == "not run yet":
        return "undecidable"
    undefined = old.value != old.value and new.value != new.value
    close = undefined or abs(old.value - new.value) <= before.claim.tolerance
    if close and before.outcome == after.outcome:
        return "same"
    meets = old.low <= new.high and new.low <= old.high
    return "undecidable" if meets and not same_machine else "different"


PLACES = ("study",)
"""settings that say where something is kept: again means elsewhere, or what was kept would be read back"""


def verify(name: str, out: str | None = None, answer: str | None = None) -> list[tuple[Settled, Settled, str]]:
    """Every claim before and after, with the verdict.

    Raises ConfigError for an unknown analysis, for an answer that is of another one or of other claims or settings than it now
    has, and where the run again would write over the answer. FileFormatError where the answer cannot be read.
    """
    folder = HERE / name
    if not (folder / "run.py").is_file():
        known = sorted(path.parent.name for path in HERE.glob("*/run.py"))
        raise ConfigError(f"no analysis {name!r}", f"there are {known}")
    path = Path(answer) if answer else folder / "answer.json"
    before, module = read_answer(path), load(folder)
    _still_asked(before, module, folder, path)
    again = Path(out) if out else RUNS / f"{name}-again"
    if (again / "answer.json").resolve() == path.resolve():
        raise ConfigError(f"{path} is what would be written again", "give another out, or another answer")
    if (again / "answer.json").is_file():  # a verification that came to its end
        shutil.rmtree(again)
    settings = before.settings | {key: str(again / key) for key in PLACES if key in before.settings}
    after, _ = settle(folder, module.CLAIMS, module.measure, settings, OWN | {"out": str(again)})
    is_same = same_machine(before, after)
    pairs = zip(before.settled, after.settled, strict=True)
    return [(old, new, compare(old, new, same_machine=is_same)) for old, new in pairs]


def _still_asked(before: Answer, module: ModuleType, folder: Path, path: Path) -> None:
    anew = f"run it anew: python analyses/{folder.name}/run.py"
    if before.analysis != folder.name:
        raise ConfigError(f"{path} answers {before.analysis}", f"verify that one: verify.py {before.analysis}")
    if [each.claim for each in before.settled] != list(module.CLAIMS):
        raise ConfigError(f"{path} answers other claims than {folder.name} makes now", anew)
    known = set(resolve(folder, [])[0])
    if set(before.settings) != known:
        other = sorted(set(before.settings) ^ known)
        raise ConfigError(f"the settings of {path} and of {folder.name} now differ in {other}", anew)


def same_machine(before: Answer, after: Answer) -> bool:
    """Processor, versions, model and data are the same."""
    return all(getattr(before, name) == getattr(after, name) for name in ("processor", "versions", "model", "data"))


def load(folder: Path) -> ModuleType:
    """The run.py of a folder as a module."""
    spec = importlib.util.spec_from_file_location(f"analysis_{folder.name}", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--answer", metavar="FILE", help="instead of the folder's answer.json")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args(argv)
    try:
        if options.tables:
            for answer in answers():
                write_readmes(HERE / answer.analysis, answer)
            return 0
        if options.name is None:
            parser.error("name an analysis")
        found = verify(options.name, answer=options.answer)
    except MechsteerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for old, new, told in found:
        print(f"{told:<12} {old.claim.key:<22} {interval(old.finding)} -> {interval(new.finding)}")
    verdicts = {told for *_, told in found}
    return 1 if "different" in verdicts else 3 if "undecidable" in verdicts else 0


if __name__ == "__main__":
    raise SystemExit(main())
