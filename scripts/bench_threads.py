"""Work on a small model while nothing else runs, and while every processor is busy elsewhere.

    python scripts/bench_threads.py [--rounds 3]

In a row: one piece after another, each on all torch threads, as torch does it. Side by side: as many pieces at once,
each on one thread (`mechsteer.runtime.threads`). Traces (8 batches of 64 sampled), training (3 vectors, four epochs) and
evaluation (4 arms x 200 problems) on pocket; "busy" has one other process per processor that never waits.
Wanted: side by side, idle, at most the time in a row; busy at most 2.5 times idle.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

import mechsteer as ms
from mechsteer.evaluation import Verified, base_arm, evaluate, evaluation, random_arms, treated_arm
from mechsteer.runtime.batches import Sample
from mechsteer.runtime.threads import each_of, side_by_side
from mechsteer.tasks import load_task
from mechsteer.training import CrossEntropy, FitConfig, fit

SPIN = "while True: pass"


def works(model: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    task = load_task("pocket", 200, split="test")
    prompts = ms.models.tokenize(model, [item.prompt for item in load_task("pocket", 512, split="train").items])
    vector = torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)
    scope = ms.TokenScope.generated(include_last_prompt=True)
    iv = ms.Intervention(ms.adapters.Static(120 * vector), ms.Site(0.5, "resid_post"), scope=scope)
    arms = [base_arm(), treated_arm(iv), *random_arms(model, iv, prompts[:4], 2)]
    written = ms.generate(model, prompts[:64], max_new_tokens=100).tokens
    samples = [Sample(prompt, new) for prompt, new in zip(prompts, written, strict=False)]

    def traces(start: int) -> Any:
        rows, generator = prompts[start : start + 64], torch.Generator().manual_seed(start)
        return ms.generate(model, rows, max_new_tokens=200, temperature=0.9, generator=generator)

    def training(seed: int) -> Any:
        return fit(model, iv, CrossEntropy(samples), FitConfig(lr=1.0, epochs=4, seed=seed), progress=False)

    return {
        "traces": lambda: list(each_of(traces, range(0, 512, 64))),
        "training": lambda: list(each_of(training, range(3))),
        "evaluation": lambda: evaluate(model, arms, Verified(task=task), task.items, n_boot=100),
    }


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Every processor has something else to do."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def in_a_row(_model: Any) -> Iterator[None]:
    """One piece after another, also where the library would run them side by side."""
    with mock.patch.object(evaluation, "side_by_side", return_value=contextlib.nullcontext()):
        yield


def seconds(how: Callable[[Any], Any], model: Any, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    with how(model):
        work()
    return time.perf_counter() - began


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="a small model's work, idle and beside busy processors")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(argv).rounds
    model = ms.load_model("pocket")
    print(f"{torch.get_num_threads()} torch threads, {os.cpu_count()} processors; seconds, median of {rounds}")
    print("              in a row        side by side    side by side / in a row, idle   side by side, busy / idle")
    print("              idle    busy    idle    busy    wanted <= 1.0                   wanted <= 2.5")
    for name, work in works(model).items():
        work()  # untimed
        times: dict[tuple[str, bool], list[float]] = {}
        for _ in range(rounds):
            for is_busy in (False, True):
                with busy() if is_busy else contextlib.nullcontext():
                    for label, how in (("row", in_a_row), ("side", side_by_side)):
                        times.setdefault((label, is_busy), []).append(seconds(how, model, work))
        told = {key: statistics.median(found) for key, found in times.items()}
        row, side = ([told[label, is_busy] for is_busy in (False, True)] for label in ("row", "side"))
        cells = "".join(f"{value:<8.1f}" for value in (*row, *side))
        print(f"  {name:12}{cells}{side[0] / row[0]:<32.2f}{side[1] / side[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
