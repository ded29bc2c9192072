"""`evaluate` with ten arms on pocket beside the same arms one after another, interleaved in one run.

    python scripts/bench_evaluation.py [--problems 500] [--rounds 1]

Before: every arm generated in batches of 64 whose rows all run until the last of them stops, and judged. Now:
`mechsteer.evaluation.evaluate`, all its statistics included. Wanted: at most 0.50.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch

import mechsteer as ms
from mechsteer.evaluation import (
    Arm,
    Evaluation,
    Verified,
    base_arm,
    evaluate,
    no_op_arm,
    paired,
    prompt_arm,
    random_arms,
    treated_arm,
)
from mechsteer.pocket import CAREFUL_PREFIX
from mechsteer.steering import decoding
from mechsteer.tasks import Task, load_task

NORM = 120.0  # about half the residual's: random directions of this size cost pocket some accuracy, as a study's do


def ten_arms(model: Any, task: Task) -> list[Arm]:
    """Base, a steering, a no-op, a prompt and six random directions."""
    vector = torch.nn.functional.normalize(torch.randn(128, generator=torch.Generator().manual_seed(0)), dim=0)
    scope = ms.TokenScope.generated(include_last_prompt=True)
    iv = ms.Intervention(ms.adapters.Static(NORM * vector), ms.Site(0.5, "resid_post"), scope=scope)
    controls = random_arms(model, iv, [item.prompt for item in task.items[:4]], 6)
    return [base_arm(), treated_arm(iv), no_op_arm(iv), prompt_arm(CAREFUL_PREFIX), *controls]


def one_after_another(model: Any, arms: list[Arm], task: Task) -> dict[str, list[list[int]]]:
    """The tokens of every arm, judged and compared; rows wait for the slowest of their 64."""
    written, right = {}, {}
    with mock.patch.object(decoding, "leaving_pays", return_value=False):
        for arm in arms:
            tail = arm.prefix_ids(model)
            prompts = [ids + tail for ids in ms.models.tokenize(model, [item.prompt for item in task.items])]
            out = ms.generate(model, prompts, arm.steering, max_new_tokens=200, batch_size=64)
            prefix = arm.prefix_text(model)
            judged = [task.trace(item, prefix + text) for item, text in zip(task.items, out.texts, strict=True)]
            written[arm.name] = out.tokens
            right[arm.name] = np.array([trace.correct for trace in judged])
    for name in list(right)[1:]:
        for rival in list(right)[: 1 if name != "adapter" else None]:
            paired._resamples.cache_clear()
            paired.compare_paired(right[rival], right[name])
    return written


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds by the clock, seconds of processor time, what `call` gives)."""
    began, worked = time.perf_counter(), time.process_time()
    value = call()
    return time.perf_counter() - began, time.process_time() - worked, value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="ten arms: evaluate / one after another in batches of 64")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args(argv)
    model, task = ms.load_model("pocket"), load_task("pocket", arguments.problems, split="test")
    arms = ten_arms(model, task)
    ms.generate(model, [task.items[0].prompt], arms[1].steering, max_new_tokens=2)
    print(f"10 arms x {arguments.problems} problems on pocket: evaluate / one after another; wanted <= 0.50")
    ratios = []
    for _ in range(arguments.rounds):
        before, worked_before, tokens = timed(lambda: one_after_another(model, arms, task))
        now, worked_now, result = timed(lambda: evaluate(model, arms, Verified(task=task), task.items))
        ratios.append(now / before)
        print(
            f"  before {before:6.1f} s, now {now:6.1f} s: {now / before:.2f}   "
            f"(processor {worked_before:.1f} s, {worked_now:.1f} s: {worked_now / worked_before:.2f})"
        )
        print(f"  texts that differ: {differing(result, tokens)} of {10 * arguments.problems}")
    print(f"  ratio {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def differing(result: Evaluation, tokens: dict[str, list[list[int]]]) -> int:
    """How many texts are not the same, token for token."""
    return sum(list(a) != b for arm in result.arms for a, b in zip(arm.scored.tokens, tokens[arm.name], strict=True))


if __name__ == "__main__":
    main()
