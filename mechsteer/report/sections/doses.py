"""Methods over coefficients: the table, both pictures, what moved besides the target, what was written."""

from __future__ import annotations

import math

from mechsteer.evaluation.dose_results import DoseResponse, MethodDose
from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.dose_figures import against_loss, curves
from mechsteer.report.report import Section
from mechsteer.report.sections.words import Cells, count, interval, listed, p_value
from mechsteer.report.tables import Table, decimal

MOST_VALUES = 40  # rows of side effects


def dose(result: DoseResponse) -> list[Section]:
    """All that is known of every method, and the caption that the data give."""
    blocks: list[Block] = [Text(in_words(result))]
    blocks.append(Table([_row(method) for method in result.methods], caption="One row per method"))
    blocks.append(Note(f"{caption(result)}."))  # a caption is as wide as its table, which is wider than the page
    blocks += [Note(text, "warning") for text in warnings_of(result)]
    blocks.append(curves(result))
    beside = against_loss(result)
    blocks += [] if beside is None else [beside]
    blocks.append(Details("Every coefficient", [Table(_points(result), caption="Scores in nats of log-odds")]))
    found = [Section("Dose and response", blocks)]
    if len(result.methods[0].shifts) > 1:
        found.append(Section("What else moves", _side_effects(result)))
    if any(method.examples for method in result.methods):
        rows = [
            {"method": method.name, "c": f"{each.coeff:g}", "prompt": each.prompt, "answer": each.text}
            for method in result.methods
            for each in method.examples
        ]
        table = Table(rows, caption="Greedy, the first questions that did not calibrate signs: none is chosen")
        found.append(Section("Example answers", [Details(f"{len(rows)} answers at c = −1, 0 and 1", [table])]))
    return found


def in_words(result: DoseResponse) -> str:
    """What is scored, where the base model stands, and which method has the largest effect and gain."""
    base = result.base
    told = (
        f"The score of a question is the log-odds of yes, signed by whether a yes serves {result.target} (+1) or violates "
        f"it (−1); a model that always says the same scores 0. Without steering the score is {interval(base.score)} nats, "
        f"accuracy {decimal(base.accuracy)}, {100 * base.valid:.0f} % of the answers are valid. The effect is half of what "
        f"the score gains from c = −1 to 1."
    )
    for name, of in (("effect", lambda m: m.effect.value), ("normalised gain", lambda m: m.gain)):
        known = [method for method in result.methods if math.isfinite(of(method))]
        if len(known) > 1:
            best = max(known, key=of)
            told += f" The largest {name} has {best.name} ({decimal(of(best))})."
    return told


def caption(result: DoseResponse) -> str:
    """Where the figures come from, by the result alone."""
    made = result.provenance
    told = (
        f"{result.questions} (data {made.data_hash}), target {result.target}: {result.n_rows} questions of "
        f"{result.n_situations} situations, after {result.n_calibration} that calibrated signs; {result.n_neutral} neutral "
        f"texts; coefficients {', '.join(f'{c:g}' for c in result.coeffs)}; 95 % bootstrap intervals over situations; p by a "
        f"t-test of the situations' slopes; seed {made.seed}"
    )
    if made.seeds:
        told += f", of the trainings {', '.join(map(str, made.seeds))}"
    told += f"; configuration {made.config_hash}; model {made.model}"
    told += f"; commit {made.commit}" if made.commit else ""
    return f"{told}; made by: {made.command}" if made.command else told


def warnings_of(result: DoseResponse) -> list[str]:
    """What a reader must know before comparing rows."""
    found = []
    if not result.is_balanced:
        found.append("The labels do not balance: a model that always says yes would not score 0 by its answers alone.")
    if falling := [m for m in result.methods if m.falls]:
        told = "; ".join(f"{m.name} from {', '.join(f'{a:g} to {b:g}' for a, b in m.falls)}" for m in falling)
        found.append(f"Not monotonic within the coherence range, by more than chance: {told}.")
    if turned := [m.name for m in result.methods if m.sign < 0]:
        found.append(
            f"Turned round, since more of it lowered the score on the calibration rows: {listed(turned, most=8)}."
        )
    if lost := [m.name for m in result.methods if m.coherent is None]:
        found.append(f"Fewer than 80 % valid answers even at c = 0: {listed(lost, most=8)}.")
    return found


def _row(method: MethodDose) -> Cells:
    up, down, ends = method.at(1.0), method.at(-1.0), method.ends
    reach = "none" if method.coherent is None else f"{method.coherent[0]:g} to {method.coherent[1]:g}"
    return {
        "method": method.name,
        "parameters": "none" if method.n_parameters is None else f"{method.n_parameters:,}",
        "effect [95 %]": interval(method.effect),
        "at c = 1": decimal(up.effect.value),
        "at c = −1": decimal(down.effect.value),
        "coherent c": reach,
        "at its ends": "none" if ends is None else " and ".join(decimal(end.effect.value) for end in ends),
        "accuracy": decimal(up.accuracy),
        "probability": decimal(up.probability),
        "slope": decimal(method.slope.value),
        "t": decimal(method.slope.t, 1) if math.isfinite(method.slope.t) else "undefined",
        "p": "undefined" if math.isnan(method.slope.p_value) else p_value(method.slope.p_value),
        "ρ": decimal(method.rho),
        "ΔNLL": decimal(method.delta_nll),
        "valid (%)": f"{100 * min(up.valid, down.valid):.0f}",
        "effect / ln(parameters)": decimal(method.per_log_parameters),
        "values shifted": f"{method.breadth} of {len(method.shifts)}",
        "gain": decimal(method.gain, 1),
        "monotonic": "no" if method.falls else "yes",
        "smoothness": decimal(method.smoothness, 2),
    }


def _points(result: DoseResponse) -> list[Cells]:
    return [
        {
            "method": method.name,
            "c": f"{point.coeff:g}",
            "score": interval(point.score),
            "effect": interval(point.effect),
            "accuracy": decimal(point.accuracy),
            "probability": decimal(point.probability),
            "valid (%)": f"{100 * point.valid:.0f}",
            "ΔNLL": interval(point.delta_nll),
        }
        for method in result.methods
        for point in method.points
    ]


def _side_effects(result: DoseResponse) -> list[Block]:
    """Values by method, the significant ones first."""
    blocks: list[Block] = []
    for method in result.methods:
        shifts = sorted(method.shifts, key=lambda s: (not s.is_target, not s.p_corrected < 1, s.p_corrected))
        rows: list[Cells] = [
            {
                "value": shift.value + (" (target)" if shift.is_target else ""),
                "questions": shift.n,
                "shift [95 %]": "too few of a label" if shift.shift is None else interval(shift.shift),
                "p": "undefined" if math.isnan(shift.p_value) else p_value(shift.p_value),
                "p corrected": "undefined" if math.isnan(shift.p_corrected) else p_value(shift.p_corrected),
            }
            for shift in shifts[:MOST_VALUES]
        ]
        left = len(shifts) - len(rows)
        told = f"{method.name}: half of the change from c = −1 to 1, p corrected over its values (Holm)"
        more = f"; {left} more values are left out" if left else ""
        summary = f"{method.name}: {count(method.breadth)} of {len(shifts)} values shift significantly"
        blocks.append(Details(summary, [Table(rows, caption=told + more)]))
    return blocks
