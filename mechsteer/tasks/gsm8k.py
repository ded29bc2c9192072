"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): its files, its answers, its ready-made model solutions.

A row is {"question", "answer"}; the answer's last line is "#### 72". The file of example solutions has rows
{"question", "ground_truth", <model>: {"is_correct", "solution"}, ...}, whose answers end in "A: 72".
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from mechsteer.prompts import Row, malformed, read_rows
from mechsteer.tasks.base import Item, Trace, has_field, text_field, text_id

# A minus is a sign only where nothing stands before it that it could be taken from: "10-3" ends in 3.
_NUMBER = r"(?:(?<![\w)])-\s?)?\$?\s?(?:(?<=\$)-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
_STRICT = re.compile(rf"(?:####|^A:)[ \t]*({_NUMBER})", re.MULTILINE)
_BOXED = re.compile(rf"\\boxed\{{[^{{}}\d$-]*({_NUMBER})")
_ANY = re.compile(_NUMBER)
_CALCULATION = re.compile(r"<<[^<>]*>>")
_NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Q):")


def is_row(row: Row) -> bool:
    """Whether a file that begins with `row` is GSM8K's."""
    return has_field(row, "question") and has_field(row, "answer", "ground_truth")


def item_of(row: Row, path: Path) -> Item:
    """The item of a row: "Question: ...\\nAnswer:". Its `meta` has the question, the reference solution without
    its calculator marks (`worked`: with the answer behind it), and `n_steps`, the lines of that solution.

    Raises DataError: a missing field, or an answer without "#### N" ("A: N").
    """
    question = text_field(row, "question", path).strip()
    solution = text_field(row, "answer" if has_field(row, "answer") else "ground_truth", path)
    found = list(_STRICT.finditer(solution))
    if not found:
        raise malformed(path, row.line, f"no answer of the form '#### 72' at the end of {solution[-60:]!r}")
    steps = [line for line in without_calculations(solution[: found[-1].start()]).splitlines() if line.strip()]
    name, answer = f"gsm8k-{text_id(question)}", _plain(found[-1][1])
    return Item(
        id=name,
        prompt=f"Question: {question}\nAnswer:",
        answer=answer,
        group=name,
        meta={
            "question": question,
            "solution": "\n".join(steps),
            "worked": " " + "\n".join([*steps, f"#### {answer}"]),
            "n_steps": len(steps),
        },
    )


def without_calculations(text: str) -> str:
    """`text` without the marks of GSM8K's calculator.

    >>> without_calculations("48/2 = <<48/2=24>>24 clips")
    '48/2 = 24 clips'
    """
    return _CALCULATION.sub("", text)


def strict_answer(text: str) -> str | None:
    """The first "#### N" (or a line "A: N") of `text`, as a plain number; None where that form is missing.

    >>> strict_answer("2 x 36 = 72\\n#### $1,072.50"), strict_answer("It is 72.")
    ('1072.5', None)
    """
    found = _STRICT.search(text)
    return _plain(found[1]) if found else None


def flexible_answer(text: str) -> str | None:
    """The strict answer; else the last \\\\boxed{N}; else the last number at all. Text from a next question on is not read.

    >>> flexible_answer("So 10-3 = 7, and she pays $7.\\nQuestion: Tom has 5"), flexible_answer("none")
    ('7', None)
    """
    text = _NEXT_QUESTION.split(text, maxsplit=1)[0]
    strict = strict_answer(text)
    if strict is not None:
        return strict
    found = _BOXED.findall(text) or _ANY.findall(without_calculations(text))
    return _plain(found[-1]) if found else None


def is_correct(answer: str, text: str) -> bool:
    """Whether the flexible answer of `text` is the number `answer`."""
    return flexible_answer(text) == answer


def is_strictly_correct(answer: str, text: str) -> bool:
    """Whether the strict answer of `text`, read until a next question begins, is the number `answer`.

    >>> [is_strictly_correct("7", text) for text in (" #### 7", " So 7.", " So 7.\\nQuestion: 3+4?\\n#### 7")]
    [True, False, False]
    """
    return strict_answer(_NEXT_QUESTION.split(text, maxsplit=1)[0]) == answer


def _plain(number: str) -> str:
    """One spelling per number: no sign of currency, no thousands separators, no zeros at the end.

    >>> [_plain(n) for n in ("$1,000", "-0.50", "18.00", "$-3", "-0", "007")]
    ['1000', '-0.5', '18', '-3', '0', '7']
    """
    text = format(Decimal(re.sub(r"[$,\s]", "", number)), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def read_solutions(path: str | Path, *, keep_calculations: bool = False) -> list[Trace]:
    """The model solutions of GSM8K's example_model_solutions.jsonl as traces, right and wrong ones.

    Each model of a row gives one trace, whose `source` is the model's name and whose `item_id` is that of the same
    question in GSM8K's own files. The calculator marks <<48/2=24>> are taken out unless `keep_calculations`.

    Raises DataError: no such file, or a malformed row.
    """
    path, traces = Path(path), []
    for row in read_rows(path):
        item = item_of(row, path)
        models = {name: value for name, value in row.data.items() if isinstance(value, dict)}
        if not models:
            raise malformed(path, row.line, 'no model\'s {"is_correct", "solution"}')
        for name, entry in models.items():
            text, correct = entry.get("solution"), entry.get("is_correct")
            if not isinstance(text, str) or not isinstance(correct, bool):
                why = f'{name!r} must be {{"is_correct": true or false, "solution": a text}}'
                raise malformed(path, row.line, why)
            traces.append(
                Trace(
                    item_id=item.id,
                    group=item.group,
                    prompt=item.prompt,
                    text=" " + (text if keep_calculations else without_calculations(text)),
                    correct=correct,
                    n_steps=item.meta["n_steps"],
                    source=name,
                )
            )
    return traces
