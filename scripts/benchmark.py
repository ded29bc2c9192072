"""A model as it is on a benchmark: its score with an interval, to be held against a published figure.

    python scripts/benchmark.py Qwen/Qwen3-0.6B-Base gsm8k --shots 4 --max-new-tokens 512 --dtype bfloat16 --device cuda
    python scripts/benchmark.py Qwen/Qwen3-0.6B gsm8k --chat --instruction "Please reason step by step, ..." ...
    python scripts/benchmark.py pocket pocket --n 200

`data`: pocket, or a file or folder of GSM8K (train.jsonl and test.jsonl), HellaSwag, ARC or TruthfulQA. Answers are
decoded greedily; of GSM8K both the strict form ("#### 72") and any form are counted. Intervals are Wilson's (1927).
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from statsmodels.stats.proportion import proportion_confint

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import MultipleChoice, Verified, base_arm
from mechsteer.tasks import few_shot, in_chat
from mechsteer.tasks.examples import examples_of


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--n", type=int, help="problems of the test split; default: all of a file")
    parser.add_argument("--shots", type=int, default=0, help="worked examples of the training split")
    parser.add_argument("--chat", action="store_true", help="as a conversation, by the tokenizer's template")
    parser.add_argument("--chat-options", type=json.loads, default={}, help="such as '{\"enable_thinking\": false}'")
    parser.add_argument("--instruction", default="", help="behind the question of a conversation")
    parser.add_argument("--normalise", default="characters", choices=("characters", "tokens", "none"))
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--batch-size", type=int, help="default: what 4 GiB of keys and values allow")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=0)
    try:
        print(json.dumps(measured(parser.parse_args()), indent=1))
    except MechsteerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measured(how: argparse.Namespace) -> dict[str, object]:
    """The score of the model as it is."""
    task = ms.tasks.load_task(how.data, how.n, seed=how.seed, split="test")
    model = ms.load_model(how.model, device=how.device, dtype=how.dtype)
    shots = ms.tasks.load_task(how.data, how.shots, seed=how.seed, split="train") if how.shots else task
    if how.chat:
        examples = examples_of(shots, how.shots, how.seed)
        task = in_chat(task, model, examples=examples, instruction=how.instruction, **how.chat_options)
    else:
        task = few_shot(task, shots, how.shots, how.seed)
    scoring = MultipleChoice(normalise=how.normalise)
    if not task.has_options:
        scoring = Verified(task=task, max_new_tokens=how.max_new_tokens, batch_size=how.batch_size)
    scored = scoring.score(model, base_arm(), task.items, progress=sys.stderr.isatty())
    told: dict[str, object] = {"model": how.model, "task": task.name, "n": len(task.items), "shots": how.shots}
    told |= {
        "chat": how.chat,
        "data_hash": task.data_hash,
        scoring.metric: share(int(scored.scores.sum()), len(task.items)),
    }
    if scored.strict is not None:
        told["strict"] = share(int(scored.strict.sum()), len(task.items))
    if scored.stopped:
        told["cut_at_the_limit"] = round(1 - sum(scored.stopped) / len(scored.stopped), 4)
    return told


def share(right: int, n: int) -> dict[str, float]:
    """A share with its 95 % interval."""
    bounds: Any = proportion_confint(right, n, method="wilson")
    low, high = bounds
    return {"value": round(right / n, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


if __name__ == "__main__":
    sys.exit(main())
