"""Answers in a strict form and in any: both are told, and texts decide both. The texts are planted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import toys

import mechsteer as ms
from mechsteer.errors import DataError
from mechsteer.evaluation import Verified, base_arm, compare_paired, evaluate, treated_arm
from mechsteer.report.sections.arms import arms as section
from mechsteer.results import from_json, to_json
from mechsteer.tasks import Item, Task, load_task

# right in the strict form, right in any other, wrong, strict after the next question, wrong in the strict form
ENDINGS = (" So.\n#### {}", " It is {}.", " none", " It is {}.\nQuestion: x\n#### {}", " It is {}, no.\n#### 77")
STRICT, FLEXIBLE = [True, False, False, False, False], [True, True, False, True, False]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    problems = [{"question": f"How many are {i}?", "answer": f"{i}\n#### {i}"} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in problems))
    return load_task(path, split=None)


def planted(model, task, shift):
    """What is kept of a run whose texts are known: ending i % 5, moved on by `shift` under the adapter."""

    def keep(name, _compute):
        if name.endswith("neutral text"):
            return _compute()
        moved = shift if name == "adapter" else 0
        texts = [ENDINGS[(i + moved) % 5].replace("{}", item.answer) for i, item in enumerate(task.items)]
        return [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]

    return keep


def evaluated(task, shift=1):
    model = toys.shared("llama")
    iv = ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(1))
    scoring = Verified(task=task, max_new_tokens=20)
    return evaluate(
        model, [base_arm(), treated_arm(iv)], scoring, task.items, keep=planted(model, task, shift), n_boot=200
    )


def test_both_scores_are_those_of_the_texts(task):
    found = evaluated(task)
    base, treated = found.arms
    assert base.scored.scores.tolist() == FLEXIBLE * 2
    assert base.scored.strict is not None
    assert base.scored.strict.tolist() == STRICT * 2
    assert (base.score, base.strict_score) == (0.6, 0.2)
    assert [trace.strict_correct for trace in base.scored.traces] == STRICT * 2
    assert found.strict is not None
    strict = [np.array((s[shift:] + s[:shift]) * 2) for s, shift in ((STRICT, 0), (STRICT, 1))]
    assert treated.scored.strict.tolist() == strict[1].tolist()
    alone = compare_paired(*strict, n_boot=200)
    assert (found.strict.gained, found.strict.lost) == (alone.gained, alone.lost) == (2, 2)
    assert found.strict.p_value == alone.p_value
    assert len(found.comparisons) == 1  # no member of a family


def test_a_table_and_a_sentence_tell_both(task):
    found = evaluated(task)
    (told,) = section(found)
    text = told.markdown()
    assert "in the strict form (%)" in text
    assert "Counting answers in the strict form alone, adapter − base is" in text
    assert "2 gained, 2 lost" in text
    assert from_json(type(found), to_json(found)) == found
    kept = found.without_texts()
    assert kept.arms[0].scored.strict is not None


def test_a_task_without_a_strict_form_says_nothing_of_it():
    sums = tuple(Item(id=str(i), prompt="a", answer=str(i), group=str(i)) for i in range(5))
    task = Task(name="sums", items=sums, verifier=lambda answer, text: answer in text)
    found = evaluated(task, shift=0)
    assert found.strict is None
    assert found.arms[0].scored.strict is None
    assert np.isnan(found.arms[0].strict_score)
    assert "strict" not in section(found)[0].markdown()


def test_items_without_answers_are_refused_before_anything_is_written(task):
    items = (*task.items, Item(id="open", prompt="p", answer=None, group="open"))
    asked = []
    scoring = Verified(task=Task(name="some", items=items, verifier=task.verifier))
    with pytest.raises(DataError, match=r"1 of 11 items of 'some' have no answer, the first is 'open'"):
        evaluate(toys.shared("llama"), [base_arm()], scoring, items, keep=lambda name, _: asked.append(name))
    assert not asked


def test_the_items_are_named_by_their_hash(task):
    assert evaluated(task).data_hash == task.data_hash
