"""Questions that are answered yes or no: what a yes says about a value, balanced sets, and the readers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import shared_data

from mechsteer.errors import DataError
from mechsteer.tasks import (
    Item,
    Question,
    QuestionSet,
    Task,
    honest_questions,
    load_questions,
    pocket_statements,
    read_dilemmas,
    read_statements,
    sentiment_questions,
)

FIELDS = ("idx", "dilemma_situation", "action_type", "action", "values_names")


def dilemma_rows() -> list[tuple[str, ...]]:
    return [
        ("1", "You saw {it}.", "to_do", "Tell them.", "['honesty', 'trust']"),
        ("1", "You saw {it}.", "not_to_do", "Keep still", "['loyalty', 'trust']"),
        ("2", "You broke it.", "not_to_do", "Own up", "['honesty']"),
        ("2", "You broke it.", "to_do", "Hide it", "['loyalty']"),
    ]


def written(path: Path, fields: tuple[str, ...], rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([fields, *rows])
    return path


def test_a_situation_is_asked_once_and_labelled_by_the_side_a_value_is_on(tmp_path: Path) -> None:
    found = read_dilemmas(written(tmp_path / "d.csv", FIELDS, dilemma_rows()))
    assert [q.group for q in found.questions] == ["1", "2"]
    assert dict(found.questions[0].labels) == {"honesty": 1, "loyalty": -1}  # trust is on both sides
    assert dict(found.questions[1].labels) == {"loyalty": 1, "honesty": -1}
    assert "You saw {it}." in found.questions[0].prompt
    assert "Action: Tell them.\n" in found.questions[0].prompt
    assert (found.target, found.imbalance, found.values) == ("honesty", 0, ("honesty", "loyalty"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("1", "s", "maybe", "a", "['x']")], "line 2: 'action_type' is 'maybe'"),
        ([("1", "s", "to_do", "a", "['honesty']"), ("1", "s", "to_do", "a", "['x']")], "line 3: .*second 'to_do'"),
        ([("1", "s", "not_to_do", "a", "['honesty']")], "line 2: situation '1' has no row 'to_do'"),
        ([("1", "s", "to_do", "a", "honesty")], "line 2: 'values_names' is no list"),
        ([("1", "s", "to_do", "a", "['courage']")], "about 'honesty'"),
    ],
)
def test_malformed_dilemmas_are_named(tmp_path: Path, rows: list[tuple[str, ...]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_dilemmas(written(tmp_path / "d.csv", FIELDS, rows))


def test_a_balanced_set_has_as_many_of_each_label() -> None:
    questions = tuple(
        Question(id=str(i), prompt="?", group=str(i), labels={"a": 1 if i % 3 else -1}) for i in range(30)
    )
    found = QuestionSet(name="q", questions=questions, target="a")
    assert (found.imbalance, len(found)) == (10, 30)
    half = found.balanced(seed=1)
    assert (half.imbalance, len(half)) == (0, 20)
    assert len(found.balanced(6)) == 6
    assert found.balanced(6, seed=1).questions != found.balanced(6, seed=2).questions
    for n in (7, 22):
        with pytest.raises(DataError, match="20 questions whose yes serves 'a' and 10"):
            found.balanced(n)


def test_questions_refuse_what_is_none() -> None:
    with pytest.raises(DataError, match="a label is"):
        Question(id="1", prompt="?", group="1", labels={"a": 0})
    with pytest.raises(DataError, match="has no text"):
        Question(id="1", prompt=" ", group="1", labels={"a": 1})
    one = Question(id="1", prompt="?", group="1", labels={"a": 1})
    with pytest.raises(DataError, match="two questions '1'"):
        QuestionSet(name="q", questions=(one, one), target="a")
    with pytest.raises(DataError, match="other target"):
        QuestionSet(name="q", questions=(one,), target="a").balanced()


def test_pocket_sets_are_pairs_of_a_true_and_a_false_statement() -> None:
    for found in (pocket_statements(60), honest_questions(60)):
        assert (len(found), found.imbalance) == (60, 0)
        assert len({q.prompt for q in found.questions}) == 60
        assert len({q.group for q in found.questions}) == 30
    assert honest_questions(2).questions[0].prompt.endswith(" says:")
    with pytest.raises(DataError, match="an even number"):
        pocket_statements(3)


def test_statements_are_read_once_each(tmp_path: Path) -> None:
    path = written(tmp_path / "s.csv", ("statement", "label"), [("A is a.", "1"), ("A is b.", "0"), ("A is a.", "1")])
    found = read_statements(path)
    assert [q.labels["honesty"] for q in found.questions] == [1, -1]
    bad = written(tmp_path / "b.csv", ("statement", "label"), [("A is a.", "1"), ("A is a.", "0")])
    with pytest.raises(DataError, match=r"line 3: .*both true and false"):
        read_statements(bad)
    with pytest.raises(DataError, match=r"neither 1 .true. nor 0"):
        read_statements(written(tmp_path / "c.csv", ("statement", "label"), [("A", "yes")]))


def test_sentiment_is_asked_in_turn_with_and_without_negation() -> None:
    items = tuple(Item(id=str(i), prompt=f'One "two three!" {i}. End', answer=None, group=str(i)) for i in range(4))
    found = sentiment_questions(Task(name="s", items=items), n_words=2)
    assert [q.labels["happiness"] for q in found.questions] == [1, -1, 1, -1]
    assert found.questions[0].prompt == 'One "two three!" She felt very'
    assert (
        sentiment_questions(Task(name="s", items=items), n_words=4)
        .questions[1]
        .prompt.startswith('One "two three!" 1. She did not feel very')
    )
    assert not set(found.yes) & set(found.no)
    assert " happy" in found.yes
    with pytest.raises(DataError, match="0 stories are longer than 9"):
        sentiment_questions(Task(name="s", items=items), n_words=9)


def test_a_file_tells_what_it_holds(tmp_path: Path) -> None:
    path = written(tmp_path / "d.csv", FIELDS, dilemma_rows())
    assert load_questions(path).target == "honesty"
    assert load_questions(path, target="loyalty").imbalance == 0
    assert len(load_questions("pocket", 8)) == 8
    with pytest.raises(DataError, match="is about 'honesty', not 'mercy'"):
        load_questions("honest", 8, target="mercy")
    with pytest.raises(DataError, match="holds no questions"):
        load_questions(written(tmp_path / "x.csv", ("a", "b"), [("1", "2")]))


def test_real_files_are_read() -> None:
    assert (
        len(read_dilemmas(shared_data.data_file("daily_dilemmas/dilemmas_with_detail_by_action_test.csv")).questions)
        == 4
    )
    cities = read_statements(shared_data.data_file("geometry_of_truth/cities.csv"))
    assert abs(cities.imbalance) < len(cities) / 10
