"""How a steering was trained and chosen, and the traces that all else is measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mechsteer.evaluation.choice import SteeringChoice, TraceSummary
from mechsteer.report import figures
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.figures import Figure
from mechsteer.report.report import Section
from mechsteer.report.sections.strengths import table
from mechsteer.report.sections.units import unit_of
from mechsteer.report.sections.words import meanings
from mechsteer.report.tables import Table, number
from mechsteer.training import FitResult

_CURVES = "The loss, terms and weights added up, as a mean over the samples; epoch 0 is the state before training."
_BANDS = "Bands are 95 % intervals over samples; while training, each sample as it was met."
_NO_BANDS = "How much it varies among them was not kept, so that the curves have no intervals."
_NONE: Mapping[str, str] = {}
_TRAINED_ON = {  # name of the objective -> what a number of training data is a number of; elsewhere the metric tells
    "Reinforce": "problems, its own sampled answers rewarded where they are right (on dev the loss counts the mean reward)",
    "OptionLikelihoods": "problems with options",
    "TeacherKL": "of the model's own traces, right or wrong, on which it is to predict as a teacher does",
    "Separation": "contrastive pairs, told apart both ways",
}


def training(result: FitResult, *, caption: str = _CURVES) -> list[Section]:
    """One run of `fit`."""
    text = (
        f"{max(len(result.history) - 1, 0)} epochs in {result.seconds:.1f} s; "
        f"the parameters of epoch {result.best_epoch} are used."
    )
    last = result.history[-1] if result.history else None
    blocks: list[Block] = [Text(text), *curves(result, caption=caption)]
    terms = {} if last is None else last.dev or last.train or {}
    if terms:
        rows = [
            {
                "epoch": epoch.epoch,
                **{f"{split}: {k}": v for split in ("train", "dev") for k, v in (getattr(epoch, split) or {}).items()},
            }
            for epoch in result.history
        ]
        blocks.append(Table(rows, caption="Every term of the objective"))
    return [Section("Training", blocks)]


def curves(
    result: FitResult,
    *,
    term: str = "loss",
    title: str = "Training",
    caption: str = _CURVES,
    y_label: str = "loss (nats per token)",
) -> list[Figure]:
    """A term on training and dev data, the chosen epoch marked; nothing where there is no history of it."""
    values, errors = (
        {
            f"{split} {term}": [(getattr(epoch, kind) or {}).get(term, math.nan) for epoch in result.history]
            for split, kind in kinds.items()
        }
        for kinds in ({"train": "train", "dev": "dev"}, {"train": "train_errors", "dev": "dev_errors"})
    )
    shown = {name: np.array(of_one, dtype=float) for name, of_one in values.items() if not np.isnan(of_one).all()}
    known = {name: errors[name] for name in shown if not np.isnan(errors[name]).all()}
    if not result.history or not shown:
        return []
    return [
        figures.training_curve(
            [epoch.epoch for epoch in result.history],
            shown,
            title=title,
            x_label="epoch",
            y_label=y_label,
            chosen_step=result.best_epoch,
            caption=f"{caption} {_BANDS if known else _NO_BANDS}",
            errors=known,
        )
    ]


def entropies(result: FitResult) -> list[Figure]:
    """H0 entropy of the steered texts by epoch, where the training kept a log of it (`H0Log`)."""
    n_points = result.objective.get("h0_points")
    if n_points is None:
        return []
    caption = (
        f"H0 entropy of each text's first {n_points} target tokens where the adapter writes, what it adds included: a "
        "mean over texts, all of one length; epoch 0 is the model as it is. Nothing was trained towards it."
    )
    how = {"title": "Shape of the steered texts", "y_label": "H0 entropy (nats)"}
    return curves(result, term="h0_entropy", caption=caption, **how)


def first_phase(fitted: FitResult) -> list[Section]:
    """A gate that learnt where the model is about to leave its teacher, before it steered anything."""
    last = fitted.history[fitted.best_epoch] if fitted.history else None
    terms = {} if last is None else last.dev or last.train or {}
    told = (
        "Before it steered anything the gate learnt to open where the model is about to leave its teacher. "
        f"On dev its cross-entropy is {number(terms.get('divergence', math.nan))} nats per token; a gate that is always "
        f"open as far has {number(terms.get('constant', math.nan))}."
    )
    caption = f"Cross-entropy of the gate. {_CURVES}"
    return [
        Section(
            "The gate, before it steered", [Text(told), *curves(fitted, title="The gate's training", caption=caption)]
        )
    ]


_SAMPLES = {
    "accuracy": "of the model's own verified samples",
    "multiple_choice": "right options",
}


def adapter(choice: SteeringChoice, fitted: FitResult | None = None) -> list[Section]:
    """The chosen steering: what was tried, how strong it is, how it was trained."""
    objective = "CrossEntropy" if fitted is None else fitted.objective.get("objective")
    samples = _TRAINED_ON.get(str(objective)) or _SAMPLES.get(choice.metric, "prompts with the wanted continuation")
    sites, strengths, unit = choice.chosen.sites, choice.strengths, unit_of(choice.metric)
    raw = ", ".join(number(value) for value in strengths.raw)
    beside = (
        ""
        if math.isnan(choice.median_resid_norm)
        else f" beside a median residual norm of {number(choice.median_resid_norm)}"
    )
    heading = "solved (%)" if unit.mark else f"score ({unit.difference})"
    what = "Layer and strength were" if len({c.coeff for c in choice.tried}) > 1 else "The layer was"
    blocks: list[Block] = [
        Text(
            f"An adapter at {', '.join(sites)}, trained on {choice.n_samples} {samples}. What it adds has the norm {raw}{beside}; "
            f"it moves the model by {number(strengths.kl)} nats (mean KL per token of the model's own greedy continuations). "
            f"{what} chosen on dev (base there: {unit.score(choice.base_score)})."
        ),
        *([Note(warning, kind="warning")] if (warning := at_the_edge(choice)) else []),
        Table(
            [
                {
                    "site": ", ".join(c.sites),
                    "coeff": c.coeff,
                    heading: unit.factor * c.score,
                    "dev problems": c.n_items,
                }
                for c in choice.tried
            ],
            caption="Dev score of each layer and strength; the poorer half is left after each part of the problems",
            highlight=[i for i, c in enumerate(choice.tried) if c == choice.chosen],
        ),
        table(strengths),
    ]
    if fitted is not None:
        left = "questions" if choice.metric in _SAMPLES else "prompts"
        summed = " + ".join(named for term, named in _terms(left).items() if _has(fitted, term)) or "the objective"
        caption = f"One sum, by weights: {summed}. A mean over the samples."
        blocks += curves(fitted, title="Training of the chosen adapter", caption=caption)
        blocks += entropies(fitted)
    return [Section("The adapter", blocks)]


def _terms(left: str) -> dict[str, str]:
    """The terms of the objective in words; `left`: what the model is to predict as it did."""
    return {
        "cross_entropy": "cross-entropy on its samples",
        "teacher_kl": "KL from the teacher's predictions on its samples",
        "open_rate": "the squared distance of the mean gate from the rate it is held to",
        "reinforce": "minus the log-probability of its sampled answers, each times its advantage",
        "multiple_choice": "cross-entropy of the right option",
        "separation_loss": "the loss of how far its pairs are told apart at strengths +1 and −1",
        "coherence": "what tokens lost in likelihood beyond the trust region",
        "monotonicity": "a hinge on log-odds that do not rise with the strength",
        "kl": f"KL to the model as it is on the {left}",
        "square_norm": "the squared norm of what is added",
    }


def _has(fitted: FitResult, term: str) -> bool:
    return any(term in (getattr(epoch, split) or {}) for epoch in fitted.history for split in ("train", "dev"))


def at_the_edge(choice: SteeringChoice) -> str:
    """A warning where the strongest of several strengths was taken: a stronger one may be better, or harm more."""
    tried = sorted({abs(candidate.coeff) for candidate in choice.tried})
    if len(tried) < 2 or abs(choice.chosen.coeff) < tried[-1]:
        return ""
    return (
        f"The strength chosen, {choice.chosen.coeff:g}, is the largest that was tried ({', '.join(f'{c:g}' for c in tried)}): "
        "the best one may lie beyond the grid. Try more with adapter.coeffs."
    )


def traces(
    splits: Sequence[TraceSummary],
    *,
    source: str,
    left_out: int = 0,
    cut: int = 0,
    styles: Mapping[str, str] = _NONE,
) -> list[Section]:
    """What is measured on. `source`: where the traces come from; `left_out`: too long for the context; `cut`: problems
    of which a part was given; `styles`: what each style means, in words."""
    judged = any(not math.isnan(split.accuracy) for split in splits)
    rows = []
    for split in splits:
        row: dict[str, object] = {"split": split.split, "n traces": split.n_traces, "n problems": split.n_problems}
        if judged:
            row |= {"right (%)": 100 * split.accuracy, "problems with both": split.problems_with_both}
        rows.append(row | {f"{name} (%)": 100 * share for name, share in split.styles.items()})
    caption = "What the figures above are measured on; problems never cross splits. With both: right and wrong traces"
    named = meanings((name for split in splits for name in split.styles), styles)
    told = f"Traces: {source}. {left_out} were too long for the context and left out."
    if cut:
        told += f" Of {cut} problems only a part was given to the model: its first tokens (prompt_tokens), or what truncate keeps."
    blocks: list[Block] = [Text(told)]
    blocks += [Text(f"Styles of the texts. {named}")] if named else []
    blocks.append(Table(rows, caption=caption))
    return [Section("Traces", blocks)]
