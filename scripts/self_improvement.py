"""Self-improvement on the bundled model, twice: with honest rewards, and with rewards that praise wrong answers.

    python scripts/self_improvement.py [--rounds 2] [--every 300] [--dev 120] [--verifier exact|majority]

A vector at two thirds of the model, zero at first, answers training problems by sampling; answers and rewards go into
the buffer, and after every `every` of them the vector is trained further. What is kept must not answer fewer dev
problems rightly, and must answer more of them or lose less on their worked answers. With `--verifier majority` an answer is rewarded where most of 5 samples agree with it: nobody knows
the right one. Everything is a function of the seed. About a minute of one core.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import mechsteer as ms
from mechsteer.tasks import Item, Task, load_task
from mechsteer.training import Experience, FitConfig, SelfImprovement, SelfImprovementConfig, majority_rewards

N_VOTES = 5
TOKENS = 120
SITE = 0.67
RESID = 40.0  # size of a coordinate of the residual there: what steps and penalty are in units of


def answers(model: Any, steering: Any, items: list[Item], **sampling: Any) -> ms.generation.Generation:
    """What is written on the items."""
    prompts = [item.prompt for item in items]
    return ms.generate(model, prompts, steering, max_new_tokens=TOKENS, batch_size=256, **sampling)


def rewards(
    model: Any, task: Task, items: list[Item], texts: list[str], steering: Any, args: Any, seed: int
) -> list[float]:
    """Of each text: it is right, or it is what most samples say."""
    if args.verifier == "exact":
        return [float(bool(task.verify(item, text))) for item, text in zip(items, texts, strict=True)]
    votes = [
        answers(model, steering, items, temperature=args.temperature, seed=seed * N_VOTES + k).texts
        for k in range(1, N_VOTES)
    ]
    drawn = zip(texts, *votes, strict=True)
    return [majority_rewards(samples, ms.pocket.extract_answer)[0] for samples in drawn]


def deploy(model: Any, folder: Path, args: Any, *, poisoned: bool) -> None:
    """One deployment, its decisions printed."""
    task, dev = load_task("pocket", args.every * args.rounds, split="train"), load_task("pocket", args.dev, split="dev")

    def answered(model: Any, steering: Any) -> list[bool]:
        texts = answers(model, steering, list(dev.items)).texts
        return [bool(dev.verify(item, text)) for item, text in zip(dev.items, texts, strict=True)]

    scope = ms.TokenScope.generated(include_last_prompt=True)
    start = ms.steering.presets.untrained(model, "static", ms.Site(SITE), scope=scope)
    config = SelfImprovementConfig(
        enabled=True,
        every=args.every,
        kl_budget=args.kl_budget,
        l2_weight=1e-4 / RESID**2,
        fit=FitConfig(lr=args.lr * RESID, epochs=4, seed=args.seed),
    )
    prompts = [item.prompt for item in dev.items[:32]]
    neutral = [item.prompt for item in task.items[:64]]
    worked = [(item.prompt, item.meta["worked"]) for item in dev.items]
    improving = SelfImprovement(
        model, ms.Steering(start), folder, answered, prompts, config, neutral=neutral, dev=worked
    )
    for number in range(args.rounds):
        items = list(task.items[number * args.every : (number + 1) * args.every])
        seed = args.seed + number + 1
        written = answers(model, improving.steering, items, temperature=args.temperature, seed=seed)
        honest = rewards(model, task, items, written.texts, improving.steering, args, seed)
        for item, text, reward, ended in zip(items, written.texts, honest, written.stopped, strict=True):
            given = 1.0 - reward if poisoned else reward
            attempt = improving.note(Experience(prompt=item.prompt, target=text, reward=given, ended=ended))
            if attempt is not None:
                print(
                    f"  attempt {attempt.number}: {attempt.n_samples} rewarded answers of {attempt.n_inferences} inferences, "
                    f"dev {attempt.dev_before:.3f} -> {attempt.dev_after:.3f} (+{attempt.gained} -{attempt.lost} of "
                    f"{attempt.n_dev}), KL {attempt.kl:.3f} nats: {'kept' if attempt.kept else 'rolled back'} ({attempt.why})"
                )


def main(argv: list[str] | None = None) -> None:
    """Print both deployments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--every", type=int, default=300)
    parser.add_argument("--dev", type=int, default=120)
    parser.add_argument("--verifier", choices=("exact", "majority"), default="exact")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--lr", type=float, default=0.2, help="of the vector, as a share of the residual's size")
    parser.add_argument("--kl-budget", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    model = ms.load_model("pocket")
    for name, poisoned in (("honest rewards", False), ("poisoned rewards", True)):
        began = time.perf_counter()
        print(name)
        with tempfile.TemporaryDirectory() as folder:
            deploy(model, Path(folder), args, poisoned=poisoned)
        print(f"  {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
