"""Worked examples before a problem: as text and as a conversation, never of the problems themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError
from mechsteer.tasks import Item, Task, few_shot, in_chat, load_task, require_answers, require_disjoint

# writes what the plain prompts of GSM8K look like, so that both forms of a few-shot prompt can be compared
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\nAnswer:"
    "{% else %} {{ m['content'] }}\n\n{% endif %}{% endfor %}"
)


def rows(path, n, start=0):
    problems = [
        {
            "question": f"Ann has {i} eggs and gets 2. How many?",
            "answer": f"{i}+2 = <<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}",
        }
        for i in range(start, start + n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in problems))
    return path


BOS = "{{ bos_token }}"


@pytest.fixture
def task(tmp_path):
    return load_task(rows(tmp_path / "test.jsonl", 3), split=None)


@pytest.fixture
def shots(tmp_path):
    return load_task(rows(tmp_path / "train.jsonl", 6, start=20), split=None)


def test_prompts_begin_with_whole_examples_and_end_with_the_problem(task, shots):
    found = few_shot(task, shots, 2, seed=1)
    assert [item.id for item in found.items] == [item.id for item in task.items]
    numbers = {int(item.meta["question"].split()[2]) for item in shots.items}
    for item, plain in zip(found.items, task.items, strict=True):
        first, second, problem = item.prompt.split("\n\n")
        assert problem == plain.prompt
        for example in (first, second):
            n = int(example.split()[3])
            numbers.discard(n)
            assert example == f"Question: Ann has {n} eggs and gets 2. How many?\nAnswer: {n}+2 = {n + 2}\n#### {n + 2}"
    assert len(numbers) == 4  # the same two for every problem
    assert found.data_hash != task.data_hash
    assert found.verify(found.items[0], " 2\n\nQuestion: 7") is True
    assert few_shot(task, shots, 0) is task


def test_the_seed_draws_and_fewer_begin_more(task, shots):
    drawn = {few_shot(task, shots, 2, seed=seed).items[0].prompt for seed in range(8)}
    assert len(drawn) > 4
    assert (
        few_shot(task, shots, 3, seed=1)
        .items[0]
        .prompt.startswith(few_shot(task, shots, 2, seed=1).items[0].prompt.removesuffix(task.items[0].prompt))
    )


def test_options_are_their_own_examples(tmp_path):
    problems = [{"query": f"Which is {i}?", "choices": [f"{i}", "none"], "gold": 0} for i in range(3)]
    path = tmp_path / "arc.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in problems))
    every = load_task(path, split=None)
    one, other = (replace(every, items=every.items[a:b]) for a, b in ((0, 1), (1, 2)))
    assert (
        few_shot(one, other, 1).items[0].prompt == "Question: Which is 1?\nAnswer: 1\n\nQuestion: Which is 0?\nAnswer:"
    )


def test_examples_of_the_problems_themselves_are_refused(task, shots):
    with pytest.raises(
        DataError, match=r"the worked examples and the problems of gsm8k overlap: 1 items share a group"
    ):
        few_shot(task, task, 1)
    shouted = replace(task.items[0], id="x", group="x", prompt=task.items[0].prompt.upper().replace(" ", "  "))
    mixed = replace(shots, items=(shouted,))
    with pytest.raises(DataError, match=r"share a prompt, the first are 'x'"):
        few_shot(task, mixed, 1)
    with pytest.raises(DataError, match="share a group"):
        in_chat(task, toys.shared("llama"), examples=task.items[:1])


def test_what_cannot_be_an_example(task, shots):
    with pytest.raises(DataError, match="7 worked examples of 6 items"):
        few_shot(task, shots, 7)
    with pytest.raises(ConfigError, match="n is -1"):
        few_shot(task, shots, -1)
    bare = Task(name="texts", items=(Item(id="t", prompt="Once", answer=None, group="t"),))
    with pytest.raises(DataError, match="item 't' has no worked example"):
        few_shot(task, bare, 1)


def test_pocket_examples_are_right():
    task = load_task("pocket", 20, split="train")
    assert all(task.verify(item, item.meta["worked"]) for item in task.items)


def test_a_conversation_of_examples_is_the_text_of_examples(task, shots):
    """Under a template that writes what the plain prompts look like, both ways are one."""
    model = toys.load("llama")
    model.tokenizer.chat_template = BOS + TEMPLATE  # the toy model puts BOS before every text
    plain = few_shot(task, shots, 2, seed=3)
    order = few_shot(task, shots, 2, seed=3).items[0].prompt.split("\n\n")[:2]
    examples = [next(item for item in shots.items if text.startswith(item.prompt)) for text in order]
    chat = in_chat(task, model, examples=examples)
    assert [item.prompt for item in chat.items] == [item.prompt for item in plain.items]
    told = in_chat(task, model, instruction="Think first.")
    assert told.items[0].prompt == f"Question: {task.items[0].meta['question']}\nThink first.\nAnswer:"


def test_a_conversation_given_as_a_string_is_read_as_the_template_has_it(task):
    model = toys.load("llama")
    model.tokenizer.chat_template = BOS + TEMPLATE
    prompts = [item.prompt for item in in_chat(task, model).items]
    questions = [item.meta["question"] for item in task.items]
    assert ms.models.tokenize(model, prompts) == ms.prompts.chat_tokens(model, questions)
    model.tokenizer.chat_template = TEMPLATE  # wants no BOS, and the model puts one before every text
    with pytest.raises(DataError, match="the template wants none"):
        in_chat(task, model)


def test_splits_that_overlap_are_named(task, shots):
    require_disjoint({"train": shots, "test": task})
    with pytest.raises(DataError, match=r"dev and test overlap: 3 items share a group, the first are 'gsm8k-"):
        require_disjoint({"train": shots, "dev": task, "test": task})


def test_items_without_an_answer_are_counted():
    items = [Item(id=str(i), prompt="p", answer=None if i else "1", group=str(i)) for i in range(3)]
    require_answers(items[:1], "sums")
    with pytest.raises(DataError, match=r"2 of 3 items of 'sums' have no answer, the first is '1'"):
        require_answers(items, "sums")
