"""Reward training on the bundled model: what a static vector gains on problems that it never met.

    python scripts/reinforce.py [--seeds 3] [--lr 0.05] [--group 8] [--epochs 10] ...

A vector, zero at first, is trained on sampled answers that are rewarded where they are right (REINFORCE with the group's
mean as baseline). Before is the model as it is, after is steered by the vector; both answer the same held-out problems
greedily. Nothing is chosen on them: the epoch is the last one. Each seed draws its own problems and samples. Two to
three minutes of one core for a seed.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np
from scipy.stats import t as student

import mechsteer as ms
from mechsteer.steering.calibration import kl
from mechsteer.tasks import Task, load_task
from mechsteer.training import FitConfig, Reinforce, fit

TOKENS = 120
RESID = 40.0  # size of a coordinate of the residual at the site: what steps and penalty are in units of
SCOPE = ms.TokenScope.generated(include_last_prompt=True)


def right(model: Any, task: Task, steering: Any) -> np.ndarray:
    """Per problem whether the greedy answer is right."""
    texts = ms.generate(model, [i.prompt for i in task.items], steering, max_new_tokens=TOKENS, batch_size=256).texts
    return np.array([bool(task.verify(item, text)) for item, text in zip(task.items, texts, strict=True)])


def trained(model: Any, args: argparse.Namespace, seed: int) -> Any:
    """The vector of a seed."""
    task = load_task("pocket", args.problems, seed=seed, split="train")
    objective = Reinforce(
        task.items,
        lambda item, text: float(bool(task.verify(item, text))),
        n_samples=args.group,
        max_new_tokens=TOKENS,
        temperature=args.temperature,
        standardise=args.standardise,
        kl_weight=args.kl_weight,
        l2_weight=1e-4 / RESID**2,
    )
    config = FitConfig(
        lr=args.lr * RESID, epochs=args.epochs, batch_size=args.batch_size, patience=args.epochs, seed=seed
    )
    start = ms.steering.presets.untrained(model, "static", ms.Site(args.site), scope=SCOPE)
    return fit(model, start, objective, config, progress=False)


def main(argv: list[str] | None = None) -> None:
    """Print every seed, and the mean over them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--problems", type=int, default=64, help="training problems, all of them answered in every epoch"
    )
    parser.add_argument("--group", type=int, default=8, help="answers sampled to each")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256, help="answers a step")
    parser.add_argument("--lr", type=float, default=0.05, help="of the vector, as a share of the residual's size")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--kl-weight", type=float, default=0.02)
    parser.add_argument("--standardise", action="store_true")
    parser.add_argument("--site", type=float, default=0.5)
    parser.add_argument("--held-out", type=int, default=300)
    args = parser.parse_args(argv)
    model, test = ms.load_model("pocket"), load_task("pocket", args.held_out, split="test")
    before, gains = right(model, test, ()), []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        began = time.perf_counter()
        result = trained(model, args, seed)
        seconds = time.perf_counter() - began
        after = right(model, test, result.steering)
        gains.append(float(after.mean() - before.mean()))
        rewards = [epoch.train["reward"] for epoch in result.history if epoch.train]
        spent = kl(model, result.steering, [item.prompt for item in test.items[:32]], max_new_tokens=32)
        print(
            f"seed {seed}: held out {before.mean():.3f} -> {after.mean():.3f} (+{(after & ~before).sum()} "
            f"-{(before & ~after).sum()} of {len(before)}), reward while training {rewards[0]:.3f} -> {rewards[-1]:.3f}, "
            f"KL {spent:.3f} nats, {seconds:.0f} s",
            flush=True,
        )
    if len(gains) > 1:
        half = student.isf(0.025, len(gains) - 1) * np.std(gains, ddof=1) / math.sqrt(len(gains))
        print(
            f"gain {np.mean(gains):+.3f} [{np.mean(gains) - half:+.3f}, {np.mean(gains) + half:+.3f}] over {len(gains)} seeds"
        )


if __name__ == "__main__":
    main()
