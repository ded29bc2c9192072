"""Stages traces and capture: prompts become traces with verified answers, split by problem; traces become activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from tqdm.auto import tqdm

from mechsteer.activations import capture as capture_activations
from mechsteer.errors import DataError
from mechsteer.evaluation.choice import trace_summary
from mechsteer.models.sites import Site
from mechsteer.runtime.threads import each_of
from mechsteer.steering.files import load_steering
from mechsteer.steering.generation import generate
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import ACTIVATIONS, Kept
from mechsteer.studies.places import layers_tried, measured, places
from mechsteer.studies.problems import Problems, Split, is_ready_made, metric_of, room
from mechsteer.studies.results import CaptureResult, SiteResult, TracesResult, TrainResult
from mechsteer.tasks import Trace, option_traces, read_solutions, write_traces
from mechsteer.tokens import continuation_text


def traces(desk: Desk) -> TracesResult:
    """traces-train.jsonl, traces-dev.jsonl: sampled traces of both splits (or the ready-made ones), judged."""
    settings, how = desk.settings, desk.settings.traces
    metric = metric_of(settings.data, settings.metric)
    if is_ready_made(settings.data):
        drawn = some_problems(desk, read_solutions(settings.data), how.n_problems)
        fitting = [t for t in drawn if len(any_length(desk.model, t.prompt + t.text)) < desk.model.cfg.n_ctx]
        if not fitting:
            raise DataError(
                f"no trace of {settings.data} fits the context of {desk.model.cfg.n_ctx}",
                "use a model with a longer context",
            )
        splits, source = {"train": fitting}, "ready-made"
        left_out, cut = len(drawn) - len(fitting), 0
    else:
        problems = Problems(desk, metric)
        problems.require_disjoint()
        if metric == "multiple_choice":
            sizes = {"train": how.n_problems, "dev": how.n_dev}
            splits = {split: options(problems, cast("Split", split), n) for split, n in sizes.items()}
            source = "options of the problems"
        else:
            splits, source = (
                {
                    "train": sample(desk, problems, "train", how.n_problems, how.n_samples),
                    "dev": sample(desk, problems, "dev", how.n_dev, how.n_dev_samples),
                },
                "sampled from the model",
            )
        left_out, cut = problems.left_out, problems.cut
    for split, written in splits.items():
        write_traces(desk.write(f"traces-{split}.jsonl"), written)
    return TracesResult(
        source=source,
        metric=metric,
        left_out=left_out,
        cut=cut,
        splits=tuple(trace_summary(split, written) for split, written in splits.items()),
    )


def some_problems(desk: Desk, written: list[Trace], n: int) -> list[Trace]:
    """The traces of `n` problems, drawn by seed."""
    groups = sorted({t.group for t in written})
    drawn = torch.randperm(len(groups), generator=desk.generator("ready-made"))[:n].tolist()
    chosen = {groups[i] for i in drawn}
    return [t for t in written if t.group in chosen]


def options(problems: Problems, split: Split, n: int) -> list[Trace]:
    """Every option of every problem: nothing is written, what can be chosen is the right text or a wrong one."""
    return [trace for item in problems.items(split, n) for trace in option_traces(item, split)]


def sample(desk: Desk, problems: Problems, split: Split, n_problems: int, n_samples: int) -> list[Trace]:
    """Traces sampled from the model as it is."""
    settings, task = desk.settings, problems.task(split, n_problems)
    prompts = [problems.prompt(item) for item in task.items]
    rows = [prompt for prompt in prompts for _ in range(n_samples)]
    most, size, texts = room(desk.model, rows, settings.max_new_tokens), settings.batch_size, []

    def batch(start: int) -> list[str]:
        def write() -> list[str]:
            out = generate(
                desk.model,
                rows[start : start + size],
                max_new_tokens=most,
                temperature=settings.traces.temperature,
                generator=desk.generator("traces", split, start),
            )
            return [continuation_text(desk.model.tokenizer, ids) for ids in out.tokens]

        return desk.piece(f"{split}-{start}", write, list[str])

    starts = range(0, len(rows), size)
    for written in tqdm(
        each_of(batch, starts), total=len(starts), desc=f"{split} traces", unit="batch", disable=not desk.progress
    ):
        texts += written
    # where the model was not given the item's own prompt, the trace tells what it was given
    given = [
        None if problems.metric != "log_odds" else desk.model.tokenizer.decode(prompt, skip_special_tokens=True)
        for prompt in prompts
    ]
    return [
        task.trace(item, texts[i * n_samples + j], prompt=given[i], source=split, sample=j)
        for i, item in enumerate(task.items)
        for j in range(n_samples)
    ]


def any_length(model: Any, text: str) -> list[int]:
    """Token ids of a text that may be longer than the context."""
    return model.to_tokens(text, truncate=False)[0].tolist()


def capture(desk: Desk, traces: TracesResult) -> CaptureResult:
    """activations/: the training traces at the residual stream of every place where the adapter may sit."""
    kept, sites = Kept(desk), candidate_sites(desk)
    written, rows = kept.traces("train"), kept.rows("train")
    store = capture_activations(
        desk.model,
        [ids for ids, _ in rows],
        sites,
        path=desk.write(ACTIVATIONS),
        batch_size=desk.settings.batch_size,
        labels=[trace.correct for trace in written],
        prompt_ids=[f"{t.item_id}/{t.source}/{t.sample}" for t in written],
        progress=desk.progress,
        workers=desk.all_settings.workers,
    )
    return CaptureResult(
        n_traces=store.n_prompts,
        n_tokens=store.n_tokens,
        sites=tuple(sites),
        engine=store.engine,
        prompt_lengths=tuple(n for _, n in rows),
    )


def candidate_sites(desk: Desk) -> list[Site]:
    """Where what is measured may be read: behind each place where the adapter may sit; at its own, if it is given."""
    how = desk.settings.adapter
    if how.path is not None:
        return [measured(desk.model, load_steering(how.path, desk.model))]
    return resid_sites(desk.model, how.kind, how.sites, layers_tried(desk.model, desk.settings))


def resid_sites(model: Any, kind: str, entries: Sequence[str], layers: Sequence[float]) -> list[Site]:
    """The residual stream behind each candidate place, each once."""
    return list(dict.fromkeys(place.measured for place in places(model, kind, entries, layers)))


def site(desk: Desk, traces: TracesResult, capture: CaptureResult, train: TrainResult | None) -> SiteResult:
    """Behind the adapter; where nothing is steered, the middle one of the candidates."""
    return SiteResult(site=capture.sites[len(capture.sites) // 2] if train is None else train.site)
