"""The court over attributions: planted mechanisms, every competitor, one table.

    python scripts/court.py attribution                                   all families, 20 seeds (minutes)
    python scripts/court.py attribution --seeds 3 --families linear,nulls --competitors default,cosine
    python scripts/court.py attribution --competitors default,mine.module:function   your own against the library's
    python scripts/court.py attribution --programs FOLDER                 with the compiled programs of a folder too

Every case is a function of its family and seed. What the table's columns mean: mechsteer/planted/court.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError, MechsteerError
from mechsteer.planted import COMPETITORS, FAMILIES, TRAINABLE, Trial, bars, judge, plant, summary
from mechsteer.planted.competitors import named

SHOWN = ("recall", "decoys_in_top", "decoy_share", "gap", "claimed", "marked", "calibration", "seconds")
SLOW = ("pocket",)  # only where it is asked for
TIMED = "default with nulls"  # the library's procedure as it comes: its ranking is the default's, its time is more
USUAL = tuple(name for name in COMPETITORS if name != TIMED)
Case = tuple[str, int, str, bool]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and what of the default's figures is met; exit status 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="20", help="how many (0, 1, ...), or FIRST-LAST")
    parser.add_argument("--families", default=",".join(f for f in FAMILIES if f not in SLOW), help=", ".join(FAMILIES))
    parser.add_argument("--competitors", default=",".join(USUAL), help="names, or package.module:function")
    parser.add_argument("--trained", action="store_true", help="trained adapters too, in the families that can")
    parser.add_argument("--programs", help="a folder of compiled programs: each becomes a family")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", help="write all trials to this file")
    options = parser.parse_args(argv)
    try:
        return _main(options)
    except MechsteerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _main(options: argparse.Namespace) -> int:
    competitors = options.competitors.split(",")
    for name in competitors:
        competitor(name)  # unknown ones are told before anything runs
    families = options.families.split(",")
    if options.programs:
        families += [f"program:{path.stem}" for path in sorted(Path(options.programs).glob("*.safetensors"))]
    began = time.perf_counter()
    trials = run(
        families, seeds_of(options.seeds), competitors, trained=options.trained, folder=options.programs,
        processes=options.processes,
    )  # fmt: skip
    table = summary(trials)
    print(shown(table))
    print(f"\n{len(trials)} trials in {time.perf_counter() - began:.0f} s\n")
    found = bars(trials) if "default" in competitors else []
    for bar in found:
        sign = "<=" if bar.at_most else ">="
        told = f"{bar.value:.3f} [{bar.low:.3f}, {bar.high:.3f}] {sign} {bar.wanted:g}"
        print(f"{'met   ' if bar.met else 'missed'}  {bar.family:<11} {bar.dictionary:<13} {bar.what:<24} {told}")
    if options.json:
        text = json.dumps({"trials": [t.to_dict() for t in trials], "bars": [b.to_dict() for b in found]})
        Path(options.json).write_text(text, "utf-8")
    return int(not all(bar.met for bar in found))


def run(
    families: Sequence[str],
    seeds: Sequence[int],
    competitors: Sequence[str],
    *,
    trained: bool = False,
    folder: str | None = None,
    processes: int = 1,
) -> list[Trial]:
    """Every competitor on every case, in the order of families, dictionaries, planted and trained, seeds.

    With "default" the first seed's cases are also timed with the nulls that belong to it. Raises ConfigError.
    """
    if not seeds:
        raise ConfigError("there are no seeds", "give at least one")
    kinds = [(f, d, t) for f, d, t in product(families, ("exact", "overcomplete"), (False, True))]
    kinds = [(f, d, t) for f, d, t in kinds if not t or (trained and f in TRAINABLE)]
    cases: list[Case] = [(f, seed, d, t) for f, d, t in kinds for seed in seeds]
    judged = partial(_judged, competitors=tuple(competitors), timed=seeds[0], folder=folder)
    done = tqdm(_mapped(judged, cases, processes), desc="cases", total=len(cases), leave=False)
    return [trial for found in done for trial in found]


def _mapped(judged: Callable[[Case], list[Trial]], cases: list[Case], processes: int) -> Iterator[list[Trial]]:
    if processes <= 1:
        yield from map(judged, cases)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(judged, cases, chunksize=4)


def _judged(case: Case, competitors: Sequence[str], timed: int, folder: str | None) -> list[Trial]:
    family, seed, dictionary, trained = case
    planted = plant(family, seed, dictionary, trained=trained, folder=folder)
    more = [TIMED] if seed == timed and "default" in competitors and TIMED not in competitors else []
    return [judge(planted, name, competitor(name)) for name in [*competitors, *more]]


def competitor(name: str) -> Any:
    """A shipped competitor by name, anybody's own by "package.module:function". Raises ConfigError."""
    module, colon, function = name.partition(":")
    if not colon:
        return named(name)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"no competitor {name!r}: {error}", "give package.module:function, as Python imports it"
        ) from error


def seeds_of(text: str) -> range:
    """ "20" -> 0 .. 19, "100-119" -> 100 .. 119. Raises ConfigError."""
    first, dash, last = text.partition("-")
    try:
        return range(int(first), int(last) + 1) if dash else range(int(first))
    except ValueError as error:
        raise ConfigError(f"seeds {text!r}", "give a number, or FIRST-LAST") from error


def shown(table: pd.DataFrame) -> str:
    """Means with their intervals, one line per family, dictionary and competitor."""
    out = table[["family", "dictionary", "trained", "competitor", "n_seeds"]].copy()
    out["trained"] = ["trained" if trained else "" for trained in table["trained"]]
    for name in SHOWN:
        low, high = table[f"{name}_low"], table[f"{name}_high"]
        out[name] = [
            "" if pd.isna(v) else f"{v:.2f}" if name == "seconds" else f"{v:.2f} [{a:.2f}, {b:.2f}]"
            for v, a, b in zip(table[name], low, high, strict=True)
        ]
    return out.to_string(index=False)


if __name__ == "__main__":
    raise SystemExit(main())
