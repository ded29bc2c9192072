"""A probe at every layer of the bundled model and every pooling, on activations that are kept already.

    python scripts/bench_probes.py [--problems 300]

Wanted: at most 30 seconds for all layers (pooling, training and testing of every probe, baselines, the null of the best).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import mechsteer as ms
from mechsteer.probes import TokenCounts, pooled_states, probe_sweep


def bench_sweep(n_problems: int = 300) -> dict[str, Any]:
    """Seconds of a sweep over all layers of pocket; true and false statements, the two of a pair in one group."""
    model = ms.load_model("pocket")
    texts = [text for pair in ms.pocket.contrast_pairs("true", n_problems, seed=0) for text in pair]
    y, groups = np.array([1, 0] * n_problems), np.repeat(np.arange(n_problems), 2)
    rows = ms.models.tokenize(model, texts)
    with tempfile.TemporaryDirectory() as folder:
        sites = list(range(model.cfg.n_layers))
        store = ms.capture(model, rows, sites, path=Path(folder) / "store", batch_size=64, progress=False)
        start = time.perf_counter()
        states = pooled_states(store)
        pooled = time.perf_counter() - start
        baselines = {"length": np.array([len(row) for row in rows], float), "tokens": TokenCounts(rows)}
        result = probe_sweep(states, y, groups, baselines=baselines)
        seconds = time.perf_counter() - start
    return {
        "layers": len(sites),
        "cells": len(result.cells),
        "texts": len(texts),
        "seconds": round(seconds, 2),
        "of_which_pooling": round(pooled, 2),
        "wanted": 30,
        "best": f"{result.best.pooling} at {result.best.site}, {result.best.scores.within_group_auroc}",
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=300)
    arguments = parser.parse_args(argv)
    print(json.dumps(bench_sweep(arguments.problems), indent=2))


if __name__ == "__main__":
    main()
