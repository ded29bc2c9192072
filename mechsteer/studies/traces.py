"""Stages traces and capture: prompts become traces with verified answers, split by problem; traces become activations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from mechsteer.activations import Activations, ActivationStore, capture, open_store
from mechsteer.errors import ConfigError, DataError
from mechsteer.features import TokenGroups, groups_for
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.models.sites import Site
from mechsteer.pocket import CAREFUL_PREFIX
from mechsteer.prompts import read_rows
from mechsteer.steering.generation import generate
from mechsteer.studies.desk import Desk
from mechsteer.tasks import Item, Task, Trace, load_task, read_solutions, read_traces, write_traces
from mechsteer.tokens import continuation_text

STEP_BY_STEP = " Let's think step by step."


@functools.lru_cache(maxsize=16)
def is_ready_made(data: str) -> bool:
    """The data are traces that somebody else wrote, right and wrong: nothing is generated or steered."""
    path = Path(data)
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    first = read_rows(path)[0].data
    return isinstance(first, dict) and "ground_truth" in first


def metric(run: Desk) -> str:
    """ "accuracy" where answers can be verified, else "log_odds"."""
    return metric_of(run.config["data"], run.config["metric"])


@functools.lru_cache(maxsize=16)
def metric_of(data: str, wanted: str) -> str:
    """The metric of some data, as wanted or as they allow."""
    if wanted != "auto":
        return wanted
    return "accuracy" if is_ready_made(data) or load_task(data, 1, split="train").can_verify else "log_odds"


def items(run: Desk, split: str, n: int) -> tuple[Task, list[Item]]:
    """`n` problems of a split; where the file has fewer, all of them."""
    data = run.config["data"]
    try:
        task = load_task(data, n, seed=run.config["seed"], split=split)  # pyright: ignore[reportArgumentType]
    except DataError:
        task = load_task(data, None, seed=run.config["seed"], split=split)  # pyright: ignore[reportArgumentType]
    return task, list(task.items)


def careful_prefix(run: Desk) -> str:
    """What asks for care, put behind the prompt."""
    return CAREFUL_PREFIX if run.config["data"] == "pocket" else STEP_BY_STEP


def write(run: Desk) -> dict[str, Any]:
    """traces.jsonl: sampled traces of the training and dev problems (or the ready-made ones), judged."""
    how = run.config["traces"]
    if is_ready_made(run.config["data"]):
        found = some_problems(run, read_solutions(run.config["data"]), how["n_problems"])
        traces = {"train": [t for t in found if len(any_length(run, t.prompt + t.text)) < run.model.cfg.n_ctx]}
        if not traces["train"]:
            raise DataError(
                f"no trace of {run.config['data']} fits the context of {run.model.cfg.n_ctx}",
                "use a model with a longer context",
            )
        source = "ready-made"
        left_out = len(found) - len(traces["train"])
    else:
        source, left_out = "sampled from the model", 0
        traces = {
            "train": sample(run, "train", how["n_problems"], how["n_samples"]),
            "dev": sample(run, "dev", how["n_dev"], 1),
        }
    for split, found in traces.items():
        write_traces(run.write(f"traces-{split}.jsonl"), found)
    return {
        "source": source,
        "metric": metric(run),
        "left_out_too_long": left_out,
        **{split: summary(found) for split, found in traces.items()},
    }


def some_problems(run: Desk, traces: list[Trace], n: int) -> list[Trace]:
    """The traces of `n` problems, drawn by seed."""
    groups = sorted({t.group for t in traces})
    drawn = torch.randperm(len(groups), generator=run.generator("ready-made"))[:n].tolist()
    kept = {groups[i] for i in drawn}
    return [t for t in traces if t.group in kept]


def summary(traces: Sequence[Trace]) -> dict[str, Any]:
    """Counts, accuracy, styles, disagreement within problems."""
    by_problem: dict[str, list[bool]] = {}
    for trace in traces:
        if trace.correct is not None:
            by_problem.setdefault(trace.group, []).append(trace.correct)
    judged = [c for found in by_problem.values() for c in found]
    styles = [t.style for t in traces if t.style is not None]
    return {
        "n_traces": len(traces),
        "n_problems": len({t.group for t in traces}),
        "accuracy": float(np.mean(judged)) if judged else None,
        "problems_with_both": sum(len(set(found)) == 2 for found in by_problem.values()),
        "styles": {name: styles.count(name) / len(styles) for name in sorted(set(styles))},
    }


def sample(run: Desk, split: str, n_problems: int, n_samples: int) -> list[Trace]:
    """Traces sampled from the model as it is."""
    task, problems = items(run, split, n_problems)
    prompts = [prompt_ids(run, item) for item in problems for _ in range(n_samples)]
    most, size, texts = room(run, prompts), run.config["batch_size"], []
    for start in tqdm(range(0, len(prompts), size), desc=f"{split} traces", unit="batch", disable=not run.progress):

        def batch(start: int = start) -> list[str]:
            out = generate(
                run.model,
                prompts[start : start + size],
                max_new_tokens=most,
                temperature=run.config["traces"]["temperature"],
                generator=run.generator("traces", split, start),
            )
            return [continuation_text(run.model.tokenizer, ids) for ids in out.tokens]

        texts += run.piece(f"{split}-{start}", batch)
    return [
        task.trace(item, texts[i * n_samples + j], prompt=given(run, item), source=split, sample=j)
        for i, item in enumerate(problems)
        for j in range(n_samples)
    ]


def prompt_ids(run: Desk, item: Item) -> list[int]:
    """Token ids of an item's prompt; for log-odds its first tokens and the suffix."""
    if metric(run) != "log_odds":
        return tokenize(run.model, [item.prompt])[0]
    ids = any_length(run, item.prompt)
    tail = tokenize_continuation(run.model, run.config["suffix"])
    return ids[: run.config["prompt_tokens"]] + tail


def given(run: Desk, item: Item) -> str | None:
    """The prompt as the model was given it, where that is not the item's."""
    if metric(run) != "log_odds":
        return None
    return run.model.tokenizer.decode(prompt_ids(run, item), skip_special_tokens=True)


def any_length(run: Desk, text: str) -> list[int]:
    """Token ids of a text that may be longer than the context."""
    return run.model.to_tokens(text, truncate=False)[0].tolist()


def room(run: Desk, prompts: Sequence[Sequence[int]]) -> int:
    """New tokens that fit behind the longest prompt, at most max_new_tokens."""
    left = run.model.cfg.n_ctx - max(len(p) for p in prompts)
    if left < 1:
        raise ConfigError(
            f"a prompt fills the context of {run.model.cfg.n_ctx}", "leave it out, or use a model with a longer context"
        )
    return min(run.config["max_new_tokens"], left)


def load(run: Desk, split: str) -> list[Trace]:
    """The traces of a split; none where the run has none."""
    path = run.read(f"traces-{split}.jsonl")
    return read_traces(path) if path.is_file() else []


def sites_of(model: Any, layers: Sequence[float]) -> list[Site]:
    """Layers at resid_post, as indices, each once."""
    return list(dict.fromkeys(Site(layer, "resid_post").at(model) for layer in layers))


def sites(run: Desk) -> list[Site]:
    """The candidates, whose activations are kept."""
    return [Site(layer, "resid_post") for layer in run.result("capture")["layers"]]


def site(run: Desk) -> Site:
    """The adapter's; where nothing is steered, the middle one of the candidates."""
    if run.has("train"):
        return Site(run.result("train")["layer"], "resid_post")
    candidates = sites(run)
    return candidates[len(candidates) // 2]


def whole(run: Desk, trace: Trace) -> tuple[list[int], int]:
    """(token ids of prompt and text, tokens of the prompt)."""
    prompt = tokenize(run.model, [trace.prompt])[0]
    text = tokenize_continuation(run.model, trace.text)
    return prompt + text, len(prompt)


def keep(run: Desk) -> dict[str, Any]:
    """activations/: the training traces at every candidate layer."""
    traces, candidates = load(run, "train"), sites_of(run.model, run.config["layers"])
    rows = [whole(run, trace) for trace in traces]
    store = capture(
        run.model,
        [ids for ids, _ in rows],
        candidates,
        path=run.write("activations"),
        batch_size=run.config["batch_size"],
        labels=[trace.correct for trace in traces],
        prompt_ids=[f"{t.item_id}/{t.source}/{t.sample}" for t in traces],
        progress=run.progress,
    )
    return {
        "n_traces": store.n_prompts,
        "n_tokens": store.n_tokens,
        "sites": [str(s) for s in store],
        "layers": [site.layer for site in candidates],
        "engine": store.engine,
        "prompt_lengths": [n for _, n in rows],
    }


def store(run: Desk) -> ActivationStore:
    """The store that `keep` wrote."""
    return open_store(run.read("activations"), model=run.model)


def vocabulary(run: Desk) -> TokenGroups:
    """The words of ReasonScore as token ids. Raises ConfigError for one that is not there."""
    return groups_for(run.model.tokenizer, run.config["vocabulary"])


def states(run: Desk, rows: Sequence[Sequence[int]], site: Site) -> Activations:
    """Activations of token rows at one site, in memory."""
    return capture(run.model, rows, [site], batch_size=run.config["batch_size"], progress=False)[site]


def responses(run: Desk, site: Site) -> list[torch.Tensor]:
    """Per training trace the activations [n d_model] of what the model wrote; the prompt is left out."""
    lengths = run.result("capture")["prompt_lengths"]
    found = []
    for batch in store(run)[site]:
        for values, mask in zip(batch.values, batch.mask, strict=True):
            start = lengths[len(found)]
            found.append(values[start:][mask[start:]].float())
    return found
