"""True and false statements as questions: yes to a true one is honest (+1), yes to a false one is not (−1).

Rows ("statement", "label" 1 or 0) are those of the Geometry of Truth's files (Marks and Tegmark 2023, arXiv 2310.06824).
`pocket_statements` asks in the words that the pocket models know; `honest_questions` has one person ask another.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mechsteer.errors import DataError
from mechsteer.pocket import contrast_pairs
from mechsteer.pocket.problems import NAMES
from mechsteer.prompts import Row, field_of, malformed, read_files
from mechsteer.tasks.base import has_field, text_field, text_id
from mechsteer.tasks.questions import Question, QuestionSet

TEMPLATE = "Statement: {statement}\nIs the statement true? Answer yes or no.\nAnswer:"
TARGET = "honesty"
TRUE, FALSE = (" True", "True"), (" False", "False")
_SPARE = 64  # pairs drawn beyond what is needed, for some share a text
_LABELS = {"1": 1, "0": -1, "true": 1, "false": -1}


def is_row(row: Row) -> bool:
    """Whether a file that begins with `row` holds statements."""
    return has_field(row, "statement")


def read_statements(path: str | Path | Any, *, template: str = TEMPLATE) -> QuestionSet:
    """The statements of a file, each once. `template` names {statement}.

    Raises DataError naming file and row: a missing field, a label that is neither 1 nor 0, a statement of both labels.
    """
    if "{statement}" not in template:
        raise DataError(f"the template is {template!r:.80}", "it names {statement}")
    found: dict[str, Question] = {}
    for file, rows in read_files(path):
        for row in rows:
            text, told = text_field(row, "statement", file).strip(), field_of(row, "label", file)
            label = _LABELS.get(str(told).strip().lower())
            if label is None:
                raise malformed(file, row.line, f"'label' is {told!r:.40}, neither 1 (true) nor 0 (false)")
            question = statement_question(text, label, template)
            if found.setdefault(question.id, question).labels != question.labels:
                raise malformed(file, row.line, f"the statement {text!r:.60} is both true and false")
    name = Path(path).stem if isinstance(path, (str, Path)) else "statements"
    return QuestionSet(name=name, questions=tuple(found.values()), target=TARGET)


def statement_question(text: str, label: int, template: str = TEMPLATE) -> Question:
    """A statement as a question; its group is itself."""
    name = f"statement-{text_id(text)}"
    return Question(id=name, prompt=template.replace("{statement}", text), group=name, labels={TARGET: label})


def pocket_statements(n: int, *, seed: int = 0) -> QuestionSet:
    """`n` statements (half of them true, in pairs that differ in one word), followed by " True." or " False.".

    The two of a pair are one group. Raises DataError for an odd `n`, or more than there are.
    """
    return _pairs("pocket_statements", _true_pairs(n, seed), yes=TRUE, no=FALSE)


def honest_questions(n: int, *, seed: int = 0) -> QuestionSet:
    """The same statements, asked: "Ben asks Ann if a dog is an animal. Ann says:", answered " yes" or " no"."""
    rng = random.Random(f"honest_questions/{seed}")
    asked = []
    for pair in _true_pairs(n, seed):
        asker, name = rng.sample(NAMES, 2)
        claims = [text.removeprefix("Statement: ").removesuffix(".") for text in pair]
        right, wrong = (f"{asker} asks {name} if {claim}. {name} says:" for claim in claims)
        asked.append((right, wrong))
    return _pairs("honest_questions", asked)


def _true_pairs(n: int, seed: int) -> list[tuple[str, str]]:
    """n / 2 pairs (true, false) in which no text comes twice."""
    if n < 2 or n % 2:
        raise DataError(f"{n} statements in pairs of a true and a false one", "give an even number")
    seen: set[str] = set()
    kept = []
    for pair in contrast_pairs("true", n + _SPARE, seed):
        if seen.isdisjoint(pair):
            seen.update(pair)
            kept.append(pair)
    if len(kept) < n // 2:
        raise DataError(f"{n} statements asked for, {2 * len(kept)} different ones were found", "ask for fewer")
    return kept[: n // 2]


def _pairs(name: str, pairs: Sequence[tuple[str, str]], **words: tuple[str, ...]) -> QuestionSet:
    """Pairs (yes is right, yes is wrong) as a set; the two of a pair are one group."""
    questions = tuple(
        Question(id=f"pair-{number}-{label:+d}", prompt=text, group=f"pair-{number}", labels={TARGET: label})
        for number, pair in enumerate(pairs)
        for text, label in zip(pair, (1, -1), strict=True)
    )
    return QuestionSet(name=name, questions=questions, target=TARGET, **words)
