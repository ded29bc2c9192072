"""What records cost: the embedded database up, 10,000 records logged and stored, a search among prompts.

python scripts/bench_records.py
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from mechsteer.records import FunctionEmbedder, PromptIndex, Record, RunLog, TraceRecord, open_database

N, D = 10_000, 128
PROMPT, TEXT = "Tom has 3 apples and buys 4 more. " * 4, "He has 3 + 4 = 7 apples. The answer is 7. " * 10


def trace(i: int) -> Record:
    """A record of some 700 bytes."""
    return TraceRecord(
        **{"run_id": "r" * 32, "split": "train", "item_id": str(i), "group": str(i)},
        **{"row": i, "prompt": f"{i} {PROMPT}", "text": TEXT, "correct": bool(i % 2)},
    )


def _up(folder: Path) -> float:
    began = time.perf_counter()
    with open_database("embedded", folder=folder):
        return time.perf_counter() - began


def main() -> None:
    temporary = Path(tempfile.mkdtemp(prefix="mechsteer-bench-"))
    if not os.geteuid():
        temporary.chmod(0o711)  # root's server runs as another user
    try:
        first = _up(temporary / "db")
        later = [_up(temporary / "db") for _ in range(5)]
        print(f"embedded database up: first {first:.2f} s, later {np.median(later):.2f} s (median of 5)", flush=True)
        records = [trace(i) for i in range(N)]
        log = RunLog(temporary / "records.jsonl")
        began = time.perf_counter()
        log.append(records)
        together = time.perf_counter() - began
        other = RunLog(temporary / "one-by-one.jsonl")
        began = time.perf_counter()
        for record in records:
            other.append([record])
        alone = time.perf_counter() - began
        print(f"{N} records to the log: {together:.2f} s at once, {alone:.2f} s one by one", flush=True)
        with open_database("embedded", folder=temporary / "db") as database:
            began = time.perf_counter()
            new = database.add(log.read().records)
            stored = time.perf_counter() - began
            began = time.perf_counter()
            again = database.add(log.read().records)
            print(
                f"{new} records read from the log into the database: {stored:.2f} s; "
                f"again ({again} new): {time.perf_counter() - began:.2f} s",
                flush=True,
            )
            rng = np.random.default_rng(0)
            values = {f"prompt {i}": rng.normal(size=D) for i in range(N)}
            embedder = FunctionEmbedder(function=lambda texts: [values[text] for text in texts], name="random")
            index = PromptIndex(database, "bench", embedder)
            began = time.perf_counter()
            index.add(list(values))
            added = time.perf_counter() - began
            began = time.perf_counter()
            index.like(["prompt 0"], approximate=True)
            built = time.perf_counter() - began
            seconds = {}
            for approximate in (False, True):
                began = time.perf_counter()
                for i in range(20):
                    index.like([f"prompt {i}"], approximate=approximate)
                seconds[approximate] = (time.perf_counter() - began) / 20
            print(
                f"{N} prompts of {D} numbers into the index: {added:.2f} s, its graph {built:.2f} s; "
                f"10 nearest: {1e3 * seconds[False]:.1f} ms exactly, {1e3 * seconds[True]:.1f} ms approximately"
            )
    finally:
        shutil.rmtree(temporary)


if __name__ == "__main__":
    main()
