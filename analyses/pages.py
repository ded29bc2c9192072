"""What is generated of an answer: the answer in a folder's README, the table of analyses/README.md, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common import HERE, Answer, Found, interval, read_answer

from mechsteer.errors import FileFormatError
from mechsteer.files import write_atomically
from mechsteer.report import Arm, Code, Forest, Report, Section, Table, Text

BEGIN, END = "<!-- generated: python analyses/verify.py --tables -->", "<!-- end -->"
HEADINGS = (
    "Claims",
    "What decides",
    "Command",
    "Answer",
    "Controls and the strongest null",
    "What would change our mind",
)


def answer_block(answer: Answer) -> str:
    """The answer of a folder's README."""
    rows = [
        f"| {s.claim.key} | **{s.outcome}** | {interval(s.finding)} | {s.finding.n_seeds} | {s.finding.null} |"
        for s in answer.settled
    ]
    head = ["| claim | answer | value with 95 % interval | seeds | strongest null |", "|---|---|---|---|---|"]
    words = [f"- {s.claim.key}: {s.finding.words}" for s in answer.settled if s.finding.words]
    told = f"`{answer.command}`, {answer.date}, model {answer.model}, {answer.processor}."
    return "\n".join([*head, *rows, "", told, *(["", *words] if words else [])])


def table(answers: Sequence[Answer]) -> str:
    """The table of analyses/README.md: a row a claim."""
    rows = ["| claim | source | command | answer | model | date |", "|---|---|---|---|---|---|"]
    for answer in answers:
        for s in answer.settled:
            told = f"**{s.outcome}**, {interval(s.finding)} over {s.finding.n_seeds} seeds"
            rows.append(
                f"| [{s.claim.text}]({answer.analysis}/README.md) | {s.claim.source} | `{answer.command}` "
                f"| {told} | {answer.model} | {answer.date} |"
            )
    return "\n".join(rows)


def answers() -> list[Answer]:
    """Of every folder that has one, by name."""
    return [read_answer(path) for path in sorted(HERE.glob("*/answer.json"))]


def filled(text: str, block: str, path: Path) -> str:
    """`text` with `block` between its markers. Raises FileFormatError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise FileFormatError(f"{path} has no markers", f"put {BEGIN} and {END} where the generated part belongs")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def write_readmes(folder: Path, answer: Answer) -> None:
    """Write the answer into the folder's README, and the table over all analyses."""
    for path, block in ((folder / "README.md", answer_block(answer)), (HERE / "README.md", table(answers()))):
        write_atomically(path, filled(path.read_text("utf-8"), block, path))


def report(answer: Answer, found: Found) -> Report:
    """One page: every claim with its rule and answer, the tables, links to the pooled run folders."""
    outcomes = [
        {
            "claim": s.claim.text,
            "source": s.claim.source,
            "answer": s.outcome,
            "value": s.finding.value,
            "interval": f"[{s.finding.low:.3f}, {s.finding.high:.3f}]",
            "seeds": s.finding.n_seeds,
            "decided by": s.claim.decides,
            "strongest null": s.finding.null,
        }
        for s in answer.settled
    ]
    arms = [
        Arm(s.claim.key, s.finding.value, (s.finding.low, s.finding.high), f"{s.outcome}; bound {s.claim.bound:g}")
        for s in answer.settled
        if s.outcome not in ("not testable here", "not run yet")
    ]
    sections = [
        Section(
            "Answers", [Table(outcomes, "Claims"), *([Forest(arms, "value of each claim's measure")] if arms else [])]
        )
    ]
    for title, rows in found.tables.items():
        sections.append(Section(title, [Table(rows, title)]))
    if found.links:
        sections.append(
            Section("Pooled runs", [Text("The run folders that this page pools:"), Code("\n".join(found.links))])
        )
    return Report(
        title=answer.analysis.replace("_", " "),
        question="Which of these claims hold on this model?",
        sections=sections,
        config=answer.settings,
        versions=answer.versions,
        seeds={"seeds": answer.seeds},
        fingerprint=answer.model,
        command=answer.command,
    )
