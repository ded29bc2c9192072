"""Damage every kind of file that mechsteer writes, and count what comes of loading it.

    python scripts/fuzz.py                              10,000 damaged copies of each kind (about an hour)
    python scripts/fuzz.py steering sae --n 300 --seed 1   some kinds, fewer of them

Prints, per kind, how many were refused by an error of mechsteer, loaded equal to what was saved, ended in a traceback, or
loaded as something else; exits with 1 if there are any of the last two (of folders that sae_lens wrote: of tracebacks).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import damage  # pyright: ignore[reportMissingImports]  # the path is set above

UNCHECKED = ("foreign-sae",)  # no digest: a changed number is a number


def main() -> None:
    parser = argparse.ArgumentParser(description="Damage files and load them.")
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(damage.CASES)}; default: all")
    parser.add_argument("--n", type=int, default=10_000, help="damaged copies of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    unknown = set(arguments.kinds) - set(damage.CASES)
    if unknown:
        parser.error(f"no kind {sorted(unknown)}; choose from {', '.join(damage.CASES)}")
    warnings.simplefilter("ignore")
    failed = False
    for kind in arguments.kinds or damage.CASES:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            counts = damage.counted(kind, Path(folder) / kind, arguments.n, arguments.seed)
        failed |= bool(counts.traceback or (counts.wrong and kind not in UNCHECKED))
        print(f"{kind}: {counts} ({time.perf_counter() - began:.0f} s)", *counts.examples, sep="\n", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
