"""`load_questions`: a name or a file becomes a set of questions, balanced in the labels of its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechsteer.errors import DataError
from mechsteer.prompts import read_files
from mechsteer.tasks import dilemmas, statements, stories
from mechsteer.tasks.feelings import sentiment_questions
from mechsteer.tasks.load import load_task
from mechsteer.tasks.questions import QuestionSet

POCKET = {"pocket": statements.pocket_statements, "honest": statements.honest_questions}
MOST_POCKET = 200


def load_questions(
    name_or_path: str | Path | Any, n: int | None = None, *, target: str | None = None, seed: int = 0
) -> QuestionSet:
    """Questions about `target` by name ("pocket": statements followed by True or False, "honest": the same, asked) or
    from a file: DailyDilemmas per action, statements with labels, stories (their sentiment).

    `n`: so many in all, as many of each label (default: as many as can be balanced; of pocket's 200). `target` None:
    what the set is about by itself, of dilemmas honesty. Raises DataError for files of neither form, and as
    `QuestionSet.balanced`.
    """
    if str(name_or_path) in POCKET:
        found = POCKET[str(name_or_path)](n or MOST_POCKET, seed=seed)
        return aimed(found, target)
    path, rows = read_files(name_or_path)[0]
    if dilemmas.is_row(rows[0]):
        return dilemmas.read_dilemmas(name_or_path, target or "honesty").balanced(n, seed=seed)
    if statements.is_row(rows[0]):
        return aimed(statements.read_statements(name_or_path), target).balanced(n, seed=seed)
    if stories.is_row(rows[0]):
        task = load_task(name_or_path, seed=seed, split=None)
        return aimed(sentiment_questions(task), target).balanced(n, seed=seed)
    raise DataError(
        f"{path} holds no questions: its first row is {rows[0].data!r:.80}",
        "give DailyDilemmas' per-action file ('action_type'), statements ('statement', 'label') or stories ('text')",
    )


def aimed(found: QuestionSet, target: str | None) -> QuestionSet:
    """The set, if its target is the one asked for. Raises DataError."""
    if target not in (None, found.target):
        raise DataError(f"{found.name} is about {found.target!r}, not {target!r}", "leave the target out")
    return found
