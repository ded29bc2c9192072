"""A certificate as a page, in Markdown, and in lines for a terminal; texts in it are a model's and are escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mechsteer.report import Block, Note, Report, Section, Table, Text, number
from mechsteer.report.escaping import visible
from mechsteer.sharing.certifying import Certificate, Row, Verdict

SAID = {
    "same": "the same tokens",
    "tied": "the same tokens, but for ties",
    "differs": "DIFFERS",
    "cannot": "cannot express it",
    "not here": "not here",
}


def page(certificate: Certificate, *, command: str = "") -> Report:
    """The page, which works offline."""
    sections = [Section("Engines", _engines(certificate))]
    if differing := [v for v in certificate.verdicts if any(row.taken for row in v.rows)]:
        sections.append(Section("Where they differ", [_differing(differing)]))
    if uncompared := [v for v in certificate.verdicts if not v.rows]:
        rows = [(v.engine, SAID[v.outcome], v.why) for v in uncompared]
        sections.append(
            Section(
                "Not compared",
                [Table(rows, "Engines that count for nothing here", columns=["engine", "why not", "reason"])],
            )
        )
    sections.append(Section("What the bridge writes", [_texts(certificate)]))
    return Report(
        title=f"mechsteer certify {certificate.file}",
        question="Does every engine that is here give the same tokens under this steering?",
        sections=sections,
        command=command,
    )


def lines(certificate: Certificate) -> str:
    """The verdicts for a terminal."""
    told = [_line(verdict) for verdict in certificate.verdicts]
    return "\n".join([*told, "", certificate.told()])


def _line(verdict: Verdict) -> str:
    start = f"{verdict.engine:10} {SAID[verdict.outcome]}"
    if not verdict.rows:
        return f"{start}: {visible(verdict.why)}"
    told = f"{start}, logits differ by at most {number(verdict.difference)}"
    return told + "".join(f"\n           {_where(row)}" for row in verdict.rows if row.taken)


def _where(row: Row) -> str:
    assert row.taken is not None
    a, b = row.taken
    return (
        f"prompt {row.prompt}: token {row.n_same} is {b}, the bridge's {a}; gap between the two {number(row.gap_there)} "
        f"in the bridge, {number(row.gap_here)} here"
    )


def _engines(certificate: Certificate) -> list[Block]:
    rows = [_cells(v, len(certificate.prompts)) for v in certificate.verdicts]
    limits = (
        f"Each engine continued {len(certificate.prompts)} prompts by {certificate.n_tokens} tokens under its own cache. "
        f"The steering moves logits by up to {number(certificate.effect)}; more than {number(certificate.tolerance)} "
        "between an engine and the bridge is a difference. Nothing is said of other prompts, of sampling, or of batches."
    )
    columns = ["engine", "verdict", "prompts with the same tokens", "largest difference of logits", "software"]
    return [
        Text(certificate.told()),
        Table(rows, "Each engine beside the bridge", columns=columns),
        Note(limits, "limits"),
    ]


def _cells(verdict: Verdict, n_prompts: int) -> Sequence[str]:
    if not verdict.rows:
        return verdict.engine, SAID[verdict.outcome], "", "", ""
    same = sum(row.taken is None for row in verdict.rows)
    difference = "undefined" if math.isnan(verdict.difference) else number(verdict.difference)
    return verdict.engine, SAID[verdict.outcome], f"{same} of {n_prompts}", difference, verdict.version


def _differing(verdicts: Sequence[Verdict]) -> Table:
    rows = [
        (v.engine, row.prompt, row.n_same, row.taken[0], row.taken[1], row.gap_there, row.gap_here, row.difference)
        for v in verdicts
        for row in v.rows
        if row.taken
    ]
    columns = ["engine", "prompt", "position", "bridge's token", "its token", "gap in the bridge", "gap in it"]
    return Table(rows, "The first position of each prompt", columns=[*columns, "largest difference until there"])


def _texts(certificate: Certificate) -> Table:
    pairs = zip(certificate.prompts, certificate.texts, certificate.expected, certificate.expected_texts, strict=True)
    rows = [(i, text or str(ids), said or str(new)) for i, (ids, text, new, said) in enumerate(pairs)]
    return Table(rows, "Under the steering", columns=["prompt", "it reads", "and goes on"])
