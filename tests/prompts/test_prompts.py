"""Reading, sampling and splitting prompts; every malformed row is named by file and line."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from mechsteer.errors import DataError
from mechsteer.prompts import ContrastivePairs, PromptSet, read_rows, split_of

ROWS = [
    {"q": "one\u2028line", "good": "yes", "bad": "no", "topic": "a", "y": 1},
    {"q": 'two, "quoted"\nlines', "good": "sí", "bad": "no", "topic": "b", "y": 0},
    {"q": "three", "good": "oui", "bad": "non", "topic": "a", "y": 1},
]


@pytest.fixture(params=["jsonl", "json", "csv"])
def path(request, tmp_path):
    path = tmp_path / f"rows.{request.param}"
    if request.param == "jsonl":
        path.write_text("\n\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS), encoding="utf-8")
    elif request.param == "json":
        path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    return path


def test_all_formats_read_the_same(path) -> None:
    prompts = PromptSet.read(path, "q", group="topic", label="y")
    assert prompts.groups == ("a", "b", "a")
    assert [int(y) for y in prompts.labels or ()] == [1, 0, 1]
    assert list(prompts) == [r["q"] for r in ROWS]
    pairs = ContrastivePairs.read(path, "good", "bad", group="topic")
    assert list(pairs) == [("yes", "no"), ("sí", "no"), ("oui", "non")]
    with pytest.raises(DataError, match=rf"rows{path.suffix}, line \d: there is no field 'text'"):
        PromptSet.read(path)


def test_lines_are_where_rows_begin(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,"x\ny"\n2,z\n')
    assert [row.line for row in read_rows(path)] == [2, 4]
    path = tmp_path / "rows.json"
    path.write_text('[\n  {"a": 1},\n\n  {"a":\n 2}, "x"]')
    assert [row.line for row in read_rows(path)] == [2, 4, 5]


def test_plain_lists_of_strings(tmp_path) -> None:
    (tmp_path / "p.json").write_text('["one", "two"]')
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert list(PromptSet.read(tmp_path / "p.json")) == list(PromptSet.read(tmp_path / "p.txt")) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"text": "a"}\n{"text": ', r"p\.jsonl, line 2: not JSON"),
        ("p.jsonl", '{"text": "a"}\n{"text": 3}', r"p\.jsonl, line 2: text is 3, a text was expected"),
        ("p.jsonl", '{"text": "a"}\n["a"]', r"p\.jsonl, line 2: a row with fields was expected"),
        ("p.json", '[{"text": "a"},\n{"text": " "}]', r"p\.json, line 2: text is ' '"),
        ("p.json", '[{"text": "a"},\n{"text" "b"}]', r"p\.json, line 2: not JSON"),
        ("p.json", '[{"text": "a"}\n{"text": "b"}]', r"p\.json, line 2: not JSON: expected ','"),
        ("p.json", '[{"text": "a"}', r"p\.json, line 1: not JSON"),
        ("p.json", '{"text": "a"}', r"p\.json, line 1: a \.json file holds one list"),
        ("p.csv", "text,y\na,1\nb\n", r"p\.csv, line 3: 1 cells under a header of 2"),
        ("p.csv", 'text,y\n"a" b,1\n', r"p\.csv, line 2: not CSV"),
        ("p.csv", "text,y\n", r"p\.csv holds no rows"),
        ("p.txt", "", r"p\.txt holds no rows"),
        ("p.xls", "", r"unknown kind '\.xls'"),
    ],
)
def test_malformed_rows_name_file_and_line(tmp_path, name, text, message) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        PromptSet.read(tmp_path / name)


@pytest.mark.parametrize(
    ("value", "message"),
    [("[" * 100_000, "nested too deeply"), ("9" * 5000, "4300 digits"), ('"a\\ud800"', "surrogate")],
    ids=["deep nesting", "huge integer", "half a character"],
)
def test_json_that_python_will_not_read_is_named_like_any_malformed_row(tmp_path, value, message) -> None:
    for name, text in (
        ("p.jsonl", f'{{"text": "a"}}\n{{"text": {value}}}\n'),
        ("p.json", f'[{{"text": "a"}},\n{{"text":\n {value}}}]'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=rf"{name}, line 2: .*{message}[\s\S]*hint: correct or remove this row"):
            read_rows(tmp_path / name)


def test_characters_written_as_surrogate_pairs_are_read(tmp_path) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n')
    assert read_rows(tmp_path / "p.jsonl")[0].data == {"text": "\U0001f600"}


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_rows(tmp_path / "absent.txt")
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"p\.txt, line 1: .*not UTF-8"):
        read_rows(tmp_path / "p.txt")
    for end in (b"\n", b"\r\n", b"\r"):
        (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf"a"' + end + b'"\xc3\xbc"' + end + b'"caf\xe9"')
        with pytest.raises(DataError, match=r"p\.jsonl, line 3: .*not UTF-8[\s\S]*hint: save the file as UTF-8"):
            read_rows(tmp_path / "p.jsonl")


def test_bad_columns() -> None:
    with pytest.raises(DataError, match="different lengths"):
        ContrastivePairs(["a", "b"], ["c"])
    with pytest.raises(DataError, match="no rows"):
        PromptSet([])
    with pytest.raises(DataError, match="text 1 is ''"):
        ContrastivePairs(["a", "b"], ["c", ""])
    with pytest.raises(DataError, match="one string"):
        PromptSet("abc")


def test_dedupe_keeps_the_first() -> None:
    prompts = PromptSet(["a", "b", "a"], groups=["x", "y", "z"], labels=[0, 1, 2]).dedupe()
    assert (prompts.texts, prompts.groups, prompts.labels) == (("a", "b"), ("x", "y"), (0, 1))
    pairs = ContrastivePairs(["a", "a", "a"], ["b", "c", "b"]).dedupe()
    assert list(pairs) == [("a", "b"), ("a", "c")]


def test_sample_is_seeded() -> None:
    prompts = PromptSet([str(i) for i in range(50)])
    assert prompts.sample(10, seed=1) == prompts.sample(10, seed=1)
    assert prompts.sample(10, seed=1) != prompts.sample(10, seed=2)
    assert len(set(prompts.sample(50))) == 50
    with pytest.raises(DataError, match="cannot sample 51 of 50"):
        prompts.sample(51)


def test_splits_keep_groups_together_and_do_not_depend_on_the_rest() -> None:
    groups = [f"g{i // 3}" for i in range(3000)]
    prompts = PromptSet([f"t{i}" for i in range(3000)], groups)
    parts = prompts.split()
    sets = [set(p.groups) for p in parts.values()]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 1000
    share = len(parts["train"]) / 3000
    assert abs(share - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 1000)
    few = prompts.take(range(30)).split()
    assert all(set(few[p].groups) <= set(parts[p].groups) for p in few)
    assert {split_of(g, seed=1) == split_of(g) for g in set(groups)} == {True, False}
    with pytest.raises(DataError, match="do not sum to 1"):
        split_of("g", fractions=(0.5, 0.5, 0.5))


def test_data_hash_tells_contents_apart() -> None:
    pairs = ContrastivePairs(["a", "b"], ["c", "d"])
    assert pairs.data_hash == ContrastivePairs(["a", "b"], ["c", "d"]).data_hash
    assert pairs.data_hash != ContrastivePairs(["a", "b"], ["c", "e"]).data_hash


class Words:
    """A model of ten tokens of context, whose tokens are words behind a BOS."""

    cfg = SimpleNamespace(n_ctx=10)

    def to_tokens(self, text, truncate):
        assert not truncate
        return np.zeros((1, 1 + len(text.split())))


def test_texts_fit_a_context_or_are_refused_left_out_or_cut():
    numbers = " ".join(map(str, range(100, 120)))
    prompts = PromptSet(["one two", numbers, "three"], groups=["a", "b", "c"], labels=[1, 2, 3])
    with pytest.raises(DataError, match=r"1 of 3 texts are too long for the context of 10: text 1 has 21 tokens"):
        prompts.fit(Words())
    dropped = prompts.fit(Words(), "drop")
    assert (dropped.texts, dropped.groups, dropped.labels) == (("one two", "three"), ("a", "c"), (1, 3))
    assert prompts.fit(Words(), "right")[1] == "100 101 102 103 104 105 106 107 108"
    assert prompts.fit(Words(), "left", room=6)[1] == "117 118 119"
    assert prompts.fit(Words(), "right").groups == prompts.groups
    assert PromptSet(["one"]).fit(Words()) == PromptSet(["one"])
    with pytest.raises(DataError, match="no rows are left"):
        PromptSet([numbers]).fit(Words(), "drop")
    with pytest.raises(DataError, match="truncate is 'middle'"):
        prompts.fit(Words(), "middle")
    with pytest.raises(DataError, match="room for 9 tokens leaves none"):
        prompts.fit(Words(), "left", room=9)


def test_texts_by_their_length_in_tokens() -> None:
    prompts = PromptSet(["a", "a b", "a b c", "a b c d"], labels=[1, 2, 3, 4])
    words = SimpleNamespace(encode=str.split)  # a tokenizer
    assert prompts.of_length(words, 2, 3).labels == (2, 3)
    assert prompts.of_length(words, 3).labels == (3, 4)
    assert prompts.of_length(words, most=1).texts == ("a",)
    model = SimpleNamespace(to_tokens=lambda text, truncate: np.zeros((1, 1 + len(text.split()))))  # puts a BOS
    assert prompts.of_length(model, 2, 3).labels == (1, 2)
    with pytest.raises(DataError, match=r"no text has 5 to 9 tokens; they have 1 to 4"):
        prompts.of_length(words, 5, 9)
    for least, most in ((3, 2), (-1, None), (0, 0)):
        with pytest.raises(DataError, match=f"from {least} to {most} tokens"):
            prompts.of_length(words, least, most)


def test_a_field_within_a_field(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    talk = [{"from": "user", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    path.write_text(json.dumps({"talk": talk, "a.b": "dotted"}) + "\n" + json.dumps({"talk": talk[:1], "a.b": "x"}))
    assert PromptSet.read(path, "talk.0.value").texts == ("hello", "hello")
    assert PromptSet.read(path, "a.b").texts == ("dotted", "x")
    with pytest.raises(DataError, match=r"line 2: there is no field 'talk.1.value'; there are \['talk', 'a.b'\]"):
        PromptSet.read(path, "talk.1.value")
    with pytest.raises(DataError, match=r"line 1: there is no field 'talk.-1.value'"):
        PromptSet.read(path, "talk.-1.value")
