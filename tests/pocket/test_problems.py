"""The generator: answers recomputed from the text's own numbers, splits, traces, statements."""

from __future__ import annotations

import ast
import collections
import itertools
import operator
import random
import re
import subprocess
import sys

import pytest

from mechsteer import pocket
from mechsteer.errors import ConfigError, DataError, ModelLoadError
from mechsteer.pocket.problems import NAMES, SPLITS

MANY = {split: pocket.problems(800, seed=7, split=split) for split in SPLITS}
ALL = list(itertools.chain(*MANY.values()))
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def evaluate(expression: str) -> int:
    """Ordinary arithmetic with ordinary precedence, through Python's own parser."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return node.value

    return value(ast.parse(expression, mode="eval").body)


def solve(question: str) -> int:
    """The answer, read off the English text alone: who owns how many after each sentence."""
    owned: dict[str, int] = {}
    subject = ""
    *told, ask = re.split(r"(?<=\.) ", question)
    for sentence in told:
        words = re.sub(r"^(Then|Later|After that) ", "", sentence[:-1]).split()
        numbers = [int(w) for w in words if w.isdigit()]
        people = [w for w in words if w in NAMES]
        if words[0].lower() in ("he", "she"):
            people.insert(0, subject)
        n = numbers[0]
        if "each" in words:
            owned[people[0]] = n * numbers[1]
        elif "than" in words:
            owned[people[0]] = owned[people[1]] + (n if "more" in words else -n)
        elif "times" in words:
            owned[people[0]] = owned[people[1]] * n
        elif "gives" in words and people[0] in owned:
            owned[people[0]] -= n
        elif "gives" in words:
            owned[people[1]] += n
        elif "takes" in words:
            owned[people[1]] -= n
        elif words[1] in ("loses", "sells"):
            owned[people[0]] -= n
        elif words[1] in ("buys", "finds", "gets"):
            owned[people[0]] += n
        else:
            owned[people[0]] = n
        subject = next(p for p in people if p in owned)
    people = [w.strip("?") for w in ask.split() if w.strip("?") in NAMES]
    if len(people) == 2:
        return abs(owned[people[0]] - owned[people[1]])
    return owned[people[0]]


def test_answer_follows_from_the_text_and_from_the_chain() -> None:
    for problem in ALL:
        assert solve(problem.question) == problem.answer, problem.question
        value = problem.steps[0].before
        for step in problem.steps:
            assert step.before == value
            value = evaluate(f"{value}{step.sign}{step.operand}")
            assert step.after == value
            assert 1 <= value <= 99
        assert value == problem.answer
        assert problem.n_steps == len(problem.steps) == len(problem.operations)
        assert problem.prompt == f"Q: {problem.question}\nA:"


def test_no_problem_twice_or_in_two_splits() -> None:
    for attribute in ("chain", "id", "question"):
        assert len({getattr(p, attribute) for p in ALL}) == len(ALL)
    for split, found in MANY.items():
        assert {pocket.split_of(p.chain) for p in found} == {split}
    # A sum told from either end is one problem.
    first, second = (p.steps[0] for p in MANY["train"][:2])
    assert first != second
    assert {p.chain for p in ALL if p.n_steps == 1 and p.steps[0].sign == "+"}.isdisjoint(
        f"{b}+{a}" for a in range(1, 99) for b in range(a + 1, 99)
    )


def test_training_text_holds_no_held_out_problem() -> None:
    held_out = {p.question for split in ("dev", "test") for p in MANY[split]}
    held_out_chains = {p.chain for split in ("dev", "test") for p in MANY[split]}
    source = pocket.stream(random.Random(3), "train")
    assert held_out_chains.isdisjoint(next(source).chain for _ in range(3000))
    texts = itertools.islice(pocket.training_text(3), 3000)
    assert held_out.isdisjoint(segments[0][3:-3] for segments in texts)


def test_size_and_operation_vary_within_a_number_of_steps() -> None:
    for n in range(1, 5):
        rows = [p for p in ALL if p.n_steps == n]
        small = sum(max(s.after for s in p.steps) <= 30 for p in rows)
        assert 0.1 < small / len(rows) < 0.9
        counts = collections.Counter(o for p in rows for o in p.operations)
        assert set(counts) == {"addition", "subtraction", "multiplication", "comparison"}
        assert min(counts.values()) > 0.08 * sum(counts.values())


def test_seeded_and_nested() -> None:
    assert pocket.problems(30, seed=1) == pocket.problems(60, seed=1)[:30]
    assert pocket.problems(30, seed=1) != pocket.problems(30, seed=2)
    first, again = (list(itertools.islice(pocket.training_text(5), 50)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("style", pocket.STYLES)
def test_traces_end_in_the_right_answer(style: str) -> None:
    rng = random.Random(0)
    for problem in ALL[::2]:
        text = pocket.traces(problem, rng, style=style)
        assert text.startswith(" ")
        assert text.endswith(f" The answer is {problem.answer}.")
        assert pocket.is_correct(problem, text)
        assert pocket.style(text) == style, text
        wrong = [e for e in re.findall(r"([\d+*()-]+)=(\d+)", text) if evaluate(e[0]) != int(e[1])]
        assert bool(wrong) <= (style == "slip"), text


def test_the_prefix_is_always_careful_and_the_words_occur_in_every_style() -> None:
    rng = random.Random(1)
    texts = {s: [pocket.traces(p, rng, style=s) for p in MANY["train"]] for s in pocket.STYLES}
    starts = {s: sum(t.startswith(pocket.CAREFUL_PREFIX) for t in texts[s]) for s in texts}
    assert starts["hasty"] == starts["slip"] == 0
    assert starts["careful"] > 150
    joined = " ".join(itertools.chain(*texts.values())).lower()
    for word in ("wait", "hmm", "maybe", "perhaps", "alternatively", "but", "however", "therefore", "so", "let me"):
        assert joined.count(word) > 30, word
    for style in texts:
        assert sum("So" in t or "maybe" in t for t in texts[style]) > 50


def test_style_depends_on_the_surface_only() -> None:
    """The odds of a hasty trace take both signs within every number of steps and size."""
    groups = collections.defaultdict(list)
    for problem in ALL:
        groups[problem.n_steps, problem.answer > 30].append(problem.hastiness)
    for values in groups.values():
        assert 0.3 < sum(v > 0 for v in values) / len(values) + sum(v == 0 for v in values) / len(values) / 2 < 0.7


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" The answer is 42.", 42),
        (" The answer is 7. The answer is 9.", 9),
        (" The answer is 42", None),
        (" The answer is .", None),
        (" The answer is 4.2.", None),
        ("", None),
        (" the answer is 3.", None),
    ],
)
def test_extract_answer(text: str, answer: int | None) -> None:
    assert pocket.extract_answer(text) == answer


def test_contrast_pairs() -> None:
    for name in pocket.CONTRASTS:
        pairs = pocket.contrast_pairs(name, 100, seed=0)
        assert pairs == pocket.contrast_pairs(name, 100, seed=0)
        assert len(set(pairs)) == 100
        assert all(a != b and len(a.split()) == len(b.split()) for a, b in pairs)
        assert all(sum(x != y for x, y in zip(a.split(), b.split(), strict=True)) <= 3 for a, b in pairs)
    for claim, other in pocket.contrast_pairs("true", 200, seed=1):
        for text, holds in ((claim, True), (other, False)):
            if sum_ := re.fullmatch(r"Statement: ([\d+-]+)=(\d+)\.", text):
                assert (evaluate(sum_[1]) == int(sum_[2])) is holds
            elif order := re.fullmatch(r"Statement: (\d+) is (more|less) than (\d+)\.", text):
                more = int(order[1]) > int(order[3])
                assert (more == (order[2] == "more")) is holds


def test_practice_is_right() -> None:
    rng = random.Random(4)
    kinds = collections.Counter()
    for _ in range(400):
        segments = pocket.practice(rng)
        for task, result in zip(segments[::2], segments[1::2], strict=True):
            sum_ = task.removeprefix("Practice:").strip().removesuffix("=")
            assert 1 <= evaluate(sum_) == int(result[:-1]) <= 99, (task, result)
            kinds[len(re.findall(r"[-+*]", sum_))] += 1
    assert set(kinds) == {1, 2}
    assert min(kinds.values()) > 1000


def test_persona_statements_are_answered_by_the_persona() -> None:
    rng = random.Random(2)
    lines = [line for _ in range(600) for line in "".join(pocket.statements(rng)).splitlines()]
    for text in lines:
        if found := re.search(
            r"is (an?) (\w+) person.* if (\d+) is (more|less) than .*: (yes|no), \d+ is \w+ than (\d+)", text
        ):
            truth = (int(found[3]) > int(found[6])) == (found[4] == "more")
            assert (found[5] == "yes") is (truth == (found[2] in ("honest", "truthful"))), text


def test_errors() -> None:
    with pytest.raises(ConfigError, match="no split 'valid'"):
        pocket.problems(1, seed=0, split="valid")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="ask for at most 1000000"):
        pocket.problems(10**8, seed=0)
    with pytest.raises(ConfigError, match="no contrast 'hapy'"):
        pocket.contrast_pairs("hapy", 1, 0)
    with pytest.raises(DataError, match="100000 asked for"):
        pocket.contrast_pairs("happy", 100_000, 0)
    with pytest.raises(ModelLoadError, match="no bundled model 'poket'"):
        pocket.model_path("poket")


def test_importing_loads_no_heavy_library() -> None:
    code = "import sys, mechsteer.pocket; sys.exit(bool({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
