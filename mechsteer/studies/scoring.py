"""What a model says to problems under a steering, and how that is scored: right or wrong, or by log-odds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from mechsteer.errors import ConfigError
from mechsteer.models import tokenize_continuation
from mechsteer.runtime.batches import make_batches
from mechsteer.runtime.restart import Start, logits_from
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import steer
from mechsteer.studies import traces as data
from mechsteer.studies.desk import Desk
from mechsteer.tasks import Item, Task, Trace
from mechsteer.tokens import continuation_text


def outcomes(
    run: Desk, task: Task, problems: Sequence[Item], steering: Any, *, kept: str, prefix: str = ""
) -> tuple[np.ndarray, list[Trace], list[list[int]]]:
    """Score per problem (right or wrong; or log-odds), greedy traces and their tokens.

    `kept`: the name under which what the model said outlives an interruption.
    """
    prompts = [data.prompt_ids(run, item) for item in problems]
    if prefix:
        tail = continuation(run, prefix)
        prompts = [p + tail for p in prompts]
    if data.metric(run) == "log_odds":
        return np.array(run.piece(kept, lambda: log_odds(run, prompts, steering).tolist())), [], []
    most, size = data.room(run, prompts), run.config["batch_size"]
    new = run.piece(
        kept,
        lambda: (
            generate(run.model, prompts, steering, max_new_tokens=most, batch_size=size, progress=run.progress).tokens
        ),
    )
    texts = [continuation_text(run.model.tokenizer, ids) for ids in new]
    judged = [task.trace(item, prefix + text) for item, text in zip(problems, texts, strict=True)]
    return np.array([bool(t.correct) for t in judged]), judged, new


@torch.no_grad()
def log_odds(run: Desk, prompts: Sequence[Sequence[int]], steering: Any) -> np.ndarray:
    """ln P(positive) − ln P(negative), each summed over the continuation's tokens, per prompt."""
    scores = torch.zeros(len(prompts), dtype=torch.float64)
    for sign, name in ((1, "positive"), (-1, "negative")):
        end = continuation(run, run.config[name])
        for batch in make_batches(run.model, [(list(p), end) for p in prompts], run.config["batch_size"]):
            at = batch.predicts_target
            with steer(run.model, steering):
                log_p = logits_from(run.model, batch, Start(), at).double().log_softmax(-1)
            of_targets = log_p.gather(1, batch.tokens.roll(-1, 1)[at][:, None])[:, 0]
            scores.index_add_(0, batch.rows[at.nonzero()[:, 0]].cpu(), sign * of_targets.cpu())
    return scores.numpy()


def dev_scorer(run: Desk) -> Callable[[Any, str], float]:
    """Mean dev score of a steering, kept by name: accuracy of greedy traces, or log-odds."""
    task, problems = data.items(run, "dev", run.config["traces"]["n_dev"])

    def score(steering: Any, name: str) -> float:
        return float(np.mean(outcomes(run, task, problems, steering, kept=f"dev-{name}")[0]))

    return score


def continuation(run: Desk, text: str) -> list[int]:
    """Token ids of a continuation. Raises ConfigError for an empty one."""
    ids = tokenize_continuation(run.model, text)
    if not ids:
        raise ConfigError(f"{text!r} has no tokens", "give a word, with its leading space")
    return ids
