"""Stages probes and along, which a study leaves out: probes at every captured site, and steering along a probe's direction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mechsteer.activations import Activations
from mechsteer.directions import load_direction
from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import StrengthSweep, sweep
from mechsteer.models import tokenize_continuation
from mechsteer.models.sites import Site
from mechsteer.probes import ClassesEvaluation, ProbeSweep, TokenCounts, evaluate_classes, pooled_states, probe_sweep
from mechsteer.results import Result
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.measure import DIRECTION, baselines
from mechsteer.studies.problems import Problems
from mechsteer.studies.results import CaptureResult, ProbeResult, SiteResult, TracesResult
from mechsteer.studies.train import median_norm
from mechsteer.tasks import Trace, step_operations
from mechsteer.tokens import token_text

MOST_STEPS = 4  # later steps are one class
N_TOKENS = 32  # commonest tokens of a step that stand beside its state


@dataclass(frozen=True, kw_only=True)
class ProbesResult(Result):
    """Probes of right and wrong at every site and pooling, and of the step under way; why not, in `no_...`."""

    sweep: ProbeSweep | None = None
    no_sweep: str = ""
    n_without_marker: int = 0
    """texts left out because they lack `probe.marker`"""
    site: Site | None = None
    """of the step probe"""
    steps: ClassesEvaluation | None = None
    no_steps: str = ""
    step_names: str = "number"
    """what names a step: its number, or the operation that it carries out"""


@dataclass(frozen=True, kw_only=True)
class AlongResult(Result):
    """Dev problems answered while steered along the probe's direction; why not in `dropped`."""

    sweep: StrengthSweep | None = None
    norm: float = float("nan")
    """median norm of the residual stream, of which a coefficient is a share"""
    dropped: str = ""


def probes(desk: Desk, traces: TracesResult, capture: CaptureResult, site: SiteResult) -> ProbesResult:
    """A probe of right and wrong per captured site and pooling; and which reasoning step is under way, at one site."""
    kept = Kept(desk)
    marker = tokenize_continuation(desk.model, desk.settings.probe.marker) if desk.settings.probe.marker else None
    written, rows, lengths, without = usable(kept, capture, marker)
    result = ProbesResult(n_without_marker=without, site=site.site, step_names=desk.settings.probe.step_names)
    try:
        result = replace(result, sweep=over_layers(desk, kept, capture, written, rows, lengths, marker))
    except DataError as error:
        result = replace(result, no_sweep=error.message)
    try:
        return replace(result, steps=steps(desk, traces, kept, capture, site.site))
    except DataError as error:
        return replace(result, no_steps=error.message)


def usable(
    kept: Kept, capture: CaptureResult, marker: list[int] | None
) -> tuple[list[Trace], list[int], list[int], int]:
    """Judged traces with a text (and the marker in it), their rows, tokens of their texts, and how many lack the marker."""
    written, rows, lengths, without = [], [], [], 0
    for i, (trace, (ids, _)) in enumerate(zip(kept.traces("train"), kept.rows("train"), strict=True)):
        said = ids[capture.prompt_lengths[i] :]
        if trace.correct is None or not said:
            continue
        if marker and not any(said[at : at + len(marker)] == marker for at in range(len(said))):
            without += 1
            continue
        written.append(trace)
        rows.append(i)
        lengths.append(len(said))
    return written, rows, lengths, without


def texts(kept: Kept, capture: CaptureResult, place: Site, rows: Sequence[int], size: int) -> Iterator[Activations]:
    """The activations of these traces with what the model wrote alone marked as analysed."""
    for start in range(0, len(rows), size):
        chosen = list(rows[start : start + size])
        batch = kept.store[place][chosen]
        begins = torch.tensor([capture.prompt_lengths[i] for i in chosen])
        inside = torch.arange(batch.mask.shape[1]) >= begins[:, None]
        yield replace(batch, mask=batch.mask & inside)


def over_layers(
    desk: Desk,
    kept: Kept,
    capture: CaptureResult,
    written: list[Trace],
    rows: list[int],
    lengths: list[int],
    marker: list[int] | None,
) -> ProbeSweep:
    """Every captured site with every pooling."""
    if not written:
        raise DataError("no trace has a verified answer", "give problems with answers")
    size = desk.settings.batch_size
    states = pooled_states({place: texts(kept, capture, place, rows, size) for place in capture.sites}, marker=marker)
    return probe_sweep(
        states,
        np.array([bool(trace.correct) for trace in written]),
        np.array([trace.group for trace in written]),
        baselines=baselines(written, lengths, desk.model.tokenizer),
        n_splits=desk.settings.probe.n_splits,
        n_boot=desk.settings.probe.n_boot,
        seed=desk.seed("probes"),
    )


def steps(desk: Desk, traces: TracesResult, kept: Kept, capture: CaptureResult, site: Site) -> ClassesEvaluation:
    """Which step is under way, read off the state in the middle of each, beside position and tokens of the step."""
    names_of = step_namer(desk, traces)
    separator, tokenizer = desk.settings.probe.separator, desk.model.tokenizer
    values, names, groups, positions, said, is_there = [], [], [], [], [], False
    everything = zip(kept.traces("train"), kept.rows("train"), kept.responses(capture, site), strict=True)
    for trace, (ids, start), acts in everything:
        new = ids[start:]
        if len(new) != len(acts):
            continue
        tokens = [token_text(tokenizer, i) for i in new]
        spans = step_spans(tokens, separator)
        is_there |= bool(spans)
        for name, (begin, end) in zip(names_of(trace, ["".join(tokens[b:e]) for b, e in spans]), spans, strict=True):
            if name is None:
                continue
            middle = (begin + end) // 2
            values.append(acts[middle].numpy())
            names.append(name)
            groups.append(trace.group)
            positions.append(middle)
            said.append(new[begin : middle + 1])
    if not is_there:
        raise DataError(f"no text holds the separator {separator!r}", "set probe.separator")
    if not values:
        raise DataError("no step of a text carries out an operation of its problem", "set probe.step_names=number")
    return evaluate_classes(
        np.stack(values),
        np.array(names),
        np.array(groups),
        baselines={"position": np.array(positions, dtype=float), "tokens": TokenCounts(said, n_most=N_TOKENS)},
        n_splits=desk.settings.probe.n_splits,
        n_boot=desk.settings.probe.n_boot,
        seed=desk.seed("steps"),
    )


def step_namer(desk: Desk, traces: TracesResult) -> Callable[[Trace, Sequence[str]], list[str | None]]:
    """Names for the steps of a trace, given as texts: their numbers, or the problem's operations (None: none of them).

    Raises DataError where operations are asked for and the problems do not tell theirs.
    """
    if desk.settings.probe.step_names == "number":
        return lambda _, steps: [
            f"step {number}" if number < MOST_STEPS else f"step {MOST_STEPS} or later"
            for number in range(1, len(steps) + 1)
        ]
    items = Problems(desk, traces.metric).items("train", desk.settings.traces.n_problems)
    told = {item.id: item.meta.get("operations", ()) for item in items}
    if not any(told.values()):
        raise DataError(
            f"the problems of {desk.settings.data} do not tell their operations", "set probe.step_names=number"
        )
    return lambda trace, steps: step_operations(steps, told.get(trace.item_id, ()))


def step_spans(tokens: Sequence[str], separator: str) -> list[tuple[int, int]]:
    """[begin, end) of each step: it ends with a token that holds the separator; a rest without one is none.

    >>> step_spans(["1+1", "=2", ".", " So", " 2", ".", " The"], ".")
    [(0, 3), (3, 6)]
    """
    ends = [i + 1 for i, token in enumerate(tokens) if separator in token]
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def along(
    desk: Desk, traces: TracesResult, capture: CaptureResult, site: SiteResult, probe: ProbeResult
) -> AlongResult:
    """Dev problems answered while steered along the probe's direction, beside random directions of the same norm."""
    if probe.direction is None:
        return AlongResult(dropped=probe.dropped or "there is no probe")
    how, kept, problems = desk.settings.probe, Kept(desk), Problems(desk, traces.metric)
    task = problems.task("dev", how.n_steered)
    if not how.coeffs:
        raise ConfigError("probe.coeffs is empty", "give shares of the residual's norm, such as [-0.2,0.2]")
    norm = median_norm(desk, kept, site.site)
    direction = load_direction(desk.read(DIRECTION), model=desk.model).unit() * norm
    found = sweep(
        desk.model,
        direction,
        [site.site],
        how.coeffs,
        problems.scoring(task),
        task.items,
        n_random=how.n_random,
        seed=desk.seed("along"),
        keep=desk.piece,
        progress=desk.progress,
    )
    return AlongResult(sweep=found, norm=norm)
